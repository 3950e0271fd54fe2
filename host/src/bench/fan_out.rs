//! One user's transitions, heard by many: first as they are, then beside sessions that ask much and read nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use presence_core::events::Status;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::crowd::{Crowd, PATIENCE};
use super::people::People;
use super::report::{Latency, Report};
use super::session::{Heard, Target};
use crate::cli::BenchArguments;
use crate::connect::Socket;

/// What a session that does not read asks for: so many users, so often.
const ASKED_AT_ONCE: usize = 500;
const ASKED: usize = 200;

/// How long its socket may refuse a message before it is full.
const FULL: Duration = Duration::from_millis(100);

pub(super) async fn run(
    report: &mut Report,
    crowd: &mut Crowd,
    targets: &[Target],
    people: &People,
    arguments: &BenchArguments,
) -> anyhow::Result<()> {
    let watchers = arguments.watchers.min(crowd.len() - 1);
    if watchers == 0 || !watch(crowd, watchers).await {
        report.fan_out_forbidden = watchers > 0;
        return Ok(());
    }
    report.watchers = watchers;
    report.fan_out = rounds(report, crowd, watchers, arguments.rounds).await;
    if arguments.slow > 0 {
        let slow = slow_readers(targets, people, crowd.first(), arguments).await?;
        report.slow = slow.len();
        report.fan_out_beside_slow = rounds(report, crowd, watchers, arguments.rounds).await;
    }
    Ok(())
}

/// The sessions after the first watch its user; false if they may not.
async fn watch(crowd: &mut Crowd, watchers: usize) -> bool {
    let star = crowd.user(0);
    let mut pending: BTreeSet<u64> = (1..=watchers).map(|at| crowd.watch(at, &[&star])).collect();
    let deadline = Instant::now() + PATIENCE;
    while !pending.is_empty() {
        match crowd.next_until(deadline).await.map(|note| note.heard) {
            Some(Heard::Done(number)) => {
                pending.remove(&number);
            }
            Some(Heard::Refused(..)) | None => return false,
            Some(_) => {}
        }
    }
    true
}

async fn rounds(report: &mut Report, crowd: &mut Crowd, watchers: usize, rounds: usize) -> Option<Latency> {
    let star = crowd.user(0);
    let mut latencies = Vec::with_capacity(watchers * rounds);
    // Whatever it was before: what is measured begins with a change.
    let request = crowd.set(0, "online");
    crowd.done(request).await;
    let mut deaf = BTreeSet::new();
    for round in 0..rounds {
        let (word, status) = if round % 2 == 0 { ("idle", Status::Idle) } else { ("online", Status::Online) };
        let began = Instant::now();
        crowd.set(0, word);
        let mut waiting: BTreeSet<usize> = (1..=watchers).filter(|at| !deaf.contains(at)).collect();
        while !waiting.is_empty() {
            let Some(note) = crowd.next_until(began + PATIENCE).await else { break };
            match note.heard {
                Heard::Status(user, found)
                    if user == star && found == status && waiting.remove(&note.session) =>
                {
                    latencies.push(note.at.saturating_duration_since(began));
                }
                Heard::Ended => {
                    waiting.remove(&note.session);
                    deaf.insert(note.session);
                }
                _ => {}
            }
        }
        report.unheard += waiting.len();
    }
    Latency::of(latencies)
}

/// More sessions, each with a socket that is full of what it has asked for.
async fn slow_readers(
    targets: &[Target],
    people: &People,
    first: usize,
    arguments: &BenchArguments,
) -> anyhow::Result<Vec<Socket>> {
    let users: Vec<String> =
        (0..ASKED_AT_ONCE).map(|at| format!("{}nobody-{at}", arguments.prefix)).collect();
    let message = json!({"type": "watch", "users": users}).to_string();
    let mut slow = Vec::with_capacity(arguments.slow);
    for at in 0..arguments.slow {
        // Of the users that have sessions already, as tokens are not made for others; but not of the first, whose
        // status must be its own session's.
        let others = arguments.sessions - 1;
        let person = people.person((first + 1 + at % others) % arguments.sessions)?;
        let mut socket = targets[at % targets.len()].connect(&person).await?;
        for _ in 0..ASKED {
            let sent = timeout(FULL, socket.send(Message::text(message.clone()))).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
        slow.push(socket);
    }
    Ok(slow)
}
