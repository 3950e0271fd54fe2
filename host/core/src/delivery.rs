//! The queues of one plugin: what runs next, what is tried again, what is given up.
//!
//! ```text
//!  handle_event ──▶ lanes (one per user for statuses, one per session, one for ticks) ──ready──▶ poll_job ──▶ a guest
//!                     ▲ backoff                                                                  │
//!                     └───────────────────────────── handle_verdict ◀────────────────────────────┘
//!                                                         └──▶ poll_settled
//! ```
//!
//! Rules (DESIGN sections 2 and 5):
//! - one job of a lane at a time, in order; different lanes in parallel; a lane in backoff delays nobody else;
//! - **status hooks are state**: `retry` has no end; a lagging user's older transitions give way to the newest: behind
//!   a head that is being retried, and everywhere while the queue is full or the breaker open; one that is not newer
//!   than what waits or runs of its user gives way at once, so no user's news go back;
//! - **session hooks are events**: so many attempts, then a dead letter; a full queue makes a dead letter at once;
//! - a trap uses up an attempt in every class: the plugin is broken, not the receiver;
//! - **ticks** are statuses of the plugin itself: they have one lane, a newer one takes the place of what waits there, and
//!   nobody waits for one that is to be repeated;
//! - **cleanup** is a barrier: running calls end first, later ones wait while it runs; in backoff only `everything`
//!   holds others back;
//! - **the permit** ([`Delivery::handle_permit`]): status hooks and cleanups start only if their deadline lies within
//!   it; `session-disconnected` of this host's sessions goes on, `session-connected` and the hooks of held ones do as status hooks
//!   do. A `lost` cleanup that is withheld holds nobody back, as in backoff; `everything` does: a
//!   receiver that heard of sessions before it would forget them; while the store that was recreated lacks documents
//!   of this host's sessions, none of them is announced either ([`Delivery::handle_announcing`]);
//! - **a replay** ([`Delivery::handle_replay`]) is a dead letter's event once more: its attempts count anew, its place is
//!   after what its user or session has waiting, and one that is older than what was told since is told to nobody;
//! - **what leaves** ([`Delivery::handle_withdraw`], [`Delivery::handle_drop_sessions`],
//!   [`Delivery::handle_abandon_everything`]) is dropped without a settlement (replays excepted: [`Settlement::Withdrawn`]);
//!   a call that runs ends by itself, and its event is settled or dropped, never repeated;
//! - **a reload** ([`Delivery::handle_reload`], [`Delivery::handle_hooks`]) keeps what waits, in its order; events of hooks
//!   that are gone are settled as unwanted;
//! - the breaker opens after [`BREAKER_AFTER`] failures of the receiver in a row; then there is one probe per `max_backoff`
//!   (a reload is probed at once), and no call that fails uses an attempt, not even one that began before. Traps neither
//!   open it nor are free: else a broken plugin would never get to its dead letters.
//!
//! Bounds (I8): session events that wait are at most `queue`, besides the end of each session whose beginning waits or
//! runs (if a beginning was delivered and there is no room for the end, or the other way round, the pair is completed by
//! the dead letter); beyond `queue`, one transition a user waits. Cleanups are never refused: there is one chunk after
//! the other of instances that died, and their journal is in the store. Of a user or session nothing is kept when
//! nothing of it waits or runs. What is settled stays until [`Delivery::poll_settled`] takes it: take it after each call.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::events::{Hook, Scope, SessionChange};
use crate::retry::Backoff;
use crate::time::Tick;

mod ages;
mod breaker;
mod hooks;
mod lanes;
mod leaving;
mod permit;
mod replays;
mod words;
use ages::Ages;
pub use breaker::BREAKER_AFTER;
use breaker::Breaker;
use lanes::{Item, Lanes, State};
pub use words::{
    Counters, DeadLetterReason, DeliveryConfig, Depth, Job, JobId, LetterNumber, Payload, PerHook, Replayed,
    Settled, Settlement, Verdict,
};

#[derive(Debug)]
struct Running {
    job: JobId,
    /// None: the cleanup at the head.
    lane: Option<u32>,
}

#[derive(Debug)]
struct Cleanup {
    item: Item,
    due: Tick,
}

impl Cleanup {
    fn is_everything(&self) -> bool {
        matches!(&self.item.payload, Payload::Cleanup(sweep) if sweep.scope == Scope::Everything)
    }
}

/// The queues of one plugin.
pub struct Delivery {
    config: DeliveryConfig,
    generation: u64,
    /// What the plugin exports; none: nobody has said, so everything.
    hooks: Option<BTreeSet<Hook>>,
    backoff: Backoff,
    lanes: Lanes,
    ready: VecDeque<u32>,
    /// Lanes that were ready and not permitted, in their order.
    withheld: VecDeque<u32>,
    /// Status hooks and cleanups may run until then.
    permit: Tick,
    /// Whether sessions of this host may be announced.
    announcing: bool,
    /// The last [`Delivery::poll_job`] found the permit too short.
    withholding: bool,
    pauses: BTreeSet<(Tick, u32)>,
    cleanups: VecDeque<Cleanup>,
    /// How many of them are `everything`.
    barriers: usize,
    cleaning: bool,
    /// The one that runs is an `everything` that was abandoned.
    abandoned: bool,
    /// A cleanup is due and waits for the running calls to end.
    held: bool,
    running: Vec<Running>,
    waiting: usize,
    /// How many of them are replays.
    replays: usize,
    ages: Ages,
    breaker: Breaker,
    settled: VecDeque<Settled>,
    counters: Counters,
    next_job: u64,
}

impl Delivery {
    /// Nothing to deliver.
    pub fn new(config: DeliveryConfig, generation: u64) -> Delivery {
        Delivery {
            backoff: Backoff::new(config.backoff, config.max_backoff, config.seed),
            lanes: Lanes::new(config.seed),
            config,
            generation,
            hooks: None,
            ready: VecDeque::new(),
            withheld: VecDeque::new(),
            permit: Tick(u64::MAX),
            announcing: true,
            withholding: false,
            pauses: BTreeSet::new(),
            cleanups: VecDeque::new(),
            barriers: 0,
            cleaning: false,
            abandoned: false,
            held: false,
            running: Vec::new(),
            waiting: 0,
            replays: 0,
            ages: Ages::default(),
            breaker: Breaker::Closed(0),
            settled: VecDeque::new(),
            counters: Counters::default(),
            next_job: 1,
        }
    }

    /// Queues an event.
    pub fn handle_event(&mut self, now: Tick, payload: Payload) {
        if !self.wants(&payload) {
            return self.refuse(payload);
        }
        match &payload {
            Payload::Cleanup(sweep) => {
                self.barriers += usize::from(sweep.scope == Scope::Everything);
                self.enter(now);
                self.cleanups.push_back(Cleanup { item: Item::new(payload, now), due: now });
            }
            Payload::Session(event) => {
                let lane = self.lanes.find(&payload);
                let ends = matches!(event.change, SessionChange::Disconnected { .. });
                if self.is_full() && !(ends && lane.is_some()) {
                    self.counters.overflowed += 1;
                    let error = format!("{} events were waiting already", self.waiting);
                    self.give_up(payload, DeadLetterReason::Overflow, error, 0);
                    return;
                }
                self.append(lane, Item::new(payload, now));
            }
            Payload::Status(transition) => {
                let lane = self.lanes.find(&payload);
                match lane {
                    Some(lane) if self.lanes.get(lane).revision() >= transition.revision => {
                        self.counters.coalesced.add(payload.hook());
                        let settlement = Settlement::Superseded;
                        self.settled.push_back(Settled { payload, settlement, letter: None });
                    }
                    Some(lane) if self.lags(lane) => self.replace(lane, Item::new(payload, now)),
                    _ => self.append(lane, Item::new(payload, now)),
                }
            }
            Payload::Tick(beat) => match self.lanes.find(&payload) {
                Some(lane) if self.lanes.get(lane).revision() >= beat.due.0 => {
                    self.counters.coalesced.add(payload.hook());
                    let settlement = Settlement::Superseded;
                    self.settled.push_back(Settled { payload, settlement, letter: None });
                }
                Some(lane) => self.replace(lane, Item::new(payload, now)),
                None => self.append(None, Item::new(payload, now)),
            },
        }
    }

    /// How a job ended. A job that is not running is ignored.
    pub fn handle_verdict(&mut self, now: Tick, job: JobId, verdict: Verdict) {
        let Some(at) = self.running.iter().position(|running| running.job == job) else {
            return;
        };
        let running = self.running.swap_remove(at);
        let opened = self.breaker.handle_verdict(now, job, &verdict, self.config.max_backoff);
        self.counters.breaker_opened += u64::from(opened);
        match running.lane {
            None => self.cleanup_verdict(now, verdict),
            Some(lane) => self.lane_verdict(now, lane, verdict, self.breaker.is_open() && !opened),
        }
    }

    /// A new version or new settings: jobs taken from now on carry the new generation.
    pub fn handle_reload(&mut self, now: Tick, config: DeliveryConfig, generation: u64) {
        self.breaker.handle_reload(now);
        self.backoff = Backoff::new(config.backoff, config.max_backoff, config.seed);
        self.config = config;
        self.generation = generation;
        self.release();
    }

    /// The next call to make, while fewer than `concurrency` run.
    pub fn poll_job(&mut self, now: Tick) -> Option<Job> {
        self.held = false;
        if self.running.len() >= self.config.concurrency as usize || self.cleaning {
            return None;
        }
        if !self.breaker.admits(now) {
            return None;
        }
        let permitted = now + self.config.deadline <= self.permit;
        self.withholding = !permitted;
        match self.cleanups.front() {
            Some(cleanup) if cleanup.due <= now && permitted => {
                if !self.running.is_empty() {
                    self.held = true;
                    return None;
                }
                self.cleaning = true;
                let item = &mut self.cleanups.front_mut()?.item;
                item.tries += 1;
                let (payload, attempt) = (item.payload.clone(), item.tries);
                return Some(self.start(None, payload, attempt));
            }
            _ if self.barriers > 0 => return None,
            _ => {}
        }
        while let Some((due, lane)) = self.pauses.first().copied()
            && due <= now
        {
            self.pauses.pop_first();
            self.lanes.get_mut(lane).state = State::Ready;
            self.ready.push_back(lane);
        }
        let lane = self.next_lane(permitted)?;
        let entry = self.lanes.get_mut(lane);
        entry.state = State::Running;
        entry.head.tries += 1;
        let (payload, attempt) = (entry.head.payload.clone(), entry.head.tries);
        Some(self.start(Some(lane), payload, attempt))
    }

    /// The next event that is done with.
    pub fn poll_settled(&mut self) -> Option<Settled> {
        self.settled.pop_front()
    }

    /// When [`Delivery::poll_job`], which has just had nothing, may have something; none: only after an event, a
    /// verdict or a permit.
    pub fn poll_timeout(&self) -> Option<Tick> {
        if self.running.len() >= self.config.concurrency as usize || self.cleaning || self.held {
            return None;
        }
        let paused = self.pauses.first().map(|(due, _)| *due).filter(|_| self.barriers == 0);
        let cleanup = self.cleanups.front().map(|cleanup| cleanup.due).filter(|_| !self.withholding);
        let due = match (paused, cleanup) {
            (Some(paused), Some(cleanup)) => Some(paused.min(cleanup)),
            (paused, cleanup) => paused.or(cleanup),
        };
        match self.breaker {
            Breaker::Closed(_) => due,
            Breaker::Open(_, Some(_)) => None,
            Breaker::Open(at, None) if self.ready.is_empty() || self.barriers > 0 => {
                due.map(|due| due.max(at))
            }
            Breaker::Open(at, None) => Some(at),
        }
    }

    /// How much there is.
    pub fn depth(&self) -> Depth {
        let paused_cleanup =
            self.cleanups.front().is_some_and(|cleanup| cleanup.item.tries > 0 && !self.cleaning);
        let backing_off = self.pauses.len() + usize::from(paused_cleanup);
        Depth {
            queued: self.waiting - backing_off - self.withheld.len() - self.running.len(),
            backing_off,
            withheld: self.withheld.len(),
            running: self.running.len(),
        }
    }

    /// Totals since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// True while only probes run.
    pub fn breaker_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Events that are not done with. A tick counts only while it runs: it may be left out, so nobody waits for it. A
    /// replay does not count: its letter is kept until then.
    pub fn unsettled(&self) -> usize {
        let ticks = self.lanes.ticks().map_or(0, |lane| {
            let head = Some(&lane.head).filter(|_| lane.state != State::Running);
            head.into_iter().chain(&lane.rest).filter(|item| item.letter.is_none()).count()
        });
        self.waiting - self.replays - ticks
    }

    /// Some of them: the event, attempts made, the last error or what it waits for.
    pub fn unsettled_list(&self, limit: usize) -> Vec<(Payload, u32, String)> {
        let cleanups = self.cleanups.iter().map(|cleanup| &cleanup.item);
        let items = cleanups.chain(self.lanes.items()).take(limit);
        items.map(|item| (item.payload.clone(), item.tries, item.error().to_owned())).collect()
    }

    fn is_full(&self) -> bool {
        self.waiting - self.running.len() >= self.config.queue as usize
    }

    /// Whether a newer transition takes the place of those that wait in this lane.
    fn lags(&self, lane: u32) -> bool {
        let entry = self.lanes.get(lane);
        let retried = entry.state != State::Running && entry.head.failures > 0;
        retried || self.is_full() || self.breaker_open()
    }

    fn append(&mut self, lane: Option<u32>, item: Item) {
        self.enter(item.since);
        match lane {
            Some(lane) => self.lanes.get_mut(lane).rest.push_back(item),
            None => {
                let lane = self.lanes.insert(item);
                self.ready.push_back(lane);
            }
        }
    }

    /// The newest takes the place of all that wait in the lane; a running head is left alone.
    fn replace(&mut self, lane: u32, item: Item) {
        self.enter(item.since);
        let entry = self.lanes.get_mut(lane);
        let mut items = Vec::new();
        if entry.state == State::Running {
            items.extend(entry.rest.drain(..));
            entry.rest.push_back(item);
        } else {
            let failures = entry.head.failures;
            items.push(std::mem::replace(&mut entry.head, item));
            items.extend(entry.rest.drain(..));
            entry.head.failures = failures;
        }
        self.supersede(lane, items);
    }

    /// Reports what gave way; what took its place tells of the status before the first of them, and waits as long.
    fn supersede(&mut self, lane: u32, items: Vec<Item>) {
        let (previous, since) = match items.first().map(|item| (&item.payload, item.since)) {
            Some((Payload::Status(transition), since)) => (Some(transition.previous), since),
            Some((_, since)) => (None, since),
            None => return,
        };
        let entry = self.lanes.get_mut(lane);
        let kept = if entry.state == State::Running { entry.rest.back_mut() } else { Some(&mut entry.head) };
        if let Some(kept) = kept {
            self.ages.remove(std::mem::replace(&mut kept.since, since));
            self.ages.add(since);
            if let (Payload::Status(transition), Some(previous)) = (&mut kept.payload, previous)
                && transition.previous != previous
            {
                Arc::make_mut(transition).previous = previous;
            }
        }
        for item in items {
            self.leave(item.since);
            self.counters.coalesced.add(item.payload.hook());
            self.settle(item, Settlement::Superseded);
        }
    }

    fn start(&mut self, lane: Option<u32>, payload: Payload, attempt: u32) -> Job {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.running.push(Running { job: id, lane });
        self.breaker.handle_start(id);
        Job { id, payload, attempt, generation: self.generation }
    }

    fn lane_verdict(&mut self, now: Tick, lane: u32, verdict: Verdict, free: bool) {
        let attempts = self.config.attempts;
        let unwanted = !self.wants(&self.lanes.get(lane).head.payload);
        let entry = self.lanes.get_mut(lane);
        let (is_status, leaving) = (entry.is_status(), std::mem::take(&mut entry.leaving));
        let (error, trapped, wish) = match verdict {
            Verdict::Delivered => return self.finish(lane, Settlement::Delivered),
            Verdict::Reject(error) => {
                let attempts = self.lanes.get(lane).head.tries;
                let reason = DeadLetterReason::Rejected;
                return self.finish(lane, Settlement::DeadLetter { reason, error, attempts });
            }
            Verdict::Cut if leaving => return self.drop_head(lane),
            Verdict::Cut if unwanted => return self.finish_unwanted(lane),
            Verdict::Cut => {
                let entry = self.lanes.get_mut(lane);
                entry.head.tries -= 1;
                entry.state = State::Ready;
                self.ready.push_front(lane);
                return;
            }
            Verdict::Trapped(error) => (error, true, None),
            Verdict::Stalled(error) => (error, false, None),
            Verdict::Retry { message, after } => (message, false, after),
        };
        let head = &mut self.lanes.get_mut(lane).head;
        head.failures += 1;
        // While the breaker is open no attempt of the receiver's is used; a trap is the plugin's own.
        if trapped || !(is_status || free) {
            head.used += 1;
        }
        if head.used >= attempts && (trapped || !is_status) {
            let reason = if trapped { DeadLetterReason::Crashed } else { DeadLetterReason::Exhausted };
            let attempts = head.tries;
            return self.finish(lane, Settlement::DeadLetter { reason, error, attempts });
        }
        if leaving {
            return self.drop_head(lane);
        }
        if unwanted {
            return self.finish_unwanted(lane);
        }
        let failures = head.failures;
        head.error = Some(error.into());
        self.counters.retries.add(head.payload.hook());
        let pause = match wish {
            Some(wish) => self.backoff.wished(wish),
            None => self.backoff.pause(failures),
        };
        let due = now + pause;
        self.lanes.get_mut(lane).state = State::Paused;
        self.pauses.insert((due, lane));
        if is_status {
            self.collapse(lane);
        }
    }

    /// A failed user's older transitions give way to the newest that waits behind them.
    fn collapse(&mut self, lane: u32) {
        let entry = self.lanes.get_mut(lane);
        let Some(newest) = entry.rest.pop_back() else {
            return;
        };
        let failures = entry.head.failures;
        let mut items = vec![std::mem::replace(&mut entry.head, newest)];
        items.extend(entry.rest.drain(..));
        entry.head.failures = failures;
        self.supersede(lane, items);
    }

    fn finish(&mut self, lane: u32, settlement: Settlement) {
        let item = self.take_head(lane);
        self.settle(item, settlement);
    }

    fn finish_unwanted(&mut self, lane: u32) {
        self.counters.unwanted += 1;
        self.finish(lane, Settlement::Unwanted);
    }

    /// The head of a lane is done with: the next one is ready.
    fn take_head(&mut self, lane: u32) -> Item {
        let entry = self.lanes.get_mut(lane);
        let item = match entry.rest.pop_front() {
            Some(next) => {
                entry.state = State::Ready;
                self.ready.push_back(lane);
                std::mem::replace(&mut entry.head, next)
            }
            None => self.lanes.remove(lane),
        };
        self.leave(item.since);
        item
    }

    fn cleanup_verdict(&mut self, now: Tick, verdict: Verdict) {
        self.cleaning = false;
        let leaving = std::mem::take(&mut self.abandoned);
        let unwanted = self.cleanups.front().is_some_and(|cleanup| !self.wants(&cleanup.item.payload));
        let Some(cleanup) = self.cleanups.front_mut() else {
            return;
        };
        let (error, trapped, wish) = match verdict {
            Verdict::Delivered => return self.finish_cleanup(Settlement::Delivered),
            Verdict::Reject(error) => {
                let attempts = cleanup.item.tries;
                let reason = DeadLetterReason::Rejected;
                return self.finish_cleanup(Settlement::DeadLetter { reason, error, attempts });
            }
            Verdict::Cut if leaving => return self.drop_cleanup(),
            Verdict::Cut if unwanted => return self.finish_unwanted_cleanup(),
            Verdict::Cut => {
                cleanup.item.tries -= 1;
                cleanup.due = now;
                return;
            }
            Verdict::Trapped(error) => (error, true, None),
            Verdict::Stalled(error) => (error, false, None),
            Verdict::Retry { message, after } => (message, false, after),
        };
        cleanup.item.failures += 1;
        cleanup.item.used += u32::from(trapped);
        if cleanup.item.used >= self.config.attempts {
            let (reason, attempts) = (DeadLetterReason::Crashed, cleanup.item.tries);
            return self.finish_cleanup(Settlement::DeadLetter { reason, error, attempts });
        }
        if leaving {
            return self.drop_cleanup();
        }
        if unwanted {
            return self.finish_unwanted_cleanup();
        }
        self.counters.retries.add(Hook::Cleanup);
        let pause = match wish {
            Some(wish) => self.backoff.wished(wish),
            None => self.backoff.pause(cleanup.item.failures),
        };
        cleanup.item.error = Some(error.into());
        cleanup.due = now + pause;
    }

    fn finish_unwanted_cleanup(&mut self) {
        self.counters.unwanted += 1;
        self.finish_cleanup(Settlement::Unwanted);
    }

    fn finish_cleanup(&mut self, settlement: Settlement) {
        let Some(cleanup) = self.cleanups.pop_front() else {
            return;
        };
        self.leave(cleanup.item.since);
        self.barriers -= usize::from(cleanup.is_everything());
        self.settle(cleanup.item, settlement);
    }

    /// An event is done with; it waits no more.
    fn settle(&mut self, item: Item, settlement: Settlement) {
        self.replays -= usize::from(item.letter.is_some());
        self.settled.push_back(item.settled(settlement));
    }

    fn give_up(&mut self, payload: Payload, reason: DeadLetterReason, error: String, attempts: u32) {
        let settlement = Settlement::DeadLetter { reason, error, attempts };
        self.settled.push_back(Settled { payload, settlement, letter: None });
    }
}

#[cfg(test)]
mod tests;
