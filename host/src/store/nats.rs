//! The store of a deployment with several hosts: NATS JetStream. It knows subjects, sequences and markers, not what
//! documents mean.
//!
//! A key is a subject, a document the last message on it, its sequence the stream's. A deletion is a message too, a
//! marker that the server removes after a while; a lease is the message's time to live, and the server leaves a marker
//! of its own. `link.rs` is the way to the server, `streams.rs` what is there, `read.rs`, `follow.rs`, `notices.rs`,
//! `questions.rs` and `letters.rs` what is done with it; writing is here.
//!
//! The caller's order of calls is the order of messages on the wire, per bucket. Deviations from a store in memory:
//! - when several documents are written under a fence and the error is [`StoreError::Unknown`], any of those that were
//!   not acknowledged may be in the store, not only a prefix of them;
//! - a write that expects no document while a marker is there is refused once and then repeated with the marker's
//!   sequence, so that a write of the same key that was started meanwhile comes before it;
//! - a deletion of what is not there leaves a marker, unless it expects nothing to be there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use presence_core::documents::{Bucket, Document, Expect, Key, Layout};
use presence_core::ids::{InstanceId, Sequence, UserId};
use presence_core::time::Timestamp;
use tokio::task::JoinHandle;

use self::link::{Lane, Link};
use self::notices::Topic;
use self::streams::{Streams, Which};
use super::rules::{check_bucket, check_fit, check_lease};
use super::{
    Asking, Coverage, DeadLetter, Follower, Notice, Notices, Purge, Put, Questions, Snapshot, Store,
    StoreError, token,
};
use crate::settings::NatsSettings;
use crate::traces::Tracer;

mod api;
mod connection;
mod consumer;
mod follow;
mod letters;
mod link;
mod notices;
mod publisher;
mod questions;
mod read;
mod streams;
mod write;

pub use connection::NatsError;
pub use publisher::Publisher;
pub use streams::Mismatch;

/// A [`Store`] over JetStream.
pub struct NatsStore {
    shared: Arc<Shared>,
    urls: String,
    /// They look after streams and connections.
    tasks: Vec<JoinHandle<()>>,
}

/// What operations need.
struct Shared {
    link: Link,
    streams: Arc<Streams>,
    layout: Layout,
    hub: notices::Hub,
    corrupt: AtomicU64,
    /// Who listens to questions on this very connection, which gives nothing back that it has sent.
    asked: Mutex<Vec<Asking>>,
    tracer: Tracer,
}

impl NatsStore {
    /// Connects, checks the server, and creates or checks the streams. `layout` is the deployment's, which is
    /// checked elsewhere.
    pub async fn connect(settings: &NatsSettings, layout: Layout) -> Result<NatsStore, NatsError> {
        NatsStore::connect_traced(settings, layout, Tracer::off()).await
    }

    /// The same; session documents carry the traces that they go on with.
    pub async fn connect_traced(
        settings: &NatsSettings,
        layout: Layout,
        tracer: Tracer,
    ) -> Result<NatsStore, NatsError> {
        let (link, streams) = connection::connect(settings).await?;
        let shared = Arc::new(Shared {
            link: link.clone(),
            streams: streams.clone(),
            layout,
            hub: notices::Hub::new(),
            corrupt: AtomicU64::new(0),
            asked: Mutex::default(),
            tracer,
        });
        let tasks = vec![
            tokio::spawn(streams.tend()),
            tokio::spawn(notices::tell_of_connections(Arc::downgrade(&shared), link)),
        ];
        Ok(NatsStore { shared, urls: settings.urls.join(", "), tasks })
    }

    /// The connection, for what is kept beside the documents. Requests on it have no order against the store's.
    pub fn client(&self) -> &async_nats::Client {
        self.shared.link.client()
    }

    /// So many messages in the streams could not be read, and were passed over.
    pub fn corrupt(&self) -> u64 {
        self.shared.corrupt.load(Ordering::Relaxed)
    }
}

impl Drop for NatsStore {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    /// The key of a subject; what stands for none is counted.
    fn key_of(&self, subject: &str) -> Option<Key> {
        token::parse_subject(subject, &self.streams.names.prefix)
            .map_err(|error| self.note_corrupt(subject, &error))
            .ok()
    }

    /// The document in these bytes; what is none is counted.
    fn decode(&self, key: &Key, payload: &[u8]) -> Option<Document> {
        let decoded = token::decode_document(key, payload);
        decoded
            .map_err(|error| self.note_corrupt(&token::subject(key, &self.streams.names.prefix), &error))
            .ok()
    }

    /// The document's bytes, with the trace that it goes on with.
    fn encode(&self, key: &Key, document: &Document) -> Result<Vec<u8>, token::InvalidDocument> {
        let mut bytes = token::encode_document(key, document)?;
        if let Key::Sessions(_, _, user, _) = key
            && let Some(context) = self.tracer.outgoing(user)
        {
            token::add_traceparent(&mut bytes, context);
        }
        Ok(bytes)
    }

    /// Notes the trace of a session document that came.
    fn note_trace(&self, key: &Key, at: Sequence, payload: &[u8]) {
        if self.tracer.is_on()
            && let Key::Sessions(_, _, user, _) = key
            && let Some(context) = token::traceparent(payload)
        {
            self.tracer.note_incoming(user, at, context);
        }
    }

    fn note_corrupt(&self, subject: &str, error: &dyn std::fmt::Display) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::error!(subject, %error, "a message that can't be read is passed over");
    }
}

/// Instances first: their leases must not wait for a flood of sessions.
fn lane(bucket: Bucket) -> Lane {
    match bucket {
        Bucket::Sessions => Lane::Bulk,
        Bucket::Instances => Lane::Urgent,
    }
}

fn refused<T: Send + 'static>(error: StoreError) -> BoxFuture<'static, Result<T, StoreError>> {
    Box::pin(ready(Err(error)))
}

impl Store for NatsStore {
    fn put(&self, put: Put) -> BoxFuture<'static, Result<Sequence, StoreError>> {
        let checked = check_fit(&put.key, &put.document)
            .and_then(|()| check_bucket(&put.key, &put.expect))
            .and_then(|()| check_lease(put.lease));
        if let Err(error) = checked {
            return refused(error);
        }
        match self.shared.encode(&put.key, &put.document) {
            Ok(payload) => self.shared.clone().write(write::Write::put(put, payload.into())),
            Err(error) => refused(StoreError::Refused(error.to_string())),
        }
    }

    fn put_fenced(
        &self,
        fence: (Key, Sequence),
        documents: Vec<(Key, Document)>,
    ) -> BoxFuture<'static, (Vec<Sequence>, Option<StoreError>)> {
        self.shared.clone().write_fenced(fence, documents)
    }

    fn delete(&self, key: Key, expect: Expect) -> BoxFuture<'static, Result<(), StoreError>> {
        if let Err(error) = check_bucket(&key, &expect) {
            return refused(error);
        }
        if expect == Expect::Last(Sequence(0)) {
            // There must be nothing, so there is nothing to be done.
            let shared = self.shared.clone();
            return Box::pin(async move {
                match shared.last_of(&key).await? {
                    Some(last) if last.removal().is_none() => {
                        Err(StoreError::Conflict { last: last.sequence })
                    }
                    _ => Ok(()),
                }
            });
        }
        Box::pin(
            self.shared.clone().write(write::Write::delete(key, expect)).map(|written| written.map(drop)),
        )
    }

    fn purge_sessions(&self, which: Purge) -> BoxFuture<'static, Result<u64, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let (count, request) = match which {
                Purge::UpToBut(point, spared) => return shared.purge_but(point, &spared).await,
                // The server counts markers too.
                Purge::Of(instance) => {
                    let count = shared.sessions_of(instance).await?.len();
                    (Some(count as u64), serde_json::json!({ "filter": shared.sessions_filter(instance) }))
                }
                Purge::UpTo(point) => {
                    let filter = format!("{}.s.>", shared.streams.names.prefix);
                    (None, serde_json::json!({ "filter": filter, "seq": point.0 + 1 }))
                }
            };
            let stream = shared.streams.names.stream(Which::Bucket(Bucket::Sessions));
            let answer = shared.streams.call("STREAM.PURGE", stream, request.to_string()).await;
            let answer = answer.and_then(|message| api::body::<serde_json::Value>(&message));
            let purged = shared.streams.noted(answer)?;
            Ok(count.unwrap_or_else(|| purged["purged"].as_u64().unwrap_or(0)))
        })
    }

    fn get(&self, key: Key) -> BoxFuture<'static, Result<Option<(Sequence, Document)>, StoreError>> {
        let shared = self.shared.clone();
        // Asked now, not when the future is: after the writes before it.
        let reading = shared.last_of(&key);
        Box::pin(async move {
            let last = reading.await?.filter(|last| last.removal().is_none());
            Ok(last.and_then(|last| Some((last.sequence, shared.decode(&key, &last.payload)?))))
        })
    }

    fn snapshot(
        &self,
        coverage: Coverage,
        at_least: Sequence,
    ) -> BoxFuture<'static, Result<Snapshot, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.snapshot(&coverage, at_least).await })
    }

    fn sessions_of(
        &self,
        instance: InstanceId,
    ) -> BoxFuture<'static, Result<Vec<(Key, Document)>, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.sessions_of(instance).await })
    }

    fn follow(&self, coverage: Coverage, from: Sequence) -> BoxFuture<'static, Result<Follower, StoreError>> {
        Box::pin(self.shared.clone().follow(coverage, from))
    }

    fn notify(&self, notice: Notice) {
        self.shared.notify(notice);
    }

    fn notify_details(&self, user: &UserId) {
        self.shared.notify_details(user);
    }

    fn notices(&self) -> Notices {
        self.shared.hub.notices()
    }

    fn watch(&self, user: &UserId) {
        self.shared.watch(Topic::Status, user);
    }

    fn unwatch(&self, user: &UserId) {
        self.shared.unwatch(Topic::Status, user);
    }

    fn watch_details(&self, user: &UserId) {
        self.shared.watch(Topic::Details, user);
    }

    fn unwatch_details(&self, user: &UserId) {
        self.shared.unwatch(Topic::Details, user);
    }

    fn clock(&self) -> BoxFuture<'static, Result<Option<Timestamp>, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let info = shared.streams.info(Which::Bucket(Bucket::Instances)).await?;
            Ok(notices::timestamp(&info.ts))
        })
    }

    fn push_dead_letter(&self, letter: DeadLetter) -> BoxFuture<'static, Result<u64, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.push_dead_letter(letter).await })
    }

    fn dead_letters(&self) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.dead_letters().await })
    }

    fn dead_letter(&self, number: u64) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.dead_letter(number).await })
    }

    fn remove_dead_letter(&self, number: u64) -> BoxFuture<'static, Result<bool, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.remove_dead_letter(number).await })
    }

    fn ask(&self, question: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, StoreError>> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.ask(question).await })
    }

    fn questions(&self) -> Questions {
        self.shared.questions()
    }

    fn describe(&self) -> String {
        self.urls.clone()
    }
}
