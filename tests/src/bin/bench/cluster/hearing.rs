//! A change on one host, heard by a watcher on another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{Servers, host, noop, raw};
use crate::lean::Lean;
use crate::report::{line, percentile, time};

const RATE: u64 = 1_000;
/// As many as one message may name.
const USERS: usize = 1_000;
const CHANGES: usize = 10_000;

/// When each user was last changed, and how long it took to hear of it.
#[derive(Default)]
struct Shared {
    sent: Vec<Option<Instant>>,
    heard: Vec<Duration>,
}

/// Two hosts, one server.
pub(super) async fn run() -> anyhow::Result<()> {
    let nats = Servers::start(1).await;
    let ttl = Duration::from_secs(6);
    let a = host("a", &nats.urls(), ttl, noop()).start().await;
    let b = host("b", &nats.urls(), ttl, noop()).start().await;
    let shared = Arc::new(Mutex::new(Shared { sent: vec![None; USERS], heard: Vec::new() }));
    let mut sessions = Vec::new();
    for at in 0..USERS {
        sessions.push(Lean::open(a.clients(), &format!("user-{at}"), |_| {}).await?);
    }
    let hearing = shared.clone();
    let mut watcher = Lean::open(b.clients(), "watcher", move |message| note(&hearing, message)).await?;
    // A message is bounded: several name all users.
    for part in (0..USERS).collect::<Vec<_>>().chunks(500) {
        let users: Vec<String> = part.iter().map(|at| format!("\"user-{at}\"")).collect();
        watcher.send(&format!("{{\"type\":\"watch\",\"users\":[{}]}}", users.join(","))).await?;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    for at in 0..CHANGES {
        tick.tick().await;
        let user = at % USERS;
        let status = if (at / USERS).is_multiple_of(2) { "idle" } else { "online" };
        lock(&shared).sent[user] = Some(Instant::now());
        sessions[user].send(&format!("{{\"type\":\"set_status\",\"status\":\"{status}\"}}")).await?;
    }
    presence_tests::until("every change is heard", async || {
        lock(&shared).sent.iter().all(Option::is_none).then_some(())
    })
    .await;
    let mut heard = std::mem::take(&mut lock(&shared).heard);
    ensure!(heard.len() >= CHANGES * 99 / 100, "only {} of {CHANGES} changes were heard", heard.len());
    drop((sessions, watcher));
    let client = nats.client().await?;
    let (_, bytes) = raw::sessions_stream(&client).await?;
    let mut raw = raw::hearing(&client, bytes, RATE).await?;
    let (raw_50, raw_99) = (percentile(&mut raw, 0.5), percentile(&mut raw, 0.99));
    let (p50, p99) = (percentile(&mut heard, 0.5), percentile(&mut heard, 0.99));
    line("cluster: raw put to subscriber at 1,000/s, p50", time(raw_50), "the yardstick");
    line("cluster: raw put to subscriber at 1,000/s, p99", time(raw_99), "the yardstick");
    line("cluster: change on one host to watcher on another, p50", time(p50), "at 1,000 changes a second");
    line("cluster: change on one host to watcher on another, p99", time(p99), "");
    let ratio = p99.as_secs_f64() / raw_99.as_secs_f64();
    line("cluster: p99 / raw p99", format!("{ratio:.1}"), "at most 10");
    Ok(())
}

/// `{"type":"presence","user":"user-17",…`: only changes that were asked for count, not the first news.
fn note(shared: &Mutex<Shared>, message: &[u8]) {
    let text = std::str::from_utf8(message).unwrap_or_default();
    let user = text.split_once("\"user\":\"user-").and_then(|(_, rest)| rest.split_once('"'));
    let Some(user) = user.and_then(|(number, _)| number.parse::<usize>().ok()) else {
        return;
    };
    let mut shared = lock(shared);
    if let Some(sent) = shared.sent[user].take() {
        let took = sent.elapsed();
        shared.heard.push(took);
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
