//! How a holder's incarnation begins, is renewed and ends: reads and writes of its record and of its name's, each by
//! compare-and-set, each repeated until its answer is clear. It knows no sessions.

use std::sync::Weak;
use std::time::Duration;

use presence_core::documents::{
    Cleanup, CleanupPhase, Document, Expect, HolderRecord, InstanceRecord, InstanceState, Key,
};
use presence_core::ids::{HolderName, Incarnation, InstanceId, Sequence};
use presence_core::membership::HolderView;
use presence_core::time::Timestamp;

use super::{Facts, HolderAnswer, HolderRefused, Kept};
use crate::driver::io::{definite, read};
use crate::store::{Put, SharedStore, StoreError};

/// The record of a name is kept for so long after its last registration. Living instances of the name are known without it.
const NAME_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long the record of an incarnation that lost its name's race is kept.
const LOSER_KEPT: Duration = Duration::from_secs(60);

/// So often a record that others write as well is written anew.
const ATTEMPTS: usize = 16;

type Found = Option<(Sequence, InstanceRecord)>;
type Served = (Facts, Result<HolderAnswer, HolderRefused>);

/// Who wants to live.
pub(super) struct Newcomer {
    pub(super) name: HolderName,
    pub(super) incarnation: Incarnation,
    pub(super) lease: Duration,
    /// The fresh start that this host belongs to.
    pub(super) start: u64,
    /// The instance that it will be.
    pub(super) instance: InstanceId,
    /// Instances of that name that are known here.
    pub(super) others: Vec<InstanceId>,
    pub(super) at: Timestamp,
}

impl Newcomer {
    fn record(&self, current: Option<InstanceId>) -> InstanceRecord {
        let holder = HolderRecord {
            name: self.name.clone(),
            incarnation: self.incarnation.clone(),
            lease_ms: millis(self.lease),
            start: self.start,
            current,
        };
        InstanceRecord {
            host: self.name.to_string(),
            // Nobody's business but the holder's.
            state: if current.is_some() { InstanceState::Left } else { InstanceState::Joining },
            started_at: self.at,
            renewal: 1,
            plugins: 0,
            cleanup: None,
            holder: Some(Box::new(holder)),
        }
    }
}

fn millis(lease: Duration) -> u64 {
    u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)
}

fn is_alive(record: &InstanceRecord) -> bool {
    record.state == InstanceState::Joining
}

fn start_of(record: &InstanceRecord) -> Option<u64> {
    record.holder.as_ref().map(|holder| holder.start)
}

/// A write under a condition.
enum Wrote {
    Done,
    /// Somebody else's is there.
    Conflict(Sequence),
}

/// The store, on behalf of one order.
struct Desk<'a> {
    store: &'a SharedStore,
    wanted: &'a Weak<()>,
    facts: Facts,
}

fn stopping() -> HolderRefused {
    HolderRefused::Draining
}

impl Desk<'_> {
    async fn get(&self, instance: InstanceId) -> Result<Found, HolderRefused> {
        match read(self.wanted, || self.store.get(Key::Instance(instance))).await {
            None => Err(stopping()),
            Some(Some((sequence, Document::Instance(record)))) => Ok(Some((sequence, record))),
            Some(_) => Ok(None),
        }
    }

    /// An own write whose answer was lost is found there, and is no conflict.
    async fn put(
        &mut self,
        instance: InstanceId,
        record: InstanceRecord,
        expect: Sequence,
        lease: Option<Duration>,
    ) -> Result<Wrote, HolderRefused> {
        let (key, document) = (Key::Instance(instance), Document::Instance(record.clone()));
        let put = Put { key, document, expect: Expect::Last(expect), lease };
        let sequence = match definite(self.wanted, || self.store.put(put.clone())).await {
            None => return Err(stopping()),
            Some(Ok(sequence)) => sequence,
            Some(Err(StoreError::Conflict { last })) => match self.get(instance).await? {
                Some((sequence, found)) if found == record => sequence,
                _ => return Ok(Wrote::Conflict(last)),
            },
            Some(Err(error)) => return Err(HolderRefused::Store(error.to_string())),
        };
        self.facts.push((instance, sequence, record));
        Ok(Wrote::Done)
    }

    /// The record of a holder's name, as far as it is this name's.
    async fn name(&self, name: &HolderName) -> Result<Option<(Sequence, HolderRecord)>, HolderRefused> {
        let Some((sequence, record)) = self.get(name.key()).await? else { return Ok(None) };
        match record.holder {
            Some(holder) if holder.name == *name => Ok(Some((sequence, *holder))),
            _ => Err(HolderRefused::Store("another name has this one's place: choose another name".into())),
        }
    }

    /// Declares an incarnation dead at once, unless that is done. True if there was one.
    async fn bury(&mut self, instance: InstanceId, at: Timestamp) -> Result<bool, HolderRefused> {
        for _ in 0..ATTEMPTS {
            let Some((sequence, record)) = self.get(instance).await? else { return Ok(false) };
            if !is_alive(&record) {
                self.facts.push((instance, sequence, record));
                return Ok(true);
            }
            let cleanup = Cleanup {
                phase: CleanupPhase::Telling,
                by: None,
                declared_at: at,
                round: 0,
                settled: Default::default(),
            };
            let dead = InstanceRecord { state: InstanceState::Dead, cleanup: Some(cleanup), ..record };
            if let Wrote::Done = self.put(instance, dead, sequence, None).await? {
                return Ok(true);
            }
        }
        Err(HolderRefused::Store("somebody else writes the holder's record all the time".into()))
    }

    /// Prolongs the life of one that lives, or whose marker is there.
    async fn renew(
        &mut self,
        instance: InstanceId,
        (mut sequence, mut record): (Sequence, InstanceRecord),
        lease: Duration,
    ) -> Result<HolderAnswer, HolderRefused> {
        for _ in 0..ATTEMPTS {
            record.renewal += 1;
            if let Some(holder) = &mut record.holder {
                holder.lease_ms = millis(lease);
            }
            match self.put(instance, record.clone(), sequence, Some(lease)).await? {
                Wrote::Done => return Ok(HolderAnswer::Kept(Kept { instance, created: false, lease })),
                Wrote::Conflict(last) => match self.get(instance).await? {
                    // Of another fresh start it is over.
                    Some((found, there)) if is_alive(&there) && start_of(&there) == start_of(&record) => {
                        (sequence, record) = (found, there);
                    }
                    Some((found, there)) => {
                        self.facts.push((instance, found, there));
                        return Err(HolderRefused::Gone);
                    }
                    // Its marker is there: whoever judges it meets the same condition.
                    None if last > sequence => sequence = last,
                    None => return Err(HolderRefused::Gone),
                },
            }
        }
        Err(HolderRefused::Store("the holder is renewed elsewhere all the time".into()))
    }

    async fn register(&mut self, newcomer: &Newcomer) -> Result<HolderAnswer, HolderRefused> {
        let named = self.name(&newcomer.name).await?;
        if let Some((_, name)) = &named
            && let Some(current) = name.current.filter(|_| name.incarnation == newcomer.incarnation)
        {
            // Registered a moment ago at another host, or over.
            return match self.get(current).await? {
                Some((sequence, record))
                    if is_alive(&record) && start_of(&record) == Some(newcomer.start) =>
                {
                    self.renew(current, (sequence, record), newcomer.lease).await
                }
                _ => Err(HolderRefused::Gone),
            };
        }
        let instance = newcomer.instance;
        let begun = self.put(instance, newcomer.record(None), Sequence(0), Some(newcomer.lease)).await?;
        if let Wrote::Conflict(_) = begun {
            return Err(HolderRefused::Store("the new instance's key is taken: try again".into()));
        }
        let last = named.as_ref().map_or(Sequence(0), |(sequence, _)| *sequence);
        let name = newcomer.record(Some(instance));
        if let Wrote::Conflict(_) = self.put(newcomer.name.key(), name, last, Some(NAME_KEPT)).await? {
            return self.give_way(newcomer).await;
        }
        let before = named.and_then(|(_, name)| name.current);
        for other in newcomer.others.iter().copied().chain(before).filter(|other| *other != instance) {
            self.bury(other, newcomer.at).await?;
        }
        Ok(HolderAnswer::Kept(Kept { instance, created: true, lease: newcomer.lease }))
    }

    /// Another registration of the name was first.
    async fn give_way(&mut self, newcomer: &Newcomer) -> Result<HolderAnswer, HolderRefused> {
        if let Some((sequence, record)) = self.get(newcomer.instance).await?
            && is_alive(&record)
        {
            let left = InstanceRecord { state: InstanceState::Left, ..record };
            self.put(newcomer.instance, left, sequence, Some(LOSER_KEPT)).await?;
        }
        let Some((_, first)) = self.name(&newcomer.name).await? else {
            return Err(HolderRefused::Store("the name was given up at the same time: try again".into()));
        };
        match first.current {
            Some(current) if first.incarnation == newcomer.incarnation => match self.get(current).await? {
                Some(there) if is_alive(&there.1) && start_of(&there.1) == Some(newcomer.start) => {
                    self.renew(current, there, newcomer.lease).await
                }
                _ => Err(HolderRefused::Gone),
            },
            _ => Err(HolderRefused::AtOnce(first.incarnation)),
        }
    }
}

/// Begins an incarnation, and declares dead whoever had the name before.
pub(super) async fn register(store: &SharedStore, wanted: &Weak<()>, newcomer: Newcomer) -> Served {
    let mut desk = Desk { store, wanted, facts: Vec::new() };
    let result = desk.register(&newcomer).await;
    (desk.facts, result)
}

/// Prolongs the life of an incarnation that this host knows.
pub(super) async fn renew(
    store: &SharedStore,
    wanted: &Weak<()>,
    known: HolderView,
    lease: Duration,
) -> Served {
    let mut desk = Desk { store, wanted, facts: Vec::new() };
    let result = desk.renew(known.instance, (known.sequence, known.record), lease).await;
    (desk.facts, result)
}

/// Ends an incarnation: it is declared dead, and cleaned up after.
pub(super) async fn end(
    store: &SharedStore,
    wanted: &Weak<()>,
    name: &HolderName,
    incarnation: &Incarnation,
    known: Option<InstanceId>,
    at: Timestamp,
) -> Served {
    let mut desk = Desk { store, wanted, facts: Vec::new() };
    let result = async {
        let instance = match known {
            Some(instance) => instance,
            None => current(&desk, name, incarnation).await?,
        };
        if desk.bury(instance, at).await? { Ok(HolderAnswer::Ended) } else { Err(HolderRefused::Gone) }
    };
    let result = result.await;
    (desk.facts, result)
}

/// Looks for an incarnation that this host does not know.
pub(super) async fn find(
    store: &SharedStore,
    wanted: &Weak<()>,
    name: &HolderName,
    incarnation: &Incarnation,
) -> Result<Facts, HolderRefused> {
    let desk = Desk { store, wanted, facts: Vec::new() };
    let instance = current(&desk, name, incarnation).await?;
    match desk.get(instance).await? {
        Some((sequence, record)) => Ok(vec![(instance, sequence, record)]),
        None => Err(HolderRefused::Gone),
    }
}

async fn current(
    desk: &Desk<'_>,
    name: &HolderName,
    incarnation: &Incarnation,
) -> Result<InstanceId, HolderRefused> {
    match desk.name(name).await? {
        None => Err(HolderRefused::Unknown),
        Some((_, found)) if found.incarnation != *incarnation => {
            Err(HolderRefused::Replaced(found.incarnation))
        }
        Some((_, found)) => found.current.ok_or(HolderRefused::Gone),
    }
}
