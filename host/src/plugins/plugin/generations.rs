//! One plugin from version to version: its queue stays, its workers take the new version with their next job, come and
//! go as there are to be more or fewer of them, and leave when it is removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::{Plugin, State, delivery_config};
use crate::plugins::loading::Loaded;
use crate::plugins::permit::Seat;

impl Plugin {
    /// Makes room for as many workers as there are to be. Returns the numbers of those to start.
    pub(in crate::plugins) fn staff(&self) -> Vec<usize> {
        let mut state = self.lock();
        let workers = state.loaded.settings.delivery.concurrency.max(1) as usize;
        state.staff(workers)
    }

    /// What a new worker begins with.
    pub(in crate::plugins) fn seat(&self, number: usize) -> (Arc<Loaded>, Arc<Seat>) {
        let state = self.lock();
        (state.loaded.clone(), state.seats[number].clone())
    }

    /// A new version or new settings: jobs that are taken from now on run on it. Running calls end on the old one. Events
    /// of hooks that it lacks are settled. Returns the numbers of the workers to start.
    pub(in crate::plugins) fn reload(&self, loaded: Arc<Loaded>) -> Vec<usize> {
        let began = Instant::now();
        let now = self.surroundings.clock.tick();
        let hooks: BTreeSet<_> = loaded.description.hooks.iter().copied().collect();
        let mut settled = Vec::new();
        let mut state = self.lock();
        let calls_wait = state.delivery.depth().queued > 0;
        state.delivery.handle_reload(now, delivery_config(&loaded.settings), loaded.generation);
        state.delivery.handle_hooks(hooks);
        state.take_settled(&mut settled);
        state.switched = calls_wait.then_some(began);
        let workers = loaded.settings.delivery.concurrency.max(1) as usize;
        let old = std::mem::replace(&mut state.loaded, loaded);
        let to_start = state.staff(workers);
        self.changes.fetch_add(1, SeqCst);
        drop(state);
        // Those who sleep let go of the old version too.
        self.work.notify_waiters();
        drop(old);
        self.settle(&mut settled);
        to_start
    }

    /// The plugin is removed: what waits is settled, running calls end by themselves and are not repeated, then its
    /// workers leave.
    pub(in crate::plugins) fn remove(&self) {
        let mut settled = Vec::new();
        let mut state = self.lock();
        state.delivery.handle_hooks(BTreeSet::new());
        state.take_settled(&mut settled);
        state.staff(0);
        self.changes.fetch_add(1, SeqCst);
        drop(state);
        self.work.notify_waiters();
        self.alarm.notify_one();
        self.settle(&mut settled);
    }

    /// A worker wants to leave its seat. False: it is needed again.
    pub(in crate::plugins) fn leave(&self, number: usize) -> bool {
        let mut state = self.lock();
        if number < state.workers {
            return false;
        }
        state.taken[number] = false;
        drop(state);
        self.gone.notify_waiters();
        true
    }

    /// True when no worker is left.
    pub(in crate::plugins) fn is_gone(&self) -> bool {
        let state = self.lock();
        state.workers == 0 && !state.taken.contains(&true)
    }

    /// Waits until the last worker of a plugin that was removed has left: all its outcomes are passed on then.
    pub(in crate::plugins) async fn until_gone(&self) {
        loop {
            let left = self.gone.notified();
            if self.is_gone() {
                return;
            }
            left.await;
        }
    }
}

impl State {
    fn staff(&mut self, workers: usize) -> Vec<usize> {
        self.workers = workers;
        while self.seats.len() < workers {
            self.seats.push(Arc::default());
            self.taken.push(false);
        }
        let to_start: Vec<usize> = (0..workers).filter(|number| !self.taken[*number]).collect();
        to_start.iter().for_each(|number| self.taken[*number] = true);
        to_start
    }
}
