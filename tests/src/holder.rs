//! A backend that holds sessions itself, as a program that speaks to `/v1/holders`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::http::{Answer, ask, send};

/// One incarnation of a holder.
#[derive(Clone, Debug)]
pub struct Holder {
    admin: SocketAddr,
    name: String,
    incarnation: String,
    instance: String,
}

impl Holder {
    /// Registers at a host, with a lease of so many seconds.
    pub async fn register(daemon: &Daemon, name: &str, incarnation: &str, lease: u64) -> Holder {
        let (name, incarnation) = (name.to_owned(), incarnation.to_owned());
        let mut holder = Holder { admin: daemon.admin(), name, incarnation, instance: String::new() };
        let answer = holder.renew(lease).await;
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        holder.instance = answer.json()["instance"].as_str().expect("an instance").to_owned();
        holder
    }

    /// The same one, which asks another host from now on.
    pub fn at(&self, daemon: &Daemon) -> Holder {
        Holder { admin: daemon.admin(), ..self.clone() }
    }

    /// The instance that it is.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Registers or renews.
    pub async fn renew(&self, lease: u64) -> Answer {
        let body = json!({ "incarnation": self.incarnation, "lease_seconds": lease });
        self.send("PUT", &format!("/v1/holders/{}", self.name), &body).await
    }

    /// Ends.
    pub async fn end(&self) -> Answer {
        let path = format!("/v1/holders/{}?incarnation={}", self.name, self.incarnation);
        ask("DELETE", self.admin, &path).await.expect("the host answers")
    }

    /// A session is there, like this (`user` is among it).
    pub async fn put(&self, session: &str, body: Value) -> Answer {
        self.send("PUT", &self.session(session), &body).await
    }

    /// Some of a session is different.
    pub async fn patch(&self, session: &str, body: Value) -> Answer {
        self.send("PATCH", &self.session(session), &body).await
    }

    /// A session has ended.
    pub async fn delete(&self, session: &str, user: &str) -> Answer {
        let path = format!("{}&user={user}&reason=closed", self.session(session));
        ask("DELETE", self.admin, &path).await.expect("the host answers")
    }

    /// Several operations at once.
    pub async fn bulk(&self, operations: Value) -> Answer {
        let path = format!("/v1/holders/{}/sessions?incarnation={}", self.name, self.incarnation);
        self.send("POST", &path, &json!({ "operations": operations })).await
    }

    fn session(&self, session: &str) -> String {
        format!("/v1/holders/{}/sessions/{session}?incarnation={}", self.name, self.incarnation)
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        send(method, self.admin, path, &json, body.to_string()).await.expect("the host answers")
    }
}
