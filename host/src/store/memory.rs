//! The store of a single host: everything in this process, nothing survives it.
//!
//! A write takes effect when the method is called, so that the order of calls is the order of effects; the futures
//! that come back are ready. It knows no more of what documents mean than any other store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::future::{BoxFuture, ready};
use presence_core::documents::{Bucket, Document, Expect, Key};
use presence_core::ids::{InstanceId, Sequence, UserId};
use presence_core::time::Timestamp;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::contents::Contents;
use super::rules::{check_bucket, check_fit, check_lease};
use super::{
    ASK_PATIENCE, Asking, Coverage, DeadLetter, Follower, MAX_DEAD_LETTERS, Notice, Noticed, Notices, Purge,
    Put, Question, Questions, Snapshot, Store, StoreError, bucket_of,
};

mod contents;

#[cfg(test)]
mod model;

/// How much a memory store keeps besides the documents.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Keys with an update waiting, per follower.
    waiting: usize,
    /// Removals remembered, per bucket.
    removals: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { waiting: Follower::MAX_WAITING, removals: MemoryStore::MAX_REMOVALS }
    }
}

/// A [`Store`] in memory. Leases need a tokio runtime with timers around [`Store::put`]; without one they end only
/// when the bucket is next used.
pub struct MemoryStore {
    shared: Arc<Shared>,
    notices: broadcast::Sender<Noticed>,
}

struct Shared {
    state: Mutex<State>,
    /// A lease has been given that may end before all others.
    lease_given: Arc<Notify>,
}

struct State {
    sessions: Contents,
    instances: Contents,
    dead_letters: VecDeque<DeadLetter>,
    last_dead_letter: u64,
    /// Who hears questions.
    asked: Vec<Asking>,
    /// Ends leases while there are any.
    timer: Option<JoinHandle<()>>,
}

impl MemoryStore {
    /// So many removals are remembered per bucket, for followers that start from an earlier point.
    pub const MAX_REMOVALS: usize = 16_384;

    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::with_limits(Limits::default())
    }

    /// An empty store whose sequences go on after this one, as those of a store that takes the place of a lost one do:
    /// an old expectation never holds by accident.
    pub fn after(last: Sequence) -> MemoryStore {
        let store = MemoryStore::new();
        let mut state = store.shared.lock();
        state.sessions.begin_after(last);
        state.instances.begin_after(last);
        drop(state);
        store
    }

    fn with_limits(limits: Limits) -> MemoryStore {
        let state = State {
            sessions: Contents::new(limits),
            instances: Contents::new(limits),
            dead_letters: VecDeque::new(),
            last_dead_letter: 0,
            asked: Vec::new(),
            timer: None,
        };
        let shared = Shared { state: Mutex::new(state), lease_given: Arc::new(Notify::new()) };
        MemoryStore { shared: Arc::new(shared), notices: broadcast::Sender::new(Notices::MAX_WAITING) }
    }

    fn write(&self, put: Put) -> Result<Sequence, StoreError> {
        check_fit(&put.key, &put.document)?;
        check_bucket(&put.key, &put.expect)?;
        check_lease(put.lease)?;
        let leased = put.lease.is_some();
        let mut state = self.shared.lock();
        let sequence = state.bucket(put.key.bucket()).put(put)?;
        if leased {
            self.end_leases(&mut state);
        }
        Ok(sequence)
    }

    fn write_fenced(
        &self,
        (fence, claim): (Key, Sequence),
        documents: Vec<(Key, Document)>,
    ) -> (Vec<Sequence>, Option<StoreError>) {
        let mut state = self.shared.lock();
        let contents = state.bucket(fence.bucket());
        let expect = Expect::Fence(fence, claim);
        let mut written = Vec::with_capacity(documents.len());
        for (key, document) in documents {
            let put = Put { key, document, expect: expect.clone(), lease: None };
            let outcome = check_fit(&put.key, &put.document)
                .and_then(|()| check_bucket(&put.key, &put.expect))
                .and_then(|()| contents.put(put));
            match outcome {
                Ok(sequence) => written.push(sequence),
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    /// Ends the lease of this document now, as if its time were over. For simulations.
    #[doc(hidden)]
    pub fn expire_now(&self, key: &Key) {
        self.shared.lock().bucket(key.bucket()).expire_now(key);
    }

    /// Sees to it that a task ends the leases. It sleeps until the next one ends, and goes when there is none left.
    fn end_leases(&self, state: &mut State) {
        if state.timer.as_ref().is_some_and(|timer| !timer.is_finished()) {
            self.shared.lease_given.notify_one();
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let shared = Arc::downgrade(&self.shared);
            state.timer = Some(runtime.spawn(end_leases(shared, self.shared.lease_given.clone())));
        }
    }
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A bucket without what is already due.
    fn bucket(&mut self, bucket: Bucket) -> &mut Contents {
        let contents = match bucket {
            Bucket::Sessions => &mut self.sessions,
            Bucket::Instances => &mut self.instances,
        };
        contents.expire();
        contents
    }

    /// Removes what is due everywhere and answers when the next lease ends.
    fn expire(&mut self) -> Option<Instant> {
        self.sessions.expire().into_iter().chain(self.instances.expire()).min()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

async fn end_leases(shared: Weak<Shared>, lease_given: Arc<Notify>) {
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let mut state = shared.lock();
            let Some(next) = state.expire() else {
                // Still under the lock: whoever gives the next lease starts another task.
                state.timer = None;
                return;
            };
            next
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = lease_given.notified() => {}
        }
    }
}

impl Store for MemoryStore {
    fn put(&self, put: Put) -> BoxFuture<'static, Result<Sequence, StoreError>> {
        Box::pin(ready(self.write(put)))
    }

    fn put_fenced(
        &self,
        fence: (Key, Sequence),
        documents: Vec<(Key, Document)>,
    ) -> BoxFuture<'static, (Vec<Sequence>, Option<StoreError>)> {
        Box::pin(ready(self.write_fenced(fence, documents)))
    }

    fn delete(&self, key: Key, expect: Expect) -> BoxFuture<'static, Result<(), StoreError>> {
        let outcome = check_bucket(&key, &expect)
            .and_then(|()| self.shared.lock().bucket(key.bucket()).delete(key, &expect));
        Box::pin(ready(outcome))
    }

    fn purge_sessions(&self, which: Purge) -> BoxFuture<'static, Result<u64, StoreError>> {
        Box::pin(ready(Ok(self.shared.lock().bucket(Bucket::Sessions).purge_sessions(which))))
    }

    fn get(&self, key: Key) -> BoxFuture<'static, Result<Option<(Sequence, Document)>, StoreError>> {
        Box::pin(ready(Ok(self.shared.lock().bucket(key.bucket()).get(&key).cloned())))
    }

    fn snapshot(
        &self,
        coverage: Coverage,
        at_least: Sequence,
    ) -> BoxFuture<'static, Result<Snapshot, StoreError>> {
        Box::pin(ready(self.shared.lock().bucket(bucket_of(&coverage)).snapshot(&coverage, at_least)))
    }

    fn sessions_of(
        &self,
        instance: InstanceId,
    ) -> BoxFuture<'static, Result<Vec<(Key, Document)>, StoreError>> {
        Box::pin(ready(Ok(self.shared.lock().bucket(Bucket::Sessions).sessions_of(instance))))
    }

    fn follow(&self, coverage: Coverage, from: Sequence) -> BoxFuture<'static, Result<Follower, StoreError>> {
        Box::pin(ready(Ok(self.shared.lock().bucket(bucket_of(&coverage)).follow(coverage, from))))
    }

    fn notify(&self, notice: Notice) {
        // An error only says that nobody reads.
        let _ = self.notices.send(Noticed::Notice(notice));
    }

    fn notify_details(&self, user: &UserId) {
        // An error only says that nobody reads.
        let _ = self.notices.send(Noticed::Details(user.clone()));
    }

    fn notices(&self) -> Notices {
        Notices::new(&self.notices)
    }

    // Every notice goes to every reader: there is one host.
    fn watch(&self, _user: &UserId) {}

    fn unwatch(&self, _user: &UserId) {}

    fn watch_details(&self, _user: &UserId) {}

    fn unwatch_details(&self, _user: &UserId) {}

    fn clock(&self) -> BoxFuture<'static, Result<Option<Timestamp>, StoreError>> {
        Box::pin(ready(Ok(None)))
    }

    fn push_dead_letter(&self, mut letter: DeadLetter) -> BoxFuture<'static, Result<u64, StoreError>> {
        let mut state = self.shared.lock();
        state.last_dead_letter += 1;
        letter.number = state.last_dead_letter;
        let mut dropped = 0;
        while state.dead_letters.len() >= MAX_DEAD_LETTERS {
            state.dead_letters.pop_front();
            dropped += 1;
        }
        state.dead_letters.push_back(letter);
        Box::pin(ready(Ok(dropped)))
    }

    fn dead_letters(&self) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>> {
        Box::pin(ready(Ok(self.shared.lock().dead_letters.iter().cloned().collect())))
    }

    fn dead_letter(&self, number: u64) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>> {
        let state = self.shared.lock();
        let at = state.dead_letters.binary_search_by_key(&number, |letter| letter.number).ok();
        let letter = at.and_then(|at| state.dead_letters.get(at)).cloned();
        Box::pin(ready(Ok(letter)))
    }

    fn remove_dead_letter(&self, number: u64) -> BoxFuture<'static, Result<bool, StoreError>> {
        let mut state = self.shared.lock();
        let at = state.dead_letters.binary_search_by_key(&number, |letter| letter.number).ok();
        let removed = at.and_then(|at| state.dead_letters.remove(at)).is_some();
        Box::pin(ready(Ok(removed)))
    }

    fn ask(&self, question: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, StoreError>> {
        let (answer, mut answers) = mpsc::unbounded_channel();
        self.shared.lock().asked.retain(|asked| {
            let answer = answer.clone();
            let reply = move |text| {
                // Whoever asked may have gone away.
                let _ = answer.send(text);
            };
            asked.hand(Question::new(question.clone(), reply))
        });
        drop(answer);
        Box::pin(async move {
            match tokio::time::timeout(ASK_PATIENCE, answers.recv()).await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) | Err(_) => Err(StoreError::Unknown("no host has answered".into())),
            }
        })
    }

    fn questions(&self) -> Questions {
        let (asking, questions) = Questions::channel();
        let mut state = self.shared.lock();
        state.asked.retain(Asking::is_heard);
        state.asked.push(asking);
        questions
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use presence_core::documents::{Change, Claim, InstanceRecord, InstanceState, Update};
    use presence_core::ids::PartitionId;
    use presence_core::time::Timestamp;

    use crate::store::{Followed, MIN_LEASE, SharedStore, conformance};

    #[tokio::test(start_paused = true)]
    async fn the_memory_store_conforms() {
        conformance::run_all(async || Arc::new(MemoryStore::new()) as SharedStore).await;
    }

    /// Writers on several threads meet readers.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_memory_store_conforms_with_threads() {
        for _ in 0..10 {
            conformance::reading::snapshot_and_updates_miss_nothing(Arc::new(MemoryStore::new())).await;
            conformance::writes::a_lost_fence_stops_a_batch(Arc::new(MemoryStore::new())).await;
        }
    }

    const KEY: Key = Key::Instance(InstanceId(1));

    fn leased(renewal: u64) -> Put {
        let started_at = Timestamp(1);
        let record = InstanceRecord {
            host: "host".into(),
            state: InstanceState::Ready,
            started_at,
            renewal,
            plugins: 0,
            cleanup: None,
            holder: None,
        };
        Put { key: KEY, document: Document::Instance(record), expect: Expect::Any, lease: Some(MIN_LEASE) }
    }

    /// A write has its effect, also for followers, before its future is asked.
    #[tokio::test]
    async fn the_order_of_calls_is_the_order_of_effects() {
        let store = MemoryStore::new();
        let mut follower = store.follow(Coverage::Instances, Sequence(0)).await.unwrap();
        let (put, deleted, read) =
            (store.put(leased(1)), store.delete(KEY, Expect::Last(Sequence(1))), store.get(KEY));
        let changes: Vec<Followed> = vec![
            Followed::Update(Update {
                key: KEY,
                sequence: Sequence(1),
                change: Change::Put(leased(1).document),
            }),
            Followed::Update(Update { key: KEY, sequence: Sequence(2), change: Change::Deleted }),
        ];
        assert_eq!(follower.try_next_batch(), changes);
        assert_eq!((read.await, deleted.await, put.await), (Ok(None), Ok(()), Ok(Sequence(1))));
    }

    #[test]
    fn without_a_runtime_leases_end_when_the_bucket_is_used() {
        let store = MemoryStore::new();
        store.write(leased(1)).unwrap();
        assert!(store.shared.lock().timer.is_none());
        assert!(store.shared.lock().bucket(Bucket::Instances).get(&KEY).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_goes_with_the_last_lease_and_with_the_store() {
        let store = MemoryStore::new();
        for renewal in 1..=2 {
            store.put(leased(renewal)).await.unwrap();
            let from = store.snapshot(Coverage::Instances, Sequence(0)).await.unwrap().up_to;
            let mut follower = store.follow(Coverage::Instances, from).await.unwrap();
            let sequence = Sequence(from.0 + 1);
            let expired = Followed::Update(Update { key: KEY, sequence, change: Change::Expired });
            assert_eq!(follower.next().await, expired);
            tokio::task::yield_now().await;
            assert!(store.shared.lock().timer.is_none());
        }
        store.put(leased(3)).await.unwrap();
        let timer = store.shared.lock().timer.as_ref().unwrap().abort_handle();
        drop(store);
        tokio::task::yield_now().await;
        assert!(timer.is_finished());
    }

    #[tokio::test]
    async fn points_that_the_store_has_not_come_to_are_refused() {
        let store = MemoryStore::new();
        store.put(leased(1)).await.unwrap();
        let error = store.snapshot(Coverage::Instances, Sequence(9)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the store is unavailable: it is at sequence 1, before the 9 asked for"
        );
        let mut follower = store.follow(Coverage::Instances, Sequence(9)).await.unwrap();
        let why = "the store was recreated: it is at sequence 1, not yet at 9";
        assert_eq!(follower.next().await, Followed::Lost(why.into()));
    }

    /// I8: what is remembered of removed documents is bounded, and whoever needed more is told.
    #[tokio::test]
    async fn i8_forgotten_removals_are_not_passed_over() {
        let store = MemoryStore::with_limits(Limits { waiting: 100, removals: 2 });
        for partition in (1..=3).map(PartitionId) {
            let key = Key::Owner(partition);
            let document = Document::Owner(Claim { instance: None, nonce: 1 });
            store.put(Put { key: key.clone(), document, expect: Expect::Any, lease: None }).await.unwrap();
            store.delete(key, Expect::Any).await.unwrap();
        }
        let all = Coverage::Partitions((1..=3).map(PartitionId).collect());
        let mut early = store.follow(all.clone(), Sequence(1)).await.unwrap();
        assert_eq!(
            early.try_next(),
            Some(Followed::Lost("what was deleted after sequence 1 is forgotten".into()))
        );
        let mut late = store.follow(all, Sequence(2)).await.unwrap();
        let deleted = |partition, sequence| {
            let (key, sequence) = (Key::Owner(PartitionId(partition)), Sequence(sequence));
            Followed::Update(Update { key, sequence, change: Change::Deleted })
        };
        assert_eq!(late.try_next_batch(), [deleted(2, 4), deleted(3, 6)]);
    }

    #[tokio::test]
    async fn a_document_of_another_kind_is_refused_in_words() {
        let put = Put { key: Key::Boot, ..leased(1) };
        let Err(StoreError::Refused(why)) = MemoryStore::new().put(put).await else { panic!("accepted") };
        assert!(why.starts_with("boot must not hold Instance("), "{why}");
    }
}
