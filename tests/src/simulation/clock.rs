//! The clocks of one simulated host: both follow virtual time, each with its own offset, and the wall clock jumps.

use std::sync::atomic::{AtomicI64, Ordering};

use presence_core::time::{Now, Tick, Timestamp};
use presence_host::clock::TimeSource;
use tokio::time::Instant;

/// The wall clock of a run begins here: 2026-01-01.
pub(super) const EPOCH: u64 = 1_767_225_600_000;

#[derive(Debug)]
pub(super) struct SimClock {
    started: Instant,
    booted: u64,
    skew: AtomicI64,
}

impl SimClock {
    pub(super) fn new(started: Instant, booted: u64) -> SimClock {
        SimClock { started, booted, skew: AtomicI64::new(0) }
    }

    /// Sets how far the wall clock is off, in milliseconds.
    pub(super) fn set_skew(&self, skew: i64) {
        self.skew.store(skew, Ordering::Relaxed);
    }
}

impl TimeSource for SimClock {
    fn now(&self) -> Now {
        let elapsed = Instant::now().duration_since(self.started).as_millis() as u64;
        let wall = (EPOCH + elapsed).saturating_add_signed(self.skew.load(Ordering::Relaxed));
        Now { wall: Timestamp(wall), tick: Tick(self.booted + elapsed) }
    }
}
