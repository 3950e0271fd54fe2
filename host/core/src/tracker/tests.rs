//! Whole effects of the tracker, and its invariants against a naive model.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::documents::{Ended, Past, SessionEntry, Trail};
use crate::events::Attributes;
use crate::ids::SessionId;

const GRACE: u64 = 5_000;
pub(super) const HERE: InstanceId = InstanceId(1);
pub(super) const THERE: InstanceId = InstanceId(2);

pub(super) fn config() -> TrackerConfig {
    TrackerConfig {
        offline_grace: Duration::from_millis(GRACE),
        offline_retention: Duration::from_secs(3600),
        max_users: 1000,
        generation: 1,
        seed: 7,
    }
}

pub(super) fn tracker(config: TrackerConfig) -> Tracker {
    Tracker::new(PartitionId(3), Sequence(9), config)
}

pub(super) fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

pub(super) fn document(statuses: &[Status], ended_at: Option<u64>) -> SessionDocument {
    let entry = |(at, status): (usize, &Status)| SessionEntry {
        id: SessionId::Hosted(at as u128),
        status: *status,
        connected_at: Timestamp(1),
        attributes: Attributes::default(),
        ended: None,
        listed: Default::default(),
    };
    let mut sessions: Vec<SessionEntry> = statuses.iter().enumerate().map(entry).collect();
    if let Some(at) = ended_at {
        let mut ended = entry((99, &Status::Online));
        ended.ended = Some(Ended { at: Timestamp(at), reason: "closed".into() });
        sessions.push(ended);
    }
    SessionDocument { sessions, drained_until: None }
}

/// Acknowledges everything and returns the transitions as (user, previous, current, revision, last seen).
pub(super) fn settle(tracker: &mut Tracker, sequence: &mut u64) -> Vec<Transition> {
    while let Some(batch) = tracker.poll_write() {
        let sequences: Vec<Sequence> = batch
            .records
            .iter()
            .map(|_| {
                *sequence += 1;
                Sequence(*sequence)
            })
            .collect();
        tracker.handle_written(&sequences);
    }
    std::iter::from_fn(|| tracker.poll_transition()).collect()
}

pub(super) fn changes(transitions: &[Transition]) -> Vec<(Option<Status>, Status)> {
    transitions.iter().map(|transition| (transition.previous, transition.current)).collect()
}

#[test]
fn nothing_is_told_before_the_record_is_acknowledged() {
    let mut tracker = tracker(config());
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    let record = StatusRecord {
        status: Status::Online,
        since: Timestamp(1000),
        revision: 1000,
        last_seen: None,
        sessions: 1,
        generation: 1,
        previous: None,
        trail: Trail { reason: Reason::Connected, ..Trail::default() },
    };
    let batch =
        StatusBatch { partition: PartitionId(3), claim: Sequence(9), records: vec![(alice(), record)] };
    assert_eq!(tracker.poll_write(), Some(batch));
    assert_eq!(tracker.poll_transition(), None);
    tracker.handle_written(&[Sequence(10)]);
    let told = Transition {
        user: alice(),
        previous: None,
        current: Status::Online,
        since: Timestamp(1000),
        revision: 1000,
        sessions: 1,
        last_seen: None,
        partition: PartitionId(3),
        sequence: Sequence(10),
    };
    assert_eq!(tracker.poll_transition(), Some(told));
    assert_eq!(tracker.poll_transition(), None);
    assert!(tracker.is_settled());
}

/// What the record of alice says of the past, the newest first: the present status and reason, then earlier ones.
fn trail(tracker: &Tracker) -> Vec<(Status, u64, Reason)> {
    let record = tracker.known(&alice()).unwrap().record;
    let past = record.trail.past.moments().map(|one| (one.status, one.since.0, one.reason));
    std::iter::once((record.status, record.since.0, record.trail.reason)).chain(past).collect()
}

#[test]
fn a_record_tells_why_and_what_was_before() {
    use Status::{Idle, Offline, Online};
    let mut tracker = tracker(TrackerConfig { offline_grace: Duration::ZERO, ..config() });
    let mut heard = |at, instance, statuses: &[Status], ended| {
        let document = document(statuses, ended);
        tracker.handle_document(Now::at(at), &alice(), instance, Some(&document));
        trail(&tracker)
    };
    assert_eq!(heard(1, HERE, &[Online], None), [(Online, 1, Reason::Connected)]);
    assert_eq!(heard(2, HERE, &[Idle], None)[0], (Idle, 2, Reason::Idle));
    assert_eq!(heard(3, HERE, &[Online], None)[0], (Online, 3, Reason::Active));
    assert_eq!(heard(4, THERE, &[Idle], None)[0], (Online, 3, Reason::Active), "no transition");
    assert_eq!(heard(5, HERE, &[], Some(5))[0], (Idle, 5, Reason::Closed));
    assert_eq!(heard(6, HERE, &[Online], None)[0], (Online, 6, Reason::Connected));
    tracker.handle_instance_lost(Now::at(7), HERE, Tick(7));
    tracker.handle_instance_lost(Now::at(8), THERE, Tick(8));
    let expected = [
        (Offline, 8, Reason::InstanceLost),
        (Idle, 7, Reason::InstanceLost),
        (Online, 6, Reason::Connected),
        (Idle, 5, Reason::Closed),
        (Online, 3, Reason::Active),
    ];
    assert_eq!(trail(&tracker), expected);
    assert_eq!(expected.len(), 1 + Past::MOST);
    // Whoever owns the partition next goes on from there; the same status once more is no moment of its own.
    let record = tracker.known(&alice()).unwrap().record;
    let mut next = self::tracker(config());
    next.handle_record(&alice(), &record);
    assert_eq!(trail(&next), expected);
    next.handle_anew(Now::at(9));
    assert_eq!(trail(&next), expected);
}

#[test]
fn one_write_is_in_flight_and_what_was_not_written_is_asked_for_again() {
    let mut tracker = tracker(config());
    let bob = UserId::new("bob").unwrap();
    tracker.handle_document(Now::at(1), &alice(), HERE, Some(&document(&[Status::Online], None)));
    tracker.handle_document(Now::at(1), &bob, HERE, Some(&document(&[Status::Idle], None)));
    let first = tracker.poll_write().unwrap();
    assert_eq!(first.records.len(), 2);
    tracker.handle_document(Now::at(2), &alice(), HERE, Some(&document(&[Status::Idle], None)));
    assert_eq!(tracker.poll_write(), None);
    tracker.handle_written(&[Sequence(10)]);
    let second = tracker.poll_write().unwrap();
    let users: Vec<_> = second.records.iter().map(|(user, record)| (user.as_str(), record.status)).collect();
    assert_eq!(users, [("bob", Status::Idle), ("alice", Status::Idle)]);
    tracker.handle_written(&[Sequence(11), Sequence(12)]);
    let told: Vec<Transition> = std::iter::from_fn(|| tracker.poll_transition()).collect();
    assert_eq!(
        changes(&told),
        [(None, Status::Online), (None, Status::Idle), (Some(Status::Online), Status::Idle)]
    );
}

#[test]
fn a_reload_within_the_grace_is_no_transition() {
    let mut tracker = tracker(config());
    let mut sequence = 10;
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(None, Status::Online)]);
    tracker.handle_document(Now::at(2000), &alice(), HERE, None);
    assert_eq!(tracker.poll_timeout(), Some(Tick(2000 + GRACE)));
    tracker.handle_document(Now::at(6000), &alice(), THERE, Some(&document(&[Status::Online], None)));
    tracker.handle_timeout(Now::at(20_000));
    assert_eq!(settle(&mut tracker, &mut sequence), []);
    assert_eq!(tracker.poll_timeout(), None);
}

#[test]
fn offline_tells_when_the_last_session_ended() {
    let mut tracker = tracker(config());
    let mut sequence = 10;
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    settle(&mut tracker, &mut sequence);
    tracker.handle_document(Now::at(2000), &alice(), HERE, Some(&document(&[], Some(1990))));
    tracker.handle_document(Now::at(2500), &alice(), HERE, None);
    tracker.handle_timeout(Now::at(2000 + GRACE - 1));
    assert_eq!(settle(&mut tracker, &mut sequence), []);
    tracker.handle_timeout(Now::at(2000 + GRACE));
    let told = settle(&mut tracker, &mut sequence);
    assert_eq!(changes(&told), [(Some(Status::Online), Status::Offline)]);
    assert_eq!(told[0].last_seen, Some(Timestamp(1990)));
    assert_eq!(told[0].sessions, 0);
    assert_eq!(tracker.known(&alice()).map(|known| known.sessions), Some(0));
}

#[test]
fn a_drained_user_counts_as_present_until_the_document_says() {
    let mut tracker = tracker(config());
    let mut sequence = 10;
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Idle], None)));
    settle(&mut tracker, &mut sequence);
    let mut drained = document(&[], Some(2000));
    drained.drained_until = Some(Timestamp(32_000));
    tracker.handle_document(Now::at(2000), &alice(), HERE, Some(&drained));
    assert_eq!(tracker.poll_timeout(), Some(Tick(32_000)));
    tracker.handle_timeout(Now::at(31_999));
    assert_eq!(settle(&mut tracker, &mut sequence), []);
    tracker.handle_timeout(Now::at(32_000));
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(Some(Status::Idle), Status::Offline)]);
}

#[test]
fn the_last_host_to_leave_holds_nobody_back() {
    let mut tracker = tracker(config());
    let mut sequence = 10;
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    settle(&mut tracker, &mut sequence);
    tracker.handle_document(Now::at(2000), &alice(), HERE, None);
    tracker.handle_last_leave(Now::at(2001));
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(Some(Status::Online), Status::Offline)]);
    tracker.handle_timeout(Now::at(20_000));
    assert_eq!(settle(&mut tracker, &mut sequence), []);
    assert_eq!(tracker.poll_timeout(), None);
}

#[test]
fn a_record_of_an_older_generation_is_unknown() {
    let mut tracker = tracker(TrackerConfig { generation: 2, ..config() });
    let mut sequence = 10;
    let old = |status, revision| StatusRecord {
        status,
        since: Timestamp(5),
        revision,
        last_seen: None,
        sessions: 1,
        generation: 1,
        previous: None,
        trail: Trail::default(),
    };
    let bob = UserId::new("bob").unwrap();
    let carol = UserId::new("carol").unwrap();
    tracker.handle_record(&alice(), &old(Status::Online, 5_000_000));
    tracker.handle_record(&bob, &old(Status::Offline, 7));
    tracker.handle_record(&carol, &old(Status::Idle, 8));
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Online], None)));
    tracker.handle_loaded(Now::at(1000));
    tracker.handle_timeout(Now::at(1000 + GRACE));
    let told = settle(&mut tracker, &mut sequence);
    let told: Vec<_> =
        told.iter().map(|told| (told.user.as_str(), told.previous, told.current, told.revision)).collect();
    assert_eq!(
        told,
        [("alice", None, Status::Online, 5_000_001), ("carol", None, Status::Offline, 1000 + GRACE)]
    );
}

#[test]
fn a_dead_instances_documents_stop_counting_and_grace_runs_from_its_last_renewal() {
    let mut tracker = tracker(config());
    let mut sequence = 10;
    let bob = UserId::new("bob").unwrap();
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Idle], None)));
    tracker.handle_document(Now::at(1000), &alice(), THERE, Some(&document(&[Status::Online], None)));
    tracker.handle_document(Now::at(1000), &bob, THERE, Some(&document(&[Status::Online], None)));
    settle(&mut tracker, &mut sequence);
    tracker.handle_instance_lost(Now::at(9000), THERE, Tick(6000));
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(Some(Status::Online), Status::Idle)]);
    assert_eq!(tracker.poll_timeout(), Some(Tick(6000 + GRACE)));
}

#[test]
fn after_missed_updates_a_new_snapshot_says_which_documents_are_gone() {
    let mut tracker = tracker(config());
    let mut sequence = 10;
    let bob = UserId::new("bob").unwrap();
    tracker.handle_document(Now::at(1000), &alice(), HERE, Some(&document(&[Status::Idle], None)));
    tracker.handle_document(Now::at(1000), &alice(), THERE, Some(&document(&[Status::Online], None)));
    tracker.handle_document(Now::at(1000), &bob, THERE, Some(&document(&[Status::Online], None)));
    settle(&mut tracker, &mut sequence);
    tracker.handle_reload();
    tracker.handle_document(Now::at(2000), &alice(), HERE, Some(&document(&[Status::Idle], None)));
    assert_eq!(settle(&mut tracker, &mut sequence), []);
    tracker.handle_loaded(Now::at(2000));
    assert_eq!(changes(&settle(&mut tracker, &mut sequence)), [(Some(Status::Online), Status::Idle)]);
    assert_eq!(tracker.poll_timeout(), Some(Tick(2000 + GRACE)));
    tracker.handle_timeout(Now::at(2000 + GRACE));
    let told = settle(&mut tracker, &mut sequence);
    assert_eq!(told.iter().map(|told| told.user.as_str()).collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn the_longest_offline_and_settled_are_forgotten_first() {
    let limits = TrackerConfig { max_users: 1, offline_grace: Duration::ZERO, ..config() };
    let mut tracker = tracker(limits);
    let mut sequence = 10;
    let names: Vec<UserId> = ["a", "b", "c"].iter().map(|name| UserId::new(name).unwrap()).collect();
    for (at, name) in names.iter().enumerate() {
        let now = Now::at(1000 + at as u64);
        tracker.handle_document(now, name, HERE, Some(&document(&[Status::Online], None)));
        tracker.handle_document(now, name, HERE, None);
    }
    settle(&mut tracker, &mut sequence);
    assert_eq!(tracker.counts(), [0, 0, 3]);
    let unsettled = |user: &UserId| user.as_str() != "a";
    assert_eq!(tracker.poll_forgotten(Now::at(2000), unsettled), Some(names[1].clone()));
    assert_eq!(tracker.poll_forgotten(Now::at(2000), |_| true), Some(names[0].clone()));
    assert_eq!(tracker.poll_forgotten(Now::at(2000), |_| true), None);
    assert_eq!(tracker.poll_forgotten(Now::at(1002 + 3_600_000), |_| true), Some(names[2].clone()));
    assert_eq!(tracker.counts(), [0, 0, 0]);
}

#[test]
fn i8_a_store_that_does_not_answer_keeps_one_decision_a_user_beyond_the_eager_ones() {
    let mut tracker = tracker(config());
    let users: Vec<UserId> =
        (0..EAGER_DECISIONS + 10).map(|at| UserId::new(&format!("user-{at}")).unwrap()).collect();
    for round in 0..50_u64 {
        let status = if round % 2 == 0 { Status::Online } else { Status::Idle };
        for user in &users {
            tracker.handle_document(Now::at(1000 + round), user, HERE, Some(&document(&[status], None)));
        }
    }
    assert!(tracker.decisions.len() <= EAGER_DECISIONS + users.len());
    let mut sequence = 10;
    let told = settle(&mut tracker, &mut sequence);
    let last: BTreeMap<_, _> = told.iter().map(|told| (told.user.clone(), told.current)).collect();
    assert_eq!(last.len(), users.len());
    assert!(last.values().all(|status| *status == Status::Idle));
    assert!(tracker.coalesced() > 0);
}

/// What can happen to one of a few users on one of two instances.
#[derive(Clone, Debug)]
enum Step {
    Document { user: usize, there: bool, online: u8, idle: u8 },
    Gone { user: usize, there: bool },
    Pass { millis: u64 },
    Acknowledge { count: usize },
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_usize, any::<bool>(), 0..3_u8, 0..3_u8)
            .prop_map(|(user, there, online, idle)| Step::Document { user, there, online, idle }),
        3 => (0..4_usize, any::<bool>()).prop_map(|(user, there)| Step::Gone { user, there }),
        3 => (0..7_000_u64).prop_map(|millis| Step::Pass { millis }),
        2 => (0..4_usize).prop_map(|count| Step::Acknowledge { count }),
        1 => Just(Step::Lost),
    ]
}

proptest! {
    /// I1: at rest, a user's status equals the function of the live sessions. I2: for one user the revisions told
    /// grow and each transition starts where the one before ended.
    #[test]
    fn i1_i2_at_rest_the_status_is_that_of_the_sessions_and_revisions_grow(
        steps in proptest::collection::vec(step(), 1..120),
        grace in prop_oneof![Just(0_u64), Just(GRACE)],
    ) {
        let users: Vec<UserId> = (0..4).map(|at| UserId::new(&format!("u{at}")).unwrap()).collect();
        let mut tracker = tracker(TrackerConfig { offline_grace: Duration::from_millis(grace), ..config() });
        let mut model: BTreeMap<(usize, InstanceId), (u8, u8)> = BTreeMap::new();
        let mut heard: BTreeMap<UserId, Transition> = BTreeMap::new();
        let mut now = 1000_u64;
        let mut sequence = 10_u64;
        let mut hear = |tracker: &mut Tracker| {
            while let Some(told) = tracker.poll_transition() {
                if let Some(before) = heard.insert(told.user.clone(), told.clone()) {
                    assert!(told.revision > before.revision, "I2");
                    assert_eq!(told.previous, Some(before.current), "I2");
                } else {
                    assert_eq!(told.previous, None);
                }
            }
        };
        let mut waiting: Option<usize> = None;
        for step in steps {
            let place = |there: bool| if there { THERE } else { HERE };
            match step {
                Step::Document { user, there, online, idle } => {
                    let mut statuses = vec![Status::Online; online as usize];
                    statuses.extend(vec![Status::Idle; idle as usize]);
                    let document = Arc::new(document(&statuses, Some(now)));
                    tracker.handle_document(Now::at(now), &users[user], place(there), Some(&document));
                    model.insert((user, place(there)), (online, idle));
                }
                Step::Gone { user, there } => {
                    tracker.handle_document(Now::at(now), &users[user], place(there), None);
                    model.remove(&(user, place(there)));
                }
                Step::Pass { millis } => {
                    now += millis;
                    tracker.handle_timeout(Now::at(now));
                }
                Step::Acknowledge { count } => {
                    if waiting.is_none() {
                        waiting = tracker.poll_write().map(|batch| batch.records.len());
                    }
                    if let Some(length) = waiting.take() {
                        let done = count.min(length);
                        let sequences: Vec<Sequence> =
                            (0..done).map(|at| Sequence(sequence + at as u64 + 1)).collect();
                        sequence += done as u64;
                        tracker.handle_written(&sequences);
                    }
                }
                Step::Lost => {
                    tracker.handle_instance_lost(Now::at(now), THERE, Tick(now));
                    model.retain(|(_, instance), _| *instance != THERE);
                }
            }
            hear(&mut tracker);
        }
        now += grace + 1;
        tracker.handle_timeout(Now::at(now));
        while let Some(batch) = tracker.poll_write() {
            let sequences: Vec<Sequence> =
                (0..batch.records.len()).map(|at| Sequence(sequence + at as u64 + 1)).collect();
            sequence += sequences.len() as u64;
            tracker.handle_written(&sequences);
        }
        hear(&mut tracker);
        let mut counts = [0_u64; 3];
        for (at, user) in users.iter().enumerate() {
            let of_user = model.iter().filter(|((other, _), _)| *other == at).map(|(_, counts)| *counts);
            let (online, idle) = of_user.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
            let expected = match (online, idle) {
                (0, 0) => Status::Offline,
                (0, _) => Status::Idle,
                _ => Status::Online,
            };
            let known = tracker.known(user);
            let status = known.map_or(Status::Offline, |known| known.record.status);
            prop_assert_eq!(status, expected, "I1");
            prop_assert_eq!(known.map_or(0, |known| known.sessions), u32::from(online) + u32::from(idle));
            prop_assert_eq!(heard.get(user).map_or(Status::Offline, |told| told.current), expected, "I1");
            if let Some(known) = known {
                counts[known.record.status as usize] += 1;
            }
        }
        prop_assert_eq!(tracker.counts(), counts);
    }
}
