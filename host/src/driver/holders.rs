//! The driver's side of holders: what they ask, what is written for them, which session hooks run. Their lives are
//! instances' lives; what is here only begins and prolongs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use presence_core::documents::{Document, Expect, InstanceRecord, Key, SessionDocument};
use presence_core::events::Hook;
use presence_core::holders::{
    Answer, DocumentEffect, DocumentId, Done, EMPTY_KEPT, Held, HeldDocuments, HeldEffect, NotDone,
    Operation, Rejected, Ticket,
};
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use presence_core::membership::HolderView;
use presence_core::time::Now;

use super::engine::Driver;
use super::io::{Completion, read};
use super::partition::Partition;
use crate::plugins;
use crate::store::{Put, StoreError};

mod registration;
mod words;

use words::MAX_HOLDERS;
pub use words::{
    HeldChange, HolderAnswer, HolderCounts, HolderOrder, HolderRefused, HolderReply, HolderVerb, Kept,
};

/// So many documents are remembered that nothing is asked of.
const REMEMBERED: usize = 262_144;

/// Before a document is looked at whose write had no answer.
const UNCLEAR_PAUSE: Duration = Duration::from_millis(100);

/// What became known of instances on behalf of a holder.
pub(super) type Facts = Vec<(InstanceId, Sequence, InstanceRecord)>;

/// What is asked together.
pub(super) struct Pending {
    /// The holder's.
    instance: InstanceId,
    left: usize,
    results: Vec<Option<Result<Done, Rejected>>>,
    reply: HolderReply,
}

/// What this host does for holders.
pub(super) struct Holders {
    pub(super) documents: HeldDocuments,
    pending: BTreeMap<Ticket, Pending>,
    tickets: u64,
    /// Partitions with sessions of holders whose renewal is waited for.
    withheld: BTreeSet<PartitionId>,
    pub(super) counts: HolderCounts,
    /// Held by what is asked of the store: as long as this host runs.
    life: Arc<()>,
}

impl Holders {
    pub(super) fn new() -> Holders {
        Holders {
            documents: HeldDocuments::new(REMEMBERED),
            pending: BTreeMap::new(),
            tickets: 0,
            withheld: BTreeSet::new(),
            counts: HolderCounts::default(),
            life: Arc::new(()),
        }
    }

    pub(super) fn counts(&self) -> HolderCounts {
        let (conflicts, waiting) = (self.documents.conflicts(), self.documents.waiting() as u64);
        HolderCounts { conflicts, waiting, ..self.counts }
    }
}

impl Driver {
    /// Whoever asks may give up: what has not been sent to the store by then is not done any more.
    pub(super) fn hold(&mut self, now: Now, order: HolderOrder, reply: HolderReply) {
        let Some(reply) = self.admit(now, reply) else { return };
        let known = self.membership.holder(&order.name, &order.incarnation);
        if let Some(incarnation) = known.as_ref().and_then(|view| view.replaced.clone()) {
            let _ = reply.send(Err(HolderRefused::Replaced(incarnation)));
            return;
        }
        self.serve(now, order, known.filter(|view| view.confirmed), reply);
    }

    /// The same for a holder that is known for certain; none: whoever decides must be asked.
    fn serve(&mut self, now: Now, order: HolderOrder, known: Option<HolderView>, reply: HolderReply) {
        if known.as_ref().is_some_and(|view| view.outdated) && !matches!(order.verb, HolderVerb::End) {
            let _ = reply.send(Err(HolderRefused::Gone));
            return;
        }
        match (order.verb, known) {
            (HolderVerb::Change(changes), Some(view)) if !view.suspect => {
                self.change_held(now, view.instance, changes, reply);
            }
            (HolderVerb::Change(_), Some(_)) => _ = reply.send(Err(HolderRefused::Lapsed)),
            // What the store has nothing of, not even the marker of its end, is not begun again: it may be forgotten.
            (HolderVerb::Keep(_), Some(view)) if view.sequence == Sequence(0) => {
                let _ = reply.send(Err(HolderRefused::Gone));
            }
            (HolderVerb::Keep(lease), Some(view)) => {
                let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.holders.life));
                let operation = async move {
                    let (facts, result) = registration::renew(&store, &wanted, view, lease).await;
                    Completion::Holder(facts, result, reply)
                };
                self.start(operation.boxed());
            }
            (HolderVerb::Keep(lease), None) => {
                let order = HolderOrder { verb: HolderVerb::Keep(lease), ..order };
                self.register(now, order, lease, reply);
            }
            (HolderVerb::End, view) => {
                let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.holders.life));
                let (name, incarnation) = (order.name, order.incarnation);
                let instance = view.map(|view| view.instance);
                let operation = async move {
                    let (facts, result) =
                        registration::end(&store, &wanted, &name, &incarnation, instance, now.wall).await;
                    Completion::Holder(facts, result, reply)
                };
                self.start(operation.boxed());
            }
            (verb @ HolderVerb::Change(_), None) => {
                // Registered a moment ago, at another host.
                let order = HolderOrder { verb, ..order };
                let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.holders.life));
                let operation = async move {
                    let mut reply = reply;
                    let found = registration::find(&store, &wanted, &order.name, &order.incarnation);
                    tokio::select! {
                        biased;
                        () = reply.closed() => Completion::Nothing,
                        found = found => Completion::HolderFound(found, order, reply),
                    }
                };
                self.start(operation.boxed());
            }
        }
    }

    /// Whether what is asked may be done now; asked again after every wait. Whoever gave up has asked elsewhere since, and
    /// for something newer; and this host may have lost its lease, or have another life.
    fn admit(&self, now: Now, reply: HolderReply) -> Option<HolderReply> {
        if reply.is_closed() {
            return None;
        }
        match self.takes_no_holders(now) {
            None => Some(reply),
            Some(refused) => {
                let _ = reply.send(Err(refused));
                None
            }
        }
    }

    fn takes_no_holders(&self, now: Now) -> Option<HolderRefused> {
        if self.drain.is_some() {
            return Some(HolderRefused::Draining);
        }
        if !self.membership.is_ready() || self.clock_off.is_some() {
            return Some(HolderRefused::Starting);
        }
        // Without the lease others may have declared it dead, and holders too.
        let away = || HolderRefused::Store("this host has no touch with it".into());
        (!self.membership.may_act(now)).then(away)
    }

    fn register(&mut self, now: Now, order: HolderOrder, lease: Duration, reply: HolderReply) {
        if self.membership.counters().holders >= MAX_HOLDERS {
            let _ = reply.send(Err(HolderRefused::TooMany));
            return;
        }
        let newcomer = registration::Newcomer {
            name: order.name.clone(),
            incarnation: order.incarnation,
            lease,
            start: self.membership.start(),
            instance: self.new_instance_id(now),
            others: self.membership.holder_instances(&order.name),
            at: now.wall,
        };
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.holders.life));
        let operation = async move {
            let (facts, result) = registration::register(&store, &wanted, newcomer).await;
            Completion::Holder(facts, result, reply)
        };
        self.start(operation.boxed());
    }

    /// Something was done for a holder.
    pub(super) fn holder_served(
        &mut self,
        now: Now,
        facts: Facts,
        result: Result<HolderAnswer, HolderRefused>,
        reply: HolderReply,
    ) {
        self.learn(now, facts);
        if let Ok(HolderAnswer::Kept(kept)) = &result {
            let count = if kept.created {
                &mut self.holders.counts.registered
            } else {
                &mut self.holders.counts.renewed
            };
            *count += 1;
        }
        let _ = reply.send(result);
    }

    /// A holder that this host did not know was looked for.
    pub(super) fn holder_found(
        &mut self,
        now: Now,
        found: Result<Facts, HolderRefused>,
        order: HolderOrder,
        reply: HolderReply,
    ) {
        let Some(reply) = self.admit(now, reply) else { return };
        let refused = match found {
            Ok(facts) => {
                let instance = facts.first().map(|(instance, ..)| *instance);
                self.learn(now, facts);
                let known = instance.and_then(|instance| self.membership.holder_at(instance));
                if known.is_some() {
                    return self.serve(now, order, known, reply);
                }
                HolderRefused::Gone
            }
            Err(refused) => refused,
        };
        let _ = reply.send(Err(refused));
    }

    /// The watch will tell the same; whoever was answered need not wait for it.
    fn learn(&mut self, now: Now, facts: Facts) {
        for (instance, sequence, record) in facts {
            self.membership.handle_instance_read(now, instance, Sequence(0), Some((sequence, record)));
        }
    }

    fn change_held(&mut self, now: Now, instance: InstanceId, changes: Vec<HeldChange>, reply: HolderReply) {
        self.holders.tickets += 1;
        let ticket = Ticket(self.holders.tickets);
        if changes.is_empty() {
            let _ = reply.send(Ok(HolderAnswer::Changed(Vec::new())));
            return;
        }
        let pending = Pending { instance, left: changes.len(), results: vec![None; changes.len()], reply };
        self.holders.pending.insert(ticket, pending);
        for (item, HeldChange { user, session, operation }) in (0..).zip(changes) {
            let held = Held { ticket, item, session, operation, at: now.wall };
            self.holders.documents.handle_operation(instance, &user, held);
        }
    }

    /// Returns true when there was nothing to do.
    pub(super) fn carry_out_holders(&mut self, now: Now) -> bool {
        let mut quiet = true;
        if !self.holders.withheld.is_empty() {
            self.announce_withheld(now);
        }
        while let Some(effect) = self.holders.documents.poll_effect() {
            quiet = false;
            self.ask_for_document(effect);
        }
        while let Some(answer) = self.holders.documents.poll_answer() {
            quiet = false;
            if let Some(done) = self.holders.answer(answer) {
                self.answer_changes(done);
            }
        }
        quiet
    }

    /// All that was asked together is done, or not. That a session is not there may be news of the holder: its documents
    /// are purged once it is dead, or by a fresh start when its lease was over, whether this host has heard of that or not.
    fn answer_changes(&mut self, done: Pending) {
        if done.reply.is_closed() || !done.results.contains(&Some(Err(Rejected::Unknown))) {
            return done.answer();
        }
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.holders.life));
        let operation = async move {
            match read(&wanted, || store.get(Key::Instance(done.instance))).await {
                None => Completion::Nothing,
                Some(Some((sequence, Document::Instance(record)))) => {
                    Completion::HolderLookedAt(Some((sequence, record)), done)
                }
                Some(_) => Completion::HolderLookedAt(None, done),
            }
        };
        self.start(operation.boxed());
    }

    /// What became of the holder of a session that is not there.
    pub(super) fn holder_looked_at(
        &mut self,
        now: Now,
        found: Option<(Sequence, InstanceRecord)>,
        mut done: Pending,
    ) {
        let record = found.as_ref().map(|(_, record)| record.clone());
        let facts = found.map(|(sequence, record)| (done.instance, sequence, record));
        self.learn(now, facts.into_iter().collect());
        let absence = self.membership.absence(now, done.instance, record.as_ref());
        for result in done.results.iter_mut().flatten() {
            if *result == Err(Rejected::Unknown) {
                *result = Err(absence.clone());
            }
        }
        done.answer();
    }

    fn ask_for_document(&mut self, effect: DocumentEffect) {
        let layout = self.config.layout;
        let key = move |id: &DocumentId| {
            let (partition, leaf) = layout.place(&id.user);
            Key::Sessions(partition, leaf, id.user.clone(), id.instance)
        };
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.holders.life));
        match effect {
            DocumentEffect::Read(id) => {
                let key = key(&id);
                let operation = async move {
                    let found = match read(&wanted, || store.get(key.clone())).await {
                        None => return Completion::Nothing,
                        Some(Some((sequence, Document::Sessions(document)))) => Some((sequence, document)),
                        Some(_) => None,
                    };
                    Completion::HeldRead(id, found)
                };
                self.start(operation.boxed());
            }
            DocumentEffect::Write { id, document, expect } => {
                let (key, expect) = (key(&id), Expect::Last(expect));
                let operation = async move {
                    let lease = document.sessions.is_empty().then_some(EMPTY_KEPT);
                    let shows = document.sessions.iter().any(|entry| entry.attributes.has_metadata());
                    let document = Document::Sessions(document);
                    let written = store.put(Put { key, document, expect, lease }).await;
                    if shows && written.is_ok() {
                        // Watchers that ask for metadata.
                        store.notify_details(&id.user);
                    }
                    let result = match written {
                        Ok(sequence) => Ok(sequence),
                        Err(StoreError::Conflict { .. }) => Err(NotDone::LookAgain),
                        Err(StoreError::Refused(reason)) => Err(NotDone::Refused(reason)),
                        Err(StoreError::Unknown(_) | StoreError::Unavailable(_)) => {
                            tokio::time::sleep(UNCLEAR_PAUSE).await;
                            Err(NotDone::LookAgain)
                        }
                    };
                    Completion::HeldWritten(id, result)
                };
                self.start(operation.boxed());
            }
        }
    }

    /// A document of an owned partition that may be a holder's.
    pub(super) fn take_held(
        &mut self,
        now: Now,
        id: PartitionId,
        (user, instance): (&UserId, InstanceId),
        sequence: Sequence,
        document: Option<&Arc<SessionDocument>>,
    ) {
        let is_held = |document: &Arc<SessionDocument>| {
            document.sessions.iter().any(|entry| matches!(entry.id, SessionId::Held(_)))
        };
        let concerns = |partition: &Partition| match document {
            Some(document) if !document.sessions.is_empty() => is_held(document),
            _ => partition.held.is_used(),
        };
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if !concerns(partition) {
            return;
        }
        let announces = self.membership.announces(now, instance);
        let place = DocumentId { instance, user: user.clone() };
        partition.held.handle_document(place, sequence, document, announces);
        partition.note_held();
        if !announces {
            self.holders.withheld.insert(id);
        }
        self.holders.documents.handle_seen(instance, user, sequence, document);
    }

    /// Sessions of holders who were heard of again.
    fn announce_withheld(&mut self, now: Now) {
        for id in std::mem::take(&mut self.holders.withheld) {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            for instance in partition.held.waits_for() {
                if self.membership.announces(now, instance) {
                    partition.held.handle_heard(instance);
                    partition.note_held();
                    self.touched.insert(id);
                } else {
                    self.holders.withheld.insert(id);
                }
            }
        }
    }

    /// The session hooks of a partition's held sessions, and ends that are settled. True if there was anything.
    pub(super) fn tell_held(&mut self, now: Now, id: PartitionId) -> bool {
        let mut told = false;
        while let Some(effect) =
            self.partitions.get_mut(&id).and_then(|partition| partition.held.poll_effect())
        {
            told = true;
            match effect {
                HeldEffect::Hook(event) => {
                    tracing::debug!(user = %event.session.user, session = %event.session.id, hook = %event.hook(), "held session");
                    self.plugins.submit(plugins::Event::Session(event.into()));
                }
                HeldEffect::Forget(DocumentId { instance, user }, session) => {
                    let (ticket, operation) = (Ticket(0), Operation::Forget);
                    let held = Held { ticket, item: 0, session, operation, at: now.wall };
                    self.holders.documents.handle_operation(instance, &user, held);
                }
            }
        }
        told
    }

    /// Every plugin has settled the hook of a held session.
    pub(super) fn held_settled(
        &mut self,
        id: PartitionId,
        place: &DocumentId,
        session: &SessionId,
        hook: Hook,
    ) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.held.handle_settled(place, session, hook);
            partition.note_held();
            self.touched.insert(id);
        }
    }

    /// An instance was declared dead: if it was a holder's, nothing more is told or written of its sessions.
    pub(super) fn holder_lost(&mut self, instance: InstanceId) {
        let mut told = false;
        for partition in self.partitions.values_mut() {
            told |= partition.held.handle_lost(instance);
            partition.note_held();
        }
        if told {
            self.plugins.drop_sessions(instance);
        }
        self.holders.documents.handle_lost(instance);
    }

    /// Held sessions of the users of owned partitions.
    pub(super) fn held_sessions(&self) -> u64 {
        self.partitions.values().map(|partition| partition.held.live()).sum()
    }
}

impl Holders {
    /// Leaves out what waits for a document and nobody waits for.
    pub(super) fn withdraw(&mut self, id: &DocumentId) {
        let pending = &self.pending;
        let is_wanted = |ticket| pending.get(&ticket).is_some_and(|pending| !pending.reply.is_closed());
        self.documents.withdraw(id, is_wanted);
    }

    /// What was asked together with it, if this was the last answer.
    fn answer(&mut self, Answer { ticket, item, result }: Answer) -> Option<Pending> {
        let count = if result.is_ok() { &mut self.counts.changed } else { &mut self.counts.rejected };
        *count += 1;
        let pending = self.pending.get_mut(&ticket)?;
        if let Some(place) = pending.results.get_mut(item as usize)
            && place.replace(result).is_none()
        {
            pending.left -= 1;
        }
        if pending.left == 0 { self.pending.remove(&ticket) } else { None }
    }
}

impl Pending {
    fn answer(self) {
        let results = self.results.into_iter().flatten().collect();
        let _ = self.reply.send(Ok(HolderAnswer::Changed(results)));
    }
}

impl Partition {
    /// Takes into the checkpoint how far the hooks of held sessions are settled.
    pub(super) fn note_held(&mut self) {
        if let Some(held) = self.held.checkpoint() {
            self.checkpoints.handle_held(held);
        }
    }
}
