//! How many users and sessions there are: each owner counts its partitions as it goes; whoever is asked adds them up. Nothing is
//! read for it, and no user is looked at.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, StreamExt, stream};
use presence_core::ids::{InstanceId, PartitionId};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::engine::Driver;
use super::io::Completion;
use super::letters::Asked;

/// So many owners are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// What an owner counts in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartitionCounts {
    partition: PartitionId,
    /// Online, idle, offline.
    users: [u64; 3],
    /// Online, idle.
    sessions: [u64; 2],
}

/// What all owners count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeploymentCounts {
    /// How many partitions there are.
    pub partitions: u16,
    /// How many were counted.
    pub counted: u16,
    /// Online, idle, offline.
    pub users: [u64; 3],
    /// Online, idle; drained ones are left out.
    pub sessions: [u64; 2],
}

impl DeploymentCounts {
    /// Each partition once, whoever else says that it owns it too.
    fn of(partitions: u16, found: impl IntoIterator<Item = PartitionCounts>) -> DeploymentCounts {
        let by_partition: BTreeMap<PartitionId, PartitionCounts> =
            found.into_iter().map(|counts| (counts.partition, counts)).collect();
        let mut all = DeploymentCounts { partitions, ..DeploymentCounts::default() };
        for counts in by_partition.into_values().filter(|counts| counts.partition.0 < partitions) {
            all.counted += 1;
            all.users.iter_mut().zip(counts.users).for_each(|(sum, count)| *sum += count);
            all.sessions.iter_mut().zip(counts.sessions).for_each(|(sum, count)| *sum += count);
        }
        all
    }
}

impl Driver {
    /// The partitions that this host owns and has read.
    pub(super) fn own_counts(&self) -> Vec<PartitionCounts> {
        let loaded = self.partitions.iter().filter(|(_, partition)| partition.loaded.is_some());
        loaded
            .map(|(id, partition)| PartitionCounts {
                partition: *id,
                users: partition.tracker.counts(),
                sessions: partition.tracker.sessions(),
            })
            .collect()
    }

    /// Asks all other owners.
    pub(super) fn count_all(&mut self, answer: oneshot::Sender<DeploymentCounts>) {
        let mut found = self.own_counts();
        let own = self.membership.instance();
        let owners: BTreeSet<InstanceId> =
            self.membership.owners().filter_map(|(_, owner)| owner).filter(|owner| *owner != own).collect();
        let (store, partitions) = (self.store.clone(), self.config.layout.partitions);
        let operation = async move {
            let asking = owners.into_iter().map(|instance| store.ask(Asked::Counts { instance }.question()));
            let mut answers = stream::iter(asking).buffer_unordered(ASKED_AT_ONCE);
            while let Some(told) = answers.next().await {
                // Who does not answer is missing from what is counted.
                let told =
                    told.ok().and_then(|told| serde_json::from_slice::<Vec<PartitionCounts>>(&told).ok());
                found.extend(told.into_iter().flatten());
            }
            // Whoever asked may have gone away.
            let _ = answer.send(DeploymentCounts::of(partitions, found));
            Completion::Nothing
        };
        self.start(operation.boxed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_on_its_way_between_owners_is_counted_once() {
        let counts = |partition, online| PartitionCounts {
            partition: PartitionId(partition),
            users: [online, 1, 2],
            sessions: [online + 1, 1],
        };
        let all = DeploymentCounts::of(4, [counts(0, 5), counts(2, 7), counts(0, 6), counts(9, 1)]);
        let expected = DeploymentCounts { partitions: 4, counted: 2, users: [13, 2, 4], sessions: [15, 2] };
        assert_eq!(all, expected);
    }
}
