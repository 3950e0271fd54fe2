//! What goes to the store and what comes back. An unclear answer is asked again with the same bytes until it is
//! definite; only then the core hears of it.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use presence_core::documents::{Claim, Document, Expect, Key, StatusRecord};
use presence_core::ids::{PartitionId, Sequence, UserId};
use presence_core::membership::NotWritten;
use tokio::sync::oneshot;

use super::UserView;
use super::engine::Driver;
use crate::store::{Coverage, Follower, Put, SharedStore, Snapshot, StoreError};

/// The first pause before asking again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Before a write that was refused is tried again.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// An answer of the store.
pub(super) enum Completion {
    /// Of a write of the membership.
    Membership(Key, Result<Sequence, NotWritten>),
    /// The instances, and their updates from there.
    Instances(Snapshot, Follower),
    /// The owner of a partition.
    Owner(PartitionId, Option<(Sequence, Claim)>),
    /// All documents of a partition that was claimed.
    Loaded(PartitionId, Snapshot),
    /// The updates of these partitions.
    Following(std::collections::BTreeSet<PartitionId>, Sequence, Follower),
    /// A session document is in the store, or certainly not.
    Document(UserId, Result<(), StoreError>),
    /// Status records are in the store, as far as they reach.
    Statuses(PartitionId, Sequence, Vec<Sequence>, Option<StoreError>),
    /// A record that a watcher wants.
    Record(UserId, Option<StatusRecord>),
    /// Nothing waits for it.
    Nothing,
}

impl Driver {
    /// Starts an operation. One that is done at once costs no task.
    pub(super) fn start(&mut self, mut operation: BoxFuture<'static, Completion>) {
        match (&mut operation).now_or_never() {
            Some(completion) => self.done.push_back(completion),
            None => self.waiting.push(operation),
        }
    }

    pub(super) fn write(&mut self, put: Put) {
        let store = self.store.clone();
        let key = put.key.clone();
        let operation = async move {
            let result = match definite(|| store.put(put.clone())).await {
                Ok(sequence) => Ok(sequence),
                Err(StoreError::Conflict { last }) => Err(NotWritten::Conflict(last)),
                Err(error) => {
                    tracing::error!(key = ?put.key, %error, "a write was refused");
                    Err(NotWritten::Refused)
                }
            };
            Completion::Membership(key, result)
        };
        self.start(operation.boxed());
    }

    pub(super) fn load_instances(&mut self, at_least: Sequence) {
        let store = self.store.clone();
        let operation = async move {
            loop {
                let snapshot = read(|| store.snapshot(Coverage::Instances, at_least)).await;
                if let Ok(follower) = store.follow(Coverage::Instances, snapshot.up_to).await {
                    break Completion::Instances(snapshot, follower);
                }
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        };
        self.start(operation.boxed());
    }

    pub(super) fn read_owner(&mut self, partition: PartitionId) {
        let store = self.store.clone();
        let operation = async move {
            let owner = match read(|| store.get(Key::Owner(partition))).await {
                Some((sequence, Document::Owner(claim))) => Some((sequence, claim)),
                _ => None,
            };
            Completion::Owner(partition, owner)
        };
        self.start(operation.boxed());
    }

    pub(super) fn load_partition(&mut self, partition: PartitionId, claim: Sequence) {
        let store = self.store.clone();
        let operation = async move {
            let coverage = Coverage::Partitions([partition].into());
            Completion::Loaded(partition, read(|| store.snapshot(coverage.clone(), claim)).await)
        };
        self.start(operation.boxed());
    }

    pub(super) fn read_record(&mut self, user: UserId) {
        let store = self.store.clone();
        let (partition, leaf) = self.config.layout.place(&user);
        let operation = async move {
            let key = Key::User(partition, leaf, user.clone());
            let record = match read(|| store.get(key.clone())).await {
                Some((_, Document::User(record))) => Some(record),
                _ => None,
            };
            Completion::Record(user, record)
        };
        self.start(operation.boxed());
    }

    /// Answers a question of the admin API: from the tracker for owned users, else from the store.
    pub(super) fn view_users(
        &mut self,
        users: Vec<UserId>,
        answer: oneshot::Sender<Result<Vec<UserView>, String>>,
    ) {
        let mut views = Vec::with_capacity(users.len());
        for user in users {
            let partition = self.partitions.get(&self.config.layout.partition(&user));
            let known = partition.filter(|partition| partition.loaded.is_some()).map(|partition| {
                partition
                    .tracker
                    .known(&user)
                    .map(|known| StatusRecord { sessions: known.sessions, ..known.record })
            });
            views.push((user, known));
        }
        if views.iter().all(|(_, known)| known.is_some()) {
            let views = views.into_iter().map(|(user, known)| UserView { user, record: known.flatten() });
            // Whoever asked may have gone away.
            let _ = answer.send(Ok(views.collect()));
            return;
        }
        let (store, layout) = (self.store.clone(), self.config.layout);
        let operation = async move {
            let mut answers = Vec::with_capacity(views.len());
            for (user, known) in views {
                let record = match known {
                    Some(record) => record,
                    None => {
                        let (partition, leaf) = layout.place(&user);
                        match store.get(Key::User(partition, leaf, user.clone())).await {
                            Ok(Some((_, Document::User(record)))) => Some(record),
                            Ok(_) => None,
                            Err(error) => {
                                let _ = answer.send(Err(error.to_string()));
                                return Completion::Nothing;
                            }
                        }
                    }
                };
                answers.push(UserView { user, record });
            }
            let _ = answer.send(Ok(answers));
            Completion::Nothing
        };
        self.start(operation.boxed());
    }

    /// Gives up the own key and ends.
    pub(super) fn give_up_lease(&mut self, last: Sequence) {
        let store = self.store.clone();
        let key = Key::Instance(self.config.instance);
        let operation = async move {
            match definite(|| store.delete(key.clone(), Expect::Last(last))).await {
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "the own key could not be removed; its lease will end it")
                }
            }
            Completion::Nothing
        };
        self.start(operation.boxed());
    }
}

/// The pauses between attempts.
struct Pause(Duration);

impl Pause {
    fn new() -> Pause {
        Pause(FIRST_PAUSE)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Repeats an operation until the answer is definite.
pub(super) async fn definite<T>(
    mut operation: impl FnMut() -> BoxFuture<'static, Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let mut pause = Pause::new();
    loop {
        match operation().await {
            Err(error @ (StoreError::Unknown(_) | StoreError::Unavailable(_))) => {
                tracing::debug!(%error, "asking the store again");
                pause.wait().await;
            }
            definite => return definite,
        }
    }
}

/// Repeats a read until it succeeds.
pub(super) async fn read<T>(mut operation: impl FnMut() -> BoxFuture<'static, Result<T, StoreError>>) -> T {
    let mut pause = Pause::new();
    loop {
        match operation().await {
            Ok(value) => return value,
            Err(error) => {
                tracing::warn!(%error, "the store could not be read; asking again");
                pause.wait().await;
            }
        }
    }
}

/// One writer of one key: the partition's records, under its claim, until the answer is definite.
pub(super) async fn write_statuses(
    store: SharedStore,
    partition: PartitionId,
    claim: Sequence,
    mut documents: Vec<(Key, Document)>,
) -> Completion {
    let mut written = Vec::with_capacity(documents.len());
    let mut pause = Pause::new();
    loop {
        let (sequences, error) = store.put_fenced((Key::Owner(partition), claim), documents.clone()).await;
        documents.drain(..sequences.len());
        written.extend(sequences);
        match error {
            Some(StoreError::Unknown(_) | StoreError::Unavailable(_)) if !documents.is_empty() => {
                pause.wait().await;
            }
            error => {
                if let Some(StoreError::Refused(_)) = error {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                return Completion::Statuses(partition, claim, written, error);
            }
        }
    }
}
