//! Carries dead letters to the store, one after the other; an event counts as settled once its letter is kept.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use presence_core::delivery::Payload;
use tokio::sync::{Notify, mpsc};

use super::metrics::PluginCounters;
use super::outcomes::Outcomes;
use crate::store::{DeadLetter, SharedStore, StoreError};

/// So many letters wait for the store at most.
const MAX_WAITING: usize = 1024;
/// How often the store is asked, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

struct Letter {
    letter: DeadLetter,
    payload: Payload,
    plugin: Arc<str>,
    counters: Arc<PluginCounters>,
}

/// Where workers hand in what was given up. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeadLetters {
    sender: mpsc::Sender<Letter>,
    outcomes: Arc<Outcomes>,
    open: Arc<Open>,
}

/// Letters handed in and not kept yet.
#[derive(Default)]
struct Open {
    letters: AtomicUsize,
    fewer: Notify,
}

impl DeadLetters {
    /// The way in, and the task that empties it.
    pub(super) fn new(
        store: SharedStore,
        outcomes: Arc<Outcomes>,
    ) -> (DeadLetters, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut letters) = mpsc::channel::<Letter>(MAX_WAITING);
        let open = Arc::new(Open::default());
        let (settled, carried) = (outcomes.clone(), open.clone());
        let carry = async move {
            while let Some(letter) = letters.recv().await {
                match keep(&store, &letter.letter).await {
                    Ok(dropped) => _ = letter.counters.dead_letters_dropped.fetch_add(dropped, Relaxed),
                    Err(error) => lose(&letter, &error.to_string()),
                }
                settled.settle(&letter.plugin, std::iter::once(letter.payload));
                carried.letters.fetch_sub(1, AcqRel);
                carried.fewer.notify_one();
            }
        };
        (DeadLetters { sender, outcomes, open }, carry)
    }

    /// Hands in a letter. It is in the log already: what can't be kept is not lost without a trace.
    pub(super) fn push(
        &self,
        letter: DeadLetter,
        payload: Payload,
        plugin: Arc<str>,
        counters: Arc<PluginCounters>,
    ) {
        let letter = Letter { letter, payload, plugin, counters };
        self.open.letters.fetch_add(1, AcqRel);
        if let Err(refused) = self.sender.try_send(letter) {
            self.open.letters.fetch_sub(1, AcqRel);
            let letter = refused.into_inner();
            lose(&letter, "too many wait for the store");
            self.outcomes.settle(&letter.plugin, std::iter::once(letter.payload));
        }
    }

    /// Waits until every letter is kept, or `patience` has passed.
    pub(super) async fn flush(&self, patience: Duration) {
        let all_kept = async {
            while self.open.letters.load(Acquire) > 0 {
                self.open.fewer.notified().await;
            }
        };
        _ = tokio::time::timeout(patience, all_kept).await;
    }
}

fn lose(letter: &Letter, reason: &str) {
    letter.counters.dead_letters_lost.fetch_add(1, Relaxed);
    let (plugin, event_id) = (&letter.letter.plugin, &letter.letter.event_id);
    tracing::error!(plugin, event_id, reason, "a dead letter is not kept in the store, only in this log");
}

async fn keep(store: &SharedStore, letter: &DeadLetter) -> Result<u64, StoreError> {
    let mut tries = 1;
    loop {
        match store.push_dead_letter(letter.clone()).await {
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}
