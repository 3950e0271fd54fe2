//! Whole effects of delivery, and its invariants under random outcomes.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::events::{Attributes, Beat, Session, SessionEvent, Status, Sweep, Transition};
use crate::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use crate::time::Timestamp;

mod reload;
mod replays;

fn config() -> DeliveryConfig {
    DeliveryConfig {
        concurrency: 2,
        queue: 100,
        attempts: 3,
        backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(30),
        deadline: Duration::from_secs(2),
        seed: 11,
    }
}

fn status(name: &str, revision: u64, previous: Option<Status>, current: Status) -> Payload {
    Payload::Status(Arc::new(Transition {
        user: UserId::new(name).unwrap(),
        previous,
        current,
        since: Timestamp(revision),
        revision,
        sessions: 1,
        last_seen: None,
        partition: partition_of(name),
        sequence: Sequence(revision),
    }))
}

/// Names from `u2` on are in partition 1.
fn partition_of(name: &str) -> PartitionId {
    PartitionId(u16::from(name > "u1"))
}

fn online(name: &str, revision: u64) -> Payload {
    status(name, revision, None, Status::Online)
}

fn session(id: u128, change: SessionChange) -> Payload {
    let session = Session {
        id: SessionId::Hosted(id),
        user: UserId::new("alice").unwrap(),
        instance: InstanceId(1),
        status: Status::Online,
        connected_at: Timestamp(1),
        attributes: Attributes::default(),
    };
    Payload::Session(Arc::new(SessionEvent { session, change, partition: None }))
}

fn connected(id: u128) -> Payload {
    session(id, SessionChange::Connected)
}

fn disconnected(id: u128) -> Payload {
    session(id, SessionChange::Disconnected { reason: "closed".into(), duration_ms: 1 })
}

fn sweep(scope: Scope, chunk: u32) -> Payload {
    let run = "".into();
    Payload::Cleanup(Arc::new(Sweep { cause: "test".into(), scope, chunk, last: false, run }))
}

fn lost(chunk: u32) -> Payload {
    sweep(Scope::Lost { instance: InstanceId(2), sessions: Arc::new(vec![]) }, chunk)
}

fn name(payload: &Payload) -> String {
    match payload {
        Payload::Status(transition) => format!("{} {}", transition.user, transition.revision),
        Payload::Session(event) => {
            let SessionId::Hosted(id) = &event.session.id else { panic!("hosted") };
            format!("{} {id}", event.hook())
        }
        Payload::Cleanup(sweep) => format!("cleanup {}", sweep.chunk),
        Payload::Tick(beat) => format!("tick {}", beat.due.0),
    }
}

fn tick(due: u64) -> Payload {
    Payload::Tick(Beat { due: Timestamp(due), interval_ms: 10, partition: PartitionId(1) })
}

fn retry() -> Verdict {
    Verdict::Retry { message: "later".into(), after: None }
}

/// Takes every job that is ready.
fn jobs(delivery: &mut Delivery, now: u64) -> Vec<(JobId, String, u32)> {
    let jobs = std::iter::from_fn(|| delivery.poll_job(Tick(now)));
    jobs.map(|job| (job.id, name(&job.payload), job.attempt)).collect()
}

fn names(jobs: &[(JobId, String, u32)]) -> Vec<(&str, u32)> {
    jobs.iter().map(|(_, name, attempt)| (name.as_str(), *attempt)).collect()
}

fn settled(delivery: &mut Delivery) -> Vec<(String, Settlement)> {
    std::iter::from_fn(|| delivery.poll_settled())
        .map(|done| (name(&done.payload), done.settlement))
        .collect()
}

fn dead(reason: DeadLetterReason, error: &str, attempts: u32) -> Settlement {
    Settlement::DeadLetter { reason, error: error.into(), attempts }
}

#[test]
fn one_user_in_order_different_users_at_once() {
    let mut delivery = Delivery::new(config(), 1);
    for payload in [online("a", 1), online("a", 2), online("b", 1), online("c", 1)] {
        delivery.handle_event(Tick(0), payload);
    }
    let first = jobs(&mut delivery, 0);
    assert_eq!(names(&first), [("a 1", 1), ("b 1", 1)], "two at once, and not two of one user");
    delivery.handle_verdict(Tick(1), first[0].0, Verdict::Delivered);
    let second = jobs(&mut delivery, 1);
    assert_eq!(names(&second), [("c 1", 1)], "the next ready one waited longer than a's second");
    delivery.handle_verdict(Tick(2), second[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 2)), [("a 2", 1)]);
    let delivered = [("a 1".to_owned(), Settlement::Delivered), ("c 1".to_owned(), Settlement::Delivered)];
    assert_eq!(settled(&mut delivery), delivered);
    assert_eq!(delivery.depth(), Depth { queued: 0, backing_off: 0, withheld: 0, running: 2 });
}

#[test]
fn a_failing_user_delays_nobody_and_is_tried_until_it_works() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 1, ..config() }, 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), online("b", 1));
    let mut now = 0;
    for attempt in 1..=9 {
        let job = delivery.poll_job(Tick(now)).unwrap();
        assert_eq!((name(&job.payload).as_str(), job.attempt), ("a 1", attempt));
        delivery.handle_verdict(Tick(now), job.id, retry());
        if attempt == 1 {
            let other = jobs(&mut delivery, now);
            assert_eq!(names(&other), [("b 1", 1)]);
            delivery.handle_verdict(Tick(now), other[0].0, Verdict::Delivered);
            settled(&mut delivery);
        }
        let due = delivery.poll_timeout().unwrap();
        assert!(due > Tick(now));
        assert_eq!(jobs(&mut delivery, due.0 - 1), []);
        now = due.0;
    }
    let last = jobs(&mut delivery, now);
    delivery.handle_verdict(Tick(now), last[0].0, Verdict::Delivered);
    assert_eq!(settled(&mut delivery), [("a 1".to_owned(), Settlement::Delivered)]);
    assert_eq!((delivery.unsettled(), delivery.counters().retries.total()), (0, 9));
}

#[test]
fn a_lagging_users_older_transitions_give_way_and_previous_is_what_was_last_heard() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), status("a", 1, Some(Status::Idle), Status::Online));
    let job = jobs(&mut delivery, 0);
    delivery.handle_event(Tick(0), status("a", 2, Some(Status::Online), Status::Idle));
    delivery.handle_event(Tick(0), status("a", 3, Some(Status::Idle), Status::Online));
    assert_eq!(settled(&mut delivery), [], "behind a running call they wait");
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    let gone = |name: &str| (name.to_owned(), Settlement::Superseded);
    assert_eq!(settled(&mut delivery), [gone("a 1"), gone("a 2")]);
    delivery.handle_event(Tick(1), status("a", 4, Some(Status::Online), Status::Offline));
    assert_eq!(settled(&mut delivery), [gone("a 3")]);
    let due = delivery.poll_timeout().unwrap();
    let job = delivery.poll_job(due).unwrap();
    let Payload::Status(transition) = &job.payload else { panic!("a status") };
    assert_eq!((transition.revision, transition.previous, job.attempt), (4, Some(Status::Idle), 1));
    let counters = delivery.counters();
    assert_eq!((counters.coalesced.of(Hook::UserOnline), counters.coalesced.of(Hook::UserIdle)), (2, 1));
    assert_eq!((counters.retries.of(Hook::UserOnline), counters.retries.total()), (1, 1));
    assert_eq!(delivery.lag(Tick(9_000)).as_secs(), 9, "it waits since the first that was not heard");
    delivery.handle_verdict(due, job.id, Verdict::Delivered);
    assert_eq!(delivery.unsettled(), 0);
}

#[test]
fn a_rejected_event_is_a_dead_letter_and_the_next_one_goes_on() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), online("a", 2));
    let job = jobs(&mut delivery, 0);
    delivery.handle_verdict(Tick(0), job[0].0, Verdict::Reject("no such user".into()));
    let letter = dead(DeadLetterReason::Rejected, "no such user", 1);
    assert_eq!(settled(&mut delivery), [("a 1".to_owned(), letter)]);
    assert_eq!(names(&jobs(&mut delivery, 0)), [("a 2", 1)]);
}

/// Runs the one event to its end with the same verdict; returns the settlement and how many attempts it took.
fn exhaust(delivery: &mut Delivery, verdict: Verdict) -> (Settlement, u32) {
    let mut now = 0;
    for attempt in 1..100 {
        now = delivery.poll_timeout().map_or(now, |due| due.0.max(now));
        let job = delivery.poll_job(Tick(now)).expect("a job");
        assert_eq!(job.attempt, attempt);
        delivery.handle_verdict(Tick(now), job.id, verdict.clone());
        if let Some(done) = delivery.poll_settled() {
            return (done.settlement, attempt);
        }
    }
    panic!("never settled");
}

#[test]
fn session_hooks_end_after_their_attempts_and_traps_end_every_class() {
    let trapped = || Verdict::Trapped("unreachable".into());
    let crashed = dead(DeadLetterReason::Crashed, "unreachable", 3);
    for payload in [connected(1), online("a", 1), lost(0), sweep(Scope::Everything, 0)] {
        let mut delivery = Delivery::new(config(), 1);
        delivery.handle_event(Tick(0), payload);
        assert_eq!(exhaust(&mut delivery, trapped()), (crashed.clone(), 3));
        assert_eq!(delivery.unsettled(), 0);
    }
    for (verdict, error) in [(retry(), "later"), (Verdict::Stalled("no answer".into()), "no answer")] {
        let mut delivery = Delivery::new(config(), 1);
        delivery.handle_event(Tick(0), connected(1));
        let letter = dead(DeadLetterReason::Exhausted, error, 3);
        assert_eq!(exhaust(&mut delivery, verdict), (letter, 3));
    }
}

#[test]
fn a_cut_call_uses_no_attempt_and_goes_first() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 1, ..config() }, 1);
    delivery.handle_event(Tick(0), connected(1));
    delivery.handle_event(Tick(0), connected(2));
    let job = jobs(&mut delivery, 0);
    delivery.handle_reload(Tick(0), config(), 2);
    delivery.handle_verdict(Tick(0), job[0].0, Verdict::Cut);
    let again = delivery.poll_job(Tick(0)).unwrap();
    assert_eq!(
        (name(&again.payload).as_str(), again.attempt, again.generation),
        ("session-connected 1", 1, 2)
    );
}

#[test]
fn a_session_is_connected_before_it_is_disconnected() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), connected(1));
    delivery.handle_event(Tick(0), disconnected(1));
    let job = jobs(&mut delivery, 0);
    assert_eq!(names(&job), [("session-connected 1", 1)]);
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    let due = delivery.poll_timeout().unwrap();
    let job = jobs(&mut delivery, due.0);
    assert_eq!(names(&job), [("session-connected 1", 2)]);
    delivery.handle_verdict(due, job[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, due.0)), [("session-disconnected 1", 1)]);
}

#[test]
fn a_full_queue_makes_dead_letters_of_session_events_and_keeps_the_newest_status() {
    let mut delivery = Delivery::new(DeliveryConfig { queue: 2, ..config() }, 1);
    delivery.handle_event(Tick(0), connected(1));
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), connected(2));
    let letter = dead(DeadLetterReason::Overflow, "2 events were waiting already", 0);
    assert_eq!(settled(&mut delivery), [("session-connected 2".to_owned(), letter)]);
    delivery.handle_event(Tick(0), disconnected(1));
    assert_eq!(settled(&mut delivery), [], "the end of a session whose beginning waits has a place");
    delivery.handle_event(Tick(0), online("a", 2));
    delivery.handle_event(Tick(0), online("b", 1));
    assert_eq!(settled(&mut delivery), [("a 1".to_owned(), Settlement::Superseded)]);
    assert_eq!(delivery.unsettled(), 4);
    assert_eq!(delivery.counters().overflowed, 1);
}

#[test]
fn a_cleanup_waits_for_running_calls_and_others_wait_for_it() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), connected(1));
    let running = delivery.poll_job(Tick(0)).unwrap();
    delivery.handle_event(Tick(0), lost(0));
    delivery.handle_event(Tick(0), lost(1));
    assert_eq!(jobs(&mut delivery, 0), []);
    assert_eq!(delivery.poll_timeout(), None, "nothing to wake up for before the verdict");
    delivery.handle_verdict(Tick(0), running.id, Verdict::Delivered);
    let cleanup = jobs(&mut delivery, 0);
    assert_eq!(names(&cleanup), [("cleanup 0", 1)]);
    delivery.handle_verdict(Tick(0), cleanup[0].0, retry());
    let meanwhile = jobs(&mut delivery, 0);
    assert_eq!(names(&meanwhile), [("session-connected 1", 1)], "in backoff it holds nobody back");
    let due = 100;
    assert_eq!(jobs(&mut delivery, due), []);
    delivery.handle_verdict(Tick(due), meanwhile[0].0, Verdict::Delivered);
    let cleanup = jobs(&mut delivery, due);
    assert_eq!(names(&cleanup), [("cleanup 0", 2)]);
    delivery.handle_verdict(Tick(due), cleanup[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, due)), [("cleanup 1", 1)]);
}

#[test]
fn everything_holds_all_others_back_even_in_backoff() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), sweep(Scope::Everything, 0));
    let cleanup = jobs(&mut delivery, 0);
    delivery.handle_verdict(Tick(0), cleanup[0].0, retry());
    delivery.handle_event(Tick(0), online("a", 1));
    assert_eq!(jobs(&mut delivery, 0), []);
    let due = delivery.poll_timeout().unwrap();
    let cleanup = jobs(&mut delivery, due.0);
    assert_eq!(names(&cleanup), [("cleanup 0", 2)]);
    delivery.handle_verdict(due, cleanup[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, due.0)), [("a 1", 1)]);
}

#[test]
fn the_breaker_lets_one_probe_through_and_uses_no_attempts() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 1, ..config() }, 1);
    for at in 0..BREAKER_AFTER {
        delivery.handle_event(Tick(0), online(&format!("u{at}"), 1));
        let job = delivery.poll_job(Tick(0)).unwrap();
        delivery.handle_verdict(Tick(0), job.id, retry());
    }
    assert!(delivery.breaker_open());
    delivery.handle_event(Tick(1), connected(7));
    assert_eq!(jobs(&mut delivery, 29_999), []);
    assert_eq!(delivery.poll_timeout(), Some(Tick(30_000)));
    let mut now = 30_000;
    for _ in 0..20 {
        let probe = jobs(&mut delivery, now);
        assert_eq!(probe.len(), 1);
        delivery.handle_verdict(Tick(now), probe[0].0, retry());
        assert_eq!(jobs(&mut delivery, now), []);
        assert_eq!(settled(&mut delivery), [], "no attempt of the session hook is used");
        now = delivery.poll_timeout().unwrap().0;
    }
    let probe = jobs(&mut delivery, now);
    delivery.handle_verdict(Tick(now), probe[0].0, Verdict::Delivered);
    assert!(!delivery.breaker_open());
    let mut delivered = settled(&mut delivery).len();
    now += 60_000;
    while let Some(job) = delivery.poll_job(Tick(now)) {
        delivery.handle_verdict(Tick(now), job.id, Verdict::Delivered);
        delivered += settled(&mut delivery).len();
    }
    assert_eq!(delivered, BREAKER_AFTER as usize + 1);
    assert_eq!(delivery.counters().breaker_opened, 1);
}

#[test]
fn an_older_or_repeated_revision_never_takes_the_place_of_a_newer_one() {
    let mut delivery = Delivery::new(config(), 1);
    let gone = |name: &str| (name.to_owned(), Settlement::Superseded);
    delivery.handle_event(Tick(0), online("a", 5));
    delivery.handle_event(Tick(0), online("a", 4));
    delivery.handle_event(Tick(0), online("a", 5));
    assert_eq!(settled(&mut delivery), [gone("a 4"), gone("a 5")], "a newer one waits, or this one does");
    let job = jobs(&mut delivery, 0);
    assert_eq!(names(&job), [("a 5", 1)]);
    delivery.handle_event(Tick(0), online("a", 3));
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    delivery.handle_event(Tick(0), online("a", 2));
    assert_eq!(settled(&mut delivery), [gone("a 3"), gone("a 2")], "also behind a running or a paused one");
    let due = delivery.poll_timeout().unwrap();
    let job = jobs(&mut delivery, due.0);
    assert_eq!(names(&job), [("a 5", 2)]);
    delivery.handle_verdict(due, job[0].0, Verdict::Delivered);
    assert_eq!(settled(&mut delivery), [("a 5".to_owned(), Settlement::Delivered)]);
    assert_eq!((delivery.unsettled(), delivery.counters().coalesced.total()), (0, 4));
}

#[test]
fn a_guests_wish_is_the_pause_and_does_not_bind_for_ever() {
    let mut delivery = Delivery::new(config(), 1);
    let wish =
        |seconds| Verdict::Retry { message: "later".into(), after: Some(Duration::from_secs(seconds)) };
    delivery.handle_event(Tick(0), online("a", 1));
    for (now, seconds, due) in [(0, 7, 7_000), (7_000, 100_000, 307_000)] {
        let job = delivery.poll_job(Tick(now)).unwrap();
        delivery.handle_verdict(Tick(now), job.id, wish(seconds));
        assert_eq!(delivery.poll_timeout(), Some(Tick(due)));
    }
}

#[test]
fn the_two_hooks_of_a_session_and_its_users_status_have_no_order_between_them() {
    let mut delivery = Delivery::new(config(), 1);
    for payload in [connected(1), online("alice", 1), disconnected(1)] {
        delivery.handle_event(Tick(0), payload);
    }
    assert_eq!(names(&jobs(&mut delivery, 0)), [("session-connected 1", 1), ("alice 1", 1)]);
}

#[test]
fn what_is_unsettled_tells_its_attempts_and_its_last_error() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 1, ..config() }, 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), online("b", 1));
    let job = jobs(&mut delivery, 0);
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    delivery.handle_event(Tick(0), lost(0));
    let list = delivery.unsettled_list(10);
    let list: Vec<_> = list.iter().map(|(payload, tries, error)| (name(payload), *tries, &**error)).collect();
    let expected = [("cleanup 0", 0, "waiting"), ("a 1", 1, "later"), ("b 1", 0, "waiting")];
    assert_eq!(list, expected.map(|(name, tries, error)| (name.to_owned(), tries, error)));
    assert_eq!(delivery.unsettled_list(2).len(), 2);
    assert_eq!(delivery.depth(), Depth { queued: 2, backing_off: 1, withheld: 0, running: 0 });
}

/// Opens the breaker at tick 0 with users `u0` to `u9`, who back off then.
fn open_breaker(delivery: &mut Delivery) {
    for at in 0..BREAKER_AFTER {
        delivery.handle_event(Tick(0), online(&format!("u{at}"), 1));
        let job = delivery.poll_job(Tick(0)).unwrap();
        delivery.handle_verdict(Tick(0), job.id, retry());
    }
    assert!(delivery.breaker_open());
}

#[test]
fn an_open_breaker_keeps_the_newest_transition_of_each_user() {
    let mut delivery = Delivery::new(config(), 1);
    open_breaker(&mut delivery);
    delivery.handle_event(Tick(0), status("a", 1, Some(Status::Offline), Status::Online));
    delivery.handle_event(Tick(0), status("a", 2, Some(Status::Online), Status::Offline));
    assert_eq!(settled(&mut delivery), [("a 1".to_owned(), Settlement::Superseded)]);
    let probe = delivery.poll_job(Tick(30_000)).unwrap();
    let Payload::Status(transition) = &probe.payload else { panic!("a status") };
    let heard = (name(&probe.payload), transition.previous, transition.current);
    assert_eq!(
        heard,
        ("a 2".into(), Some(Status::Offline), Status::Offline),
        "told, though it says the same"
    );
}

#[test]
fn calls_under_way_when_the_breaker_opens_use_no_attempt() {
    let mut delivery = Delivery::new(DeliveryConfig { attempts: 1, ..config() }, 1);
    delivery.handle_event(Tick(0), connected(1));
    let running = jobs(&mut delivery, 0);
    open_breaker(&mut delivery);
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Stalled("no answer".into()));
    assert_eq!(settled(&mut delivery), []);
    let probe = jobs(&mut delivery, 30_000);
    assert_eq!(probe.len(), 1);
    delivery.handle_verdict(Tick(30_000), probe[0].0, Verdict::Delivered);
    assert!(!delivery.breaker_open());
}

#[test]
fn a_reload_is_probed_at_once() {
    let mut delivery = Delivery::new(config(), 1);
    open_breaker(&mut delivery);
    delivery.handle_event(Tick(1), online("a", 1));
    assert_eq!(jobs(&mut delivery, 1), []);
    delivery.handle_reload(Tick(1), DeliveryConfig { concurrency: 1, ..config() }, 2);
    assert_eq!(delivery.poll_timeout(), Some(Tick(1)));
    let probe = delivery.poll_job(Tick(1)).unwrap();
    assert_eq!((name(&probe.payload).as_str(), probe.generation), ("a 1", 2));
    assert_eq!(jobs(&mut delivery, 1), [], "one probe");
    delivery.handle_verdict(Tick(1), probe.id, Verdict::Delivered);
    assert!(!delivery.breaker_open());
}

#[test]
fn a_verdict_counts_once() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    let job = jobs(&mut delivery, 0);
    delivery.handle_verdict(Tick(0), job[0].0, Verdict::Delivered);
    delivery.handle_verdict(Tick(0), job[0].0, Verdict::Delivered);
    delivery.handle_verdict(Tick(0), JobId(99), Verdict::Reject("no".into()));
    assert_eq!(settled(&mut delivery), [("a 1".to_owned(), Settlement::Delivered)]);
    assert_eq!(delivery.unsettled(), 0);
}

#[test]
fn without_a_permit_only_ends_of_sessions_are_told_and_the_rest_waits_in_its_order() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 3, ..config() }, 1);
    assert!(!delivery.handle_permit(Tick(1_999)), "shorter than without one");
    for payload in [online("a", 1), disconnected(1), online("b", 1), lost(0), disconnected(2)] {
        delivery.handle_event(Tick(0), payload);
    }
    let first = jobs(&mut delivery, 0);
    assert_eq!(names(&first), [("session-disconnected 1", 1), ("session-disconnected 2", 1)]);
    assert_eq!(delivery.poll_timeout(), None, "nothing to wake up for before the next permit");
    assert_eq!(delivery.depth(), Depth { queued: 1, backing_off: 0, withheld: 2, running: 2 });
    assert!(delivery.handle_permit(Tick(2_500)), "something may start");
    assert_eq!(jobs(&mut delivery, 500), [], "the cleanup waits for the running calls");
    for job in &first {
        delivery.handle_verdict(Tick(500), job.0, Verdict::Delivered);
    }
    let cleanup = jobs(&mut delivery, 500);
    assert_eq!(names(&cleanup), [("cleanup 0", 1)]);
    delivery.handle_verdict(Tick(500), cleanup[0].0, Verdict::Delivered);
    let second = jobs(&mut delivery, 500);
    assert_eq!(names(&second), [("a 1", 1), ("b 1", 1)], "up to the very end of the permit");
    delivery.handle_event(Tick(501), online("c", 1));
    delivery.handle_event(Tick(501), connected(3));
    delivery.handle_event(Tick(501), disconnected(3));
    assert_eq!(jobs(&mut delivery, 501), []);
    assert!(!delivery.handle_permit(Tick(2_400)));
    assert!(delivery.handle_permit(Tick(2_501)));
    assert_eq!(names(&jobs(&mut delivery, 501)), [("c 1", 1)]);
    delivery.handle_verdict(Tick(501), second[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 501)), [("session-connected 3", 1)]);
    assert!(!delivery.handle_permit(Tick(9_000)), "nothing was withheld");
}

/// Seed 12531 of the simulation: the documents that list them went with the store.
#[test]
fn sessions_are_not_announced_while_the_store_lacks_their_documents() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 4, ..config() }, 1);
    delivery.handle_event(Tick(0), connected(1));
    let running = jobs(&mut delivery, 0);
    assert_eq!(names(&running), [("session-connected 1", 1)]);
    delivery.handle_permit(Tick(0));
    assert!(!delivery.handle_announcing(false));
    // It was cut with the permit; its end waits for it.
    delivery.handle_verdict(Tick(1), running[0].0, Verdict::Cut);
    delivery.handle_permit(Tick(90_000));
    for payload in [disconnected(1), connected(2), online("a", 1), disconnected(3)] {
        delivery.handle_event(Tick(1), payload);
    }
    let others = jobs(&mut delivery, 1);
    assert_eq!(names(&others), [("a 1", 1), ("session-disconnected 3", 1)]);
    assert_eq!(delivery.poll_timeout(), None);
    assert!(delivery.handle_announcing(true));
    assert!(!delivery.handle_announcing(true), "nothing was withheld");
    let announced = jobs(&mut delivery, 1);
    assert_eq!(names(&announced), [("session-connected 1", 1), ("session-connected 2", 1)]);
    delivery.handle_verdict(Tick(1), announced[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 1)), [("session-disconnected 1", 1)]);
}

#[test]
fn a_withheld_lost_cleanup_holds_no_session_back_and_everything_does() {
    for (scope, expected) in
        [(lost(0), vec![("session-disconnected 1", 1)]), (sweep(Scope::Everything, 0), vec![])]
    {
        let mut delivery = Delivery::new(config(), 1);
        delivery.handle_permit(Tick(0));
        delivery.handle_event(Tick(0), scope);
        delivery.handle_event(Tick(0), disconnected(1));
        let job = jobs(&mut delivery, 0);
        assert_eq!(names(&job), expected);
        assert_eq!(delivery.poll_timeout(), None);
        assert!(delivery.handle_permit(Tick(5_000)));
        job.iter().for_each(|job| delivery.handle_verdict(Tick(0), job.0, Verdict::Delivered));
        assert_eq!(names(&jobs(&mut delivery, 0)), [("cleanup 0", 1)]);
    }
}

#[test]
fn retries_and_cut_calls_wait_for_the_permit_too() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), online("b", 1));
    let job = jobs(&mut delivery, 0);
    delivery.handle_permit(Tick(10));
    delivery.handle_verdict(Tick(10), job[0].0, retry());
    delivery.handle_verdict(Tick(10), job[1].0, Verdict::Cut);
    assert_eq!(jobs(&mut delivery, 10), []);
    let due = delivery.poll_timeout().unwrap();
    assert_eq!(jobs(&mut delivery, due.0), []);
    assert_eq!(delivery.poll_timeout(), None);
    assert!(delivery.handle_permit(Tick(10_000)));
    assert_eq!(names(&jobs(&mut delivery, due.0)), [("b 1", 1), ("a 1", 2)]);
    assert_eq!(settled(&mut delivery), []);
}

#[test]
fn a_shorter_deadline_releases_what_its_permit_allows() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_permit(Tick(1_000));
    delivery.handle_event(Tick(0), online("a", 1));
    assert_eq!(jobs(&mut delivery, 0), []);
    delivery.handle_reload(Tick(0), DeliveryConfig { deadline: Duration::from_secs(1), ..config() }, 2);
    assert_eq!(names(&jobs(&mut delivery, 0)), [("a 1", 1)]);
}

#[test]
fn without_a_permit_an_open_breaker_wakes_nobody_in_vain() {
    let mut delivery = Delivery::new(config(), 1);
    open_breaker(&mut delivery);
    delivery.handle_permit(Tick(0));
    delivery.handle_event(Tick(0), lost(0));
    assert_eq!(delivery.poll_timeout(), Some(Tick(30_000)));
    assert_eq!(jobs(&mut delivery, 30_000), []);
    assert_eq!(delivery.poll_timeout(), None);
    assert!(delivery.handle_permit(Tick(90_000)));
    assert_eq!(names(&jobs(&mut delivery, 30_000)), [("cleanup 0", 1)], "the probe");
}

#[test]
fn a_withdrawn_partition_is_dropped_without_a_settlement_and_its_calls_are_not_repeated() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 4, ..config() }, 1);
    for name in ["a", "b", "c", "d"] {
        delivery.handle_event(Tick(0), online(name, 1));
    }
    let running = jobs(&mut delivery, 0);
    for payload in [online("a", 2), online("e", 1), connected(1), online("u2", 1), lost(0)] {
        delivery.handle_event(Tick(0), payload);
    }
    assert_eq!(delivery.handle_withdraw(PartitionId(0)), 4);
    assert_eq!(delivery.handle_withdraw(PartitionId(0)), 4, "once more is no harm");
    assert_eq!(delivery.handle_withdraw(PartitionId(7)), 0);
    assert_eq!(delivery.unsettled(), 7);
    let verdicts = [Verdict::Delivered, retry(), Verdict::Cut, Verdict::Trapped("unreachable".into())];
    for (left, (job, verdict)) in (0..4).rev().zip(running.iter().zip(verdicts)) {
        delivery.handle_verdict(Tick(0), job.0, verdict);
        assert_eq!(delivery.withdrawn_jobs(PartitionId(0)).count(), left);
    }
    assert_eq!(settled(&mut delivery), [("a 1".to_owned(), Settlement::Delivered)]);
    assert_eq!(delivery.counters().withdrawn, 5, "a's second, e, and three that were not delivered");
    let cleanup = jobs(&mut delivery, 90_000);
    assert_eq!(names(&cleanup), [("cleanup 0", 1)]);
    delivery.handle_verdict(Tick(90_000), cleanup[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 90_000)), [("session-connected 1", 1), ("u2 1", 1)]);
    assert_eq!(delivery.depth(), Depth { queued: 0, backing_off: 0, withheld: 0, running: 2 });
}

#[test]
fn what_is_paused_withheld_or_worn_out_leaves_too() {
    let mut delivery = Delivery::new(DeliveryConfig { attempts: 1, ..config() }, 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), online("b", 1));
    let job = jobs(&mut delivery, 0);
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    delivery.handle_permit(Tick(0));
    delivery.handle_event(Tick(0), online("c", 1));
    assert_eq!(jobs(&mut delivery, 0), []);
    assert_eq!(delivery.depth(), Depth { queued: 0, backing_off: 1, withheld: 1, running: 1 });
    assert_eq!(delivery.handle_withdraw(PartitionId(0)), 1);
    assert_eq!(delivery.depth(), Depth { queued: 0, backing_off: 0, withheld: 0, running: 1 });
    assert_eq!(delivery.poll_timeout(), None);
    delivery.handle_verdict(Tick(0), job[1].0, Verdict::Trapped("unreachable".into()));
    let letter = dead(DeadLetterReason::Crashed, "unreachable", 1);
    assert_eq!(settled(&mut delivery), [("b 1".to_owned(), letter)], "a settlement that is due comes");
}

#[test]
fn a_partition_that_comes_back_is_told_in_order_and_may_repeat_what_still_runs() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 5));
    let old = jobs(&mut delivery, 0);
    delivery.handle_withdraw(PartitionId(0));
    delivery.handle_event(Tick(0), online("a", 5));
    delivery.handle_event(Tick(0), online("a", 5));
    delivery.handle_event(Tick(0), online("a", 6));
    assert_eq!(
        settled(&mut delivery),
        [("a 5".to_owned(), Settlement::Superseded)],
        "the repeat of the repeat"
    );
    assert_eq!(jobs(&mut delivery, 0), [], "never two at once of one user");
    delivery.handle_verdict(Tick(0), old[0].0, retry());
    assert_eq!(delivery.withdrawn_jobs(PartitionId(0)).count(), 0);
    for expected in ["a 5", "a 6"] {
        let job = jobs(&mut delivery, 0);
        assert_eq!(names(&job), [(expected, 1)]);
        delivery.handle_verdict(Tick(0), job[0].0, Verdict::Delivered);
        assert_eq!(settled(&mut delivery), [(expected.to_owned(), Settlement::Delivered)]);
    }
    assert_eq!(delivery.unsettled(), 0);
}

#[test]
fn everything_that_was_abandoned_is_dropped_and_holds_nobody_back() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), sweep(Scope::Everything, 0));
    let running = jobs(&mut delivery, 0);
    for payload in [online("a", 1), lost(1), sweep(Scope::Everything, 2)] {
        delivery.handle_event(Tick(0), payload);
    }
    assert_eq!(delivery.abandoned_job(), None);
    assert_eq!(delivery.handle_abandon_everything(), 1, "the second; the first runs");
    assert_eq!(delivery.abandoned_job(), Some(running[0].0));
    assert_eq!(jobs(&mut delivery, 0), [], "it runs alone to its end");
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Cut);
    assert_eq!(settled(&mut delivery), []);
    assert_eq!((delivery.unsettled(), delivery.counters().dropped), (2, 2));
    let cleanup = jobs(&mut delivery, 0);
    assert_eq!(names(&cleanup), [("cleanup 1", 1)]);
    delivery.handle_verdict(Tick(0), cleanup[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 0)), [("a 1", 1)]);
    // One that was delivered all the same is settled.
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), sweep(Scope::Everything, 0));
    let running = jobs(&mut delivery, 0);
    assert_eq!(delivery.handle_abandon_everything(), 0);
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Delivered);
    assert_eq!(settled(&mut delivery), [("cleanup 0".to_owned(), Settlement::Delivered)]);
    assert_eq!(delivery.unsettled(), 0);
}

#[test]
fn the_sessions_of_a_dead_instance_are_dropped_and_counted() {
    let mut delivery = Delivery::new(config(), 1);
    for payload in [connected(1), connected(2), disconnected(2), connected(3), online("alice", 1)] {
        delivery.handle_event(Tick(0), payload);
    }
    let running = jobs(&mut delivery, 0);
    assert_eq!(names(&running), [("session-connected 1", 1), ("session-connected 2", 1)]);
    assert_eq!(delivery.handle_drop_sessions(InstanceId(9)), 0);
    assert_eq!(delivery.handle_drop_sessions(InstanceId(1)), 2, "two's end and three's beginning");
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Delivered);
    delivery.handle_verdict(Tick(0), running[1].0, retry());
    assert_eq!(settled(&mut delivery), [("session-connected 1".to_owned(), Settlement::Delivered)]);
    assert_eq!(delivery.counters().dropped, 3);
    assert_eq!(names(&jobs(&mut delivery, 0)), [("alice 1", 1)]);
    assert_eq!(delivery.unsettled(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Status(usize),
    /// An older revision again, or the same.
    Stale(usize, u64),
    Connect,
    Disconnect(usize),
    Cleanup(bool),
    Take,
    End(usize, u8),
    Pass(u64),
    Permit(u64),
    Withdraw(u16),
    DropSessions,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4_usize).prop_map(Step::Status),
        2 => (0..4_usize, 0..5_u64).prop_map(|(user, back)| Step::Stale(user, back)),
        2 => Just(Step::Connect),
        2 => (0..20_usize).prop_map(Step::Disconnect),
        1 => any::<bool>().prop_map(Step::Cleanup),
        6 => Just(Step::Take),
        6 => (0..4_usize, 0..7_u8).prop_map(|(at, verdict)| Step::End(at, verdict)),
        2 => (0..40_000_u64).prop_map(Step::Pass),
        2 => (0..40_000_u64).prop_map(Step::Permit),
        1 => (0..2_u16).prop_map(Step::Withdraw),
        1 => Just(Step::DropSessions),
    ]
}

fn verdict(kind: u8) -> Verdict {
    match kind {
        0 | 1 => Verdict::Delivered,
        2 => retry(),
        3 => Verdict::Stalled("slow".into()),
        4 => Verdict::Trapped("trap".into()),
        5 => Verdict::Cut,
        _ => Verdict::Reject("no".into()),
    }
}

fn lane_of(payload: &Payload) -> String {
    match payload {
        Payload::Status(transition) => transition.user.to_string(),
        Payload::Session(event) => event.session.id.to_string(),
        Payload::Cleanup(_) => "cleanup".into(),
        Payload::Tick(_) => "tick".into(),
    }
}

#[test]
fn of_ticks_one_waits_and_the_newest_stays() {
    let mut delivery = Delivery::new(config(), 1);
    for due in [10, 20] {
        delivery.handle_event(Tick(0), tick(due));
    }
    delivery.handle_event(Tick(0), tick(15));
    let superseded = |due: u64| (format!("tick {due}"), Settlement::Superseded);
    assert_eq!(settled(&mut delivery), [superseded(10), superseded(15)]);
    let running = jobs(&mut delivery, 0);
    assert_eq!(names(&running), [("tick 20", 1)]);
    for due in [30, 40] {
        delivery.handle_event(Tick(0), tick(due));
    }
    assert_eq!((names(&jobs(&mut delivery, 0)), settled(&mut delivery)), (vec![], vec![superseded(30)]));
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 0)), [("tick 40", 1)]);
    assert_eq!((settled(&mut delivery).len(), delivery.counters().coalesced.total()), (1, 3));
}

#[test]
fn a_failed_tick_is_repeated_until_the_next_takes_its_place() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), tick(10));
    let first = jobs(&mut delivery, 0);
    assert_eq!(delivery.unsettled(), 1);
    delivery.handle_verdict(Tick(0), first[0].0, retry());
    assert_eq!((delivery.unsettled(), delivery.depth().backing_off), (0, 1), "nobody waits for it");
    let again = jobs(&mut delivery, 100);
    assert_eq!(names(&again), [("tick 10", 2)]);
    delivery.handle_verdict(Tick(100), again[0].0, retry());
    delivery.handle_event(Tick(101), tick(20));
    assert_eq!(settled(&mut delivery), [("tick 10".to_owned(), Settlement::Superseded)]);
    assert_eq!(names(&jobs(&mut delivery, 100)), [], "the pause stays");
    assert_eq!(names(&jobs(&mut delivery, 1000)), [("tick 20", 1)]);
}

#[test]
fn a_tick_that_traps_is_given_up_after_its_attempts() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), tick(10));
    for _ in 0..3 {
        let job = jobs(&mut delivery, 100_000);
        delivery.handle_verdict(Tick(0), job[0].0, Verdict::Trapped("boom".into()));
    }
    let expected = ("tick 10".to_owned(), dead(DeadLetterReason::Crashed, "boom", 3));
    assert_eq!(settled(&mut delivery), [expected]);
}

#[test]
fn ticks_need_the_permit_and_leave_with_their_partition() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_permit(Tick(1000));
    delivery.handle_event(Tick(0), tick(10));
    assert_eq!((jobs(&mut delivery, 0), delivery.depth().withheld), (vec![], 1));
    assert_eq!((delivery.handle_withdraw(PartitionId(0)), delivery.depth().withheld), (0, 1));
    delivery.handle_withdraw(PartitionId(1));
    assert_eq!((delivery.depth(), delivery.counters().withdrawn), (Depth::default(), 1));
    delivery.handle_permit(Tick(10_000));
    delivery.handle_event(Tick(0), tick(20));
    let running = jobs(&mut delivery, 0);
    assert_eq!(delivery.handle_withdraw(PartitionId(1)), 1);
    delivery.handle_event(Tick(0), tick(20));
    delivery.handle_verdict(Tick(0), running[0].0, retry());
    assert_eq!(names(&jobs(&mut delivery, 0)), [("tick 20", 1)], "of the next ownership");
    assert_eq!((settled(&mut delivery), delivery.counters().withdrawn), (vec![], 2));
}

proptest! {
    /// I2: for one user, calls never go back in revision under one claim, and never two at once. I3: at rest every event
    /// was settled once or is counted as dropped, and the final status of every user was delivered or is a dead letter.
    /// I4: no call starts that could outlive the permit. I8: what waits is bounded, and nobody waits for the past.
    #[test]
    fn i2_i3_i4_i8_order_completeness_permits_bounds(steps in proptest::collection::vec(step(), 1..200), queue in 1..8_u32) {
        let mut delivery = Delivery::new(DeliveryConfig { queue, ..config() }, 1);
        let mut now = 0_u64;
        let mut revision = 0_u64;
        let mut sessions = 0_u128;
        let mut ended: std::collections::BTreeSet<u128> = Default::default();
        let mut running: Vec<Job> = Vec::new();
        let mut given: BTreeMap<String, usize> = BTreeMap::new();
        let mut cleanups = 0_u32;
        let mut last_called: BTreeMap<String, u64> = BTreeMap::new();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut done: BTreeMap<String, usize> = BTreeMap::new();
        let mut final_of: BTreeMap<String, u64> = BTreeMap::new();
        let mut permit = u64::MAX;
        let take = |delivery: &mut Delivery, running: &mut Vec<Job>, called: &mut BTreeMap<String, u64>, now: u64, permit: u64| {
            while let Some(job) = delivery.poll_job(Tick(now)) {
                assert!(running.iter().all(|other| lane_of(&other.payload) != lane_of(&job.payload)), "I2");
                if matches!(job.payload, Payload::Cleanup(_)) {
                    assert!(running.is_empty(), "a cleanup is alone");
                }
                assert!(!job.payload.needs_permit() || now + 2_000 <= permit, "I4");
                if let Payload::Status(transition) = &job.payload {
                    let before = called.insert(transition.user.to_string(), transition.revision);
                    assert!(before.is_none_or(|before| before <= transition.revision), "I2");
                }
                running.push(job);
            }
            assert!(delivery.poll_timeout().is_none_or(|due| due > Tick(now)), "nobody waits for the past");
        };
        let mut collect = |delivery: &mut Delivery| {
            while let Some(one) = delivery.poll_settled() {
                *done.entry(name(&one.payload)).or_default() += 1;
                if let Payload::Status(transition) = &one.payload
                    && one.settlement != Settlement::Superseded
                {
                    final_of.insert(transition.user.to_string(), transition.revision);
                }
            }
        };
        for step in steps {
            let handed = match step {
                Step::Status(user) => {
                    revision += 1;
                    newest.insert(format!("u{user}"), revision);
                    Some(online(&format!("u{user}"), revision))
                }
                Step::Stale(user, back) => {
                    // Only behind something that waits or runs: nothing is remembered of a user at rest.
                    let known = newest.get(&format!("u{user}")).copied();
                    let payload = online(&format!("u{user}"), known.unwrap_or(0).saturating_sub(back));
                    known.and(delivery.lanes.find(&payload)).map(|_| payload)
                }
                Step::Connect => {
                    sessions += 1;
                    Some(connected(sessions))
                }
                Step::Disconnect(session) => {
                    let session = session as u128;
                    (session < sessions && ended.insert(session)).then(|| disconnected(session))
                }
                Step::Cleanup(everything) => {
                    cleanups += 1;
                    Some(if everything { sweep(Scope::Everything, cleanups) } else { lost(cleanups) })
                }
                Step::Take => {
                    take(&mut delivery, &mut running, &mut last_called, now, permit);
                    None
                }
                Step::End(at, kind) => {
                    if at < running.len() {
                        let job = running.swap_remove(at);
                        delivery.handle_verdict(Tick(now), job.id, verdict(kind));
                    }
                    None
                }
                Step::Pass(millis) => {
                    now += millis;
                    None
                }
                Step::Permit(millis) => {
                    permit = now + millis;
                    delivery.handle_permit(Tick(permit));
                    None
                }
                Step::Withdraw(partition) => {
                    let partition = PartitionId(partition);
                    let of_partition = |name: &str| partition_of(name) == partition;
                    let left = delivery.handle_withdraw(partition);
                    let runs = |job: &&Job| matches!(&job.payload, Payload::Status(one) if one.partition == partition);
                    prop_assert_eq!(left, running.iter().filter(runs).count());
                    prop_assert_eq!(left, delivery.lanes.items().filter(|item| match &item.payload {
                        Payload::Status(transition) => transition.partition == partition,
                        _ => false,
                    }).count(), "nothing waits");
                    newest.retain(|name, _| !of_partition(name));
                    last_called.retain(|name, _| !of_partition(name));
                    None
                }
                Step::DropSessions => {
                    delivery.handle_drop_sessions(InstanceId(1));
                    None
                }
            };
            if let Some(payload) = handed {
                *given.entry(name(&payload)).or_default() += 1;
                delivery.handle_event(Tick(now), payload);
            }
            collect(&mut delivery);
            let is_status = |item: &&Item| matches!(item.payload, Payload::Status(_));
            let statuses = delivery.lanes.items().filter(is_status).count();
            let session_events = delivery.lanes.items().count() - statuses;
            let (queue, concurrency, users) = (queue as usize, 2, 4);
            prop_assert!(statuses <= queue + concurrency + users, "I8: {statuses} transitions with queue {queue}");
            let bound = 2 * (queue + concurrency);
            prop_assert!(session_events <= bound, "I8: {session_events} session events with queue {queue}");
        }
        permit = u64::MAX;
        delivery.handle_permit(Tick(permit));
        let mut rounds = 0;
        while delivery.unsettled() > 0 {
            take(&mut delivery, &mut running, &mut last_called, now, permit);
            for job in running.drain(..) {
                delivery.handle_verdict(Tick(now), job.id, Verdict::Delivered);
            }
            collect(&mut delivery);
            now = delivery.poll_timeout().map_or(now, |due| due.0.max(now));
            rounds += 1;
            prop_assert!(rounds < 10_000, "it comes to rest");
        }
        collect(&mut delivery);
        let mut gone = given;
        for (name, settled) in &done {
            let left = gone.get(name).copied().unwrap_or(0).checked_sub(*settled);
            prop_assert!(left.is_some(), "I3: {name} was settled more often than it was given");
            gone.insert(name.clone(), left.unwrap_or(0));
        }
        let count = |session: bool| -> usize {
            gone.iter().filter(|(name, _)| name.starts_with("session") == session).map(|(_, count)| count).sum()
        };
        let counters = delivery.counters();
        prop_assert_eq!((count(false), count(true)), (counters.withdrawn as usize, counters.dropped as usize),
            "I3: each is settled once, or dropped and counted");
        final_of.retain(|name, _| newest.contains_key(name));
        prop_assert_eq!(&final_of, &newest, "I3: the final status of each");
        prop_assert_eq!(delivery.depth(), Depth::default());
        prop_assert_eq!(delivery.lanes.items().count(), 0);
        prop_assert_eq!(delivery.lag(Tick(u64::MAX)), Duration::ZERO, "I8: nothing is kept of ages");
    }
}
