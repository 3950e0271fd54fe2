//! What holders ask of the driver, and what they are answered. It decides nothing.

use std::time::Duration;

use presence_core::holders::{Done, Operation, Rejected};
use presence_core::ids::{HolderName, Incarnation, InstanceId, SessionId, UserId};
use tokio::sync::oneshot;

/// So many holders a deployment may have at once.
pub(super) const MAX_HOLDERS: u64 = 1024;

/// What a holder asks.
#[derive(Debug)]
pub struct HolderOrder {
    /// Its name.
    pub name: HolderName,
    /// Which of its lives.
    pub incarnation: Incarnation,
    /// What it wants.
    pub verb: HolderVerb,
}

/// What a holder wants.
#[derive(Debug)]
pub enum HolderVerb {
    /// To live for so long from now on: for the first time, or once more.
    Keep(Duration),
    /// To end, with all its sessions.
    End,
    /// Its sessions to be like this.
    Change(Vec<HeldChange>),
}

/// What shall be with one session.
#[derive(Clone, Debug)]
pub struct HeldChange {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub session: SessionId,
    /// What.
    pub operation: Operation,
}

/// What a holder is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderAnswer {
    /// It lives.
    Kept(Kept),
    /// It has ended; its sessions are being cleaned up.
    Ended,
    /// One result for each change, in order; all of them are in the store.
    Changed(Vec<Result<Done, Rejected>>),
}

/// A holder that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The instance that it is.
    pub instance: InstanceId,
    /// It was not there before.
    pub created: bool,
    /// How long it lives without a renewal.
    pub lease: Duration,
}

/// Why nothing is done for a holder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderRefused {
    /// Not ready yet.
    #[error("this host is still starting")]
    Starting,
    /// Going away.
    #[error("this host is draining: ask another one")]
    Draining,
    /// Never heard of.
    #[error("no holder of this name is registered: register first")]
    Unknown,
    /// The lease is over, and nobody has declared it dead yet.
    #[error("the holder's lease has run out: renew it at once, or register with another incarnation")]
    Lapsed,
    /// It was declared dead, or has ended.
    #[error("this incarnation is over: register with another one and report the sessions again")]
    Gone,
    /// A newer one has taken its place.
    #[error("the incarnation `{0}` of this holder has taken its place")]
    Replaced(Incarnation),
    /// Somebody else registered at the same time.
    #[error("the incarnation `{0}` of this holder was registered at the same time")]
    AtOnce(Incarnation),
    /// There are so many.
    #[error("there are {MAX_HOLDERS} holders already")]
    TooMany,
    /// The store does not do it, or does not answer.
    #[error("the store did not do it: {0}")]
    Store(String),
}

/// Where the answer goes.
pub type HolderReply = oneshot::Sender<Result<HolderAnswer, HolderRefused>>;

/// Totals since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HolderCounts {
    /// Holders registered here.
    pub registered: u64,
    /// Leases renewed here.
    pub renewed: u64,
    /// Changes of sessions that were done.
    pub changed: u64,
    /// Changes that were not.
    pub rejected: u64,
    /// Writes that met another writer, or had no answer.
    pub conflicts: u64,
    /// Changes that wait for the store, now.
    pub waiting: u64,
}
