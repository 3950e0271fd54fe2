//! A queue of points in time. Entries are never removed: whoever sets one again compares, when it fires, with what
//! it remembers, and ignores a stale one.

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
}
