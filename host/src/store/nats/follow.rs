//! Followers: one consumer each, replaced whenever it is not certain that nothing is missing. It knows sequences, not
//! what documents mean.
//!
//! A follower is never deaf without saying so. Heartbeats tell how much the server has delivered; a gap, silence or a
//! new connection replaces the consumer by one that starts after the last update seen; every ten seconds is looked
//! whether the stream is still the same one and whether something waits that never comes. If the stream was recreated,
//! or removals may have been forgotten meanwhile, the follower is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use presence_core::documents::{Bucket, Update};
use presence_core::ids::{PartitionId, Sequence};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Shared;
use super::api::{self, Failure};
use super::consumer::Consumer;
use super::read::{partition_filters, records_filter, sessions_filter_of};
use super::streams::{MARKER_LIFE, Which};
use crate::store::{Coverage, Feed, Follower, StoreError, bucket_of};

/// How often is looked whether all is well.
const LOOK: Duration = Duration::from_secs(10);
/// Between two attempts to get a consumer.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A leader may need so long to know what its predecessor had.
const CATCHING_UP: Duration = Duration::from_secs(3);
/// A consumer to whom nothing is left is believed to have had everything after this time: a replica may lag behind.
const SETTLING: Duration = Duration::from_secs(1);

/// How it goes on.
enum Next {
    Listen,
    /// With another consumer, for this reason.
    Replace(String),
    Lost(String),
    Over,
}

struct Following {
    shared: Arc<Shared>,
    bucket: Bucket,
    filters: Vec<String>,
    feed: Feed,
    /// The last update seen, or the point started from.
    last: Sequence,
    /// The stream followed.
    created: String,
    /// Messages of the present consumer.
    count: u64,
    /// When it was last certain that nothing was missing.
    certain: Instant,
    /// The number of messages at the last look.
    looked: u64,
    before: Before,
}

/// How far what was there before the follower was begun has been passed on.
#[derive(Clone, Copy)]
enum Before {
    /// More is to come.
    Coming,
    /// Nothing seems to be left; certain at this time.
    SettledAt(Instant),
    /// All of it has been passed on.
    Told,
}

impl Shared {
    /// Starts a follower.
    pub(super) async fn follow(
        self: Arc<Shared>,
        coverage: Coverage,
        from: Sequence,
    ) -> Result<Follower, StoreError> {
        let bucket = bucket_of(&coverage);
        let (feed, follower) = Feed::new(Follower::MAX_WAITING);
        let created = match self.same_stream(bucket, None, from).await {
            Ok(created) => created,
            Err(Gone::Lost(why)) => {
                feed.lose(why);
                return Ok(follower);
            }
            Err(Gone::Failed(failure)) => return Err(failure.into()),
        };
        let Some(filters) = self.filters(&coverage) else {
            // Nothing will ever come, so the feed only has to live.
            tokio::spawn(async move { feed.abandoned().await });
            return Ok(follower);
        };
        let connections = self.link.connections();
        let consumer = self.consumer(bucket, &filters, Some(from)).await?;
        let certain = Instant::now();
        let following = Following {
            shared: self,
            bucket,
            filters,
            feed,
            last: from,
            created,
            count: 0,
            certain,
            looked: 0,
            before: if consumer.waiting == 0 {
                Before::SettledAt(certain + SETTLING)
            } else {
                Before::Coming
            },
        };
        tokio::spawn(following.run(consumer, connections));
        Ok(follower)
    }

    /// The subjects of a coverage; none at all: the whole stream. `None` for a coverage of nothing.
    fn filters(&self, coverage: &Coverage) -> Option<Vec<String>> {
        let prefix = &self.streams.names.prefix;
        let all = |partitions: &BTreeSet<PartitionId>| {
            (0..self.layout.partitions).all(|partition| partitions.contains(&PartitionId(partition)))
        };
        match coverage {
            Coverage::Instances => Some(Vec::new()),
            Coverage::Partitions(partitions) if partitions.is_empty() => None,
            Coverage::AllRecords => Some(vec![format!("{prefix}.u.*.*.*")]),
            Coverage::Records(partition, leaf) => Some(vec![records_filter(prefix, *partition, *leaf)]),
            Coverage::SessionsOf(partition, leaf, user) => {
                Some(vec![sessions_filter_of(prefix, *partition, *leaf, user)])
            }
            // One consumer without filters is cheaper than one with a thousand.
            Coverage::Partitions(partitions) | Coverage::PartitionsAndClaims(partitions)
                if all(partitions) =>
            {
                Some(Vec::new())
            }
            Coverage::Partitions(partitions) => {
                Some(partitions.iter().flat_map(|p| partition_filters(prefix, *p, true)).collect())
            }
            Coverage::PartitionsAndClaims(partitions) => {
                let of_partitions = partitions.iter().flat_map(|p| partition_filters(prefix, *p, false));
                Some(of_partitions.chain([format!("{prefix}.o.*")]).collect())
            }
        }
    }

    /// When the stream was created, if it is the one that was `created` then and has come to `last`.
    async fn same_stream(
        &self,
        bucket: Bucket,
        created: Option<&str>,
        last: Sequence,
    ) -> Result<String, Gone> {
        let deadline = Instant::now() + CATCHING_UP;
        loop {
            let info = self.streams.info(Which::Bucket(bucket)).await.map_err(Gone::Failed)?;
            if created.is_some_and(|created| created != info.created) {
                return Err(Gone::Lost(format!("the store was recreated at {}", info.created)));
            }
            let at = info.state.last_seq;
            if at >= last.0 {
                return Ok(info.created);
            }
            if Instant::now() > deadline {
                let why = format!("the store was recreated: it is at sequence {at}, not yet at {}", last.0);
                return Err(Gone::Lost(why));
            }
            tokio::time::sleep(CATCHING_UP / 10).await;
        }
    }
}

/// Why a stream can't be followed from there.
enum Gone {
    Lost(String),
    Failed(Failure),
}

impl Following {
    async fn run(mut self, consumer: Consumer, mut connections: watch::Receiver<u64>) {
        let mut consumer = consumer;
        let mut since = Instant::now();
        loop {
            match self.listen(&mut consumer, &mut connections).await {
                Next::Listen => {}
                Next::Over => return,
                Next::Lost(why) => {
                    tracing::warn!(bucket = ?self.bucket, why, "a follower is lost");
                    return self.feed.lose(why);
                }
                Next::Replace(why) => {
                    tracing::debug!(bucket = ?self.bucket, why, after = self.last.0, "a consumer is replaced");
                    drop(consumer);
                    if since.elapsed() < LONGEST_PAUSE {
                        tokio::time::sleep(FIRST_PAUSE).await;
                    }
                    since = Instant::now();
                    match self.replace(&why).await {
                        Ok(replaced) => consumer = replaced,
                        Err(Some(why)) => {
                            tracing::warn!(bucket = ?self.bucket, why, "a follower is lost");
                            return self.feed.lose(why);
                        }
                        Err(None) => return,
                    }
                }
            }
        }
    }

    /// Passes on what comes until something is wrong.
    async fn listen(&mut self, consumer: &mut Consumer, connections: &mut watch::Receiver<u64>) -> Next {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.reset();
        loop {
            let silent_at = consumer.silent_at();
            let (settling, settled_at) = match self.before {
                Before::SettledAt(at) => (true, at),
                Before::Coming | Before::Told => (false, silent_at),
            };
            let next = tokio::select! {
                biased;
                () = self.feed.abandoned() => return Next::Over,
                message = consumer.next() => match message {
                    Some(message) => self.handle(&message, consumer),
                    None => Next::Lost("the connection to NATS has ended".into()),
                },
                // The sender lives as long as the connection.
                Ok(()) = connections.changed() => Next::Replace("there is a new connection".into()),
                _ = look.tick() => self.look(consumer).await,
                () = tokio::time::sleep_until(settled_at), if settling => {
                    self.before = Before::Told;
                    self.feed.caught_up();
                    Next::Listen
                }
                () = tokio::time::sleep_until(silent_at) => Next::Replace("the server is silent".into()),
            };
            match next {
                Next::Listen => {}
                other => return other,
            }
        }
    }

    fn handle(&mut self, message: &Message, consumer: &Consumer) -> Next {
        let Some(place) = message.reply.as_ref().and_then(|reply| api::delivery(reply)) else {
            return match consumer.handle_control(message) {
                Err(why) => Next::Replace(why),
                Ok(Some((delivered, _))) if delivered > self.count => {
                    Next::Replace(format!("{} messages are missing", delivered - self.count))
                }
                Ok(Some((_, up_to))) => {
                    self.certain = Instant::now();
                    // What lies between is none of ours.
                    self.last = self.last.max(up_to);
                    Next::Listen
                }
                Ok(None) => Next::Listen,
            };
        };
        if place.count != self.count + 1 {
            return Next::Replace(format!("message {} came after {}", place.count, self.count));
        }
        self.count = place.count;
        if place.pending == 0 && matches!(self.before, Before::Coming) {
            self.before = Before::SettledAt(Instant::now() + SETTLING);
        }
        // A server that lags behind starts earlier than it was told to.
        if place.sequence <= self.last {
            return Next::Listen;
        }
        self.last = place.sequence;
        self.certain = Instant::now();
        let Some(update) = self.update(message, place.sequence) else {
            return Next::Listen;
        };
        if self.feed.push(update) { Next::Listen } else { Next::Over }
    }

    fn update(&self, message: &Message, sequence: Sequence) -> Option<Update> {
        let key = self.shared.key_of(&message.subject)?;
        let change = match api::removal_of(message.headers.as_ref()) {
            Some(removal) => removal,
            None => {
                let document = self.shared.decode(&key, &message.payload)?;
                self.shared.note_trace(&key, sequence, &message.payload);
                presence_core::documents::Change::Put(document)
            }
        };
        Some(Update { key, sequence, change })
    }

    /// Is it still the same stream, and does what waits there come?
    async fn look(&mut self, consumer: &Consumer) -> Next {
        match self.shared.same_stream(self.bucket, Some(&self.created), self.last).await {
            Ok(_) => {}
            Err(Gone::Lost(why)) => return Next::Lost(why),
            // Heartbeats tell when the server is gone.
            Err(Gone::Failed(_)) => return Next::Listen,
        }
        let stuck = std::mem::replace(&mut self.looked, self.count) == self.count;
        match consumer.pending(&self.shared).await {
            Ok(0) => Next::Listen,
            Ok(pending) if stuck => Next::Replace(format!("{pending} messages wait and do not come")),
            Ok(_) => Next::Listen,
            Err(error) => Next::Replace(format!("the consumer can't be asked: {error:?}")),
        }
    }

    /// Another consumer from where the last one was; `Err(None)`: nobody follows any more.
    async fn replace(&mut self, why: &str) -> Result<Consumer, Option<String>> {
        let mut pause = FIRST_PAUSE;
        loop {
            // Removals are remembered for a while only.
            if self.certain.elapsed() > MARKER_LIFE / 2 {
                return Err(Some(format!("nothing was heard for {:?}: {why}", MARKER_LIFE / 2)));
            }
            if self.feed.is_over() {
                return Err(None);
            }
            let failure = match self.shared.same_stream(self.bucket, Some(&self.created), self.last).await {
                Ok(_) => match self.shared.consumer(self.bucket, &self.filters, Some(self.last)).await {
                    Ok(consumer) => {
                        self.count = 0;
                        self.looked = 0;
                        if consumer.waiting == 0 && matches!(self.before, Before::Coming) {
                            self.before = Before::SettledAt(Instant::now() + SETTLING);
                        }
                        return Ok(consumer);
                    }
                    Err(failure) => failure,
                },
                Err(Gone::Lost(why)) => return Err(Some(why)),
                Err(Gone::Failed(failure)) => failure,
            };
            tracing::debug!(bucket = ?self.bucket, ?failure, "no consumer");
            tokio::select! {
                () = self.feed.abandoned() => return Err(None),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
