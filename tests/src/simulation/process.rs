//! A process that can be suspended and killed from outside, between any two polls. Knows nothing of what it runs.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

/// Suspends and kills the tasks of one process.
#[derive(Debug, Default)]
pub(super) struct Switch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    killed: bool,
    /// After so many more polls it is killed.
    fuse: Option<u32>,
    wakers: Vec<Waker>,
}

impl Switch {
    pub(super) fn pause(&self) {
        self.lock().paused = true;
    }

    pub(super) fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        wake(state);
    }

    /// Dead after so many more polls.
    pub(super) fn kill_after(&self, polls: u32) {
        self.lock().fuse = Some(polls);
    }

    pub(super) fn kill(&self) {
        let mut state = self.lock();
        state.killed = true;
        wake(state);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut state: std::sync::MutexGuard<'_, State>) {
    let wakers = std::mem::take(&mut state.wakers);
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

/// So often may a task be polled without any time passing; more is a busy loop.
const MAX_POLLS: u32 = 1_000;

/// How a task ended.
#[derive(Debug)]
pub(super) enum End<T> {
    /// By itself.
    Done(T),
    Killed,
    /// It never waits for time to pass: ended by force.
    Spinning,
}

/// A task of a process.
pub(super) struct Task<F> {
    /// How often it was polled at this point in time.
    polled: (Instant, u32),
    switch: Arc<Switch>,
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future> Task<F> {
    pub(super) fn new(switch: Arc<Switch>, inner: F) -> Task<F> {
        Task { polled: (Instant::now(), 0), switch, inner: Some(Box::pin(inner)) }
    }
}

impl<F: Future> Future for Task<F> {
    type Output = End<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.switch.lock();
        if !state.paused
            && let Some(left) = &mut state.fuse
        {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => state.killed = true,
            }
        }
        let (killed, paused) = (state.killed, state.paused);
        let waker = context.waker();
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        if killed {
            wake(state);
            self.inner = None;
            return Poll::Ready(End::Killed);
        }
        drop(state);
        let now = Instant::now();
        self.polled = if self.polled.0 == now { (now, self.polled.1 + 1) } else { (now, 0) };
        if self.polled.1 > MAX_POLLS {
            self.inner = None;
            return Poll::Ready(End::Spinning);
        }
        if paused {
            return Poll::Pending;
        }
        match &mut self.inner {
            Some(inner) => inner.as_mut().poll(context).map(End::Done),
            None => Poll::Ready(End::Killed),
        }
    }
}
