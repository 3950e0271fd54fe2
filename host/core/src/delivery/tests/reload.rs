//! What a reload does to what waits and what runs.

use std::collections::BTreeSet;

use super::*;
use crate::events::Hook;

fn offline(name: &str, revision: u64) -> Payload {
    status(name, revision, Some(Status::Online), Status::Offline)
}

fn all_but(gone: &[Hook]) -> BTreeSet<Hook> {
    Hook::ALL.into_iter().filter(|hook| !gone.contains(hook)).collect()
}

fn unwanted(names: &[&str]) -> Vec<(String, Settlement)> {
    names.iter().map(|name| ((*name).to_owned(), Settlement::Unwanted)).collect()
}

#[test]
fn what_waits_goes_on_in_its_order_with_the_new_version() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 1, ..config() }, 1);
    for revision in 1..=3 {
        delivery.handle_event(Tick(0), online("a", revision));
    }
    let first = delivery.poll_job(Tick(0)).unwrap();
    assert_eq!(first.generation, 1);
    delivery.handle_reload(Tick(0), config(), 2);
    delivery.handle_hooks(all_but(&[]));
    assert!(delivery.poll_job(Tick(0)).is_none(), "the user's call of before runs still");
    delivery.handle_verdict(Tick(0), first.id, Verdict::Delivered);
    let mut told = Vec::new();
    while let Some(job) = delivery.poll_job(Tick(0)) {
        told.push((name(&job.payload), job.generation));
        delivery.handle_verdict(Tick(0), job.id, Verdict::Delivered);
    }
    assert_eq!(told, [("a 2".to_owned(), 2), ("a 3".to_owned(), 2)]);
}

#[test]
fn fewer_calls_at_once_begin_when_enough_have_ended() {
    let mut delivery = Delivery::new(DeliveryConfig { concurrency: 3, ..config() }, 1);
    for user in ["a", "b", "c", "d"] {
        delivery.handle_event(Tick(0), online(user, 1));
    }
    let running = jobs(&mut delivery, 0);
    assert_eq!(running.len(), 3);
    delivery.handle_reload(Tick(0), DeliveryConfig { concurrency: 1, ..config() }, 2);
    for (job, _, _) in &running[..2] {
        delivery.handle_verdict(Tick(0), *job, Verdict::Delivered);
        assert_eq!(jobs(&mut delivery, 0), []);
    }
    delivery.handle_verdict(Tick(0), running[2].0, Verdict::Delivered);
    assert_eq!(names(&jobs(&mut delivery, 0)), [("d 1", 1)]);
}

#[test]
fn events_of_a_hook_that_is_gone_are_settled_and_hold_nobody_up() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), offline("a", 2));
    delivery.handle_event(Tick(0), offline("b", 1));
    delivery.handle_event(Tick(0), connected(7));
    delivery.handle_event(Tick(0), disconnected(7));
    delivery.handle_event(Tick(0), lost(0));
    let gone = [Hook::UserOnline, Hook::SessionConnected, Hook::Cleanup];
    assert_eq!(delivery.handle_hooks(all_but(&gone)), 3);
    assert_eq!(settled(&mut delivery), unwanted(&["a 1", "session-connected 7", "cleanup 0"]));
    assert_eq!(names(&jobs(&mut delivery, 0)), [("a 2", 1), ("b 1", 1)]);
    assert_eq!((delivery.unsettled(), delivery.depth().queued), (3, 1));
    delivery.handle_event(Tick(0), online("c", 1));
    assert_eq!(settled(&mut delivery), unwanted(&["c 1"]), "also what comes later");
    assert_eq!(delivery.counters().unwanted, 4);
}

#[test]
fn a_paused_lane_whose_head_is_gone_is_ready() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), connected(7));
    delivery.handle_event(Tick(0), disconnected(7));
    let job = jobs(&mut delivery, 0);
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    assert_eq!(jobs(&mut delivery, 0), []);
    delivery.handle_hooks(all_but(&[Hook::SessionConnected]));
    assert_eq!(names(&jobs(&mut delivery, 0)), [("session-disconnected 7", 1)]);
    assert_eq!(delivery.depth().backing_off, 0);
}

#[test]
fn a_call_of_a_hook_that_is_gone_ends_by_itself_and_is_not_repeated() {
    for verdict in [retry(), Verdict::Cut, Verdict::Stalled("slow".into()), Verdict::Trapped("!".into())] {
        let mut delivery = Delivery::new(config(), 1);
        delivery.handle_event(Tick(0), online("a", 1));
        let job = jobs(&mut delivery, 0);
        delivery.handle_hooks(BTreeSet::new());
        assert_eq!((settled(&mut delivery), delivery.depth().running), (vec![], 1));
        delivery.handle_verdict(Tick(0), job[0].0, verdict);
        assert_eq!(settled(&mut delivery), unwanted(&["a 1"]));
        assert_eq!(delivery.unsettled(), 0);
    }
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    let job = jobs(&mut delivery, 0);
    delivery.handle_hooks(BTreeSet::new());
    delivery.handle_verdict(Tick(0), job[0].0, Verdict::Delivered);
    assert_eq!(settled(&mut delivery), [("a 1".to_owned(), Settlement::Delivered)]);
}

#[test]
fn everything_in_backoff_holds_nobody_back_once_it_is_gone() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), sweep(Scope::Everything, 0));
    let job = jobs(&mut delivery, 0);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_hooks(all_but(&[Hook::Cleanup]));
    assert_eq!(jobs(&mut delivery, 0), [], "it runs still");
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    assert_eq!(settled(&mut delivery), unwanted(&["cleanup 0"]));
    assert_eq!(names(&jobs(&mut delivery, 0)), [("a 1", 1)]);

    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), sweep(Scope::Everything, 0));
    let job = jobs(&mut delivery, 0);
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    delivery.handle_event(Tick(0), online("a", 1));
    assert_eq!(jobs(&mut delivery, 0), []);
    delivery.handle_hooks(all_but(&[Hook::Cleanup]));
    assert_eq!(names(&jobs(&mut delivery, 0)), [("a 1", 1)]);
}

#[test]
fn a_withheld_and_a_withdrawn_lane_may_lose_its_hook() {
    let mut delivery = Delivery::new(config(), 1);
    delivery.handle_event(Tick(0), online("a", 1));
    delivery.handle_event(Tick(0), offline("a", 2));
    delivery.handle_event(Tick(0), online("b", 1));
    delivery.handle_permit(Tick(0));
    assert_eq!(jobs(&mut delivery, 0), []);
    delivery.handle_hooks(all_but(&[Hook::UserOnline]));
    assert_eq!(settled(&mut delivery), unwanted(&["a 1", "b 1"]));
    assert_eq!(delivery.depth().withheld, 1);
    delivery.handle_permit(Tick(u64::MAX));
    let job = jobs(&mut delivery, 0);
    assert_eq!(names(&job), [("a 2", 1)]);
    assert_eq!(delivery.handle_withdraw(partition_of("a")), 1);
    delivery.handle_hooks(BTreeSet::new());
    delivery.handle_verdict(Tick(0), job[0].0, retry());
    assert_eq!(settled(&mut delivery), [], "the next owner repeats it");
    assert_eq!(delivery.unsettled(), 0);
}

proptest! {
    /// Whatever is reloaded when: each event is settled once, and no user's news go back.
    #[test]
    fn reloads_lose_and_reorder_nothing(
        steps in proptest::collection::vec((0..4_u8, 0..6_u8, 0..6_u8), 1..300),
    ) {
        let mut delivery = Delivery::new(config(), 1);
        let (mut now, mut generation, mut revision) = (0, 1, 0);
        let mut given = BTreeSet::new();
        let mut running: Vec<(JobId, String)> = Vec::new();
        let mut started: BTreeMap<String, u64> = BTreeMap::new();
        let mut done = Vec::new();
        for (what, which, how) in steps {
            now += 50;
            match what {
                0 => {
                    revision += 1;
                    let user = format!("u{which}");
                    let payload = if how % 2 == 0 { online(&user, revision) } else { offline(&user, revision) };
                    given.insert(name(&payload));
                    delivery.handle_event(Tick(now), payload);
                }
                1 => {
                    generation += 1;
                    let concurrency = u32::from(which) + 1;
                    delivery.handle_reload(Tick(now), DeliveryConfig { concurrency, ..config() }, generation);
                    let gone: &[Hook] = if how == 0 { &[Hook::UserOnline] } else { &[] };
                    delivery.handle_hooks(all_but(gone));
                }
                _ => {
                    while let Some(job) = delivery.poll_job(Tick(now)) {
                        let Payload::Status(transition) = &job.payload else { panic!("statuses only") };
                        let last = started.entry(transition.user.to_string()).or_default();
                        prop_assert!(*last <= transition.revision, "back from {last} to {}", transition.revision);
                        *last = transition.revision;
                        prop_assert_eq!(job.generation, generation);
                        running.push((job.id, name(&job.payload)));
                    }
                    if !running.is_empty() {
                        let (job, _) = running.swap_remove(usize::from(which) % running.len());
                        let verdict = if how == 5 { retry() } else { Verdict::Delivered };
                        delivery.handle_verdict(Tick(now), job, verdict);
                    }
                }
            }
            done.extend(settled(&mut delivery).into_iter().map(|(name, _)| name));
        }
        while delivery.unsettled() > 0 {
            now += 60_000;
            for (job, _) in running.drain(..) {
                delivery.handle_verdict(Tick(now), job, Verdict::Delivered);
            }
            running = jobs(&mut delivery, now).into_iter().map(|(job, name, _)| (job, name)).collect();
            done.extend(settled(&mut delivery).into_iter().map(|(name, _)| name));
        }
        prop_assert_eq!(done.len(), given.len());
        prop_assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), given);
    }
}
