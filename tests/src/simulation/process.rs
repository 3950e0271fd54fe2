//! A process that can be suspended and killed from outside, between any two polls. Knows nothing of what it runs.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

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

/// A task of a process.
pub(super) struct Task<F> {
    switch: Arc<Switch>,
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future> Task<F> {
    pub(super) fn new(switch: Arc<Switch>, inner: F) -> Task<F> {
        Task { switch, inner: Some(Box::pin(inner)) }
    }
}

impl<F: Future> Future for Task<F> {
    /// None: it was killed.
    type Output = Option<F::Output>;

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
            return Poll::Ready(None);
        }
        drop(state);
        if paused {
            return Poll::Pending;
        }
        match &mut self.inner {
            Some(inner) => inner.as_mut().poll(context).map(Some),
            None => Poll::Ready(None),
        }
    }
}
