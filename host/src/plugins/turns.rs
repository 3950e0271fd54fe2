//! Guests that compute take turns, so that those that do not always find a thread. Knows no guest and no event.
//!
//! The guests' threads are one more than there are turns: however many guests compute, one thread is left for calls that
//! are short or wait. A plugin's guests queue among themselves first: many of one plugin are no more than a few of
//! another.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of one plugin's guests. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    count: usize,
    of_plugin: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
}

/// Leave to compute for an epoch. Dropping it lets the next one compute.
#[derive(Debug)]
pub(super) struct Turn {
    _of_plugin: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// So many guests compute at once.
    pub(super) fn new(count: usize) -> Turns {
        Turns { count, of_plugin: Arc::new(Semaphore::new(count)), of_all: Arc::new(Semaphore::new(count)) }
    }

    /// For the guests of one more plugin.
    pub(super) fn of_another_plugin(&self) -> Turns {
        Turns { of_plugin: Arc::new(Semaphore::new(self.count)), ..self.clone() }
    }

    /// Waits for a turn, first come, first served; none: nobody closes these semaphores, so never.
    pub(super) async fn next(&self) -> Option<Turn> {
        let of_plugin = self.of_plugin.clone().acquire_owned().await.ok()?;
        let of_all = self.of_all.clone().acquire_owned().await.ok()?;
        Some(Turn { _of_plugin: of_plugin, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn many_guests_of_one_plugin_leave_the_next_turn_to_another() {
        let one = Turns::new(1);
        let other = one.of_another_plugin();
        let mut running = one.next().now_or_never();
        assert!(running.is_some());
        let (mut second, mut theirs, mut third) =
            (Box::pin(one.next()), Box::pin(other.next()), Box::pin(one.next()));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(theirs.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        running.take();
        // The plugin's own second guest asks for the common turn only now, behind the other plugin.
        assert!(second.as_mut().now_or_never().is_none());
        let turn = theirs.as_mut().now_or_never();
        assert!(turn.is_some());
        drop(turn);
        let turn = second.as_mut().now_or_never();
        assert!(turn.is_some() && third.as_mut().now_or_never().is_none());
    }
}
