//! What goes to the store and what comes back. An unclear answer is asked again with the same bytes until it is
//! definite; only then the core hears of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use presence_core::documents::{Claim, Document, Expect, InstanceRecord, Key, SessionDocument, StatusRecord};
use presence_core::events::Session;
use presence_core::holders::{DocumentId, NotDone};
use presence_core::ids::{InstanceId, PartitionId, Sequence, UserId};
use presence_core::membership::NotWritten;
use presence_core::message::CustomMessage;
use presence_core::time::Now;
use tokio::sync::oneshot;

use super::details::{DetailsRead, Setter};
use super::engine::Driver;
use super::holders::{Facts as HolderFacts, Pending as PendingChanges};
use super::letters::{Asker, Because};
use super::{HolderAnswer, HolderOrder, HolderRefused, HolderReply, LetterOrder, LetterReport, UserView};
use crate::plugins::LetterNumber;
use crate::store::{Coverage, DeadLetter, Follower, Purge, Put, SharedStore, Snapshot, StoreError};

/// The first pause before asking again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So many records are read for watchers at once.
const MAX_READS: usize = 256;
/// An answer that took longer says nothing about clocks.
const SLOW_ANSWER: Duration = Duration::from_millis(1000);
/// Before a write that was refused is tried again.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// An answer of the store.
pub(super) enum Completion {
    /// Of a write of the membership.
    Membership(Key, Document, Result<Sequence, NotWritten>),
    /// Of a renewal of the own lease; none: nobody knows.
    Renewed(InstanceId, u64, Option<Result<Sequence, NotWritten>>),
    /// An instance's record, and what a refusal told of its key.
    Instance(InstanceId, Sequence, Option<(Sequence, InstanceRecord)>),
    /// All claims.
    Claims(Snapshot),
    /// The sessions of a dead instance, for this round of its cleanup.
    Sessions(InstanceId, u32, Vec<Session>),
    /// The documents of a dead instance, or of all, are gone.
    Purged(Option<InstanceId>),
    /// A checkpoint is written, or refused, before a partition is handed over.
    Checkpointed(PartitionId, Sequence),
    /// A fenced write under this claim is without an answer.
    Unclear(PartitionId, Sequence),
    /// The store's clock minus the own one, in milliseconds; none: the same clock, or no answer.
    Clock(Option<i64>),
    /// The instances, and their updates from there.
    Instances(Snapshot, Follower),
    /// The owner of a partition.
    Owner(PartitionId, Option<(Sequence, Claim)>),
    /// All documents of a partition that was claimed.
    Loaded(PartitionId, u64, Snapshot),
    /// The same for plugins that were added: which reading it is.
    ReadForNewcomers(PartitionId, u64, Snapshot),
    /// The updates of these partitions.
    Following(BTreeSet<PartitionId>, Sequence, Follower),
    /// A session document is in the store, or certainly not.
    Document(DocumentWritten),
    /// A deletion of the user's document is without an answer.
    Doubt(UserId),
    /// Status records are in the store, as far as they reach.
    Statuses(StatusesWritten),
    /// A record that a watcher wants.
    Record(UserId, Option<StatusRecord>),
    /// It was not read: this host has another life now.
    Unread(UserId),
    /// What a watcher asks for besides.
    Details(DetailsRead),
    /// It was not read: this host has another life now.
    DetailsUnread(UserId),
    /// A custom message is in the store, or not.
    MessageSet(UserId, Setter, Result<Option<CustomMessage>, StoreError>),
    /// A dead letter that something is to be done with belongs to this partition.
    LetterFound(LetterOrder, PartitionId, oneshot::Sender<LetterReport>),
    /// One that is in hand.
    LetterRead(LetterOrder, Asker, Result<Option<DeadLetter>, StoreError>),
    /// It is removed after its replay.
    LetterRemoved(LetterNumber),
    /// It is dropped, or not.
    LetterDropped(LetterNumber, Asker, LetterReport),
    /// Something was done for a holder, or not.
    Holder(HolderFacts, Result<HolderAnswer, HolderRefused>, HolderReply),
    /// A holder that was not known here.
    HolderFound(Result<HolderFacts, HolderRefused>, HolderOrder, HolderReply),
    /// The record of a holder one of whose sessions is not there, and what is to be answered.
    HolderLookedAt(Option<(Sequence, InstanceRecord)>, PendingChanges),
    /// A document of held sessions as whoever decides has it.
    HeldRead(DocumentId, Option<(Sequence, Arc<SessionDocument>)>),
    /// One was written, or not.
    HeldWritten(DocumentId, Result<Sequence, NotDone>),
    /// All owners have decided anew who is present.
    DecidedAnew(Because),
    /// Nothing waits for it.
    Nothing,
}

/// What became of a session document.
pub(super) struct DocumentWritten {
    /// Of which of this host's lives.
    pub(super) instance: InstanceId,
    pub(super) user: UserId,
    pub(super) result: Result<(), StoreError>,
    /// Some answer was unclear: a copy of the write may still take effect.
    pub(super) unclear: bool,
    /// Watchers that ask for metadata are to be told.
    pub(super) details: bool,
}

/// What became of a batch of status records.
pub(super) struct StatusesWritten {
    pub(super) partition: PartitionId,
    /// Which batch of the partition.
    pub(super) batch: u64,
    /// Under which claim.
    pub(super) claim: Sequence,
    pub(super) sequences: Vec<Sequence>,
    pub(super) error: Option<StoreError>,
}

impl Completion {
    /// True for what was asked in one life and one store (`Driver::era`) and means nothing in another.
    fn is_of_an_era(&self) -> bool {
        matches!(
            self,
            Completion::Membership(..)
                | Completion::Instance(..)
                | Completion::Owner(..)
                | Completion::Claims(_)
                | Completion::Sessions(..)
                | Completion::Purged(_)
                | Completion::Document(_)
        )
    }
}

impl Driver {
    /// Another life, or another store: what was asked before is of no interest any more. Sequences that the membership was
    /// told may be those of a store that is gone, and so are documents that it has acknowledged.
    pub(super) fn begin_era(&mut self) {
        self.era = Arc::new(());
        self.done.retain(|completion| !completion.is_of_an_era());
    }

    /// Starts an operation. One that is done at once costs no task.
    pub(super) fn start(&mut self, mut operation: BoxFuture<'static, Completion>) {
        match (&mut operation).now_or_never() {
            Some(completion) => self.done.push_back(completion),
            None => self.waiting.push(operation),
        }
    }

    pub(super) fn write(&mut self, put: Put) {
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.era));
        let (key, document) = (put.key.clone(), put.document.clone());
        let operation = async move {
            let result = match definite(&life, || store.put(put.clone())).await {
                None => return Completion::Nothing,
                Some(Ok(sequence)) => Ok(sequence),
                Some(Err(StoreError::Conflict { last })) => Err(NotWritten::Conflict(last)),
                Some(Err(error)) => {
                    tracing::error!(key = ?put.key, %error, "a write was refused; it is tried again");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    Err(NotWritten::Refused)
                }
            };
            Completion::Membership(key, document, result)
        };
        self.start(operation.boxed());
    }

    /// Writes the own key, once.
    pub(super) fn renew(&mut self, instance: InstanceId, renewal: u64, put: Put) {
        let store = self.store.clone();
        let operation = async move {
            let result = match store.put(put).await {
                Ok(sequence) => Some(Ok(sequence)),
                Err(StoreError::Conflict { last }) => Some(Err(NotWritten::Conflict(last))),
                Err(StoreError::Refused(reason)) => {
                    tracing::error!(reason, "the own lease can't be renewed");
                    Some(Err(NotWritten::Refused))
                }
                Err(error) => {
                    tracing::debug!(%error, "a renewal of the own lease is without an answer");
                    None
                }
            };
            Completion::Renewed(instance, renewal, result)
        };
        self.start(operation.boxed());
    }

    /// Writes what must not be repeated: an unclear answer counts as none.
    pub(super) fn write_once(&mut self, put: Put) {
        let (store, era) = (self.store.clone(), Arc::downgrade(&self.era));
        let (key, document) = (put.key.clone(), put.document.clone());
        let operation = async move {
            let result = match store.put(put).await {
                _ if era.strong_count() == 0 => return Completion::Nothing,
                Ok(sequence) => Ok(sequence),
                Err(StoreError::Conflict { last }) => Err(NotWritten::Conflict(last)),
                Err(error) => {
                    tracing::warn!(?key, %error, "a declaration is without an answer");
                    tokio::time::sleep(FIRST_PAUSE).await;
                    Err(NotWritten::Refused)
                }
            };
            Completion::Membership(key, document, result)
        };
        self.start(operation.boxed());
    }

    pub(super) fn read_instance(&mut self, instance: InstanceId, last: Sequence) {
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.era));
        let operation = async move {
            match read(&life, || store.get(Key::Instance(instance))).await {
                None => Completion::Nothing,
                Some(Some((sequence, Document::Instance(record)))) => {
                    Completion::Instance(instance, last, Some((sequence, record)))
                }
                Some(_) => Completion::Instance(instance, last, None),
            }
        };
        self.start(operation.boxed());
    }

    /// Reads the instances and follows them; whoever was doing so stops.
    pub(super) fn load_instances(&mut self) {
        self.reading = Arc::new(());
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.reading));
        let operation = async move {
            loop {
                let snapshot = read(&wanted, || store.snapshot(Coverage::Instances, Sequence(0))).await;
                let Some(snapshot) = snapshot else { return Completion::Nothing };
                if let Ok(follower) = store.follow(Coverage::Instances, snapshot.up_to).await {
                    break Completion::Instances(snapshot, follower);
                }
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        };
        self.start(operation.boxed());
    }

    pub(super) fn load_claims(&mut self) {
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.era));
        let operation = async move {
            let claims = Coverage::PartitionsAndClaims(BTreeSet::new());
            match read(&life, || store.snapshot(claims.clone(), Sequence(0))).await {
                Some(snapshot) => Completion::Claims(snapshot),
                None => Completion::Nothing,
            }
        };
        self.start(operation.boxed());
    }

    pub(super) fn read_owner(&mut self, partition: PartitionId) {
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.era));
        let operation = async move {
            let owner = match read(&life, || store.get(Key::Owner(partition))).await {
                None => return Completion::Nothing,
                Some(Some((sequence, Document::Owner(claim)))) => Some((sequence, claim)),
                Some(_) => None,
            };
            Completion::Owner(partition, owner)
        };
        self.start(operation.boxed());
    }

    /// Reads a partition at or after a point. Only the newest load of a partition is waited for.
    pub(super) fn load_partition(&mut self, id: PartitionId, at_least: Sequence) {
        self.loads += 1;
        let load = self.loads;
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        partition.load = load;
        partition.loaded = None;
        partition.buffered.clear();
        partition.overflowed = false;
        let (store, life) = (self.store.clone(), Arc::downgrade(&partition.life));
        let operation = async move {
            let coverage = Coverage::Partitions([id].into());
            match read(&life, || store.snapshot(coverage.clone(), at_least)).await {
                Some(snapshot) => Completion::Loaded(id, load, snapshot),
                None => Completion::Nothing,
            }
        };
        self.start(operation.boxed());
    }

    /// Reads the sessions of a dead instance.
    pub(super) fn read_sessions(&mut self, instance: InstanceId, round: u32) {
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.era));
        let operation = async move {
            match read(&life, || store.sessions_of(instance)).await {
                Some(documents) => Completion::Sessions(instance, round, sessions_in(instance, documents)),
                None => Completion::Nothing,
            }
        };
        self.start(operation.boxed());
    }

    /// Removes the documents of a dead instance.
    pub(super) fn purge(&mut self, instance: InstanceId) {
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.era));
        let operation = async move {
            match read(&wanted, || store.purge_sessions(Purge::Of(instance))).await {
                Some(purged) => {
                    tracing::debug!(%instance, purged, "session documents removed");
                    Completion::Purged(Some(instance))
                }
                None => Completion::Nothing,
            }
        };
        self.start(operation.boxed());
    }

    /// Removes the session documents of before the fresh start: none of them is of a session that lives.
    pub(super) fn purge_all(&mut self, spared: Vec<InstanceId>) {
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&self.era));
        let (before, spared): (_, Arc<[InstanceId]>) = (self.begun_at, spared.into());
        let which = move || match spared.is_empty() {
            true => Purge::UpTo(before),
            false => Purge::UpToBut(before, spared.clone()),
        };
        let operation = async move {
            match read(&wanted, || store.purge_sessions(which())).await {
                Some(purged) => {
                    tracing::debug!(purged, "the session documents of before were removed");
                    Completion::Purged(None)
                }
                None => Completion::Nothing,
            }
        };
        self.start(operation.boxed());
    }

    /// Compares the store's clock with the own one.
    pub(super) fn read_clock(&mut self, now: Now) {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let operation = async move {
            let Ok(Some(theirs)) = store.clock().await else { return Completion::Clock(None) };
            let then = clock.now();
            // The answer is from some time between asking and hearing; a slow one says nothing.
            let took = then.tick.since(now.tick);
            if took > SLOW_ANSWER {
                return Completion::Clock(None);
            }
            let mine = then.wall.0 as i64 - took.as_millis() as i64 / 2;
            Completion::Clock(Some(theirs.0 as i64 - mine))
        };
        self.start(operation.boxed());
    }

    /// Reads the next records for watchers, so many at once.
    pub(super) fn read_records(&mut self) {
        while self.reads_in_flight < MAX_READS
            && let Some(user) = self.reads.pop_front()
        {
            self.reads_in_flight += 1;
            self.read_record(user);
        }
    }

    fn read_record(&mut self, user: UserId) {
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.life));
        let (partition, leaf) = self.config.layout.place(&user);
        let operation = async move {
            let key = Key::User(partition, leaf, user.clone());
            let record = match read(&life, || store.get(key.clone())).await {
                None => return Completion::Unread(user),
                Some(Some((_, Document::User(record)))) => Some(record),
                Some(_) => None,
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

    /// Gives up the own key.
    pub(super) fn give_up_lease(&mut self, last: Sequence, record: InstanceRecord, kept: Duration) {
        let (store, life) = (self.store.clone(), Arc::downgrade(&self.life));
        let key = Key::Instance(self.membership.instance());
        let document = Document::Instance(record);
        let put = Put { key, document, expect: Expect::Last(last), lease: Some(kept) };
        let operation = async move {
            if let Some(Err(error)) = definite(&life, || store.put(put.clone())).await {
                tracing::warn!(%error, "the own key could not be removed; its lease will end it");
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

/// Repeats an operation until the answer is definite. None if nobody wants it any more, whatever the answer.
pub(super) async fn definite<T>(
    wanted: &Weak<()>,
    mut operation: impl FnMut() -> BoxFuture<'static, Result<T, StoreError>>,
) -> Option<Result<T, StoreError>> {
    definite_or_unclear(wanted, &mut operation).await.map(|(definite, _)| definite)
}

/// The same, and whether any answer was unclear.
pub(super) async fn definite_or_unclear<T>(
    wanted: &Weak<()>,
    mut operation: impl FnMut() -> BoxFuture<'static, Result<T, StoreError>>,
) -> Option<(Result<T, StoreError>, bool)> {
    let mut pause = Pause::new();
    let mut unclear = false;
    loop {
        if wanted.strong_count() == 0 {
            return None;
        }
        match operation().await {
            Err(error @ (StoreError::Unknown(_) | StoreError::Unavailable(_))) => {
                tracing::debug!(%error, "asking the store again");
                unclear |= matches!(error, StoreError::Unknown(_));
                pause.wait().await;
            }
            definite => return (wanted.strong_count() > 0).then_some((definite, unclear)),
        }
    }
}

/// Repeats a read until it succeeds. None if nobody wants it any more.
pub(super) async fn read<T>(
    wanted: &Weak<()>,
    mut operation: impl FnMut() -> BoxFuture<'static, Result<T, StoreError>>,
) -> Option<T> {
    let mut pause = Pause::new();
    loop {
        if wanted.strong_count() == 0 {
            return None;
        }
        match operation().await {
            Ok(value) => return (wanted.strong_count() > 0).then_some(value),
            Err(error) => {
                tracing::warn!(%error, "the store could not be read; asking again");
                pause.wait().await;
            }
        }
    }
}

/// Every session that the documents of a dead instance name, ended ones included: their end was not settled.
fn sessions_in(instance: InstanceId, documents: Vec<(Key, Document)>) -> Vec<Session> {
    let mut sessions = Vec::new();
    for (key, document) in documents {
        let (Key::Sessions(_, _, user, _), Document::Sessions(document)) = (key, document) else { continue };
        sessions.extend(document.sessions.iter().map(|entry| Session {
            id: entry.id.clone(),
            user: user.clone(),
            instance,
            status: entry.status,
            connected_at: entry.connected_at,
            attributes: entry.attributes.clone(),
        }));
    }
    sessions
}

/// The partition's records, under its claim, until there is an answer. One that is unclear is not asked again under this
/// claim: a copy of it might take effect after newer records.
pub(super) async fn write_statuses(
    store: SharedStore,
    wanted: Weak<()>,
    (partition, batch): (PartitionId, u64),
    claim: Sequence,
    mut documents: Vec<(Key, Document)>,
) -> Completion {
    let mut written = Vec::with_capacity(documents.len());
    let mut pause = Pause::new();
    loop {
        if wanted.strong_count() == 0 {
            return Completion::Nothing;
        }
        let (sequences, error) = store.put_fenced((Key::Owner(partition), claim), documents.clone()).await;
        documents.drain(..sequences.len());
        written.extend(sequences);
        match error {
            Some(StoreError::Unavailable(_)) if !documents.is_empty() => {
                pause.wait().await;
            }
            error => {
                if let Some(StoreError::Refused(_)) = error {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                return Completion::Statuses(StatusesWritten {
                    partition,
                    batch,
                    claim,
                    sequences: written,
                    error,
                });
            }
        }
    }
}
