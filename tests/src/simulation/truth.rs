//! The shared truth behind all simulated stores: a memory store, and an observer of every write that it accepts. The
//! observer knows whose claim each sequence was and whose lease holds, without asking the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use presence_core::documents::{
    BootPhase, BootRecord, Document, Expect, InstanceRecord, InstanceState, Key, StatusRecord,
};
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use presence_core::time::Timestamp;
use presence_host::store::memory::MemoryStore;
use presence_host::store::{Coverage, Purge, Put, Store, StoreError};
use tokio::time::Instant;

use super::journal::Journal;
use super::plan::{LAYOUT, Plant};

/// A run of a host: hosts are numbered from 0, their incarnations from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) host: u32,
    pub(super) run: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}.{}", self.host, self.run)
    }
}

/// What the observer knows of an instance.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) origin: Origin,
    /// When it was first heard of.
    began: Instant,
    pub(super) state: InstanceState,
    /// When its key came into being: its lease has been unbroken since.
    pub(super) leased_since: Instant,
    /// The last write of its own.
    pub(super) renewed: Instant,
    pub(super) lease_ends: Instant,
    /// The store had been wiped so many times.
    pub(super) wipes: u32,
    /// It removed its key, or wrote `left`.
    pub(super) left: bool,
    /// It is a holder's, or the record of a holder's name.
    pub(super) held: bool,
}

/// An instance that was declared dead.
#[derive(Clone, Debug)]
pub(super) struct Death {
    pub(super) at: Instant,
    /// The sessions that the store knew.
    pub(super) sessions: BTreeSet<SessionId>,
    pub(super) wipes: u32,
    cleaner: Option<InstanceId>,
}

#[derive(Clone, Copy, Debug)]
struct Claimed {
    sequence: Sequence,
    instance: Option<InstanceId>,
    origin: Origin,
}

pub(super) struct Truth {
    store: MemoryStore,
    /// Questions between hosts: no stream keeps them, so no wipe ends them.
    subjects: MemoryStore,
    journal: Arc<Journal>,
    plant: Plant,
    random: fastrand::Rng,
    pub(super) wipes: u32,
    pub(super) wiped_at: Option<Instant>,
    claims: BTreeMap<PartitionId, Claimed>,
    /// How many claims each run of a host got, of each partition.
    claimed: BTreeMap<(PartitionId, Origin), u64>,
    pub(super) instances: BTreeMap<InstanceId, Known>,
    pub(super) deaths: BTreeMap<InstanceId, Death>,
    boot: Option<BootRecord>,
    /// Who has closed the deployment as its last host, and leaves.
    pub(super) closed: Vec<Origin>,
}

fn now<T>(future: BoxFuture<'static, T>) -> T {
    future.now_or_never().expect("the memory store answers at once")
}

impl Truth {
    pub(super) fn new(journal: Arc<Journal>, plant: Plant, random: fastrand::Rng) -> Truth {
        Truth {
            store: MemoryStore::new(),
            subjects: MemoryStore::new(),
            journal,
            plant,
            random,
            wipes: 0,
            wiped_at: None,
            claims: BTreeMap::new(),
            claimed: BTreeMap::new(),
            instances: BTreeMap::new(),
            deaths: BTreeMap::new(),
            boot: None,
            closed: Vec::new(),
        }
    }

    /// Everything is gone; sequences begin anew.
    pub(super) fn wipe(&mut self) {
        self.wipes += 1;
        self.store = MemoryStore::after(Sequence(u64::from(self.wipes) * 1_000_000));
        self.wiped_at = Some(Instant::now());
        self.claims.clear();
        self.boot = None;
    }

    /// For reads, which are not observed.
    pub(super) fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// For questions between hosts.
    pub(super) fn subjects(&self) -> &MemoryStore {
        &self.subjects
    }

    pub(super) fn put(&mut self, origin: Origin, mut put: Put) -> Result<Sequence, StoreError> {
        let before = match put.key {
            Key::Instance(_) | Key::Boot | Key::Meta => now(self.store.get(put.key.clone())).ok().flatten(),
            _ => None,
        };
        let expect = put.expect.clone();
        self.bend(&mut put);
        let (key, document) = (put.key.clone(), put.document.clone());
        if let Some(lease) = &mut put.lease {
            // Markers come late: p50 0.13 s, max 0.31 s were measured.
            *lease += Duration::from_millis(self.random.u64(0..=400));
        }
        let lease = put.lease;
        let result = now(self.store.put(put));
        match &result {
            Ok(sequence) => {
                self.accepted(origin, &key, &expect);
                self.observe(origin, key, *sequence, &document, before, lease);
            }
            Err(StoreError::Conflict { .. }) if matches!(expect, Expect::Fence(..)) => {
                self.fenced_off(origin, &key);
            }
            Err(error) => {
                self.journal.note(format_args!(
                    "{origin} is refused {} ({expect:?}): {error}",
                    Shown(&key, &document)
                ));
            }
        }
        result
    }

    pub(super) fn put_fenced(
        &mut self,
        origin: Origin,
        fence: (Key, Sequence),
        documents: Vec<(Key, Document)>,
        at_most: usize,
    ) -> (Vec<Sequence>, Option<StoreError>) {
        let mut written = Vec::new();
        for (at, (key, document)) in documents.into_iter().enumerate() {
            if at == at_most {
                return (written, Some(StoreError::Unavailable("simulated: a part of a batch".into())));
            }
            let expect = Expect::Fence(fence.0.clone(), fence.1);
            match self.put(origin, Put { key, document, expect, lease: None }) {
                Ok(sequence) => written.push(sequence),
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    pub(super) fn delete(&mut self, origin: Origin, key: Key, mut expect: Expect) -> Result<(), StoreError> {
        let asked = expect.clone();
        if self.plant == Plant::NoFencing && matches!(expect, Expect::Fence(..)) {
            expect = Expect::Any;
        }
        let result = now(self.store.delete(key.clone(), expect));
        match &result {
            Ok(()) => {
                self.accepted(origin, &key, &asked);
                if let Key::Instance(instance) = key
                    && let Some(known) = self.instances.get_mut(&instance)
                    && known.origin == origin
                {
                    known.left = true;
                }
                self.journal.note(format_args!("{origin} deletes {key:?}"));
            }
            Err(_) if matches!(asked, Expect::Fence(..)) => self.fenced_off(origin, &key),
            Err(_) => {}
        }
        result
    }

    pub(super) fn purge_sessions(&mut self, origin: Origin, which: Purge) -> u64 {
        let whose = match &which {
            Purge::Of(instance) => short(*instance),
            Purge::UpTo(point) => format!("everybody up to #{}", point.0),
            Purge::UpToBut(point, spared) => format!("all but {} up to #{}", spared.len(), point.0),
        };
        let purged = now(self.store.purge_sessions(which)).unwrap_or(0);
        self.journal.note(format_args!("{origin} purges {purged} documents of {whose}"));
        purged
    }

    /// What is planted.
    fn bend(&self, put: &mut Put) {
        let dead = matches!(&put.document, Document::Instance(record) if record.state == InstanceState::Dead);
        let bend = match self.plant {
            Plant::NoFencing => matches!(put.expect, Expect::Fence(..)),
            Plant::DeathWithoutCompare => dead,
            Plant::EverythingByTwo => put.key == Key::Boot,
            _ => false,
        };
        if bend {
            put.expect = Expect::Any;
        }
    }

    fn fenced_off(&self, origin: Origin, key: &Key) {
        self.journal.count("refused by a fence");
        self.journal.note(format_args!("{origin} is fenced off from {key:?}"));
    }

    /// I4: whoever writes under a fence holds the newest claim of the partition.
    fn accepted(&self, origin: Origin, key: &Key, expect: &Expect) {
        let (Some(partition), Expect::Fence(_, claim)) = (key.partition(), expect) else {
            return;
        };
        match self.claims.get(&partition) {
            Some(held) if held.sequence == *claim && held.origin == origin => {}
            held => self.journal.violate(
                "I4",
                format!("{origin} wrote {key:?} under the claim {}, but the newest is {held:?}", claim.0),
            ),
        }
    }

    fn observe(
        &mut self,
        origin: Origin,
        key: Key,
        sequence: Sequence,
        document: &Document,
        before: Option<(Sequence, Document)>,
        lease: Option<Duration>,
    ) {
        let quiet = matches!(document, Document::Checkpoint(_));
        if !quiet {
            self.journal.note(format_args!("{origin} writes {} #{}", Shown(&key, document), sequence.0));
        }
        match (key, document) {
            (Key::Owner(partition), Document::Owner(claim)) => {
                self.claimed(partition, Claimed { sequence, instance: claim.instance, origin });
            }
            (Key::Boot, Document::Boot(record)) => self.booted(origin, *record),
            (Key::Instance(instance), Document::Instance(record)) => {
                self.instance_written(origin, instance, record, before, lease);
            }
            (Key::Meta, _) if self.wipes > 0 => self.journal.count("store recreated"),
            _ => {}
        }
    }

    fn claimed(&mut self, partition: PartitionId, claim: Claimed) {
        let before = self.claims.insert(partition, claim);
        if claim.instance.is_some() {
            *self.claimed.entry((partition, claim.origin)).or_default() += 1;
        }
        let (Some(before), Some(new)) = (before, claim.instance) else { return };
        match before.instance {
            Some(old) if old != new => self.journal.count("takeover"),
            None if before.origin != claim.origin => self.journal.count("handover"),
            _ => {}
        }
    }

    fn booted(&mut self, origin: Origin, record: BootRecord) {
        let before = self.boot.replace(record);
        if record.owed.is_some_and(|taken| taken > 0) {
            self.journal.count("everything owed taken over");
        } else if record.owed.is_some() {
            self.journal.count("everything owed");
        }
        if record.phase == BootPhase::Closed {
            self.closed.push(origin);
        }
        if record.phase != BootPhase::Cleaning {
            return;
        }
        self.journal.count("fresh start");
        let other = |boot: &BootRecord| boot.phase == BootPhase::Cleaning && boot.by != record.by;
        if before.as_ref().is_some_and(other) {
            self.journal.count("fresh start taken over");
        }
        for (instance, state) in self.leased() {
            let present = matches!(state, InstanceState::Ready | InstanceState::Draining);
            if instance != record.by && present && !self.is_over(instance) {
                self.journal.violate(
                    "I5",
                    format!("{origin} declares a fresh start while {} is {state:?}", self.whose(instance)),
                );
            }
        }
    }

    fn instance_written(
        &mut self,
        origin: Origin,
        instance: InstanceId,
        record: &InstanceRecord,
        before: Option<(Sequence, Document)>,
        lease: Option<Duration>,
    ) {
        let present = Instant::now();
        let lived = match &before {
            Some((_, Document::Instance(before))) => before.state != InstanceState::Dead,
            _ => false,
        };
        if record.state == InstanceState::Dead {
            let again = self.deaths.contains_key(&instance);
            // A holder that ends or registers anew is declared dead by who serves it, who names no cleaner.
            // So is one that bears another fresh start than the open boot: it was kept alive by who had not heard of it.
            let start = self.boot.map(|boot| boot.start);
            let outdated = record.holder.as_ref().is_some_and(|holder| Some(holder.start) != start);
            let by_itself = record.holder.is_some()
                && record.cleanup.as_ref().is_some_and(|cleanup| cleanup.by.is_none());
            if lived
                && !again
                && !by_itself
                && !outdated
                && self.instances.get(&instance).is_some_and(|known| !known.left)
            {
                let whose = self.whose(instance);
                self.journal.violate("I5", format!("{origin} declares {whose} dead, which kept its lease"));
            }
            self.declared_dead(instance, record);
            return;
        }
        // Who has not heard of his death before the store was recreated can't know.
        if self.deaths.get(&instance).is_some_and(|death| death.wipes == self.wipes) {
            let whose = self.whose(instance);
            self.journal.violate("I5", format!("{whose} lives again after it was declared dead"));
        }
        let old = self
            .instances
            .iter()
            .find(|(id, known)| **id != instance && known.origin == origin && self.deaths.contains_key(id));
        if old.is_some() && !self.instances.contains_key(&instance) {
            self.journal.count("another life");
        }
        let known = self.instances.entry(instance).or_insert(Known {
            origin,
            began: present,
            state: record.state,
            leased_since: present,
            renewed: present,
            lease_ends: present,
            wipes: 0,
            left: false,
            held: record.holder.is_some(),
        });
        let rarely = lived && known.lease_ends <= present + Duration::from_millis(300);
        if !lived {
            known.leased_since = present;
        }
        known.state = record.state;
        known.renewed = present;
        known.wipes = self.wipes;
        known.left = record.state == InstanceState::Left;
        known.lease_ends = present + lease.unwrap_or(super::plan::TTL);
        if lease.is_some() && rarely && self.random.bool() {
            // Seen with a real server: a renewal is acknowledged, and the marker of the lease before wipes it.
            self.journal.count("renewal wiped by the marker behind it");
            self.journal.note(format_args!("the renewal of {} is wiped", short(instance)));
            self.store.expire_now(&Key::Instance(instance));
        }
    }

    fn declared_dead(&mut self, instance: InstanceId, record: &InstanceRecord) {
        let cleaner = record.cleanup.as_ref().and_then(|cleanup| cleanup.by);
        if let Some(death) = self.deaths.get_mut(&instance) {
            if let (Some(old), Some(new)) = (death.cleaner, cleaner)
                && old != new
            {
                self.journal.count("cleanup resumed by another");
            }
            death.cleaner = cleaner.or(death.cleaner);
            return;
        }
        self.journal.count("death");
        let sessions = self.sessions_of(instance);
        let death = Death { at: Instant::now(), sessions, wipes: self.wipes, cleaner };
        self.deaths.insert(instance, death);
    }

    /// The sessions in the documents of an instance.
    pub(super) fn sessions_of(&self, instance: InstanceId) -> BTreeSet<SessionId> {
        let documents = now(self.store.sessions_of(instance)).unwrap_or_default();
        let sessions = documents.iter().flat_map(|(_, document)| match document {
            Document::Sessions(document) => document.sessions.clone(),
            _ => Vec::new(),
        });
        sessions.map(|entry| entry.id).collect()
    }

    /// Nothing is owed to it any more, whatever its key says: it was declared dead, perhaps in a store that is gone, or its
    /// host has another life since.
    pub(super) fn is_over(&self, instance: InstanceId) -> bool {
        let later = |known: &Known| {
            let of_its_host = |other: &&Known| other.origin == known.origin && !other.held;
            self.instances.values().filter(of_its_host).any(|other| other.began > known.began)
        };
        self.deaths.contains_key(&instance) || self.instances.get(&instance).is_some_and(later)
    }

    /// Instances whose key is there and does not say dead or left, and what it says.
    pub(super) fn leased(&self) -> Vec<(InstanceId, InstanceState)> {
        let snapshot = now(self.store.snapshot(Coverage::Instances, Sequence(0)));
        let documents = snapshot.map(|snapshot| snapshot.documents).unwrap_or_default();
        let leased = documents.into_iter().filter_map(|(key, _, document)| match (key, document) {
            (Key::Instance(instance), Document::Instance(record))
                if !matches!(record.state, InstanceState::Dead | InstanceState::Left) =>
            {
                Some((instance, record.state))
            }
            _ => None,
        });
        leased.collect()
    }

    /// Tells the claims of a host apart, if the store was ever wiped; else 0.
    pub(super) fn claim_over_wipes(&self, partition: PartitionId, origin: Origin) -> u64 {
        if self.wipes == 0 { 0 } else { self.claimed.get(&(partition, origin)).copied().unwrap_or(0) }
    }

    /// Of the last fresh start.
    pub(super) fn generation(&self) -> u64 {
        self.boot.map_or(0, |boot| boot.generation)
    }

    /// The recorded status.
    pub(super) fn record(&self, user: &UserId) -> Option<StatusRecord> {
        let (partition, leaf) = LAYOUT.place(user);
        match now(self.store.get(Key::User(partition, leaf, user.clone()))) {
            Ok(Some((_, Document::User(record)))) => Some(record),
            _ => None,
        }
    }

    /// The text of the custom message, if its time is not over.
    pub(super) fn message(&self, user: &UserId, at: Timestamp) -> Option<Arc<str>> {
        let (partition, leaf) = LAYOUT.place(user);
        match now(self.store.get(Key::Message(partition, leaf, user.clone()))) {
            Ok(Some((_, Document::Message(message)))) if message.holds(at) => Some(message.text),
            _ => None,
        }
    }

    /// An instance, for people.
    pub(super) fn whose(&self, instance: InstanceId) -> String {
        match self.instances.get(&instance) {
            Some(known) => format!("{} ({})", short(instance), known.origin),
            None => short(instance),
        }
    }
}

/// The last digits of an instance's id.
pub(super) fn short(instance: InstanceId) -> String {
    format!("i{:06x}", instance.0 & 0xff_ffff)
}

/// A write, for people.
struct Shown<'a>(&'a Key, &'a Document);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (Key::Owner(partition), Document::Owner(claim)) => {
                write!(f, "o.{partition} = {}", claim.instance.map_or("nobody".into(), short))
            }
            (Key::User(partition, _, user), Document::User(record)) => write!(
                f,
                "u.{partition}.{user} = {} r{} g{}",
                record.status, record.revision, record.generation
            ),
            (Key::Sessions(partition, _, user, instance), Document::Sessions(document)) => {
                write!(f, "s.{partition}.{user}.{} =", short(*instance))?;
                for entry in &document.sessions {
                    let ended = if entry.ended.is_some() { " (ended)" } else { "" };
                    write!(f, " {}:{}{ended}", session(&entry.id), entry.status)?;
                }
                document.drained_until.map_or(Ok(()), |until| write!(f, " drained until {}", until.0))
            }
            (Key::Instance(instance), Document::Instance(record)) => {
                write!(f, "{} = {:?} {}", short(*instance), record.state, record.renewal)?;
                match &record.cleanup {
                    Some(cleanup) => {
                        let by = cleanup.by.map_or("nobody".into(), short);
                        write!(f, " ({:?} by {by}, settled {:?})", cleanup.phase, cleanup.settled)
                    }
                    None => Ok(()),
                }
            }
            (Key::Boot, Document::Boot(boot)) => {
                write!(f, "boot = {:?} generation {} by {}", boot.phase, boot.generation, short(boot.by))
            }
            (key, _) => write!(f, "{key:?}"),
        }
    }
}

/// The last digits of a session's id.
pub(super) fn session(id: &SessionId) -> String {
    match id {
        SessionId::Hosted(number) => format!("{:04x}", number & 0xffff),
        SessionId::Held(text) => text.to_string(),
    }
}
