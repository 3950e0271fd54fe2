//! Compact storage of sessions and of the users who have some here. It stores, it decides nothing.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::SessionKey;
use crate::documents::Ended;
use crate::events::{Attributes, Status};
use crate::ids::UserId;
use crate::time::{Tick, Timestamp};

/// A slot and how often it was reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    slot: u32,
    reuse: u32,
}

impl Place {
    pub(super) fn of(key: SessionKey) -> Place {
        Place { slot: key.0 as u32, reuse: (key.0 >> 32) as u32 }
    }

    pub(super) fn key(self) -> SessionKey {
        SessionKey(u64::from(self.reuse) << 32 | u64::from(self.slot))
    }
}

/// What is true of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    pub(super) idle: bool,
    /// Idle by inactivity: activity ends it.
    pub(super) automatic: bool,
    /// A Ping was sent and no frame came since.
    pub(super) pinged: bool,
    /// In a document that was taken for writing.
    pub(super) listed: bool,
    /// `session-connected` was issued.
    pub(super) connected: bool,
}

impl Flags {
    pub(super) fn status(self) -> Status {
        if self.idle { Status::Idle } else { Status::Online }
    }
}

/// One session.
#[derive(Debug)]
pub(super) struct Record {
    /// The UUID in two halves: a `u128` would be aligned to 16 bytes.
    pub(super) id: [u64; 2],
    pub(super) connected_at: Timestamp,
    /// The last frame; once `pinged`, the time of the Ping.
    pub(super) frame: Tick,
    pub(super) activity: Tick,
    /// What the session's timer is set to; 0: not set.
    pub(super) armed: Tick,
    pub(super) expires_in: Option<Tick>,
    pub(super) attributes: Attributes,
    pub(super) ended: Option<Box<Ended>>,
    pub(super) user: u32,
    /// The next session of the same user.
    pub(super) next: Option<Place>,
    pub(super) flags: Flags,
}

impl Record {
    pub(super) fn id(&self) -> u128 {
        u128::from(self.id[0]) << 64 | u128::from(self.id[1])
    }
}

/// A user with sessions here.
#[derive(Debug)]
pub(super) struct LocalUser {
    pub(super) id: UserId,
    first: Option<Place>,
    /// In the queue of documents to be written.
    pub(super) dirty: bool,
    /// A document was taken and not answered.
    pub(super) in_flight: bool,
    /// And something changed since.
    pub(super) changed: bool,
    /// A session of theirs was ended by draining.
    pub(super) drained: bool,
}

#[derive(Debug)]
struct Slot {
    reuse: u32,
    record: Option<Record>,
}

pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    users: Vec<Option<LocalUser>>,
    free_users: Vec<u32>,
    index: HashTable<u32>,
    hasher: FixedState,
}

impl Table {
    pub(super) fn new(seed: u64) -> Table {
        Table {
            slots: Vec::new(),
            free: Vec::new(),
            users: Vec::new(),
            free_users: Vec::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Adds a session behind the user's others.
    pub(super) fn insert(&mut self, user: UserId, make: impl FnOnce(u32) -> Record) -> Place {
        let user = self.find_or_insert_user(user);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { reuse: 0, record: None });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.record = Some(make(user));
        let place = Place { slot, reuse: entry.reuse };
        let mut last = self.user(user).first;
        while let Some(next) = last.and_then(|place| self.get(place)?.next) {
            last = Some(next);
        }
        match last.and_then(|place| self.get_mut(place)) {
            Some(last) => last.next = Some(place),
            None => self.user_mut(user).first = Some(place),
        }
        place
    }

    /// Removes a session.
    pub(super) fn remove(&mut self, place: Place) {
        let Some(slot) = self.slots.get_mut(place.slot as usize).filter(|slot| slot.reuse == place.reuse)
        else {
            return;
        };
        let Some(record) = slot.record.take() else { return };
        slot.reuse = slot.reuse.wrapping_add(1);
        self.free.push(place.slot);
        let user = self.user_mut(record.user);
        if user.first == Some(place) {
            user.first = record.next;
            return;
        }
        let mut before = user.first;
        while let Some(at) = before {
            let Some(other) = self.get_mut(at) else { return };
            if other.next == Some(place) {
                other.next = record.next;
                return;
            }
            before = other.next;
        }
    }

    pub(super) fn get(&self, place: Place) -> Option<&Record> {
        self.slots.get(place.slot as usize).filter(|slot| slot.reuse == place.reuse)?.record.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Record> {
        self.slots.get_mut(place.slot as usize).filter(|slot| slot.reuse == place.reuse)?.record.as_mut()
    }

    /// A session that has not ended.
    pub(super) fn live(&mut self, place: Place) -> Option<&mut Record> {
        self.get_mut(place).filter(|record| record.ended.is_none())
    }

    /// Every session, in a fixed order.
    pub(super) fn places(&self) -> Vec<Place> {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.record.is_some());
        used.map(|(at, slot)| Place { slot: at as u32, reuse: slot.reuse }).collect()
    }

    /// The user's sessions, the oldest first. Walks by place, so that the table may change meanwhile.
    pub(super) fn sessions_of(&self, user: u32) -> Walk {
        let mut places = smallest();
        let mut next = self.user(user).first;
        while let Some(place) = next {
            places.push(place);
            next = self.get(place).and_then(|record| record.next);
        }
        places.into_iter()
    }

    pub(super) fn user(&self, slot: u32) -> &LocalUser {
        self.users[slot as usize].as_ref().expect("a session's user is in the table")
    }

    pub(super) fn user_mut(&mut self, slot: u32) -> &mut LocalUser {
        self.users[slot as usize].as_mut().expect("a session's user is in the table")
    }

    pub(super) fn user_of_mut(&mut self, place: Place) -> &mut LocalUser {
        let slot = self.get(place).map_or(0, |record| record.user);
        self.user_mut(slot)
    }

    pub(super) fn find_user(&self, id: &UserId) -> Option<u32> {
        let same = |slot: &u32| self.users[*slot as usize].as_ref().is_some_and(|user| user.id == *id);
        self.index.find(self.hasher.hash_one(id), same).copied()
    }

    fn find_or_insert_user(&mut self, id: UserId) -> u32 {
        if let Some(slot) = self.find_user(&id) {
            return slot;
        }
        let hash = self.hasher.hash_one(&id);
        let user =
            LocalUser { id, first: None, dirty: false, in_flight: false, changed: false, drained: false };
        let slot = match self.free_users.pop() {
            Some(slot) => {
                self.users[slot as usize] = Some(user);
                slot
            }
            None => {
                self.users.push(Some(user));
                (self.users.len() - 1) as u32
            }
        };
        let (users, hasher) = (&self.users, &self.hasher);
        let rehash = |slot: &u32| users[*slot as usize].as_ref().map_or(0, |user| hasher.hash_one(&user.id));
        self.index.insert_unique(hash, slot, rehash);
        slot
    }

    /// Forgets a user who has no session here and nothing to be written.
    pub(super) fn remove_idle_user(&mut self, slot: u32) {
        let user = self.user(slot);
        if user.first.is_some() || user.dirty || user.in_flight || user.changed || user.drained {
            return;
        }
        if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(&user.id), |other| *other == slot) {
            entry.remove();
        }
        self.users[slot as usize] = None;
        self.free_users.push(slot);
    }
}

/// The places of one user's sessions.
pub(super) type Walk = std::vec::IntoIter<Place>;

fn smallest() -> Vec<Place> {
    Vec::with_capacity(1)
}
