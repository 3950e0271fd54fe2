//! Tables with room for so many: what comes later pushes out what came first. For what may be lost.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::SpanContext;

/// So many entries are kept.
const ROOM: usize = 4096;

/// Values by key, at most [`ROOM`] of them.
pub(crate) struct Bounded<K, V> {
    entries: HashMap<K, (u64, V)>,
    /// Oldest first; some stand for entries that are gone.
    order: VecDeque<(u64, K)>,
    count: u64,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Bounded<K, V> {
        Bounded { entries: HashMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<K: Clone + Eq + Hash, V> Bounded<K, V> {
    /// The newest value of a key counts.
    pub(crate) fn put(&mut self, key: K, value: V) {
        self.count += 1;
        self.entries.insert(key.clone(), (self.count, value));
        self.order.push_back((self.count, key));
        while self.entries.len() > ROOM {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|(newest, _)| *newest == number) {
                self.entries.remove(&key);
            }
        }
        if self.order.len() > 2 * ROOM {
            let entries = &self.entries;
            self.order.retain(|(number, key)| entries.get(key).is_some_and(|(newest, _)| newest == number));
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(crate) fn take(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Contexts by key, for several threads. To find that there are none takes no lock.
pub(crate) struct Table<K> {
    contexts: Mutex<Bounded<K, SpanContext>>,
    count: AtomicUsize,
}

impl<K> Default for Table<K> {
    fn default() -> Table<K> {
        Table { contexts: Mutex::default(), count: AtomicUsize::new(0) }
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    pub(crate) fn put(&self, key: K, context: SpanContext) {
        let mut contexts = self.lock();
        contexts.put(key, context);
        self.count.store(contexts.entries.len(), Relaxed);
    }

    pub(crate) fn get(&self, key: &K) -> Option<SpanContext> {
        self.lock().get(key).copied()
    }

    pub(crate) fn take(&self, key: &K) -> Option<SpanContext> {
        let mut contexts = self.lock();
        let taken = contexts.take(key);
        self.count.store(contexts.entries.len(), Relaxed);
        taken
    }

    /// Unless it has become another one.
    pub(crate) fn remove(&self, key: &K, context: SpanContext) {
        let mut contexts = self.lock();
        if contexts.get(key) == Some(&context) {
            contexts.take(key);
            self.count.store(contexts.entries.len(), Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Bounded<K, SpanContext>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_nothing_grows() {
        let mut table = Bounded::default();
        for key in 0..3 * ROOM {
            table.put(key, key);
        }
        assert_eq!((table.entries.len(), table.get(&(2 * ROOM - 1))), (ROOM, None));
        assert_eq!(table.take(&(2 * ROOM)), Some(2 * ROOM));
        for value in 0..10 * ROOM {
            table.put(0, value);
        }
        assert_eq!(table.take(&0), Some(10 * ROOM - 1));
        assert!(table.order.len() <= 2 * ROOM + 1 && table.entries.len() <= ROOM);
    }

    #[test]
    fn an_entry_that_was_renewed_is_not_the_oldest() {
        let mut table = Bounded::default();
        for key in 0..ROOM {
            table.put(key, 'a');
        }
        table.put(0, 'b');
        table.put(ROOM, 'c');
        assert_eq!((table.get(&0), table.get(&1)), (Some(&'b'), None));
    }
}
