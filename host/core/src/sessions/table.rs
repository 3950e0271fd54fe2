//! Compact storage of sessions and of the users who have some here. It stores, it decides nothing.
//!
//! Sessions lie in a slab; those of one user are linked within it, the newest first. Users lie in a second slab,
//! found through a hash table that holds slots only, so that a user id is kept once.

use std::num::NonZeroU64;

use super::SessionKey;
use crate::documents::Ended;
use crate::events::{Attributes, Status};
use crate::ids::UserId;
use crate::index::UserIndex;
use crate::time::{Now, Tick, Timestamp};

/// No slot: the end of a user's list.
const NONE: u32 = u32::MAX;

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

/// Whether somebody is there, and who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Online,
    /// By the client's word: only its word ends it.
    Idle,
    /// By inactivity: activity ends it.
    AutomaticIdle,
}

/// How far the deployment was told of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In no document yet.
    New,
    /// In a document that was taken for writing.
    Listed,
    /// In an acknowledged document; `session-connected` was issued.
    Announced,
}

/// One session.
#[derive(Debug)]
pub(super) struct Record {
    /// The UUID in two halves: a `u128` would be aligned to 16 bytes.
    id: [u64; 2],
    pub(super) connected_at: Timestamp,
    /// The last frame; once `pinged`, the time of the Ping.
    pub(super) frame: Tick,
    pub(super) activity: Tick,
    /// What the session's timer is set to; 0: not set.
    pub(super) armed: Tick,
    /// Wall-clock milliseconds; the niche saves a word.
    expires_at: Option<NonZeroU64>,
    pub(super) attributes: Attributes,
    pub(super) ended: Option<Box<Ended>>,
    pub(super) user: u32,
    /// The slot of the user's next older session, or [`NONE`].
    next: u32,
    reuse: u32,
    pub(super) mode: Mode,
    pub(super) stage: Stage,
    /// A Ping was sent and no frame came since.
    pub(super) pinged: bool,
}

impl Record {
    /// A session that starts online; [`Table::insert`] fills in where it belongs.
    pub(super) fn new(now: Now, id: u128, attributes: Attributes, expires_at: Option<Timestamp>) -> Record {
        let mut record = Record {
            id: [(id >> 64) as u64, id as u64],
            connected_at: now.wall,
            frame: now.tick,
            activity: now.tick,
            armed: Tick(0),
            expires_at: None,
            attributes,
            ended: None,
            user: NONE,
            next: NONE,
            reuse: 0,
            mode: Mode::Online,
            stage: Stage::New,
            pinged: false,
        };
        record.set_expires_at(expires_at);
        record
    }

    pub(super) fn set_id(&mut self, id: u128) {
        self.id = [(id >> 64) as u64, id as u64];
    }

    pub(super) fn id(&self) -> u128 {
        u128::from(self.id[0]) << 64 | u128::from(self.id[1])
    }

    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at.map(|at| Timestamp(at.get()))
    }

    pub(super) fn set_expires_at(&mut self, at: Option<Timestamp>) {
        self.expires_at = at.map(|at| NonZeroU64::new(at.0).unwrap_or(NonZeroU64::MIN));
    }

    pub(super) fn status(&self) -> Status {
        match self.mode {
            Mode::Online => Status::Online,
            Mode::Idle | Mode::AutomaticIdle => Status::Idle,
        }
    }
}

/// A user with sessions here, or with a document that is still to be deleted.
#[derive(Debug)]
pub(super) struct LocalUser {
    pub(super) id: UserId,
    first: u32,
    /// In the queue of documents to be written.
    pub(super) dirty: bool,
    /// A document was taken and not answered.
    pub(super) in_flight: bool,
    /// And something changed since.
    pub(super) changed: bool,
    /// A session of theirs was ended by draining, and they are held.
    pub(super) drained: bool,
}

#[derive(Debug)]
enum Slot {
    Used(Record),
    /// The reuse that the next session here gets.
    Free(u32),
}

pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    users: Vec<Option<LocalUser>>,
    free_users: Vec<u32>,
    index: UserIndex,
}

impl Table {
    pub(super) fn new(seed: u64) -> Table {
        Table {
            slots: Vec::new(),
            free: Vec::new(),
            users: Vec::new(),
            free_users: Vec::new(),
            index: UserIndex::new(seed),
        }
    }

    /// Adds a session before the user's others.
    pub(super) fn insert(&mut self, user: UserId, mut record: Record) -> Place {
        let user = self.find_or_insert_user(user);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free(0));
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        let Slot::Free(reuse) = *entry else { unreachable!("the list of free slots holds free slots") };
        (record.user, record.reuse) = (user, reuse);
        let owner = self.users[user as usize].as_mut().expect("just found or inserted");
        record.next = std::mem::replace(&mut owner.first, slot);
        *entry = Slot::Used(record);
        Place { slot, reuse }
    }

    /// Removes a session. Walks the user's list: a document of that many entries was just written anyway.
    pub(super) fn remove(&mut self, place: Place) {
        let Some(record) = self.get(place) else {
            return;
        };
        let (user, next) = (record.user, record.next);
        let first = self.user(user).first;
        if first == place.slot {
            self.user_mut(user).first = next;
        } else {
            let mut before = first;
            while let Some(Slot::Used(other)) = self.slots.get_mut(before as usize) {
                if other.next == place.slot {
                    other.next = next;
                    break;
                }
                before = other.next;
            }
        }
        // A slot whose reuses are used up is never taken again: no key comes twice.
        let reuse = place.reuse.checked_add(1);
        self.slots[place.slot as usize] = Slot::Free(reuse.unwrap_or(u32::MAX));
        if reuse.is_some() {
            self.free.push(place.slot);
        }
    }

    pub(super) fn get(&self, place: Place) -> Option<&Record> {
        match self.slots.get(place.slot as usize) {
            Some(Slot::Used(record)) if record.reuse == place.reuse => Some(record),
            _ => None,
        }
    }

    /// A session that has not ended.
    pub(super) fn live(&mut self, place: Place) -> Option<&mut Record> {
        match self.slots.get_mut(place.slot as usize) {
            Some(Slot::Used(record)) if record.reuse == place.reuse && record.ended.is_none() => Some(record),
            _ => None,
        }
    }

    /// Every session that has not ended, in the order of slots.
    pub(super) fn live_places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for (slot, entry) in self.slots.iter().enumerate() {
            if let Slot::Used(Record { reuse, ended: None, .. }) = entry {
                places.push(Place { slot: slot as u32, reuse: *reuse });
            }
        }
        places
    }

    /// How many sessions are stored, ended ones included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Used(_))).count()
    }

    /// Calls `visit` for the user's sessions, the newest first.
    pub(super) fn for_sessions(&mut self, user: u32, mut visit: impl FnMut(Place, &mut Record)) {
        let mut slot = self.user(user).first;
        while let Some(Slot::Used(record)) = self.slots.get_mut(slot as usize) {
            visit(Place { slot, reuse: record.reuse }, record);
            slot = record.next;
        }
    }

    /// The user in a slot, if it is in use.
    pub(super) fn user_at(&self, slot: u32) -> Option<&LocalUser> {
        self.users.get(slot as usize)?.as_ref()
    }

    pub(super) fn user(&self, slot: u32) -> &LocalUser {
        self.users[slot as usize].as_ref().expect("a session's user is in the table")
    }

    pub(super) fn user_mut(&mut self, slot: u32) -> &mut LocalUser {
        self.users[slot as usize].as_mut().expect("a session's user is in the table")
    }

    /// The users whose [`LocalUser::drained`] is set, in the order of slots.
    pub(super) fn drained_users(&self) -> Vec<u32> {
        let drained = |user: &Option<LocalUser>| user.as_ref().is_some_and(|user| user.drained);
        (0..self.users.len() as u32).filter(|slot| drained(&self.users[*slot as usize])).collect()
    }

    /// Every user, in the order of slots.
    pub(super) fn all_users(&self) -> Vec<u32> {
        (0..self.users.len() as u32).filter(|slot| self.users[*slot as usize].is_some()).collect()
    }

    pub(super) fn find_user(&self, id: &UserId) -> Option<u32> {
        self.index.find(id, |slot| self.users[slot as usize].as_ref().is_some_and(|user| user.id == *id))
    }

    fn find_or_insert_user(&mut self, id: UserId) -> u32 {
        if let Some(slot) = self.find_user(&id) {
            return slot;
        }
        let user = LocalUser {
            id: id.clone(),
            first: NONE,
            dirty: false,
            in_flight: false,
            changed: false,
            drained: false,
        };
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
        self.index.insert(&id, slot);
        slot
    }

    /// Forgets a user who has no session here and nothing to be written.
    pub(super) fn remove_idle_user(&mut self, slot: u32) {
        let user = self.user(slot);
        if user.first != NONE || user.dirty || user.in_flight || user.changed || user.drained {
            return;
        }
        if let Some(user) = self.users[slot as usize].take() {
            self.index.remove(&user.id, slot);
            self.free_users.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I8: what the module documentation of `sessions` says a session costs.
    #[test]
    fn i8_a_session_costs_what_is_documented() {
        assert_eq!(size_of::<Slot>(), 88);
        assert_eq!(size_of::<Option<LocalUser>>(), 24);
        assert_eq!(size_of::<(Tick, Place)>(), 16);
    }

    #[test]
    fn a_slot_is_reused_under_another_key_and_retired_when_its_keys_are_used_up() {
        let mut table = Table::new(1);
        let alice = UserId::new("alice").unwrap();
        let add = |table: &mut Table| {
            table.insert(alice.clone(), Record::new(Now::at(1), 1, Attributes::default(), None))
        };
        let first = add(&mut table);
        table.remove(first);
        let second = add(&mut table);
        assert_eq!((second.slot, second.reuse), (first.slot, 1));
        assert!(table.get(first).is_none());
        table.remove(second);
        table.slots[0] = Slot::Free(u32::MAX);
        let last = add(&mut table);
        assert_eq!((last.slot, last.reuse), (0, u32::MAX));
        table.remove(last);
        assert!(table.get(last).is_none());
        assert_eq!(add(&mut table).slot, 1);
    }

    #[test]
    fn the_sessions_of_a_user_stay_linked_whichever_is_removed() {
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        for removed in 0..3 {
            let mut table = Table::new(1);
            let mut add = |user: &UserId, id| {
                table.insert(user.clone(), Record::new(Now::at(1), id, Attributes::default(), None))
            };
            let places = [add(&alice, 1), add(&alice, 2), add(&alice, 3)];
            add(&bob, 4);
            table.remove(places[removed]);
            let mut seen = Vec::new();
            let user = table.find_user(&alice).unwrap();
            table.for_sessions(user, |place, record| seen.push((place, record.id())));
            let mut expected: Vec<_> = [3, 2, 1].map(|id| (places[id - 1], id as u128)).to_vec();
            expected.retain(|(place, _)| *place != places[removed]);
            assert_eq!(seen, expected);
        }
    }
}
