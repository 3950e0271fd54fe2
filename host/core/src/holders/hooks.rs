//! The session hooks of the held sessions of one owned partition.
//!
//! Rules: a session that is new in a document is announced; one that has ended is told of, and once every plugin has
//! settled that, the document may forget it. What is new is known by the version of the document that was looked at
//! last: every session says in which version it was listed first. What an earlier owner has settled is told by the
//! checkpoint: of documents that are not newer than it nothing is told again, of others everything that they list. Nothing
//! is announced of a holder whose lease may be over before its renewal is heard of.
//!
//! Memory: about 60 bytes a document, and what is told and not settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::documents::{HeldCheckpoint, SessionDocument, SessionEntry};
use crate::events::{Hook, Session, SessionChange, SessionEvent};
use crate::ids::{InstanceId, PartitionId, Sequence, SessionId};

use super::words::DocumentId;

/// What is to be done about held sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldEffect {
    /// Run the session hook; answer with [`HeldHooks::handle_settled`].
    Hook(SessionEvent),
    /// Its end is settled: the document may forget the session.
    Forget(DocumentId, SessionId),
}

/// A document as it was looked at last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sequence: Sequence,
    live: u32,
}

/// What was told of a session and is not done with.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// By which version its beginning was told, as long as that is not settled.
    connected: Option<Sequence>,
    /// By which version its end was told.
    ended: Option<Sequence>,
    /// The end is settled: the document is to forget it.
    settled: bool,
}

/// The held sessions of one partition.
#[derive(Debug)]
pub struct HeldHooks {
    partition: PartitionId,
    generation: u64,
    seen: BTreeMap<DocumentId, Seen>,
    /// Documents of holders whose renewal is waited for: the newest version of each.
    waiting: BTreeMap<DocumentId, (Sequence, Arc<SessionDocument>)>,
    told: BTreeMap<(DocumentId, SessionId), Told>,
    /// How many hooks are not settled, by the version that they were told by.
    open: BTreeMap<Sequence, u32>,
    /// What an earlier owner has settled.
    before: Sequence,
    /// The newest version that was looked at.
    newest: Sequence,
    live: u64,
    surrendered: bool,
    effects: VecDeque<HeldEffect>,
}

impl HeldHooks {
    /// A partition that was just claimed, in this boot generation.
    pub fn new(partition: PartitionId, generation: u64) -> HeldHooks {
        HeldHooks {
            partition,
            generation,
            seen: BTreeMap::new(),
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
            open: BTreeMap::new(),
            before: Sequence(0),
            newest: Sequence(0),
            live: 0,
            surrendered: false,
            effects: VecDeque::new(),
        }
    }

    /// What an earlier owner has settled, before any document. Of another generation it says nothing.
    pub fn handle_loaded(&mut self, held: Option<HeldCheckpoint>) {
        if let Some(held) = held.filter(|held| held.generation == self.generation) {
            self.before = held.up_to;
            self.newest = self.newest.max(held.up_to);
        }
    }

    /// A document with this last sequence; none: it is gone. `announces`: whether its holder was heard of lately.
    pub fn handle_document(
        &mut self,
        id: DocumentId,
        sequence: Sequence,
        document: Option<&Arc<SessionDocument>>,
        announces: bool,
    ) {
        if self.surrendered || self.seen.get(&id).is_some_and(|seen| sequence <= seen.sequence) {
            return;
        }
        let Some(document) = document else {
            self.waiting.remove(&id);
            return self.forget(&id);
        };
        let empty = document.sessions.is_empty();
        let held = document.sessions.iter().any(|entry| matches!(entry.id, SessionId::Held(_)));
        if !held && !(empty && (self.seen.contains_key(&id) || self.waiting.contains_key(&id))) {
            return;
        }
        let settled = self.is_settled_before(&id, sequence);
        if announces || settled || empty {
            self.waiting.remove(&id);
            self.look(id, sequence, document, settled);
        } else {
            self.waiting.insert(id, (sequence, document.clone()));
        }
    }

    /// Holders whose renewal is waited for.
    pub fn waits_for(&self) -> BTreeSet<InstanceId> {
        self.waiting.keys().map(|id| id.instance).collect()
    }

    /// A snapshot was fed: documents that it does not name are gone.
    pub fn handle_snapshot(&mut self, named: impl Fn(&DocumentId) -> bool) {
        self.waiting.retain(|id, _| named(id));
        let gone = self.seen.keys().filter(|id| !named(id)).cloned().collect::<Vec<_>>();
        gone.iter().for_each(|id| self.forget(id));
    }

    /// True once there was any held session here.
    pub fn is_used(&self) -> bool {
        self.newest > Sequence(0) || !self.waiting.is_empty()
    }

    /// A holder was heard of again: its sessions are announced.
    pub fn handle_heard(&mut self, instance: InstanceId) {
        if self.surrendered {
            return;
        }
        let heard = self.waiting.extract_if(.., |id, _| id.instance == instance).collect::<Vec<_>>();
        for (id, (sequence, document)) in heard {
            self.look(id, sequence, &document, false);
        }
    }

    /// A holder was declared dead: somebody cleans up after it, and what was told of its sessions is dropped. True if there
    /// was anything.
    pub fn handle_lost(&mut self, instance: InstanceId) -> bool {
        self.waiting.retain(|id, _| id.instance != instance);
        for (_, seen) in self.seen.extract_if(.., |id, _| id.instance == instance) {
            self.live -= u64::from(seen.live);
        }
        let lost = self.told.extract_if(.., |(id, _), _| id.instance == instance).collect::<Vec<_>>();
        let any = !lost.is_empty();
        for (_, told) in lost {
            self.close(told.connected);
            self.close(told.ended.filter(|_| !told.settled));
        }
        self.effects.retain(|effect| match effect {
            HeldEffect::Hook(event) => event.session.instance != instance,
            HeldEffect::Forget(id, _) => id.instance != instance,
        });
        any
    }

    /// Every plugin has settled a hook.
    pub fn handle_settled(&mut self, id: &DocumentId, session: &SessionId, hook: Hook) {
        let key = (id.clone(), session.clone());
        let Some(told) = self.told.get_mut(&key) else { return };
        let closed = if hook == Hook::SessionConnected {
            told.connected.take()
        } else if told.settled {
            None
        } else {
            told.settled = told.ended.is_some();
            told.ended
        };
        let done = told.connected.is_none() && told.ended.is_none();
        let forgets = told.settled && closed.is_some() && hook == Hook::SessionDisconnected;
        if done {
            self.told.remove(&key);
        }
        self.close(closed);
        if !forgets || self.surrendered {
            return;
        }
        if self.seen.contains_key(&key.0) {
            self.effects.push_back(HeldEffect::Forget(key.0, key.1));
        } else {
            self.told.remove(&key);
        }
    }

    /// The partition is being handed over: nothing more is told.
    pub fn handle_surrender(&mut self) {
        self.surrendered = true;
        self.effects.clear();
    }

    /// The store was recreated: sequences begin anew, and nothing of before is there.
    pub fn handle_restored(&mut self) {
        *self = HeldHooks::new(self.partition, self.generation);
    }

    /// How far everything is settled; none: there never was a held session here.
    pub fn checkpoint(&self) -> Option<HeldCheckpoint> {
        if self.newest == Sequence(0) {
            return None;
        }
        let first = self.open.keys().chain(self.waiting.values().map(|(sequence, _)| sequence)).min();
        let up_to = first.map_or(self.newest, |first| Sequence(first.0.saturating_sub(1)).min(self.newest));
        Some(HeldCheckpoint { up_to: up_to.max(self.before), generation: self.generation })
    }

    /// Live held sessions.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<HeldEffect> {
        self.effects.pop_front()
    }

    /// Whether an earlier owner has settled all that this version tells of.
    fn is_settled_before(&self, id: &DocumentId, sequence: Sequence) -> bool {
        sequence <= self.before && !self.seen.contains_key(id)
    }

    fn look(&mut self, id: DocumentId, sequence: Sequence, document: &SessionDocument, settled: bool) {
        let last = self.seen.get(&id).map(|seen| seen.sequence);
        let mut live = 0;
        let held = |entry: &&SessionEntry| matches!(entry.id, SessionId::Held(_));
        for entry in document.sessions.iter().filter(held) {
            live += u32::from(entry.ended.is_none());
            let listed = if entry.listed == Sequence(0) { sequence } else { entry.listed };
            let new = !settled && last.is_none_or(|last| listed > last);
            if settled && entry.ended.is_some() {
                self.effects.push_back(HeldEffect::Forget(id.clone(), entry.id.clone()));
                let told = Told { connected: None, ended: Some(sequence), settled: true };
                self.told.insert((id.clone(), entry.id.clone()), told);
            } else {
                self.tell(&id, sequence, entry, new);
            }
        }
        let listed = |session: &SessionId| document.sessions.iter().any(|entry| entry.id == *session);
        self.drop_forgotten(&id, listed);
        self.newest = self.newest.max(sequence);
        let before = self.seen.insert(id, Seen { sequence, live });
        self.live += u64::from(live);
        self.live -= before.map_or(0, |seen| u64::from(seen.live));
    }

    /// Tells of a session what was not told yet.
    fn tell(&mut self, id: &DocumentId, sequence: Sequence, entry: &SessionEntry, new: bool) {
        let key = (id.clone(), entry.id.clone());
        let mut told = self.told.get(&key).copied().unwrap_or_default();
        if new && told.settled {
            // Its end is done with: the id was taken once more.
            told = Told::default();
        }
        let ends = entry.ended.as_ref().filter(|_| told.ended.is_none());
        if !new && ends.is_none() {
            return;
        }
        if new {
            self.close(told.connected.replace(sequence));
            self.open(sequence);
            self.hook(id, entry, SessionChange::Connected);
        }
        if let Some(ended) = ends {
            told.ended = Some(sequence);
            self.open(sequence);
            let duration_ms = ended.at.millis_since(entry.connected_at);
            let change = SessionChange::Disconnected { reason: ended.reason.clone(), duration_ms };
            self.hook(id, entry, change);
        }
        self.told.insert(key, told);
    }

    fn hook(&mut self, id: &DocumentId, entry: &SessionEntry, change: SessionChange) {
        let session = Session {
            id: entry.id.clone(),
            user: id.user.clone(),
            instance: id.instance,
            status: entry.status,
            connected_at: entry.connected_at,
            attributes: entry.attributes.clone(),
        };
        let event = SessionEvent { session, change, partition: Some(self.partition) };
        self.effects.push_back(HeldEffect::Hook(event));
    }

    /// The document is gone.
    fn forget(&mut self, id: &DocumentId) {
        if let Some(seen) = self.seen.remove(id) {
            self.live -= u64::from(seen.live);
        }
        self.drop_forgotten(id, |_| false);
    }

    /// Ends that are settled and that the document lists no more are done with.
    fn drop_forgotten(&mut self, id: &DocumentId, listed: impl Fn(&SessionId) -> bool) {
        let first = (id.clone(), SessionId::Hosted(0));
        let of = self.told.range(first..).take_while(|((other, _), _)| other == id);
        let gone =
            of.filter(|((_, session), told)| told.settled && told.connected.is_none() && !listed(session));
        for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.told.remove(&key);
        }
    }

    fn open(&mut self, sequence: Sequence) {
        *self.open.entry(sequence).or_default() += 1;
    }

    fn close(&mut self, sequence: Option<Sequence>) {
        let Some(sequence) = sequence else { return };
        if let Some(count) = self.open.get_mut(&sequence) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&sequence);
            }
        }
    }
}
