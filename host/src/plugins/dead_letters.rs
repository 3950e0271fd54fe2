//! Carries dead letters to the store, one after the other; an event counts as settled once its letter is kept.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use presence_core::delivery::{LetterNumber, Payload};
use tokio::sync::mpsc;

use super::ReplayEnd;
use super::metrics::PluginCounters;
use super::outcomes::Outcomes;
use crate::store::{DeadLetter, SharedStore, StoreError};

/// So many letters wait for the store at most.
const MAX_WAITING: usize = 1024;
/// How often the store is asked, and the pause between.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// What was given up, and who waits for its end.
pub(super) struct Letter {
    pub(super) letter: DeadLetter,
    pub(super) payload: Payload,
    /// The older letter that this was replayed from.
    pub(super) replayed: Option<LetterNumber>,
    pub(super) plugin: Arc<str>,
    pub(super) counters: Arc<PluginCounters>,
}

/// Where workers hand in what was given up. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeadLetters {
    sender: mpsc::Sender<Letter>,
    outcomes: Arc<Outcomes>,
}

impl DeadLetters {
    /// The way in, and the task that empties it.
    pub(super) fn new(
        store: SharedStore,
        outcomes: Arc<Outcomes>,
    ) -> (DeadLetters, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut letters) = mpsc::channel::<Letter>(MAX_WAITING);
        let settled = outcomes.clone();
        let carry = async move {
            while let Some(letter) = letters.recv().await {
                let kept = keep(&store, &letter.letter).await;
                match &kept {
                    Ok(dropped) => _ = letter.counters.dead_letters_dropped.fetch_add(*dropped, Relaxed),
                    Err(error) => lose(&letter, &error.to_string()),
                }
                let counters = letter.counters.clone();
                settle(&settled, letter, kept.is_ok());
                counters.dead_letters_open.fetch_sub(1, Relaxed);
            }
        };
        (DeadLetters { sender, outcomes }, carry)
    }

    /// Hands in a letter. It is in the log already: what can't be kept is not lost without a trace.
    pub(super) fn push(&self, letter: Letter) {
        letter.counters.dead_letters_open.fetch_add(1, Relaxed);
        if let Err(refused) = self.sender.try_send(letter) {
            let letter = refused.into_inner();
            letter.counters.dead_letters_open.fetch_sub(1, Relaxed);
            lose(&letter, "too many wait for the store");
            settle(&self.outcomes, letter, false);
        }
    }
}

/// What was replayed has the new letter now, if that is kept; else the old one.
fn settle(outcomes: &Outcomes, letter: Letter, kept: bool) {
    match letter.replayed {
        None => outcomes.settle(&letter.plugin, std::iter::once(letter.payload)),
        Some(replayed) if kept => outcomes.replayed(replayed, ReplayEnd::GivenUp),
        Some(replayed) => outcomes.replayed(replayed, ReplayEnd::Kept),
    }
}

fn lose(letter: &Letter, reason: &str) {
    letter.counters.dead_letters_lost.fetch_add(1, Relaxed);
    let DeadLetter { plugin, hook, user, event_id, .. } = &letter.letter;
    tracing::error!(
        plugin,
        hook,
        user,
        event_id,
        reason,
        "a dead letter is not kept in the store, only in this log"
    );
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
