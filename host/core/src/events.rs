//! What happens to sessions and users, in the words that hooks use.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use crate::metadata::{METADATA_PREFIX, Metadata};
use crate::time::Timestamp;

/// The status of a user. A session is only ever `Online` or `Idle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Any session is online.
    Online,
    /// There are sessions and all are idle.
    Idle,
    /// There is no session.
    Offline,
}

impl Status {
    /// The word used everywhere: `online`, `idle`, `offline`.
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

/// An open set of words (reasons, causes): `closed`, `timeout`, `draining`, …
pub type Label = Cow<'static, str>;

/// Reasons why a session ends and causes of a cleanup.
pub mod labels {
    /// The client closed the connection, or it broke.
    pub const CLOSED: &str = "closed";
    /// No frame came for heartbeat plus heartbeat_timeout.
    pub const TIMEOUT: &str = "timeout";
    /// The holder says that it has ended, and no more.
    pub const ENDED: &str = "ended";
    /// The token that opened the session expired.
    pub const EXPIRED: &str = "expired";
    /// The host was told to stop.
    pub const DRAINING: &str = "draining";
    /// The client broke the protocol too often or sent too much.
    pub const ABUSE: &str = "abuse";
    /// Cause of a cleanup: the whole deployment starts afresh.
    pub const FRESH_START: &str = "fresh-start";
    /// Cause of a cleanup: an instance was declared dead.
    pub const INSTANCE_LOST: &str = "instance-lost";
}

/// Facts about a session: `remote-address`, `user-agent`, `meta.<key>`. Cheap to clone, one word when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Option<Arc<Pairs>>);

#[derive(Debug, PartialEq, Eq)]
struct Pairs {
    all: Vec<(String, String)>,
    /// Whether any of them is metadata: asked with every document, and the pairs lie elsewhere.
    metadata: bool,
}

impl Attributes {
    /// Keeps the order given.
    pub fn new(pairs: Vec<(String, String)>) -> Attributes {
        let metadata = pairs.iter().any(|(name, _)| name.starts_with(METADATA_PREFIX));
        let pairs = (!pairs.is_empty()).then(|| Arc::new(Pairs { all: pairs, metadata }));
        Attributes(pairs)
    }

    /// The same with this metadata, in place of what there was of it.
    pub fn with_metadata(&self, metadata: &Metadata) -> Attributes {
        let others = self.pairs().iter().filter(|(name, _)| !name.starts_with(METADATA_PREFIX)).cloned();
        let said = metadata.pairs().map(|(key, value)| (format!("{METADATA_PREFIX}{key}"), value.to_owned()));
        Attributes::new(others.chain(said).collect())
    }

    /// The pairs in their order.
    pub fn pairs(&self) -> &[(String, String)] {
        self.0.as_ref().map_or(&[], |pairs| pairs.all.as_slice())
    }

    /// Keys (without `meta.`) and values of the metadata among them.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = if self.has_metadata() { self.pairs() } else { &[] };
        pairs.iter().filter_map(|(name, value)| Some((name.strip_prefix(METADATA_PREFIX)?, value.as_str())))
    }

    /// True when there is any metadata among them.
    pub fn has_metadata(&self) -> bool {
        self.0.as_ref().is_some_and(|pairs| pairs.metadata)
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().map(|pairs| &pairs.all).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Attributes, D::Error> {
        Ok(Attributes::new(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// One live, authenticated connection of a user, as hooks see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The instance that has the connection.
    pub instance: InstanceId,
    /// `Online` or `Idle`.
    pub status: Status,
    /// When it was opened.
    pub connected_at: Timestamp,
    /// More facts.
    pub attributes: Attributes,
}

/// What a session hook tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEvent {
    /// The session at that time.
    pub session: Session,
    /// What happened to it.
    pub change: SessionChange,
    /// Of a session that a holder holds: the user's partition, whose owner runs the hook for the cluster.
    pub partition: Option<PartitionId>,
}

/// The two session hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// Hook `session-connected`.
    Connected,
    /// Hook `session-disconnected`.
    Disconnected {
        /// One of [`labels`], or a later word.
        reason: Label,
        /// How long the session lasted, in milliseconds.
        duration_ms: u64,
    },
}

/// A change of a user's status that was recorded in the store: what a status hook tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Whose status.
    pub user: UserId,
    /// None: unknown (after a fresh start, or the plugin's first news of this user).
    pub previous: Option<Status>,
    /// The status now.
    pub current: Status,
    /// When this was decided.
    pub since: Timestamp,
    /// Grows per user, also over restarts.
    pub revision: u64,
    /// Live sessions, drained ones left out.
    pub sessions: u32,
    /// The end of the last session; none while there is one.
    pub last_seen: Option<Timestamp>,
    /// The user's partition.
    pub partition: PartitionId,
    /// Where the record stands in the store's order.
    pub sequence: Sequence,
}

/// What the hook `cleanup` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// One of [`labels`], or a later word.
    pub cause: Label,
    /// What to clean up.
    pub scope: Scope,
    /// The number of this part, from 0.
    pub chunk: u32,
    /// True for the last part.
    pub last: bool,
    /// Part of the event id: for `everything` epoch, generation and replay count; for a dead instance how often it was
    /// declared dead before, empty for the first time.
    pub run: Arc<str>,
}

/// What the hook `tick` tells: the interval of one plugin has passed once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// A multiple of the interval since 1970.
    pub due: Timestamp,
    /// In milliseconds.
    pub interval_ms: u64,
    /// That of the plugin's name: its owner runs the tick.
    pub partition: PartitionId,
}

/// What a cleanup is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole deployment starts afresh: nothing recorded before holds.
    Everything,
    /// An instance died: these sessions of it (perhaps none).
    Lost {
        /// The dead instance.
        instance: InstanceId,
        /// Its sessions, sorted by id; this chunk of them.
        sessions: Arc<Vec<Session>>,
    },
}

/// The functions a plugin may export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// A session was opened.
    SessionConnected,
    /// A session ended.
    SessionDisconnected,
    /// An instance died, or a fresh start.
    Cleanup,
    /// A user came online.
    UserOnline,
    /// A user became idle.
    UserIdle,
    /// A user went offline.
    UserOffline,
    /// An interval has passed.
    Tick,
}

impl Hook {
    /// All of them, in the order of the contract.
    pub const ALL: [Hook; 7] = [
        Hook::SessionConnected,
        Hook::SessionDisconnected,
        Hook::Cleanup,
        Hook::UserOnline,
        Hook::UserIdle,
        Hook::UserOffline,
        Hook::Tick,
    ];

    /// The name in the contract: `session-connected`, …
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::SessionConnected => "session-connected",
            Hook::SessionDisconnected => "session-disconnected",
            Hook::Cleanup => "cleanup",
            Hook::UserOnline => "user-online",
            Hook::UserIdle => "user-idle",
            Hook::UserOffline => "user-offline",
            Hook::Tick => "tick",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SessionEvent {
    /// The hook that tells this.
    pub fn hook(&self) -> Hook {
        match self.change {
            SessionChange::Connected => Hook::SessionConnected,
            SessionChange::Disconnected { .. } => Hook::SessionDisconnected,
        }
    }
}

impl Transition {
    /// The hook that tells this.
    pub fn hook(&self) -> Hook {
        match self.current {
            Status::Online => Hook::UserOnline,
            Status::Idle => Hook::UserIdle,
            Status::Offline => Hook::UserOffline,
        }
    }
}
