//! What a membership is told and what it wants done. It decides nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::documents::{
    BootRecord, CleanupPhase, Document, Expect, HolderRecord, InstanceRecord, InstanceState, Key, Layout,
};
use crate::events::Sweep;
use crate::ids::{Incarnation, InstanceId, PartitionId, Sequence};
use crate::time::{Tick, Timestamp};

/// The storage format that this code reads and writes.
pub const FORMAT: u32 = 1;

/// What an instance must know of itself.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// Its id, new at every start.
    pub instance: InstanceId,
    /// The host's name.
    pub host: String,
    /// The slicing that presence.toml wants.
    pub layout: Layout,
    /// A random number: the epoch, if this instance is the first in a new store.
    pub epoch: u64,
    /// A random number that tells its claims from others'.
    pub nonce: u64,
    /// How long it lives without a renewal.
    pub instance_ttl: Duration,
    /// How long `everything` may hold up the boot.
    pub boot_timeout: Duration,
    /// How long the running hooks of a partition may go on before it is handed over.
    pub handover_timeout: Duration,
    /// How long drained users count as present.
    pub drain_grace: Duration,
    /// Several hosts may share the store.
    pub shared: bool,
    /// A fingerprint of the names of all plugins.
    pub plugins: u64,
    /// The plugins that export `cleanup`.
    pub cleanup_plugins: Vec<Arc<str>>,
}

/// What a membership wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipEffect {
    /// Take a snapshot of the instances and follow them from there; answer with
    /// [`handle_loaded`](super::Membership::handle_loaded), then [`handle_update`](super::Membership::handle_update).
    Load,
    /// Read all claims and follow them from there; answer with
    /// [`handle_claims`](super::Membership::handle_claims), then [`handle_claim`](super::Membership::handle_claim).
    LoadClaims,
    /// Write the own key under a lease, once: an unclear answer is not asked again. Answer with
    /// [`handle_renewed`](super::Membership::handle_renewed).
    Renew {
        /// The own key.
        instance: InstanceId,
        /// Which renewal.
        renewal: u64,
        /// What to write.
        record: InstanceRecord,
        /// The key's last sequence.
        expect: Sequence,
        /// How long it lives.
        ttl: Duration,
    },
    /// Read an instance's record from whoever decides; answer with
    /// [`handle_instance_read`](super::Membership::handle_instance_read).
    ReadInstance {
        /// Whose.
        instance: InstanceId,
        /// For the answer.
        last: Sequence,
    },
    /// Write; answer with [`handle_written`](super::Membership::handle_written). An unclear answer is asked again first.
    Write {
        /// Where.
        key: Key,
        /// What.
        document: Document,
        /// On which condition.
        expect: Expect,
        /// How long it lives.
        lease: Option<Duration>,
    },
    /// Declare a fresh start, once: an unclear answer is not asked again, since by then others may be there, in a store
    /// that was recreated. Answer with [`handle_written`](super::Membership::handle_written).
    Declare {
        /// What to write under `boot`.
        boot: BootRecord,
        /// The last sequence of that key.
        expect: Sequence,
    },
    /// Declare an instance dead, once: an unclear answer is not asked again, since by then it may have come back and
    /// left. Answer with [`handle_written`](super::Membership::handle_written).
    Judge {
        /// Whom.
        instance: InstanceId,
        /// What to write.
        record: InstanceRecord,
        /// The last sequence of its key.
        expect: Sequence,
        /// How long the record lives.
        lease: Option<Duration>,
    },
    /// Read `o.<p>`; answer with [`handle_owner`](super::Membership::handle_owner).
    ReadOwner(PartitionId),
    /// Run the hook `cleanup` with `everything`; answer with
    /// [`handle_everything_settled`](super::Membership::handle_everything_settled). The text is part of its event id.
    Everything(Arc<str>),
    /// A late `everything` of this run has had receivers forget everybody, also whom others told them of: have every owner
    /// decide anew who is present; answer with [`handle_decided_anew`](super::Membership::handle_decided_anew).
    DecideAnew(Arc<str>),
    /// The fresh start is not this instance's any more: drop the `everything` that waits or runs, nobody hears of it.
    Abandon,
    /// Remove the documents of all sessions, but for those of these holders, who live; answer with
    /// [`handle_all_purged`](super::Membership::handle_all_purged).
    PurgeAll(Vec<InstanceId>),
    /// The partition is this instance's, with this fencing token: load it, then
    /// [`handle_partition_loaded`](super::Membership::handle_partition_loaded).
    Own(PartitionId, Sequence),
    /// It still is, with another fencing token: writes that an older one refused are written again.
    Adopt(PartitionId, Sequence),
    /// It is to be handed over: decide nothing more, let its running hooks end, write its checkpoint, then
    /// [`handle_surrendered`](super::Membership::handle_surrendered).
    Surrender(PartitionId),
    /// Its running hooks took too long: end them.
    CutHooks(PartitionId),
    /// It is this instance's no more.
    Lose(PartitionId),
    /// An instance was declared dead: its documents stop counting; grace counts from when it was last heard of.
    InstanceLost {
        /// Which.
        instance: InstanceId,
        /// When its last renewal was seen.
        heard: Tick,
    },
    /// Read all sessions of a dead instance; answer with [`handle_sessions`](super::Membership::handle_sessions).
    ReadSessions {
        /// Whose.
        instance: InstanceId,
        /// For which round of its cleanup.
        round: u32,
    },
    /// Run the hook `cleanup` of one plugin; answer with
    /// [`handle_cleanup_settled`](super::Membership::handle_cleanup_settled).
    Tell {
        /// The plugin's name.
        plugin: Arc<str>,
        /// What to tell.
        sweep: Sweep,
    },
    /// Remove the documents of a dead instance; answer with [`handle_purged`](super::Membership::handle_purged).
    Purge(InstanceId),
    /// A dead instance was cleaned up after; for the log.
    CleanedUp(InstanceId),
    /// Status hooks and cleanups may run until then.
    Permit(Tick),
    /// The boot is open and all wanted partitions are loaded.
    Ready,
    /// This instance was declared dead: give its sessions new ids, then
    /// [`handle_reborn`](super::Membership::handle_reborn).
    Reborn,
    /// The store was recreated: write every session document again.
    Wiped,
    /// Give up the own key.
    Leave {
        /// Its last sequence.
        last: Sequence,
        /// What stays in its place.
        record: InstanceRecord,
        /// And for how long.
        kept: Duration,
    },
    /// Something a person must hear; the host can't go on.
    Fail(MembershipError),
    /// `everything` took longer than `boot_timeout`: the boot opens all the same.
    BootTimedOut,
    /// Another live instance has this host's name; a person should hear of it.
    Namesake {
        /// Which.
        instance: InstanceId,
        /// The name.
        host: String,
    },
    /// Another instance runs other plugins; a person should hear of it.
    OtherPlugins {
        /// Which.
        instance: InstanceId,
        /// Its host's name.
        host: String,
    },
}

/// What keeps an instance from joining.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The deployment was created with another slicing.
    #[error(
        "the deployment has {} partitions with {} leaves, presence.toml says {} with {}: they are fixed when a \
         deployment is created, so set cluster.partitions to {}",
        found.partitions, found.leaves, wanted.partitions, wanted.leaves, found.partitions
    )]
    Layout {
        /// In the store.
        found: Layout,
        /// In presence.toml.
        wanted: Layout,
    },
    /// The deployment was created by a newer or older program.
    #[error(
        "the deployment's storage format is {found}, this program knows {FORMAT}: use the matching version"
    )]
    Format {
        /// In the store.
        found: u32,
    },
}

/// A write that was certainly not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// The condition did not hold; the key's last sequence is this, or 0 where it isn't known.
    Conflict(Sequence),
    /// Refused for another reason; may work later.
    Refused,
}

/// An instance, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// Its id.
    pub id: InstanceId,
    /// Its host's name.
    pub host: String,
    /// Where it stands in its life.
    pub state: InstanceState,
    /// Its lease has run out and nobody has judged it yet.
    pub suspect: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// How long ago it was last heard of.
    pub renewed_ago: Duration,
    /// How far the cleanup after it is.
    pub cleanup: Option<CleanupPhase>,
    /// True for the one that was asked.
    pub own: bool,
    /// Set if it is no host's, but a holder's.
    pub holder: Option<HolderRecord>,
}

/// A holder's incarnation that nobody has declared dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderView {
    /// The instance that it is.
    pub instance: InstanceId,
    /// Of its record, or of the marker that took its place.
    pub sequence: Sequence,
    /// As last heard of.
    pub record: InstanceRecord,
    /// Its lease has run out; it may still come back.
    pub suspect: bool,
    /// It belongs to another fresh start: it is over.
    pub outdated: bool,
    /// It has the name for certain. Of two registrations at once one gives way, so whose instance is seen may not be the one.
    pub confirmed: bool,
    /// The incarnation that has the name now.
    pub replaced: Option<Incarnation>,
}

/// Totals since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MembershipCounters {
    /// Renewals of the own lease that the watch has shown.
    pub renewals: u64,
    /// How often the own lease ran out.
    pub lapses: u64,
    /// Partitions claimed.
    pub claims: u64,
    /// Partitions handed over to another live instance.
    pub handovers: u64,
    /// Writes that a newer claim refused.
    pub fenced: u64,
    /// How often an instance became a suspect.
    pub suspected: u64,
    /// Suspects now.
    pub suspects: u64,
    /// Living instances that run other plugins than this one, now.
    pub other_plugins: u64,
    /// Attempts to declare an instance dead.
    pub judged: u64,
    /// Cleanups of dead instances that this one finished.
    pub cleaned: u64,
    /// Cleanups that it runs now.
    pub cleaning: u64,
    /// How often this host was declared dead and came back as another instance.
    pub rebirths: u64,
    /// Fresh starts declared.
    pub fresh_starts: u64,
    /// How often the store was found recreated.
    pub wipes: u64,
    /// Holders whose lease has not run out, now.
    pub holders: u64,
}
