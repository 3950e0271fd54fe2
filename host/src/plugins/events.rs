//! Event ids, and events as JSON for people and dead letters. Knows the contract's names, not its encoding.

use std::fmt::Write;

use presence_core::delivery::Payload;
use presence_core::events::{Beat, Hook, Scope, Session, SessionChange, SessionEvent, Sweep, Transition};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::cache::hex;

pub mod reading;

/// Parts of an id longer than this are replaced by a digest.
const MAX_PART_BYTES: usize = 64;
/// How a digest in an id begins. No part that is kept as it is begins so.
const DIGEST: &str = "sha256-";

/// Writes the id of an event for one plugin into `id`, replacing what is there: the same on every attempt and every
/// host, at most 200 bytes of `A-Z a-z 0-9 - _ ~ :`.
///
/// - `<plugin>:<hook>:<user>:<revision>` for a status,
/// - `<plugin>:<hook>:<session>` for a session,
/// - `<plugin>:cleanup:<instance>:<chunk>` for a lost instance (and `:<run>`, if it is lost once more),
/// - `<plugin>:cleanup:everything:<run>:<chunk>` for a fresh start,
/// - `<plugin>:tick:<due>` for a tick.
///
/// A user, session or run with other characters, or longer than 64 bytes, stands there as `sha256-` and the first
/// 32 hexadecimal digits of its SHA-256; a dot in a plugin's name as `~`. (Dots separate what a webhook signs.)
pub(super) fn write_event_id(id: &mut String, plugin: &str, payload: &Payload) {
    id.clear();
    id.extend(plugin.chars().map(|character| if character == '.' { '~' } else { character }));
    id.push(':');
    id.push_str(payload.hook().as_str());
    id.push(':');
    match payload {
        Payload::Status(transition) => {
            push_part(id, transition.user.as_str());
            _ = write!(id, ":{}", transition.revision);
        }
        Payload::Session(event) => match &event.session.id {
            presence_core::ids::SessionId::Held(text) => push_part(id, text),
            hosted => _ = write!(id, "{hosted}"),
        },
        Payload::Cleanup(sweep) => match &sweep.scope {
            Scope::Lost { instance, .. } => {
                _ = write!(id, "{instance}:{}", sweep.chunk);
                if !sweep.run.is_empty() {
                    id.push(':');
                    push_part(id, &sweep.run);
                }
            }
            Scope::Everything => {
                id.push_str("everything:");
                push_part(id, &sweep.run);
                _ = write!(id, ":{}", sweep.chunk);
            }
        },
        Payload::Tick(beat) => _ = write!(id, "{}", beat.due.0),
    }
}

/// The id as a text of its own.
pub(super) fn event_id(plugin: &str, payload: &Payload) -> String {
    let mut id = String::new();
    write_event_id(&mut id, plugin, payload);
    id
}

fn push_part(id: &mut String, part: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if part.len() <= MAX_PART_BYTES && part.bytes().all(plain) && !part.starts_with(DIGEST) {
        id.push_str(part);
    } else {
        id.push_str(DIGEST);
        id.push_str(&hex(&Sha256::digest(part)[..16]));
    }
}

/// The event's record of the contract, names in snake_case.
pub(super) fn event_json(payload: &Payload) -> Value {
    match payload {
        Payload::Status(transition) => status_json(transition),
        Payload::Session(event) => session_event_json(event),
        Payload::Cleanup(sweep) => sweep_json(sweep),
        Payload::Tick(beat) => beat_json(beat),
    }
}

fn beat_json(beat: &Beat) -> Value {
    json!({ "due": beat.due, "interval_ms": beat.interval_ms })
}

fn status_json(transition: &Transition) -> Value {
    json!({
        "user": transition.user,
        "previous": transition.previous,
        "current": transition.current,
        "since": transition.since,
        "revision": transition.revision,
        "sessions": transition.sessions,
        "last_seen": transition.last_seen,
    })
}

fn session_json(session: &Session) -> Value {
    json!({
        "id": session.id,
        "user": session.user,
        "instance": session.instance,
        "status": session.status,
        "connected_at": session.connected_at,
        "attributes": session.attributes.pairs(),
    })
}

fn session_event_json(event: &SessionEvent) -> Value {
    match &event.change {
        SessionChange::Connected => session_json(&event.session),
        SessionChange::Disconnected { reason, duration_ms } => json!({
            "session": session_json(&event.session),
            "reason": reason,
            "duration_ms": duration_ms,
        }),
    }
}

fn sweep_json(sweep: &Sweep) -> Value {
    let scope = match &sweep.scope {
        Scope::Everything => json!("everything"),
        Scope::Lost { instance, sessions } => {
            let sessions: Vec<Value> = sessions.iter().map(session_json).collect();
            json!({ "lost": { "instance": instance, "sessions": sessions } })
        }
    };
    json!({ "cause": sweep.cause, "scope": scope, "chunk": sweep.chunk, "last": sweep.last })
}

/// `plugin hook user event-id (why)`, for the last lines of a log.
pub(super) fn describe(plugin: &str, payload: &Payload, why: &str) -> String {
    let hook: Hook = payload.hook();
    let user = payload.user().map_or("-", |user| user.as_str());
    format!("{plugin} {hook} {user} {} ({why})", event_id(plugin, payload))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use presence_core::events::labels;
    use presence_core::ids::{InstanceId, PartitionId};
    use presence_core::time::Timestamp;

    use super::*;
    use crate::plugins::testing::{session_event, transition};

    #[test]
    fn ids_are_stable_short_and_plain() {
        let status = |user: &str| event_id("my.plugin", &Payload::Status(transition(user, 7).into()));
        assert_eq!(status("alice"), "my~plugin:user-online:alice:7");
        let digest = "my~plugin:user-online:sha256-2bd806c97f0e00af1a1fc3328fa763a9:7";
        assert_eq!(status("alice smith").len(), digest.len());
        for user in ["alice.smith", "a:b", "ä", "sha256-x", &"x".repeat(256)] {
            assert!(status(user).starts_with("my~plugin:user-online:sha256-"), "{user}");
        }
        let longest =
            event_id(&"p".repeat(64), &Payload::Status(transition(&"x".repeat(64), u64::MAX).into()));
        assert!(longest.len() <= 200 && longest.is_ascii());
    }

    #[test]
    fn a_tick_is_its_plugin_and_when_it_is_due() {
        let beat = Beat { due: Timestamp(120_000), interval_ms: 60_000, partition: PartitionId(7) };
        let payload = Payload::Tick(beat);
        assert_eq!(event_id("a.b", &payload), "a~b:tick:120000");
        assert_eq!(event_json(&payload), json!({ "due": 120_000, "interval_ms": 60_000 }));
        assert_eq!(describe("p", &payload, "waiting"), "p tick - p:tick:120000 (waiting)");
    }

    fn session_of(user: &str) -> Session {
        session_event(user, 1).session
    }

    #[test]
    fn ids_of_sessions_and_cleanups() {
        let session = Payload::Session(session_event("alice", 5).into());
        assert_eq!(event_id("p", &session), "p:session-connected:00000000-0000-0000-0000-000000000005");
        let sweep = |scope| Sweep {
            cause: labels::INSTANCE_LOST.into(),
            scope,
            chunk: 3,
            last: true,
            run: "12-1-0".into(),
        };
        let lost = Scope::Lost { instance: InstanceId(9), sessions: Arc::default() };
        let lost = Payload::Cleanup(Sweep { run: "".into(), ..sweep(lost.clone()) }.into());
        assert_eq!(event_id("p", &lost), "p:cleanup:00000000-0000-0000-0000-000000000009:3");
        let again = Sweep {
            run: "1".into(),
            ..sweep(Scope::Lost { instance: InstanceId(9), sessions: Arc::default() })
        };
        let again = event_id("p", &Payload::Cleanup(again.into()));
        assert_eq!(again, "p:cleanup:00000000-0000-0000-0000-000000000009:3:1");
        let elsewhere = Scope::Lost { instance: InstanceId(9), sessions: Arc::new(vec![session_of("bob")]) };
        let taken_over = Sweep { last: false, run: "".into(), cause: "x".into(), ..sweep(elsewhere) };
        let same = event_id("p", &Payload::Cleanup(taken_over.into()));
        assert_eq!(same, event_id("p", &lost), "whoever runs it: plugin, instance and chunk alone");
        let everything = Payload::Cleanup(sweep(Scope::Everything).into());
        assert_eq!(event_id("p", &everything), "p:cleanup:everything:12-1-0:3");
        assert_eq!(
            event_json(&everything),
            json!({"cause": "instance-lost", "scope": "everything", "chunk": 3, "last": true})
        );
        assert_eq!(event_json(&lost)["scope"]["lost"]["sessions"], json!([]));
        assert_eq!(
            describe("p", &everything, "waiting"),
            "p cleanup - p:cleanup:everything:12-1-0:3 (waiting)"
        );
    }
}
