//! Replays of dead letters among what waits.

use std::num::NonZeroU64;

use super::*;

fn letter(number: u64) -> LetterNumber {
    NonZeroU64::new(number).unwrap()
}

/// What is settled, with the letter that it came from.
fn ended(delivery: &mut Delivery) -> Vec<(String, Option<u64>, Settlement)> {
    std::iter::from_fn(|| delivery.poll_settled())
        .map(|done| (name(&done.payload), done.letter.map(NonZeroU64::get), done.settlement))
        .collect()
}

#[test]
fn a_replay_waits_behind_what_its_user_has_waiting_and_counts_its_attempts_anew() {
    let mut delivery = Delivery::new(DeliveryConfig { attempts: 2, ..config() }, 1);
    delivery.handle_event(Tick(0), online("a", 1));
    let running = jobs(&mut delivery, 0);
    assert_eq!(delivery.handle_replay(Tick(0), online("a", 3), letter(7), 0), Replayed::Queued);
    assert_eq!(delivery.unsettled(), 1, "a host that leaves does not wait for a replay: the letter stays");
    assert_eq!(jobs(&mut delivery, 0), [], "never two at once of one user");
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Delivered);
    assert_eq!(ended(&mut delivery), [("a 1".to_owned(), None, Settlement::Delivered)]);
    let replay = jobs(&mut delivery, 0);
    assert_eq!(names(&replay), [("a 3", 1)]);
    delivery.handle_verdict(Tick(0), replay[0].0, Verdict::Trapped("again".into()));
    let due = delivery.poll_timeout().unwrap();
    let again = jobs(&mut delivery, due.0);
    assert_eq!(names(&again), [("a 3", 2)]);
    delivery.handle_verdict(due, again[0].0, Verdict::Trapped("again".into()));
    let dead = dead(DeadLetterReason::Crashed, "again", 2);
    assert_eq!(ended(&mut delivery), [("a 3".to_owned(), Some(7), dead)]);
    assert_eq!(delivery.unsettled(), 0);
}

#[test]
fn a_replay_older_than_the_users_news_is_told_to_nobody() {
    let mut delivery = Delivery::new(config(), 1);
    let replay = |delivery: &mut Delivery, revision, newest| {
        delivery.handle_replay(Tick(0), online("a", revision), letter(revision), newest)
    };
    assert_eq!(replay(&mut delivery, 4, 5), Replayed::Superseded, "the caller knows better");
    delivery.handle_event(Tick(0), online("a", 6));
    assert_eq!(replay(&mut delivery, 5, 0), Replayed::Superseded, "something newer waits");
    assert_eq!(replay(&mut delivery, 6, 6), Replayed::Superseded, "the same waits");
    let running = jobs(&mut delivery, 0);
    assert_eq!(replay(&mut delivery, 7, 7), Replayed::Queued, "the present status itself");
    delivery.handle_event(Tick(0), online("a", 8));
    delivery.handle_verdict(Tick(0), running[0].0, retry());
    let gone = |name: &str, letter| (name.to_owned(), letter, Settlement::Superseded);
    assert_eq!(ended(&mut delivery), [gone("a 6", None), gone("a 7", Some(7))], "it gives way like others");
    assert_eq!(delivery.unsettled(), 1);
}

#[test]
fn replays_of_sessions_keep_their_order_and_find_a_full_queue_full() {
    let mut delivery = Delivery::new(DeliveryConfig { queue: 2, ..config() }, 1);
    let replay = |delivery: &mut Delivery, payload, number| {
        delivery.handle_replay(Tick(0), payload, letter(number), 0)
    };
    assert_eq!(replay(&mut delivery, connected(1), 1), Replayed::Queued);
    assert_eq!(replay(&mut delivery, disconnected(1), 2), Replayed::Queued);
    assert_eq!(replay(&mut delivery, connected(2), 3), Replayed::Full);
    assert_eq!(ended(&mut delivery), [], "no dead letter of a dead letter");
    let first = jobs(&mut delivery, 0);
    assert_eq!(names(&first), [("session-connected 1", 1)]);
    delivery.handle_verdict(Tick(0), first[0].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 0)), [("session-disconnected 1", 1)]);
}

#[test]
fn a_replayed_cleanup_is_a_barrier_like_any_other() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    let running = jobs(&mut delivery, 0);
    let everything = sweep(Scope::Everything, 9);
    assert_eq!(delivery.handle_replay(Tick(0), everything, letter(1), 0), Replayed::Queued);
    delivery.handle_event(Tick(0), online("b", 1));
    assert_eq!(jobs(&mut delivery, 0), [], "running calls end first");
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Delivered);
    let cleanup = jobs(&mut delivery, 0);
    assert_eq!(names(&cleanup), [("cleanup 9", 1)]);
    delivery.handle_verdict(Tick(0), cleanup[0].0, Verdict::Delivered);
    assert_eq!(
        ended(&mut delivery),
        [
            ("a 1".to_owned(), None, Settlement::Delivered),
            ("cleanup 9".to_owned(), Some(1), Settlement::Delivered)
        ]
    );
    assert_eq!(names(&jobs(&mut delivery, 0)), [("b 1", 1)]);
}

#[test]
fn a_replay_that_leaves_is_told_of_so_that_its_letter_is_free() {
    let mut delivery = Delivery::new(config(), 1);
    for (payload, number) in [(online("a", 1), 1), (online("b", 1), 2), (connected(1), 3), (connected(2), 4)]
    {
        assert_eq!(delivery.handle_replay(Tick(0), payload, letter(number), 0), Replayed::Queued);
    }
    let running = jobs(&mut delivery, 0);
    assert_eq!(names(&running), [("a 1", 1), ("b 1", 1)]);
    delivery.handle_withdraw(PartitionId(0));
    delivery.handle_drop_sessions(InstanceId(1));
    let withdrawn = |name: &str, number| (name.to_owned(), Some(number), Settlement::Withdrawn);
    let sessions = [withdrawn("session-connected 1", 3), withdrawn("session-connected 2", 4)];
    assert_eq!(ended(&mut delivery), sessions);
    delivery.handle_verdict(Tick(0), running[0].0, Verdict::Cut);
    delivery.handle_verdict(Tick(0), running[1].0, Verdict::Delivered);
    assert_eq!(
        ended(&mut delivery),
        [withdrawn("a 1", 1), ("b 1".to_owned(), Some(2), Settlement::Delivered)]
    );
    assert_eq!(delivery.unsettled(), 0);
}

proptest! {
    /// I2 and I3 with replays: calls of one user never go back, and each replay that is queued is settled exactly once.
    #[test]
    fn i2_i3_replays_keep_order_and_end_once(
        steps in proptest::collection::vec((0..3_usize, 0..6_u8, any::<bool>()), 1..150),
        queue in 1..6_u32,
    ) {
        let mut delivery = Delivery::new(DeliveryConfig { queue, ..config() }, 1);
        let (mut now, mut revision, mut number) = (0, 0_u64, 0_u64);
        let mut running: Vec<Job> = Vec::new();
        let mut called: BTreeMap<String, u64> = BTreeMap::new();
        let mut dead: Vec<Payload> = Vec::new();
        let mut queued: std::collections::BTreeSet<u64> = Default::default();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for (user, kind, flag) in steps.into_iter().chain((0..200).map(|_| (0, 9, true))) {
            match kind {
                0 | 1 => {
                    revision += 1;
                    let name = format!("u{user}");
                    newest.insert(name.clone(), revision);
                    delivery.handle_event(Tick(now), online(&name, revision));
                }
                2 if !dead.is_empty() => {
                    let payload = dead.remove(user % dead.len());
                    number += 1;
                    let known = newest[payload.user().unwrap().as_str()];
                    match delivery.handle_replay(Tick(now), payload, letter(number), known) {
                        Replayed::Queued => { queued.insert(number); }
                        other => prop_assert_eq!(other, Replayed::Superseded),
                    }
                }
                3 if !running.is_empty() => {
                    let job = running.swap_remove(user % running.len());
                    delivery.handle_verdict(Tick(now), job.id, if flag { Verdict::Reject("no".into()) } else { retry() });
                }
                4 => now += 20_000,
                _ => {
                    for job in running.drain(..) {
                        delivery.handle_verdict(Tick(now), job.id, Verdict::Delivered);
                    }
                    now = delivery.poll_timeout().map_or(now, |due| due.0.max(now));
                }
            }
            while let Some(job) = delivery.poll_job(Tick(now)) {
                let Payload::Status(transition) = &job.payload else { continue };
                let before = called.insert(transition.user.to_string(), transition.revision);
                prop_assert!(before.is_none_or(|before| before <= transition.revision), "I2");
                running.push(job);
            }
            while let Some(done) = delivery.poll_settled() {
                if let Some(letter) = done.letter {
                    prop_assert!(queued.remove(&letter.get()), "I3: {letter} was settled twice");
                }
                if matches!(done.settlement, Settlement::DeadLetter { .. }) {
                    dead.push(done.payload);
                }
            }
        }
        prop_assert_eq!((delivery.unsettled(), delivery.depth()), (0, Depth::default()));
        prop_assert!(queued.is_empty(), "I3: {:?} were not settled", queued);
    }
}
