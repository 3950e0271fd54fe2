//! What the sessions are told and what they want done. It decides nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::documents::SessionDocument;
use crate::events::{Label, SessionEvent, Status};
use crate::ids::{SessionId, UserId};

/// What the sessions need to know.
#[derive(Clone, Copy, Debug)]
pub struct SessionsConfig {
    /// No activity for so long makes a session idle; none: off.
    pub idle_after: Option<Duration>,
    /// A Ping is sent after so long without a frame.
    pub heartbeat: Duration,
    /// The session ends when no frame comes for so long after the Ping.
    pub heartbeat_timeout: Duration,
    /// For the hash table.
    pub seed: u64,
}

/// A session's place in this host; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u64);

/// A document to be put, or deleted; answer with [`LocalSessions::handle_document_acked`] or
/// [`LocalSessions::handle_document_failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentWrite {
    /// Whose document.
    pub user: UserId,
    /// None: delete it.
    pub document: Option<Arc<SessionDocument>>,
}

/// What is to be done about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEffect {
    /// Run the session hook.
    Hook(SessionEvent),
    /// Send a WebSocket Ping.
    Ping(SessionKey),
    /// The session is over by the host's decision: say goodbye and close the connection.
    End {
        /// Which session.
        key: SessionKey,
        /// `timeout`, `expired` or `draining`.
        reason: Label,
    },
}

/// What is known of a live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// `Online` or `Idle`.
    pub status: Status,
}
