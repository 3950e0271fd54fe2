//! The lanes of a plugin: events of one user's status, or of one session, or ticks, that run one after the other. It
//! stores, it decides nothing.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::{LetterNumber, Payload, Settled, Settlement};
use crate::events::SessionChange;
use crate::ids::PartitionId;
use crate::time::Tick;

/// An event and its attempts.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) payload: Payload,
    /// It, or the first of those that gave way to it, waits since then.
    pub(super) since: Tick,
    /// Attempts made.
    pub(super) tries: u32,
    /// Attempts that count towards the limit.
    pub(super) used: u32,
    /// Failures in a row, of this and of those that gave way to it: for the pause.
    pub(super) failures: u32,
    /// The last one.
    pub(super) error: Option<Box<str>>,
    /// The dead letter that it comes from.
    pub(super) letter: Option<LetterNumber>,
}

impl Item {
    pub(super) fn new(payload: Payload, since: Tick) -> Item {
        Item { payload, since, tries: 0, used: 0, failures: 0, error: None, letter: None }
    }

    /// The event of a dead letter, once more.
    pub(super) fn replay(payload: Payload, since: Tick, letter: LetterNumber) -> Item {
        Item { letter: Some(letter), ..Item::new(payload, since) }
    }

    /// What became of it.
    pub(super) fn settled(self, settlement: Settlement) -> Settled {
        Settled { payload: self.payload, settlement, letter: self.letter }
    }

    pub(super) fn error(&self) -> &str {
        self.error.as_deref().unwrap_or("waiting")
    }
}

/// Where a lane's head stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    Running,
    Paused,
}

/// A lane is never empty.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) head: Item,
    pub(super) rest: VecDeque<Item>,
    pub(super) state: State,
    /// The head runs and was withdrawn or dropped meanwhile: it is not repeated.
    pub(super) leaving: bool,
    /// Of the user, or of the plugin's name in the lane of ticks; none in the lane of a session of this host's. Here so that a
    /// withdrawal need not visit every transition.
    pub(super) partition: Option<PartitionId>,
}

impl Lane {
    /// The revision of the newest transition, when the newest tick is due; 0 in a session's lane, and where nothing
    /// stays.
    pub(super) fn revision(&self) -> u64 {
        let newest = match self.rest.back() {
            None if self.leaving => return 0,
            None => &self.head,
            Some(newest) => newest,
        };
        match &newest.payload {
            Payload::Status(transition) => transition.revision,
            Payload::Tick(beat) => beat.due.0,
            _ => 0,
        }
    }

    /// Whether the next call needs the permit.
    pub(super) fn needs_permit(&self) -> bool {
        self.head.payload.needs_permit()
    }

    /// Whether the next call tells of a new session of this host.
    pub(super) fn announces(&self) -> bool {
        matches!(&self.head.payload, Payload::Session(event)
            if event.partition.is_none() && event.change == SessionChange::Connected)
    }

    /// Whether it is state: then `retry` has no end.
    pub(super) fn is_status(&self) -> bool {
        !matches!(self.head.payload, Payload::Session(_))
    }
}

/// An empty table keeps room for so many lanes; what a burst needed beyond that is given back.
const KEPT_LANES: usize = 4096;

pub(super) struct Lanes {
    hasher: FixedState,
    index: HashTable<u32>,
    slots: Vec<Option<Lane>>,
    free: Vec<u32>,
}

fn same(one: &Payload, other: &Payload) -> bool {
    match (one, other) {
        (Payload::Status(one), Payload::Status(other)) => one.user == other.user,
        (Payload::Session(one), Payload::Session(other)) => one.session.id == other.session.id,
        (Payload::Tick(_), Payload::Tick(_)) => true,
        _ => false,
    }
}

impl Lanes {
    pub(super) fn new(seed: u64) -> Lanes {
        let hasher = FixedState::with_seed(seed);
        Lanes { hasher, index: HashTable::new(), slots: Vec::new(), free: Vec::new() }
    }

    fn hash(hasher: &FixedState, payload: &Payload) -> u64 {
        let mut state = hasher.build_hasher();
        match payload {
            Payload::Status(transition) => transition.user.hash(&mut state),
            Payload::Session(event) => event.session.id.hash(&mut state),
            Payload::Cleanup(_) | Payload::Tick(_) => {}
        }
        state.finish()
    }

    /// The lane of an event, if anything of it waits or runs.
    pub(super) fn find(&self, payload: &Payload) -> Option<u32> {
        let found = |slot: &u32| {
            self.slots[*slot as usize].as_ref().is_some_and(|lane| same(&lane.head.payload, payload))
        };
        self.index.find(Self::hash(&self.hasher, payload), found).copied()
    }

    /// The lane of ticks, if there is one that waits or runs.
    pub(super) fn ticks(&self) -> Option<&Lane> {
        let lane = |slot: &u32| self.slots[*slot as usize].as_ref();
        let ticks = |slot: &u32| lane(slot).is_some_and(|lane| matches!(lane.head.payload, Payload::Tick(_)));
        self.index.find(self.hasher.build_hasher().finish(), ticks).and_then(lane)
    }

    /// A new lane, ready.
    pub(super) fn insert(&mut self, item: Item) -> u32 {
        let hash = Self::hash(&self.hasher, &item.payload);
        let partition = match &item.payload {
            Payload::Status(transition) => Some(transition.partition),
            Payload::Tick(beat) => Some(beat.partition),
            Payload::Session(event) => event.partition,
            Payload::Cleanup(_) => None,
        };
        let (rest, state) = (VecDeque::new(), State::Ready);
        let lane = Some(Lane { head: item, rest, state, leaving: false, partition });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = lane;
                slot
            }
            None => {
                self.slots.push(lane);
                (self.slots.len() - 1) as u32
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |slot: &u32| {
            slots[*slot as usize].as_ref().map_or(0, |lane| Self::hash(hasher, &lane.head.payload))
        };
        self.index.insert_unique(hash, slot, rehash);
        slot
    }

    /// Removes a lane and returns its head.
    pub(super) fn remove(&mut self, slot: u32) -> Item {
        let lane = self.slots[slot as usize].take().expect("a lane in use");
        if let Ok(entry) =
            self.index.find_entry(Self::hash(&self.hasher, &lane.head.payload), |other| *other == slot)
        {
            entry.remove();
        }
        self.free.push(slot);
        if self.index.is_empty() && self.slots.len() > KEPT_LANES {
            (self.index, self.slots, self.free) = (HashTable::new(), Vec::new(), Vec::new());
        }
        lane.head
    }

    pub(super) fn get(&self, slot: u32) -> &Lane {
        self.slots[slot as usize].as_ref().expect("a lane in use")
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Lane {
        self.slots[slot as usize].as_mut().expect("a lane in use")
    }

    pub(super) fn is_used(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(Option::is_some)
    }

    /// The lanes that are meant, in a fixed order.
    pub(super) fn select(&self, meant: impl Fn(&Lane) -> bool) -> Vec<u32> {
        let numbered = (0..).zip(&self.slots);
        numbered.filter(|(_, lane)| lane.as_ref().is_some_and(&meant)).map(|(slot, _)| slot).collect()
    }

    /// Every event, in a fixed order.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.slots.iter().flatten().flat_map(|lane| std::iter::once(&lane.head).chain(&lane.rest))
    }
}
