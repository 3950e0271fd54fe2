//! The documents of held sessions, as far as this host is asked to change them: read, change, compare-and-set.
//!
//! Rules: at most one request for a document is on its way; what is asked meanwhile goes into the next write; an
//! operation is answered once the write that has it is acknowledged. What is remembered of a document decides nothing by
//! itself, since others write it too: an operation that it would refuse, or that would change nothing, is decided on a
//! document that was read for it. A session that is put into a document of which nothing is known is tried as its first.
//!
//! Memory: about 100 bytes a remembered document besides its sessions, for at most as many as were said; and what waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::documents::{SessionDocument, SessionEntry};
use crate::ids::{InstanceId, Sequence, UserId};

use super::words::{Answer, DocumentEffect, DocumentId, Done, Held, NotDone, Operation, Rejected, Ticket};

/// So many operations wait for the store at most.
const MAX_WAITING: usize = 262_144;

/// How much what is remembered is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing is.
    Nothing,
    /// It was not like that: it must be read.
    Wrong,
    /// It was like that once.
    Once,
    /// It was read after the first of what waits were asked ([`Busy::sure`]).
    Now,
}

#[derive(Debug)]
struct Cell {
    known: Known,
    sequence: Sequence,
    document: Option<Arc<SessionDocument>>,
    /// Tells an entry in the queue of idle cells from an older one.
    used: u64,
    /// None: nothing is asked of it.
    busy: Option<Box<Busy>>,
}

#[derive(Debug, Default)]
struct Busy {
    waiting: VecDeque<Held>,
    reading: bool,
    /// So many of the first that wait were asked before the last reading began. What came later may be about a document
    /// that is newer than what was read.
    sure: usize,
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    held: Vec<Held>,
    results: Vec<Result<Done, Rejected>>,
    document: Arc<SessionDocument>,
}

/// The documents that this host writes for holders.
#[derive(Debug)]
pub struct HeldDocuments {
    cells: BTreeMap<DocumentId, Cell>,
    /// Cells that nothing is asked of, the longest idle first; entries that were used since are stale.
    idle: VecDeque<(u64, DocumentId)>,
    uses: u64,
    /// So many are remembered.
    remembered: usize,
    waiting: usize,
    conflicts: u64,
    effects: VecDeque<DocumentEffect>,
    answers: VecDeque<Answer>,
}

impl HeldDocuments {
    /// Nothing is known yet. `remembered`: how many documents are kept that nothing is asked of.
    pub fn new(remembered: usize) -> HeldDocuments {
        HeldDocuments {
            cells: BTreeMap::new(),
            idle: VecDeque::new(),
            uses: 0,
            remembered,
            waiting: 0,
            conflicts: 0,
            effects: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    /// Something is asked of a session.
    pub fn handle_operation(&mut self, instance: InstanceId, user: &UserId, held: Held) {
        if self.waiting >= MAX_WAITING && held.operation != Operation::Forget {
            self.answer(held, Err(Rejected::Busy));
            return;
        }
        self.waiting += 1;
        let id = DocumentId { instance, user: user.clone() };
        let cell = self.cells.entry(id.clone()).or_insert_with(|| Cell {
            known: Known::Nothing,
            sequence: Sequence(0),
            document: None,
            used: 0,
            busy: None,
        });
        cell.busy.get_or_insert_default().waiting.push_back(held);
        self.go_on(id);
    }

    /// Before an answer of the store: of what waits for it, only what somebody still waits for is done. Whoever has given up
    /// asks somebody else, and then for something newer: an order that came to its turn after that would undo it.
    pub fn withdraw(&mut self, id: &DocumentId, is_wanted: impl Fn(Ticket) -> bool) {
        let Some(busy) = self.cells.get_mut(id).and_then(|cell| cell.busy.as_mut()) else { return };
        let wanted = |held: &Held| held.ticket == Ticket(0) || is_wanted(held.ticket);
        if busy.waiting.iter().all(wanted) {
            return;
        }
        busy.sure = busy.waiting.iter().take(busy.sure).filter(|held| wanted(held)).count();
        let (waiting, given_up): (VecDeque<Held>, VecDeque<Held>) =
            std::mem::take(&mut busy.waiting).into_iter().partition(wanted);
        busy.waiting = waiting;
        self.answer_all(given_up.into_iter().map(|held| (held, Err(Rejected::Withdrawn))));
    }

    /// A document as whoever decides has it.
    pub fn handle_read(&mut self, id: DocumentId, found: Option<(Sequence, Arc<SessionDocument>)>) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let Some(busy) = cell.busy.as_mut().filter(|busy| busy.reading) else { return };
        busy.reading = false;
        cell.know(Known::Now, found);
        self.go_on(id);
    }

    /// What became of a write.
    pub fn handle_written(&mut self, id: DocumentId, result: Result<Sequence, NotDone>) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let Some(writing) = cell.busy.as_mut().and_then(|busy| busy.writing.take()) else { return };
        match result {
            Ok(sequence) => {
                // Others may have written it again before this was heard, and what waits may be about that.
                cell.know(Known::Once, Some((sequence, writing.document)));
                self.answer_all(writing.held.into_iter().zip(writing.results));
            }
            Err(NotDone::LookAgain) => {
                self.conflicts += 1;
                cell.known = Known::Wrong;
                if let Some(busy) = &mut cell.busy {
                    for held in writing.held.into_iter().rev() {
                        busy.waiting.push_front(held);
                    }
                }
            }
            Err(NotDone::Refused(reason)) => {
                cell.known = Known::Wrong;
                let refused = || Err(Rejected::Refused(reason.clone()));
                self.answer_all(
                    writing.held.into_iter().map(|held| (held, refused())).collect::<Vec<_>>().into_iter(),
                );
            }
        }
        self.go_on(id);
    }

    /// An update of the document was followed.
    pub fn handle_seen(
        &mut self,
        instance: InstanceId,
        user: &UserId,
        sequence: Sequence,
        document: Option<&Arc<SessionDocument>>,
    ) {
        let id = DocumentId { instance, user: user.clone() };
        let newer = |cell: &&mut Cell| cell.busy.is_none() && cell.sequence < sequence;
        let Some(cell) = self.cells.get_mut(&id).filter(newer) else { return };
        match document {
            Some(document) => (cell.sequence, cell.document) = (sequence, Some(document.clone())),
            None => {
                self.cells.remove(&id);
            }
        }
    }

    /// The holder was declared dead: what is asked of its sessions is not done, or nobody knows.
    pub fn handle_lost(&mut self, instance: InstanceId) {
        let first = DocumentId { instance, user: UserId::least() };
        let ids = self.cells.range(first..).map(|(id, _)| id).take_while(|id| id.instance == instance);
        for id in ids.cloned().collect::<Vec<_>>() {
            let Some(busy) = self.cells.remove(&id).and_then(|cell| cell.busy) else { continue };
            let writing = busy.writing.into_iter().flat_map(|writing| writing.held);
            let gone: Vec<Held> = writing.chain(busy.waiting).collect();
            self.answer_all(gone.into_iter().map(|held| (held, Err(Rejected::Gone))));
        }
    }

    /// The store was recreated: what was remembered is not there.
    pub fn handle_wiped(&mut self) {
        self.cells.retain(|_, cell| cell.busy.is_some());
        self.idle.clear();
        for cell in self.cells.values_mut() {
            cell.known = Known::Wrong;
        }
    }

    /// The next thing to ask of the store.
    pub fn poll_effect(&mut self) -> Option<DocumentEffect> {
        self.effects.pop_front()
    }

    /// The next answer.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// Documents that are remembered or busy.
    pub fn remembered(&self) -> usize {
        self.cells.len()
    }

    /// Operations that are not answered.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Writes that met another writer, or had no answer.
    pub fn conflicts(&self) -> u64 {
        self.conflicts
    }

    fn answer(&mut self, held: Held, result: Result<Done, Rejected>) {
        let Held { ticket, item, .. } = held;
        if ticket != Ticket(0) {
            self.answers.push_back(Answer { ticket, item, result });
        }
    }

    fn answer_all(&mut self, answered: impl Iterator<Item = (Held, Result<Done, Rejected>)>) {
        for (held, result) in answered {
            self.waiting -= 1;
            self.answer(held, result);
        }
    }

    /// Asks the store for what is needed next, until something is on its way or nothing waits.
    fn go_on(&mut self, id: DocumentId) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let Some(busy) = &mut cell.busy else { return };
        if busy.reading || busy.writing.is_some() {
            return;
        }
        let is_put = |held: &Held| matches!(held.operation, Operation::Put(..));
        let taken = match cell.known {
            Known::Nothing => busy.waiting.iter().take_while(|held| is_put(held)).count(),
            Known::Wrong => 0,
            Known::Once => busy.waiting.len(),
            Known::Now => busy.sure.min(busy.waiting.len()),
        };
        if busy.waiting.is_empty() {
            return self.rest(id);
        }
        let mut sessions = sessions_of(cell.sequence, cell.document.as_deref());
        let results: Vec<_> = busy.waiting.iter().take(taken).map(|held| held.apply(&mut sessions)).collect();
        let changes = |result: &Result<Done, Rejected>| matches!(result, Ok(Done::Created | Done::Changed));
        if cell.known != Known::Now && (taken == 0 || !results.iter().all(changes)) {
            (busy.reading, busy.sure) = (true, busy.waiting.len());
            self.effects.push_back(DocumentEffect::Read(id));
            return;
        }
        let held: Vec<Held> = busy.waiting.drain(..taken).collect();
        if !results.iter().any(changes) {
            cell.known = Known::Once;
            self.answer_all(held.into_iter().zip(results));
            return self.go_on(id);
        }
        let document = Arc::new(SessionDocument { sessions, drained_until: None });
        let expect = cell.sequence;
        busy.writing = Some(Writing { held, results, document: document.clone() });
        self.effects.push_back(DocumentEffect::Write { id, document, expect });
    }

    /// Nothing is asked of it any more: it is remembered, as long as there is room.
    fn rest(&mut self, id: DocumentId) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        cell.busy = None;
        if cell.document.is_none() || cell.known == Known::Wrong {
            self.cells.remove(&id);
            return;
        }
        cell.known = Known::Once;
        self.uses += 1;
        cell.used = self.uses;
        self.idle.push_back((self.uses, id));
        // Each cell has one entry that is not stale.
        while self.cells.len() > self.remembered || self.idle.len() > 2 * self.cells.len() + 64 {
            let Some((used, id)) = self.idle.pop_front() else { break };
            let Some(cell) = self.cells.get(&id) else { continue };
            if cell.used != used || cell.busy.is_some() {
                continue;
            }
            if self.cells.len() > self.remembered {
                self.cells.remove(&id);
            } else {
                self.idle.push_back((used, id));
            }
        }
    }
}

impl Cell {
    fn know(&mut self, known: Known, found: Option<(Sequence, Arc<SessionDocument>)>) {
        self.known = known;
        (self.sequence, self.document) = match found {
            Some((sequence, document)) => (sequence, Some(document)),
            None => (Sequence(0), None),
        };
    }
}

/// The sessions as the next version has them: those of this one say that they were listed in it or before.
fn sessions_of(sequence: Sequence, document: Option<&SessionDocument>) -> Vec<SessionEntry> {
    let listed = document.map_or(&[][..], |document| &document.sessions);
    let mut sessions = Vec::with_capacity(listed.len() + 1);
    sessions.extend_from_slice(listed);
    for entry in &mut sessions {
        if entry.listed == Sequence(0) {
            entry.listed = sequence;
        }
    }
    sessions
}
