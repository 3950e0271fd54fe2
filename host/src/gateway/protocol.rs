//! The messages of the WebSocket protocol `presence.v1`, as docs/protocol.md describes them. It parses and prints;
//! it knows no socket, no session and no driver.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use presence_core::events::Status;
use presence_core::ids::UserId;
use presence_core::message::Wanted;
use presence_core::time::Timestamp;
use presence_core::watchers::{Shown, With};
use serde::{Deserialize, Deserializer, Serialize};

use crate::traces::Traceparent;

mod shown;
pub use shown::{ShownMessage, ShownSession};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "presence.v1";

/// The longest client message and the longest frame, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// The longest `id` of a client message, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// The most users in one `watch` or `unwatch`.
pub const MAX_USERS_PER_MESSAGE: usize = 1000;

/// The longest explanation in an `error`, in bytes: what a client sent is not sent back at length.
const MAX_EXPLANATION_BYTES: usize = 300;

/// WebSocket close codes that the host uses.
pub mod close_codes {
    /// The client said goodbye.
    pub const NORMAL: u16 = 1000;
    /// The host goes away; connect again.
    pub const GOING_AWAY: u16 = 1001;
    /// What came is not the WebSocket protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text frame that is not UTF-8.
    pub const NOT_UTF8: u16 = 1007;
    /// Too many errors in a short time.
    pub const ABUSE: u16 = 1008;
    /// A message above [`super::MAX_MESSAGE_BYTES`].
    pub const TOO_LARGE: u16 = 1009;
    /// The host failed.
    pub const INTERNAL: u16 = 1011;
    /// No frame came for `heartbeat` plus `heartbeat_timeout`.
    pub const TIMEOUT: u16 = 4000;
    /// The token expired; connect again with a new one.
    pub const EXPIRED: u16 = 4001;
    /// The client reads slower than it is sent what it asked for.
    pub const SLOW: u16 = 4002;
}

/// Reasons in `goodbye`.
pub mod goodbyes {
    /// The host stops; connect again after `retry_after_ms`.
    pub const DRAINING: &str = "draining";
    /// The client was silent for too long.
    pub const TIMEOUT: &str = "timeout";
    /// The token expired.
    pub const EXPIRED: &str = "expired";
    /// The client reads too slowly.
    pub const SLOW: &str = "slow";
    /// Too many errors in a short time.
    pub const ABUSE: &str = "abuse";
    /// A message was too large.
    pub const TOO_LARGE: &str = "too_large";
    /// The client broke the WebSocket protocol.
    pub const PROTOCOL_ERROR: &str = "protocol_error";
    /// The host failed.
    pub const INTERNAL: &str = "internal";
}

/// `code` in `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a message of the protocol.
    InvalidMessage,
    /// A user that this session may not watch.
    Forbidden,
    /// More users than one message may name or one session may watch.
    TooMany,
    /// A fresh token that is not taken.
    InvalidToken,
    /// What is needed for this message is away for now.
    Unavailable,
    /// One of more messages than a session may send in a second.
    TooFast,
}

impl ErrorCode {
    /// All of them, in the order of the counters.
    pub const ALL: [ErrorCode; 6] = [
        ErrorCode::InvalidMessage,
        ErrorCode::Forbidden,
        ErrorCode::TooMany,
        ErrorCode::InvalidToken,
        ErrorCode::Unavailable,
        ErrorCode::TooFast,
    ];

    /// The word in the message.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::InvalidMessage => "invalid_message",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::TooMany => "too_many",
            ErrorCode::InvalidToken => "invalid_token",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::TooFast => "too_fast",
        }
    }
}

/// A message from a client, valid in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// `set_status`; never `Offline`.
    SetStatus {
        /// What the session shall be.
        status: Status,
        /// Echoed in the answer.
        id: Option<String>,
        /// The trace that the sender has begun; what is none is ignored.
        traceparent: Option<Traceparent>,
    },
    /// `set_metadata`; whether what comes of it is metadata is seen where the session's is known.
    SetMetadata {
        /// Values of keys; none removes one.
        changes: BTreeMap<String, Option<String>>,
        /// Echoed in the answer.
        id: Option<String>,
    },
    /// `set_message`
    SetMessage {
        /// None clears it.
        wanted: Option<Wanted>,
        /// Echoed in the answer.
        id: Option<String>,
    },
    /// `watch`
    Watch {
        /// 1 to [`MAX_USERS_PER_MESSAGE`].
        users: Vec<UserId>,
        /// What is to be seen besides the status.
        with: With,
        /// Echoed in the answer.
        id: Option<String>,
    },
    /// `unwatch`
    Unwatch {
        /// 1 to [`MAX_USERS_PER_MESSAGE`].
        users: Vec<UserId>,
        /// Echoed in the answer.
        id: Option<String>,
    },
    /// `token`: the session shall last as long as this one does.
    Token {
        /// A fresh one of the same user.
        token: FreshToken,
        /// Echoed in the answer.
        id: Option<String>,
    },
    /// `ping`
    Ping {
        /// Echoed in the answer.
        id: Option<String>,
    },
}

/// A token as it came, unchecked. Shown to nobody.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct FreshToken(String);

impl FreshToken {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for FreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FreshToken(..)")
    }
}

/// Why a text is no [`ClientMessage`]; what the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{explanation}")]
pub struct Invalid {
    /// Which kind of error.
    pub code: ErrorCode,
    /// For the author of the client.
    pub explanation: String,
    /// The message's id, where one can be found.
    pub id: Option<String>,
}

/// What serde reads. Unknown fields are refused: a misspelt `id` would otherwise be lost in silence.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Written {
    SetStatus {
        status: SettableStatus,
        id: Option<String>,
        traceparent: Option<String>,
    },
    SetMetadata {
        metadata: BTreeMap<String, Option<String>>,
        id: Option<String>,
    },
    SetMessage {
        #[serde(deserialize_with = "present")]
        message: Option<String>,
        #[serde(default, deserialize_with = "whole")]
        expires_in_ms: Option<u64>,
        id: Option<String>,
    },
    Watch {
        users: Vec<String>,
        #[serde(default)]
        with: Vec<shown::Part>,
        id: Option<String>,
    },
    Unwatch {
        users: Vec<String>,
        id: Option<String>,
    },
    Token {
        token: FreshToken,
        id: Option<String>,
    },
    Ping {
        id: Option<String>,
    },
}

/// A field that may be null and must be there: without it nobody knows whether clearing was meant.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

/// A whole number, however it is written: to JSON 1000 and 1e3 are one.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let written_otherwise = || {
        let value = number.as_f64()?;
        // Below 2^53 every whole number is exact.
        (value.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&value)).then_some(value as u64)
    };
    let whole = number.as_u64().or_else(written_otherwise);
    whole
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("{number} is not a whole number from 0 on")))
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum SettableStatus {
    Online,
    Idle,
}

impl ClientMessage {
    /// What the answer echoes.
    pub fn into_id(self) -> Option<String> {
        match self {
            ClientMessage::SetStatus { id, .. }
            | ClientMessage::SetMetadata { id, .. }
            | ClientMessage::SetMessage { id, .. }
            | ClientMessage::Watch { id, .. }
            | ClientMessage::Unwatch { id, .. }
            | ClientMessage::Token { id, .. }
            | ClientMessage::Ping { id } => id,
        }
    }

    /// Reads one text frame.
    pub fn parse(text: &str) -> Result<ClientMessage, Invalid> {
        let written = serde_json::from_str::<Written>(text).map_err(|error| explain(text, &error))?;
        match written {
            Written::SetStatus { status, id, traceparent } => {
                let status = match status {
                    SettableStatus::Online => Status::Online,
                    SettableStatus::Idle => Status::Idle,
                };
                let traceparent = traceparent.as_deref().and_then(Traceparent::parse);
                Ok(ClientMessage::SetStatus { status, id: checked_id(id)?, traceparent })
            }
            Written::SetMetadata { metadata, id } => {
                Ok(ClientMessage::SetMetadata { changes: metadata, id: checked_id(id)? })
            }
            Written::SetMessage { message, expires_in_ms, id } => {
                let id = checked_id(id)?;
                match Wanted::new(message.as_deref(), expires_in_ms) {
                    Ok(wanted) => Ok(ClientMessage::SetMessage { wanted, id }),
                    Err(error) => {
                        let (code, explanation) = (ErrorCode::InvalidMessage, error.to_string());
                        Err(Invalid { code, explanation, id })
                    }
                }
            }
            Written::Watch { users, with, id } => {
                let id = checked_id(id)?;
                let with = shown::asked_for(&with);
                Ok(ClientMessage::Watch { users: checked_users(&users, &id)?, with, id })
            }
            Written::Unwatch { users, id } => {
                let id = checked_id(id)?;
                Ok(ClientMessage::Unwatch { users: checked_users(&users, &id)?, id })
            }
            Written::Token { token, id } => Ok(ClientMessage::Token { token, id: checked_id(id)? }),
            Written::Ping { id } => Ok(ClientMessage::Ping { id: checked_id(id)? }),
        }
    }
}

/// The slow path: the text is read again to tell JSON that is broken from JSON that is no message, and to find an id.
fn explain(text: &str, error: &serde_json::Error) -> Invalid {
    let (explanation, id) = match serde_json::from_str::<serde_json::Value>(text) {
        Err(syntax) => (format!("not JSON: {syntax}"), None),
        Ok(serde_json::Value::Object(fields)) => {
            let id = fields.get("id").and_then(|id| id.as_str()).filter(|id| id.len() <= MAX_ID_BYTES);
            (error.to_string(), id.map(str::to_owned))
        }
        Ok(_) => ("a message is a JSON object with a `type`".to_owned(), None),
    };
    Invalid { code: ErrorCode::InvalidMessage, explanation: shortened(explanation), id }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_EXPLANATION_BYTES {
        let end = (0..=MAX_EXPLANATION_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn checked_id(id: Option<String>) -> Result<Option<String>, Invalid> {
    match id {
        Some(id) if id.len() > MAX_ID_BYTES => Err(Invalid {
            code: ErrorCode::InvalidMessage,
            explanation: format!("`id` has {} bytes; at most {MAX_ID_BYTES} are allowed", id.len()),
            id: None,
        }),
        id => Ok(id),
    }
}

fn checked_users(users: &[String], id: &Option<String>) -> Result<Vec<UserId>, Invalid> {
    let invalid = |code, explanation| Invalid { code, explanation, id: id.clone() };
    if users.is_empty() {
        let explanation = format!("`users` is empty; name 1 to {MAX_USERS_PER_MESSAGE} users");
        return Err(invalid(ErrorCode::InvalidMessage, explanation));
    }
    if users.len() > MAX_USERS_PER_MESSAGE {
        let explanation = format!(
            "`users` names {} users; a message may name {MAX_USERS_PER_MESSAGE}, send several",
            users.len()
        );
        return Err(invalid(ErrorCode::TooMany, explanation));
    }
    let checked = users.iter().enumerate().map(|(at, text)| {
        UserId::new(text)
            .map_err(|reason| invalid(ErrorCode::InvalidMessage, format!("`users[{at}]`: {reason}")))
    });
    checked.collect()
}

/// A message to a client. Clients ignore fields and types that they don't know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage<'a> {
    /// The session is open; also after the host took a new instance id.
    Welcome {
        /// The session's id.
        session: Cow<'a, str>,
        /// The authenticated user.
        user: Cow<'a, str>,
        /// The instance that has the connection.
        instance: Cow<'a, str>,
        /// The session's status.
        status: Status,
        /// A WebSocket Ping comes after so long without a frame from the client, in milliseconds.
        heartbeat_ms: u64,
    },
    /// The status of a watched user.
    Presence {
        /// Whose.
        user: Cow<'a, str>,
        /// The user's status.
        status: Status,
        /// RFC 3339 in milliseconds; null for a user never seen.
        since: Option<Cow<'a, str>>,
        /// Grows with every transition; 0 for a user never seen.
        revision: u64,
        /// The user's custom message, to whoever asked for it; null: there is none.
        #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
        message: Option<Option<ShownMessage>>,
        /// The user's sessions that have metadata, to whoever asked for them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sessions: Option<Vec<ShownSession<'a>>>,
    },
    /// A message was carried out.
    Ok {
        /// As the client gave it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Cow<'a, str>>,
    },
    /// A message was not carried out; the connection stays.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: Cow<'a, str>,
        /// As the client gave it, if it can be found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Cow<'a, str>>,
    },
    /// Answers `ping`.
    Pong {
        /// As the client gave it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Cow<'a, str>>,
    },
    /// A close follows.
    Goodbye {
        /// One of [`goodbyes`], or a later word.
        reason: Cow<'a, str>,
        /// When to come back, for `draining`; in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
}

/// A null is told from nothing at all.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<ShownMessage>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl<'a> HostMessage<'a> {
    /// `presence`, with what the watcher has asked to see besides.
    pub fn presence(
        user: &'a UserId,
        status: Status,
        since: Timestamp,
        revision: u64,
        shown: Option<&'a Shown>,
    ) -> HostMessage<'a> {
        HostMessage::Presence {
            user: user.as_str().into(),
            status,
            since: HostMessage::since(since, revision),
            revision,
            message: shown::message_of(shown),
            sessions: shown::sessions_of(shown, status),
        }
    }
}

impl HostMessage<'_> {
    /// The text frame.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always become JSON")
    }

    /// The `since` of a revision: none for a user never seen.
    pub fn since(at: Timestamp, revision: u64) -> Option<Cow<'static, str>> {
        (revision > 0).then(|| rfc3339(at).into())
    }
}

/// The last millisecond of the year 9999, the end of what RFC 3339 can say.
const LAST_RFC3339: u64 = 253_402_300_799_999;

/// A time in RFC 3339, UTC, with milliseconds. What lies past the year 9999 becomes its last millisecond.
pub fn rfc3339(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at.0.min(LAST_RFC3339))).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use presence_core::events::Attributes;
    use presence_core::ids::InstanceId;
    use presence_core::message::CustomMessage;
    use presence_core::metadata::Metadata;
    use presence_core::watchers::{Details, SessionDetails};

    use super::*;

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    fn invalid(text: &str) -> (ErrorCode, String, Option<String>) {
        let invalid = ClientMessage::parse(text).unwrap_err();
        (invalid.code, invalid.explanation, invalid.id)
    }

    #[test]
    fn every_client_message_parses() {
        assert_eq!(
            ClientMessage::parse(r#"{"type":"set_status","status":"idle","id":"1"}"#),
            Ok(ClientMessage::SetStatus { status: Status::Idle, id: Some("1".into()), traceparent: None })
        );
        let traced = |traceparent: &str| {
            let text = format!(r#"{{"type":"set_status","status":"online","traceparent":"{traceparent}"}}"#);
            ClientMessage::parse(&text)
        };
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (text, traceparent) in [(sent, Traceparent::parse(sent)), ("nonsense", None)] {
            let expected = ClientMessage::SetStatus { status: Status::Online, id: None, traceparent };
            assert_eq!(traced(text), Ok(expected));
        }
        assert_eq!(
            ClientMessage::parse(r#"{"users":["a/b","🦀 *,."],"type":"watch"}"#),
            Ok(ClientMessage::Watch {
                users: vec![user("a/b"), user("🦀 *,.")],
                with: With::default(),
                id: None
            })
        );
        assert_eq!(
            ClientMessage::parse(
                r#"{"type":"watch","users":["bob"],"with":["metadata","message","message"]}"#
            ),
            Ok(ClientMessage::Watch {
                users: vec![user("bob")],
                with: With { message: true, metadata: true },
                id: None
            })
        );
        let changes = [("device".to_owned(), Some("phone".to_owned())), ("room".to_owned(), None)].into();
        assert_eq!(
            ClientMessage::parse(r#"{"type":"set_metadata","metadata":{"device":"phone","room":null}}"#),
            Ok(ClientMessage::SetMetadata { changes, id: None })
        );
        let wanted = Wanted::new(Some("in a meeting"), Some(3_600_000)).unwrap();
        assert_eq!(
            ClientMessage::parse(
                r#"{"type":"set_message","message":"in a meeting","expires_in_ms":3600000,"id":"m"}"#
            ),
            Ok(ClientMessage::SetMessage { wanted, id: Some("m".into()) })
        );
        let written = r#"{"type":"set_message","message":"in a meeting","expires_in_ms":3.6e6}"#;
        let wanted = Wanted::new(Some("in a meeting"), Some(3_600_000)).unwrap();
        assert_eq!(ClientMessage::parse(written), Ok(ClientMessage::SetMessage { wanted, id: None }));
        assert_eq!(
            ClientMessage::parse(r#"{"type":"set_message","message":null}"#),
            Ok(ClientMessage::SetMessage { wanted: None, id: None })
        );
        assert_eq!(
            ClientMessage::parse(r#"{"type":"unwatch","users":["bob"],"id":null}"#),
            Ok(ClientMessage::Unwatch { users: vec![user("bob")], id: None })
        );
        assert_eq!(ClientMessage::parse(r#"{"type":"ping"}"#), Ok(ClientMessage::Ping { id: None }));
        let token = ClientMessage::parse(r#"{"type":"token","token":"eyJhbGciOi","id":"t"}"#).unwrap();
        let fresh = FreshToken("eyJhbGciOi".into());
        assert_eq!(token, ClientMessage::Token { token: fresh, id: Some("t".into()) });
        assert!(!format!("{token:?}").contains("eyJ"), "{token:?}");
    }

    #[test]
    fn errors_say_what_is_wrong_and_keep_the_id() {
        let cases = [
            ("{", "not JSON: ", None),
            ("[1]", "a message is a JSON object", None),
            ("\"ping\"", "a message is a JSON object", None),
            (r#"{"id":"7"}"#, "missing field `type`", Some("7")),
            (r#"{"type":"shout","id":"7"}"#, "unknown variant `shout`", Some("7")),
            (r#"{"type":"set_status","id":"7"}"#, "missing field `status`", Some("7")),
            (r#"{"type":"set_status","status":"offline","id":"7"}"#, "`online` or `idle`", Some("7")),
            (r#"{"type":"set_status","status":"idle","why":1}"#, "unknown field `why`", None),
            (r#"{"type":"ping","id":7}"#, "invalid type: integer", None),
            (r#"{"type":"watch","users":"bob"}"#, "invalid type: string", None),
            (r#"{"type":"watch","users":[],"id":"7"}"#, "`users` is empty", Some("7")),
            (r#"{"type":"watch","users":["a","..",""],"id":"7"}"#, "`users[1]`: `.` and `..`", Some("7")),
            (r#"{"type":"watch","users":[""]}"#, "must not be empty", None),
            (r#"{"type":"watch","users":["a\u0007"]}"#, "control characters", None),
            (r#"{"type":"watch","users":["bob"],"with":["address"],"id":"7"}"#, "unknown variant", Some("7")),
            (r#"{"type":"watch","users":["bob"],"with":"message"}"#, "invalid type: string", None),
            (r#"{"type":"set_metadata","id":"7"}"#, "missing field `metadata`", Some("7")),
            (r#"{"type":"set_metadata","metadata":{"a":1},"id":"7"}"#, "invalid type: integer", Some("7")),
            (r#"{"type":"set_message","id":"7"}"#, "missing field `message`", Some("7")),
            (r#"{"type":"set_message","message":"","id":"7"}"#, "must not be blank", Some("7")),
            (r#"{"type":"set_message","message":"a\u0007"}"#, "control characters", None),
            (r#"{"type":"set_message","message":"a","expires_in_ms":0}"#, "from 1000 to 31536000000", None),
            (
                r#"{"type":"set_message","message":"a","expires_in_ms":1.5}"#,
                "1.5 is not a whole number",
                None,
            ),
            (r#"{"type":"set_message","message":"a","expires_in_ms":-1}"#, "-1 is not a whole number", None),
            (r#"{"type":"set_message","message":"a","expires_in_ms":"5"}"#, "invalid type: string", None),
            (
                r#"{"type":"set_message","message":null,"expires_in_ms":5000}"#,
                "not for one that is cleared",
                None,
            ),
            (r#"{"type":"ping","type":"ping"}"#, "duplicate field `type`", None),
            (r#"{"type":"token","id":"7"}"#, "missing field `token`", Some("7")),
            (r#"{"type":"token","token":null}"#, "invalid type: null", None),
        ];
        for (text, part, id) in cases {
            let (code, explanation, found) = invalid(text);
            assert_eq!(code, ErrorCode::InvalidMessage, "{text}");
            assert!(explanation.contains(part), "{text}: {explanation}");
            assert_eq!(found.as_deref(), id, "{text}");
        }
    }

    #[test]
    fn long_things_are_refused_and_not_sent_back_i8() {
        let (_, explanation, id) = invalid(&format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(129)));
        assert!(explanation.contains("129 bytes"), "{explanation}");
        assert_eq!(id, None);
        let (_, explanation, _) = invalid(&format!(r#"{{"type":"{}"}}"#, "é".repeat(5000)));
        assert!(explanation.len() <= MAX_EXPLANATION_BYTES + '…'.len_utf8());
        let (_, explanation, _) = invalid(&format!(r#"{{"type":"watch","users":["{}"]}}"#, "x".repeat(257)));
        assert!(explanation.contains("at most 256 bytes"), "{explanation}");
        let many = vec!["\"u\""; 1001].join(",");
        let (code, explanation, _) = invalid(&format!(r#"{{"type":"watch","users":[{many}]}}"#));
        assert_eq!(code, ErrorCode::TooMany);
        assert!(explanation.contains("1001 users"), "{explanation}");
    }

    #[test]
    fn nesting_without_end_is_an_error_like_any_other() {
        let (_, explanation, _) = invalid(&"[".repeat(MAX_MESSAGE_BYTES));
        assert!(explanation.starts_with("not JSON"), "{explanation}");
    }

    #[test]
    fn host_messages_are_written_as_the_protocol_says() {
        let welcome = HostMessage::Welcome {
            session: "s".into(),
            user: "alice".into(),
            instance: "i".into(),
            status: Status::Online,
            heartbeat_ms: 25_000,
        };
        assert_eq!(
            welcome.to_text(),
            r#"{"type":"welcome","session":"s","user":"alice","instance":"i","status":"online","heartbeat_ms":25000}"#
        );
        let presence = HostMessage::Presence {
            user: "bob".into(),
            status: Status::Offline,
            since: HostMessage::since(Timestamp(0), 0),
            revision: 0,
            message: None,
            sessions: None,
        };
        assert_eq!(
            presence.to_text(),
            r#"{"type":"presence","user":"bob","status":"offline","since":null,"revision":0}"#
        );
        let attributes = Attributes::new(vec![("user-agent".into(), "x".into())])
            .with_metadata(&Metadata::new([("device".to_owned(), "phone".to_owned())]).unwrap());
        let session = SessionDetails { instance: InstanceId(1), status: Status::Idle, attributes };
        let message = CustomMessage { text: "in a meeting".into(), until: Timestamp(1_764_000_000_123) };
        let details = Arc::new(Details { message: Some(message), sessions: vec![session] });
        let text = |status, with, details: &Arc<Details>| {
            let shown = Shown { with, details: details.clone() };
            HostMessage::presence(&user("bob"), status, Timestamp(0), 0, Some(&shown)).to_text()
        };
        let (message, sessions) = (
            r#","message":{"text":"in a meeting","until":"2025-11-24T16:00:00.123Z"}"#,
            r#","sessions":[{"status":"idle","metadata":{"device":"phone"}}]"#,
        );
        let begin = r#"{"type":"presence","user":"bob","status":"online","since":null,"revision":0"#;
        let all = With { message: true, metadata: true };
        assert_eq!(text(Status::Online, all, &details), format!("{begin}{message}{sessions}}}"));
        let one = With { message: true, metadata: false };
        assert_eq!(text(Status::Online, one, &details), format!("{begin}{message}}}"));
        let nothing = text(Status::Online, all, &Arc::default());
        assert_eq!(nothing, format!("{begin},\"message\":null,\"sessions\":[]}}"));
        let gone = text(Status::Offline, all, &details).replace("offline", "online");
        assert_eq!(gone, format!("{begin}{message},\"sessions\":[]}}"), "who is offline has no session");
        for text in [nothing, format!("{begin}{message}{sessions}}}"), format!("{begin}}}")] {
            let read: HostMessage<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.to_text(), text, "a null is not forgotten");
        }
        assert_eq!(HostMessage::Pong { id: None }.to_text(), r#"{"type":"pong"}"#);
        assert_eq!(
            HostMessage::Goodbye { reason: "draining".into(), retry_after_ms: Some(1200) }.to_text(),
            r#"{"type":"goodbye","reason":"draining","retry_after_ms":1200}"#
        );
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Timestamp(1_764_000_000_123)), "2025-11-24T16:00:00.123Z");
        assert_eq!(rfc3339(Timestamp(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }

    /// Every JSON line of docs/protocol.md in a fenced block: `C:` client, `S:` host.
    #[test]
    fn the_examples_of_the_document_are_messages_of_this_protocol() {
        let document = include_str!("../../../docs/protocol.md");
        let (mut from_client, mut from_host) = (0, 0);
        for line in document.lines() {
            if line.contains("status\":\"offline\",\"id\"") {
                ClientMessage::parse(&line[3..]).expect_err("the mistake in the example");
            } else if let Some(text) = line.strip_prefix("C: {") {
                ClientMessage::parse(&format!("{{{text}")).unwrap_or_else(|error| panic!("{line}: {error}"));
                from_client += 1;
            } else if let Some(text) = line.strip_prefix("S: {") {
                let text = format!("{{{text}");
                let message: HostMessage<'_> =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(message.to_text(), text, "fields are missing, unknown or in another order");
                from_host += 1;
            }
        }
        assert!(from_client >= 8 && from_host >= 12, "{from_client} {from_host}");
    }

    /// The words between backticks of an error that names all that there are.
    fn all_types(error: &str) -> Vec<&str> {
        let (_, expected) = error.split_once("expected one of").expect("a list of words");
        expected.split('`').skip(1).step_by(2).collect()
    }

    /// The values of the constants in a module of this file: what others add is found too.
    fn constants(module: &str) -> Vec<&'static str> {
        let source = include_str!("protocol.rs");
        let begin = source.find(&format!("pub mod {module} {{")).expect("the module");
        let module = &source[begin..];
        let module = &module[..module.find("\n}").expect("its end")];
        let values = module.lines().filter(|line| line.trim_start().starts_with("pub const"));
        values
            .map(|line| line.rsplit(" = ").next().unwrap().trim_end_matches(';').trim_matches('"'))
            .collect()
    }

    #[test]
    fn the_document_names_every_message_field_code_and_reason() {
        let document = include_str!("../../../docs/protocol.md");
        let row = |word: &str| document.lines().any(|line| line.starts_with(&format!("| `{word}` |")));
        let from_client = ClientMessage::parse(r#"{"type":"?"}"#).unwrap_err().explanation;
        let from_host = serde_json::from_str::<HostMessage<'_>>(r#"{"type":"?"}"#).unwrap_err().to_string();
        let (from_client, from_host) = (all_types(&from_client), all_types(&from_host));
        assert!(from_client.len() >= 7 && from_host.len() >= 6, "{from_client:?} {from_host:?}");
        for word in from_client.iter().chain(&from_host).copied() {
            assert!(row(word), "no row for the message `{word}`");
        }
        for code in ErrorCode::ALL {
            assert!(row(code.as_str()), "no row for the code `{}`", code.as_str());
        }
        let goodbye = document.split("\n## ").find(|part| part.starts_with("Goodbye")).expect("a chapter");
        for reason in constants("goodbyes") {
            assert!(goodbye.contains(&format!("| `{reason}` |")), "no row for the reason `{reason}`");
        }
        for code in constants("close_codes") {
            let names = |line: &&str| {
                let first = line.strip_prefix("| ").and_then(|line| line.split(" |").next());
                first.is_some_and(|codes| codes.split(", ").any(|other| other == code))
            };
            assert!(goodbye.lines().any(|line| names(&line)), "no row for the close code {code}");
        }
    }
}
