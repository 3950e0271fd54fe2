//! Holders among the instances: they take part in nothing, and are judged, cleaned up after and spared.

use super::*;
use crate::documents::HolderRecord;
use crate::holders::Rejected;
use crate::ids::HolderName;

const LEASE: u64 = 40_000;
const HOLDER: InstanceId = InstanceId(77);

fn record(renewal: u64, start: u64) -> InstanceRecord {
    let holder = HolderRecord {
        name: "chat".parse().unwrap(),
        incarnation: "a".parse().unwrap(),
        lease_ms: LEASE,
        start,
        current: None,
    };
    InstanceRecord {
        host: "chat".into(),
        state: InstanceState::Joining,
        started_at: Timestamp(1),
        renewal,
        plugins: 0,
        cleanup: None,
        holder: Some(Box::new(holder)),
    }
}

/// The holder's key is written, on whatever there is.
fn keep(world: &mut World, renewal: u64, start: u64) {
    let document = Document::Instance(record(renewal, start));
    let lease = Some(Duration::from_millis(LEASE));
    world.put(Key::Instance(HOLDER), document, &Expect::Any, lease).unwrap();
    world.pass(100);
}

fn view(world: &mut World, number: u128) -> Option<HolderView> {
    world.member(number).holder(&"chat".parse().unwrap(), &"a".parse().unwrap())
}

#[test]
fn a_holder_is_nobody_who_could_own_judge_or_stay() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let start = world.boot().start;
    keep(&mut world, 1, start);
    assert!(world.member(1).is_last());
    let now = world.now();
    assert!(world.member(1).announces(now, HOLDER));
    assert_eq!(world.member(1).counters().holders, 1);
    world.assert_owned();
    world.pass(LEASE * 2 / 3 + 200);
    let now = world.now();
    assert!(!world.member(1).announces(now, HOLDER), "its lease may be over by the time that is heard of");
    world.start(2);
    world.pass(1000);
    assert_eq!(view(&mut world, 2).map(|view| (view.suspect, view.outdated)), Some((false, false)));
    world.assert_owned();
}

#[test]
fn i5_a_holder_whose_lease_runs_out_is_declared_dead_and_cleaned_up_after_once() {
    let mut world = three();
    let start = world.boot().start;
    keep(&mut world, 1, start);
    world.sessions.insert(HOLDER, vec![session(1, HOLDER.0)]);
    world.pass(LEASE - 1000);
    assert_eq!(world.instance_state(HOLDER.0).unwrap().state, InstanceState::Joining);
    keep(&mut world, 2, start);
    world.pass(LEASE - 1000);
    assert_eq!(world.instance_state(HOLDER.0).unwrap().state, InstanceState::Joining, "it was renewed");
    world.pass(3000);
    let record = world.instance_state(HOLDER.0).unwrap();
    assert_eq!(record.cleanup.unwrap().phase, CleanupPhase::Purged);
    let told: Vec<usize> = world.told.iter().map(|(_, _, sessions)| *sessions).collect();
    assert_eq!(told, [1]);
    assert_eq!(view(&mut world, 1), None);
}

#[test]
fn after_an_outage_a_holder_has_the_time_of_its_lease_to_come_back() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let start = world.boot().start;
    keep(&mut world, 1, start);
    // The host hears and renews nothing for longer than both leases.
    world.hosts.get_mut(&1).unwrap().paused = true;
    world.pass(LEASE + 2000);
    world.hosts.get_mut(&1).unwrap().paused = false;
    world.pass(TTL + 2000);
    let there = view(&mut world, 1);
    assert!(there.is_none_or(|view| view.suspect), "it is not declared dead");
    assert_eq!(world.instance_state(HOLDER.0), None);
    keep(&mut world, 2, start);
    world.pass(LEASE / 2);
    assert_eq!(world.instance_state(HOLDER.0).unwrap().state, InstanceState::Joining);
}

#[test]
fn i5_a_fresh_start_spares_a_holder_that_lives_and_nobody_brings_back_another() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let start = world.boot().start;
    keep(&mut world, 1, start);
    for id in [1, HOLDER.0] {
        world.sessions.insert(InstanceId(id), vec![session(id, id)]);
    }
    world.kill(1);
    world.pass(TTL + 1000);
    world.start(11);
    world.pass(TTL * 3);
    assert_eq!(world.everything.len(), 2);
    assert_eq!(world.sessions.keys().copied().collect::<Vec<_>>(), [HOLDER], "everybody else's documents go");
    let spared = world.instance_state(HOLDER.0).unwrap();
    assert_eq!(spared.holder.map(|holder| holder.start), Some(world.boot().start), "it bears the new start");
    assert_eq!(view(&mut world, 11).map(|view| view.outdated), Some(false));
    // A host that has not heard of the fresh start renews it as it knew it.
    keep(&mut world, 9, start);
    world.pass(TTL * 2);
    assert_eq!(world.instance_state(HOLDER.0).unwrap().state, InstanceState::Dead);
}

/// What a host makes of it that a session of the holder is not there, having read the holder's record.
fn absence(world: &mut World, number: u128) -> Rejected {
    let (now, found) = (world.now(), world.instance_state(HOLDER.0));
    world.member(number).absence(now, HOLDER, found.as_ref())
}

/// Seeds 819, 1221, 7388 and 9229 of the simulation: it was told that the session is not there.
#[test]
fn that_a_session_is_not_there_may_be_news_of_its_holder() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let start = world.boot().start;
    keep(&mut world, 1, start);
    assert_eq!(absence(&mut world, 1), Rejected::Unknown, "it lives: the session alone is not there");
    // The host is away, and the holder's lease runs out; another host begins afresh, which removes what it had.
    world.hosts.get_mut(&1).unwrap().paused = true;
    world.pass(LEASE + TTL);
    assert_eq!(world.instance_state(HOLDER.0), None);
    let (now, member) = (world.now(), world.member(1));
    assert_eq!(member.absence(now, HOLDER, None), Rejected::Unsure, "it knows nothing of all that");
    world.start(11);
    world.pass(TTL * 2);
    assert_eq!((world.everything.len(), world.host(11).ready), (2, true));
    world.hosts.get_mut(&1).unwrap().paused = false;
    world.pass(1000);
    assert!(world.host(1).log.contains(&"reborn".to_owned()) && world.member(1).is_ready());
    for number in [1, 11] {
        let (now, old) = (world.now(), record(9, start));
        let member = world.member(number);
        assert_eq!(member.absence(now, HOLDER, None), Rejected::Gone);
        assert_eq!(member.absence(now, HOLDER, Some(&old)), Rejected::Gone, "whoever has renewed it since");
    }
}

#[test]
fn a_holder_whose_lease_is_over_may_still_come_back() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let start = world.boot().start;
    keep(&mut world, 1, start);
    let (now, member) = (world.now(), world.member(1));
    assert_eq!(member.absence(now, HOLDER, None), Rejected::Lapsed, "the watch has not shown it yet");
    world.hosts.get_mut(&1).unwrap().paused = true;
    world.pass(LEASE + 2000);
    world.hosts.get_mut(&1).unwrap().paused = false;
    world.pass(TTL / 2);
    assert_eq!(absence(&mut world, 1), Rejected::Lapsed);
    world.pass(LEASE * 2);
    assert_eq!(absence(&mut world, 1), Rejected::Gone, "it was declared dead");
}

#[test]
fn the_record_of_a_name_is_nobody() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let mut name = record(1, 1);
    name.state = InstanceState::Left;
    if let Some(holder) = &mut name.holder {
        holder.current = Some(HOLDER);
    }
    let key = "chat".parse::<HolderName>().unwrap().key();
    world.put(Key::Instance(key), Document::Instance(name), &Expect::Any, None).unwrap();
    world.pass(1000);
    assert!(world.member(1).is_last());
    assert_eq!(world.member(1).instances(Now::at(5000)).len(), 1, "not shown");
    assert_eq!(world.member(1).holder_instances(&"chat".parse().unwrap()), []);
    assert_eq!(key.0 >> 76 & 0xf, 8, "a UUID of a version that no instance has");
}
