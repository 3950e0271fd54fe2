//! The application behind the shipped webhook plugin: checks signatures and records events.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::receiver::{Mood, Receiver, Request};
use crate::waiting::until;

/// Records events; every request must be signed as Standard Webhooks says.
#[derive(Debug)]
pub struct Recorder(Receiver);

impl Recorder {
    /// The secret that the plugin is given.
    pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// Listens on a free port.
    pub async fn start() -> Recorder {
        Recorder(Receiver::start().await)
    }

    /// What the plugin's `url` must be.
    pub fn url(&self) -> String {
        format!("{}/events", self.0.origin())
    }

    /// What the plugin's grant must be.
    pub fn origin(&self) -> String {
        self.0.origin()
    }

    /// Answers like this from now on.
    pub fn answer(&self, mood: Mood) {
        self.0.answer(mood);
    }

    /// Every request that was answered with success, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.0.requests()
    }

    /// Every event that was answered with success, repeats too, in order.
    pub fn deliveries(&self) -> Vec<Value> {
        self.0.requests().iter().map(Request::json).collect()
    }

    /// The status hooks of this user in order, such as `user-online`; repeats of an id dropped.
    pub fn statuses(&self, user: &str) -> Vec<String> {
        let of_user = |event: &&Value| event["data"]["user"] == user && event["data"]["revision"].is_u64();
        let events = self.events();
        events.iter().filter(of_user).filter_map(|event| event["type"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until exactly these status hooks of the user were heard.
    pub async fn until_statuses(&self, user: &str, statuses: &[&str]) {
        let what = format!("{user} heard as {}", statuses.join(", "));
        until(what, async || (self.statuses(user) == statuses).then_some(())).await;
    }

    /// The events in order, repeats of an id dropped. Panics if one is not signed rightly.
    pub fn events(&self) -> Vec<Value> {
        events(&self.0.requests())
    }

    /// Waits until there are so many events of this type, and returns them.
    pub async fn until_events(&self, kind: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} events `{kind}`");
        let shown = |requests: &[Request]| {
            let seen = events(requests);
            seen.iter().map(|event| event["type"].to_string()).collect::<Vec<_>>().join(", ")
        };
        self.0.until(what, shown, |requests| of_kind(requests, kind).len() >= count).await;
        of_kind(&self.0.requests(), kind)
    }
}

fn of_kind(requests: &[Request], kind: &str) -> Vec<Value> {
    events(requests).into_iter().filter(|event| event["type"] == kind).collect()
}

fn events(requests: &[Request]) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    for request in requests {
        check_signature(request);
        let event = request.json();
        if !events.iter().any(|seen| seen["id"] == event["id"]) {
            events.push(event);
        }
    }
    events
}

fn check_signature(request: &Request) {
    let secret = Recorder::SECRET.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.expect("base64")).expect("any key will do");
    let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    mac.update(format!("{id}.{timestamp}.{}", request.body).as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(request.header("webhook-signature"), expected, "the signature of {request:?}");
    assert_eq!(request.json()["id"], id, "webhook-id is the event's id");
}
