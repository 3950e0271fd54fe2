//! Finds the slot of a user in somebody's table. It keeps slots and hashes, not ids: whoever owns the table compares.
//!
//! Half of each hash is kept beside the slot, so that growing touches no user: with a million of them that, and not the
//! insertion, was a third of the time it took to open their sessions.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::ids::UserId;

/// An index over users, about 20 bytes each.
pub(crate) struct UserIndex {
    hasher: FixedState,
    table: HashTable<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    slot: u32,
    hash: u32,
}

/// The table wants 64 good bits (Fibonacci hashing: Knuth, TAOCP volume 3, section 6.4).
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl UserIndex {
    pub(crate) fn new(seed: u64) -> UserIndex {
        UserIndex { hasher: FixedState::with_seed(seed), table: HashTable::new() }
    }

    fn hash(&self, id: &UserId) -> u32 {
        self.hasher.hash_one(id) as u32
    }

    /// The slot for which `is` says that it holds this user.
    pub(crate) fn find(&self, id: &UserId, is: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hash(id);
        self.table.find(spread(hash), |entry| entry.hash == hash && is(entry.slot)).map(|entry| entry.slot)
    }

    /// Adds a user that is not there.
    pub(crate) fn insert(&mut self, id: &UserId, slot: u32) {
        let hash = self.hash(id);
        self.table.insert_unique(spread(hash), Entry { slot, hash }, |entry| spread(entry.hash));
    }

    /// Removes a user.
    pub(crate) fn remove(&mut self, id: &UserId, slot: u32) {
        if let Ok(entry) = self.table.find_entry(spread(self.hash(id)), |entry| entry.slot == slot) {
            entry.remove();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}
