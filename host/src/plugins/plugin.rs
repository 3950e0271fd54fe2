//! One plugin at work: its queue, and the workers that share it. Knows when to wake whom; the rules of delivery are
//! the core's.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use presence_core::delivery::{Delivery, DeliveryConfig, Job, JobId, Payload, Settled, Settlement, Verdict};
use presence_core::events::Hook;
use presence_core::ids::{InstanceId, PartitionId};
use presence_core::time::Tick;
use tokio::sync::Notify;

use super::dead_letters::DeadLetters;
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
    pub(super) hooks: BTreeSet<Hook>,
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
}

struct State {
    delivery: Delivery,
    loaded: Arc<Loaded>,
    /// Workers that wait for work.
    sleeping: usize,
    /// When a sleeping worker is to be woken because something in backoff is due.
    alarm: Option<Tick>,
    /// One for each worker.
    seats: Vec<Arc<Seat>>,
    withdrawals: Vec<Withdrawal>,
}

/// A partition some of whose calls still run, or are settled and not passed on.
struct Withdrawal {
    partition: PartitionId,
    /// Once none runs: the workers, by seat, who have yet to pass on what they held then.
    holders: Option<Vec<usize>>,
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
            hooks: loaded.description.hooks.iter().copied().collect(),
            counters: Arc::default(),
            failures: Failures::new(loaded.name.clone()),
            surroundings,
            state: Mutex::new(State {
                delivery: Delivery::new(config, loaded.generation),
                loaded,
                sleeping: 0,
                alarm: None,
                seats: Vec::new(),
                withdrawals: Vec::new(),
            }),
            work: Notify::new(),
            alarm: Notify::new(),
            withdrawing: AtomicBool::new(false),
        }
    }

    /// A seat for one more worker.
    pub(super) fn new_seat(&self) -> Arc<Seat> {
        let seat = Arc::new(Seat::default());
        self.lock().seats.push(seat.clone());
        seat
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

    /// Drops what waits of a partition; what runs ends by itself or is cut. Once none is left the outcomes hear of it:
    /// after everything of the partition that was settled.
    pub(super) fn withdraw(&self, partition: PartitionId, cut: bool) {
        let mut state = self.lock();
        state.delivery.handle_withdraw(partition);
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
        let dropped = self.lock().delivery.handle_drop_sessions(instance);
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

    /// Hands in a verdict and takes the next job, all under one lock. Without a job the worker must call
    /// [`Plugin::sleep`] and then come back with `slept`.
    pub(super) fn exchange(
        &self,
        seat: &Seat,
        slept: bool,
        verdict: Option<(JobId, Verdict)>,
        generation: u64,
        settled: &mut Vec<Settled>,
    ) -> Option<Task> {
        let now = self.surroundings.clock.tick();
        let mut state = self.lock();
        state.sleeping -= usize::from(slept);
        if let Some((job, verdict)) = verdict {
            state.delivery.handle_verdict(now, job, verdict);
        }
        let job = state.delivery.poll_job(now);
        state.take_settled(settled);
        seat.set_holds(!settled.is_empty());
        if let Some(job) = &job {
            seat.take(job.id);
        }
        state.sleeping += usize::from(job.is_none());
        let (wake_another, set_alarm) = state.others(now, job.is_some());
        let task = job.map(|job| {
            let reloaded = (job.generation != generation).then(|| state.loaded.clone());
            Task { job, reloaded }
        });
        drop(state);
        if wake_another {
            self.work.notify_last();
        }
        if set_alarm {
            self.alarm.notify_one();
        }
        task
    }

    /// Waits until there may be a job.
    pub(super) async fn sleep(&self) {
        self.work.notified().await;
    }

    /// Wakes sleeping workers when something in backoff is due. Runs as long as the plugin.
    pub(super) async fn keep_time(self: Arc<Plugin>) {
        loop {
            let Some(due) = self.lock().alarm else {
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
        let done = settled.drain(..).filter_map(|Settled { payload, settlement }| match settlement {
            Settlement::Delivered | Settlement::Superseded => Some(payload),
            Settlement::DeadLetter { reason, error, attempts } => {
                self.give_up(payload, &format!("{reason:?}").to_lowercase(), error, attempts);
                None
            }
        });
        self.surroundings.outcomes.settle(&self.name, done);
    }

    fn give_up(&self, payload: Payload, reason: &str, error: String, attempts: u32) {
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
        self.counters.dead_letters.fetch_add(1, Relaxed);
        self.surroundings.dead_letters.push(letter, payload, self.name.clone(), self.counters.clone());
    }

    /// A call wrote more than its budget.
    pub(super) fn tell_cut(&self, payload: &Payload, event_id: &str, cut: u64) {
        self.counters.log_bytes_cut.fetch_add(cut, Relaxed);
        let (plugin, hook, limit) = (&*self.name, payload.hook().as_str(), self.loaded().settings.limits.log);
        tracing::warn!(
            plugin,
            hook,
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
        let state = self.lock();
        let (depth, counts, breaker_open) =
            (state.delivery.depth(), state.delivery.counters(), state.delivery.breaker_open());
        drop(state);
        let counters = &self.counters;
        PluginMetrics {
            plugin: self.name.clone(),
            hooks: self.hooks.iter().map(|hook| counters.hook(*hook)).collect(),
            retries: counts.retries,
            coalesced: counts.coalesced,
            overflowed: counts.overflowed,
            session_hooks_dropped: counts.dropped,
            withdrawn: counts.withdrawn,
            breaker_opened: counts.breaker_opened,
            dead_letters: counters.dead_letters.load(Relaxed),
            dead_letters_lost: counters.dead_letters_lost.load(Relaxed),
            dead_letters_dropped: counters.dead_letters_dropped.load(Relaxed),
            guests_started: counters.guests_started.load(Relaxed),
            log_bytes_cut: counters.log_bytes_cut.load(Relaxed),
            queued: depth.queued,
            backing_off: depth.backing_off,
            withheld: depth.withheld,
            running: depth.running,
            breaker_open,
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
