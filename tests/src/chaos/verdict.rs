//! The invariants of a deployment at rest, held against what the receiver heard and the clients know. Each is a function
//! from evidence to violations, so that tests can show it failing. Knows nothing of processes.

mod cleanups;
mod sessions;
mod statuses;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::clients::Slot;
use super::ledger::{Heard, Kept};

/// A client at the end.
#[derive(Clone, Debug)]
pub struct Final {
    /// Whose.
    pub user: String,
    /// Whether it means to be connected.
    pub wanted: bool,
    /// What it is, if it is connected and its host has agreed to it.
    pub status: Option<String>,
    /// Whom it watches, with what it was last told: status and revision.
    pub told: BTreeMap<String, (String, u64)>,
}

impl From<Slot> for Final {
    fn from(slot: Slot) -> Final {
        let status = (slot.session.is_some() && slot.agreed).then(|| slot.status.to_owned());
        Final { user: slot.user, wanted: slot.wanted, status, told: slot.told }
    }
}

/// Everything that is known at the end.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the receiver heard, in order.
    pub heard: Vec<Heard>,
    /// What was seen on the way.
    pub kept: Kept,
    /// The clients.
    pub clients: Vec<Final>,
    /// By host: what the API says of each user, status and revision.
    pub statuses: Vec<BTreeMap<String, (String, u64)>>,
    /// Dead letters as the hosts list them.
    pub dead_letters: Vec<String>,
}

/// Something that is not as promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name: `I1` and so on.
    pub invariant: &'static str,
    /// What happened, with times.
    pub story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.story)
    }
}

/// Everything that is wrong.
pub fn judge(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(statuses::i1_status(evidence));
    found.extend(statuses::i2_order(evidence));
    found.extend(statuses::i3_completeness(evidence));
    found.extend(statuses::i4_one_record(evidence));
    found.extend(cleanups::i5_cleanup(evidence));
    found.extend(cleanups::i5_everything(evidence));
    found.extend(sessions::i6_pairs(evidence));
    found.extend(sessions::i6_completeness(evidence));
    found.extend(statuses::i9_watchers(evidence));
    for letters in evidence.dead_letters.iter().filter(|letters| letters.contains("event_id")) {
        found.push(violation("I3", format!("nothing may become a dead letter here, and there is {letters}")));
    }
    found
}

fn violation(invariant: &'static str, story: String) -> Violation {
    Violation { invariant, story }
}

/// Seconds, as in the report.
fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// Everything that was heard of a user, a line each.
fn story_of_user(evidence: &Evidence, user: &str) -> String {
    let mut lines = Vec::new();
    for heard in &evidence.heard {
        let of_user = ["/data/user", "/data/session/user"].iter().any(|place| heard.text(place) == user);
        if of_user {
            lines.push((heard.at, line_of(heard)));
        } else if heard.text("/type") == "cleanup" {
            let all = heard.text("/data/scope") == "everything";
            let lost = heard.event.pointer("/data/scope/lost/sessions").and_then(|all| all.as_array());
            if all || lost.is_some_and(|all| all.iter().any(|session| session["user"] == user)) {
                lines.push((heard.at, format!("heard cleanup {}", heard.text("/id"))));
            }
        }
    }
    for note in evidence.kept.sessions.iter().filter(|note| note.user == user) {
        let ended = note.ended.map_or("is there".to_owned(), |(at, how)| format!("{how} at {}", seconds(at)));
        lines.push((
            note.welcomed,
            format!("client: {} on host-{} ({}) {ended}", note.session, note.host, note.instance),
        ));
    }
    lines.sort();
    let text: Vec<String> = lines.iter().map(|(at, line)| format!("  {:>12} {line}", seconds(*at))).collect();
    text.join("\n")
}

fn line_of(heard: &Heard) -> String {
    let what = match heard.text("/type") {
        "session-connected" => format!("{} on {}", heard.text("/data/id"), heard.text("/data/instance")),
        "session-disconnected" => {
            format!("{} ({})", heard.text("/data/session/id"), heard.text("/data/reason"))
        }
        _ => format!("revision {}", heard.number("/data/revision")),
    };
    format!("heard from host-{}: {} {what}", heard.host, heard.text("/type"))
}

/// What happened to the hosts, a line each.
fn story_of_hosts(evidence: &Evidence) -> String {
    let mut lines = Vec::new();
    for life in &evidence.kept.lives {
        let ready = life.ready.map_or("never ready".to_owned(), |at| format!("ready at {}", seconds(at)));
        let ended = life.ended.map_or("runs".to_owned(), |(at, fate)| format!("{fate:?} at {}", seconds(at)));
        lines.push((life.started, format!("host-{} started, {ready}, {ended}", life.host)));
    }
    for pause in &evidence.kept.pauses {
        let to = pause.to.map_or("now".to_owned(), seconds);
        lines.push((pause.from, format!("host-{} paused until {to}", pause.host)));
    }
    lines.sort();
    let text: Vec<String> = lines.iter().map(|(at, line)| format!("  {:>12} {line}", seconds(*at))).collect();
    text.join("\n")
}
