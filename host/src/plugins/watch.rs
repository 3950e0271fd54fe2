//! Ends calls that take too long, and tells a guest that computed from one that waited. Knows no plugin.
//!
//! A computing guest comes by at every epoch: it yields there, and is interrupted once its deadline has passed. A
//! guest that waits in a host call passes no epoch; a timer beside the call sees to that.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use wasmtime::UpdateDeadline;

/// What the guest was doing when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// It computed.
    Computing,
    /// It waited for the host.
    Waiting,
}

/// Set by a guest that yields, cleared by the watch: tells why a call is pending.
#[derive(Clone, Default)]
pub(super) struct Yielded(Arc<AtomicBool>);

impl Yielded {
    /// What the guest does at an epoch.
    pub(super) fn at_epoch(&self, deadline: Instant) -> UpdateDeadline {
        if Instant::now() >= deadline {
            return UpdateDeadline::Interrupt;
        }
        let yielded = self.clone();
        let others_first = async move {
            yielded.0.store(true, Relaxed);
            tokio::task::yield_now().await;
        };
        UpdateDeadline::YieldCustom(1, Box::pin(others_first))
    }
}

/// Watches one call at a time. The timer is made once and only touched by calls that pause.
pub(super) struct Watch {
    timer: Pin<Box<Sleep>>,
    pub(super) yielded: Yielded,
}

impl Watch {
    /// Needs a tokio runtime around it.
    pub(super) fn new() -> Watch {
        Watch { timer: Box::pin(tokio::time::sleep(Duration::ZERO)), yielded: Yielded::default() }
    }

    /// Runs a call until it ends or the deadline passes. `paused` is called once if the call does not end at once.
    /// The store of a call that expired must be dropped.
    pub(super) async fn run<T>(
        &mut self,
        deadline: Instant,
        call: impl Future<Output = T>,
        mut paused: impl FnMut(),
    ) -> Result<T, Expired> {
        let mut call = pin!(call);
        let mut armed = false;
        self.yielded.0.store(false, Relaxed);
        poll_fn(|context| {
            if let Poll::Ready(ended) = call.as_mut().poll(context) {
                return Poll::Ready(Ok(ended));
            }
            let computing = self.yielded.0.swap(false, Relaxed);
            if !armed {
                armed = true;
                self.timer.as_mut().reset(deadline.into());
                paused();
            }
            self.timer
                .as_mut()
                .poll(context)
                .map(|()| Err(if computing { Expired::Computing } else { Expired::Waiting }))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_waits_expires_as_waiting() {
        let deadline = Instant::now() + Duration::from_millis(20);
        let mut pauses = 0;
        let ended = Watch::new().run(deadline, std::future::pending::<()>(), || pauses += 1).await;
        assert_eq!((ended, pauses), (Err(Expired::Waiting), 1));
        assert!(Instant::now() >= deadline);
    }

    #[tokio::test]
    async fn a_call_that_yields_expires_as_computing() {
        let mut watch = Watch::new();
        let yielded = watch.yielded.clone();
        let far = Instant::now() + Duration::from_secs(3600);
        let looping = async move {
            loop {
                match yielded.at_epoch(far) {
                    UpdateDeadline::YieldCustom(_, pause) => pause.await,
                    _ => unreachable!("the deadline is far"),
                }
            }
        };
        let ended = watch.run(Instant::now() + Duration::from_millis(20), looping, || ()).await;
        assert_eq!(ended, Err::<(), _>(Expired::Computing));
        assert!(matches!(watch.yielded.at_epoch(Instant::now()), UpdateDeadline::Interrupt));
    }

    #[tokio::test]
    async fn a_quick_call_never_pauses() {
        let deadline = Instant::now() + Duration::from_secs(1);
        let ended = Watch::new().run(deadline, async { 7 }, || panic!("it did not pause")).await;
        assert_eq!(ended, Ok(7));
    }
}
