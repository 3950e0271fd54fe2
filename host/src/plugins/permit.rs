//! What ends a call early: the permit of status hooks and cleanups, and a word from outside. Knows clocks, no plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use presence_core::delivery::JobId;
use presence_core::time::Tick;

use crate::clock::Clock;

/// Until when status hooks and cleanups may run; all plugins of a host share one.
pub(super) struct Permit {
    until: AtomicU64,
    /// Sessions of this host are not to be announced.
    silent: AtomicBool,
    clock: Clock,
}

impl Permit {
    /// Nothing limits them.
    pub(super) fn unlimited(clock: Clock) -> Permit {
        Permit { until: AtomicU64::new(u64::MAX), silent: AtomicBool::new(false), clock }
    }

    /// Returns true if it ends earlier than it did.
    pub(super) fn set(&self, until: Tick) -> bool {
        self.until.swap(until.0, SeqCst) > until.0
    }

    /// When it ends.
    pub(super) fn until(&self) -> Tick {
        Tick(self.until.load(SeqCst))
    }

    /// Whether sessions of this host may be announced.
    pub(super) fn set_announcing(&self, announcing: bool) {
        self.silent.store(!announcing, SeqCst);
    }

    /// The same.
    pub(super) fn announcing(&self) -> bool {
        !self.silent.load(SeqCst)
    }

    /// How much of it is left, by a clock that counts suspension; none: nothing limits it.
    pub(super) fn left(&self) -> Option<Duration> {
        match self.until.load(SeqCst) {
            u64::MAX => None,
            until => Some(Tick(until).since(self.clock.tick())),
        }
    }
}

/// Where one worker sits: others see there what it does, and tell it there to stop.
#[derive(Default)]
pub(super) struct Seat {
    /// The job at work, or the last one. Job 0 is none.
    job: AtomicU64,
    /// The job that is to be cut.
    cut: AtomicU64,
    /// The worker holds settled events that it has not passed on.
    holds: AtomicBool,
    /// Of a call that pauses.
    waker: AtomicWaker,
}

impl Seat {
    /// The worker has taken a job.
    pub(super) fn take(&self, job: JobId) {
        self.job.store(job.0, Relaxed);
    }

    /// Ends the job, if the worker here is at it.
    pub(super) fn cut(&self, job: JobId) {
        if self.job.load(Relaxed) == job.0 {
            self.cut.store(job.0, SeqCst);
            self.waker.wake();
        }
    }

    /// A call that pauses looks again at what may end it.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Whether the worker holds settled events.
    pub(super) fn holds(&self) -> bool {
        self.holds.load(SeqCst)
    }

    /// Says so; only the worker itself does.
    pub(super) fn set_holds(&self, holds: bool) {
        if self.holds.load(Relaxed) != holds {
            self.holds.store(holds, SeqCst);
        }
    }
}

/// What may end the calls of one worker, besides their deadlines.
pub(super) struct Bounds {
    pub(super) permit: Arc<Permit>,
    pub(super) seat: Arc<Seat>,
    /// Whether the call at work needs the permit.
    pub(super) needs_permit: bool,
}

impl Bounds {
    /// Nothing ends them: for guests that are tried at load.
    pub(super) fn none() -> Bounds {
        let permit = Arc::new(Permit::unlimited(Clock::machine()));
        Bounds { permit, seat: Arc::default(), needs_permit: false }
    }

    /// How much of the permit is left for the call at work; none: nothing limits it.
    pub(super) fn left(&self) -> Option<Duration> {
        if self.needs_permit { self.permit.left() } else { None }
    }

    /// Whether the call at work has to end now.
    pub(super) fn is_over(&self) -> bool {
        let cut = self.seat.cut.load(SeqCst);
        (cut != 0 && cut == self.seat.job.load(Relaxed)) || self.left().is_some_and(|left| left.is_zero())
    }

    /// Calls `waker` when [`Bounds::is_over`] may have changed; the passing of time aside.
    pub(super) fn register(&self, waker: &Waker) {
        self.seat.waker.register(waker);
    }
}
