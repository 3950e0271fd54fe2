//! The updates that wait for one follower: bounded, and of one key only the newest has to be kept. Every store feeds
//! its followers through this. It knows nothing of where updates come from.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use presence_core::documents::{Key, Update};
use tokio::sync::Notify;

/// What a follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next update.
    Update(Update),
    /// Updates were missed or the store was recreated: take a snapshot and follow again. Nothing new comes after it.
    Lost(String),
}

/// A running [`Store::follow`](super::Store::follow). All waiting can be given up at any time without losing an
/// update. After a [`Followed::Lost`] every call answers that same `Lost`.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
}

/// Where a store puts the updates of one follower. Dropping it ends the follower with a [`Followed::Lost`].
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Notify,
    abandoned: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    updates: VecDeque<Followed>,
    lost: Option<String>,
    abandoned: bool,
    caught_up: bool,
}

impl Follower {
    /// So many keys may have an update waiting for one follower (at most twice as many updates): a few megabytes.
    pub const MAX_WAITING: usize = 65_536;

    /// The next update, or the end.
    pub async fn next(&mut self) -> Followed {
        loop {
            if let Some(followed) = self.try_next() {
                return followed;
            }
            self.shared.filled.notified().await;
        }
    }

    /// The next update, if one waits.
    pub fn try_next(&mut self) -> Option<Followed> {
        let mut waiting = self.shared.lock();
        waiting.updates.pop_front().or_else(|| waiting.lost.clone().map(Followed::Lost))
    }

    /// All updates that wait, at least one, in order. A `Lost` stands alone.
    pub async fn next_batch(&mut self) -> Vec<Followed> {
        loop {
            let batch = self.try_next_batch();
            if !batch.is_empty() {
                return batch;
            }
            self.shared.filled.notified().await;
        }
    }

    /// The same; or none once everything of before this follower was begun has been taken. Then always none while nothing
    /// waits.
    pub async fn next_batch_of_before(&mut self) -> Option<Vec<Followed>> {
        loop {
            // In this order: what is pushed in between is newer.
            let caught_up = self.shared.lock().caught_up;
            let batch = self.try_next_batch();
            if !batch.is_empty() {
                return Some(batch);
            }
            if caught_up {
                return None;
            }
            self.shared.filled.notified().await;
        }
    }

    /// All updates that wait now, perhaps none, in order. A `Lost` stands alone.
    pub fn try_next_batch(&mut self) -> Vec<Followed> {
        let mut waiting = self.shared.lock();
        if let Some(why) = &waiting.lost {
            return vec![Followed::Lost(why.clone())];
        }
        std::mem::take(&mut waiting.updates).into()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.abandoned = true;
        waiting.updates = VecDeque::new();
        drop(waiting);
        self.shared.abandoned.notify_one();
    }
}

impl Feed {
    /// A follower of at most `limit` keys with an update waiting (see [`Follower::MAX_WAITING`]), and where to put
    /// them.
    pub fn new(limit: usize) -> (Feed, Follower) {
        let shared = Arc::new(Shared::default());
        (Feed { shared: shared.clone(), limit: limit.max(1) }, Follower { shared })
    }

    /// Queues an update; sequences must grow. False when nobody follows any more: drop this feed. A follower that is
    /// too far behind is ended with a `Lost`.
    pub fn push(&self, update: Update) -> bool {
        let mut waiting = self.shared.lock();
        if waiting.over() {
            return false;
        }
        // Looking for an older update of the key on every push would cost more than the push itself, so that is done
        // once for many.
        if waiting.updates.len() >= self.limit * 2 {
            keep_newest(&mut waiting.updates);
            if waiting.updates.len() > self.limit {
                waiting
                    .lose(format!("more than {} documents changed before they were looked at", self.limit));
                drop(waiting);
                self.shared.filled.notify_one();
                return false;
            }
        }
        let was_empty = waiting.updates.is_empty();
        waiting.updates.push_back(Followed::Update(update));
        drop(waiting);
        if was_empty {
            self.shared.filled.notify_one();
        }
        true
    }

    /// Everything of before the follower was begun has been pushed.
    pub fn caught_up(&self) {
        self.shared.lock().caught_up = true;
        self.shared.filled.notify_one();
    }

    /// Ends the follower with this reason; what waits is dropped, since the follower starts over anyway.
    pub fn lose(&self, why: String) {
        let mut waiting = self.shared.lock();
        if waiting.over() {
            return;
        }
        waiting.lose(why);
        drop(waiting);
        self.shared.filled.notify_one();
    }

    /// Waits until the follower is dropped. For the one task that owns this feed.
    pub async fn abandoned(&self) {
        while !self.shared.lock().abandoned {
            self.shared.abandoned.notified().await;
        }
    }

    /// True when nobody follows any more: drop this feed.
    pub fn is_over(&self) -> bool {
        self.shared.lock().over()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.lose("the store has stopped telling updates".into());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn over(&self) -> bool {
        self.abandoned || self.lost.is_some()
    }

    fn lose(&mut self, why: String) {
        self.updates = VecDeque::new();
        self.lost = Some(why);
    }
}

/// Drops every update that a later one of the same key makes superfluous.
fn keep_newest(updates: &mut VecDeque<Followed>) {
    let mut seen: HashSet<&Key, foldhash::fast::RandomState> = HashSet::default();
    let newest: Vec<bool> = updates
        .iter()
        .rev()
        .map(|followed| match followed {
            Followed::Update(update) => seen.insert(&update.key),
            Followed::Lost(_) => true,
        })
        .collect();
    let mut newest = newest.into_iter().rev();
    updates.retain(|_| newest.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use presence_core::documents::Change;
    use presence_core::ids::{InstanceId, Sequence};

    use super::*;

    fn update(key: u128, sequence: u64) -> Update {
        Update { key: Key::Instance(InstanceId(key)), sequence: Sequence(sequence), change: Change::Deleted }
    }

    fn followed(key: u128, sequence: u64) -> Followed {
        Followed::Update(update(key, sequence))
    }

    #[tokio::test]
    async fn updates_come_in_order_one_by_one_or_together() {
        let (feed, mut follower) = Feed::new(10);
        assert_eq!(follower.try_next(), None);
        assert_eq!(follower.try_next_batch(), vec![]);
        for sequence in 1..=4 {
            assert!(feed.push(update(1, sequence)));
        }
        assert_eq!(follower.next().await, followed(1, 1));
        assert_eq!(follower.next_batch().await, vec![followed(1, 2), followed(1, 3), followed(1, 4)]);
        assert_eq!(follower.try_next(), None);
    }

    #[tokio::test]
    async fn a_waiting_follower_is_woken() {
        let (feed, mut follower) = Feed::new(10);
        let waiting = tokio::spawn(async move { (follower.next().await, follower.next().await) });
        tokio::task::yield_now().await;
        assert!(feed.push(update(1, 1)));
        tokio::task::yield_now().await;
        assert!(feed.push(update(2, 2)));
        assert_eq!(waiting.await.unwrap(), (followed(1, 1), followed(2, 2)));
    }

    /// I8: whoever writes the same few keys for ever never fills a follower.
    #[test]
    fn i8_a_lagging_follower_keeps_the_newest_of_each_key() {
        let (feed, mut follower) = Feed::new(3);
        for sequence in 1..=1_000 {
            assert!(feed.push(update(u128::from(sequence % 3), sequence)));
            assert!(follower.shared.lock().updates.len() <= 6);
        }
        let batch = follower.try_next_batch();
        let tail: Vec<Followed> = (998..=1_000).map(|n| followed(u128::from(n % 3), n)).collect();
        assert_eq!(batch[batch.len() - 3..], tail[..]);
        assert!(batch.is_sorted_by_key(|followed| match followed {
            Followed::Update(update) => update.sequence,
            Followed::Lost(_) => Sequence(0),
        }));
    }

    /// I8: a follower that is too far behind starts over instead of growing.
    #[test]
    fn i8_a_follower_too_far_behind_is_lost() {
        let (feed, mut follower) = Feed::new(3);
        let accepted = (1..=100).take_while(|n| feed.push(update(u128::from(*n), *n))).count();
        assert_eq!(accepted, 6);
        assert!(feed.is_over());
        let lost = Followed::Lost("more than 3 documents changed before they were looked at".into());
        assert_eq!(follower.try_next_batch(), vec![lost.clone()]);
        assert_eq!(follower.try_next(), Some(lost.clone()));
        assert_eq!(follower.try_next(), Some(lost));
    }

    #[tokio::test]
    async fn what_was_before_has_an_end() {
        let (feed, mut follower) = Feed::new(10);
        feed.push(update(1, 1));
        assert_eq!(follower.next_batch_of_before().await, Some(vec![followed(1, 1)]));
        let waiting = tokio::spawn(async move { (follower.next_batch_of_before().await, follower) });
        tokio::task::yield_now().await;
        feed.caught_up();
        let (end, mut follower) = waiting.await.unwrap();
        assert_eq!(end, None);
        feed.push(update(2, 2));
        assert_eq!(follower.next_batch_of_before().await, Some(vec![followed(2, 2)]));
        assert_eq!(follower.next_batch_of_before().await, None);
    }

    #[tokio::test]
    async fn either_end_may_leave() {
        let (feed, follower) = Feed::new(3);
        drop(follower);
        feed.abandoned().await;
        assert!(feed.is_over());
        assert!(!feed.push(update(1, 1)));

        let (feed, mut follower) = Feed::new(3);
        feed.push(update(1, 1));
        drop(feed);
        assert_eq!(follower.next().await, Followed::Lost("the store has stopped telling updates".into()));
    }
}
