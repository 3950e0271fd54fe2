//! What a store must do, whatever it is made of. It knows documents and conditions, not what they mean.
//!
//! Rules that every implementation keeps (the conformance suite checks them):
//! - writes to one bucket have one order, the sequence, which only grows; two buckets have none between them;
//! - a write with [`Expect::Last`] or [`Expect::Fence`] is refused, without effect, unless the named key's last
//!   sequence is that very one; a deletion or expiry has a sequence too, which counts while the store remembers it,
//!   and `Sequence(0)` always stands for "there is no document";
//! - a document put with a lease disappears after it, not before, and followers see
//!   [`Change::Expired`](presence_core::documents::Change::Expired);
//! - a snapshot holds every document whose last write is at or below its `up_to`, and `up_to` is at least what
//!   was asked for;
//! - a follower gets every update of its partitions after `from`, in order, at most keeping only the newest of one
//!   key, or is told that it must start over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use presence_core::documents::{Bucket, Document, Expect, Key, StatusRecord};
use presence_core::ids::{InstanceId, LeafId, PartitionId, Sequence, UserId};
use presence_core::time::Timestamp;

pub mod conformance;
mod follower;
pub mod memory;
pub mod nats;
mod notices;
mod questions;
mod rules;
pub mod token;

pub use follower::{Feed, Followed, Follower};
pub use notices::{Noticed, Notices};
pub use questions::{Asking, Question, Questions};

/// The shortest lease a store grants.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// So many dead letters are kept; older ones are dropped and counted.
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// How long an answer of another host is waited for.
pub const ASK_PATIENCE: Duration = Duration::from_secs(3);

/// Why an operation had no effect, or an unknown one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The condition did not hold. Nothing was written.
    #[error("another writer was first (the last sequence is {})", last.0)]
    Conflict {
        /// The last sequence of the key named by the condition: of its document, or of what removed it while the
        /// store remembers that; 0 when there is neither, or the store doesn't tell.
        last: Sequence,
    },
    /// No answer: it may or may not have happened. Ask again with the same bytes.
    #[error("no answer from the store: {0}")]
    Unknown(String),
    /// Certainly not done, and may work later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Certainly not done, and won't be: too large, full, no permission.
    #[error("the store refuses: {0}")]
    Refused(String),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Where.
    pub key: Key,
    /// What.
    pub document: Document,
    /// On which condition.
    pub expect: Expect,
    /// How long it lives; none: until deleted. Less than [`MIN_LEASE`] is refused.
    pub lease: Option<Duration>,
}

/// Which session documents are to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// All of an instance.
    Of(InstanceId),
    /// All that were last written at or before this point: a request that arrives late does no harm.
    UpTo(Sequence),
    /// The same, but for those of these instances.
    UpToBut(Sequence, Arc<[InstanceId]>),
}

/// What a snapshot or a follower covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The whole bucket [`Bucket::Instances`].
    Instances,
    /// These partitions of the bucket [`Bucket::Sessions`].
    Partitions(BTreeSet<PartitionId>),
    /// These partitions, and besides them the claims (`o.<p>`) of all others: what an instance follows.
    PartitionsAndClaims(BTreeSet<PartitionId>),
    /// The status records of a partition, or of one leaf of it: for listing users.
    Records(PartitionId, Option<LeafId>),
    /// The status records of all partitions: for telling everybody's transitions.
    AllRecords,
    /// The session documents of one user, who has this place.
    SessionsOf(PartitionId, LeafId, UserId),
}

/// All documents of a coverage at one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Sorted by key.
    pub documents: Vec<(Key, Sequence, Document)>,
    /// The point: nothing at or below it is missing. A document may be newer than it (a store that reads in several
    /// steps tells the first one's point); a follower from here then repeats it.
    pub up_to: Sequence,
}

/// A changed status, told to whoever watches the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whose status.
    pub user: UserId,
    /// The record, already in the store.
    pub record: StatusRecord,
}

/// Something that ended up undelivered, kept for a person to look at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// Grows with every dead letter; set by the store.
    #[serde(default)]
    pub number: u64,
    /// The plugin's name.
    pub plugin: String,
    /// SHA-256 of the plugin file, hexadecimal.
    pub digest: String,
    /// The hook's name.
    pub hook: String,
    /// The user; none for a cleanup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The event id.
    pub event_id: String,
    /// The event, as the webhook plugin would write it.
    pub event: serde_json::Value,
    /// What went wrong the last time.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up, milliseconds since 1970.
    pub at: u64,
}

/// The store behind a deployment. Operations may be started in any number at once; those started one after the
/// other on the same key by the same caller take effect in that order.
pub trait Store: Send + Sync + 'static {
    /// Writes a document. Refused when the document is not of the key's kind, or the fence is in the other bucket.
    fn put(&self, put: Put) -> BoxFuture<'static, Result<Sequence, StoreError>>;

    /// Writes documents of one bucket under one fence: all or a prefix of them; the answer has a sequence for each
    /// that was written, in order, and the error that stopped it. Only with [`StoreError::Unknown`] may others of the
    /// rest be written too, whichever; repeating them puts that right.
    fn put_fenced(
        &self,
        fence: (Key, Sequence),
        documents: Vec<(Key, Document)>,
    ) -> BoxFuture<'static, (Vec<Sequence>, Option<StoreError>)>;

    /// Deletes a document. Deleting what is not there is a success if the condition holds.
    fn delete(&self, key: Key, expect: Expect) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Removes session documents and tells how many there were. Followers need not be told. A write that comes later is
    /// accepted like any other.
    fn purge_sessions(&self, which: Purge) -> BoxFuture<'static, Result<u64, StoreError>>;

    /// Reads one document from whoever decides, never from a stale copy.
    fn get(&self, key: Key) -> BoxFuture<'static, Result<Option<(Sequence, Document)>, StoreError>>;

    /// Reads all documents of a coverage, at a point at or after `at_least`. A store that has not come so far in a
    /// bounded time answers [`StoreError::Unavailable`].
    fn snapshot(
        &self,
        coverage: Coverage,
        at_least: Sequence,
    ) -> BoxFuture<'static, Result<Snapshot, StoreError>>;

    /// All session documents of one instance, sorted by key.
    fn sessions_of(
        &self,
        instance: InstanceId,
    ) -> BoxFuture<'static, Result<Vec<(Key, Document)>, StoreError>>;

    /// The updates of a coverage after `from`, in order: `from` is a snapshot's point, or the sequence of the last
    /// update seen. Dropping the follower ends it.
    fn follow(&self, coverage: Coverage, from: Sequence) -> BoxFuture<'static, Result<Follower, StoreError>>;

    /// Tells watchers everywhere of a changed status. Best effort; readers re-read.
    fn notify(&self, notice: Notice);

    /// Tells watchers everywhere who ask for it that a user's custom message or the metadata of a session may have changed.
    /// Best effort; readers re-read.
    fn notify_details(&self, user: &UserId);

    /// Notices from now on of the users that somebody watches (see [`Store::watch`] and [`Store::watch_details`]), perhaps of others too; a slow
    /// reader misses some and is told so by [`Noticed::Missed`].
    fn notices(&self) -> Notices;

    /// Notices of this user are wanted, until [`Store::unwatch`]. A read of the record that is started afterwards
    /// misses nothing that no notice tells, except for what a cluster of servers has not yet heard of: read again
    /// after two seconds.
    fn watch(&self, user: &UserId);

    /// Notices of this user are no longer wanted.
    fn unwatch(&self, user: &UserId);

    /// [`Noticed::Details`] of this user are wanted, until [`Store::unwatch_details`]; with the same promise.
    fn watch_details(&self, user: &UserId);

    /// They are no longer wanted.
    fn unwatch_details(&self, user: &UserId);

    /// The store's wall clock, to be compared with one's own; none for a store in this process.
    fn clock(&self) -> BoxFuture<'static, Result<Option<Timestamp>, StoreError>>;

    /// Keeps a dead letter and gives it its number; returns how many were dropped to make room, since only the newest
    /// [`MAX_DEAD_LETTERS`] are kept.
    fn push_dead_letter(&self, letter: DeadLetter) -> BoxFuture<'static, Result<u64, StoreError>>;

    /// The dead letters kept, oldest first.
    fn dead_letters(&self) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>>;

    /// The dead letter of this number, from whoever decides; none if it is gone.
    fn dead_letter(&self, number: u64) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>>;

    /// Removes a dead letter. True for exactly one of all who remove it; after [`StoreError::Unknown`] a repetition may
    /// answer false although nobody else did.
    fn remove_dead_letter(&self, number: u64) -> BoxFuture<'static, Result<bool, StoreError>>;

    /// Asks all hosts, this one too, and waits for the first answer, at most [`ASK_PATIENCE`]. Without one
    /// ([`StoreError::Unknown`]) it may have had its effect all the same.
    fn ask(&self, question: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, StoreError>>;

    /// What is asked from now on. One that does not concern this host is let go without an answer.
    fn questions(&self) -> Questions;

    /// For people: `memory`, or the URLs.
    fn describe(&self) -> String;
}

/// A store that is shared.
pub type SharedStore = Arc<dyn Store>;

/// The bucket of a coverage.
pub fn bucket_of(coverage: &Coverage) -> Bucket {
    match coverage {
        Coverage::Instances => Bucket::Instances,
        Coverage::Partitions(_)
        | Coverage::PartitionsAndClaims(_)
        | Coverage::Records(..)
        | Coverage::AllRecords
        | Coverage::SessionsOf(..) => Bucket::Sessions,
    }
}
