//! Joining, booting, claiming, dying, cleaning up, leaving: several memberships over a model of the store.

use super::*;

mod holders;
mod world;
use world::{PARTITIONS, TTL, World, session};

/// The journal of a dead instance, of which nobody has settled anything.
fn cleanup(phase: CleanupPhase, by: Option<InstanceId>) -> Cleanup {
    Cleanup { phase, by, declared_at: Timestamp(0), round: 0, settled: Default::default() }
}

/// Three hosts, ready.
fn three() -> World {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    for number in 2..=3 {
        world.start(number);
    }
    world.pass(200);
    world
}

#[test]
fn a_lonely_host_declares_the_fresh_start_then_claims_everything_at_once() {
    let mut world = World::new();
    world.shared = false;
    world.start(1);
    assert!(world.host(1).ready, "a store of its own holds nobody up");
    assert_eq!(world.everything, [(1, "3e8-1-0".to_owned())]);
    world.assert_owned();
    assert_eq!(world.member(1).generation(), 1);
    assert!(world.member(1).is_last());
}

#[test]
fn who_joins_takes_over_his_share_and_cleans_nothing() {
    let world = three();
    assert_eq!(world.everything.len(), 1);
    assert!(world.hosts.values().all(|host| host.ready));
    world.assert_owned();
    assert!(world.hosts.values().all(|host| !host.owns.is_empty()));
    assert!(world.host(1).log.iter().any(|line| line.starts_with("surrender")), "handed over, not taken");
    assert!(world.told.is_empty());
}

#[test]
fn i5_a_host_that_dies_is_declared_dead_and_cleaned_up_after_once() {
    let mut world = three();
    world.sessions.insert(InstanceId(2), (1..=600).map(|id| session(id, 2)).collect());
    world.kill(2);
    world.pass(TTL - 500);
    assert_eq!(world.instance_state(2).unwrap().state, InstanceState::Ready, "its lease still runs");
    world.pass(1000);
    let record = world.instance_state(2).unwrap();
    assert_eq!(record.state, InstanceState::Dead);
    assert_eq!(record.cleanup.unwrap().phase, CleanupPhase::Purged);
    let chunks: Vec<usize> = world.told.iter().map(|(_, _, sessions)| *sessions).collect();
    assert_eq!(chunks, [256, 256, 88]);
    for number in [1, 3] {
        let lost = format!("lost {}", InstanceId(2));
        assert_eq!(world.host(number).log.iter().filter(|line| **line == lost).count(), 1);
        assert!(!world.member(number).counts(InstanceId(2)));
    }
    world.assert_owned();
    world.pass(TTL * 3);
    assert_eq!(world.told.len(), 3);
    assert_eq!(world.everything.len(), 1);
}

/// Seed 237724 of the simulation: it went on cleaning up in a store that was recreated, where the dead one lived again, and
/// removed what it had just written.
#[test]
fn i5_a_cleanup_whose_journal_is_not_there_is_not_gone_on_with() {
    let mut world = three();
    world.kill(2);
    // Host 1 is the cleaner, as it knows; nobody settles anything yet.
    let now = Now::at(world.now + TTL * 2);
    let member = world.member(1);
    let key = Key::Instance(InstanceId(2));
    let mut record = member.peers.get(InstanceId(2)).unwrap().record.clone();
    record.state = InstanceState::Dead;
    let journal = cleanup(CleanupPhase::Told, Some(InstanceId(1)));
    record.cleanup = Some(journal.clone());
    let told = Document::Instance(record.clone());
    member.handle_update(now, &update(key.clone(), 900, told));
    let purges = |effects: &[MembershipEffect]| {
        effects.iter().filter(|effect| matches!(effect, MembershipEffect::Purge(_))).count()
    };
    assert_eq!(purges(&drain(member)), 1);
    member.handle_purged(now, InstanceId(2));
    drain(member);
    record.cleanup = Some(Cleanup { phase: CleanupPhase::Purged, ..journal });
    let purged = Document::Instance(record);
    member.handle_written(now, &key, &purged, Err(NotWritten::Conflict(Sequence(0))));
    member.handle_timeout(now);
    let effects = drain(member);
    assert_eq!(purges(&effects), 0);
    let read = MembershipEffect::ReadInstance { instance: InstanceId(2), last: Sequence(0) };
    assert!(effects.contains(&read));
    member.handle_instance_read(now, InstanceId(2), Sequence(0), None);
    assert_eq!(purges(&drain(member)), 0);
    let peer = member.peers.get(InstanceId(2)).unwrap();
    let cleanup = peer.record.cleanup.as_ref().unwrap();
    assert!(peer.suspect, "it is to be declared dead in this store too");
    assert_eq!((cleanup.phase, cleanup.by, cleanup.round), (CleanupPhase::Telling, None, 1));
}

#[test]
fn a_dead_instance_without_sessions_gets_an_empty_cleanup() {
    let mut world = three();
    world.kill(3);
    world.pass(TTL + 1000);
    assert_eq!(world.told.iter().map(|told| (told.1, told.2)).collect::<Vec<_>>(), [(InstanceId(3), 0)]);
}

#[test]
fn a_host_that_was_away_too_long_comes_back_as_another_one() {
    let mut world = three();
    world.host(2);
    world.hosts.get_mut(&2).unwrap().paused = true;
    world.pass(TTL * 2);
    assert_eq!(world.instance_state(2).unwrap().state, InstanceState::Dead);
    world.assert_owned();
    world.hosts.get_mut(&2).unwrap().paused = false;
    world.pass(1000);
    assert!(world.host(2).log.contains(&"reborn".to_owned()));
    assert_eq!(world.member(2).instance(), InstanceId(1001));
    assert!(world.member(2).is_ready());
    world.assert_owned();
    assert!(!world.host(2).owns.is_empty());
    assert_eq!(world.told.len(), 1, "only the old life is cleaned up after");
}

/// Seed 14734 of the simulation: a partition stayed with a dead host for ever.
#[test]
fn who_was_being_judged_when_the_judge_died_is_judged_by_its_next_life() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    world.start(2);
    world.pass(TTL * 2);
    world.unheard = Some(1);
    world.kill(2);
    world.pass(TTL + 1000);
    assert_eq!(world.instance_state(2).map(|record| record.state), None, "its judge is not heard");
    let (last, _) = world.get(&Key::Instance(InstanceId(1))).unwrap();
    let record = world.instance_state(1).unwrap();
    let journal = cleanup(CleanupPhase::Purged, None);
    let dead = InstanceRecord { state: InstanceState::Dead, cleanup: Some(journal), ..record };
    world.put(Key::Instance(InstanceId(1)), Document::Instance(dead), &Expect::Last(last), None).unwrap();
    world.unheard = None;
    world.pass(TTL * 4);
    assert!(world.host(1).log.contains(&"reborn".to_owned()));
    assert_eq!(world.instance_state(2).unwrap().state, InstanceState::Dead);
    assert!(world.member(1).is_ready());
    world.assert_owned();
}

#[test]
fn after_an_outage_everybody_has_the_time_to_come_back() {
    let mut world = three();
    for host in world.hosts.values_mut() {
        host.paused = true;
    }
    world.pass(TTL * 3);
    for host in world.hosts.values_mut() {
        host.paused = false;
    }
    world.pass(TTL * 3);
    assert_eq!((world.told.len(), world.everything.len()), (0, 1), "nobody died, nothing was begun afresh");
    for number in 1..=3 {
        assert!(world.member(number).is_ready());
        assert_eq!(world.instance_state(number).unwrap().state, InstanceState::Ready);
    }
    world.assert_owned();
}

#[test]
fn a_rolling_restart_hands_everything_over() {
    let mut world = three();
    for number in 1..=3 {
        world.start(number + 10);
        let now = world.now();
        world.member(number).handle_drain(now);
        world.settle();
        world.pass(500);
        assert!(world.host(number).owns.is_empty(), "handed over to the ready ones");
        assert!(!world.member(number).is_last());
        let now = world.now();
        world.member(number).handle_leave(now, true);
        world.settle();
        assert!(world.member(number).has_left());
        world.kill(number);
        world.assert_owned();
    }
    world.pass(TTL * 10);
    assert_eq!((world.told.len(), world.everything.len()), (0, 1));
    assert!(world.instance_state(1).is_none(), "the record of one that left goes after a while");
}

#[test]
fn a_host_that_leaves_unsettled_is_cleaned_up_after() {
    let mut world = three();
    let now = world.now();
    world.member(1).handle_drain(now);
    world.settle();
    world.member(1).handle_leave(now, false);
    world.settle();
    assert!(world.member(1).has_left());
    world.kill(1);
    world.pass(TTL * 2);
    assert_eq!(world.told.iter().map(|told| told.1).collect::<Vec<_>>(), [InstanceId(1)]);
    world.assert_owned();
}

/// Seed 25020 of the simulation: it announced a session after it had been cleaned up after.
#[test]
fn i5_who_leaves_unsettled_has_no_lease_once_the_marker_is_seen() {
    let mut world = three();
    let now = world.now();
    let member = world.member(1);
    member.handle_drain(now);
    let renewal = renewal_of(&drain(member)).expect("it says so");
    member.handle_leave(now, false);
    drain(member);
    let key = Key::Instance(InstanceId(1));
    member.handle_update(now, &update(key.clone(), 900, Document::Instance(renewal.clone())));
    assert!(member.may_act(now));
    member.handle_update(now, &Update { key, sequence: Sequence(901), change: Change::Expired });
    member.handle_renewed(now, renewal.renewal, Some(Ok(Sequence(900))));
    assert!(!member.may_act(now));
    let permits: Vec<Tick> = drain(member)
        .into_iter()
        .filter_map(|effect| match effect {
            MembershipEffect::Permit(until) => Some(until),
            _ => None,
        })
        .collect();
    assert_eq!(permits.last(), Some(&Tick(0)));
    assert!(member.has_left());
}

#[test]
fn i5_whoever_hears_of_its_own_death_has_no_lease() {
    for steps in 0..4 {
        let mut world = three();
        let now = world.now();
        let record = world.instance_state(1).unwrap();
        let member = world.member(1);
        if steps > 0 {
            member.handle_drain(now);
        }
        if steps > 1 {
            member.handle_leave(now, false);
        }
        if steps > 2 {
            let renewal = member.lease.send(now.tick);
            member.handle_renewed(now, renewal, None);
            assert_eq!(member.phase, Phase::Left);
        }
        drain(member);
        assert!(member.may_act(now), "{steps}");
        let journal = cleanup(CleanupPhase::Telling, None);
        let dead = InstanceRecord { state: InstanceState::Dead, cleanup: Some(journal), ..record };
        member.handle_update(now, &update(Key::Instance(InstanceId(1)), 900, Document::Instance(dead)));
        assert!(!member.may_act(now), "{steps}");
        assert!(drain(member).contains(&MembershipEffect::Permit(Tick(0))), "{steps}");
    }
}

#[test]
fn the_last_host_closes_the_boot_so_that_the_next_need_not_wait() {
    let mut world = World::new();
    world.start(1);
    assert!(!world.host(1).ready, "an empty store may be one that was recreated");
    world.pass(TTL / 2 + 100);
    assert!(world.host(1).ready);
    let now = world.now();
    world.member(1).handle_drain(now);
    assert!(world.member(1).is_last());
    world.member(1).handle_leave(now, true);
    world.settle();
    world.kill(1);
    world.start(2);
    assert!(world.host(2).ready);
    assert_eq!(world.everything.len(), 2);
    assert_eq!(world.member(2).generation(), 2);
}

#[test]
fn i5_everything_runs_once_when_all_were_gone() {
    let mut world = three();
    for number in 1..=3 {
        world.kill(number);
    }
    world.pass(TTL + 500);
    for number in 11..=13 {
        world.start(number);
    }
    world.pass(TTL / 2);
    assert!(world.hosts.values().all(|host| !host.ready), "the old ones may still come back");
    world.pass(TTL * 2);
    assert!(world.hosts.values().all(|host| host.ready));
    assert_eq!(world.everything.len(), 2);
    world.assert_owned();
    world.pass(TTL * 4);
    assert!(world.told.is_empty(), "everything covers them all");
}

#[test]
fn i5_hosts_that_are_restarted_while_their_old_leases_run_are_cleaned_up_after_one_by_one() {
    let mut world = three();
    for number in 1..=3 {
        world.kill(number);
    }
    for number in 11..=13 {
        world.start(number);
    }
    world.pass(TTL * 3);
    assert!(world.hosts.values().all(|host| host.ready));
    assert_eq!(world.everything.len(), 1, "there always was somebody who looked alive");
    let mut dead: Vec<InstanceId> = world.told.iter().map(|told| told.1).collect();
    dead.sort_unstable();
    assert_eq!(dead, [1, 2, 3].map(InstanceId));
    world.assert_owned();
}

#[test]
fn i5_a_fresh_start_whose_starter_has_no_answer_yet_is_joined() {
    let mut world = World::new();
    let starter = InstanceId(9);
    let mut record = InstanceRecord {
        host: "host-9".into(),
        state: InstanceState::Joining,
        started_at: Default::default(),
        renewal: 0,
        plugins: 1,
        cleanup: None,
        holder: None,
    };
    let boot = BootRecord {
        generation: 1,
        phase: BootPhase::Open,
        by: starter,
        start: 7,
        epoch: 0,
        owed: None,
        anew: false,
    };
    world.put(Key::Boot, Document::Boot(boot), &Expect::Any, None).unwrap();
    let lease = Some(Duration::from_millis(TTL));
    world.put(Key::Instance(starter), Document::Instance(record.clone()), &Expect::Any, lease).unwrap();
    world.start(1);
    for _ in 0..6 {
        world.pass(TTL / 3);
        record.renewal += 1;
        world.put(Key::Instance(starter), Document::Instance(record.clone()), &Expect::Any, lease).unwrap();
    }
    assert_eq!(world.everything, [], "the starter lives: it has run the hook");
    assert!(world.member(1).is_ready());
}

#[test]
fn another_host_takes_over_the_fresh_start_of_one_that_dies() {
    let mut world = three();
    for number in 1..=3 {
        world.kill(number);
    }
    world.start(11);
    world.start(12);
    // The first to declare it dies before it opens: its boot record stays.
    let boot = BootRecord {
        generation: 2,
        phase: BootPhase::Cleaning,
        by: InstanceId(99),
        start: 99,
        epoch: 0,
        owed: None,
        anew: false,
    };
    let (last, _) = world.get(&Key::Boot).unwrap();
    world.put(Key::Boot, Document::Boot(boot), &Expect::Last(last), None).unwrap();
    world.pass(TTL * 3);
    assert!(world.hosts.values().all(|host| host.ready));
    assert_eq!(world.everything.len(), 2, "the first start and the one that was taken over");
    assert_eq!(world.member(11).generation(), 3);
}

/// A host that may declare a fresh start as soon as it has read the claims.
fn cleaner_before_claims() -> Membership {
    let mut world = World::new();
    world.start(1);
    let mut member = Membership::new(world.member(1).config.clone());
    member.handle_clock(Now::at(0), true);
    let me = Key::Instance(InstanceId(1));
    let layout = member.config.layout;
    let documents =
        [(Key::Meta, Sequence(1), Document::Meta(MetaRecord { format: FORMAT, layout, epoch: 1 }))];
    let closed = BootRecord {
        generation: 6,
        phase: BootPhase::Closed,
        by: InstanceId(5),
        start: 6,
        epoch: 0,
        owed: None,
        anew: false,
    };
    member.handle_start(Now::at(1));
    member.handle_loaded(Now::at(1), &documents);
    member.handle_update(Now::at(1), &update(Key::Boot, 2, Document::Boot(closed)));
    let renewal = std::iter::from_fn(|| member.poll_effect())
        .find_map(|effect| match effect {
            MembershipEffect::Renew { record, .. } => Some(record),
            _ => None,
        })
        .unwrap();
    member.handle_renewed(Now::at(1), renewal.renewal, Some(Ok(Sequence(3))));
    member.handle_update(Now::at(1), &update(me, 3, Document::Instance(renewal)));
    member
}

/// A host whose declaration of a fresh start is on its way, and what it declares.
fn declaring() -> (Membership, BootRecord) {
    let mut member = cleaner_before_claims();
    member.handle_claims(Now::at(1), &[]);
    let declared = std::iter::from_fn(|| member.poll_effect())
        .find_map(|effect| match effect {
            MembershipEffect::Declare { boot, .. } => Some(boot),
            _ => None,
        })
        .unwrap();
    (member, declared)
}

/// A host that has declared a fresh start and waits for its plugins.
fn cleaner() -> Membership {
    let (mut member, declared) = declaring();
    member.handle_written(Now::at(1), &Key::Boot, &Document::Boot(declared), Ok(Sequence(4)));
    assert_eq!(member.poll_effect(), Some(MembershipEffect::Everything("1-7-0".into())));
    assert_eq!(member.poll_effect(), Some(MembershipEffect::PurgeAll(vec![])));
    member
}

fn update(key: Key, sequence: u64, document: Document) -> Update {
    Update { key, sequence: Sequence(sequence), change: Change::Put(document) }
}

#[test]
fn i5_a_fresh_start_that_is_acknowledged_past_the_lease_is_not_begun() {
    let (mut member, declared) = declaring();
    let late = Now::at(1 + TTL);
    member.handle_written(late, &Key::Boot, &Document::Boot(declared), Ok(Sequence(4)));
    assert_eq!(member.poll_effect(), Some(MembershipEffect::Abandon), "the store may be another one by now");
    assert_eq!(member.poll_effect(), None);
    assert_eq!(member.counters().fresh_starts, 0);
}

/// Seed 317067 of the simulation: it was taken for dead meanwhile, and another one took the fresh start over.
#[test]
fn i5_a_fresh_start_that_is_acknowledged_under_another_lease_is_declared_once_more() {
    let (mut member, declared) = declaring();
    let later = Now::at(1 + TTL * 2);
    member.handle_timeout(later);
    let renewal = renewal_of(&drain(&mut member)).expect("it is awake again");
    let me = Key::Instance(InstanceId(1));
    member.handle_renewed(later, renewal.renewal, Some(Ok(Sequence(5))));
    member.handle_update(later, &update(me, 5, Document::Instance(renewal)));
    assert!(member.may_act(later));
    drain(&mut member);
    member.handle_written(later, &Key::Boot, &Document::Boot(declared), Ok(Sequence(4)));
    let effects = drain(&mut member);
    assert!(!effects.iter().any(|effect| matches!(effect, MembershipEffect::Everything(_))));
    let again = effects.into_iter().find_map(|effect| match effect {
        MembershipEffect::Declare { boot, expect } => Some((boot, expect)),
        _ => None,
    });
    assert_eq!(again, Some((declared, Sequence(4))), "whoever took over refuses it");
    member.handle_written(later, &Key::Boot, &Document::Boot(declared), Ok(Sequence(6)));
    assert!(drain(&mut member).contains(&MembershipEffect::Everything("1-7-0".into())));
}

/// Seed 312986 of the simulation: others took it for one that was written back, and told its `everything` once more.
#[test]
fn i5_a_fresh_start_in_a_store_that_gets_its_meta_record_later_is_of_that_store() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let now = world.now();
    let (_, Document::Boot(boot)) = world.get(&Key::Boot).unwrap() else { panic!("no boot record") };
    let me = world.get(&Key::Instance(InstanceId(1))).unwrap();
    let meta = MetaRecord { format: FORMAT, layout: world.member(1).config.layout, epoch: 77 };
    let written_back = BootRecord { by: InstanceId(2), ..boot };
    for (boot, epoch) in [(boot, Some(77)), (written_back, None)] {
        let mut world = World::new();
        world.start(1);
        world.pass(TTL);
        let member = world.member(1);
        let documents = [
            (Key::Meta, Sequence(900), Document::Meta(meta)),
            (Key::Boot, Sequence(901), Document::Boot(boot)),
            (Key::Instance(InstanceId(1)), me.0, me.1.clone()),
        ];
        member.handle_loaded(now, &documents);
        let written = match boot_of(&drain(member)) {
            Some(Document::Boot(boot)) => Some(boot.epoch),
            _ => None,
        };
        assert_eq!(written, epoch);
    }
}

/// Seed 301193 of the simulation: it was forgotten that it is dead, and its sessions did not count all the same.
#[test]
fn a_dead_instance_that_only_a_claim_told_of_is_not_forgotten() {
    let mut peers = Peers::default();
    let (dead, ghost) = (InstanceId(8), InstanceId(9));
    for instance in [dead, ghost] {
        peers.seen(Tick(1), instance, true);
    }
    assert!(peers.settle_unknown(Tick(2)));
    let mut record = peers.get(dead).unwrap().record.clone();
    record.state = InstanceState::Dead;
    peers.take(Tick(3), dead, Sequence(5), &record);
    peers.forget_disowned(|_| false);
    assert!(peers.is_dead(dead) && peers.get(ghost).is_none());
}

#[test]
fn a_fresh_start_that_another_took_over_is_abandoned() {
    let mut member = cleaner();
    let boot = BootRecord {
        generation: 8,
        phase: BootPhase::Cleaning,
        by: InstanceId(2),
        start: 8,
        epoch: 0,
        owed: None,
        anew: false,
    };
    member.handle_update(Now::at(2), &update(Key::Boot, 5, Document::Boot(boot)));
    assert_eq!(member.poll_effect(), Some(MembershipEffect::Abandon));
    member.handle_everything_settled("1-7-0");
    member.handle_all_purged();
    assert_eq!(member.poll_effect(), None, "what its plugins say now opens nothing");
}

#[test]
fn what_another_run_settles_opens_nothing() {
    let mut member = cleaner();
    member.handle_all_purged();
    member.handle_everything_settled("1-6-0");
    assert_eq!(member.poll_effect(), None);
    member.handle_everything_settled("1-7-0");
    assert!(matches!(member.poll_effect(), Some(MembershipEffect::Write { key: Key::Boot, .. })));
}

#[test]
fn a_boot_record_that_was_refused_is_read_before_anything_is_decided_from_it() {
    let mut member = cleaner();
    member.handle_everything_settled("1-7-0");
    member.handle_all_purged();
    let Some(MembershipEffect::Write { key, document, .. }) = member.poll_effect() else {
        panic!("no write")
    };
    // The store was recreated meanwhile: the old record of this instance says nothing any more.
    member.handle_written(Now::at(2), &key, &document, Err(NotWritten::Conflict(Sequence(0))));
    assert_eq!(member.poll_effect(), Some(MembershipEffect::Abandon));
    assert_eq!(member.poll_effect(), Some(MembershipEffect::Load));
    member.handle_timeout(Now::at(3));
    assert_eq!(member.poll_effect(), None, "no second `everything`");
}

#[test]
fn who_was_second_to_declare_waits_for_the_first_however_he_hears_of_him() {
    let mut member = cleaner();
    let other = InstanceId(2);
    let record = InstanceRecord {
        host: "other".into(),
        state: InstanceState::Joining,
        started_at: Timestamp(1),
        renewal: 1,
        plugins: 0,
        cleanup: None,
        holder: None,
    };
    member.handle_update(Now::at(1), &update(Key::Instance(other), 5, Document::Instance(record)));
    member.handle_everything_settled("1-7-0");
    member.handle_all_purged();
    let Some(MembershipEffect::Write { key, document, .. }) = member.poll_effect() else {
        panic!("no write")
    };
    member.handle_written(Now::at(2), &key, &document, Err(NotWritten::Conflict(Sequence(6))));
    let cleaning = BootRecord {
        generation: 8,
        phase: BootPhase::Cleaning,
        by: other,
        start: 8,
        epoch: 0,
        owed: None,
        anew: false,
    };
    member.handle_update(Now::at(2), &update(Key::Boot, 6, Document::Boot(cleaning)));
    let open = BootRecord { phase: BootPhase::Open, ..cleaning };
    member.handle_update(Now::at(2), &update(Key::Boot, 7, Document::Boot(open)));
    let declares = std::iter::from_fn(|| member.poll_effect())
        .any(|effect| matches!(effect, MembershipEffect::Declare { .. }));
    assert!(!declares, "it belongs to the other's start");
    assert_eq!(member.generation(), 8);
}

#[test]
fn who_waits_for_a_cleaner_that_dies_declares_it_dead_and_starts_afresh() {
    let mut world = three();
    for number in 1..=3 {
        world.kill(number);
    }
    // A cleaner that has written its record and its lease, and then is heard of no more.
    let mut record = world.instance_state(1).unwrap();
    record.state = InstanceState::Joining;
    let lease = Some(Duration::from_millis(TTL));
    world.put(Key::Instance(InstanceId(99)), Document::Instance(record), &Expect::Any, lease).unwrap();
    let boot = BootRecord {
        generation: 2,
        phase: BootPhase::Cleaning,
        by: InstanceId(99),
        start: 99,
        epoch: 0,
        owed: None,
        anew: false,
    };
    world.put(Key::Boot, Document::Boot(boot), &Expect::Any, None).unwrap();
    world.start(11);
    world.start(12);
    world.pass(TTL * 4);
    assert!(world.hosts.values().all(|host| host.ready));
    assert_eq!(world.instance_state(99).unwrap().state, InstanceState::Dead);
    assert_eq!(world.everything.len(), 2);
}

#[test]
fn a_cleanup_is_resumed_where_it_stands() {
    let mut world = three();
    world.sessions.insert(InstanceId(77), (1..=300).map(|id| session(id, 77)).collect());
    let cleanup = Cleanup {
        phase: CleanupPhase::Telling,
        by: Some(InstanceId(78)),
        declared_at: Timestamp(1),
        round: 0,
        settled: [("webhook".to_owned(), 1)].into(),
    };
    let mut record = world.instance_state(1).unwrap();
    (record.state, record.cleanup) = (InstanceState::Dead, Some(cleanup));
    world.put(Key::Instance(InstanceId(77)), Document::Instance(record), &Expect::Any, None).unwrap();
    world.settle();
    assert_eq!(
        world.told.iter().map(|told| told.2).collect::<Vec<_>>(),
        [44],
        "the first chunk was told before"
    );
    assert!(world.purged.contains(&InstanceId(77)));
}

#[test]
fn who_is_only_known_by_documents_counts_until_a_renewal_has_come_back_then_is_judged() {
    let mut world = three();
    world.pass(TTL * 2);
    let ghost = InstanceId(500);
    world.sessions.insert(ghost, vec![session(1, 500)]);
    let now = world.now();
    for number in 1..=3 {
        world.member(number).handle_seen(now, ghost);
    }
    world.settle();
    assert!(world.member(1).counts(ghost));
    assert!(!world.member(1).may_be_swept(ghost), "nobody has told of its sessions");
    assert!(world.told.is_empty());
    world.pass(TTL);
    assert!(!world.member(1).counts(ghost));
    assert!(world.member(1).may_be_swept(ghost));
    assert_eq!(world.told.iter().map(|told| (told.1, told.2)).collect::<Vec<_>>(), [(ghost, 1)]);
}

#[test]
fn a_late_own_claim_is_adopted_or_given_back() {
    let mut world = three();
    let (partition, old) = world.host(1).owns.iter().next().map(|(id, claim)| (*id, *claim)).unwrap();
    // An own claim without an answer lands a second time.
    let claim = Claim { instance: Some(InstanceId(1)), nonce: 1 };
    let newer = world.put(Key::Owner(partition), Document::Owner(claim), &Expect::Last(old), None).unwrap();
    world.settle();
    assert_eq!(world.host(1).owns[&partition], newer);
    world.assert_owned();
    // One lands on a partition that another host has taken since: it goes back to where it should be.
    let (foreign, last) = world.host(2).owns.iter().next().map(|(id, claim)| (*id, *claim)).unwrap();
    world.put(Key::Owner(foreign), Document::Owner(claim), &Expect::Last(last), None).unwrap();
    world.settle();
    world.pass(500);
    world.assert_owned();
    assert!(world.host(2).owns.contains_key(&foreign));
}

#[test]
fn a_write_without_an_answer_has_its_partition_claimed_once_more_until_that_succeeds() {
    let mut world = three();
    let (partition, old) = world.host(1).owns.iter().next().map(|(id, claim)| (*id, *claim)).unwrap();
    let now = world.now();
    let claim = Claim { instance: Some(InstanceId(1)), nonce: 1 };
    let member = world.member(1);
    member.handle_unclear(now, partition);
    member.handle_unclear(now, partition);
    let asked = member.poll_effect().unwrap();
    let (key, document) = (Key::Owner(partition), Document::Owner(claim));
    let expect = Expect::Last(old);
    assert_eq!(
        asked,
        MembershipEffect::Write { key: key.clone(), document: document.clone(), expect, lease: None }
    );
    assert_eq!(member.poll_effect(), None, "once");
    // The store is full: what it has is the old claim, and it is asked again.
    member.handle_written(now, &key, &document, Err(NotWritten::Refused));
    assert_eq!(member.poll_effect(), Some(MembershipEffect::ReadOwner(partition)));
    member.handle_owner(now, partition, Some((old, claim)));
    assert_eq!(member.poll_effect(), Some(asked));
    let newer = world.put(key.clone(), document.clone(), &Expect::Last(old), None).unwrap();
    world.member(1).handle_written(now, &key, &document, Ok(newer));
    world.settle();
    assert_eq!(world.host(1).owns[&partition], newer);
    world.assert_owned();
}

#[test]
fn a_recreated_store_is_filled_from_memory_and_is_no_fresh_start() {
    let mut world = three();
    let before: Vec<Vec<PartitionId>> =
        world.hosts.values().map(|host| host.owns.keys().copied().collect()).collect();
    world.wipe();
    world.pass(TTL * 3);
    assert_eq!(world.everything.len(), 1);
    assert!(world.told.is_empty());
    world.assert_owned();
    let after: Vec<Vec<PartitionId>> =
        world.hosts.values().map(|host| host.owns.keys().copied().collect()).collect();
    assert_eq!(before, after);
    let Some((_, Document::Boot(boot))) = world.get(&Key::Boot) else { panic!("no boot record") };
    assert_eq!((boot.generation, boot.phase, boot.anew), (1, BootPhase::Open, false));
    assert!(world.hosts.values().all(|host| host.log.contains(&"wiped".to_owned())));
    assert!(!world.hosts.values().flat_map(|host| &host.log).any(|line| line.starts_with("anew ")));
}

fn drain(member: &mut Membership) -> Vec<MembershipEffect> {
    std::iter::from_fn(|| member.poll_effect()).collect()
}

/// The boot record that is to be written.
fn boot_of(effects: &[MembershipEffect]) -> Option<Document> {
    effects.iter().find_map(|effect| match effect {
        MembershipEffect::Write { key: Key::Boot, document, .. } => Some(document.clone()),
        _ => None,
    })
}

/// The record that is to be written under the own key.
fn renewal_of(effects: &[MembershipEffect]) -> Option<InstanceRecord> {
    effects.iter().find_map(|effect| match effect {
        MembershipEffect::Renew { record, .. } => Some(record.clone()),
        _ => None,
    })
}

#[test]
fn in_a_recreated_store_the_boot_record_comes_before_any_record_and_claim() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL);
    let now = world.now();
    let member = world.member(1);
    let layout = member.config.layout;
    let claims = |effects: &[MembershipEffect]| {
        let claim =
            |effect: &&MembershipEffect| matches!(effect, MembershipEffect::Write { key: Key::Owner(_), .. });
        effects.iter().filter(claim).count()
    };
    let meta = Document::Meta(MetaRecord { format: FORMAT, layout, epoch: 77 });
    member.handle_loaded(now, &[(Key::Meta, Sequence(1), meta)]);
    member.handle_claims(now, &[]);
    member.handle_timeout(now);
    let effects = drain(member);
    let boot = boot_of(&effects).expect("it is written back");
    assert_eq!((renewal_of(&effects), claims(&effects)), (None, 0));
    member.handle_written(now, &Key::Boot, &boot, Ok(Sequence(2)));
    let effects = drain(member);
    let renewal = renewal_of(&effects).expect("it is let in");
    assert_eq!(claims(&effects), 0, "not before the lease is there");
    member.handle_renewed(now, renewal.renewal, Some(Ok(Sequence(3))));
    member.handle_update(now, &update(Key::Instance(InstanceId(1)), 3, Document::Instance(renewal)));
    assert!(member.may_act(now));
    assert_eq!(claims(&drain(member)), PARTITIONS as usize);
}

/// Seeds 29339 and 29582 of the simulation: who declares a fresh start may not have heard yet that one is back.
#[test]
fn i5_who_comes_back_after_its_lease_ran_out_writes_the_boot_record_before_its_own() {
    let mut world = three();
    let ran_out = |member: &mut Membership, now: Now, marker: u64| {
        let key = Key::Instance(InstanceId(1));
        let update = Update { key, sequence: Sequence(marker), change: Change::Expired };
        member.handle_update(now, &update);
        member.handle_timeout(now);
        drain(member)
    };
    let (now, (before, Document::Boot(boot))) = (world.now(), world.get(&Key::Boot).unwrap()) else {
        panic!("no boot record")
    };
    let member = world.member(1);
    let effects = ran_out(member, now, before.0 + 100);
    assert_eq!(renewal_of(&effects), None);
    let again = Document::Boot(boot);
    let write = MembershipEffect::Write {
        key: Key::Boot,
        document: again.clone(),
        expect: Expect::Last(before),
        lease: None,
    };
    assert!(effects.contains(&write), "a declaration that is on its way is refused");
    member.handle_written(now, &Key::Boot, &again, Ok(Sequence(before.0 + 101)));
    let renewal = renewal_of(&drain(member)).expect("it comes back as it was");
    assert_eq!(renewal.state, InstanceState::Ready);
    member.handle_renewed(now, renewal.renewal, Some(Ok(Sequence(before.0 + 102))));
    member.handle_update(
        now,
        &update(Key::Instance(InstanceId(1)), before.0 + 102, Document::Instance(renewal)),
    );
    // Long after that it has to ask again; this time somebody else was first.
    let later = Now::at(now.tick.0 + TTL * 2);
    let effects = ran_out(member, later, before.0 + 103);
    assert_eq!(renewal_of(&effects), None);
    let again = boot_of(&effects).expect("asks again");
    let refused = Err(NotWritten::Conflict(Sequence(before.0 + 104)));
    member.handle_written(later, &Key::Boot, &again, refused);
    assert!(drain(member).contains(&MembershipEffect::Load));
    let other = BootRecord { phase: BootPhase::Cleaning, start: boot.start + 1, ..boot };
    member.handle_update(later, &update(Key::Boot, before.0 + 104, Document::Boot(other)));
    let effects = drain(member);
    assert!(effects.contains(&MembershipEffect::Reborn), "a fresh start: it is over");
    assert_eq!(renewal_of(&effects), None);
}

/// Seed 215032 of the simulation: it was expected for ever that the boot record is as it was in a store that is gone.
#[test]
fn a_store_that_is_recreated_before_it_was_read_is_a_new_one() {
    let mut world = World::new();
    world.start(1);
    let mut member = Membership::new(world.member(1).config.clone());
    member.handle_clock(Now::at(0), true);
    let now = Now::at(1);
    member.handle_start(now);
    member.handle_loaded(now, &[]);
    let other = BootRecord {
        generation: 6,
        phase: BootPhase::Open,
        by: InstanceId(5),
        start: 6,
        epoch: 0,
        owed: None,
        anew: false,
    };
    member.handle_update(now, &update(Key::Boot, 900, Document::Boot(other)));
    let layout = member.config.layout;
    let meta = Document::Meta(MetaRecord { format: FORMAT, layout, epoch: 1 });
    member.handle_loaded(now, &[(Key::Meta, Sequence(1), meta)]);
    member.handle_claims(now, &[]);
    let mut now = now;
    let declared = (0..8).find_map(|at| {
        member.handle_timeout(now);
        let effects = drain(&mut member);
        let declared = effects.iter().find_map(|effect| match effect {
            MembershipEffect::Declare { boot, expect } => Some((*boot, *expect)),
            _ => None,
        });
        if let Some(renewal) = renewal_of(&effects) {
            member.handle_renewed(now, renewal.renewal, Some(Ok(Sequence(10 + at))));
            member.handle_update(
                now,
                &update(Key::Instance(InstanceId(1)), 10 + at, Document::Instance(renewal)),
            );
        }
        now = Now::at(now.tick.0 + TTL / 6);
        declared
    });
    assert_eq!(declared.map(|(boot, expect)| (boot.generation, expect)), Some((1, Sequence(0))));
}

/// Seed 334817 of the simulation: it had come in, and could not say so for as long as others wait for that.
#[test]
fn i5_who_could_not_say_in_time_that_it_has_come_in_asks_again() {
    let mut world = three();
    let now = world.now();
    let joining = InstanceRecord { state: InstanceState::Joining, ..world.instance_state(2).unwrap() };
    for (late, asks) in [(TTL / 2 - 500, false), (TTL / 2, true)] {
        let member = world.member(2);
        // It is still what it was in the store.
        member.handle_instance_read(now, InstanceId(2), Sequence(0), Some((Sequence(900), joining.clone())));
        member.let_in = Some(now.tick);
        drain(member);
        member.lease.renew_at(now.tick);
        member.handle_timeout(Now::at(now.tick.0 + late));
        let effects = drain(member);
        assert_eq!((boot_of(&effects).is_some(), renewal_of(&effects).is_some()), (asks, !asks));
    }
}

/// Seed 29299 of the simulation: what the watch shows of a store that was recreated begins after those who are there.
#[test]
fn i5_nothing_is_decided_in_a_store_that_was_recreated_and_not_read() {
    let mut world = three();
    for number in 1..=3 {
        world.kill(number);
    }
    world.pass(TTL + 500);
    world.start(11);
    world.pass(TTL / 2);
    let mut now = world.now();
    let member = world.member(11);
    assert!(member.may_act(now));
    member.handle_loaded(now, &[]);
    assert!(!member.may_act(now));
    for at in 0..6 {
        now = Now::at(now.tick.0 + TTL / 3);
        member.handle_timeout(now);
        let effects = drain(member);
        assert!(!effects.iter().any(|effect| matches!(effect, MembershipEffect::Declare { .. })));
        let renewal = renewal_of(&effects).expect("it joins");
        member.handle_renewed(now, renewal.renewal, Some(Ok(Sequence(100 + at))));
        member.handle_update(
            now,
            &update(Key::Instance(InstanceId(11)), 100 + at, Document::Instance(renewal)),
        );
        assert!(!member.may_act(now), "that is no lease");
    }
}

#[test]
fn a_host_that_finds_a_fresh_start_in_a_recreated_store_comes_back_as_another_one() {
    let mut world = three();
    for number in 1..=3 {
        world.hosts.get_mut(&number).unwrap().paused = true;
    }
    world.wipe();
    world.start(11);
    world.pass(TTL);
    assert!(world.host(11).ready);
    assert_eq!(world.everything.len(), 2);
    for number in 1..=3 {
        world.hosts.get_mut(&number).unwrap().paused = false;
    }
    world.pass(TTL * 2);
    for number in 1..=3 {
        assert!(world.host(number).log.contains(&"reborn".to_owned()));
        assert!(world.member(number).is_ready());
    }
    world.assert_owned();
    assert_eq!(world.everything.len(), 2, "it was declared after theirs, and all were told of since");
}

/// Whether time and updates reach these hosts.
fn pause(world: &mut World, numbers: &[u128], paused: bool) {
    for number in numbers {
        world.hosts.get_mut(number).unwrap().paused = paused;
    }
}

/// Seeds 7970, 27457 and 35591 of the simulation: receivers have forgotten everybody, and only instances that belong
/// nowhere know. The first of them to come back has everybody told again, the next one finds that done.
#[test]
fn i5_who_meets_another_fresh_start_that_was_written_back_has_everybody_told_again_once() {
    let mut world = three();
    pause(&mut world, &[1, 2, 3], true);
    world.wipe();
    world.start(11);
    world.pass(TTL);
    world.start(12);
    world.pass(200);
    assert!(world.host(12).ready);
    assert_eq!(world.everything.len(), 2);
    // That store is lost too, before the others have seen it: they write their own fresh start back.
    pause(&mut world, &[11, 12], true);
    world.wipe();
    pause(&mut world, &[1, 2, 3], false);
    world.pass(TTL * 2);
    assert_eq!(world.everything.len(), 2);
    pause(&mut world, &[11], false);
    world.pass(TTL * 3);
    assert!(world.host(11).log.contains(&"reborn".to_owned()));
    assert_eq!((world.everything.len(), world.everything[2].0), (3, 11));
    assert!(world.host(11).log.iter().any(|line| line.starts_with("anew ")));
    let epoch = world.member(11).epoch();
    assert_eq!((world.boot().owed, world.boot().epoch), (None, epoch));
    pause(&mut world, &[12], false);
    world.pass(TTL * 3);
    assert!(world.host(12).log.contains(&"reborn".to_owned()));
    assert!(world.member(12).is_ready());
    assert_eq!(world.everything.len(), 3, "it was seen to");
    world.assert_owned();
}

/// Seeds 12722 and 24581 of the simulation: receivers have forgotten everybody, and nobody is left who knows.
#[test]
fn who_was_away_for_long_when_the_store_was_recreated_has_everybody_told_again() {
    let mut world = three();
    pause(&mut world, &[1, 2, 3], true);
    world.wipe();
    world.start(11);
    world.pass(TTL);
    assert_eq!(world.everything.len(), 2);
    world.kill(11);
    world.wipe();
    pause(&mut world, &[1, 2, 3], false);
    world.pass(500);
    assert!(world.boot().anew);
    let told = |world: &World| {
        let lines = world.hosts.values().flat_map(|host| &host.log);
        lines.filter(|line| line.starts_with("anew ")).count()
    };
    assert_eq!(told(&world), 0, "the other's hooks may still run, for a lease");
    // Who has written it back dies: the next one sees to it.
    let writer = world.hosts.keys().copied().find(|number| InstanceId(*number) == world.boot().by).unwrap();
    world.kill(writer);
    world.pass(TTL * 3);
    assert_eq!((told(&world), world.boot().anew), (1, false));
    assert_eq!(world.everything.len(), 2, "who is here is not forgotten for that");
    world.pass(TTL * 3);
    assert_eq!(told(&world), 1);
    world.assert_owned();
}

#[test]
fn who_writes_the_boot_record_back_soon_enough_knows_that_nobody_was_forgotten() {
    for (away, anew) in [(TTL / 2, false), (TTL / 2 + 1, true)] {
        let mut world = World::new();
        world.start(1);
        world.pass(TTL);
        let member = world.member(1);
        let confirmed = member.lease.confirmed().unwrap();
        let meta = MetaRecord { format: FORMAT, layout: member.config.layout, epoch: 77 };
        let now = Now::at(confirmed.0 + away);
        member.handle_loaded(now, &[(Key::Meta, Sequence(1), Document::Meta(meta))]);
        let Some(Document::Boot(boot)) = boot_of(&drain(member)) else { panic!("it is written back") };
        assert_eq!(boot.anew, anew);
    }
}

/// Seeds 18347 and 22953 of the simulation: `everything` covers who was dead when it began.
#[test]
fn i5_who_dies_while_everything_runs_is_cleaned_up_after() {
    let mut world = World::new();
    world.slow = true;
    for number in 1..=3 {
        world.start(number);
    }
    world.pass(TTL);
    assert_eq!(world.everything.len(), 1);
    let starter = world.everything[0].0;
    let (victim, witness) = if starter == 1 { (2, 3) } else { (1, 5 - starter) };
    world.kill(victim);
    world.pass(TTL * 2);
    assert_eq!(world.instance_state(victim).unwrap().state, InstanceState::Dead);
    assert!(world.told.is_empty() && !world.host(witness).ready);
    world.everything_settles();
    world.pass(1000);
    assert!(world.hosts.values().all(|host| host.ready));
    let told: Vec<_> = world.told.iter().map(|(_, instance, sessions)| (*instance, *sessions)).collect();
    assert_eq!(told, [(InstanceId(victim), 0)]);
}

/// The same where the answer to the opening is lost, and only a reading tells that it took effect.
#[test]
fn i5_who_died_before_the_opening_was_known_of_is_cleaned_up_after() {
    let mut member = cleaner();
    let (me, now) = (InstanceId(1), Now::at(2));
    member.handle_everything_settled("1-7-0");
    member.handle_all_purged();
    let opening = boot_of(&drain(&mut member)).expect("it opens");
    let Document::Boot(open) = opening else { panic!("{opening:?}") };
    member.handle_written(now, &Key::Boot, &opening, Err(NotWritten::Conflict(Sequence(5))));
    assert!(drain(&mut member).contains(&MembershipEffect::Load));
    let layout = member.config.layout;
    let journal = cleanup(CleanupPhase::Telling, None);
    let record = InstanceRecord {
        host: "host-1".into(),
        state: InstanceState::Joining,
        started_at: Default::default(),
        renewal: 1,
        plugins: 1,
        cleanup: None,
        holder: None,
    };
    let dead = InstanceRecord { state: InstanceState::Dead, cleanup: Some(journal), ..record.clone() };
    let documents = [
        (Key::Meta, Sequence(1), Document::Meta(MetaRecord { format: FORMAT, layout, epoch: 1 })),
        (Key::Boot, Sequence(5), Document::Boot(open)),
        (Key::Instance(me), Sequence(3), Document::Instance(record)),
        (Key::Instance(InstanceId(2)), Sequence(6), Document::Instance(dead)),
    ];
    member.handle_loaded(now, &documents);
    let written: Vec<InstanceRecord> = drain(&mut member)
        .into_iter()
        .filter_map(|effect| match effect {
            MembershipEffect::Write { document: Document::Instance(record), .. } => Some(record),
            _ => None,
        })
        .collect();
    let phases: Vec<_> =
        written.iter().filter_map(|record| record.cleanup.as_ref().map(|it| (it.phase, it.by))).collect();
    assert_eq!(phases, [(CleanupPhase::Telling, Some(me))]);
}

/// Seed 13608 of the simulation: its `everything` was told, and it had not opened yet.
#[test]
fn who_declared_a_fresh_start_in_a_lost_store_and_never_opened_has_everybody_told_again() {
    let mut world = three();
    pause(&mut world, &[1, 2, 3], true);
    world.wipe();
    world.slow = true;
    world.start(11);
    world.pass(TTL);
    assert!(!world.host(11).ready);
    assert_eq!(world.everything.len(), 2);
    pause(&mut world, &[11], true);
    world.wipe();
    pause(&mut world, &[1, 2, 3], false);
    world.pass(TTL);
    pause(&mut world, &[11], false);
    world.pass(TTL * 3);
    assert!(world.member(11).is_ready());
    assert!(!world.host(11).log.contains(&"reborn".to_owned()), "it belonged to nothing yet");
    assert_eq!((world.everything.len(), world.everything[2].0), (3, 11));
    world.everything_settles();
    assert!(world.host(11).log.iter().any(|line| line.starts_with("anew ")));
    assert_eq!(world.boot().owed, None);
    world.assert_owned();
}

#[test]
fn who_was_declared_dead_stays_so_when_the_store_is_recreated() {
    let mut world = three();
    world.hosts.get_mut(&2).unwrap().paused = true;
    world.pass(TTL * 2);
    assert_eq!(world.told.len(), 1);
    world.wipe();
    world.hosts.get_mut(&2).unwrap().paused = false;
    world.pass(TTL * 4);
    assert!(world.host(2).log.contains(&"reborn".to_owned()));
    assert_eq!(world.instance_state(2).unwrap().state, InstanceState::Dead);
    assert_eq!(world.told.len(), 2, "what it did since is cleaned up too");
    assert!(world.member(2).is_ready());
    world.assert_owned();
}

#[test]
fn two_hosts_of_one_name_are_told_of() {
    let mut world = three();
    let mut record = world.instance_state(1).unwrap();
    let key = Key::Instance(InstanceId(9));
    for renewal in 1..=2 {
        record.renewal = renewal;
        let lease = Some(Duration::from_millis(TTL));
        world.put(key.clone(), Document::Instance(record.clone()), &Expect::Any, lease).unwrap();
        world.settle();
    }
    assert!(world.host(1).log.iter().any(|line| line.starts_with("Namesake")), "{:?}", world.host(1).log);
    assert!(!world.host(2).log.iter().any(|line| line.starts_with("Namesake")));
}

#[test]
fn hosts_that_run_other_plugins_are_told_of_and_counted_while_they_live() {
    let mut world = three();
    let mut record = world.instance_state(1).unwrap();
    record.plugins = world.member(1).config.plugins ^ 77;
    let lease = Some(Duration::from_millis(TTL));
    let put = (Key::Instance(InstanceId(9)), Document::Instance(record));
    world.put(put.0, put.1, &Expect::Any, lease).unwrap();
    world.settle();
    assert_eq!(world.member(1).counters().other_plugins, 1);
    let told = world.host(2).log.iter().filter(|line| line.starts_with("OtherPlugins")).count();
    assert_eq!(told, 1, "{:?}", world.host(2).log);
    world.pass(TTL * 3);
    assert_eq!(world.member(1).counters().other_plugins, 0);
}

#[test]
fn another_slicing_or_format_is_reported_and_nothing_is_written() {
    let wanted = crate::ids::Layout { partitions: PARTITIONS, leaves: 2 };
    let found = crate::ids::Layout { partitions: 64, leaves: 16 };
    for (meta, error) in [
        (MetaRecord { format: 1, layout: found, epoch: 1 }, MembershipError::Layout { found, wanted }),
        (MetaRecord { format: 2, layout: wanted, epoch: 1 }, MembershipError::Format { found: 2 }),
    ] {
        let mut world = World::new();
        world.start(1);
        let mut config = world.member(1).config.clone();
        config.instance = InstanceId(5);
        let mut membership = Membership::new(config);
        membership.handle_start(Now::at(1));
        assert_eq!(membership.poll_effect(), Some(MembershipEffect::Load));
        membership.handle_loaded(Now::at(1), &[(Key::Meta, Sequence(1), Document::Meta(meta))]);
        assert_eq!(membership.poll_effect(), Some(MembershipEffect::Fail(error)));
        assert_eq!(membership.poll_effect(), None);
    }
}

#[test]
fn a_renewal_near_the_end_that_a_marker_wipes_is_no_lease() {
    let mut lease = Lease::new(Duration::from_millis(TTL));
    let first = lease.send(Tick(0));
    lease.written(first, Sequence(5));
    assert!(!lease.is_valid(Tick(1)), "an acknowledgement alone is no lease");
    assert!(lease.shown(first, Sequence(5), true));
    assert_eq!(lease.valid_until(), Some(Tick(TTL)));
    let second = lease.send(Tick(5900));
    lease.written(second, Sequence(9));
    assert!(lease.shown(second, Sequence(9), true));
    lease.ran_out(Sequence(10), Tick(6100));
    assert!(!lease.is_valid(Tick(6100)));
    assert_eq!((lease.last(), lease.next()), (Sequence(10), Some(Tick(6100))), "taken anew on the marker");
}

#[test]
fn a_gap_between_renewals_takes_the_right_to_judge_for_a_whole_lease() {
    let mut lease = Lease::new(Duration::from_millis(TTL));
    let renew = |lease: &mut Lease, at: u64| {
        let renewal = lease.send(Tick(at));
        lease.written(renewal, Sequence(at + 1));
        assert!(lease.shown(renewal, Sequence(at + 1), true));
    };
    for at in [0, 2000, 4000, 6000] {
        renew(&mut lease, at);
    }
    assert_eq!(lease.judges_from(Tick(6000)), Some(Tick(TTL)));
    assert_eq!(lease.judges_from(Tick(9001)), None, "the next one is overdue");
    renew(&mut lease, 9500);
    assert_eq!(lease.judges_from(Tick(9500)), Some(Tick(9500 + TTL)));
}

/// Claims a partition; the claim has this sequence.
fn own(ownership: &mut Ownership, me: InstanceId, partition: PartitionId, sequence: u64) {
    ownership.handle_claims(&[], me);
    ownership.decide(Tick(0), me, &[me], true, &Peers::default(), Duration::from_secs(1));
    ownership.handle_claimed(partition, Sequence(sequence), me);
    let wishes = std::mem::take(&mut ownership.wishes);
    assert_eq!(wishes.last(), Some(&Wish::Own(partition, Sequence(sequence))));
}

#[test]
fn a_former_partition_whose_claim_is_on_its_way_when_patience_ends_is_given_up_once_the_claim_fails() {
    let (me, partition) = (InstanceId(1), PartitionId(0));
    let peers = Peers::default();
    let wishes = |ownership: &mut Ownership| std::mem::take(&mut ownership.wishes);
    for reborn in [false, true] {
        let mut ownership = Ownership::new(1, 7);
        let claim = Claim { instance: Some(me), nonce: 7 };
        own(&mut ownership, me, partition, 5);
        ownership.handle_wiped(Tick(100));
        let decide = |ownership: &mut Ownership, at: u64, active: bool| {
            ownership.decide(Tick(at), me, &[me], active, &peers, Duration::from_secs(1));
        };
        decide(&mut ownership, 1, true);
        assert_eq!(wishes(&mut ownership), [Wish::Claim(partition, Sequence(0), claim)]);
        decide(&mut ownership, 100, false);
        assert_eq!(wishes(&mut ownership), [], "the claim may yet succeed");
        if reborn {
            ownership.lose_all(8);
        } else {
            let other = Claim { instance: Some(InstanceId(2)), nonce: 1 };
            ownership.handle_refused(partition);
            ownership.handle_owner(partition, Some((Sequence(3), other)), me);
        }
        assert_eq!(wishes(&mut ownership), [Wish::Lose(partition)]);
    }
}

/// Seed 481 of the simulation: what was read before a claim was made says nothing of it.
#[test]
fn a_reading_that_is_older_than_a_claim_on_its_way_takes_nothing_away() {
    let (me, partition) = (InstanceId(1), PartitionId(0));
    let claim = Claim { instance: Some(me), nonce: 7 };
    let wishes = |ownership: &mut Ownership| std::mem::take(&mut ownership.wishes);
    for refused in [false, true] {
        let mut ownership = Ownership::new(1, 7);
        own(&mut ownership, me, partition, 5);
        ownership.handle_wiped(Tick(100));
        // Nobody else is there, so whoever should have it, its former owner claims it again.
        ownership.decide(Tick(1), me, &[InstanceId(2)], true, &Peers::default(), Duration::from_secs(1));
        assert_eq!(wishes(&mut ownership), [Wish::Claim(partition, Sequence(0), claim)]);
        if refused {
            ownership.handle_refused(partition);
            ownership.handle_owner(partition, None, me);
            assert_eq!(wishes(&mut ownership), [Wish::Lose(partition)], "its claim came to nothing");
            continue;
        }
        // The claims are read and have it already; then comes what was read when nobody had it.
        ownership.handle_claims(&[(partition, Sequence(3), claim)], me);
        ownership.handle_owner(partition, None, me);
        assert_eq!(wishes(&mut ownership), []);
        ownership.handle_claimed(partition, Sequence(3), me);
        assert_eq!(wishes(&mut ownership), [Wish::Own(partition, Sequence(3))]);
        assert!(ownership.holds(partition));
    }
}

/// Seed 17211 of the simulation: what was written under a claim before the store was known to be another one may still be on
/// its way there, and nothing of a later time may be written under the same token.
#[test]
fn i1_a_claim_of_its_own_that_it_finds_is_claimed_once_more_before_it_acts() {
    let (me, partition) = (InstanceId(1), PartitionId(0));
    let claim = Claim { instance: Some(me), nonce: 7 };
    let peers = Peers::default();
    let wishes = |ownership: &mut Ownership| std::mem::take(&mut ownership.wishes);
    for (candidate, wanted) in [(me, true), (InstanceId(2), false)] {
        for inactive_at_first in [false, true] {
            let mut ownership = Ownership::new(1, 7);
            own(&mut ownership, me, partition, 5);
            // The claim was made in the new store already.
            ownership.handle_wiped(Tick(100));
            let decide = |ownership: &mut Ownership, at: u64, active: bool| {
                ownership.decide(Tick(at), me, &[candidate], active, &peers, Duration::from_secs(1));
            };
            if inactive_at_first {
                ownership.handle_claims(&[(partition, Sequence(5), claim)], me);
                decide(&mut ownership, 100, false);
                assert_eq!(wishes(&mut ownership), [], "its records are kept");
            }
            ownership.handle_claims(&[(partition, Sequence(5), claim)], me);
            assert!(!ownership.holds(partition));
            assert!(!ownership.is_settled(me, &peers), "also where it should be another's: it is given back");
            decide(&mut ownership, 1, true);
            assert_eq!(wishes(&mut ownership), [Wish::Claim(partition, Sequence(5), claim)]);
            // The store is full, say.
            ownership.handle_refused(partition);
            ownership.handle_owner(partition, Some((Sequence(5), claim)), me);
            assert_eq!(wishes(&mut ownership), []);
            decide(&mut ownership, 1, true);
            assert_eq!(wishes(&mut ownership), [Wish::Claim(partition, Sequence(5), claim)]);
            ownership.handle_claimed(partition, Sequence(6), me);
            assert_eq!(wishes(&mut ownership), [Wish::Own(partition, Sequence(6))]);
            ownership.handle_loaded(partition);
            decide(&mut ownership, 2, true);
            let expected = [Wish::Surrender(partition)];
            assert_eq!(wishes(&mut ownership), expected[usize::from(wanted)..]);
        }
    }
}

/// Seed 4718 of the simulation: of two registrations of one incarnation at once, the one that gave way was taken for the holder.
#[test]
fn only_who_has_the_name_for_certain_is_the_holder() {
    let name: crate::ids::HolderName = "chat".parse().unwrap();
    let record = |incarnation: &str, renewal: u64, current: Option<u128>| {
        let holder = crate::documents::HolderRecord {
            name: name.clone(),
            incarnation: incarnation.parse().unwrap(),
            lease_ms: 5000,
            start: 7,
            current: current.map(InstanceId),
        };
        let state = if current.is_some() { InstanceState::Left } else { InstanceState::Joining };
        Document::Instance(InstanceRecord {
            host: "chat".into(),
            state,
            started_at: Timestamp(1),
            renewal,
            plugins: 0,
            cleanup: None,
            holder: Some(Box::new(holder)),
        })
    };
    let mut member = cleaner();
    let mut sequence = 10;
    let mut see = |member: &mut Membership, instance: InstanceId, document: Document| {
        sequence += 1;
        member.handle_update(Now::at(1), &update(Key::Instance(instance), sequence, document));
    };
    let view = |member: &Membership, incarnation: &str| {
        let view = member.holder(&name, &incarnation.parse().unwrap())?;
        let replaced = view.replaced.map(|incarnation| incarnation.to_string());
        Some((view.instance.0, view.confirmed, replaced))
    };
    assert_eq!(view(&member, "a"), None);
    see(&mut member, InstanceId(21), record("a", 1, None));
    assert_eq!(view(&member, "a"), Some((21, false, None)), "it may yet give way");
    see(&mut member, InstanceId(22), record("a", 1, None));
    see(&mut member, name.key(), record("a", 1, Some(22)));
    assert_eq!(view(&member, "a"), Some((22, true, None)));
    see(&mut member, InstanceId(23), record("b", 1, None));
    assert_eq!(view(&member, "b"), Some((23, false, None)), "the name is another's still");
    see(&mut member, name.key(), record("b", 1, Some(23)));
    assert_eq!(view(&member, "b"), Some((23, true, None)));
    assert_eq!(view(&member, "a").unwrap().2, Some("b".to_owned()));
}

/// Two hosts, the first of which has opened the boot without its plugins.
fn owing() -> World {
    let mut world = World::new();
    world.slow = true;
    world.start(1);
    world.start(2);
    world.pass(TTL * 2 + 30_000);
    assert!(world.hosts.values().all(|host| host.ready));
    assert_eq!((world.everything.len(), world.boot().owed), (1, Some(0)));
    world
}

#[test]
fn an_everything_that_is_late_has_everybody_present_decided_anew() {
    let mut world = owing();
    let (starter, run) = world.everything[0].clone();
    world.everything_settles();
    assert!(world.host(starter).log.contains(&format!("anew {run}")));
    assert_eq!((world.everything.len(), world.boot().owed), (1, None));
}

#[test]
fn an_everything_in_time_has_nobody_decided_anew() {
    let world = three();
    assert_eq!(world.boot().owed, None);
    assert!(!world.hosts.values().any(|host| host.log.iter().any(|line| line.starts_with("anew"))));
}

#[test]
fn what_a_dead_or_leaving_starter_owes_is_run_again_by_another() {
    for dies in [true, false] {
        let mut world = owing();
        let (starter, first) = world.everything[0].clone();
        let other = 3 - starter;
        if dies {
            world.kill(starter);
        } else {
            let now = world.now();
            world.member(starter).handle_drain(now);
            world.settle();
            world.member(starter).handle_leave(now, true);
            world.settle();
        }
        world.pass(TTL * 3);
        let (number, run) = world.everything[1].clone();
        assert_eq!((number, world.boot().owed, world.boot().by), (other, Some(1), InstanceId(other)));
        assert_ne!(run, first, "another run: receivers tell the two apart");
        world.everything_settles();
        assert!(world.host(other).log.contains(&format!("anew {run}")));
        assert_eq!((world.everything.len(), world.boot().owed), (2, None));
    }
}

#[test]
fn what_is_owed_outlives_a_recreated_store() {
    let mut world = owing();
    world.wipe();
    world.pass(TTL * 2);
    assert_eq!(world.boot().owed, Some(1));
    assert_eq!(world.everything.len(), 2, "whoever has written the record runs it");
    world.everything_settles();
    assert_eq!(world.boot().owed, None);
}

#[test]
fn who_comes_while_the_last_host_closes_the_deployment_is_not_ready_in_one_that_is_closed() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL * 2);
    // The last host closes it: nobody else has seen that yet.
    let (sequence, boot) = (world.get(&Key::Boot).unwrap().0, world.boot());
    let closed = BootRecord { phase: BootPhase::Closed, ..boot };
    let mut member =
        Membership::new(MembershipConfig { instance: InstanceId(2), ..world.member(1).config.clone() });
    member.phase = Phase::Surveying;
    member.boot = Some((sequence, boot));
    member.enter(world.now());
    assert_eq!(member.phase, Phase::Surveying, "it is in when the record says so");
    let Some(MembershipEffect::Write { key: Key::Boot, document: Document::Boot(same), expect, lease: None }) =
        member.poll_effect()
    else {
        panic!("the boot record is written once more");
    };
    assert_eq!((same, &expect), (boot, &Expect::Last(sequence)));
    world.put(Key::Boot, Document::Boot(closed), &expect, None).unwrap();
    let refused = world.put(Key::Boot, Document::Boot(same), &expect, None);
    assert!(refused.is_err(), "and no other way round either");
    member.handle_written(world.now(), &Key::Boot, &Document::Boot(same), refused);
    assert_eq!((member.phase, member.poll_effect()), (Phase::Surveying, Some(MembershipEffect::Load)));
}

/// Seed 167 of the simulation: whoever has come in is not ready in the eyes of the others before its next renewal.
#[test]
fn who_has_just_come_in_is_waited_for_before_a_fresh_start_is_declared() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL * 2);
    world.kill(1);
    world.pass(TTL + 1000);
    world.start(2);
    world.pass(TTL - 1000);
    assert_eq!(world.everything.len(), 1);
    // Somebody finds the boot open, says so, and can say no more for a while.
    let (sequence, boot) = (world.get(&Key::Boot).unwrap().0, world.boot());
    world.put(Key::Boot, Document::Boot(boot), &Expect::Last(sequence), None).unwrap();
    world.settle();
    world.pass(TTL - 1000);
    assert_eq!(world.everything.len(), 1);
    world.pass(3000);
    assert_eq!(world.everything.len(), 2, "it has had the time of a lease");
    assert!(world.host(2).ready);
}

#[test]
fn a_host_that_is_told_to_stop_before_it_has_joined_takes_part_in_nothing() {
    let mut world = World::new();
    world.start(1);
    world.pass(TTL / 2 - 500);
    assert!(!world.host(1).ready, "it looks who is there");
    let now = world.now();
    world.member(1).handle_drain(now);
    world.pass(TTL);
    assert_eq!(world.instance_state(1).unwrap().state, InstanceState::Joining);
    assert!(world.host(1).owns.is_empty() && world.everything.is_empty());
    let now = world.now();
    world.member(1).handle_leave(now, true);
    world.settle();
    assert_eq!(world.instance_state(1).unwrap().state, InstanceState::Left);
    world.start(2);
    world.pass(TTL * 2);
    assert!(world.host(2).ready);
    assert_eq!(world.everything.len(), 1, "the next one declares the fresh start");
}

#[test]
fn who_joins_with_a_wrong_clock_owns_nothing_before_it_is_right() {
    let mut world = three();
    world.clocks_right = false;
    world.start(4);
    world.pass(TTL * 2);
    assert!(!world.host(4).ready && world.host(4).owns.is_empty());
    assert_eq!(world.instance_state(4).unwrap().state, InstanceState::Joining);
    let now = world.now();
    world.member(4).handle_clock(now, true);
    world.pass(1000);
    assert!(world.host(4).ready && !world.host(4).owns.is_empty());
    let now = world.now();
    world.member(4).handle_clock(now, false);
    world.pass(TTL);
    assert!(world.host(4).ready, "whoever takes part goes on");
    world.assert_owned();
}

#[test]
fn a_fresh_start_is_not_declared_before_the_claims_are_read() {
    let mut member = cleaner_before_claims();
    assert!(
        !std::iter::from_fn(|| member.poll_effect())
            .any(|effect| matches!(effect, MembershipEffect::Declare { .. }))
    );
    member.handle_claims(Now::at(1), &[]);
    assert!(
        std::iter::from_fn(|| member.poll_effect())
            .any(|effect| matches!(effect, MembershipEffect::Declare { .. }))
    );
}

#[test]
fn who_comes_back_while_his_absence_is_being_told_is_not_judged_again() {
    let mut world = three();
    world.pass(TTL * 2);
    let other = InstanceId(3);
    // Its key ran out and it was judged; no answer to that was heard, so the key was asked for and was not there.
    let record = InstanceRecord { renewal: 99, ..world.member(1).peers.get(other).unwrap().record.clone() };
    let peer = world.member(1).peers.get_mut(other).unwrap();
    (peer.suspect, peer.judging) = (true, true);
    let sequence = Sequence(peer.sequence.0 + 1000);
    let now = world.now();
    let back =
        Update { key: Key::Instance(other), sequence, change: Change::Put(Document::Instance(record)) };
    world.member(1).handle_update(now, &back);
    world.member(1).handle_instance_read(now, other, Sequence(0), None);
    assert!(!world.member(1).peers.get(other).unwrap().suspect, "it was read before it came back");
    let judges = |effect: MembershipEffect| matches!(effect, MembershipEffect::Judge { .. });
    assert!(!std::iter::from_fn(|| world.member(1).poll_effect()).any(judges));
}

#[test]
fn who_was_dead_before_the_store_was_recreated_is_cleaned_up_after_there_as_well() {
    let mut world = three();
    world.kill(2);
    world.pass(TTL * 2);
    assert_eq!(world.told.len(), 1);
    // It had gone on in the new store without having heard of its death, and nobody saw its key there.
    world.sessions.insert(InstanceId(2), vec![session(7, 2)]);
    world.wipe();
    world.pass(TTL * 4);
    let told: Vec<_> = world.told.iter().map(|told| (told.1, told.2)).collect();
    assert_eq!(told, [(InstanceId(2), 0), (InstanceId(2), 1)]);
}
