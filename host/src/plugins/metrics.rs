//! Counts of one plugin: cheap to add to, read as plain numbers. Knows nothing of how they are shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use presence_core::delivery::Counters;
use presence_core::events::Hook;

/// Upper bounds of the latency histogram's buckets, in nanoseconds: 1, 2.5 and 5 of each decade from 1 µs to 10 s.
const BOUNDS_NANOS: [u64; 22] = {
    let mut bounds = [0; 22];
    let (mut decade, mut at) = (1_000, 0);
    while at < 21 {
        bounds[at] = decade;
        bounds[at + 1] = decade * 5 / 2;
        bounds[at + 2] = decade * 5;
        decade *= 10;
        at += 3;
    }
    bounds[21] = decade;
    bounds
};

/// One plugin's numbers at one moment. Those up to `log_bytes_cut` only grow.
#[derive(Clone, Debug)]
pub struct PluginMetrics {
    /// Its name.
    pub plugin: Arc<str>,
    /// SHA-256 of its file, hexadecimal.
    pub digest: String,
    /// The version of the contract that it speaks.
    pub version: &'static str,
    /// For each hook it exports.
    pub hooks: Vec<HookMetrics>,
    /// 1 as it was loaded first; one more with every reload.
    pub generation: u64,
    /// From each reload to the end of the first call of the new version, where calls waited: for so long at most the
    /// plugin made no progress.
    pub reload_pauses: Histogram,
    /// The last of them.
    pub last_reload_pause: Option<Duration>,
    /// Events that found the queue full.
    pub overflowed: u64,
    /// Session events dropped because their instance was declared dead.
    pub session_hooks_dropped: u64,
    /// Transitions dropped because their partition went to another instance, which repeats them.
    pub withdrawn: u64,
    /// Events of hooks that a new version does not export.
    pub unwanted: u64,
    /// How often the plugin was left alone after repeated failures.
    pub breaker_opened: u64,
    /// Dead letters that could not be kept in the store; they are in the log.
    pub dead_letters_lost: u64,
    /// Older dead letters that made room for this plugin's.
    pub dead_letters_dropped: u64,
    /// Guests instantiated.
    pub guests_started: u64,
    /// The most memory that one guest held at the end of a call, in bytes.
    pub memory_peak: u64,
    /// Bytes of log text beyond `limits.log`.
    pub log_bytes_cut: u64,
    /// Guests that are instantiated now.
    pub guests: usize,
    /// Events waiting for their turn.
    pub queued: usize,
    /// Events waiting to be repeated.
    pub backing_off: usize,
    /// Events waiting until this host may act for the cluster.
    pub withheld: usize,
    /// Calls under way.
    pub running: usize,
    /// True while the plugin is left alone.
    pub breaker_open: bool,
    /// True while a cleanup of everything waits or runs, and all else behind it.
    pub behind_everything: bool,
    /// How long the oldest event that is not done with has waited.
    pub lag: Duration,
}

impl PluginMetrics {
    /// Calls that failed, of all hooks and in all ways; those that the host cut aside.
    pub fn failures(&self) -> u64 {
        let failures = self.hooks.iter().flat_map(|hook| hook.failures);
        failures.filter(|(kind, _)| *kind != FailureKind::Cut).map(|(_, count)| count).sum()
    }

    /// Events given up, of all hooks.
    pub fn dead_letters(&self) -> u64 {
        self.hooks.iter().map(|hook| hook.dead_letters).sum()
    }
}

/// The numbers of one hook.
#[derive(Clone, Debug)]
pub struct HookMetrics {
    /// Which.
    pub hook: Hook,
    /// Calls that have ended, one way or the other.
    pub calls: u64,
    /// Calls that delivered.
    pub delivered: u64,
    /// Failures by kind, in the order of [`FailureKind::ALL`].
    pub failures: [(FailureKind, u64); 5],
    /// Attempts that were put off to be repeated.
    pub retries: u64,
    /// Older transitions and ticks that gave way to newer ones.
    pub coalesced: u64,
    /// Events given up.
    pub dead_letters: u64,
    /// How long calls took.
    pub latency: Histogram,
}

/// How long calls took.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Upper bound of each bucket in seconds and how many fell into it alone (not cumulative); the last bound is
    /// infinite.
    pub buckets: Vec<(f64, u64)>,
    /// All together, in seconds.
    pub sum_seconds: f64,
}

/// The ways a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The guest asked to try again.
    Retry,
    /// The guest refused the event for ever.
    Reject,
    /// It trapped, ended itself, or computed past its deadline.
    Trap,
    /// It waited past its deadline, or no guest could be started.
    Stalled,
    /// The host ended it: its permit was over, or its partition went to another instance. It used no attempt.
    Cut,
}

impl FailureKind {
    /// All, in order.
    pub const ALL: [FailureKind; 5] =
        [FailureKind::Retry, FailureKind::Reject, FailureKind::Trap, FailureKind::Stalled, FailureKind::Cut];

    /// `retry`, `reject`, `trap`, `stalled`, `cut`: for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Retry => "retry",
            FailureKind::Reject => "reject",
            FailureKind::Trap => "trap",
            FailureKind::Stalled => "stalled",
            FailureKind::Cut => "cut",
        }
    }
}

/// What is counted while hooks run.
#[derive(Default)]
pub(super) struct PluginCounters {
    hooks: [HookCounters; Hook::ALL.len()],
    /// On their way to the store.
    pub(super) dead_letters_open: AtomicUsize,
    pub(super) dead_letters_lost: AtomicU64,
    pub(super) dead_letters_dropped: AtomicU64,
    pub(super) guests_started: AtomicU64,
    guests: AtomicUsize,
    memory_peak: AtomicU64,
    pub(super) log_bytes_cut: AtomicU64,
    pub(super) reload_pauses: Pauses,
}

/// How long the plugin paused.
#[derive(Default)]
pub(super) struct Pauses {
    counts: [AtomicU64; BOUNDS_NANOS.len() + 1],
    nanos: AtomicU64,
    /// 0: there was none.
    last: AtomicU64,
}

impl Pauses {
    /// One more.
    pub(super) fn add(&self, pause: Duration) {
        let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.counts[BOUNDS_NANOS.partition_point(|bound| *bound < nanos)].fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
        self.last.store(nanos, Relaxed);
    }

    /// All of them.
    pub(super) fn histogram(&self) -> Histogram {
        let bounds = BOUNDS_NANOS.iter().map(|nanos| *nanos as f64 / 1e9).chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.counts).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        Histogram { buckets, sum_seconds: self.nanos.load(Relaxed) as f64 / 1e9 }
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<Duration> {
        Some(self.last.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }
}

/// A guest that lives; gone with this value.
pub(super) struct Alive(Arc<PluginCounters>);

impl Alive {
    pub(super) fn new(counters: Arc<PluginCounters>) -> Alive {
        counters.guests.fetch_add(1, Relaxed);
        Alive(counters)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Relaxed);
    }
}

#[derive(Default)]
struct HookCounters {
    delivered: AtomicU64,
    failures: [AtomicU64; 5],
    dead_letters: AtomicU64,
    latency: [AtomicU64; BOUNDS_NANOS.len() + 1],
    nanos: AtomicU64,
}

impl PluginCounters {
    /// A call has ended.
    pub(super) fn ended(&self, hook: Hook, took: Duration, failure: Option<FailureKind>) {
        let counters = &self.hooks[hook as usize];
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        counters.latency[bucket].fetch_add(1, Relaxed);
        counters.nanos.fetch_add(nanos, Relaxed);
        match failure {
            None => counters.delivered.fetch_add(1, Relaxed),
            Some(kind) => counters.failures[kind as usize].fetch_add(1, Relaxed),
        };
    }

    /// An event was given up.
    pub(super) fn given_up(&self, hook: Hook) {
        self.hooks[hook as usize].dead_letters.fetch_add(1, Relaxed);
    }

    /// A guest holds so many bytes, more than it or its worker's earlier guests held.
    pub(super) fn held(&self, bytes: u64) {
        self.memory_peak.fetch_max(bytes, Relaxed);
    }

    /// Guests that live, and the most bytes that one of them held.
    pub(super) fn guests(&self) -> (usize, u64) {
        (self.guests.load(Relaxed), self.memory_peak.load(Relaxed))
    }

    /// The numbers of one hook; what the queue knows of it comes from there.
    pub(super) fn hook(&self, hook: Hook, queue: &Counters) -> HookMetrics {
        let counters = &self.hooks[hook as usize];
        let bounds = BOUNDS_NANOS.iter().map(|nanos| *nanos as f64 / 1e9).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(&counters.latency).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        HookMetrics {
            hook,
            calls: buckets.iter().map(|(_, count)| count).sum(),
            delivered: counters.delivered.load(Relaxed),
            failures: FailureKind::ALL.map(|kind| (kind, counters.failures[kind as usize].load(Relaxed))),
            retries: queue.retries.of(hook),
            coalesced: queue.coalesced.of(hook),
            dead_letters: counters.dead_letters.load(Relaxed),
            latency: Histogram { buckets, sum_seconds: counters.nanos.load(Relaxed) as f64 / 1e9 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_fall_into_the_bucket_that_holds_them() {
        let counters = PluginCounters::default();
        counters.ended(Hook::UserIdle, Duration::from_nanos(1000), None);
        counters.ended(Hook::UserIdle, Duration::from_nanos(1001), Some(FailureKind::Trap));
        counters.ended(Hook::UserIdle, Duration::from_secs(11), Some(FailureKind::Stalled));
        counters.given_up(Hook::UserIdle);
        let metrics = counters.hook(Hook::UserIdle, &Counters::default());
        let filled: Vec<_> = metrics.latency.buckets.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [&(1e-6, 1), &(2.5e-6, 1), &(f64::INFINITY, 1)]);
        assert_eq!((metrics.calls, metrics.delivered, metrics.dead_letters), (3, 1, 1));
        assert_eq!(metrics.failures[2], (FailureKind::Trap, 1));
        assert_eq!(metrics.latency.buckets[21].0, 10.0);
        assert_eq!(counters.hook(Hook::UserOnline, &Counters::default()).calls, 0);
    }

    #[test]
    fn guests_are_counted_while_they_live_and_the_largest_is_remembered() {
        let counters = Arc::new(PluginCounters::default());
        let guests = [Alive::new(counters.clone()), Alive::new(counters.clone())];
        counters.held(70);
        counters.held(30);
        assert_eq!(counters.guests(), (2, 70));
        drop(guests);
        assert_eq!(counters.guests(), (0, 70));
    }
}
