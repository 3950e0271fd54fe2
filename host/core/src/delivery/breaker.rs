//! The breaker of a plugin: whether its receiver seems to be away. It knows verdicts, neither events nor queues.

use std::time::Duration;

use super::{JobId, Verdict};
use crate::time::Tick;

/// So many failures in a row open the breaker.
pub const BREAKER_AFTER: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breaker {
    /// So many failures in a row.
    Closed(u32),
    /// The time of the next probe, and the one that runs.
    Open(Tick, Option<JobId>),
}

impl Breaker {
    pub(super) fn is_open(self) -> bool {
        matches!(self, Breaker::Open(..))
    }

    /// Whether a call may start.
    pub(super) fn admits(self, now: Tick) -> bool {
        match self {
            Breaker::Closed(_) => true,
            Breaker::Open(at, probe) => probe.is_none() && at <= now,
        }
    }

    /// A call has started: while the breaker is open it is the probe.
    pub(super) fn handle_start(&mut self, job: JobId) {
        if let Breaker::Open(_, probe) = self {
            *probe = Some(job);
        }
    }

    /// A call has ended. Returns true if that opened the breaker; the next probe is `pause` from now.
    pub(super) fn handle_verdict(
        &mut self,
        now: Tick,
        job: JobId,
        verdict: &Verdict,
        pause: Duration,
    ) -> bool {
        let was_open = self.is_open();
        *self = match *self {
            Breaker::Closed(failures) => match verdict {
                // The receiver answers.
                Verdict::Delivered | Verdict::Reject(_) => Breaker::Closed(0),
                Verdict::Retry { .. } | Verdict::Stalled(_) if failures + 1 >= BREAKER_AFTER => {
                    Breaker::Open(now + pause, None)
                }
                Verdict::Retry { .. } | Verdict::Stalled(_) => Breaker::Closed(failures + 1),
                // The plugin's own failure, or the host's.
                Verdict::Trapped(_) | Verdict::Cut => Breaker::Closed(failures),
            },
            Breaker::Open(_, Some(probe)) if probe == job => match verdict {
                Verdict::Delivered | Verdict::Reject(_) => Breaker::Closed(0),
                Verdict::Cut => Breaker::Open(now, None),
                _ => Breaker::Open(now + pause, None),
            },
            // A call that began before the breaker opened.
            Breaker::Open(..) if *verdict == Verdict::Delivered => Breaker::Closed(0),
            open => open,
        };
        self.is_open() && !was_open
    }

    /// A new version or new settings may be the cure: they are probed at once.
    pub(super) fn handle_reload(&mut self, now: Tick) {
        if let Breaker::Open(at, _) = self {
            *at = now;
        }
    }
}
