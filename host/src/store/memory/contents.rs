//! One bucket of the memory store: documents, what is remembered of removed ones, leases, followers. It knows no lock
//! and no timer; its caller brings both.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem::{Discriminant, discriminant};

use presence_core::documents::{Change, Document, Expect, Key, Update};
use presence_core::ids::{InstanceId, LeafId, PartitionId, Sequence};
use tokio::time::Instant;

use super::Limits;
use crate::store::{Coverage, Feed, Follower, Purge, Put, Snapshot, StoreError};

type ByKey<V> = HashMap<Key, V, foldhash::fast::RandomState>;

/// The documents of a partition. By leaf, so that a page of users touches no more than one; first what belongs to no leaf.
/// Hashed, since this is the hot path; whoever reads many documents sorts them.
#[derive(Default)]
struct Place(Vec<ByKey<(Sequence, Document)>>);

impl Place {
    /// Where documents of a leaf are.
    fn of_leaf(leaf: LeafId) -> usize {
        usize::from(leaf.0) + 1
    }

    fn of(key: &Key) -> usize {
        match key {
            Key::Sessions(_, leaf, ..) | Key::User(_, leaf, _) | Key::Message(_, leaf, _) => {
                Place::of_leaf(*leaf)
            }
            Key::Owner(_) | Key::Checkpoint(_) | Key::Instance(_) | Key::Boot | Key::Meta => 0,
        }
    }

    fn get(&self, key: &Key) -> Option<&(Sequence, Document)> {
        self.0.get(Place::of(key))?.get(key)
    }

    /// Where the key is, or would be.
    fn around(&mut self, key: &Key) -> &mut ByKey<(Sequence, Document)> {
        let at = Place::of(key);
        if self.0.len() <= at {
            self.0.resize_with(at + 1, ByKey::default);
        }
        &mut self.0[at]
    }

    fn all(&self) -> impl Iterator<Item = (&Key, &(Sequence, Document))> {
        self.0.iter().flatten()
    }

    fn leaf(&self, leaf: LeafId) -> impl Iterator<Item = (&Key, &(Sequence, Document))> {
        self.0.get(Place::of_leaf(leaf)).into_iter().flatten()
    }
}

/// The contents of a bucket.
pub(super) struct Contents {
    limits: Limits,
    /// The sequence of the last write.
    last: Sequence,
    /// By partition, so that reading one touches no other; keys without a partition are under `None`.
    documents: BTreeMap<Option<PartitionId>, Place>,
    removed: Removed,
    leases: Leases,
    followers: Vec<(Coverage, Feed)>,
}

impl Contents {
    pub(super) fn new(limits: Limits) -> Contents {
        Contents {
            limits,
            last: Sequence(0),
            documents: BTreeMap::new(),
            removed: Removed::default(),
            leases: Leases::default(),
            followers: Vec::new(),
        }
    }

    /// Nothing is known of what was before this point.
    pub(super) fn begin_after(&mut self, last: Sequence) {
        self.last = last;
        self.removed.forgotten = last;
    }

    /// Writes, if the condition holds.
    pub(super) fn put(&mut self, put: Put) -> Result<Sequence, StoreError> {
        self.check(&put.key, &put.expect)?;
        let Put { key, document, lease, .. } = put;
        self.last.0 += 1;
        let sequence = self.last;
        self.leases.set(&key, lease.map(|lease| Instant::now() + lease));
        tell(&mut self.followers, &key, sequence, || Change::Put(document.clone()));
        let place = self.documents.entry(key.partition()).or_default().around(&key);
        match place.get_mut(&key) {
            Some(entry) => *entry = (sequence, document),
            None => {
                self.removed.forget(&key);
                place.insert(key, (sequence, document));
            }
        }
        Ok(sequence)
    }

    /// Deletes, if the condition holds.
    pub(super) fn delete(&mut self, key: Key, expect: &Expect) -> Result<(), StoreError> {
        self.check(&key, expect)?;
        self.remove(key, Removal::Deleted);
        Ok(())
    }

    /// True unless the named key's last sequence is another one.
    pub(super) fn check(&self, key: &Key, expect: &Expect) -> Result<(), StoreError> {
        let (key, expected) = match expect {
            Expect::Any => return Ok(()),
            Expect::Last(sequence) => (key, *sequence),
            Expect::Fence(fence, sequence) => (fence, *sequence),
        };
        let document = self.get(key).map(|(sequence, _)| *sequence);
        let last = document.or_else(|| self.removed.last(key)).unwrap_or_default();
        let holds = last == expected || (expected == Sequence(0) && document.is_none());
        if holds { Ok(()) } else { Err(StoreError::Conflict { last }) }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&(Sequence, Document)> {
        self.documents.get(&key.partition())?.get(key)
    }

    /// Removes session documents. Followers are not told, and nothing is remembered: so it is with
    /// other stores, and nobody shall come to rely on more.
    pub(super) fn purge_sessions(&mut self, which: Purge) -> u64 {
        let mut purged = 0;
        let leases = &mut self.leases;
        for place in self.documents.values_mut().flat_map(|place| &mut place.0) {
            place.retain(|key, (sequence, _)| {
                let stays = match &which {
                    Purge::Of(instance) => !is_session_of(key, *instance),
                    Purge::UpTo(point) => !matches!(key, Key::Sessions(..)) || *sequence > *point,
                    Purge::UpToBut(point, spared) => match key {
                        Key::Sessions(.., instance) => *sequence > *point || spared.contains(instance),
                        _ => true,
                    },
                };
                if !stays {
                    leases.set(key, None);
                    purged += 1;
                }
                stays
            });
        }
        purged
    }

    pub(super) fn sessions_of(&self, instance: InstanceId) -> Vec<(Key, Document)> {
        let mut found: Vec<(Key, Document)> = self
            .documents
            .values()
            .flat_map(Place::all)
            .filter(|(key, _)| is_session_of(key, instance))
            .map(|(key, (_, document))| (key.clone(), document.clone()))
            .collect();
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        found
    }

    pub(super) fn snapshot(&self, coverage: &Coverage, at_least: Sequence) -> Result<Snapshot, StoreError> {
        if at_least > self.last {
            return Err(StoreError::Unavailable(format!(
                "it is at sequence {}, before the {} asked for",
                self.last.0, at_least.0
            )));
        }
        let mut documents: Vec<(Key, Sequence, Document)> = self
            .covered(coverage)
            .map(|(key, (sequence, document))| (key.clone(), *sequence, document.clone()))
            .collect();
        documents.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(Snapshot { documents, up_to: self.last })
    }

    pub(super) fn follow(&mut self, coverage: Coverage, from: Sequence) -> Follower {
        let (feed, follower) = Feed::new(self.limits.waiting);
        if from > self.last {
            feed.lose(format!(
                "the store was recreated: it is at sequence {}, not yet at {}",
                self.last.0, from.0
            ));
            return follower;
        }
        if from < self.removed.forgotten {
            feed.lose(format!("what was deleted after sequence {} is forgotten", from.0));
            return follower;
        }
        let mut missed: Vec<Update> = self
            .covered(&coverage)
            .filter(|(_, (sequence, _))| *sequence > from)
            .map(|(key, (sequence, document))| Update {
                key: key.clone(),
                sequence: *sequence,
                change: Change::Put(document.clone()),
            })
            .chain(self.removed.since(from).filter(|update| covers(&coverage, &update.key)))
            .collect();
        missed.sort_unstable_by_key(|update| update.sequence);
        if missed.into_iter().all(|update| feed.push(update)) {
            feed.caught_up();
            self.followers.retain(|(_, feed)| !feed.is_over());
            self.followers.push((coverage, feed));
        }
        follower
    }

    /// Removes what is due and answers when the next lease ends.
    pub(super) fn expire(&mut self) -> Option<Instant> {
        let next = self.leases.next()?;
        let now = Instant::now();
        if next > now {
            return Some(next);
        }
        while let Some(key) = self.leases.take_due(now) {
            self.remove(key, Removal::Expired);
        }
        self.leases.next()
    }

    /// Removes a document as if its lease were over.
    pub(super) fn expire_now(&mut self, key: &Key) {
        self.remove(key.clone(), Removal::Expired);
    }

    fn remove(&mut self, key: Key, removal: Removal) {
        let Some(place) = self.documents.get_mut(&key.partition()) else {
            return;
        };
        if place.around(&key).remove(&key).is_none() {
            return;
        }
        self.leases.set(&key, None);
        self.last.0 += 1;
        tell(&mut self.followers, &key, self.last, || removal.change());
        self.removed.remember(key, self.last, removal, self.limits.removals);
    }

    fn covered<'a>(
        &'a self,
        coverage: &'a Coverage,
    ) -> Box<dyn Iterator<Item = (&'a Key, &'a (Sequence, Document))> + 'a> {
        let of = |partition: &PartitionId| self.documents.get(&Some(*partition)).into_iter();
        let everything = self.documents.values().flat_map(Place::all);
        match coverage {
            Coverage::Instances => Box::new(everything),
            Coverage::Partitions(partitions) => Box::new(partitions.iter().flat_map(of).flat_map(Place::all)),
            Coverage::Records(partition, Some(leaf)) => {
                Box::new(of(partition).flat_map(|place| place.leaf(*leaf)).filter(|(key, _)| is_record(key)))
            }
            Coverage::Records(partition, None) => {
                Box::new(of(partition).flat_map(Place::all).filter(|(key, _)| is_record(key)))
            }
            Coverage::SessionsOf(partition, leaf, user) => {
                let mine = move |key: &Key| matches!(key, Key::Sessions(_, _, of, _) if of == user);
                let leaf = of(partition).flat_map(|place| place.leaf(*leaf));
                Box::new(leaf.filter(move |(key, _)| mine(key)))
            }
            Coverage::PartitionsAndClaims(_) | Coverage::AllRecords => {
                Box::new(everything.filter(|(key, _)| covers(coverage, key)))
            }
        }
    }
}

fn covers(coverage: &Coverage, key: &Key) -> bool {
    match coverage {
        Coverage::Instances => true,
        Coverage::Partitions(partitions) => {
            key.partition().is_some_and(|partition| partitions.contains(&partition))
        }
        Coverage::PartitionsAndClaims(partitions) => is_claim_or_in(partitions, key),
        Coverage::AllRecords => is_record(key),
        Coverage::Records(partition, leaf) => {
            matches!(key, Key::User(in_partition, in_leaf, _)
                if in_partition == partition && leaf.as_ref().is_none_or(|leaf| leaf == in_leaf))
        }
        Coverage::SessionsOf(_, _, user) => matches!(key, Key::Sessions(_, _, of, _) if of == user),
    }
}

fn is_record(key: &Key) -> bool {
    matches!(key, Key::User(..))
}

fn is_claim_or_in(partitions: &BTreeSet<PartitionId>, key: &Key) -> bool {
    matches!(key, Key::Owner(_)) || key.partition().is_some_and(|partition| partitions.contains(&partition))
}

fn is_session_of(key: &Key, instance: InstanceId) -> bool {
    matches!(key, Key::Sessions(_, _, _, of) if *of == instance)
}

/// Gives an update to whoever follows the key, and lets go of those who left.
fn tell(followers: &mut Vec<(Coverage, Feed)>, key: &Key, sequence: Sequence, change: impl Fn() -> Change) {
    followers.retain(|(coverage, feed)| {
        !covers(coverage, key) || feed.push(Update { key: key.clone(), sequence, change: change() })
    });
}

/// How a document went.
#[derive(Clone, Copy)]
enum Removal {
    Deleted,
    Expired,
}

impl Removal {
    fn change(self) -> Change {
        match self {
            Removal::Deleted => Change::Deleted,
            Removal::Expired => Change::Expired,
        }
    }
}

/// The newest removals of keys that were not written since: for whoever follows from an earlier point, and for
/// conditions. Bounded.
#[derive(Default)]
struct Removed {
    by_key: ByKey<(Sequence, Removal)>,
    /// All of them, and some that a later write made superfluous.
    order: VecDeque<(Sequence, Key)>,
    /// Removals up to here may be missing.
    forgotten: Sequence,
}

impl Removed {
    fn remember(&mut self, key: Key, sequence: Sequence, removal: Removal, limit: usize) {
        self.by_key.insert(key.clone(), (sequence, removal));
        self.order.push_back((sequence, key));
        while self.order.len() > limit {
            let Some((sequence, key)) = self.order.pop_front() else {
                break;
            };
            if self.last(&key) == Some(sequence) {
                self.by_key.remove(&key);
                self.forgotten = sequence;
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        self.by_key.remove(key);
    }

    fn last(&self, key: &Key) -> Option<Sequence> {
        self.by_key.get(key).map(|(sequence, _)| *sequence)
    }

    fn since(&self, from: Sequence) -> impl Iterator<Item = Update> {
        self.by_key.iter().filter(move |(_, (sequence, _))| *sequence > from).map(
            |(key, (sequence, removal))| Update {
                key: key.clone(),
                sequence: *sequence,
                change: removal.change(),
            },
        )
    }
}

/// When leased documents end: instances, and custom messages of users.
#[derive(Default)]
struct Leases {
    /// By kind of key, so that writes of kinds without leases, which are most, look nothing up.
    by_kind: Vec<(Discriminant<Key>, ByKey<Instant>)>,
    /// The same, the next first.
    order: BTreeSet<(Instant, Key)>,
}

impl Leases {
    fn set(&mut self, key: &Key, end: Option<Instant>) {
        let kind = discriminant(key);
        let at = self.by_kind.iter().position(|(other, _)| *other == kind);
        let at = match (at, end) {
            (Some(at), _) => at,
            (None, None) => return,
            (None, Some(_)) => {
                self.by_kind.push((kind, ByKey::default()));
                self.by_kind.len() - 1
            }
        };
        let of_kind = &mut self.by_kind[at].1;
        let before = match end {
            Some(end) => of_kind.insert(key.clone(), end),
            None => of_kind.remove(key),
        };
        if let Some(before) = before {
            self.order.remove(&(before, key.clone()));
        }
        self.order.extend(end.map(|end| (end, key.clone())));
    }

    fn next(&self) -> Option<Instant> {
        self.order.first().map(|(end, _)| *end)
    }

    /// The next key whose lease has ended, in the order in which they do.
    fn take_due(&mut self, now: Instant) -> Option<Key> {
        let key = self.order.first().filter(|(end, _)| *end <= now).map(|(_, key)| key.clone())?;
        self.set(&key, None);
        Some(key)
    }
}
