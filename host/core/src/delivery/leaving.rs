//! Events that are no longer this host's to tell: those of a partition that goes to another instance, and those of an
//! instance that was declared dead. They are dropped without a settlement, but for replays, whose dead letters somebody
//! holds; what runs ends by itself and is not repeated.

use super::lanes::State;
use super::{Cleanup, Delivery, JobId, Payload, Settlement};
use crate::ids::{InstanceId, PartitionId};

impl Delivery {
    /// The partition goes to another instance, who repeats what was not settled here: its waiting transitions are
    /// dropped. Returns how many of its calls still run: they end, are settled or dropped, and are not repeated.
    /// Transitions that come later are taken as ever, also while those calls run. Looks at every lane.
    pub fn handle_withdraw(&mut self, partition: PartitionId) -> usize {
        let lanes = self.lanes.select(|lane| lane.partition == Some(partition));
        let dropped = self.clear(&lanes);
        self.counters.withdrawn += dropped as u64;
        self.withdrawn_jobs(partition).count()
    }

    /// The calls that a withdrawal of the partition found running and that have not ended.
    pub fn withdrawn_jobs(&self, partition: PartitionId) -> impl Iterator<Item = JobId> {
        let withdrawn = move |lane: &u32| {
            let lane = self.lanes.get(*lane);
            lane.leaving && lane.partition == Some(partition)
        };
        self.running.iter().filter(move |one| one.lane.as_ref().is_some_and(withdrawn)).map(|one| one.job)
    }

    /// The instance was declared dead, and another host cleans up after it: its sessions' waiting events are dropped.
    /// Returns how many. Calls that run end, are settled or dropped, and are not repeated. Looks at every lane.
    pub fn handle_drop_sessions(&mut self, instance: InstanceId) -> usize {
        let lanes = self.lanes.select(|lane| match &lane.head.payload {
            Payload::Session(event) => event.session.instance == instance,
            _ => false,
        });
        let dropped = self.clear(&lanes);
        self.counters.dropped += dropped as u64;
        dropped
    }

    /// The fresh start is no longer this host's: every `everything` that waits is dropped. Returns how many. A call that
    /// runs ends, is settled or dropped, and is not repeated.
    pub fn handle_abandon_everything(&mut self) -> usize {
        let mut runs = self.cleaning;
        // A replay is nobody's fresh start.
        let goes = |cleanup: &Cleanup| cleanup.is_everything() && cleanup.item.letter.is_none();
        let mut gone = Vec::new();
        self.cleanups.retain(|cleanup| {
            let stays = std::mem::take(&mut runs) || !goes(cleanup);
            gone.extend((!stays).then_some(cleanup.item.since));
            stays
        });
        let dropped = gone.len();
        gone.into_iter().for_each(|since| self.leave(since));
        self.abandoned = self.cleaning && self.cleanups.front().is_some_and(goes);
        self.barriers = self.cleanups.iter().filter(|cleanup| cleanup.is_everything()).count();
        self.counters.dropped += dropped as u64;
        dropped
    }

    /// The call of an `everything` that was abandoned while it ran.
    pub fn abandoned_job(&self) -> Option<JobId> {
        self.running.iter().find(|one| self.abandoned && one.lane.is_none()).map(|one| one.job)
    }

    /// Drops what waits in these lanes; returns how much that was.
    fn clear(&mut self, lanes: &[u32]) -> usize {
        let mut dropped = 0;
        for &slot in lanes {
            let lane = self.lanes.get_mut(slot);
            let mut gone = std::mem::take(&mut lane.rest);
            if lane.state == State::Running {
                lane.leaving = true;
            } else {
                // A lane that is removed is found by its head.
                gone.push_front(self.lanes.remove(slot));
            }
            dropped += gone.len();
            for item in gone {
                self.leave(item.since);
                if item.letter.is_some() {
                    self.settle(item, Settlement::Withdrawn);
                }
            }
        }
        self.forget_unused_lanes();
        dropped
    }

    /// Nothing points to lanes that were removed without their turn.
    pub(super) fn forget_unused_lanes(&mut self) {
        let lanes = &self.lanes;
        self.ready.retain(|slot| lanes.is_used(*slot));
        self.withheld.retain(|slot| lanes.is_used(*slot));
        self.pauses.retain(|(_, slot)| lanes.is_used(*slot));
    }

    /// A cleanup that was abandoned while it ran has ended without a settlement.
    pub(super) fn drop_cleanup(&mut self) {
        if let Some(cleanup) = self.cleanups.pop_front() {
            self.leave(cleanup.item.since);
            self.barriers -= 1;
            self.counters.dropped += 1;
        }
    }

    /// A call that left has ended without a settlement.
    pub(super) fn drop_head(&mut self, lane: u32) {
        let item = self.take_head(lane);
        match item.payload {
            Payload::Status(_) | Payload::Tick(_) => self.counters.withdrawn += 1,
            _ => self.counters.dropped += 1,
        }
        if item.letter.is_some() {
            self.settle(item, Settlement::Withdrawn);
        }
    }
}
