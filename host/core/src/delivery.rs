//! PLACEHOLDER until the branch `delivery` lands: just enough to compile and test the runtime against the agreed API.
#![allow(missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::events::{Hook, SessionEvent, Sweep, Transition};
use crate::ids::UserId;
use crate::time::Tick;

#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    pub concurrency: u32,
    pub queue: u32,
    pub attempts: u32,
    pub backoff: Duration,
    pub max_backoff: Duration,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub enum Payload {
    Session(Arc<SessionEvent>),
    Status(Arc<Transition>),
    Cleanup(Arc<Sweep>),
}

impl Payload {
    pub fn hook(&self) -> Hook {
        match self {
            Payload::Session(event) => event.hook(),
            Payload::Status(transition) => transition.hook(),
            Payload::Cleanup(_) => Hook::Cleanup,
        }
    }
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Payload::Session(event) => Some(&event.session.user),
            Payload::Status(transition) => Some(&transition.user),
            Payload::Cleanup(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub payload: Payload,
    pub attempt: u32,
    pub generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    Retry { message: String, after: Option<Duration> },
    Reject(String),
    Trapped(String),
    Stalled(String),
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterReason {
    Rejected,
    Exhausted,
    Crashed,
    Overflow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    Delivered,
    DeadLetter { reason: DeadLetterReason, error: String, attempts: u32 },
    Superseded,
}

#[derive(Clone, Debug)]
pub struct Settled {
    pub payload: Payload,
    pub settlement: Settlement,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    pub queued: usize,
    pub backing_off: usize,
    pub running: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub retries: u64,
    pub coalesced: u64,
    pub overflowed: u64,
    pub breaker_opened: u64,
}

pub struct Delivery {
    config: DeliveryConfig,
    generation: u64,
    next: u64,
    ready: VecDeque<(Payload, u32)>,
    waiting: Vec<(Tick, Payload, u32)>,
    running: BTreeMap<JobId, (Payload, u32)>,
    settled: VecDeque<Settled>,
    counters: Counters,
}

impl Delivery {
    pub fn new(config: DeliveryConfig, generation: u64) -> Delivery {
        Delivery {
            config,
            generation,
            next: 0,
            ready: VecDeque::new(),
            waiting: Vec::new(),
            running: BTreeMap::new(),
            settled: VecDeque::new(),
            counters: Counters::default(),
        }
    }
    pub fn handle_event(&mut self, _now: Tick, payload: Payload) {
        if self.ready.len() >= self.config.queue as usize {
            self.counters.overflowed += 1;
            let settlement = Settlement::DeadLetter {
                reason: DeadLetterReason::Overflow,
                error: "the queue is full".into(),
                attempts: 0,
            };
            self.settled.push_back(Settled { payload, settlement });
            return;
        }
        self.ready.push_back((payload, 0));
    }
    pub fn handle_verdict(&mut self, now: Tick, job: JobId, verdict: Verdict) {
        let Some((payload, attempt)) = self.running.remove(&job) else { return };
        let dead =
            |reason, error: String| Settlement::DeadLetter { reason, error, attempts: attempt };
        let settlement = match verdict {
            Verdict::Delivered => Settlement::Delivered,
            Verdict::Reject(error) => dead(DeadLetterReason::Rejected, error),
            Verdict::Cut => return self.ready.push_front((payload, attempt - 1)),
            Verdict::Trapped(error) if attempt >= self.config.attempts => {
                dead(DeadLetterReason::Crashed, error)
            }
            Verdict::Retry { message, .. } | Verdict::Stalled(message)
                if attempt >= self.config.attempts && matches!(payload, Payload::Session(_)) =>
            {
                dead(DeadLetterReason::Exhausted, message)
            }
            Verdict::Retry { after, .. } => {
                let at = now + after.unwrap_or(self.config.backoff);
                self.counters.retries += 1;
                return self.waiting.push((at, payload, attempt));
            }
            _ => {
                self.counters.retries += 1;
                return self.waiting.push((now + self.config.backoff, payload, attempt));
            }
        };
        self.settled.push_back(Settled { payload, settlement });
    }
    pub fn handle_reload(&mut self, _now: Tick, config: DeliveryConfig, generation: u64) {
        self.config = config;
        self.generation = generation;
    }
    pub fn poll_job(&mut self, now: Tick) -> Option<Job> {
        if self.running.len() >= self.config.concurrency as usize {
            return None;
        }
        if let Some(due) = self.waiting.iter().position(|(at, ..)| *at <= now) {
            let (_, payload, attempts) = self.waiting.remove(due);
            self.ready.push_front((payload, attempts));
        }
        let (payload, attempts) = self.ready.pop_front()?;
        self.next += 1;
        let id = JobId(self.next);
        self.running.insert(id, (payload.clone(), attempts + 1));
        Some(Job { id, payload, attempt: attempts + 1, generation: self.generation })
    }
    pub fn poll_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.waiting.iter().map(|(at, ..)| *at).min()
    }
    pub fn depth(&self) -> Depth {
        Depth { queued: self.ready.len(), backing_off: self.waiting.len(), running: self.running.len() }
    }
    pub fn counters(&self) -> Counters {
        self.counters
    }
    pub fn breaker_open(&self) -> bool {
        false
    }
    pub fn unsettled(&self) -> usize {
        self.ready.len() + self.waiting.len() + self.running.len()
    }
    pub fn unsettled_list(&self, limit: usize) -> Vec<(Payload, u32, String)> {
        self.ready
            .iter()
            .map(|(payload, attempts)| (payload.clone(), *attempts, "waiting".to_owned()))
            .take(limit)
            .collect()
    }
}
