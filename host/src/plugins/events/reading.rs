//! Events from JSON, for local runs: a whole event of the right hook, with whatever somebody wants otherwise. The shape is
//! that of dead letters and of `presence plugin run --event`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use presence_core::delivery::Payload;
use presence_core::events::{
    Attributes, Beat, Hook, Scope, Session, SessionChange, SessionEvent, Status, Sweep, Transition, labels,
};
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use presence_core::time::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Of sessions and instances that nobody has named.
const SESSION: &str = "01900000-0000-7000-8000-000000000001";
const INSTANCE: &str = "01900000-0000-7000-8000-00000000000a";

/// Of ticks.
const INTERVAL_MS: u64 = 60_000;

/// What an event is made of.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// Which.
    pub hook: Hook,
    /// Whose; not needed where `fields` name the user, or for `cleanup`.
    pub user: Option<&'a str>,
    /// What differs from the usual event, names in snake_case; must be an object.
    pub fields: Option<&'a Value>,
    /// When it happens.
    pub now: Timestamp,
    /// For status hooks.
    pub revision: u64,
}

/// The event, or what is wrong with the draft.
pub fn event_from(draft: &Draft<'_>) -> Result<Payload, String> {
    let mut event = usual(draft);
    match draft.fields {
        None => {}
        Some(Value::Object(fields)) => overlay(&mut event, fields),
        Some(_) => return Err("an event is an object: { … }".to_owned()),
    }
    let wrong = |error: serde_json::Error| format!("{}: {error}", draft.hook);
    match draft.hook {
        Hook::UserOnline | Hook::UserIdle | Hook::UserOffline => {
            let event: StatusDraft = serde_json::from_value(Value::Object(event)).map_err(wrong)?;
            event.into_payload(draft.hook)
        }
        Hook::SessionConnected => {
            let session: SessionDraft = serde_json::from_value(Value::Object(event)).map_err(wrong)?;
            Ok(Payload::Session(
                SessionEvent { session: session.into(), change: SessionChange::Connected, partition: None }
                    .into(),
            ))
        }
        Hook::SessionDisconnected => {
            let event: DisconnectDraft = serde_json::from_value(Value::Object(event)).map_err(wrong)?;
            let change = SessionChange::Disconnected {
                reason: Cow::Owned(event.reason),
                duration_ms: event.duration_ms,
            };
            Ok(Payload::Session(
                SessionEvent { session: event.session.into(), change, partition: None }.into(),
            ))
        }
        Hook::Cleanup => {
            let event: SweepDraft = serde_json::from_value(Value::Object(event)).map_err(wrong)?;
            Ok(Payload::Cleanup(event.into_sweep().into()))
        }
        Hook::Tick => {
            let event: BeatDraft = serde_json::from_value(Value::Object(event)).map_err(wrong)?;
            let (due, interval_ms) = (Timestamp(event.due), event.interval_ms);
            Ok(Payload::Tick(Beat { due, interval_ms, partition: PartitionId(0) }))
        }
    }
}

/// The event that is meant when nothing more is said.
fn usual(draft: &Draft<'_>) -> Map<String, Value> {
    let now = draft.now.0;
    let session = json!({
        "id": SESSION, "user": draft.user, "instance": INSTANCE, "status": "online",
        "connected_at": now, "attributes": {},
    });
    let status = |previous: &str, current: &str, sessions: u32, last_seen: Option<u64>| {
        json!({
            "user": draft.user, "previous": previous, "current": current, "since": now,
            "revision": draft.revision, "sessions": sessions, "last_seen": last_seen,
        })
    };
    let event = match draft.hook {
        Hook::UserOnline => status("offline", "online", 1, None),
        Hook::UserIdle => status("online", "idle", 1, None),
        Hook::UserOffline => status("online", "offline", 0, Some(now)),
        Hook::SessionConnected => session,
        Hook::SessionDisconnected => {
            json!({ "session": session, "reason": labels::CLOSED, "duration_ms": 60_000 })
        }
        Hook::Cleanup => {
            json!({ "cause": labels::FRESH_START, "scope": "everything", "chunk": 0, "last": true })
        }
        Hook::Tick => json!({ "due": now - now % INTERVAL_MS, "interval_ms": INTERVAL_MS }),
    };
    match event {
        Value::Object(event) => event,
        _ => Map::new(),
    }
}

/// Objects are laid over objects, all else replaces what was there.
fn overlay(event: &mut Map<String, Value>, fields: &Map<String, Value>) {
    for (name, value) in fields {
        match (event.get_mut(name), value) {
            (Some(Value::Object(below)), Value::Object(above)) => overlay(below, above),
            _ => _ = event.insert(name.clone(), value.clone()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusDraft {
    user: UserId,
    previous: Option<Status>,
    current: Status,
    since: u64,
    revision: u64,
    sessions: u32,
    last_seen: Option<u64>,
}

impl StatusDraft {
    fn into_payload(self, hook: Hook) -> Result<Payload, String> {
        let transition = Transition {
            user: self.user,
            previous: self.previous,
            current: self.current,
            since: Timestamp(self.since),
            revision: self.revision,
            sessions: self.sessions,
            last_seen: self.last_seen.map(Timestamp),
            partition: PartitionId(0),
            sequence: Sequence(self.revision),
        };
        if transition.hook() != hook {
            return Err(format!("the event's `current` is {}: that is no {hook}", self.current));
        }
        Ok(Payload::Status(transition.into()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionDraft {
    id: SessionId,
    user: UserId,
    instance: InstanceId,
    status: Status,
    connected_at: u64,
    attributes: AttributesDraft,
}

/// As the SDK writes them, or as dead letters do.
#[derive(Deserialize)]
#[serde(untagged)]
enum AttributesDraft {
    Named(BTreeMap<String, String>),
    Pairs(Vec<(String, String)>),
}

impl From<SessionDraft> for Session {
    fn from(draft: SessionDraft) -> Session {
        Session {
            id: draft.id,
            user: draft.user,
            instance: draft.instance,
            status: draft.status,
            connected_at: Timestamp(draft.connected_at),
            attributes: Attributes::new(match draft.attributes {
                AttributesDraft::Named(pairs) => pairs.into_iter().collect(),
                AttributesDraft::Pairs(pairs) => pairs,
            }),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DisconnectDraft {
    session: SessionDraft,
    reason: String,
    duration_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeatDraft {
    due: u64,
    interval_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SweepDraft {
    cause: String,
    scope: ScopeDraft,
    chunk: u32,
    last: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ScopeDraft {
    Everything,
    Lost { instance: InstanceId, sessions: Vec<SessionDraft> },
}

impl SweepDraft {
    fn into_sweep(self) -> Sweep {
        let (scope, run) = match self.scope {
            ScopeDraft::Everything => (Scope::Everything, "0-1-0"),
            ScopeDraft::Lost { instance, sessions } => {
                let sessions = sessions.into_iter().map(Session::from).collect();
                (Scope::Lost { instance, sessions: Arc::new(sessions) }, "")
            }
        };
        Sweep { cause: Cow::Owned(self.cause), scope, chunk: self.chunk, last: self.last, run: run.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::events::event_json;

    fn draft(hook: Hook, fields: Option<&Value>) -> Result<Payload, String> {
        event_from(&Draft { hook, user: Some("alice"), fields, now: Timestamp(1000), revision: 3 })
    }

    #[test]
    fn every_hook_has_a_usual_event_and_events_survive_the_way_through_json() {
        for hook in Hook::ALL {
            let event = draft(hook, None).unwrap();
            assert_eq!(event.hook(), hook);
            let json = event_json(&event);
            assert_eq!(event_json(&draft(hook, Some(&json)).unwrap()), json);
        }
    }

    #[test]
    fn fields_are_laid_over_the_usual_event() {
        let fields = json!({ "session": { "attributes": { "user-agent": "test" } }, "reason": "timeout" });
        let json = event_json(&draft(Hook::SessionDisconnected, Some(&fields)).unwrap());
        assert_eq!(json["session"]["attributes"], json!([["user-agent", "test"]]));
        assert_eq!((&json["session"]["user"], &json["reason"]), (&json!("alice"), &json!("timeout")));
        let lost = json!({ "scope": { "lost": { "instance": INSTANCE, "sessions": [] } } });
        assert_eq!(event_json(&draft(Hook::Cleanup, Some(&lost)).unwrap())["scope"], lost["scope"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |hook, fields: Value| draft(hook, Some(&fields)).unwrap_err();
        assert!(wrong(Hook::UserIdle, json!({ "sinc": 1 })).contains("sinc"));
        assert!(wrong(Hook::UserIdle, json!({ "current": "online" })).contains("no user-idle"));
        assert!(wrong(Hook::UserIdle, json!({ "user": "" })).contains("user"));
        assert!(wrong(Hook::UserIdle, json!([])).contains("object"));
        let nobody =
            Draft { hook: Hook::UserOnline, user: None, fields: None, now: Timestamp(1), revision: 1 };
        assert!(event_from(&nobody).is_err());
    }
}
