//! One host's way to the shared truth: a [`Store`] whose requests and answers take time, get lost, come late, and
//! whose followers lag. It knows no fault by name; it looks at the links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use presence_core::documents::{Bucket, Document, Expect, Key};
use presence_core::ids::{InstanceId, Sequence, UserId};
use presence_core::time::Timestamp;
use presence_host::store::{
    Coverage, DeadLetter, Feed, Followed, Follower, Notice, Noticed, Notices, Purge, Put, Questions,
    Snapshot, Store, StoreError,
};
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::clock::EPOCH;
use super::journal::{lock, millis};
use super::links::Way;
use super::plan::{ANSWER_TIMEOUT, Plant, rng};
use super::truth::{Origin, Truth};
use super::world::World;

/// The store as one run of a host sees it. Cheap to clone.
#[derive(Clone)]
pub(super) struct SimStore {
    world: Arc<World>,
    origin: Origin,
    own: Arc<Own>,
}

struct Own {
    random: Mutex<fastrand::Rng>,
    /// When the last unconditional write of a key arrives: the next one does not overtake it.
    order: Mutex<BTreeMap<Key, Instant>>,
    notices: broadcast::Sender<Noticed>,
    watched: Mutex<BTreeSet<UserId>>,
}

impl SimStore {
    pub(super) fn new(world: Arc<World>, origin: Origin) -> SimStore {
        let random = Mutex::new(rng(world.seed, &format!("store {origin}")));
        let own = Own {
            random,
            order: Mutex::default(),
            notices: broadcast::Sender::new(Notices::MAX_WAITING),
            watched: Mutex::default(),
        };
        let store = SimStore { world: world.clone(), origin, own: Arc::new(own) };
        lock(&world.stores).insert(origin, store.clone());
        store
    }

    /// Plans a request. Unconditional writes of one key stay in order; conditional ones may overtake each other, since
    /// at most one of them takes effect (a fenced one is repaired by its writer).
    fn way(&self, ordered: Option<&Key>) -> Way {
        let mut way = lock(&self.world.links).way(&mut lock(&self.own.random));
        let Some(key) = ordered else { return way };
        if let Some(stray) = way.stray.take() {
            way.request_lost = false;
            way.lands = stray;
        }
        let mut order = lock(&self.own.order);
        if let Some(before) = order.get(key) {
            way.lands = way.lands.max(*before);
        }
        order.insert(key.clone(), way.lands);
        way
    }

    /// Sends a request and waits for the answer. Both go on when the asking host has died.
    fn ask<T: Send + 'static>(
        &self,
        way: Way,
        work: impl Fn(&mut Truth) -> T + Send + 'static,
        unavailable: impl Fn(StoreError) -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        let (world, host) = (self.world.clone(), self.origin.host);
        let sent = Instant::now();
        let cut = lock(&self.world.links).unreachable_until(host).is_some();
        // What was sent to a store that is gone goes with it.
        let wipes = lock(&self.world.truth).wipes;
        tokio::spawn(async move {
            let reaches = |world: &World| {
                lock(&world.links).unreachable_until(host).is_none() && lock(&world.truth).wipes == wipes
            };
            sleep_until(way.lands).await;
            let mut result = None;
            if !way.request_lost && !cut && reaches(&world) {
                result = Some(if lock(&world.links).unavailable() {
                    unavailable(StoreError::Unavailable("simulated: there is no store now".into()))
                } else {
                    work(&mut lock(&world.truth))
                });
                if result.is_some() {
                    sleep(way.back).await;
                }
            }
            if let Some(result) = result
                && !way.answer_lost
                && reaches(&world)
            {
                // Whoever asked may be dead.
                let _ = answer.send(result);
            } else {
                drop(answer);
            }
            if let Some(stray) = way.stray {
                sleep_until(stray).await;
                if reaches(&world) && !lock(&world.links).unavailable() {
                    world.journal.count("request that arrived late");
                    world.journal.note(format_args!("a late request of h{host} arrives"));
                    work(&mut lock(&world.truth));
                }
            }
        });
        async move {
            let answer = async {
                match answered.await {
                    Ok(answer) => answer,
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::time::timeout_at(sent + ANSWER_TIMEOUT, answer).await.ok()
        }
    }

    fn ask_result<T: Send + 'static>(
        &self,
        ordered: Option<&Key>,
        work: impl Fn(&mut Truth) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let asked = self.ask(self.way(ordered), work, Err);
        asked.map(|answer| answer.unwrap_or_else(|| Err(no_answer()))).boxed()
    }

    /// A read has one copy: a second one would change nothing.
    fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Truth) -> BoxFuture<'static, Result<T, StoreError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let mut way = self.way(None);
        way.stray = None;
        let asked = self.ask(way, move |truth| now(work(truth)), Err);
        asked.map(|answer| answer.unwrap_or_else(|| Err(no_answer()))).boxed()
    }

    /// The plant: tells of a success at once; the write comes later, or never.
    fn acknowledge_too_early(
        &self,
        fence: (Key, Sequence),
        documents: Vec<(Key, Document)>,
    ) -> Vec<Sequence> {
        let truth = lock(&self.world.truth);
        let coverage = Coverage::Partitions(BTreeSet::new());
        let last = now(truth.store().snapshot(coverage, Sequence(0))).map_or(0, |snapshot| snapshot.up_to.0);
        drop(truth);
        let sequences = (1..=documents.len() as u64).map(|more| Sequence(last + more)).collect();
        let (later, never) = {
            let mut random = lock(&self.own.random);
            (millis(&mut random, 1..=500), random.u8(..) < 64)
        };
        let (world, origin) = (self.world.clone(), self.origin);
        tokio::spawn(async move {
            sleep(later).await;
            if !never {
                lock(&world.truth).put_fenced(origin, fence, documents, usize::MAX);
            }
        });
        sequences
    }

    /// Hands the updates of the truth on, in order, each batch after a while.
    async fn relay(self, mut updates: Follower, feed: Feed) {
        let mut before = true;
        loop {
            let batch = match before {
                true => updates.next_batch_of_before().await,
                false => Some(updates.next_batch().await),
            };
            let Some(batch) = batch else {
                before = false;
                feed.caught_up();
                continue;
            };
            let delay = lock(&self.world.links).delay(&mut lock(&self.own.random));
            sleep(delay).await;
            loop {
                let back = lock(&self.world.links).unreachable_until(self.origin.host);
                let Some(back) = back else { break };
                sleep_until(back).await;
                if lock(&self.own.random).u8(..) < 80 {
                    self.world.journal.count("follower lost");
                    feed.lose("simulated: the connection was away".into());
                    return;
                }
            }
            for followed in batch {
                match followed {
                    Followed::Update(update) => {
                        if !feed.push(update) {
                            return;
                        }
                    }
                    Followed::Lost(why) => {
                        self.world.journal.count("follower lost");
                        self.world.journal.note(format_args!("{} is told: {why}", self.origin));
                        return feed.lose(why);
                    }
                }
            }
        }
    }

    /// A notice on its way to this host.
    fn hear(&self, user: &UserId, noticed: Noticed) {
        if !lock(&self.own.watched).contains(user) {
            return;
        }
        let (lost, delay) = {
            let links = lock(&self.world.links);
            let mut random = lock(&self.own.random);
            let lost = links.unreachable_until(self.origin.host).is_some()
                || (links.is_lossy() && random.u8(..) < 80);
            (lost, links.delay(&mut random))
        };
        if lost {
            self.world.journal.count("notice lost");
            return;
        }
        let notices = self.own.notices.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            let _ = notices.send(noticed);
        });
    }

    fn tell_all(&self, user: &UserId, noticed: &Noticed) {
        let stores: Vec<SimStore> = lock(&self.world.stores).values().cloned().collect();
        for store in stores {
            store.hear(user, noticed.clone());
        }
    }
}

fn no_answer() -> StoreError {
    StoreError::Unknown("simulated: no answer within 5 s".into())
}

fn now<T>(future: BoxFuture<'static, Result<T, StoreError>>) -> Result<T, StoreError> {
    future.now_or_never().unwrap_or_else(|| Err(no_answer()))
}

impl Store for SimStore {
    fn put(&self, put: Put) -> BoxFuture<'static, Result<Sequence, StoreError>> {
        let origin = self.origin;
        let ordered = (put.expect == Expect::Any).then(|| put.key.clone());
        self.ask_result(ordered.as_ref(), move |truth| truth.put(origin, put.clone()))
    }

    fn put_fenced(
        &self,
        fence: (Key, Sequence),
        documents: Vec<(Key, Document)>,
    ) -> BoxFuture<'static, (Vec<Sequence>, Option<StoreError>)> {
        if self.world.plan.plant == Plant::HookBeforeRecord {
            let sequences = self.acknowledge_too_early(fence, documents);
            return futures_util::future::ready((sequences, None)).boxed();
        }
        let origin = self.origin;
        let partly = lock(&self.world.links).is_lossy() && lock(&self.own.random).u8(..) < 16;
        let at_most = if partly { documents.len() / 2 } else { usize::MAX };
        let work =
            move |truth: &mut Truth| truth.put_fenced(origin, fence.clone(), documents.clone(), at_most);
        let asked = self.ask(self.way(None), work, |error| (Vec::new(), Some(error)));
        asked.map(|answer| answer.unwrap_or_else(|| (Vec::new(), Some(no_answer())))).boxed()
    }

    fn delete(&self, key: Key, expect: Expect) -> BoxFuture<'static, Result<(), StoreError>> {
        let origin = self.origin;
        let ordered = (expect == Expect::Any).then(|| key.clone());
        let work = move |truth: &mut Truth| truth.delete(origin, key.clone(), expect.clone());
        self.ask_result(ordered.as_ref(), work)
    }

    fn purge_sessions(&self, which: Purge) -> BoxFuture<'static, Result<u64, StoreError>> {
        let origin = self.origin;
        self.ask_result(None, move |truth| Ok(truth.purge_sessions(origin, which.clone())))
    }

    fn get(&self, key: Key) -> BoxFuture<'static, Result<Option<(Sequence, Document)>, StoreError>> {
        self.read(move |truth| truth.store().get(key.clone()))
    }

    fn snapshot(
        &self,
        coverage: Coverage,
        at_least: Sequence,
    ) -> BoxFuture<'static, Result<Snapshot, StoreError>> {
        let plant = self.world.plan.plant == Plant::ConsumerForSnapshot;
        let first = {
            let coverage = coverage.clone();
            self.read(move |truth| truth.store().snapshot(coverage.clone(), at_least))
        };
        let second = (lock(&self.own.random).u8(..) < 64).then(|| self.clone());
        let world = self.world.clone();
        let take_apart = async move {
            let mut snapshot = first.await?;
            let wipes = lock(&world.truth).wipes;
            if plant && at_least > Sequence(0) && bucket(&coverage) == Bucket::Sessions {
                snapshot.documents.retain(|(_, sequence, _)| *sequence <= at_least);
            }
            // Read in two steps: what the second one covers is newer than the point.
            if let Some(store) = second
                && !plant
            {
                let newer =
                    store.read(move |truth| truth.store().snapshot(coverage.clone(), at_least)).await?;
                if lock(&world.truth).wipes != wipes {
                    return Err(StoreError::Unavailable("simulated: recreated in between".into()));
                }
                snapshot.documents.retain(|(key, _, _)| in_first_step(key));
                snapshot
                    .documents
                    .extend(newer.documents.into_iter().filter(|(key, _, _)| !in_first_step(key)));
                snapshot.documents.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            }
            Ok(snapshot)
        };
        take_apart.boxed()
    }

    fn sessions_of(
        &self,
        instance: InstanceId,
    ) -> BoxFuture<'static, Result<Vec<(Key, Document)>, StoreError>> {
        self.read(move |truth| truth.store().sessions_of(instance))
    }

    fn follow(&self, coverage: Coverage, from: Sequence) -> BoxFuture<'static, Result<Follower, StoreError>> {
        let what = format!("{coverage:?} from {}", from.0);
        let asked = self.read(move |truth| truth.store().follow(coverage.clone(), from));
        let store = self.clone();
        let relayed = async move {
            let updates = asked.await?;
            store.world.journal.note(format_args!("{} follows {what}", store.origin));
            let (feed, follower) = Feed::new(Follower::MAX_WAITING);
            tokio::spawn(store.relay(updates, feed));
            Ok(follower)
        };
        relayed.boxed()
    }

    fn notify(&self, notice: Notice) {
        self.tell_all(&notice.user.clone(), &Noticed::Notice(notice));
    }

    fn notify_details(&self, user: &UserId) {
        self.tell_all(user, &Noticed::Details(user.clone()));
    }

    fn notices(&self) -> Notices {
        Notices::new(&self.own.notices)
    }

    fn watch(&self, user: &UserId) {
        lock(&self.own.watched).insert(user.clone());
    }

    fn unwatch(&self, user: &UserId) {
        lock(&self.own.watched).remove(user);
    }

    // Whoever asks for details watches the status too.
    fn watch_details(&self, _user: &UserId) {}

    fn unwatch_details(&self, _user: &UserId) {}

    fn clock(&self) -> BoxFuture<'static, Result<Option<Timestamp>, StoreError>> {
        let journal = self.world.journal.clone();
        self.ask_result(None, move |_| Ok(Some(Timestamp(EPOCH + journal.millis()))))
    }

    fn push_dead_letter(&self, letter: DeadLetter) -> BoxFuture<'static, Result<u64, StoreError>> {
        let mut way = self.way(None);
        way.stray = None;
        let work = move |truth: &mut Truth| now(truth.store().push_dead_letter(letter.clone()));
        self.ask(way, work, Err).map(|answer| answer.unwrap_or_else(|| Err(no_answer()))).boxed()
    }

    fn dead_letters(&self) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>> {
        self.read(|truth| truth.store().dead_letters())
    }

    fn dead_letter(&self, number: u64) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>> {
        self.read(move |truth| truth.store().dead_letter(number))
    }

    fn remove_dead_letter(&self, number: u64) -> BoxFuture<'static, Result<bool, StoreError>> {
        let mut way = self.way(None);
        way.stray = None;
        let work = move |truth: &mut Truth| now(truth.store().remove_dead_letter(number));
        self.ask(way, work, Err).map(|answer| answer.unwrap_or_else(|| Err(no_answer()))).boxed()
    }

    fn ask(&self, question: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, StoreError>> {
        if lock(&self.world.links).unreachable_until(self.origin.host).is_some() {
            return async {
                tokio::time::sleep(ANSWER_TIMEOUT).await;
                Err(no_answer())
            }
            .boxed();
        }
        lock(&self.world.truth).subjects().ask(question)
    }

    fn questions(&self) -> Questions {
        lock(&self.world.truth).subjects().questions()
    }

    fn describe(&self) -> String {
        format!("simulated, of {}", self.origin)
    }
}

fn bucket(coverage: &Coverage) -> Bucket {
    presence_host::store::bucket_of(coverage)
}

/// Which documents are read first, when a snapshot is read in two steps.
fn in_first_step(key: &Key) -> bool {
    match key {
        Key::Sessions(_, leaf, ..) | Key::User(_, leaf, _) => leaf.0 == 0,
        _ => true,
    }
}
