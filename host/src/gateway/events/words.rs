//! What is told in an event stream: ids, transitions, resets, and how server-sent events write them.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use presence_core::documents::{Reason, StatusRecord};
use presence_core::events::Status;
use presence_core::ids::{Sequence, UserId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::gateway::api::words::{ReasonWord, StatusWord};
use crate::gateway::protocol::rfc3339;

/// The id of an event: a place in the store, which every host of the deployment knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// Tells a recreated store from the old one.
    pub epoch: u64,
    /// How far the reader has come.
    pub sequence: Sequence,
}

/// A text that no event has as its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event has this id: send the `id` of the last event that came, or none")]
pub struct NoEventId;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, self.sequence.0)
    }
}

impl FromStr for EventId {
    type Err = NoEventId;

    fn from_str(text: &str) -> Result<EventId, NoEventId> {
        let (epoch, sequence) = text.split_once('-').ok_or(NoEventId)?;
        let id = EventId {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| NoEventId)?,
            sequence: Sequence(sequence.parse().map_err(|_| NoEventId)?),
        };
        // One text for each, so that nothing else passes for one.
        if id.to_string() == text { Ok(id) } else { Err(NoEventId) }
    }
}

/// A transition as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = TransitionEvent)]
pub struct TransitionEvent {
    /// Whose.
    pub user: String,
    /// The status now.
    #[schema(value_type = StatusWord)]
    pub status: Status,
    /// The status before; null: unknown, as after a fresh start.
    #[schema(required = true, value_type = Option<StatusWord>)]
    pub previous: Option<Status>,
    /// When it was decided.
    #[schema(format = DateTime)]
    pub since: String,
    /// Grows with every transition of the user: what is not greater than what was heard is a repeat.
    #[schema(minimum = 0)]
    pub revision: u64,
    /// The revision before this one. Another one than was heard last: there were transitions in between that are not told.
    /// Null: not known.
    #[schema(required = true, minimum = 0)]
    pub previous_revision: Option<u64>,
    /// Why.
    #[schema(value_type = ReasonWord)]
    pub reason: Reason,
    /// The end of the last session; null while there is one.
    #[schema(required = true, format = DateTime)]
    pub last_seen: Option<String>,
    /// How many sessions counted.
    #[schema(minimum = 0)]
    pub sessions: u32,
}

impl TransitionEvent {
    /// What a record tells.
    pub fn of(user: &UserId, record: &StatusRecord) -> TransitionEvent {
        TransitionEvent {
            user: user.as_str().to_owned(),
            status: record.status,
            previous: record.previous,
            since: rfc3339(record.since),
            revision: record.revision,
            previous_revision: record.trail.past.moments().next().and_then(|moment| moment.revision),
            reason: record.trail.reason,
            last_seen: record.last_seen.map(rfc3339),
            sessions: record.sessions,
        }
    }
}

/// Why a reader has to begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// The store was recreated, or the id is of another deployment.
    OtherEpoch,
    /// The id is of a time that has not come.
    Ahead,
    /// Too much has changed since the id, or this host could not follow.
    TooFarBehind,
}

/// Transitions may have been missed: read the statuses that matter once more. What comes after this is complete again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ResetEvent)]
pub struct ResetEvent {
    /// Why.
    pub reason: ResetReason,
}

/// One event, as it is sent.
pub fn frame(id: EventId, event: &str, data: &impl Serialize) -> Bytes {
    // JSON has no line breaks of its own.
    let data = serde_json::to_string(data).expect("documents with text keys always become JSON");
    format!("id: {id}\nevent: {event}\ndata: {data}\n\n").into()
}

/// Tells that the stream lives, and how far it is: no event comes of it.
pub fn heartbeat(id: EventId) -> Bytes {
    format!(": alive\nid: {id}\n\n").into()
}

/// A transition.
pub fn transition(id: EventId, user: &UserId, record: &StatusRecord) -> Bytes {
    frame(id, "transition", &TransitionEvent::of(user, record))
}

/// A reset.
pub fn reset(id: EventId, reason: ResetReason) -> Bytes {
    frame(id, "reset", &ResetEvent { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_from_its_text_and_no_other_text_is_one() {
        let id = EventId { epoch: 0xab, sequence: Sequence(17) };
        assert_eq!(id.to_string(), "00000000000000ab-17");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "17",
            "ab-17",
            "00000000000000AB-17",
            "00000000000000ab-017",
            "00000000000000ab-+17",
            "00000000000000ab-",
            "00000000000000ab-18446744073709551616",
            "00000000000000ab-17 ",
            "-",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(NoEventId), "{text}");
        }
    }

    #[test]
    fn an_event_is_four_lines_whatever_the_user_is_called() {
        let id = EventId { epoch: 1, sequence: Sequence(2) };
        let text = frame(id, "reset", &serde_json::json!({ "user": "a\u{2028}b\n\r\ndata: c" }));
        let text = std::str::from_utf8(&text).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert_eq!(
            reset(id, ResetReason::TooFarBehind),
            "id: 0000000000000001-2\nevent: reset\ndata: {\"reason\":\"too-far-behind\"}\n\n"
        );
    }
}
