//! The profile service of `cargo xtask run`: an application's database in miniature. Prints each change it is sent as
//! one line, keeps the latest in memory, and ends when its standard input does, so that it never outlives whoever
//! started it. Knows nothing of Presence but the requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, bail};
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{get, put};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// Profiles by user.
#[derive(Clone, Default)]
struct Profiles(Arc<Mutex<BTreeMap<String, Value>>>);

impl Profiles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        // A map is whole after every step of ours, whoever panicked.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => "127.0.0.1:8090",
        ["--listen", address] => address,
        _ => bail!("usage: profile-service [--listen ADDRESS]"),
    };
    let listener = TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))?;
    println!("profile service: listening on http://{}/profiles", listener.local_addr()?);
    let app = Router::new()
        .route("/profiles", get(list))
        .route("/profiles/{user}", put(store).delete(remove).post(post))
        .fallback(unknown)
        .with_state(Profiles::default());
    axum::serve(listener, app).with_graceful_shutdown(input_ended()).await.context("serving")
}

/// Resolves when whoever holds the other end of standard input is gone.
async fn input_ended() {
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 256];
    while matches!(input.read(&mut ignored).await, Ok(count) if count > 0) {}
}

/// Prints a line the way all of them look.
fn tell(method: &str, path: &str, what: &str) {
    println!("profile service: {method:<6} {path:<24} {what}");
}

async fn list(State(profiles): State<Profiles>) -> Json<Value> {
    Json(profiles.lock().values().cloned().collect())
}

async fn store(
    State(profiles): State<Profiles>,
    Path(user): Path<String>,
    Json(profile): Json<Value>,
) -> StatusCode {
    let revision = |profile: &Value| profile.get("revision").and_then(Value::as_u64).unwrap_or(0);
    let text = |key: &str| profile.get(key).and_then(Value::as_str).unwrap_or("?");
    let mut all = profiles.lock();
    let known = all.get(&user).map_or(0, revision);
    if known > 0 && revision(&profile) <= known {
        // Delivery is at least once: an old revision, or one seen before, changes nothing.
        tell("PUT", &format!("/profiles/{user}"), "seen before");
        return StatusCode::NO_CONTENT;
    }
    tell("PUT", &format!("/profiles/{user}"), &format!("{:<8} since {}", text("status"), text("since")));
    all.insert(user, profile);
    StatusCode::NO_CONTENT
}

async fn remove(State(profiles): State<Profiles>, Path(user): Path<String>) -> StatusCode {
    tell("DELETE", &format!("/profiles/{user}"), "");
    profiles.lock().remove(&user);
    StatusCode::NO_CONTENT
}

/// `POST /profiles/reset`: the whole deployment starts afresh.
async fn post(State(profiles): State<Profiles>, Path(what): Path<String>) -> StatusCode {
    if what != "reset" {
        tell("POST", &format!("/profiles/{what}"), "is nothing this service knows");
        return StatusCode::NOT_FOUND;
    }
    tell("POST", "/profiles/reset", "everybody is offline");
    profiles.lock().clear();
    StatusCode::NO_CONTENT
}

async fn unknown(method: Method, uri: Uri) -> StatusCode {
    tell(method.as_str(), uri.path(), "is nothing this service knows");
    StatusCode::NOT_FOUND
}
