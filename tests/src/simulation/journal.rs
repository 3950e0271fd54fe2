//! The one place that everything in a run tells what happens: it adds the virtual time and keeps the history.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::history::{History, Report};

pub(super) struct Journal {
    started: Instant,
    history: Mutex<History>,
}

impl Journal {
    /// Virtual time starts now.
    pub(super) fn new(keep: bool) -> Journal {
        Journal { started: Instant::now(), history: Mutex::new(History::new(keep)) }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Virtual milliseconds since the start.
    pub(super) fn millis(&self) -> u64 {
        Instant::now().duration_since(self.started).as_millis() as u64
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        self.history().note(self.millis(), what);
    }

    /// A fault or a rare path.
    pub(super) fn count(&self, what: &'static str) {
        self.history().count(what);
    }

    pub(super) fn violate(&self, invariant: &'static str, details: String) {
        self.history().violate(self.millis(), invariant, details);
    }

    pub(super) fn finish(&self, seed: u64) -> Report {
        std::mem::replace(&mut *self.history(), History::new(false)).into_report(seed)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A whole number of milliseconds within the range.
pub(super) fn millis(random: &mut fastrand::Rng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

/// Locks; a panic elsewhere is reported there.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
