//! Dead letters read back: the event that a letter holds, exactly as it was. Knows what `events.rs` writes.

use std::sync::Arc;

use presence_core::delivery::Payload;
use presence_core::events::{
    Attributes, Beat, Hook, Scope, Session, SessionChange, SessionEvent, Status, Sweep, Transition,
};
use presence_core::ids::{InstanceId, Layout, PartitionId, Sequence, SessionId, UserId};
use presence_core::time::Timestamp;
use serde::Deserialize;

use super::events;
use crate::store::DeadLetter;

/// A letter that this version can't read: its event is not one of the contract, or another one than its id says.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The hook's name says nothing to this version.
    #[error("its hook `{0}` is not known to this version")]
    Hook(String),
    /// The event is not what the hook is told.
    #[error("its event is not that of a {hook}")]
    Event {
        /// The hook.
        hook: Hook,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// What was read would be told under another id.
    #[error("its event would be told as {read}, not as {written}")]
    Id {
        /// Of what was read.
        read: String,
        /// In the letter.
        written: String,
    },
}

/// The partition that a letter belongs to: its owner replays and drops it. That of the user, of a
/// cleanup's event id, of the name of a plugin with a tick.
pub fn partition_of(letter: &DeadLetter, layout: Layout) -> PartitionId {
    let name = match &letter.user {
        Some(user) => user,
        None if letter.hook == Hook::Tick.as_str() => &letter.plugin,
        None => &letter.event_id,
    };
    match UserId::new(name) {
        Ok(user) => layout.partition(&user),
        // No letter of ours: any owner will do.
        Err(_) => PartitionId(0),
    }
}

/// The event of a letter, as it was given up.
pub fn event_of(letter: &DeadLetter, layout: Layout) -> Result<Payload, Unreadable> {
    let hook = Hook::ALL.into_iter().find(|hook| hook.as_str() == letter.hook);
    let hook = hook.ok_or_else(|| Unreadable::Hook(letter.hook.clone()))?;
    let unfit = |source| Unreadable::Event { hook, source };
    let payload = match hook {
        Hook::SessionConnected => {
            let session = WrittenSession::deserialize(&letter.event).map_err(unfit)?;
            Payload::Session(Arc::new(SessionEvent {
                session: session.read(),
                change: SessionChange::Connected,
                partition: None,
            }))
        }
        Hook::SessionDisconnected => {
            let event = WrittenEnd::deserialize(&letter.event).map_err(unfit)?;
            let change =
                SessionChange::Disconnected { reason: event.reason.into(), duration_ms: event.duration_ms };
            Payload::Session(Arc::new(SessionEvent {
                session: event.session.read(),
                change,
                partition: None,
            }))
        }
        Hook::UserOnline | Hook::UserIdle | Hook::UserOffline => {
            let status = WrittenStatus::deserialize(&letter.event).map_err(unfit)?;
            Payload::Status(Arc::new(status.read(layout)))
        }
        Hook::Cleanup => {
            let sweep = WrittenSweep::deserialize(&letter.event).map_err(unfit)?;
            Payload::Cleanup(Arc::new(sweep.read(&letter.event_id)))
        }
        Hook::Tick => {
            let WrittenBeat { due, interval_ms } = WrittenBeat::deserialize(&letter.event).map_err(unfit)?;
            Payload::Tick(Beat { due, interval_ms, partition: partition_of(letter, layout) })
        }
    };
    let read = events::event_id(&letter.plugin, &payload);
    if read != letter.event_id || payload.hook() != hook {
        return Err(Unreadable::Id { read, written: letter.event_id.clone() });
    }
    Ok(payload)
}

/// The same cleanup of everything for the next time: receivers that have heard of this one take it for another. A run
/// is `<epoch>-<generation>-<replays>`.
pub fn once_more(sweep: &Sweep) -> Sweep {
    let run = match sweep.run.rsplit_once('-') {
        Some((start, replays)) => {
            format!("{start}-{}", replays.parse::<u64>().map_or(1, |replays| replays + 1))
        }
        None => format!("{}-1", sweep.run),
    };
    Sweep { run: run.into(), ..sweep.clone() }
}

#[derive(Deserialize)]
struct WrittenStatus {
    user: UserId,
    previous: Option<Status>,
    current: Status,
    since: Timestamp,
    revision: u64,
    sessions: u32,
    last_seen: Option<Timestamp>,
}

impl WrittenStatus {
    /// Where the record stands in the store is of no interest any more.
    fn read(self, layout: Layout) -> Transition {
        let partition = layout.partition(&self.user);
        let WrittenStatus { user, previous, current, since, revision, sessions, last_seen } = self;
        let sequence = Sequence(0);
        Transition { user, previous, current, since, revision, sessions, last_seen, partition, sequence }
    }
}

#[derive(Deserialize)]
struct WrittenSession {
    id: SessionId,
    user: UserId,
    instance: InstanceId,
    status: Status,
    connected_at: Timestamp,
    attributes: Vec<(String, String)>,
}

impl WrittenSession {
    fn read(self) -> Session {
        let WrittenSession { id, user, instance, status, connected_at, attributes } = self;
        Session { id, user, instance, status, connected_at, attributes: Attributes::new(attributes) }
    }
}

#[derive(Deserialize)]
struct WrittenEnd {
    session: WrittenSession,
    reason: String,
    duration_ms: u64,
}

#[derive(Deserialize)]
struct WrittenBeat {
    due: Timestamp,
    interval_ms: u64,
}

#[derive(Deserialize)]
struct WrittenSweep {
    cause: String,
    scope: WrittenScope,
    chunk: u32,
    last: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenScope {
    Everything,
    Lost { instance: InstanceId, sessions: Vec<WrittenSession> },
}

impl WrittenSweep {
    /// The run stands in the event id alone: `<plugin>:cleanup:everything:<run>:<chunk>`, or behind the chunk of a lost
    /// instance, where it may be missing.
    fn read(self, event_id: &str) -> Sweep {
        let parts: Vec<&str> = event_id.split(':').skip(2).collect();
        let (run, scope) = match self.scope {
            WrittenScope::Everything => (parts.get(1), Scope::Everything),
            WrittenScope::Lost { instance, sessions } => {
                let sessions = sessions.into_iter().map(WrittenSession::read).collect();
                (parts.get(2), Scope::Lost { instance, sessions: Arc::new(sessions) })
            }
        };
        let run = run.copied().unwrap_or_default().into();
        Sweep { cause: self.cause.into(), scope, chunk: self.chunk, last: self.last, run }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUT: Layout = Layout { partitions: 64, leaves: 16 };

    fn letter(plugin: &str, payload: &Payload) -> DeadLetter {
        DeadLetter {
            number: 1,
            plugin: plugin.to_owned(),
            digest: "00ff".into(),
            hook: payload.hook().to_string(),
            user: payload.user().map(ToString::to_string),
            event_id: events::event_id(plugin, payload),
            event: events::event_json(payload),
            error: "no".into(),
            attempts: 1,
            at: 1,
        }
    }

    fn any_user() -> impl Strategy<Value = UserId> {
        "[^\\p{Cc}]{1,60}".prop_filter_map("a user id", |text| UserId::new(&text).ok())
    }

    fn any_status() -> impl Strategy<Value = Status> {
        prop_oneof![Just(Status::Online), Just(Status::Idle), Just(Status::Offline)]
    }

    fn any_session() -> impl Strategy<Value = Session> {
        let id = prop_oneof![
            any::<u128>().prop_map(SessionId::Hosted),
            "[a-z]{1,8}/\\PC{0,20}".prop_map(|text| SessionId::Held(text.as_str().into())),
        ];
        let attributes = proptest::collection::vec((".{0,10}", ".{0,20}"), 0..4);
        (id, any_user(), any::<u128>(), any::<bool>(), any::<u64>(), attributes).prop_map(
            |(id, user, instance, idle, at, attributes)| Session {
                id,
                user,
                instance: InstanceId(instance),
                status: if idle { Status::Idle } else { Status::Online },
                connected_at: Timestamp(at),
                attributes: Attributes::new(attributes),
            },
        )
    }

    fn any_payload() -> impl Strategy<Value = Payload> {
        let status = (
            any_user(),
            proptest::option::of(any_status()),
            any_status(),
            any::<u64>(),
            any::<u64>(),
            any::<u32>(),
            proptest::option::of(any::<u64>()),
        );
        let status = status.prop_map(|(user, previous, current, since, revision, sessions, last_seen)| {
            let partition = LAYOUT.partition(&user);
            let (since, last_seen) = (Timestamp(since), last_seen.map(Timestamp));
            let sequence = Sequence(0);
            let transition = Transition {
                user,
                previous,
                current,
                since,
                revision,
                sessions,
                last_seen,
                partition,
                sequence,
            };
            Payload::Status(transition.into())
        });
        let session = (any_session(), proptest::option::of((".{0,20}", any::<u64>())));
        let session = session.prop_map(|(session, end)| {
            let change = match end {
                None => SessionChange::Connected,
                Some((reason, duration_ms)) => {
                    SessionChange::Disconnected { reason: reason.into(), duration_ms }
                }
            };
            Payload::Session(SessionEvent { session, change, partition: None }.into())
        });
        let lost = (any::<u128>(), proptest::collection::vec(any_session(), 0..3), "|[1-9][0-9]{0,3}");
        let scope = prop_oneof![
            "[0-9a-f]{1,16}-[0-9]{1,6}-[0-9]{1,3}".prop_map(|run| (Scope::Everything, run)),
            lost.prop_map(|(instance, sessions, run)| {
                let (instance, sessions) = (InstanceId(instance), Arc::new(sessions));
                (Scope::Lost { instance, sessions }, run)
            }),
        ];
        let sweep = ("[a-z-]{1,16}", scope, any::<u32>(), any::<bool>());
        let sweep = sweep.prop_map(|(cause, (scope, run), chunk, last)| {
            let (cause, run) = (cause.into(), run.as_str().into());
            Payload::Cleanup(Sweep { cause, scope, chunk, last, run }.into())
        });
        let beat = (any::<u64>(), any::<u64>()).prop_map(|(due, interval_ms)| {
            Payload::Tick(Beat { due: Timestamp(due), interval_ms, partition: PartitionId(0) })
        });
        prop_oneof![status, session, sweep, beat]
    }

    /// Payloads are not comparable as such, since nobody else compares them.
    fn same(one: &Payload, other: &Payload) -> bool {
        match (one, other) {
            (Payload::Status(one), Payload::Status(other)) => one == other,
            (Payload::Session(one), Payload::Session(other)) => one == other,
            (Payload::Cleanup(one), Payload::Cleanup(other)) => one == other,
            // Its partition is that of the plugin's name, which is not given here.
            (Payload::Tick(one), Payload::Tick(other)) => {
                (one.due, one.interval_ms) == (other.due, other.interval_ms)
            }
            _ => false,
        }
    }

    proptest! {
        /// What was given up is what is replayed, through the bytes that a store keeps.
        #[test]
        fn a_letter_is_read_back_exactly(payload in any_payload(), plugin in "[a-z][a-z0-9.-]{0,20}") {
            let bytes = serde_json::to_vec(&letter(&plugin, &payload)).unwrap();
            let kept: DeadLetter = serde_json::from_slice(&bytes).unwrap();
            let read = event_of(&kept, LAYOUT).unwrap();
            prop_assert!(same(&read, &payload), "{read:?} instead of {payload:?}");
            prop_assert_eq!(events::event_id(&plugin, &read), events::event_id(&plugin, &payload));
        }
    }

    #[test]
    fn what_is_no_event_is_refused_in_words() {
        let payload = Payload::Status(crate::plugins::testing::transition("alice", 7).into());
        let good = letter("p", &payload);
        let text = |letter: DeadLetter| event_of(&letter, LAYOUT).unwrap_err().to_string();
        assert_eq!(
            text(DeadLetter { hook: "user-sleeping".into(), ..good.clone() }),
            "its hook `user-sleeping` is not known to this version"
        );
        assert_eq!(
            text(DeadLetter { event: serde_json::json!({"user": "alice"}), ..good.clone() }),
            "its event is not that of a user-online"
        );
        assert_eq!(
            text(DeadLetter { event_id: "p:user-online:alice:8".into(), ..good.clone() }),
            "its event would be told as p:user-online:alice:7, not as p:user-online:alice:8"
        );
        assert!(event_of(&good, LAYOUT).is_ok());
    }

    #[test]
    fn everything_is_counted_up() {
        let sweep = |run: &str| Sweep {
            cause: "fresh-start".into(),
            scope: Scope::Everything,
            chunk: 0,
            last: true,
            run: run.into(),
        };
        assert_eq!(&*once_more(&sweep("3e8-1-0")).run, "3e8-1-1");
        assert_eq!(&*once_more(&once_more(&sweep("3e8-1-9"))).run, "3e8-1-11");
    }
}
