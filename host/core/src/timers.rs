//! A queue of points in time. Setting a key again does not remove its older entry: whoever sets timers compares,
//! when one fires, with what it remembers, and ignores a stale one. It must not know what the timers are for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Tick;

/// Timers of one kind: 8 bytes and the key for each entry.
#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<(Tick, K)>>,
}

impl<K: Ord> Timers<K> {
    /// No timers.
    pub fn new() -> Timers<K> {
        Timers { heap: BinaryHeap::new() }
    }

    /// Adds an entry; one set before for the same key stays.
    pub fn set(&mut self, tick: Tick, key: K) {
        self.heap.push(Reverse((tick, key)));
    }

    /// The first entry at or before `now`, by time, then by key.
    pub fn pop_due(&mut self, now: Tick) -> Option<(Tick, K)> {
        let Reverse((tick, _)) = self.heap.peek()?;
        if *tick > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Drops the entries that `keep` is false for, in time proportional to all entries: for owners who see that
    /// stale ones have become many.
    pub fn retain(&mut self, mut keep: impl FnMut(Tick, &K) -> bool) {
        self.heap.retain(|Reverse((tick, key))| keep(*tick, key));
    }

    /// How many entries there are, stale ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// When the first entry is due.
    pub fn next(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((tick, _))| *tick)
    }
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Timers<K> {
        Timers::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fire_in_order_of_time_and_never_early() {
        let mut timers = Timers::new();
        for (tick, key) in [(30, 'c'), (10, 'a'), (20, 'b'), (10, 'z')] {
            timers.set(Tick(tick), key);
        }
        assert_eq!(timers.next(), Some(Tick(10)));
        assert_eq!(timers.pop_due(Tick(9)), None);
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop_due(Tick(25))).collect();
        assert_eq!(fired, [(Tick(10), 'a'), (Tick(10), 'z'), (Tick(20), 'b')]);
        assert_eq!(timers.next(), Some(Tick(30)));
    }

    #[test]
    fn stale_entries_can_be_dropped_and_the_others_keep_their_order() {
        let mut timers = Timers::default();
        for key in 0..100_u32 {
            timers.set(Tick(u64::from(key * 37 % 100)), key);
        }
        timers.retain(|tick, key| tick.0 >= 50 && key % 2 == 0);
        let mut expected: Vec<_> = (0..100)
            .step_by(2)
            .map(|key| (Tick(key * 37 % 100), key as u32))
            .filter(|(tick, _)| tick.0 >= 50)
            .collect();
        expected.sort();
        assert_eq!(timers.len(), expected.len());
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop_due(Tick(100))).collect();
        assert_eq!(fired, expected);
        assert!(timers.is_empty());
    }
}
