//! The one follower of the status records that all event streams of a host share. It runs while anybody listens and a little
//! longer. It knows no sockets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use presence_core::documents::{Change, Document, Key, Update};
use presence_core::ids::Sequence;
use tokio::sync::futures::Notified;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::MAX_STREAMS;
use super::ring::{Overtaken, Place, Ring, Told, What};
use super::words::{self, EventId, ResetReason};
use crate::store::{Coverage, Followed, Follower, SharedStore, StoreError};

/// So many transitions are kept for readers who come back: a few megabytes.
const KEPT: usize = 16_384;

/// So many readers read the store at once to catch up.
const CATCHING_UP: usize = 4;

/// How long it goes on without readers: one that reconnects finds everything.
const LINGER: Duration = Duration::from_secs(60);

/// Between two attempts to follow again.
const PAUSE: Duration = Duration::from_millis(500);

/// What readers share.
pub(super) struct Hub {
    store: SharedStore,
    closing: CancellationToken,
    /// Only one may begin to follow.
    beginning: AsyncMutex<()>,
    state: Mutex<State>,
    changed: Notify,
    /// A reader came or left.
    readers: Notify,
    turns: Semaphore,
}

#[derive(Default)]
struct State {
    readers: usize,
    /// Since when there is none.
    deserted_since: Option<Instant>,
    running: Option<Running>,
}

struct Running {
    epoch: u64,
    ring: Ring,
}

impl Running {
    fn position(&self) -> (EventId, Place) {
        (EventId { epoch: self.epoch, sequence: self.ring.last() }, self.ring.end())
    }
}

/// How far the store has come.
pub(super) async fn reached(store: &SharedStore) -> Result<Sequence, StoreError> {
    // Of nothing, which costs nothing.
    let nothing = Coverage::Partitions(Default::default());
    Ok(store.snapshot(nothing, Sequence(0)).await?.up_to)
}

/// The epoch, and a follower from now on.
async fn begin(store: &SharedStore) -> Result<(EventId, Follower), StoreError> {
    let epoch = match store.get(Key::Meta).await? {
        Some((_, Document::Meta(meta))) => meta.epoch,
        _ => return Err(StoreError::Unavailable("the deployment has not begun yet".into())),
    };
    let sequence = reached(store).await?;
    let follower = store.follow(Coverage::AllRecords, sequence).await?;
    Ok((EventId { epoch, sequence }, follower))
}

impl Hub {
    pub(super) fn new(store: SharedStore, closing: CancellationToken) -> Arc<Hub> {
        Arc::new(Hub {
            store,
            closing,
            beginning: AsyncMutex::new(()),
            state: Mutex::default(),
            changed: Notify::new(),
            readers: Notify::new(),
            turns: Semaphore::new(CATCHING_UP),
        })
    }

    /// A place for a reader; none if there are too many.
    pub(super) async fn join(self: &Arc<Hub>) -> Result<Option<Seat>, StoreError> {
        let seat = {
            let mut state = self.lock();
            if state.readers >= MAX_STREAMS {
                return Ok(None);
            }
            state.readers += 1;
            state.deserted_since = None;
            Seat { hub: self.clone() }
        };
        self.readers.notify_one();
        let _beginning = self.beginning.lock().await;
        if self.lock().running.is_none() {
            let (at, follower) = begin(&self.store).await?;
            self.lock().running = Some(Running { epoch: at.epoch, ring: Ring::new(KEPT, at.sequence) });
            tokio::spawn(self.clone().run(follower));
        }
        Ok(Some(seat))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Hub>, mut follower: Follower) {
        loop {
            let batch = tokio::select! {
                batch = follower.next_batch() => batch,
                () = self.deserted() => return,
                () = self.closing.cancelled() => return,
            };
            for followed in batch {
                match followed {
                    Followed::Update(update) => self.pass_on(update),
                    Followed::Lost(why) => {
                        tracing::warn!(
                            why,
                            "transitions for event streams were missed: readers are told to begin anew"
                        );
                        let Some((at, again)) = self.begin_again().await else { return };
                        self.push_reset(at);
                        follower = again;
                        break;
                    }
                }
            }
            self.changed.notify_waiters();
        }
    }

    fn pass_on(&self, update: Update) {
        let (Key::User(_, _, user), Change::Put(Document::User(record))) = (update.key, update.change) else {
            return;
        };
        let mut state = self.lock();
        let Some(running) = &mut state.running else { return };
        let id = EventId { epoch: running.epoch, sequence: update.sequence };
        let frame = words::transition(id, &user, &record);
        running.ring.push(Told { sequence: id.sequence, what: What::Transition(user, record.status), frame });
    }

    fn push_reset(&self, at: EventId) {
        let mut state = self.lock();
        let Some(running) = &mut state.running else { return };
        let reason =
            if running.epoch == at.epoch { ResetReason::TooFarBehind } else { ResetReason::OtherEpoch };
        running.epoch = at.epoch;
        let frame: Bytes = words::reset(at, reason);
        running.ring.push(Told { sequence: at.sequence, what: What::Reset, frame });
    }

    /// Follows once more, as soon as the store lets it; none if nobody wants it any more.
    async fn begin_again(&self) -> Option<(EventId, Follower)> {
        loop {
            match begin(&self.store).await {
                Ok(begun) => return Some(begun),
                Err(error) => tracing::debug!(%error, "the status records can't be followed yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.deserted() => return None,
                () = self.closing.cancelled() => return None,
            }
        }
    }

    /// Waits until there was no reader for a while; then what was kept is gone. Waiting can be given up, and begun again.
    async fn deserted(&self) {
        loop {
            let noticed = self.readers.notified();
            let Some(since) = self.lock().deserted_since else {
                noticed.await;
                continue;
            };
            if timeout_at(since + LINGER, noticed).await.is_ok() {
                continue;
            }
            let mut state = self.lock();
            if state.deserted_since == Some(since) {
                state.running = None;
                return;
            }
        }
    }
}

/// A reader's place at the hub, as long as it is kept.
pub(super) struct Seat {
    hub: Arc<Hub>,
}

impl Seat {
    /// How far the store was followed, and the place of what comes next.
    pub(super) fn position(&self) -> (EventId, Place) {
        let state = self.hub.lock();
        let nowhere = (EventId { epoch: 0, sequence: Sequence(0) }, 0);
        state.running.as_ref().map_or(nowhere, Running::position)
    }

    /// The place of what comes after an event of the present epoch; none if some of it is not here.
    pub(super) fn after(&self, last: EventId) -> Option<Place> {
        self.hub.lock().running.as_ref()?.ring.after(last.sequence)
    }

    /// At most `most` from this place on; and how far the store was followed, which is where the reader is if that was nothing.
    pub(super) fn read(&self, place: Place, most: usize) -> Result<(Vec<Arc<Told>>, EventId), Overtaken> {
        let state = self.hub.lock();
        let running = state.running.as_ref().ok_or(Overtaken)?;
        Ok((running.ring.read(place, most)?, running.position().0))
    }

    /// Ends when there may be more to read than when this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.hub.changed.notified()
    }

    /// A turn to read the store.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.hub.turns.acquire().await.ok()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.readers -= 1;
        if state.readers == 0 {
            state.deserted_since = Some(Instant::now());
        }
        drop(state);
        self.hub.readers.notify_one();
    }
}
