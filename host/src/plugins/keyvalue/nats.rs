//! Buckets in a stream of NATS JetStream: the same for all hosts of a deployment, and lasting.
//!
//! One stream `<prefix>_keyvalue`; a key is a subject (`nats/subjects.rs`), its value the last message there, its
//! version that message's sequence. A deletion removes the message and leaves nothing; sequences go on, and a stream
//! that is made anew starts at the present microsecond, so no version comes back. Everything is asked of the stream's
//! leader: a read sees every write that was acknowledged before.
//!
//! A write whose answer does not come is repeated if it has an expectation, with the same one; if that fails then, the
//! write's number, which stands in the message, tells whether it was our own first attempt that won. A write without
//! one may arrive late: it is told as unavailable.
//!
//! Bounds: `MAX_KEYS` are counted by each host from time to time, so hosts that write at once may go past it by some
//! thousands. Bytes are bounded for the stream as a whole, if its operator gives it `max_bytes`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Client;
use futures_util::FutureExt;
use serde_json::{Value, json};

use self::api::{Api, Failure, Message};
use self::subjects::{base, filter, key as key_of, subject};
use super::{Answer, Bucket, Entry, KeyValue, KeyValueError, MAX_KEYS, PAGE_KEYS, Page, add, bucket_full};
use crate::clock::Clock;

mod api;
mod subjects;

/// How often a request is attempted before it is told as unavailable.
const TRIES: u32 = 3;
/// How often an increment is tried against other writers; one of them gets on every time.
const INCREMENTS: u32 = 100;
/// So many writes that may have made a key pass between two counts of a bucket, at least.
const UNCOUNTED: usize = 1000;
/// A bucket is counted so often at most.
const COUNT_PAUSE: Duration = Duration::from_secs(1);
/// So many listings are kept for their next page, so long.
const LISTINGS: usize = 4;
const LISTING_LIFE: Duration = Duration::from_secs(30);

/// All buckets of all plugins of a deployment.
pub struct NatsKeyValue {
    api: Api,
    prefix: String,
    /// How the stream is made.
    config: Value,
    /// By the beginning of their subjects; there are as many as grants name.
    rooms: Mutex<BTreeMap<String, Room>>,
    counting: tokio::sync::Mutex<()>,
    listings: Mutex<Vec<Listing>>,
    max_keys: usize,
}

/// How full a bucket is.
struct Room {
    /// At the last count.
    keys: usize,
    /// Writes since then that may have made a key.
    writes: usize,
    counted: Instant,
}

/// Keys in order, of which pages were handed out up to one.
struct Listing {
    filter: String,
    next: String,
    keys: Vec<String>,
    at: Instant,
}

impl NatsKeyValue {
    /// Finds the stream, or creates it. `prefix` is the deployment's, `replicas` how many servers keep a new stream.
    pub async fn open(client: Client, prefix: &str, replicas: u8) -> Result<NatsKeyValue, KeyValueError> {
        let stream = format!("{prefix}_keyvalue");
        let config = json!({
            "name": stream,
            "subjects": [format!("{prefix}.k.>")],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_direct": false,
        });
        let store = NatsKeyValue {
            api: Api::new(client, stream),
            prefix: prefix.to_owned(),
            config,
            rooms: Mutex::default(),
            counting: tokio::sync::Mutex::default(),
            listings: Mutex::default(),
            max_keys: MAX_KEYS,
        };
        store.ensure().await?;
        Ok(store)
    }

    /// The same with another limit than [`MAX_KEYS`].
    pub fn with_max_keys(self, max_keys: usize) -> NatsKeyValue {
        NatsKeyValue { max_keys, ..self }
    }

    async fn ensure(&self) -> Result<(), KeyValueError> {
        let found = match self.api.info().await {
            Err(Failure::NoStream(_)) => {
                let mut config = self.config.clone();
                config["first_seq"] = json!(Clock::machine().wall().0.saturating_mul(1000));
                match self.api.create(&config).await {
                    // Hosts that start together each count from a microsecond of their own: one of them was first.
                    Err(Failure::Exists(_)) => self.api.info().await?.config,
                    created => created?.config,
                }
            }
            found => found?.config,
        };
        for field in ["subjects", "retention", "max_msgs_per_subject", "discard"] {
            let (found, wanted) = (&found[field], &self.config[field]);
            if found != wanted {
                let stream = &self.config["name"];
                let text = format!("the stream {stream} is not ours: {field} is {found}, not {wanted}");
                return Err(KeyValueError::Denied(text));
            }
        }
        Ok(())
    }

    async fn read(&self, subject: &str) -> Result<Option<Message>, Failure> {
        let mut tries = 1;
        loop {
            match self.api.last(subject).await {
                Ok(message) => return Ok(Some(message)),
                Err(Failure::Nothing) => return Ok(None),
                Err(Failure::Unclear(_)) if tries < TRIES => tries += 1,
                Err(failure) => return Err(self.noted(failure).await),
            }
        }
    }

    /// A conditional write is repeated until it is clear what became of it.
    async fn write(&self, subject: &str, expected: Option<u64>, value: &[u8]) -> Result<u64, Failure> {
        let number = format!("{:032x}", fastrand::u128(..));
        let mut tries = 1;
        loop {
            match self.api.publish(subject, expected, &number, value).await {
                Err(Failure::Unclear(_)) if expected.is_some() && tries < TRIES => tries += 1,
                Err(Failure::Conflict) if tries > 1 => {
                    let last = self.read(subject).await?;
                    let own = last.filter(|message| message.write.as_deref() == Some(number.as_str()));
                    return own.map(|message| message.sequence).ok_or(Failure::Conflict);
                }
                Ok(sequence) => return Ok(sequence),
                Err(failure) => return Err(self.noted(failure).await),
            }
        }
    }

    /// A stream that was taken away is made anew; whoever needed it comes again.
    async fn noted(&self, failure: Failure) -> Failure {
        if let Failure::NoStream(_) = failure
            && let Err(error) = self.ensure().await
        {
            tracing::warn!(%error, "keyvalue has no stream");
        }
        failure
    }

    /// Whether a bucket has room for one more key, as far as this host knows.
    async fn has_room(&self, base: &str) -> Result<bool, Failure> {
        let fresh = || {
            let mut rooms = self.rooms();
            let room = rooms.get_mut(base).filter(|room| room.is_fresh(self.max_keys))?;
            Some(room.admit(self.max_keys))
        };
        if let Some(fits) = fresh() {
            return Ok(fits);
        }
        // One counts, the others wait for that.
        let _counting = self.counting.lock().await;
        if let Some(fits) = fresh() {
            return Ok(fits);
        }
        let keys = self.api.count(&filter(base, "")).await?;
        let mut room = Room { keys, writes: 0, counted: Instant::now() };
        let fits = room.admit(self.max_keys);
        self.rooms().insert(base.to_owned(), room);
        Ok(fits)
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<String, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> KeyValueError {
        bucket_full(self.max_keys as u64, "keys")
    }

    async fn write_new(&self, base: &str, subject: &str, value: &[u8]) -> Result<Option<u64>, KeyValueError> {
        if !self.has_room(base).await? {
            return Err(self.full());
        }
        conditional(self.write(subject, Some(0), value).await)
    }

    async fn add(&self, base: &str, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let subject = subject(base, key);
        for _ in 0..INCREMENTS {
            let last = self.read(&subject).await?;
            let sum = add(key, last.as_ref().map(|message| message.value.as_slice()), delta)?;
            let text = sum.to_string();
            let written = match last {
                None => self.write_new(base, &subject, text.as_bytes()).await?,
                Some(message) => {
                    conditional(self.write(&subject, Some(message.sequence), text.as_bytes()).await)?
                }
            };
            if written.is_some() {
                return Ok(sum);
            }
        }
        Err(KeyValueError::Unavailable(format!("{key:?} is written by too many at once")))
    }

    /// The keys with this beginning, in order: those listed for the page before, if that was lately.
    async fn listed(&self, base: &str, filter: &str, after: Option<&str>) -> Result<Vec<String>, Failure> {
        if let Some(after) = after {
            let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
            listings.retain(|listing| listing.at.elapsed() < LISTING_LIFE);
            let found = listings.iter().position(|kept| kept.filter == filter && kept.next == after);
            if let Some(found) = found {
                return Ok(listings.swap_remove(found).keys);
            }
        }
        let subjects = self.api.subjects(filter, 2 * self.max_keys).await?;
        let mut keys: Vec<String> = subjects.iter().filter_map(|subject| key_of(base, subject)).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    fn keep(&self, filter: String, next: &str, keys: Vec<String>) {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if listings.len() >= LISTINGS {
            listings.remove(0);
        }
        listings.push(Listing { filter, next: next.to_owned(), keys, at: Instant::now() });
    }

    async fn page(
        &self,
        bucket: Bucket<'_>,
        beginning: &str,
        after: Option<&str>,
    ) -> Result<Page, KeyValueError> {
        let base = base(&self.prefix, bucket);
        let filter = filter(&base, beginning);
        let mut listed = self.listed(&base, &filter, after).await?;
        let first = listed.partition_point(|key| {
            key.as_str() < beginning || after.is_some_and(|after| key.as_str() <= after)
        });
        let matching = listed[first..].iter().take_while(|key| key.starts_with(beginning));
        let mut keys: Vec<String> = matching.take(PAGE_KEYS + 1).cloned().collect();
        let more = keys.len() > PAGE_KEYS;
        keys.truncate(PAGE_KEYS);
        let next = if more { keys.last().cloned() } else { None };
        if let Some(next) = &next {
            listed.drain(..first + keys.len());
            self.keep(filter, next, listed);
        }
        Ok(Page { keys, next })
    }
}

impl Room {
    /// Whether the count still says whether there is room for one more.
    fn is_fresh(&self, max_keys: usize) -> bool {
        let lately = self.counted.elapsed() < COUNT_PAUSE;
        let allowed = (max_keys.saturating_sub(self.keys) / 8).max(UNCOUNTED);
        if self.fits(max_keys) { self.writes < allowed || lately } else { self.writes == 0 && lately }
    }

    /// Whether there is room for one more, which is taken.
    fn admit(&mut self, max_keys: usize) -> bool {
        let fits = self.fits(max_keys);
        self.writes += usize::from(fits);
        fits
    }

    fn fits(&self, max_keys: usize) -> bool {
        self.keys + self.writes < max_keys
    }
}

/// Another writer was first: none.
fn conditional(written: Result<u64, Failure>) -> Result<Option<u64>, KeyValueError> {
    match written {
        Ok(version) => Ok(Some(version)),
        Err(Failure::Conflict) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

impl KeyValue for NatsKeyValue {
    fn get<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, Option<Entry>> {
        let subject = subject(&base(&self.prefix, bucket), key);
        async move {
            let last = self.read(&subject).await?;
            Ok(last.map(|message| Entry { value: message.value, version: message.sequence }))
        }
        .boxed()
    }

    fn set<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, value: Vec<u8>) -> Answer<'a, u64> {
        let base = base(&self.prefix, bucket);
        async move {
            let subject = subject(&base, key);
            if !self.has_room(&base).await? && self.read(&subject).await?.is_none() {
                return Err(self.full());
            }
            Ok(self.write(&subject, None, &value).await?)
        }
        .boxed()
    }

    fn compare_and_set<'a>(
        &'a self,
        bucket: Bucket<'a>,
        key: &'a str,
        expected: Option<u64>,
        value: Vec<u8>,
    ) -> Answer<'a, Option<u64>> {
        let base = base(&self.prefix, bucket);
        async move {
            let subject = subject(&base, key);
            match expected {
                None => self.write_new(&base, &subject, &value).await,
                // To the server this would say that there is none.
                Some(0) => Ok(None),
                Some(version) => conditional(self.write(&subject, Some(version), &value).await),
            }
        }
        .boxed()
    }

    fn increment<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, delta: i64) -> Answer<'a, i64> {
        let base = base(&self.prefix, bucket);
        async move { self.add(&base, key, delta).await }.boxed()
    }

    fn delete<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, ()> {
        let subject = subject(&base(&self.prefix, bucket), key);
        async move {
            let mut tries = 1;
            loop {
                match self.api.purge(&subject).await {
                    Err(Failure::Unclear(_)) if tries < TRIES => tries += 1,
                    Err(failure) => return Err(self.noted(failure).await.into()),
                    Ok(()) => return Ok(()),
                }
            }
        }
        .boxed()
    }

    fn keys<'a>(&'a self, bucket: Bucket<'a>, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.page(bucket, prefix, after).boxed()
    }
}
