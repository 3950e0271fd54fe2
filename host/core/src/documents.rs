//! What the store holds: keys, documents, and the conditions of a write.
//!
//! Two buckets, one document a key, the newest wins. The words are those of DESIGN section 4: `s` sessions,
//! `o` owner's claim, `u` status record and custom message, `d` checkpoint; `i` instance, `boot`, `meta`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::events::{Attributes, Label, Status};
use crate::ids::{HolderName, Incarnation, InstanceId, LeafId, PartitionId, Sequence, SessionId, UserId};
use crate::message::CustomMessage;
use crate::time::Timestamp;
pub use crate::trail::{Moment, Past, Reason, Trail};

/// A store has two buckets; writes are ordered within one, not between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Sessions, claims, status records, custom messages, checkpoints.
    Sessions,
    /// Instances, boot, meta.
    Instances,
}

/// The key of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `s.<p>.<leaf>.<user>.<instance>`: the user's sessions on one instance.
    Sessions(PartitionId, LeafId, UserId, InstanceId),
    /// `o.<p>`: who owns the partition.
    Owner(PartitionId),
    /// `u.<p>.<leaf>.<user>`: the user's status.
    User(PartitionId, LeafId, UserId),
    /// `u.<p>.<leaf>.<user>.message`: the user's custom message, under a lease.
    Message(PartitionId, LeafId, UserId),
    /// `d.<p>`: what each plugin was delivered.
    Checkpoint(PartitionId),
    /// `i.<instance>`: an instance and its lease.
    Instance(InstanceId),
    /// `boot`: the fresh start.
    Boot,
    /// `meta`: the format, the layout, the epoch.
    Meta,
}

impl Key {
    /// The bucket that holds it.
    pub fn bucket(&self) -> Bucket {
        match self {
            Key::Sessions(..) | Key::Owner(_) | Key::User(..) | Key::Message(..) | Key::Checkpoint(_) => {
                Bucket::Sessions
            }
            Key::Instance(_) | Key::Boot | Key::Meta => Bucket::Instances,
        }
    }

    /// The partition, for keys that belong to one.
    pub fn partition(&self) -> Option<PartitionId> {
        match self {
            Key::Sessions(partition, ..)
            | Key::Owner(partition)
            | Key::User(partition, ..)
            | Key::Message(partition, ..)
            | Key::Checkpoint(partition) => Some(*partition),
            Key::Instance(_) | Key::Boot | Key::Meta => None,
        }
    }
}

/// A document; which kind is fixed by the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Under [`Key::Sessions`].
    Sessions(Arc<SessionDocument>),
    /// Under [`Key::Owner`].
    Owner(Claim),
    /// Under [`Key::User`].
    User(StatusRecord),
    /// Under [`Key::Message`].
    Message(CustomMessage),
    /// Under [`Key::Checkpoint`].
    Checkpoint(Arc<CheckpointDocument>),
    /// Under [`Key::Instance`].
    Instance(InstanceRecord),
    /// Under [`Key::Boot`].
    Boot(BootRecord),
    /// Under [`Key::Meta`].
    Meta(MetaRecord),
}

/// All sessions of one user on one instance, written by that instance's gateway alone; of a holder by any host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDocument {
    /// Live sessions, and ended ones whose `session-disconnected` is not settled yet; by id.
    pub sessions: Vec<SessionEntry>,
    /// A drained user counts as present until then, also without a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_until: Option<Timestamp>,
}

/// One session in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEntry {
    /// Its id.
    pub id: SessionId,
    /// `Online` or `Idle`.
    pub status: Status,
    /// When it was opened.
    pub connected_at: Timestamp,
    /// More facts.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// Set once it has ended: it no longer counts, but its hook is still to be settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Of a held session: the version of the document that listed it first; 0: this one.
    #[serde(default, skip_serializing_if = "is_first")]
    pub listed: Sequence,
}

fn is_first(listed: &Sequence) -> bool {
    *listed == Sequence(0)
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: Label,
}

/// A partition's owner. The sequence of this document is the fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The owner; none once it has released the partition.
    pub instance: Option<InstanceId>,
    /// Tells two claims of one instance apart.
    pub nonce: u64,
}

/// The recorded status of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// As decided.
    pub status: Status,
    /// When it was decided.
    pub since: Timestamp,
    /// Grows with every transition.
    pub revision: u64,
    /// The end of the last session; none while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// How many sessions counted.
    pub sessions: u32,
    /// The boot generation it was decided in; an older one makes the status unknown.
    pub generation: u64,
    /// The status before, so that a later owner repeats the transition as it was told; none: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Status>,
    /// Why it was decided, and what was before. Other versions may leave it out; nothing is decided by it.
    #[serde(default, skip_serializing_if = "Trail::is_empty")]
    pub trail: Trail,
}

/// What the plugins were told of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointDocument {
    /// The epoch of the store it counts in.
    pub epoch: u64,
    /// By plugin name. Entries of plugins that the owner doesn't know are kept.
    pub plugins: BTreeMap<String, PluginCheckpoint>,
    /// How far the session hooks of held sessions are settled; none: there never were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldCheckpoint>,
}

/// How far the session hooks of held sessions are settled, whatever plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCheckpoint {
    /// Everything that documents up to here tell of.
    pub up_to: Sequence,
    /// The boot generation it counts in: `everything` has had receivers forget what was before.
    pub generation: u64,
}

/// What one plugin was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginCheckpoint {
    /// Every status record up to here is settled, except those below.
    pub up_to: Sequence,
    /// Users whose record at or below `up_to` is still to be delivered. Bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<UserId>,
    /// Since when no owner has known the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent_since: Option<Timestamp>,
}

/// An instance's own record, under a lease while it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// The host's name.
    pub host: String,
    /// Where it stands in its life.
    pub state: InstanceState,
    /// When it started.
    pub started_at: Timestamp,
    /// Counts renewals, so that no two are alike.
    pub renewal: u64,
    /// A fingerprint of the names of its plugins: hosts of one deployment should run the same.
    #[serde(default)]
    pub plugins: u64,
    /// Set once it is declared dead: the journal of its cleanup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Cleanup>,
    /// Set on what belongs to a holder: its incarnation, or the record of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Box<HolderRecord>>,
}

/// What an instance record says of a holder. Hosts that don't know of holders see one that never ceases to join, or has
/// left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRecord {
    /// Its name.
    pub name: HolderName,
    /// Which of its lives.
    pub incarnation: Incarnation,
    /// How long it lives without a renewal, in milliseconds.
    pub lease_ms: u64,
    /// The fresh start that it belongs to ([`BootRecord::start`]): whoever bears another one was not spared by it.
    #[serde(default)]
    pub start: u64,
    /// Of the record of the name ([`HolderName::key`]): the instance that this incarnation is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<InstanceId>,
}

/// The journal of a dead instance's cleanup: whoever resumes it knows what is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleanup {
    /// How far it is.
    pub phase: CleanupPhase,
    /// Who cleans up; none until somebody has claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<InstanceId>,
    /// When it was declared dead.
    pub declared_at: Timestamp,
    /// How often it was declared dead before: it came back once a recreated store had forgotten its death.
    #[serde(default)]
    pub round: u32,
    /// By plugin name: how many chunks of the sessions it has settled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settled: BTreeMap<String, u32>,
}

/// Phases of the cleanup of a dead instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleanupPhase {
    /// Plugins are being told of its sessions.
    Telling,
    /// Every plugin has settled every chunk: its documents may go.
    Told,
    /// Its documents are gone. The record stays for a while, so that late writes are recognised.
    Purged,
}

/// The life of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Started, not yet taking clients.
    Joining,
    /// Takes clients and owns partitions.
    Ready,
    /// Told to stop.
    Draining,
    /// Declared dead; kept until its cleanup is done, and for a while after.
    Dead,
    /// Went in good order. Kept while users it drained count as present.
    Left,
}

/// The fresh start of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// Grows with every fresh start.
    pub generation: u64,
    /// Whether clients may come in.
    pub phase: BootPhase,
    /// Who cleans or cleaned.
    pub by: InstanceId,
    /// Random; tells two fresh starts apart, also when the store was recreated between them.
    #[serde(default)]
    pub start: u64,
    /// The epoch of the store in which its `everything` ran last; in another one it was only written back. 0: an older
    /// version wrote it.
    #[serde(default)]
    pub epoch: u64,
    /// It was opened before every plugin had taken `everything`: `by` still sees to that, as the so many-th to take it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<u32>,
    /// It was written back by one who can't know whether another fresh start came in between: `by` still has every present
    /// user told of once more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
}

/// Phases of a fresh start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootPhase {
    /// The hook `cleanup` with `everything` runs.
    Cleaning,
    /// Clients are welcome.
    Open,
    /// The last host has left in good order: the next start need not wait for anybody.
    Closed,
}

/// What must agree between all hosts of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaRecord {
    /// The version of the storage format.
    pub format: u32,
    /// The slicing of users.
    #[serde(flatten)]
    pub layout: Layout,
    /// Random; tells a recreated store from the old one.
    pub epoch: u64,
}

pub use crate::ids::Layout;

/// The condition of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// None: the newest wins.
    Any,
    /// Compare-and-set: the key's last sequence; `Sequence(0)`: the key was never written or is gone.
    Last(Sequence),
    /// A fence: *another* key's last sequence, in the same bucket.
    Fence(Key, Sequence),
}

/// One message of a bucket, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The key.
    pub key: Key,
    /// Its place in the bucket's order.
    pub sequence: Sequence,
    /// What happened to it.
    pub change: Change,
}

/// What an [`Update`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has this document now.
    Put(Document),
    /// The key was deleted.
    Deleted,
    /// The key's lease ran out.
    Expired,
}
