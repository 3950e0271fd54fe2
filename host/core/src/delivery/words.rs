//! What goes into the queues of a plugin and what comes out: events, calls, verdicts, settlements. No behaviour.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use crate::events::{Beat, Hook, SessionChange, SessionEvent, Sweep, Transition};
use crate::ids::UserId;

/// `[plugin.delivery]`
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// Jobs at once.
    pub concurrency: u32,
    /// Events that wait.
    pub queue: u32,
    /// Attempts of session hooks, and of any hook that traps.
    pub attempts: u32,
    /// The first pause.
    pub backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// How long a call may take (`limits.deadline`).
    pub deadline: Duration,
    /// For jitter and hash tables.
    pub seed: u64,
}

/// An event for the plugin. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Hooks `session-connected`, `session-disconnected`.
    Session(Arc<SessionEvent>),
    /// Hooks `user-online`, `user-idle`, `user-offline`.
    Status(Arc<Transition>),
    /// Hook `cleanup`.
    Cleanup(Arc<Sweep>),
    /// Hook `tick`.
    Tick(Beat),
}

impl Payload {
    /// The hook that tells it.
    pub fn hook(&self) -> Hook {
        match self {
            Payload::Session(event) => event.hook(),
            Payload::Status(transition) => transition.hook(),
            Payload::Cleanup(_) => Hook::Cleanup,
            Payload::Tick(_) => Hook::Tick,
        }
    }

    /// Whether the call needs a permit: it acts for the cluster, not for this host's connections alone; or it tells of a
    /// session whose end nobody would tell of, if this host has been cleaned up after meanwhile.
    pub fn needs_permit(&self) -> bool {
        match self {
            Payload::Session(event) => event.partition.is_some() || event.change == SessionChange::Connected,
            Payload::Status(_) | Payload::Cleanup(_) | Payload::Tick(_) => true,
        }
    }

    /// The user; none for a cleanup or a tick.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Payload::Session(event) => Some(&event.session.user),
            Payload::Status(transition) => Some(&transition.user),
            Payload::Cleanup(_) | Payload::Tick(_) => None,
        }
    }
}

/// A dead letter, by the number that the store gave it.
pub type LetterNumber = NonZeroU64;

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// A call to make.
#[derive(Clone, Debug)]
pub struct Job {
    /// For [`handle_verdict`](super::Delivery::handle_verdict).
    pub id: JobId,
    /// What to tell.
    pub payload: Payload,
    /// From 1.
    pub attempt: u32,
    /// Of the plugin, at the time the job was taken.
    pub generation: u64,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The guest took it.
    Delivered,
    /// The guest asks for another attempt.
    Retry {
        /// Its reason.
        message: String,
        /// When, if it has a wish.
        after: Option<Duration>,
    },
    /// The guest refuses it for ever.
    Reject(String),
    /// A trap, an exit, or the deadline passed while the guest computed.
    Trapped(String),
    /// The deadline passed while the guest waited for the host.
    Stalled(String),
    /// The host ended the call for its own reasons: no attempt was used.
    Cut,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The guest took it.
    Delivered,
    /// Given up.
    DeadLetter {
        /// Why.
        reason: DeadLetterReason,
        /// The last error.
        error: String,
        /// How many attempts were made.
        attempts: u32,
    },
    /// A newer transition of the same user, or a newer tick, took its place.
    Superseded,
    /// Only of replays: dropped with its partition or its instance. Its letter stays.
    Withdrawn,
    /// The plugin was removed, or its new version does not export the hook.
    Unwanted,
}

/// Why an event was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// The guest refused it.
    Rejected,
    /// The attempts were used up.
    Exhausted,
    /// The guest crashed on it, `attempts` times.
    Crashed,
    /// The queue was full.
    Overflow,
}

/// An event that is done with; each is reported once.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What it was.
    pub payload: Payload,
    /// What became of it.
    pub settlement: Settlement,
    /// The dead letter that it was replayed from.
    pub letter: Option<LetterNumber>,
}

/// What a queue does with a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It waits for its turn; a settlement follows.
    Queued,
    /// The user's news are newer: nothing follows.
    Superseded,
    /// There is no room: nothing follows.
    Full,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Ready, or behind another of the same lane.
    pub queued: usize,
    /// In a pause after a failure.
    pub backing_off: usize,
    /// Ready, but not permitted.
    pub withheld: usize,
    /// With a guest.
    pub running: usize,
}

/// A total for each hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerHook([u64; Hook::ALL.len()]);

impl PerHook {
    /// One more.
    pub fn add(&mut self, hook: Hook) {
        self.0[hook as usize] += 1;
    }

    /// Of this hook.
    pub fn of(&self, hook: Hook) -> u64 {
        self.0[hook as usize]
    }

    /// Over all hooks.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts that will be repeated.
    pub retries: PerHook,
    /// Transitions and ticks that gave way to a newer one.
    pub coalesced: PerHook,
    /// Session events that found the queue full.
    pub overflowed: u64,
    /// Session events that were dropped because their instance was declared dead.
    pub dropped: u64,
    /// Transitions and ticks that were dropped because their partition went to another instance.
    pub withdrawn: u64,
    /// Events of hooks that a new version of the plugin does not export.
    pub unwanted: u64,
    /// How often the breaker opened.
    pub breaker_opened: u64,
}
