//! Whole effects of single steps, then random runs of two hosts against one store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::documents::{SessionDocument, SessionEntry};
use crate::events::{Hook, SessionChange, Status, labels};
use crate::ids::{HolderName, InstanceId, PartitionId, Sequence, SessionId, UserId};
use crate::metadata::Metadata;
use crate::time::Timestamp;

const HOLDER: InstanceId = InstanceId(7);

fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

fn session(id: &str) -> SessionId {
    "chat".parse::<HolderName>().unwrap().session(id).unwrap()
}

fn id() -> DocumentId {
    DocumentId { instance: HOLDER, user: alice() }
}

fn put(status: Status) -> Operation {
    Operation::Put(status, Facts::default())
}

fn ask(documents: &mut HeldDocuments, ticket: u64, name: &str, operation: Operation) {
    let (session, at) = (session(name), Timestamp(1000 + ticket));
    documents.handle_operation(
        HOLDER,
        &alice(),
        Held { ticket: Ticket(ticket), item: 0, session, operation, at },
    );
}

fn answers(documents: &mut HeldDocuments) -> Vec<(u64, Result<Done, Rejected>)> {
    std::iter::from_fn(|| documents.poll_answer()).map(|answer| (answer.ticket.0, answer.result)).collect()
}

/// What is looked at of an entry of a document.
type Entry = (String, Status, u64, bool);

/// The write that is asked for: what it lists, and on which condition.
fn write(documents: &mut HeldDocuments) -> (Vec<Entry>, u64, Arc<SessionDocument>) {
    match documents.poll_effect() {
        Some(DocumentEffect::Write { document, expect, .. }) => {
            let listed = document.sessions.iter();
            let shown = listed
                .map(|entry| (entry.id.to_string(), entry.status, entry.listed.0, entry.ended.is_some()));
            (shown.collect(), expect.0, document)
        }
        other => panic!("no write: {other:?}"),
    }
}

/// Seed 5727 of the simulation: an order that waited for the store was carried out after its repetition elsewhere and after
/// what was asked then.
#[test]
fn what_nobody_waits_for_any_more_is_not_done_late() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    write(&mut documents);
    ask(&mut documents, 2, "a", put(Status::Idle));
    ask(&mut documents, 3, "b", put(Status::Online));
    // The write was refused: it is read again, and all three wait for that.
    documents.withdraw(&id(), |_| true);
    documents.handle_written(id(), Err(NotDone::LookAgain));
    assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())));
    documents.withdraw(&id(), |ticket| ticket == Ticket(3));
    let gave_up = [(1, Err(Rejected::Withdrawn)), (2, Err(Rejected::Withdrawn))];
    assert_eq!(answers(&mut documents), gave_up);
    documents.handle_read(id(), None);
    let (listed, ..) = write(&mut documents);
    assert_eq!(listed, [("chat/b".into(), Status::Online, 0, false)]);
    documents.handle_written(id(), Ok(Sequence(9)));
    assert_eq!((answers(&mut documents), documents.waiting()), (vec![(3, Ok(Done::Created))], 0));
}

#[test]
fn what_comes_while_a_write_is_on_its_way_goes_into_the_next_one() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    let (listed, expect, _) = write(&mut documents);
    assert_eq!((listed, expect), (vec![("chat/a".into(), Status::Online, 0, false)], 0));
    ask(&mut documents, 2, "b", put(Status::Idle));
    ask(&mut documents, 3, "a", Operation::Change(Some(Status::Idle), Facts::default()));
    assert_eq!(documents.poll_effect(), None);
    assert_eq!(answers(&mut documents), []);
    documents.handle_written(id(), Ok(Sequence(5)));
    assert_eq!(answers(&mut documents), [(1, Ok(Done::Created))]);
    let (listed, expect, _) = write(&mut documents);
    let both = vec![("chat/a".into(), Status::Idle, 5, false), ("chat/b".into(), Status::Idle, 0, false)];
    assert_eq!((listed, expect), (both, 5), "one write, and who was listed before says so");
    documents.handle_written(id(), Ok(Sequence(6)));
    assert_eq!(answers(&mut documents), [(2, Ok(Done::Created)), (3, Ok(Done::Changed))]);
    assert_eq!(documents.waiting(), 0);
}

#[test]
fn what_another_host_has_written_is_read_and_kept() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    let (_, _, written) = write(&mut documents);
    documents.handle_written(id(), Err(NotDone::LookAgain));
    assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())));
    let mut there = (*written).clone();
    there.sessions[0].id = session("z");
    documents.handle_read(id(), Some((Sequence(9), Arc::new(there))));
    let (listed, expect, _) = write(&mut documents);
    let both = vec![("chat/a".into(), Status::Online, 0, false), ("chat/z".into(), Status::Online, 9, false)];
    assert_eq!((listed, expect), (both, 9));
    assert_eq!(documents.conflicts(), 1);
}

#[test]
fn a_write_without_an_answer_that_was_done_is_not_done_twice() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    let (_, _, written) = write(&mut documents);
    documents.handle_written(id(), Err(NotDone::LookAgain));
    assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())));
    documents.handle_read(id(), Some((Sequence(4), written)));
    assert_eq!(answers(&mut documents), [(1, Ok(Done::Unchanged))]);
    assert_eq!(documents.poll_effect(), None);
}

/// Seed 46099 of the simulation: the answer to a write, or to a reading, came after another host's write, and what was asked
/// in between was about that.
#[test]
fn what_was_done_before_it_was_asked_refuses_nothing() {
    let change = || Operation::Change(Some(Status::Idle), Facts::default());
    for by_reading in [false, true] {
        let mut documents = HeldDocuments::new(10);
        if by_reading {
            ask(&mut documents, 1, "a", change());
            assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())));
        } else {
            ask(&mut documents, 1, "a", put(Status::Online));
            write(&mut documents);
        }
        // Another host lists `b` now; the holder asks here for its change.
        ask(&mut documents, 2, "b", change());
        if by_reading {
            documents.handle_read(id(), None);
            assert_eq!(answers(&mut documents), [(1, Err(Rejected::Unknown))]);
        } else {
            documents.handle_written(id(), Ok(Sequence(5)));
            assert_eq!(answers(&mut documents), [(1, Ok(Done::Created))]);
        }
        assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())), "it is looked at anew");
        let entry = |name: &str| SessionEntry {
            id: session(name),
            status: Status::Online,
            connected_at: Timestamp(1),
            attributes: Default::default(),
            ended: None,
            listed: Sequence(0),
        };
        let there = SessionDocument { sessions: vec![entry("b")], drained_until: None };
        // What is asked while it is read again is not decided by that either, and keeps nobody waiting.
        ask(&mut documents, 3, "c", change());
        documents.handle_read(id(), Some((Sequence(6), Arc::new(there.clone()))));
        let (listed, expect, written) = write(&mut documents);
        assert_eq!((listed, expect), (vec![("chat/b".into(), Status::Idle, 6, false)], 6));
        documents.handle_written(id(), Ok(Sequence(7)));
        assert_eq!(answers(&mut documents), [(2, Ok(Done::Changed))]);
        assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())));
        documents.handle_read(id(), Some((Sequence(7), written)));
        assert_eq!(answers(&mut documents), [(3, Err(Rejected::Unknown))]);
        assert_eq!((documents.poll_effect(), documents.waiting()), (None, 0));
    }
}

#[test]
fn what_is_remembered_refuses_nothing() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", Operation::End(labels::CLOSED.into()));
    assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())), "nothing is known of it");
    documents.handle_read(id(), None);
    assert_eq!(answers(&mut documents), [(1, Err(Rejected::Unknown))]);
    ask(&mut documents, 2, "a", put(Status::Online));
    let (_, _, written) = write(&mut documents);
    documents.handle_written(id(), Ok(Sequence(5)));
    for operation in [put(Status::Online), Operation::End(labels::CLOSED.into())] {
        ask(&mut documents, 3, "b", operation.clone());
        if operation == put(Status::Online) {
            write(&mut documents);
            documents.handle_written(id(), Ok(Sequence(6)));
            ask(&mut documents, 4, "b", operation);
            assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())), "it would change nothing");
            documents.handle_read(id(), Some((Sequence(7), written.clone())));
            let (listed, ..) = write(&mut documents);
            assert_eq!(listed.len(), 2, "it was gone, and is there again");
            documents.handle_written(id(), Ok(Sequence(8)));
        }
    }
}

#[test]
fn an_ended_session_stays_until_it_is_forgotten_and_its_id_is_not_used_again() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    write(&mut documents);
    documents.handle_written(id(), Ok(Sequence(5)));
    ask(&mut documents, 2, "a", Operation::End(labels::CLOSED.into()));
    let (listed, _, written) = write(&mut documents);
    assert_eq!(listed, [("chat/a".into(), Status::Online, 5, true)]);
    ask(&mut documents, 3, "a", put(Status::Online));
    documents.handle_written(id(), Ok(Sequence(6)));
    assert_eq!(answers(&mut documents)[1..], [(2, Ok(Done::Changed))]);
    assert_eq!(documents.poll_effect(), Some(DocumentEffect::Read(id())));
    documents.handle_read(id(), Some((Sequence(6), written)));
    assert_eq!(answers(&mut documents), [(3, Err(Rejected::Ended))]);
    ask(&mut documents, 0, "a", Operation::Forget);
    let (listed, expect, _) = write(&mut documents);
    assert_eq!((listed.len(), expect), (0, 6), "the last one");
    documents.handle_written(id(), Ok(Sequence(7)));
    assert_eq!(answers(&mut documents), [], "nobody waits for it");
}

#[test]
fn of_a_dead_holder_everything_that_waits_is_answered() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    ask(&mut documents, 2, "b", put(Status::Online));
    documents.handle_lost(HOLDER);
    assert_eq!(answers(&mut documents), [(1, Err(Rejected::Gone)), (2, Err(Rejected::Gone))]);
    documents.handle_written(id(), Ok(Sequence(5)));
    assert_eq!(documents.waiting(), 0);
}

#[test]
fn so_many_documents_are_remembered_i8() {
    let mut documents = HeldDocuments::new(3);
    for at in 0..50_u64 {
        let user = UserId::new(&format!("u{at}")).unwrap();
        let held = |operation| Held {
            ticket: Ticket(1),
            item: 0,
            session: session("s"),
            operation,
            at: Timestamp(1),
        };
        documents.handle_operation(HOLDER, &user, held(put(Status::Online)));
        documents.handle_written(DocumentId { instance: HOLDER, user: user.clone() }, Ok(Sequence(at + 1)));
        assert!(documents.remembered() <= 4, "{at}");
    }
}

#[test]
fn facts_that_are_not_named_stay() {
    let pairs = |facts: &Facts, before: &crate::events::Attributes| facts.over(before);
    let metadata = |value: &str| Metadata::new([("device".to_owned(), value.to_owned())]).ok();
    let all =
        Facts { remote_address: Some("::1".into()), user_agent: Some("x".into()), metadata: metadata("tv") };
    let first = pairs(&all, &Default::default());
    let shown =
        |name: &str| first.pairs().iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    assert_eq!((shown("remote-address"), shown("meta.device")), (Some("::1".into()), Some("tv".into())));
    assert_eq!(pairs(&Facts::default(), &first), first);
    let changed = pairs(&Facts { metadata: metadata("phone"), ..Facts::default() }, &first);
    assert_eq!(changed.pairs()[2], ("meta.device".to_owned(), "phone".to_owned()));
    assert_eq!(changed.pairs()[..2], first.pairs()[..2]);
}

/// A store with one document a user, two hosts that are asked, and one owner after the other.
struct World {
    hosts: [HeldDocuments; 2],
    owner: HeldHooks,
    checkpoint: Option<crate::documents::HeldCheckpoint>,
    documents: BTreeMap<DocumentId, (Sequence, Arc<SessionDocument>)>,
    sequence: u64,
    /// Versions that the owner has not seen yet; the newest of a document alone.
    unseen: BTreeMap<DocumentId, Sequence>,
    /// What a guest was given and has not settled.
    running: Vec<(DocumentId, SessionId, Hook)>,
    told: BTreeMap<SessionId, Vec<Hook>>,
    opened: BTreeSet<SessionId>,
    closed: BTreeSet<SessionId>,
    takeovers: u64,
}

impl World {
    fn new() -> World {
        World {
            hosts: [HeldDocuments::new(2), HeldDocuments::new(2)],
            owner: HeldHooks::new(PartitionId(0), 1),
            checkpoint: None,
            documents: BTreeMap::new(),
            sequence: 0,
            unseen: BTreeMap::new(),
            running: Vec::new(),
            told: BTreeMap::new(),
            opened: BTreeSet::new(),
            closed: BTreeSet::new(),
            takeovers: 0,
        }
    }

    /// One request of a host is carried out; `lost`: its answer does not come.
    fn serve(&mut self, host: usize, lost: bool) -> bool {
        match self.hosts[host].poll_effect() {
            None => return false,
            Some(DocumentEffect::Read(id)) => {
                let found = self.documents.get(&id).cloned();
                self.hosts[host].handle_read(id, found);
            }
            Some(DocumentEffect::Write { id, document, expect }) => {
                let last = self.documents.get(&id).map_or(Sequence(0), |(sequence, _)| *sequence);
                if last != expect {
                    self.hosts[host].handle_written(id, Err(NotDone::LookAgain));
                    return true;
                }
                self.sequence += 1;
                let sequence = Sequence(self.sequence);
                self.documents.insert(id.clone(), (sequence, document));
                self.unseen.insert(id.clone(), sequence);
                let answer = if lost { Err(NotDone::LookAgain) } else { Ok(sequence) };
                self.hosts[host].handle_written(id, answer);
            }
        }
        while let Some(answer) = self.hosts[host].poll_answer() {
            assert!(matches!(answer.result, Ok(_) | Err(Rejected::Ended | Rejected::Unknown)), "{answer:?}");
        }
        true
    }

    /// The owner hears of one version, in the store's order.
    fn follow(&mut self) -> bool {
        let Some((id, sequence)) =
            self.unseen.iter().min_by_key(|(_, sequence)| **sequence).map(|(id, at)| (id.clone(), *at))
        else {
            return false;
        };
        self.unseen.remove(&id);
        let document =
            self.documents.get(&id).filter(|(at, _)| *at == sequence).map(|(_, document)| document.clone());
        self.owner.handle_document(id, sequence, document.as_ref(), true);
        self.hear();
        true
    }

    fn hear(&mut self) {
        while let Some(effect) = self.owner.poll_effect() {
            match effect {
                HeldEffect::Hook(event) => {
                    let id = DocumentId { instance: HOLDER, user: event.session.user.clone() };
                    self.told.entry(event.session.id.clone()).or_default().push(event.hook());
                    assert_eq!(event.partition, Some(PartitionId(0)));
                    if let SessionChange::Disconnected { reason, .. } = &event.change {
                        assert_eq!(reason, labels::CLOSED);
                    }
                    self.running.push((id, event.session.id.clone(), event.hook()));
                }
                HeldEffect::Forget(id, session) => {
                    let (operation, at) = (Operation::Forget, Timestamp(1));
                    let held = Held { ticket: Ticket(0), item: 0, session, operation, at };
                    self.hosts[0].handle_operation(HOLDER, &id.user, held);
                }
            }
        }
    }

    /// A guest takes a hook: of one session in order.
    fn settle(&mut self, pick: usize) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let session = self.running[pick % self.running.len()].1.clone();
        let at = self.running.iter().position(|(_, other, _)| *other == session).unwrap();
        let (id, session, hook) = self.running.remove(at);
        self.owner.handle_settled(&id, &session, hook);
        self.hear();
        true
    }

    /// Another owner takes over, with the checkpoint that was last written; nothing that runs is settled.
    fn take_over(&mut self) {
        self.takeovers += 1;
        self.running.clear();
        self.owner = HeldHooks::new(PartitionId(0), 1);
        self.owner.handle_loaded(self.checkpoint);
        self.unseen.clear();
        for (id, (sequence, document)) in self.documents.clone() {
            self.owner.handle_document(id, sequence, Some(&document), true);
        }
        self.hear();
    }

    fn rest(&mut self) {
        while self.serve(0, false) | self.serve(1, false) | self.follow() | self.settle(0) {}
    }

    fn check(&self) {
        let live = self.documents.values().flat_map(|(_, document)| &document.sessions);
        let live: BTreeSet<SessionId> = live.map(|entry| entry.id.clone()).collect();
        assert_eq!(live, self.opened.difference(&self.closed).cloned().collect(), "what is there at rest");
        assert_eq!(self.owner.live(), live.len() as u64);
        for session in &self.opened {
            let told = self.told.get(session).cloned().unwrap_or_default();
            let first = told.iter().position(|hook| *hook == Hook::SessionConnected);
            let last = told.iter().rposition(|hook| *hook == Hook::SessionDisconnected);
            assert!(first.is_some(), "{session} was announced: {told:?}");
            assert_eq!(last.is_some(), self.closed.contains(session), "{session}: {told:?}");
            assert!(last.is_none_or(|last| first < Some(last)), "I6: {session} {told:?}");
            if self.takeovers == 0 {
                assert_eq!(told.len(), 1 + usize::from(last.is_some()), "I6, once: {session} {told:?}");
            }
        }
        let listing = self.documents.values().filter(|(_, document)| !document.sessions.is_empty());
        let newest = listing.map(|(sequence, _)| *sequence).max().unwrap_or_default();
        assert!(self.owner.checkpoint().is_none_or(|held| held.up_to >= newest), "everything is settled");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open { host: usize, user: u8, session: u8 },
    Close { host: usize, user: u8, session: u8 },
    Idle { host: usize, user: u8, session: u8 },
    Serve { host: usize, lost: bool },
    Follow,
    Settle(usize),
    Checkpoint,
    TakeOver,
}

fn steps(takeovers: bool) -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..2_usize, 0..3_u8, 0..4_u8);
    let step = prop_oneof![
        3 => place().prop_map(|(host, user, session)| Step::Open { host, user, session }),
        2 => place().prop_map(|(host, user, session)| Step::Close { host, user, session }),
        1 => place().prop_map(|(host, user, session)| Step::Idle { host, user, session }),
        8 => (0..2_usize, prop::bool::weighted(0.1)).prop_map(|(host, lost)| Step::Serve { host, lost }),
        4 => Just(Step::Follow),
        4 => (0..8_usize).prop_map(Step::Settle),
        1 => Just(Step::Checkpoint),
        u32::from(takeovers) => Just(Step::TakeOver),
    ];
    proptest::collection::vec(step, 1..120)
}

fn run(steps: Vec<Step>) {
    let mut world = World::new();
    for (number, step) in steps.into_iter().enumerate() {
        let of = |user: u8, name: u8| {
            (UserId::new(&format!("u{user}")).unwrap(), session(&format!("{user}-{name}")))
        };
        let ask = |world: &mut World, host: usize, (user, session): (UserId, SessionId), operation| {
            let at = Timestamp(number as u64);
            let held = Held { ticket: Ticket(1), item: 0, session, operation, at };
            world.hosts[host].handle_operation(HOLDER, &user, held);
        };
        match step {
            // An id is taken once, and only what is there is closed: others are refused, which has its own tests.
            Step::Open { host, user, session } => {
                let place = of(user, session);
                if world.opened.insert(place.1.clone()) {
                    ask(&mut world, host, place, put(Status::Online));
                }
            }
            Step::Close { host, user, session } => {
                let place = of(user, session);
                world.rest();
                if world.opened.contains(&place.1) && world.closed.insert(place.1.clone()) {
                    ask(&mut world, host, place, Operation::End(labels::CLOSED.into()));
                }
            }
            Step::Idle { host, user, session } => {
                let place = of(user, session);
                if world.opened.contains(&place.1) && !world.closed.contains(&place.1) {
                    ask(&mut world, host, place, put(Status::Idle));
                }
            }
            Step::Serve { host, lost } => {
                world.serve(host, lost);
            }
            Step::Follow => {
                world.follow();
            }
            Step::Settle(pick) => {
                world.settle(pick);
            }
            Step::Checkpoint => world.checkpoint = world.owner.checkpoint().or(world.checkpoint),
            Step::TakeOver => world.take_over(),
        }
    }
    world.rest();
    world.check();
}

proptest! {
    #[test]
    fn sessions_are_told_of_in_pairs_and_once_under_one_owner_i6(steps in steps(false)) {
        run(steps);
    }

    #[test]
    fn whatever_owner_comes_every_session_is_told_of_i6(steps in steps(true)) {
        run(steps);
    }
}

#[test]
fn of_a_holder_that_was_not_heard_of_lately_nothing_is_announced() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    let (_, _, document) = write(&mut documents);
    let mut hooks = HeldHooks::new(PartitionId(3), 1);
    hooks.handle_document(id(), Sequence(5), Some(&document), false);
    assert_eq!(hooks.poll_effect(), None);
    assert_eq!(hooks.waits_for(), [HOLDER].into());
    hooks.handle_heard(HOLDER);
    assert!(matches!(hooks.poll_effect(), Some(HeldEffect::Hook(_))));
    assert_eq!(hooks.checkpoint().map(|held| held.up_to), Some(Sequence(4)), "not settled");
    hooks.handle_lost(HOLDER);
    assert_eq!(hooks.checkpoint().map(|held| held.up_to), Some(Sequence(5)), "nobody tells of it any more");
    assert_eq!(hooks.live(), 0);
}

#[test]
fn a_fresh_start_has_live_holders_announced_again() {
    let mut documents = HeldDocuments::new(10);
    ask(&mut documents, 1, "a", put(Status::Online));
    let (_, _, document) = write(&mut documents);
    for (generation, told) in [(1, 0), (2, 1)] {
        let mut hooks = HeldHooks::new(PartitionId(3), generation);
        hooks.handle_loaded(Some(crate::documents::HeldCheckpoint { up_to: Sequence(9), generation: 1 }));
        hooks.handle_document(id(), Sequence(5), Some(&document), true);
        assert_eq!(std::iter::from_fn(|| hooks.poll_effect()).count(), told);
    }
}
