//! Every present user's status decided once more: some receiver has forgotten everybody, and would drop the revisions that
//! it has heard before. It knows no receiver.

use std::collections::BTreeSet;

use super::{Decision, Tracker};
use crate::documents::StatusRecord;
use crate::events::Status;
use crate::time::Now;
use crate::users::Slot;

impl Tracker {
    /// Decides a new revision for every user who is not offline: the same status, of the same time, told without the one
    /// before it, as after a fresh start. Who is about to be told of a decision anyway is told of that one. Returns the point
    /// that [`Tracker::written`] is at or past once all of them are in the store.
    pub fn handle_anew(&mut self, now: Now) -> u64 {
        let slots: Vec<Slot> = self.users.slots().collect();
        let generation = self.config.generation;
        // Of a record that is only written again nobody is told.
        let under_way = self.in_flight.iter().chain(&self.decisions);
        let told: BTreeSet<Slot> =
            under_way.filter(|decision| !decision.repeat).map(|decision| decision.slot).collect();
        for slot in slots.into_iter().filter(|slot| !told.contains(slot)) {
            let Some(user) = self.users.get_mut(slot) else { continue };
            let Some(status) = user.known_status().filter(|status| *status != Status::Offline) else {
                continue;
            };
            let record = StatusRecord {
                status,
                since: user.since(),
                revision: now.wall.0.max(user.revision() + 1),
                last_seen: None,
                sessions: super::live(user.places.as_slice()),
                generation,
                previous: None,
                trail: user.trail(),
            };
            user.take(&record, generation);
            self.enqueue(Decision { slot, previous: None, record, repeat: false });
        }
        self.head + self.decisions.len() as u64
    }

    /// How far the decisions have come: every one below this point is in the store.
    pub fn written(&self) -> u64 {
        self.head - self.in_flight.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::documents::{SessionDocument, SessionEntry};
    use crate::events::{Attributes, Transition};
    use crate::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
    use crate::time::Timestamp;
    use crate::tracker::TrackerConfig;

    fn tracker() -> Tracker {
        let config = TrackerConfig {
            offline_grace: Duration::ZERO,
            offline_retention: Duration::from_secs(1000),
            max_users: 100,
            generation: 1,
            seed: 7,
        };
        let mut tracker = Tracker::new(PartitionId(0), Sequence(1), config);
        tracker.handle_loaded(Now::at(0));
        tracker
    }

    fn connect(tracker: &mut Tracker, now: u64, name: &str, status: Option<Status>) {
        let entry = |status| SessionEntry {
            id: SessionId::Hosted(1),
            status,
            connected_at: Timestamp(now),
            attributes: Attributes::default(),
            ended: None,
            listed: Default::default(),
        };
        let document =
            status.map(|status| SessionDocument { sessions: vec![entry(status)], drained_until: None });
        tracker.handle_document(Now::at(now), &UserId::new(name).unwrap(), InstanceId(1), document.as_ref());
    }

    /// Acknowledges the next write; tells its transitions.
    fn write(tracker: &mut Tracker) -> Vec<Transition> {
        let batch = tracker.poll_write().map_or(0, |batch| batch.records.len() as u64);
        tracker.handle_written(&(1..=batch).map(Sequence).collect::<Vec<_>>());
        std::iter::from_fn(|| tracker.poll_transition()).collect()
    }

    #[test]
    fn who_is_not_offline_gets_a_new_revision_and_nothing_else_changes() {
        let mut tracker = tracker();
        connect(&mut tracker, 1000, "online", Some(Status::Online));
        connect(&mut tracker, 1000, "idle", Some(Status::Idle));
        connect(&mut tracker, 1000, "gone", Some(Status::Online));
        connect(&mut tracker, 1001, "gone", None);
        assert_eq!(write(&mut tracker).len(), 4);
        let (counts, written) = (tracker.counts(), tracker.written());

        // A clock that stands still: revisions grow all the same.
        let target = tracker.handle_anew(Now::at(1000));
        assert_eq!(target, written + 2);
        assert!(tracker.written() < target);
        let told: Vec<_> = write(&mut tracker)
            .into_iter()
            .map(|told| {
                (told.user.as_str().to_owned(), told.current, told.previous, told.revision, told.since.0)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("online".to_owned(), Status::Online, None, 1001, 1000),
                ("idle".to_owned(), Status::Idle, None, 1001, 1000)
            ]
        );
        assert_eq!((tracker.counts(), tracker.written()), (counts, target));
    }

    #[test]
    fn who_has_only_a_record_to_be_written_again_is_told() {
        for in_flight in [false, true] {
            let mut tracker = tracker();
            connect(&mut tracker, 1000, "alice", Some(Status::Online));
            assert_eq!(write(&mut tracker).len(), 1);
            // The store was recreated and has nothing of her.
            tracker.handle_restore(Sequence(2));
            connect(&mut tracker, 1000, "alice", Some(Status::Online));
            tracker.handle_loaded(Now::at(1500));
            if in_flight {
                assert!(tracker.poll_write().is_some());
            }
            let target = tracker.handle_anew(Now::at(2000));
            if in_flight {
                tracker.handle_written(&[Sequence(1)]);
                assert!(tracker.poll_transition().is_none(), "that is no news");
                assert!(tracker.written() < target);
            }
            let told: Vec<_> = std::iter::from_fn(|| {
                let told = write(&mut tracker);
                (!told.is_empty()).then_some(told)
            })
            .flatten()
            .collect();
            let told: Vec<_> = told.iter().map(|told| (told.current, told.revision)).collect();
            assert_eq!(told, [(Status::Online, 2000)], "in flight: {in_flight}");
            assert!(tracker.written() >= target);
        }
    }

    #[test]
    fn who_has_a_decision_waiting_is_told_of_that_one_alone() {
        let mut tracker = tracker();
        connect(&mut tracker, 1000, "alice", Some(Status::Online));
        let target = tracker.handle_anew(Now::at(2000));
        assert!(tracker.poll_write().is_some());
        assert!(tracker.written() < target, "in flight");
        tracker.handle_written(&[]);
        assert!(tracker.written() < target, "certainly not written");
        let told = write(&mut tracker);
        assert_eq!((told.len(), told[0].revision), (1, 1000));
        assert!(tracker.written() >= target);
    }
}
