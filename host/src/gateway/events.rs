//! `GET /v1/events`: the transitions of the whole deployment as server-sent events. One follower of the status records serves
//! all readers of a host (`events/hub.rs`); each reader has a place in what it has kept (`events/ring.rs`).
//!
//! ```text
//!  store ──records──▶ Hub ──frames──▶ Ring ◀──place── Reader ──chunks──▶ hyper ──▶ socket
//!                                        ▲                │ too slow: cut
//!  store ──records since the id──────────┼── Catching up ─┘
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response};
use presence_core::documents::{Change, Document, Key};
use presence_core::events::Status;
use presence_core::ids::UserId;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::auth::unavailable;
use super::problem::{Kind, Problem};
use super::traffic::Traffic;
use crate::store::{Coverage, Followed, SharedStore, StoreError};

mod hub;
mod ring;
pub mod words;

use hub::{Hub, Seat};
use ring::{Place, Told, What};
use words::{EventId, ResetReason};

/// Where a reader says what it has heard last.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The media type of the stream.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// The most streams of a host at once: half of the connections that its admin listener takes.
pub const MAX_STREAMS: usize = 32;

/// How often a stream on which nothing happens says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// So long a reader may take nothing; then it is cut off.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many events go into one chunk.
const CHUNK: usize = 64;

/// So many chunks wait for the socket.
const CHUNKS: usize = 4;

/// Whose transitions a reader wants to hear, and to which statuses.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Nobody: of everybody.
    pub users: HashSet<UserId>,
    /// None: to all.
    pub statuses: Vec<Status>,
}

impl Filter {
    fn wants(&self, user: &UserId, status: Status) -> bool {
        (self.users.is_empty() || self.users.contains(user))
            && (self.statuses.is_empty() || self.statuses.contains(&status))
    }
}

/// The event streams of a host.
#[derive(Clone)]
pub struct Events {
    hub: Arc<Hub>,
    store: SharedStore,
    traffic: Arc<Traffic>,
    closing: CancellationToken,
}

impl Events {
    /// None yet. They end when `closing` is cancelled.
    pub fn new(store: SharedStore, traffic: Arc<Traffic>, closing: CancellationToken) -> Events {
        Events { hub: Hub::new(store.clone(), closing.clone()), store, traffic, closing }
    }

    /// A stream, from now on or after `last`. `cut` ends the connection, if it takes nothing.
    pub async fn open(
        &self,
        filter: Filter,
        last: Option<EventId>,
        cut: CancellationToken,
    ) -> Result<Response<Body>, Problem> {
        let not_now =
            |error: StoreError| unavailable(format!("the transitions can't be followed now: {error}"), 1);
        let seat = self.hub.join().await.map_err(not_now)?;
        let Some(seat) = seat else {
            return Err(unavailable(
                format!("this host has as many event streams as it may, {MAX_STREAMS}: ask another one"),
                5,
            ));
        };
        let begin = self.begin(&seat, last).await.map_err(not_now)?;
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let reader =
            Reader { seat, filter, sender, store: self.store.clone(), traffic: self.traffic.clone() };
        let closing = self.closing.clone();
        tokio::spawn(async move {
            tokio::select! {
                end = reader.run(begin) => {
                    if end == End::Slow {
                        cut.cancel();
                    }
                }
                () = closing.cancelled() => {}
            }
        });
        let chunks = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async move {
            receiver.recv().await.map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), receiver))
        });
        let mut response = Response::new(Body::from_stream(chunks));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Proxies would hold the events back until there are many.
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    /// Where a reader begins who has heard `last`.
    async fn begin(&self, seat: &Seat, last: Option<EventId>) -> Result<Begin, StoreError> {
        let (at, place) = seat.position();
        let now = Begin { at, place, heard: None, how: How::Goes };
        let Some(last) = last else { return Ok(now) };
        if last.epoch != at.epoch {
            return Ok(Begin { how: How::Reset(ResetReason::OtherEpoch), ..now });
        }
        let Some(place) = seat.after(last) else {
            return Ok(Begin { heard: Some(last), how: How::CatchesUp, ..now });
        };
        if last.sequence <= at.sequence {
            return Ok(Begin { at: last, place, ..now });
        }
        // Another host is further than this one; or nobody has come so far.
        if last.sequence <= hub::reached(&self.store).await? {
            return Ok(Begin { at: last, place, heard: Some(last), ..now });
        }
        Ok(Begin { how: How::Reset(ResetReason::Ahead), ..now })
    }
}

/// The id in a request, if there is one.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<EventId>, Problem> {
    let bad = || Problem::of(Kind::BadCursor, format!("Last-Event-ID: {}", words::NoEventId));
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.is_empty() => Ok(None),
        (Some(value), None) => {
            value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(bad)
        }
        (Some(_), Some(_)) => Err(bad()),
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begin {
    /// The id that it resumes from if nothing happens.
    at: EventId,
    /// In what the hub has kept.
    place: Place,
    /// It has heard everything up to this already.
    heard: Option<EventId>,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Nothing is missing.
    Goes,
    /// It is told that something may be missing.
    Reset(ResetReason),
    /// What the store has since comes first.
    CatchesUp,
}

/// How a reader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It went away, or what it misses is to be told by another stream.
    Gone,
    /// It took nothing for too long.
    Slow,
}

/// One stream at work.
struct Reader {
    seat: Seat,
    filter: Filter,
    sender: mpsc::Sender<Bytes>,
    store: SharedStore,
    traffic: Arc<Traffic>,
}

impl Reader {
    async fn run(self, begin: Begin) -> End {
        let counted = self.traffic.clone();
        let _open = counted.event_stream();
        let end = match self.follow(begin).await {
            Err(end) => end,
            Ok(never) => match never {},
        };
        if end == End::Slow {
            counted.count_event_stream_cut();
        }
        end
    }

    async fn follow(&self, begin: Begin) -> Result<std::convert::Infallible, End> {
        let Begin { at, mut place, heard, how } = begin;
        let mut heard = match (how, heard) {
            (How::CatchesUp, Some(last)) => self.catch_up(last, at).await?,
            (How::Reset(reason), _) => {
                self.tell_reset(at, reason).await?;
                None
            }
            _ => heard,
        };
        // An id at once, so that a stream on which nothing has happened can be resumed.
        self.send(words::heartbeat(heard.unwrap_or(at))).await?;
        loop {
            let changed = self.seat.changed();
            let (told, at) = self.seat.read(place, CHUNK).map_err(|_| End::Slow)?;
            place += told.len() as u64;
            if told.is_empty() {
                if timeout(HEARTBEAT, changed).await.is_err() {
                    let ahead = heard.filter(|heard| heard.sequence > at.sequence);
                    self.send(words::heartbeat(ahead.unwrap_or(at))).await?;
                }
                continue;
            }
            let mut chunk = BytesMut::new();
            for one in told {
                if one.what == What::Reset {
                    heard = None;
                    self.traffic.count_event_reset();
                }
                if self.wants(&one, heard) {
                    chunk.extend_from_slice(&one.frame);
                }
            }
            self.send(chunk.freeze()).await?;
        }
    }

    fn wants(&self, told: &Told, heard: Option<EventId>) -> bool {
        match &told.what {
            What::Reset => true,
            What::Transition(user, status) => {
                heard.is_none_or(|heard| told.sequence > heard.sequence) && self.filter.wants(user, *status)
            }
        }
    }

    /// Tells what the store has recorded since: of each user the newest. How far that went; none after a reset, which is `at`.
    async fn catch_up(&self, last: EventId, at: EventId) -> Result<Option<EventId>, End> {
        let _turn = self.seat.turn().await;
        let Ok(mut follower) = self.store.follow(Coverage::AllRecords, last.sequence).await else {
            // The reader comes back with the same id.
            return Err(End::Gone);
        };
        let mut heard = last;
        loop {
            let batch = match timeout(HEARTBEAT, follower.next_batch_of_before()).await {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(Some(heard)),
                Err(_) => {
                    self.send(words::heartbeat(heard)).await?;
                    continue;
                }
            };
            let mut chunk = BytesMut::new();
            for followed in batch {
                let Followed::Update(update) = followed else {
                    self.send(chunk.freeze()).await?;
                    self.tell_reset(at, ResetReason::TooFarBehind).await?;
                    return Ok(None);
                };
                heard.sequence = update.sequence;
                if let (Key::User(_, _, user), Change::Put(Document::User(record))) =
                    (&update.key, &update.change)
                    && self.filter.wants(user, record.status)
                {
                    chunk.extend_from_slice(&words::transition(heard, user, record));
                }
            }
            self.send(chunk.freeze()).await?;
        }
    }

    async fn tell_reset(&self, at: EventId, reason: ResetReason) -> Result<(), End> {
        self.traffic.count_event_reset();
        self.send(words::reset(at, reason)).await
    }

    async fn send(&self, chunk: Bytes) -> Result<(), End> {
        if chunk.is_empty() {
            return if self.sender.is_closed() { Err(End::Gone) } else { Ok(()) };
        }
        match timeout(PATIENCE, self.sender.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }
}

#[cfg(test)]
mod tests;
