//! What hooks are told and what they answer, as plain Rust types that exist on every target.
//!
//! Serialised, they are the records of the contract in snake_case: lists of attributes become objects, a
//! [`Scope`] is `"everything"` or `{"lost": {…}}`. Knows neither WebAssembly nor the host.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The status of a user, or of a session (which is never [`Status::Offline`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Any session is online.
    Online,
    /// There are sessions and all are idle.
    Idle,
    /// There is no session.
    Offline,
}

impl Status {
    /// `online`, `idle` or `offline`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Online => "online",
            Status::Idle => "idle",
            Status::Offline => "offline",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Facts by name, such as `remote-address`, `user-agent`, `meta.<key>`. Expect names you do not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// The value under a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Attributes {
        Attributes(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// One live, authenticated connection of a user. The event of `session_connected`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Unique for ever.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// The incarnation of the host that has the connection.
    pub instance: String,
    /// Online or idle.
    pub status: Status,
    /// Milliseconds since 1970, UTC.
    pub connected_at: u64,
    /// More facts.
    pub attributes: Attributes,
}

/// A session ended: closed, logged out, timed out, expired, or its host drains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDisconnected {
    /// As it was at the end.
    pub session: Session,
    /// `closed`, `timeout`, `expired`, `draining`, `abuse`, … Expect words you do not know.
    pub reason: String,
    /// How long it lasted, in milliseconds.
    pub duration_ms: u64,
}

/// A user's status changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusChange {
    /// Whose.
    pub user: String,
    /// None: unknown, after a fresh start, or the plugin's first news of this user.
    pub previous: Option<Status>,
    /// The status now.
    pub current: Status,
    /// When this was decided, in milliseconds since 1970, UTC.
    pub since: u64,
    /// Grows per user, also over restarts. Drop what is not newer than what you have.
    pub revision: u64,
    /// Live sessions.
    pub sessions: u32,
    /// The end of the last session, in milliseconds since 1970, UTC; none while there is one.
    pub last_seen: Option<u64>,
}

/// Something died without a word: put right what it left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleanup {
    /// `fresh-start`, `instance-lost`, … Expect words you do not know.
    pub cause: String,
    /// What to clean up.
    pub scope: Scope,
    /// Large cleanups come in parts: the number of this one, from 0.
    pub chunk: u32,
    /// True for the last part.
    pub last: bool,
}

/// What a [`Cleanup`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The whole deployment starts afresh: nothing recorded before holds.
    Everything,
    /// An instance died with these sessions (perhaps none). They get no `session_disconnected`; their users' statuses
    /// are decided anew, so delete by session or by instance, never by user.
    Lost {
        /// The dead instance.
        instance: String,
        /// Its sessions, or this part of them.
        sessions: Vec<Session>,
    },
}

/// The interval of the plugin has passed once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// For when this one is, in milliseconds since 1970, UTC: a multiple of the interval. Ticks may be left out (while
    /// no host is there, or while one fails for longer than the interval); none is due before an older one.
    pub due: u64,
    /// The `interval` of the plugin's entry in presence.toml, in milliseconds.
    pub interval_ms: u64,
}

/// About the call itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The same on every attempt and every host: an idempotency key.
    pub event_id: String,
    /// From 1.
    pub attempt: u32,
    /// What was left until the deadline when the call began; [`crate::time::remaining`] tells what is left now.
    pub time_left_ms: u32,
    /// More facts.
    pub attributes: Attributes,
}

/// What a hook answers.
pub type HookResult = Result<(), HookError>;

/// Why an event was not taken, and what the host should do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookError {
    /// Try again: nothing is lost. For status hooks and cleanup, as long as it takes.
    Retry {
        /// For the log: what failed, where.
        message: String,
        /// Not before so many milliseconds; none: the host's own schedule.
        after_ms: Option<u32>,
    },
    /// Never again: the event becomes a dead letter.
    Reject {
        /// For the log and the dead letter: what is wrong with the event.
        message: String,
    },
}

impl HookError {
    /// Try again on the host's schedule.
    pub fn retry(message: impl Into<String>) -> HookError {
        HookError::Retry { message: message.into(), after_ms: None }
    }

    /// Try again, but not before `wait` has passed (at most 49 days).
    pub fn retry_after(message: impl Into<String>, wait: Duration) -> HookError {
        let after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        HookError::Retry { message: message.into(), after_ms: Some(after_ms) }
    }

    /// Give the event up.
    pub fn reject(message: impl Into<String>) -> HookError {
        HookError::Reject { message: message.into() }
    }

    /// True for [`HookError::Retry`].
    pub fn is_retry(&self) -> bool {
        matches!(self, HookError::Retry { .. })
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookError::Retry { message, .. } | HookError::Reject { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for HookError {}
