//! Ends calls that take too long, and tells a guest that computed from one that waited. Knows no plugin.
//!
//! A computing guest comes by at every epoch: it yields there, and is interrupted once its deadline has passed. A
//! guest that waits in a host call passes no epoch; a timer beside the call sees to that. Both come by here, and are cut
//! if what bounds them says so.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use wasmtime::UpdateDeadline;

use super::permit::Bounds;
use super::turns::{Turn, Turns};

/// So often a call that pauses looks at its permit: timers stand still while the machine is suspended.
const LOOK: Duration = Duration::from_millis(100);

/// What the guest was doing when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// It computed.
    Computing,
    /// It waited for the host.
    Waiting,
    /// It was not its time that was over: its permit was, or somebody cut it.
    Cut,
}

/// Between a guest that yields and the watch: tells why a call is pending, and keeps the guest's turn to compute.
#[derive(Clone, Default)]
pub(super) struct Yielded(Arc<Yields>);

#[derive(Default)]
struct Yields {
    /// Set by a guest that yields, cleared by the watch.
    yielded: AtomicBool,
    /// In the call at work.
    epochs: AtomicU32,
    /// True while there is a turn: spares the lock at the end of short calls.
    has_turn: AtomicBool,
    turn: Mutex<Option<Turn>>,
}

impl Yielded {
    /// What the guest does at an epoch. The first one may come a moment after the call began; whoever sees a second one
    /// computes, and needs a turn from then on.
    pub(super) fn at_epoch(&self, deadline: Instant, turns: &Turns) -> UpdateDeadline {
        if Instant::now() >= deadline {
            return UpdateDeadline::Interrupt;
        }
        let computes = self.0.epochs.fetch_add(1, Relaxed) > 0;
        let (yielded, turns) = (self.clone(), turns.clone());
        let others_first = async move {
            yielded.end_turn();
            let mut next = pin!(async {
                tokio::task::yield_now().await;
                if computes { turns.next().await } else { None }
            });
            let turn = poll_fn(|context| {
                // A guest that waits for its turn is one that computes; once it has it, it may wait for the host.
                let turn = next.as_mut().poll(context);
                yielded.0.yielded.store(turn.is_pending(), Relaxed);
                turn
            });
            yielded.keep(turn.await);
        };
        UpdateDeadline::YieldCustom(1, Box::pin(others_first))
    }

    fn begin(&self) {
        self.0.yielded.store(false, Relaxed);
        self.0.epochs.store(0, Relaxed);
    }

    fn keep(&self, turn: Option<Turn>) {
        self.0.has_turn.store(turn.is_some(), Relaxed);
        *self.0.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }

    /// The guest computes no longer.
    fn end_turn(&self) {
        if self.0.has_turn.load(Relaxed) {
            self.keep(None);
        }
    }
}

/// Watches one call at a time. The timer is made once and only touched by calls that pause.
pub(super) struct Watch {
    timer: Pin<Box<Sleep>>,
    pub(super) yielded: Yielded,
    pub(super) bounds: Bounds,
}

impl Watch {
    /// Needs a tokio runtime around it.
    pub(super) fn new(bounds: Bounds) -> Watch {
        Watch { timer: Box::pin(tokio::time::sleep(Duration::ZERO)), yielded: Yielded::default(), bounds }
    }

    /// Runs a call until it ends, the deadline passes or it is cut. `paused` is called once if the call does not end at once.
    /// The store of a call that expired must be dropped.
    pub(super) async fn run<T>(
        &mut self,
        deadline: Instant,
        call: impl Future<Output = T>,
        mut paused: impl FnMut(),
    ) -> Result<T, Expired> {
        let mut call = pin!(call);
        let mut armed = false;
        let Watch { timer, yielded, bounds } = self;
        yielded.begin();
        let ended = poll_fn(|context| {
            if armed {
                bounds.register(context.waker());
            }
            if bounds.is_over() {
                return Poll::Ready(Err(Expired::Cut));
            }
            if let Poll::Ready(ended) = call.as_mut().poll(context) {
                return Poll::Ready(Ok(ended));
            }
            let computing = yielded.0.yielded.swap(false, Relaxed);
            if !computing {
                yielded.end_turn();
            }
            if !armed {
                armed = true;
                paused();
                bounds.register(context.waker());
                if bounds.is_over() {
                    return Poll::Ready(Err(Expired::Cut));
                }
                timer.as_mut().reset(next_look(bounds, deadline).into());
            } else if timer.deadline() > next_look(bounds, deadline).into() {
                // There was no permit to look at before.
                timer.as_mut().reset(next_look(bounds, deadline).into());
            }
            while timer.as_mut().poll(context).is_ready() {
                if bounds.is_over() {
                    return Poll::Ready(Err(Expired::Cut));
                }
                if timer.deadline() >= deadline.into() {
                    return Poll::Ready(Err(if computing { Expired::Computing } else { Expired::Waiting }));
                }
                timer.as_mut().reset(next_look(bounds, deadline).into());
            }
            Poll::Pending
        })
        .await;
        yielded.end_turn();
        ended
    }
}

fn next_look(bounds: &Bounds, deadline: Instant) -> Instant {
    match bounds.left() {
        None => deadline,
        // A tick may be shorter than it says.
        Some(left) => deadline.min(Instant::now() + (left + Duration::from_millis(1)).min(LOOK)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use presence_core::delivery::JobId;
    use presence_core::time::{Now, Tick};

    use super::*;
    use crate::clock::{Clock, TimeSource};
    use crate::plugins::permit::Permit;

    /// A clock that is set by hand, as one that went on while the machine was suspended.
    #[derive(Debug, Default)]
    struct Hand(Mutex<u64>);

    impl TimeSource for Hand {
        fn now(&self) -> Now {
            Now::at(*self.0.lock().unwrap())
        }
    }

    fn bounded(until: u64) -> (Arc<Hand>, Watch) {
        let hand = Arc::new(Hand::default());
        let permit = Permit::unlimited(Clock::of(hand.clone()));
        permit.set(Tick(until));
        let mut bounds = Bounds::none();
        (bounds.permit, bounds.needs_permit) = (Arc::new(permit), true);
        (hand, Watch::new(bounds))
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[tokio::test]
    async fn a_call_that_waits_expires_as_waiting() {
        let deadline = Instant::now() + Duration::from_millis(20);
        let mut pauses = 0;
        let ended =
            Watch::new(Bounds::none()).run(deadline, std::future::pending::<()>(), || pauses += 1).await;
        assert_eq!((ended, pauses), (Err(Expired::Waiting), 1));
        assert!(Instant::now() >= deadline);
    }

    #[tokio::test]
    async fn a_call_that_yields_expires_as_computing() {
        let mut watch = Watch::new(Bounds::none());
        let turns = Turns::new(1);
        let yielded = watch.yielded.clone();
        let far = Instant::now() + Duration::from_secs(3600);
        let looping = async move {
            loop {
                match yielded.at_epoch(far, &turns) {
                    UpdateDeadline::YieldCustom(_, pause) => pause.await,
                    _ => unreachable!("the deadline is far"),
                }
            }
        };
        let ended = watch.run(Instant::now() + Duration::from_millis(20), looping, || ()).await;
        assert_eq!(ended, Err::<(), _>(Expired::Computing));
        let turns = Turns::new(1);
        assert!(matches!(watch.yielded.at_epoch(Instant::now(), &turns), UpdateDeadline::Interrupt));
    }

    #[tokio::test]
    async fn who_waits_for_a_turn_computes_and_who_waits_for_the_host_gives_it_back() {
        let turns = Turns::new(1);
        let mut watch = Watch::new(Bounds::none());
        let (yielded, own) = (watch.yielded.clone(), turns.clone());
        let epoch = async move |turns: &Turns| match yielded.at_epoch(far(), turns) {
            UpdateDeadline::YieldCustom(_, pause) => pause.await,
            _ => unreachable!("the deadline is far"),
        };
        let taken = turns.next().await;
        let waits = async {
            epoch(&own).await;
            epoch(&own).await;
        };
        let ended = watch.run(Instant::now() + Duration::from_millis(20), waits, || ()).await;
        assert_eq!(ended, Err(Expired::Computing));
        drop(taken);
        let asks = async {
            epoch(&own).await;
            epoch(&own).await;
            assert!(futures_util::FutureExt::now_or_never(turns.next()).is_none(), "it has the turn");
            turns.next().await
        };
        let turn = watch.run(far(), asks, || ()).await;
        assert!(turn.is_ok_and(|turn| turn.is_some()), "it was given back when the guest waited");
    }

    #[tokio::test]
    async fn a_quick_call_never_pauses() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let ended =
            Watch::new(Bounds::none()).run(deadline, async { 7 }, || panic!("it did not pause")).await;
        assert_eq!(ended, Ok(7));
    }

    #[tokio::test]
    async fn a_call_does_not_go_on_past_its_permit_after_a_suspension() {
        let (hand, mut watch) = bounded(60_000);
        let ended = watch.run(far(), std::future::pending::<()>(), || *hand.0.lock().unwrap() = 60_000).await;
        assert_eq!(ended, Err(Expired::Cut));
        let ended = watch.run(far(), async { panic!("it does not begin") }, || ()).await;
        assert_eq!(ended, Err::<(), _>(Expired::Cut));
        watch.bounds.needs_permit = false;
        assert_eq!(watch.run(far(), async { 7 }, || ()).await, Ok(7), "others need none");
    }

    #[tokio::test]
    async fn a_permit_that_is_extended_lets_the_call_go_on_to_its_deadline() {
        let (hand, mut watch) = bounded(20);
        let permit = watch.bounds.permit.clone();
        let deadline = Instant::now() + Duration::from_millis(150);
        let pending = std::future::pending::<()>();
        let extend = || {
            permit.set(Tick(70_000));
            *hand.0.lock().unwrap() = 60_000;
        };
        assert_eq!(watch.run(deadline, pending, extend).await, Err(Expired::Waiting));
        assert!(Instant::now() >= deadline);
    }

    #[tokio::test]
    async fn one_job_is_cut_and_the_next_is_not() {
        let mut watch = Watch::new(Bounds::none());
        let seat = watch.bounds.seat.clone();
        seat.take(JobId(7));
        let others = seat.clone();
        tokio::spawn(async move {
            others.cut(JobId(6));
            tokio::task::yield_now().await;
            others.cut(JobId(7));
        });
        assert_eq!(watch.run(far(), std::future::pending::<()>(), || ()).await, Err(Expired::Cut));
        seat.take(JobId(8));
        assert_eq!(watch.run(far(), async { 8 }, || ()).await, Ok(8));
    }
}
