//! When a key set is read again: at intervals, soon after a failure, and at once for a key id that is not known, but
//! never sooner than a pause after the reading before. Reads no clock and no set.

use std::time::{Duration, Instant};

/// The state of the readings of one key set.
#[derive(Debug)]
pub(super) struct Rotation {
    refresh: Duration,
    pause: Duration,
    due: Instant,
    /// When the last reading began.
    began: Option<Instant>,
    /// Somebody waits for a reading that has not begun.
    wanted: bool,
    running: bool,
    finished: u64,
    /// The last reading failed, or there was none.
    failed: bool,
}

impl Rotation {
    /// The first reading is due at once.
    pub(super) fn new(refresh: Duration, pause: Duration, now: Instant) -> Rotation {
        Rotation {
            refresh,
            pause,
            due: now,
            began: None,
            wanted: false,
            running: false,
            finished: 0,
            failed: true,
        }
    }

    /// A key id is not known: which reading may tell more, counted from 1; none: it is too soon for another one.
    pub(super) fn ask(&mut self, now: Instant) -> Option<u64> {
        let is_too_soon = self.began.is_some_and(|began| now < began + self.pause);
        if !self.running && !self.wanted && is_too_soon {
            return None;
        }
        self.wanted |= !self.running;
        Some(self.finished + 1)
    }

    /// Whether it is time for a reading, which begins then.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        if self.running || !(self.wanted || self.due <= now) {
            return false;
        }
        self.running = true;
        self.wanted = false;
        self.began = Some(now);
        true
    }

    /// The reading has ended; how many have.
    pub(super) fn end(&mut self, now: Instant, succeeded: bool) -> u64 {
        self.running = false;
        self.failed = !succeeded;
        self.due = match self.began {
            Some(began) if !succeeded => began + self.pause,
            _ => now + self.refresh,
        };
        self.finished += 1;
        self.finished
    }

    /// When the next reading is due, if nobody asks for one.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether there may be keys that are not known here because the set could not be read.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(600);
    const PAUSE: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    fn fresh() -> (Rotation, Instant) {
        let start = Instant::now();
        (Rotation::new(REFRESH, PAUSE, start), start)
    }

    /// One that has read the set in its first second.
    fn settled() -> (Rotation, Instant) {
        let (mut rotation, start) = fresh();
        assert!(rotation.begin(start));
        assert_eq!(rotation.end(start + SECOND, true), 1);
        (rotation, start)
    }

    #[test]
    fn a_set_is_read_at_once_and_then_at_intervals() {
        let (mut rotation, start) = fresh();
        assert!(rotation.has_failed());
        assert!(rotation.begin(start));
        assert!(!rotation.begin(start), "one at a time");
        rotation.end(start + SECOND, true);
        assert!(!rotation.has_failed());
        let next = start + SECOND + REFRESH;
        assert_eq!(rotation.due(), next);
        assert!(!rotation.begin(next - SECOND));
        assert!(rotation.begin(next));
    }

    #[test]
    fn a_failure_is_repeated_after_the_pause() {
        let (mut rotation, start) = fresh();
        rotation.begin(start);
        rotation.end(start + SECOND, false);
        assert!(rotation.has_failed());
        assert_eq!(rotation.due(), start + PAUSE);
    }

    #[test]
    fn unknown_ids_cause_one_reading_and_no_second_one_within_the_pause() {
        let (mut rotation, start) = settled();
        assert_eq!(rotation.ask(start + PAUSE - SECOND), None);
        let later = start + PAUSE;
        assert_eq!(rotation.ask(later), Some(2));
        assert_eq!(rotation.ask(later), Some(2), "everybody waits for the same one");
        assert!(rotation.begin(later));
        assert_eq!(rotation.ask(later + SECOND), Some(2), "also while it runs");
        rotation.end(later + SECOND, true);
        assert_eq!(rotation.ask(later + SECOND), None);
        assert!(!rotation.begin(later + SECOND), "and it was only one");
    }

    #[test]
    fn who_asks_before_the_first_reading_waits_for_it() {
        let (mut rotation, start) = fresh();
        assert_eq!(rotation.ask(start), Some(1));
        assert!(rotation.begin(start));
        assert_eq!(rotation.ask(start), Some(1));
        assert_eq!(rotation.end(start + SECOND, true), 1);
    }
}
