//! When which plugin's tick is due on this host. Knows the partitions that are owned, and nothing of delivery.
//!
//! ```text
//!  handle_plugins, handle_owned, handle_lost ──▶ Ticks ──▶ poll_beat (whenever poll_timeout is past)
//! ```
//!
//! A plugin's ticks belong to the partition of its name: its owner alone runs them, and a new owner goes on at the next
//! multiple of the interval, whoever ran the one before. Beats that passed while nobody looked are left out but for
//! the newest; a clock that goes backwards repeats none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::documents::Layout;
use crate::events::Beat;
use crate::ids::{PartitionId, UserId};
use crate::time::{Now, Tick, Timestamp};

/// The ticks of all plugins that export the hook.
pub struct Ticks {
    layout: Layout,
    plugins: BTreeMap<Arc<str>, Pace>,
    owned: BTreeSet<PartitionId>,
}

struct Pace {
    interval_ms: u64,
    partition: PartitionId,
    /// The next beat; none while the partition is not owned.
    next: Option<Timestamp>,
}

impl Ticks {
    /// Nothing to tick, nothing owned.
    pub fn new(layout: Layout) -> Ticks {
        Ticks { layout, plugins: BTreeMap::new(), owned: BTreeSet::new() }
    }

    /// These plugins have ticks from now on, and no others. One that had the same interval before goes on.
    pub fn handle_plugins(&mut self, now: Now, plugins: impl IntoIterator<Item = (Arc<str>, Duration)>) {
        let mut before = std::mem::take(&mut self.plugins);
        for (name, interval) in plugins {
            let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
            // A plugin's name is a user id as well: few letters, not long.
            let Ok(id) = UserId::new(&name) else { continue };
            let (partition, _) = self.layout.place(&id);
            let kept = before.remove(&name).filter(|pace| pace.interval_ms == interval_ms);
            let next = match kept {
                Some(pace) => pace.next,
                None => self.owned.contains(&partition).then(|| next_multiple(now.wall, interval_ms)),
            };
            self.plugins.insert(name, Pace { interval_ms, partition, next });
        }
    }

    /// The partition is this host's from now on. Told again, it changes nothing.
    pub fn handle_owned(&mut self, now: Now, partition: PartitionId) {
        if !self.owned.insert(partition) {
            return;
        }
        for pace in self.plugins.values_mut().filter(|pace| pace.partition == partition) {
            pace.next = Some(next_multiple(now.wall, pace.interval_ms));
        }
    }

    /// The partition is not this host's any more, or about to be another's.
    pub fn handle_lost(&mut self, partition: PartitionId) {
        self.owned.remove(&partition);
        for pace in self.plugins.values_mut().filter(|pace| pace.partition == partition) {
            pace.next = None;
        }
    }

    /// A beat that is due: the newest of its plugin.
    pub fn poll_beat(&mut self, now: Now) -> Option<(Arc<str>, Beat)> {
        let due = |pace: &Pace| pace.next.is_some_and(|next| next <= now.wall);
        let (name, pace) = self.plugins.iter_mut().find(|(_, pace)| due(pace))?;
        let next = next_multiple(now.wall, pace.interval_ms);
        pace.next = Some(next);
        let due = Timestamp(next.0 - pace.interval_ms);
        Some((name.clone(), Beat { due, interval_ms: pace.interval_ms, partition: pace.partition }))
    }

    /// When there may be one.
    pub fn poll_timeout(&self, now: Now) -> Option<Tick> {
        let next = self.plugins.values().filter_map(|pace| pace.next).min()?;
        Some(now.tick + Duration::from_millis(next.millis_since(now.wall)))
    }
}

/// The first multiple after this moment.
fn next_multiple(now: Timestamp, interval_ms: u64) -> Timestamp {
    Timestamp((now.0 / interval_ms + 1).saturating_mul(interval_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn layout() -> Layout {
        Layout { partitions: 64, leaves: 16 }
    }

    fn partition_of(name: &str) -> PartitionId {
        layout().place(&UserId::new(name).unwrap()).0
    }

    fn ticks(now: u64, plugins: &[(&str, u64)]) -> Ticks {
        let mut ticks = Ticks::new(layout());
        set(&mut ticks, now, plugins);
        ticks
    }

    fn set(ticks: &mut Ticks, now: u64, plugins: &[(&str, u64)]) {
        let plugins = plugins.iter().map(|(name, ms)| ((*name).into(), Duration::from_millis(*ms)));
        ticks.handle_plugins(Now::at(now), plugins);
    }

    fn due(ticks: &mut Ticks, now: Now) -> Vec<(String, u64)> {
        std::iter::from_fn(|| ticks.poll_beat(now))
            .map(|(name, beat)| (name.to_string(), beat.due.0))
            .collect()
    }

    #[test]
    fn the_owner_beats_at_multiples_of_the_interval() {
        let mut ticks = ticks(5, &[("a", MINUTE), ("b", MINUTE / 2)]);
        assert_eq!((due(&mut ticks, Now::at(10 * MINUTE)), ticks.poll_timeout(Now::at(5))), (vec![], None));
        ticks.handle_owned(Now::at(100), partition_of("a"));
        ticks.handle_owned(Now::at(100), partition_of("b"));
        assert_eq!(ticks.poll_timeout(Now::at(100)), Some(Tick(MINUTE / 2)));
        assert_eq!(due(&mut ticks, Now::at(MINUTE / 2)), [("b".to_owned(), MINUTE / 2)]);
        assert_eq!(due(&mut ticks, Now::at(MINUTE / 2)), []);
        let both = [("a".to_owned(), MINUTE), ("b".to_owned(), MINUTE)];
        assert_eq!(due(&mut ticks, Now::at(MINUTE + 7)), both);
        assert_eq!(ticks.poll_timeout(Now::at(MINUTE + 7)), Some(Tick(MINUTE * 3 / 2)));
    }

    #[test]
    fn what_passed_unseen_is_left_out_but_for_the_newest() {
        let mut ticks = ticks(0, &[("a", MINUTE)]);
        ticks.handle_owned(Now::at(0), partition_of("a"));
        assert_eq!(due(&mut ticks, Now::at(9 * MINUTE + 1)), [("a".to_owned(), 9 * MINUTE)]);
        assert_eq!(ticks.poll_timeout(Now::at(9 * MINUTE + 1)), Some(Tick(10 * MINUTE)));
    }

    #[test]
    fn a_partition_that_goes_takes_its_ticks_along() {
        let mut ticks = ticks(0, &[("a", MINUTE)]);
        ticks.handle_owned(Now::at(0), partition_of("a"));
        ticks.handle_lost(partition_of("a"));
        assert_eq!((due(&mut ticks, Now::at(MINUTE)), ticks.poll_timeout(Now::at(0))), (vec![], None));
        ticks.handle_owned(Now::at(MINUTE), partition_of("a"));
        assert_eq!(due(&mut ticks, Now::at(MINUTE)), [], "another has run it");
        assert_eq!(due(&mut ticks, Now::at(2 * MINUTE)), [("a".to_owned(), 2 * MINUTE)]);
    }

    #[test]
    fn a_clock_that_goes_backwards_repeats_nothing() {
        let mut ticks = ticks(0, &[("a", MINUTE)]);
        ticks.handle_owned(Now::at(0), partition_of("a"));
        assert_eq!(due(&mut ticks, Now::at(MINUTE)).len(), 1);
        let back = Now { wall: Timestamp(MINUTE - 1), tick: Tick(MINUTE + 5) };
        ticks.handle_owned(back, partition_of("a"));
        assert_eq!((due(&mut ticks, back), ticks.poll_timeout(back)), (vec![], Some(Tick(2 * MINUTE + 6))));
    }

    #[test]
    fn a_reload_keeps_the_pace_of_whom_it_does_not_change() {
        let mut ticks = ticks(0, &[("a", MINUTE), ("b", MINUTE)]);
        ticks.handle_owned(Now::at(0), partition_of("a"));
        ticks.handle_owned(Now::at(0), partition_of("b"));
        set(&mut ticks, MINUTE + 1, &[("a", MINUTE), ("b", 10)]);
        assert_eq!(
            due(&mut ticks, Now::at(MINUTE + 9)),
            [("a".to_owned(), MINUTE)],
            "b begins at the next one"
        );
        set(&mut ticks, MINUTE + 9, &[("b", 10)]);
        assert_eq!(due(&mut ticks, Now::at(MINUTE + 10)), [("b".to_owned(), MINUTE + 10)]);
    }
}
