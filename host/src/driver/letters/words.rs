//! What is ordered and reported of dead letters, on this host and between hosts. No behaviour.

use std::sync::Arc;

use presence_core::ids::{InstanceId, PartitionId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::plugins::LetterNumber;

/// What is to be done with a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterOrder {
    /// Which.
    pub number: LetterNumber,
    /// What.
    pub verb: LetterVerb,
}

/// See [`LetterOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterVerb {
    /// Tell its plugin once more.
    Replay,
    /// Forget it.
    Drop,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetterReport)]
pub struct LetterReport {
    /// Of which letter.
    #[schema(minimum = 1)]
    pub number: u64,
    /// What became of it.
    pub outcome: LetterOutcome,
    /// The host that has done it, or that could not.
    pub host: String,
    /// The plugin's name, as far as the letter was read.
    #[schema(required = true)]
    pub plugin: Option<String>,
    /// The hook's name, likewise.
    #[schema(required = true)]
    pub hook: Option<String>,
    /// The user, likewise; null for a cleanup.
    #[schema(required = true)]
    pub user: Option<String>,
    /// More about what went wrong.
    #[schema(required = true)]
    pub detail: Option<String>,
}

/// See [`LetterReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetterOutcome)]
#[serde(rename_all = "snake_case")]
pub enum LetterOutcome {
    /// Its event waits for the plugin; the letter goes once it is settled.
    Queued,
    /// The user's news are newer: nobody was told, and the letter is removed.
    Superseded,
    /// Removed.
    Dropped,
    /// There is no such letter, or somebody else was first.
    Gone,
    /// It is being replayed or dropped already.
    Busy,
    /// The plugin isn't there, or does not export the hook.
    NotWanted,
    /// The plugin's queue is full.
    Full,
    /// It was written by another version.
    Unreadable,
    /// The store, or the owner, does not answer now.
    Unavailable,
}

impl LetterOutcome {
    /// True if what was asked for is done, or on its way.
    pub fn is_success(self) -> bool {
        matches!(self, LetterOutcome::Queued | LetterOutcome::Superseded | LetterOutcome::Dropped)
    }
}

/// What one host asks the others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::driver) enum Asked {
    /// For the owner: do this. The answer is a [`LetterReport`].
    Letter { order: LetterOrder, partition: PartitionId },
    /// For the owner: decide who is present anew. Answered once that is in the store.
    Anew { because: Because, partition: PartitionId },
    /// For this instance: the counts of its partitions. The answer is a list of [`PartitionCounts`].
    ///
    /// [`PartitionCounts`]: crate::driver::counts::PartitionCounts
    Counts { instance: InstanceId },
}

/// Why everybody present is decided anew: a receiver has taken `everything` and forgotten them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::driver) enum Because {
    /// A dead letter was replayed.
    Letter(LetterNumber),
    /// It was late: this run of a fresh start.
    Run(Arc<str>),
}

impl Asked {
    pub(in crate::driver) fn question(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and words always become JSON")
    }
}

/// Totals of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetterCounts {
    /// Replays that were delivered.
    pub delivered: u64,
    /// Replays of statuses that are older than the user's news.
    pub superseded: u64,
    /// Replays that became dead letters once more.
    pub given_up: u64,
    /// Replays that came to nothing: the letter was kept.
    pub kept: u64,
    /// Letters dropped.
    pub dropped: u64,
}
