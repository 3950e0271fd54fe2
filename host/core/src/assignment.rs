//! Which instance should own which partition. Every host computes the same from the same list.
//!
//! Rendezvous hashing: Thaler & Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.

use crate::ids::{InstanceId, PartitionId, stable_hash};

/// Who should own a partition: the instance with the highest hash of (partition, instance), so that a joining or
/// leaving instance moves only its own share. Every host computes the same. None if there is no candidate.
pub fn desired_owner(partition: PartitionId, candidates: &[InstanceId]) -> Option<InstanceId> {
    let weight = |instance: &InstanceId| {
        let mut bytes = [0; 18];
        bytes[..2].copy_from_slice(&partition.0.to_le_bytes());
        bytes[2..].copy_from_slice(&instance.0.to_le_bytes());
        (stable_hash(&bytes), *instance)
    };
    candidates.iter().copied().max_by_key(weight)
}

/// Who should clean up after a dead instance: the same idea, over the instance's id.
pub fn desired_cleaner(dead: InstanceId, candidates: &[InstanceId]) -> Option<InstanceId> {
    let weight = |instance: &InstanceId| {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&dead.0.to_le_bytes());
        bytes[16..].copy_from_slice(&instance.0.to_le_bytes());
        (stable_hash(&bytes), *instance)
    };
    candidates.iter().copied().max_by_key(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joining_instance_moves_only_its_own_share() {
        let before: Vec<InstanceId> = (1..=3).map(|id| InstanceId(id << 64)).collect();
        let mut after = before.clone();
        after.push(InstanceId(4 << 64));
        let mut moved = 0;
        for partition in (0..1024).map(PartitionId) {
            let (old, new) = (desired_owner(partition, &before), desired_owner(partition, &after));
            if old != new {
                assert_eq!(new, after.last().copied());
                moved += 1;
            }
        }
        assert!((170..340).contains(&moved), "a quarter of 1024 is 256, moved: {moved}");
        assert_eq!(desired_owner(PartitionId(0), &[]), None);
    }
}
