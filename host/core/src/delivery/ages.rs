//! Since when the oldest of many events waits. Each costs a count in its tenth of a second: nothing is kept, moved or
//! searched for a single event, and memory is taken for a tenth of a second that is over and has events left.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Delivery;
use crate::time::Tick;

/// What falls into one of these, in milliseconds, has one age.
const STEP: u64 = 100;

/// How many events have waited since when.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// The newest step, and how many.
    newest: (u64, u64),
    /// All others; none is 0.
    older: BTreeMap<u64, u64>,
}

impl Ages {
    /// An event waits since then.
    pub(super) fn add(&mut self, since: Tick) {
        let step = since.0 / STEP;
        if step > self.newest.0 {
            if self.newest.1 > 0 {
                self.older.insert(self.newest.0, self.newest.1);
            }
            self.newest = (step, 0);
        }
        if step == self.newest.0 {
            self.newest.1 += 1;
        } else {
            *self.older.entry(step).or_default() += 1;
        }
    }

    /// It waits no longer.
    pub(super) fn remove(&mut self, since: Tick) {
        let step = since.0 / STEP;
        if step == self.newest.0 {
            self.newest.1 -= 1;
        } else if let Some(count) = self.older.get_mut(&step) {
            *count -= 1;
            if *count == 0 {
                self.older.remove(&step);
            }
        }
    }

    /// How long the oldest has waited; nothing waits: zero.
    pub(super) fn oldest(&self, now: Tick) -> Duration {
        let newest = Some(self.newest.0).filter(|_| self.newest.1 > 0);
        let step = self.older.keys().next().copied().or(newest);
        step.map_or(Duration::ZERO, |step| now.since(Tick(step * STEP)))
    }
}

impl Delivery {
    /// How long the oldest event that is not done with has waited, to a tenth of a second; zero: there is none. What took
    /// the place of an older transition has waited as long as that.
    pub fn lag(&self, now: Tick) -> Duration {
        self.ages.oldest(now)
    }

    /// One more event waits.
    pub(super) fn enter(&mut self, since: Tick) {
        self.waiting += 1;
        self.ages.add(since);
    }

    /// One does not any more.
    pub(super) fn leave(&mut self, since: Tick) {
        self.waiting -= 1;
        self.ages.remove(since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_known_in_whatever_order_they_come_and_go() {
        let mut ages = Ages::default();
        let seconds = |ages: &Ages| ages.oldest(Tick(10_050)).as_millis();
        assert_eq!(seconds(&ages), 0);
        for at in [1_000, 1_010, 2_000, 5_000] {
            ages.add(Tick(at));
        }
        assert_eq!(seconds(&ages), 9_050);
        ages.remove(Tick(1_010));
        ages.remove(Tick(5_000));
        ages.add(Tick(1_500));
        ages.remove(Tick(1_000));
        assert_eq!(seconds(&ages), 8_550);
        ages.remove(Tick(1_500));
        ages.remove(Tick(2_000));
        assert_eq!((seconds(&ages), ages.older.len()), (0, 0));
        ages.add(Tick(10_000));
        assert_eq!(seconds(&ages), 50);
    }
}
