//! Takes the next event, runs it on its guest, hands in the verdict; again and again. A plugin has as many workers
//! as it may have calls at once.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use presence_core::delivery::{Payload, Settled, Settlement, Verdict};

use super::bindings::types::{HookError, Later};
use super::events::write_event_id;
use super::guest::{Answer, Failure, Guest, NoGuest, Occasion, shorten};
use super::loading::Loaded;
use super::metrics::{Alive, FailureKind};
use super::permit::{Bounds, Seat};
use super::plugin::{Next, Plugin, Task};
use super::redact::Redactor;
use super::watch::Watch;
use crate::traces::{HookTrace, Running};

/// So many settled events are passed on together; fewer when there is a pause.
const SETTLED_BATCH: usize = 64;

/// One of a plugin's workers.
pub(super) struct Worker {
    plugin: Arc<Plugin>,
    /// Of its seat.
    number: usize,
    loaded: Arc<Loaded>,
    guest: Option<Guest>,
    watch: Watch,
    seat: Arc<Seat>,
    /// Of the event at work.
    event_id: String,
    /// The most memory that one of its guests held.
    memory_peak: u64,
    /// Settled and not passed on yet. Never kept while a guest pauses.
    settled: Vec<Settled>,
}

impl Worker {
    /// Takes the seat of this number. Needs a tokio runtime around it.
    pub(super) fn new(plugin: Arc<Plugin>, number: usize) -> Worker {
        let (loaded, seat) = plugin.seat(number);
        let permit = plugin.surroundings.permit.clone();
        Worker {
            plugin,
            number,
            loaded,
            guest: None,
            watch: Watch::new(Bounds { permit, seat: seat.clone(), needs_permit: false }),
            seat,
            event_id: String::new(),
            memory_peak: 0,
            settled: Vec::with_capacity(SETTLED_BATCH),
        }
    }

    /// Works until there are more workers than there are to be, or the task is dropped.
    pub(super) async fn run(mut self) {
        let (mut verdict, mut failed, mut slept) = (None, None, false);
        loop {
            let (passed_on, generation) = (self.settled.len(), self.loaded.generation);
            let (plugin, seat) = (&self.plugin, &self.seat);
            let next =
                plugin.exchange(self.number, seat, slept, verdict.take(), generation, &mut self.settled);
            if let Some(failed) = failed.take() {
                self.tell(&failed, passed_on);
            }
            slept = matches!(next, Next::Sleep(..));
            let task = match next {
                Next::Work(task) => task,
                Next::Sleep(changes, reloaded) => {
                    pass_on(&self.plugin, &self.seat, &mut self.settled);
                    self.take_over(reloaded);
                    self.plugin.sleep(changes).await;
                    continue;
                }
                Next::Leave => {
                    pass_on(&self.plugin, &self.seat, &mut self.settled);
                    self.guest = None;
                    if self.plugin.leave(self.number) {
                        return;
                    }
                    continue;
                }
            };
            if self.settled.len() >= SETTLED_BATCH || self.plugin.is_withdrawing() {
                pass_on(&self.plugin, &self.seat, &mut self.settled);
            }
            let attempted = AssertUnwindSafe(self.attempt(&task)).catch_unwind().await;
            let ended = attempted.unwrap_or_else(|_| {
                self.guest = None;
                Verdict::Trapped("the host itself failed in this call; please report it".to_owned())
            });
            let job = task.job;
            failed = cause(&ended).map(|cause| Failed {
                payload: job.payload,
                attempt: job.attempt,
                cause: cause.to_owned(),
            });
            verdict = Some((job.id, ended));
            // A guest that always answers at once must let others on this thread have their turn.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// A failed attempt is told once: a dead letter is told where it is made.
    fn tell(&self, failed: &Failed, passed_on: usize) {
        let dead = |settled: &Settled| matches!(settled.settlement, Settlement::DeadLetter { .. });
        if !self.settled[passed_on..].iter().any(dead) {
            self.plugin.failures.tell(&failed.payload, &self.event_id, failed.attempt, &failed.cause);
        }
    }

    /// With another generation the guest of the old one goes.
    fn take_over(&mut self, reloaded: Option<Arc<Loaded>>) {
        if let Some(loaded) = reloaded {
            self.guest = None;
            self.loaded = loaded;
        }
    }

    /// One call, from a guest (a new one, if need be) to a verdict.
    async fn attempt(&mut self, task: &Task) -> Verdict {
        self.take_over(task.reloaded.clone());
        let Worker { plugin, loaded, guest, watch, seat, event_id, memory_peak, settled, .. } = self;
        let payload = &task.job.payload;
        watch.bounds.needs_permit = payload.needs_permit();
        let hook = payload.hook();
        write_event_id(event_id, &plugin.name, payload);
        let span = plugin.surroundings.tracer.hook(&plugin.name, payload, event_id, task.job.attempt);
        let guest = match guest {
            Some(guest) => guest,
            None => {
                pass_on(plugin, seat, settled);
                plugin.counters.guests_started.fetch_add(1, Relaxed);
                match Guest::start(loaded, watch).await {
                    Ok(started) => self.guest.insert(started.counted(Alive::new(plugin.counters.clone()))),
                    Err(no_guest) => {
                        let (verdict, kind) = without_guest(no_guest);
                        plugin.counters.ended(hook, Duration::ZERO, Some(kind));
                        end_span(span, Some(kind));
                        return verdict;
                    }
                }
            }
        };
        guest.trace(span.as_ref().and_then(HookTrace::of));
        let began = Instant::now();
        let occasion = Occasion { event_id, attempt: task.job.attempt };
        let paused = || pass_on(plugin, seat, settled);
        let ended = guest.call(began, payload, occasion, watch, paused).await;
        let took = began.elapsed();
        let cut = guest.end_log();
        let memory = guest.memory();
        if memory > *memory_peak {
            *memory_peak = memory;
            plugin.counters.held(memory);
        }
        let keep = ended.is_ok() && !guest.is_spent();
        let (verdict, kind) = judge(ended, loaded.redactor());
        plugin.counters.ended(hook, took, kind);
        end_span(span, kind);
        if verdict == Verdict::Cut {
            let (plugin, hook) = (&*plugin.name, hook.as_str());
            let user = payload.user().map(|user| user.as_str());
            tracing::debug!(plugin, hook, user, event_id, "the host ended a call, which uses no attempt");
        }
        if cut > 0 {
            plugin.tell_cut(payload, event_id, cut);
        }
        if !keep {
            self.guest = None;
        }
        verdict
    }
}

/// Passes on what is settled.
fn pass_on(plugin: &Plugin, seat: &Seat, settled: &mut Vec<Settled>) {
    plugin.settle(settled);
    seat.set_holds(false);
    if plugin.is_withdrawing() {
        plugin.finish_withdrawals();
    }
}

/// A failed attempt, to be told once its end is known.
struct Failed {
    payload: Payload,
    attempt: u32,
    cause: String,
}

/// The attempt is over.
fn end_span(span: Option<Running>, failure: Option<FailureKind>) {
    if let Some(span) = span {
        span.end(failure.map_or("delivered", FailureKind::as_str), failure.is_some());
    }
}

fn judge(ended: Result<Answer, Failure>, redactor: &Redactor) -> (Verdict, Option<FailureKind>) {
    match ended {
        Ok(Ok(())) => (Verdict::Delivered, None),
        Ok(Err(HookError::Retry(Later { message, after_ms }))) => {
            let after = after_ms.map(|millis| Duration::from_millis(millis.into()));
            (Verdict::Retry { message: shorten(redactor, &message), after }, Some(FailureKind::Retry))
        }
        Ok(Err(HookError::Reject(message))) => {
            (Verdict::Reject(shorten(redactor, &message)), Some(FailureKind::Reject))
        }
        Err(Failure::Trapped(reason)) => (Verdict::Trapped(reason), Some(FailureKind::Trap)),
        Err(Failure::Stalled(reason)) => (Verdict::Stalled(reason), Some(FailureKind::Stalled)),
        Err(Failure::Cut) => (Verdict::Cut, Some(FailureKind::Cut)),
    }
}

/// It worked at load, so this is the surroundings' fault (memory of the machine, a server that `configure` asks),
/// unless the guest trapped.
fn without_guest(no_guest: NoGuest) -> (Verdict, FailureKind) {
    let text = |what: &str, reason: String| format!("no guest: {what}: {reason}");
    match no_guest {
        NoGuest::Start(Failure::Cut) | NoGuest::Configure(Failure::Cut) => (Verdict::Cut, FailureKind::Cut),
        NoGuest::Start(failure) => {
            (Verdict::Stalled(text("it can't be started", failure.into_text())), FailureKind::Stalled)
        }
        NoGuest::Types(problems) => {
            let reason = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            (Verdict::Stalled(text("it can't be started", reason)), FailureKind::Stalled)
        }
        NoGuest::Configure(Failure::Trapped(reason)) => {
            (Verdict::Trapped(text("configure failed", reason)), FailureKind::Trap)
        }
        NoGuest::Configure(Failure::Stalled(reason)) => {
            (Verdict::Stalled(text("configure failed", reason)), FailureKind::Stalled)
        }
        NoGuest::Refused(reason) => {
            (Verdict::Stalled(text("it refuses its configuration", reason)), FailureKind::Stalled)
        }
    }
}

fn cause(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Retry { message, .. } => Some(message),
        Verdict::Reject(message) | Verdict::Trapped(message) | Verdict::Stalled(message) => Some(message),
        Verdict::Delivered | Verdict::Cut => None,
    }
}
