//! Whole effects of handing over, of a store that lost what it had acknowledged, and of drained users' leftovers.

use super::tests::{HERE, THERE, alice, changes, config, document, settle, tracker};
use super::*;

/// Alice is online and everybody knows.
fn online(sequence: &mut u64) -> Tracker {
    let mut tracker = tracker(config());
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    assert_eq!(changes(&settle(&mut tracker, sequence)), [(None, Status::Online)]);
    tracker
}

#[test]
fn a_recreated_store_gets_every_record_again_and_nobody_is_told_again() {
    let mut sequence = 10;
    let mut tracker = online(&mut sequence);
    let record = tracker.known(&alice()).unwrap().record;
    tracker.handle_restore(Sequence(2));
    tracker.handle_loaded(Now::at(1500));
    let batch =
        StatusBatch { partition: PartitionId(3), claim: Sequence(2), records: vec![(alice(), record)] };
    assert_eq!(tracker.poll_write(), Some(batch));
    tracker.handle_written(&[Sequence(3)]);
    assert_eq!(tracker.poll_transition(), None);
    assert!(tracker.is_settled());
}

#[test]
fn what_was_on_its_way_to_a_store_that_was_recreated_is_written_to_the_new_one() {
    let mut tracker = tracker(config());
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    assert!(tracker.poll_write().is_some());
    tracker.handle_restore(Sequence(2));
    let mut sequence = 2;
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(None, Status::Online)]);
    assert_eq!(sequence, 3, "once");
}

#[test]
fn what_another_owner_has_decided_in_a_recreated_store_is_neither_overwritten_nor_followed_by_older_news() {
    let mut sequence = 10;
    for waiting in [false, true] {
        let mut tracker = online(&mut sequence);
        let record = tracker.known(&alice()).unwrap().record;
        if waiting {
            tracker.handle_document(Now::at(1500), &alice(), HERE, Some(&document(&[Status::Idle], None)));
            assert!(tracker.poll_write().is_some(), "it goes to the store that is gone");
        }
        tracker.handle_restore(Sequence(2));
        let newer = StatusRecord { status: Status::Offline, revision: 5000, sessions: 0, ..record };
        assert!(tracker.handle_record(&alice(), &newer));
        assert!(!tracker.handle_record(&alice(), &record), "it is older");
        tracker.handle_document(Now::at(5001), &alice(), HERE, Some(&document(&[Status::Online], None)));
        tracker.handle_loaded(Now::at(5001));
        let mut written = Vec::new();
        while let Some(batch) = tracker.poll_write() {
            written.extend(batch.records.iter().map(|(_, record)| record.revision));
            let sequences: Vec<Sequence> = (0..batch.records.len() as u64).map(Sequence).collect();
            tracker.handle_written(&sequences);
        }
        assert!(written.iter().all(|revision| *revision >= 5000), "{written:?}");
        let told: Vec<Transition> = std::iter::from_fn(|| tracker.poll_transition()).collect();
        assert!(told.iter().all(|transition| transition.revision > 5000), "{told:?}");
        assert_eq!(told.last().map(|transition| transition.current), Some(Status::Online));
    }
}

#[test]
fn a_record_that_a_new_snapshot_lacks_is_written_again() {
    let mut sequence = 10;
    let mut tracker = online(&mut sequence);
    let record = tracker.known(&alice()).unwrap().record;
    for has in [true, false] {
        tracker.handle_reload();
        if has {
            tracker.handle_record(&alice(), &record);
        }
        tracker.handle_document(Now::at(2000), &alice(), HERE, Some(&document(&[Status::Online], None)));
        tracker.handle_loaded(Now::at(2000));
        let again = tracker.poll_write().map(|batch| batch.records);
        assert_eq!(again, (!has).then(|| vec![(alice(), record)]));
    }
}

#[test]
fn a_decision_that_meets_a_repeat_is_told() {
    let mut sequence = 10;
    let mut tracker = online(&mut sequence);
    tracker.handle_restore(Sequence(2));
    tracker.handle_document(Now::at(2000), &alice(), HERE, Some(&document(&[Status::Idle], None)));
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(Some(Status::Online), Status::Idle)]);
}

#[test]
fn a_partition_that_is_handed_over_decides_nothing_more() {
    let mut sequence = 10;
    let mut tracker = online(&mut sequence);
    tracker.handle_document(Now::at(2000), &alice(), HERE, Some(&document(&[Status::Idle], None)));
    assert!(tracker.poll_write().is_some());
    assert!(tracker.is_writing());
    tracker.handle_surrender();
    tracker.handle_document(Now::at(2001), &alice(), HERE, None);
    assert_eq!(tracker.poll_timeout(), None);
    tracker.handle_timeout(Now::at(60_000));
    tracker.handle_written(&[Sequence(11)]);
    assert!(!tracker.is_writing());
    assert_eq!(tracker.poll_write(), None);
    assert_eq!(tracker.poll_transition().map(|transition| transition.current), Some(Status::Idle));
}

#[test]
fn another_token_fences_what_is_written_from_now_on() {
    let mut tracker = tracker(config());
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    tracker.handle_adopted(Sequence(12));
    assert_eq!(tracker.poll_write().map(|batch| batch.claim), Some(Sequence(12)));
    tracker.handle_adopted(Sequence(11));
    assert_eq!(tracker.claim(), Sequence(12), "an older one never comes back");
}

#[test]
fn a_drained_users_document_is_a_leftover_once_the_time_is_over() {
    let mut sequence = 10;
    let mut tracker = online(&mut sequence);
    let drained = SessionDocument { sessions: vec![], drained_until: Some(Timestamp(31_000)) };
    tracker.handle_document(Now::at(1500), &alice(), HERE, Some(&drained));
    tracker.handle_document(Now::at(2000), &alice(), THERE, Some(&document(&[Status::Online], None)));
    assert_eq!(settle(&mut tracker, &mut sequence), [], "held, then back");
    tracker.handle_timeout(Now::at(30_000));
    assert_eq!(tracker.poll_leftover(), None);
    tracker.handle_timeout(Now::at(31_000));
    assert_eq!(tracker.poll_leftover(), Some((alice(), HERE)));
    assert_eq!(settle(&mut tracker, &mut sequence), []);
}

#[test]
fn the_sessions_of_a_lost_instance_are_over_and_grace_counts_from_when_it_was_last_heard_of() {
    let mut sequence = 10;
    let mut tracker = online(&mut sequence);
    tracker.handle_instance_lost(Now::at(8000), HERE, Tick(2000));
    tracker.handle_timeout(Now::at(8000));
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(Some(Status::Online), Status::Offline)]);
}
