//! What a membership is told and what it wants done. It decides nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::documents::{Document, Expect, Key, Layout};
use crate::ids::{InstanceId, PartitionId, Sequence};

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
}

/// What a membership wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipEffect {
    /// Take a snapshot of the instances at or after this point and follow them from there; answer with
    /// [`Membership::handle_loaded`], then [`Membership::handle_update`].
    Load(Sequence),
    /// Write; answer with [`Membership::handle_written`]. An unclear answer is asked again first.
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
    /// Read `o.<p>`; answer with [`Membership::handle_owner`].
    ReadOwner(PartitionId),
    /// Run the hook `cleanup` with `everything`; answer with [`Membership::handle_everything_settled`]. The text is
    /// part of its event id.
    Everything(Arc<str>),
    /// The partition is this instance's, with this fencing token: load it, then
    /// [`Membership::handle_partition_loaded`].
    Own(PartitionId, Sequence),
    /// The boot is open and all wanted partitions are loaded.
    Ready,
    /// Remove the own key: the instance has left.
    Leave(Sequence),
    /// Something a person must hear; the host can't go on.
    Fail(MembershipError),
    /// `everything` took longer than `boot_timeout`: the boot opens all the same.
    BootTimedOut,
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
