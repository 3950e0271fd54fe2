//! One plugin at work: its queue, and the workers that share it. Knows when to wake whom; the rules of delivery are
//! the core's.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use presence_core::delivery::{
    Delivery, DeliveryConfig, Job, JobId, LetterNumber, Payload, Replayed, Settled, Settlement, Verdict,
};
use presence_core::ids::{InstanceId, PartitionId};
use presence_core::time::Tick;
use tokio::sync::Notify;

use super::ReplayEnd;
use super::admission::CONTRACT;
use super::dead_letters::{DeadLetters, Letter};
use super::events;
use super::failures::Failures;
use super::loading::Loaded;
use super::metrics::{PluginCounters, PluginMetrics};
use super::outcomes::Outcomes;
use super::permit::{Permit, Seat};
use crate::clock::Clock;
use crate::settings::PluginSettings;
use crate::store::DeadLetter;
use crate::traces::Tracer;

mod generations;

/// What all plugins share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) clock: Clock,
    pub(super) outcomes: Arc<Outcomes>,
    pub(super) dead_letters: DeadLetters,
    pub(super) permit: Arc<Permit>,
    pub(super) tracer: Tracer,
}

/// A plugin and what is waiting for it.
pub(super) struct Plugin {
    pub(super) name: Arc<str>,
    pub(super) counters: Arc<PluginCounters>,
    pub(super) failures: Failures,
    pub(super) surroundings: Surroundings,
    state: Mutex<State>,
    /// A job may be ready for a sleeping worker.
    work: Notify,
    /// `State::alarm` was set to an earlier time.
    alarm: Notify,
    /// Whether there is anything in `State::withdrawals`.
    withdrawing: AtomicBool,
    /// How often the plugin was reloaded or removed: who goes to sleep looks whether it has missed that.
    changes: AtomicU64,
    /// The last worker has left.
    gone: Notify,
}

struct State {
    delivery: Delivery,
    loaded: Arc<Loaded>,
    /// Workers that wait for work.
    sleeping: usize,
    /// When a sleeping worker is to be woken because something in backoff is due.
    alarm: Option<Tick>,
    /// One for each worker, those that have left too.
    seats: Vec<Arc<Seat>>,
    /// At which of them a worker sits.
    taken: Vec<bool>,
    /// How many workers there are to be; the others leave. None once the plugin is removed.
    workers: usize,
    /// When the newest generation came, while no call of it has ended; if there was work then.
    switched: Option<Instant>,
    withdrawals: Vec<Withdrawal>,
}

/// A partition some of whose calls still run, or are settled and not passed on.
struct Withdrawal {
    partition: PartitionId,
    /// Once none runs: the workers, by seat, who have yet to pass on what they held then.
    holders: Option<Vec<usize>>,
}

/// What a worker is to do.
pub(super) enum Next {
    /// A call.
    Work(Task),
    /// Nothing, until there may be a job: call [`Plugin::sleep`] with this number. With another generation, the guest of
    /// the old one is of no use any more.
    Sleep(u64, Option<Arc<Loaded>>),
    /// Pass on what is settled, then call [`Plugin::leave`].
    Leave,
}

/// A job for a worker.
pub(super) struct Task {
    pub(super) job: Job,
    /// Given when the worker's guest is of another generation.
    pub(super) reloaded: Option<Arc<Loaded>>,
}

impl Plugin {
    pub(super) fn new(loaded: Arc<Loaded>, surroundings: Surroundings) -> Plugin {
        let config = delivery_config(&loaded.settings);
        Plugin {
            name: loaded.name.clone(),
            counters: Arc::default(),
            failures: Failures::new(loaded.name.clone()),
            surroundings,
            state: Mutex::new(State {
                delivery: Delivery::new(config, loaded.generation),
                loaded,
                sleeping: 0,
                alarm: None,
                seats: Vec::new(),
                taken: Vec::new(),
                workers: 0,
                switched: None,
                withdrawals: Vec::new(),
            }),
            work: Notify::new(),
            alarm: Notify::new(),
            withdrawing: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            gone: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is loaded now.
    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.lock().loaded.clone()
    }

    /// Queues an event. Never waits.
    pub(super) fn submit(&self, payload: Payload) {
        let now = self.surroundings.clock.tick();
        let mut state = self.lock();
        state.delivery.handle_event(now, payload);
        let mut settled = Vec::new();
        state.take_settled(&mut settled);
        let wake = state.sleeping > 0;
        drop(state);
        if wake {
            self.work.notify_last();
        }
        self.settle(&mut settled);
    }

    /// Queues the event of a dead letter. Never waits.
    pub(super) fn replay(&self, payload: Payload, letter: LetterNumber, newest: u64) -> Replayed {
        let now = self.surroundings.clock.tick();
        let mut state = self.lock();
        let replayed = state.delivery.handle_replay(now, payload, letter, newest);
        let mut settled = Vec::new();
        state.take_settled(&mut settled);
        let wake = state.sleeping > 0;
        drop(state);
        if wake {
            self.work.notify_last();
        }
        self.settle(&mut settled);
        replayed
    }

    /// Status hooks and cleanups may run until then; `shorter` than it was. The permit that calls look at is set already.
    pub(super) fn permit(&self, until: Tick, shorter: bool) {
        let mut state = self.lock();
        let wake = state.delivery.handle_permit(until) && state.sleeping > 0;
        if shorter {
            state.seats.iter().for_each(|seat| seat.wake());
        }
        drop(state);
        if wake {
            self.work.notify_last();
        }
    }

    /// Whether sessions of this host may be announced.
    pub(super) fn announce(&self, allowed: bool) {
        let mut state = self.lock();
        let wake = state.delivery.handle_announcing(allowed) && state.sleeping > 0;
        drop(state);
        if wake {
            self.work.notify_last();
        }
    }

    /// Drops what waits of a partition; what runs ends by itself or is cut. Once none is left the outcomes hear of it:
    /// after everything of the partition that was settled.
    pub(super) fn withdraw(&self, partition: PartitionId, cut: bool) {
        let mut state = self.lock();
        state.delivery.handle_withdraw(partition);
        // Replays: whoever holds their letters is told.
        let mut settled = Vec::new();
        state.take_settled(&mut settled);
        if cut {
            for job in state.delivery.withdrawn_jobs(partition) {
                state.seats.iter().for_each(|seat| seat.cut(job));
            }
        }
        let again = state.withdrawals.iter().any(|withdrawal| withdrawal.partition == partition);
        if !again {
            state.withdrawals.push(Withdrawal { partition, holders: None });
            self.withdrawing.store(true, SeqCst);
        }
        drop(state);
        self.settle(&mut settled);
        if again {
            self.surroundings.outcomes.withdrawn(partition);
        }
        self.finish_withdrawals();
    }

    /// Whether workers are to pass on at once what they hold, and then to call [`Plugin::finish_withdrawals`].
    pub(super) fn is_withdrawing(&self) -> bool {
        self.withdrawing.load(SeqCst)
    }

    /// Tells the outcomes of partitions of which nothing is left.
    pub(super) fn finish_withdrawals(&self) {
        let mut state = self.lock();
        let State { delivery, seats, withdrawals, .. } = &mut *state;
        let mut done = Vec::new();
        withdrawals.retain_mut(|Withdrawal { partition, holders }| {
            if delivery.withdrawn_jobs(*partition).next().is_some() {
                return true;
            }
            let holders = holders.get_or_insert_with(|| (0..seats.len()).collect());
            holders.retain(|seat| seats[*seat].holds());
            if holders.is_empty() {
                done.push(*partition);
            }
            !holders.is_empty()
        });
        self.withdrawing.store(!withdrawals.is_empty(), SeqCst);
        drop(state);
        done.into_iter().for_each(|partition| self.surroundings.outcomes.withdrawn(partition));
    }

    /// Drops what waits of the sessions of an instance.
    pub(super) fn drop_sessions(&self, instance: InstanceId) {
        let mut settled = Vec::new();
        let mut state = self.lock();
        let dropped = state.delivery.handle_drop_sessions(instance);
        state.take_settled(&mut settled);
        drop(state);
        self.settle(&mut settled);
        if dropped > 0 {
            let plugin = &*self.name;
            tracing::warn!(
                plugin,
                %instance,
                dropped,
                "session hooks of an instance that was declared dead were dropped: its cleanup tells of its sessions"
            );
        }
    }

    /// Drops the cleanups of everything that wait; one that runs is cut.
    pub(super) fn abandon_everything(&self) {
        let mut state = self.lock();
        let dropped = state.delivery.handle_abandon_everything();
        if let Some(job) = state.delivery.abandoned_job() {
            state.seats.iter().for_each(|seat| seat.cut(job));
        }
        let wake = dropped > 0 && state.sleeping > 0;
        drop(state);
        if dropped > 0 {
            let plugin = &*self.name;
            tracing::warn!(
                plugin,
                "the cleanup of everything was dropped: the fresh start is another host's"
            );
        }
        if wake {
            self.work.notify_last();
        }
    }

    /// Hands in a verdict and takes the next job, all under one lock. `slept`: the worker was told to sleep the last time.
    pub(super) fn exchange(
        &self,
        number: usize,
        seat: &Seat,
        slept: bool,
        verdict: Option<(JobId, Verdict)>,
        generation: u64,
        settled: &mut Vec<Settled>,
    ) -> Next {
        let now = self.surroundings.clock.tick();
        let mut state = self.lock();
        state.sleeping -= usize::from(slept);
        let handed_in = verdict.is_some();
        if let Some((job, verdict)) = verdict {
            state.delivery.handle_verdict(now, job, verdict);
        }
        let leaves = number >= state.workers;
        let job = if leaves { None } else { state.delivery.poll_job(now) };
        state.take_settled(settled);
        seat.set_holds(!settled.is_empty());
        if let Some(job) = &job {
            seat.take(job.id);
        }
        let sleeps = job.is_none() && !leaves;
        state.sleeping += usize::from(sleeps);
        let (wake_another, set_alarm) = state.others(now, !sleeps);
        let newest = state.loaded.generation;
        let switched = if handed_in && generation == newest { state.switched.take() } else { None };
        let next = match job {
            Some(job) => {
                let reloaded = (job.generation != generation).then(|| state.loaded.clone());
                Next::Work(Task { job, reloaded })
            }
            None if leaves => Next::Leave,
            None => {
                let reloaded = (newest != generation).then(|| state.loaded.clone());
                Next::Sleep(self.changes.load(SeqCst), reloaded)
            }
        };
        drop(state);
        if wake_another {
            self.work.notify_last();
        }
        if set_alarm {
            self.alarm.notify_one();
        }
        if let Some(switched) = switched {
            self.counters.reload_pauses.add(switched.elapsed());
        }
        next
    }

    /// Waits until there may be a job, or the plugin has changed more often than so.
    pub(super) async fn sleep(&self, changes: u64) {
        // Who waits from before the look at the number is woken by every later change.
        let woken = self.work.notified();
        if self.changes.load(SeqCst) == changes {
            woken.await;
        }
    }

    /// Wakes sleeping workers when something in backoff is due. Runs until the plugin is removed.
    pub(super) async fn keep_time(self: Arc<Plugin>) {
        loop {
            let (alarm, removed) = {
                let state = self.lock();
                (state.alarm, state.workers == 0)
            };
            if removed {
                return;
            }
            let Some(due) = alarm else {
                self.alarm.notified().await;
                continue;
            };
            // At least a millisecond: what is overdue already is waited for by a worker that is at work.
            let pause = due.since(self.surroundings.clock.tick()).max(Duration::from_millis(1));
            tokio::select! {
                () = self.alarm.notified() => {}
                () = tokio::time::sleep(pause) => {
                    let mut state = self.lock();
                    state.alarm = state.alarm.filter(|alarm| *alarm < due);
                    let wake = state.sleeping > 0;
                    drop(state);
                    if wake {
                        self.work.notify_last();
                    }
                }
            }
        }
    }

    /// Passes on what is settled; dead letters are logged and go to the store first.
    pub(super) fn settle(&self, settled: &mut Vec<Settled>) {
        if settled.is_empty() {
            return;
        }
        let plain = |one: &Settled| {
            one.letter.is_none()
                && matches!(
                    one.settlement,
                    Settlement::Delivered | Settlement::Superseded | Settlement::Unwanted
                )
        };
        if !settled.iter().all(plain) {
            // Before the outcomes are locked: what is given up may come back to them.
            let others: Vec<Settled> = settled.extract_if(.., |one| !plain(one)).collect();
            others.into_iter().for_each(|one| self.settle_other(one));
        }
        self.surroundings.outcomes.settle(&self.name, settled.drain(..).map(|one| one.payload));
    }

    /// A replay, or what is given up.
    fn settle_other(&self, Settled { payload, settlement, letter }: Settled) {
        let outcomes = &self.surroundings.outcomes;
        match (settlement, letter) {
            (Settlement::DeadLetter { reason, error, attempts }, letter) => {
                self.give_up(payload, letter, &format!("{reason:?}").to_lowercase(), error, attempts);
            }
            (Settlement::Delivered, Some(letter)) => outcomes.replayed(letter, ReplayEnd::Delivered),
            (Settlement::Superseded, Some(letter)) => outcomes.replayed(letter, ReplayEnd::Superseded),
            (Settlement::Withdrawn | Settlement::Unwanted, Some(letter)) => {
                outcomes.replayed(letter, ReplayEnd::Kept)
            }
            (_, None) => outcomes.settle(&self.name, std::iter::once(payload)),
        }
    }

    fn give_up(
        &self,
        payload: Payload,
        replayed: Option<LetterNumber>,
        reason: &str,
        error: String,
        attempts: u32,
    ) {
        let loaded = self.loaded();
        let letter = DeadLetter {
            number: 0,
            plugin: self.name.to_string(),
            digest: loaded.description.digest.clone(),
            hook: payload.hook().to_string(),
            user: payload.user().map(ToString::to_string),
            event_id: events::event_id(&self.name, &payload),
            event: events::event_json(&payload),
            error,
            attempts,
            at: self.surroundings.clock.wall().0,
        };
        let DeadLetter { plugin, hook, user, event_id, error, .. } = &letter;
        let (attempt, cause) = (attempts, error);
        tracing::error!(
            plugin,
            hook,
            user,
            event_id,
            attempt,
            cause,
            reason,
            "a hook was given up: see `presence plugin dead-letters`"
        );
        self.counters.given_up(payload.hook());
        let letter =
            Letter { letter, payload, replayed, plugin: self.name.clone(), counters: self.counters.clone() };
        self.surroundings.dead_letters.push(letter);
    }

    /// A call wrote more than its budget.
    pub(super) fn tell_cut(&self, payload: &Payload, event_id: &str, cut: u64) {
        self.counters.log_bytes_cut.fetch_add(cut, Relaxed);
        let (plugin, hook, limit) = (&*self.name, payload.hook().as_str(), self.loaded().settings.limits.log);
        let user = payload.user().map(|user| user.as_str());
        tracing::warn!(
            plugin,
            hook,
            user,
            event_id,
            cut,
            limit,
            "a plugin logged more than limits.log in one call: bytes were cut"
        );
    }

    /// How many events are not settled; dead letters count until they are kept.
    pub(super) fn unsettled(&self) -> usize {
        let queued = self.lock().delivery.unsettled();
        queued + self.counters.dead_letters_open.load(Relaxed)
    }

    /// What is not settled, at most `limit`.
    pub(super) fn unsettled_list(&self, limit: usize) -> Vec<String> {
        let list = self.lock().delivery.unsettled_list(limit);
        list.iter()
            .map(|(payload, attempts, why)| {
                let why = if *attempts > 0 { format!("{why}; attempts: {attempts}") } else { why.clone() };
                events::describe(&self.name, payload, &why)
            })
            .collect()
    }

    /// The numbers of this moment.
    pub(super) fn metrics(&self) -> PluginMetrics {
        let now = self.surroundings.clock.tick();
        let state = self.lock();
        let (depth, counts, lag) =
            (state.delivery.depth(), state.delivery.counters(), state.delivery.lag(now));
        let (breaker_open, behind_everything) =
            (state.delivery.breaker_open(), state.delivery.behind_everything());
        let loaded = state.loaded.clone();
        drop(state);
        let counters = &self.counters;
        let (guests, memory_peak) = counters.guests();
        PluginMetrics {
            plugin: self.name.clone(),
            digest: loaded.description.digest.clone(),
            version: CONTRACT,
            hooks: loaded.description.hooks.iter().map(|hook| counters.hook(*hook, &counts)).collect(),
            generation: loaded.generation,
            reload_pauses: counters.reload_pauses.histogram(),
            last_reload_pause: counters.reload_pauses.last(),
            overflowed: counts.overflowed,
            session_hooks_dropped: counts.dropped,
            withdrawn: counts.withdrawn,
            unwanted: counts.unwanted,
            breaker_opened: counts.breaker_opened,
            dead_letters_lost: counters.dead_letters_lost.load(Relaxed),
            dead_letters_dropped: counters.dead_letters_dropped.load(Relaxed),
            guests_started: counters.guests_started.load(Relaxed),
            memory_peak,
            log_bytes_cut: counters.log_bytes_cut.load(Relaxed),
            guests,
            queued: depth.queued,
            backing_off: depth.backing_off,
            withheld: depth.withheld,
            running: depth.running,
            breaker_open,
            behind_everything,
            lag,
        }
    }
}

impl State {
    fn take_settled(&mut self, settled: &mut Vec<Settled>) {
        while let Some(one) = self.delivery.poll_settled() {
            settled.push(one);
        }
    }

    /// Whether another worker should be woken, and whether the alarm was set to an earlier time. Nobody need be told
    /// anything while all workers are at work: each looks for itself when it has finished.
    fn others(&mut self, now: Tick, has_job: bool) -> (bool, bool) {
        if self.sleeping == 0 {
            return (false, false);
        }
        let due = self.delivery.poll_timeout();
        let overdue = due.is_some_and(|due| due <= now);
        let wake = has_job && (overdue || self.delivery.depth().queued > 0);
        let earlier = due.is_some_and(|due| self.alarm.is_none_or(|alarm| due < alarm));
        if earlier {
            self.alarm = due;
        }
        (wake, earlier)
    }
}

fn delivery_config(settings: &PluginSettings) -> DeliveryConfig {
    let delivery = &settings.delivery;
    DeliveryConfig {
        concurrency: delivery.concurrency,
        queue: delivery.queue,
        attempts: delivery.attempts,
        backoff: delivery.backoff,
        max_backoff: delivery.max_backoff,
        deadline: settings.limits.deadline,
        seed: fastrand::u64(..),
    }
}
