//! Writing: conditions as headers, leases, markers, many documents under a fence. It knows what JetStream refuses and why.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, header};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use presence_core::documents::{Document, Expect, Key};
use presence_core::ids::Sequence;
use tokio::time::Instant;

use super::api::{self, Failure};
use super::link::{self, Outgoing};
use super::{Shared, lane, streams};
use crate::store::rules::{check_bucket, check_fit};
use crate::store::{Put, StoreError, token};

/// So many documents are written before the first of them is acknowledged.
const MAX_RUN: usize = 1_024;
/// What a message may need besides its document.
const OVERHEAD: usize = 1_024;
/// How long a write waits for another one under the same condition.
const BUSY: Duration = Duration::from_secs(5);

/// One message to be stored.
#[derive(Clone)]
pub(super) struct Write {
    key: Key,
    expect: Expect,
    payload: Bytes,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    /// So many whole seconds.
    Leased(u64),
    Marker,
}

impl Write {
    pub(super) fn put(put: Put, payload: Bytes) -> Write {
        // Never shorter than asked for.
        let seconds = put.lease.map(|lease| lease.as_secs() + u64::from(lease.subsec_nanos() > 0));
        let kind = seconds.map_or(Kind::Put, Kind::Leased);
        Write { key: put.key, expect: put.expect, payload, kind }
    }

    pub(super) fn delete(key: Key, expect: Expect) -> Write {
        Write { key, expect, payload: Bytes::new(), kind: Kind::Marker }
    }

    fn message(&self, prefix: &str) -> Outgoing {
        let mut headers = HeaderMap::new();
        match &self.expect {
            Expect::Any => {}
            Expect::Last(sequence) => expect_last(&mut headers, *sequence),
            Expect::Fence(fence, sequence) => {
                expect_fence(&mut headers, &token::subject(fence, prefix), *sequence)
            }
        }
        match self.kind {
            Kind::Put => {}
            Kind::Leased(seconds) => headers.insert(header::NATS_MESSAGE_TTL, format!("{seconds}s")),
            Kind::Marker => {
                headers.insert(header::NATS_ROLLUP, "sub");
                let life = streams::MARKER_LIFE.as_secs();
                headers.insert(header::NATS_MESSAGE_TTL, format!("{life}s"));
                headers.insert(api::KV_OPERATION, "PURGE");
                // Without it the server would tell of an expiry when the marker goes.
                headers.insert(header::NATS_MARKER_REASON, "Remove");
            }
        }
        Outgoing { subject: token::subject(&self.key, prefix).into(), headers, payload: self.payload.clone() }
    }

    /// The key that the condition is about, and what it expects.
    fn condition(&self) -> Option<(&Key, Sequence)> {
        match &self.expect {
            Expect::Any => None,
            Expect::Last(sequence) => Some((&self.key, *sequence)),
            Expect::Fence(fence, sequence) => Some((fence, *sequence)),
        }
    }

    fn expecting(self, sequence: Sequence) -> Write {
        let expect = match self.expect {
            Expect::Any => Expect::Any,
            Expect::Last(_) => Expect::Last(sequence),
            Expect::Fence(fence, _) => Expect::Fence(fence, sequence),
        };
        Write { expect, ..self }
    }
}

fn expect_last(headers: &mut HeaderMap, sequence: Sequence) {
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.0.to_string());
}

fn expect_fence(headers: &mut HeaderMap, fence: &str, sequence: Sequence) {
    expect_last(headers, sequence);
    headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", fence);
}

/// Short pauses, longer each time, for a bounded time.
struct Pauses {
    next: Duration,
    until: Instant,
}

impl Pauses {
    fn new() -> Pauses {
        Pauses { next: Duration::from_millis(1), until: Instant::now() + BUSY }
    }

    async fn next(&mut self) -> Result<(), StoreError> {
        if Instant::now() > self.until {
            return Err(StoreError::Unavailable("other writes under the same condition go before".into()));
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_millis(100));
        Ok(())
    }
}

/// What became of a conflict.
enum Judged {
    /// It stands.
    Conflict(Sequence),
    /// No document was expected and there is none: this is its marker's sequence, or 0.
    NothingThere(Sequence),
    /// It holds: the server refuses a condition while another write under it is not yet replicated.
    Busy,
}

impl Shared {
    /// Sends now; the answer is the future's.
    pub(super) fn write(self: Arc<Shared>, write: Write) -> BoxFuture<'static, Result<Sequence, StoreError>> {
        let answer = self.send(&write);
        // A write without a condition can't meet a conflict: nothing of it need be kept.
        let kept = write.condition().is_some().then_some(write);
        Box::pin(async move {
            let failure = match self.streams.noted(api::acknowledged(answer.await)) {
                Ok(sequence) => return Ok(sequence),
                Err(failure) => failure,
            };
            match (failure, kept) {
                (Failure::Conflict(last), Some(write)) => self.write_again(write, last).await,
                (failure, _) => Err(failure.into()),
            }
        })
    }

    fn send(&self, write: &Write) -> link::Answer {
        self.link.request(lane(write.key.bucket()), write.message(&self.streams.names.prefix))
    }

    /// After a conflict.
    async fn write_again(&self, mut write: Write, last: Option<Sequence>) -> Result<Sequence, StoreError> {
        let mut last = last;
        let mut pauses = Pauses::new();
        while let Some((named, expected)) = write.condition() {
            let nothing = expected == Sequence(0);
            match self.judge(named, expected, last).await? {
                Judged::Conflict(last) => return Err(StoreError::Conflict { last }),
                Judged::NothingThere(marker) => write = write.expecting(marker),
                Judged::Busy => pauses.next().await?,
            }
            match self.streams.noted(api::acknowledged(self.send(&write).await)) {
                Ok(sequence) => return Ok(sequence),
                Err(Failure::Conflict(newer)) => last = newer,
                Err(failure) => return Err(failure.into()),
            }
            if nothing {
                // That is what the caller expects, whichever marker stood there.
                write = write.expecting(Sequence(0));
                pauses.next().await?;
            }
        }
        Err(StoreError::Unavailable("a write without a condition was refused for one".into()))
    }

    /// What a refused condition means, given the last sequence that the server told, if it did.
    async fn judge(
        &self,
        named: &Key,
        expected: Sequence,
        told: Option<Sequence>,
    ) -> Result<Judged, StoreError> {
        match told {
            Some(last) if expected != Sequence(0) => return Ok(Judged::Conflict(last)),
            _ => {}
        }
        let last = self.last_of(named).await?;
        Ok(match last {
            None if expected == Sequence(0) => Judged::NothingThere(Sequence(0)),
            None => Judged::Conflict(Sequence(0)),
            Some(last) if last.sequence == expected => Judged::Busy,
            Some(last) if expected == Sequence(0) && last.removal().is_some() => {
                Judged::NothingThere(last.sequence)
            }
            Some(last) => Judged::Conflict(last.sequence),
        })
    }

    /// Writes one right behind the other, or, where streams are replicated, one after the other (atomic batches are
    /// slower than both: the server stages each of them on disk).
    /// A condition that fails for one fails for all after it. What else can stop one (a broken connection, a new leader)
    /// may let later ones through: then the error is [`StoreError::Unknown`]. No key is written twice before its first
    /// write is acknowledged.
    pub(super) fn write_fenced(
        self: Arc<Shared>,
        (fence, mut claim): (Key, Sequence),
        documents: Vec<(Key, Document)>,
    ) -> BoxFuture<'static, (Vec<Sequence>, Option<StoreError>)> {
        let (bodies, refusal) = self.encode_all(&fence, documents);
        // The first run is sent now.
        let mut sent = Some(self.send_run(&fence, claim, &bodies[..self.first_run(&bodies)]));
        Box::pin(async move {
            let mut rest = &bodies[..];
            let mut pauses = Pauses::new();
            let mut written = Vec::with_capacity(bodies.len());
            while !rest.is_empty() {
                let run = &rest[..self.first_run(rest)];
                let answers = sent.take().unwrap_or_else(|| self.send_run(&fence, claim, run));
                let before = written.len();
                match self.settle_run(answers, &mut written).await {
                    Ok(()) => {}
                    Err(Failure::Conflict(last)) => match self.judge(&fence, claim, last).await {
                        Ok(Judged::Conflict(last)) => {
                            return (written, Some(StoreError::Conflict { last }));
                        }
                        Ok(judged) => {
                            // The same for all of them.
                            if let Judged::NothingThere(marker) = judged {
                                claim = marker;
                            }
                            if let Err(error) = pauses.next().await {
                                return (written, Some(error));
                            }
                        }
                        Err(error) => return (written, Some(error)),
                    },
                    Err(failure) => return (written, Some(failure.into())),
                }
                rest = &rest[written.len() - before..];
            }
            (written, refusal)
        })
    }

    /// Collects the sequences up to the first failure. A failure that tells nothing of the others is unclear.
    async fn settle_run(
        &self,
        answers: Vec<link::Answer>,
        written: &mut Vec<Sequence>,
    ) -> Result<(), Failure> {
        let mut first: Option<Failure> = None;
        let mut unclear = false;
        for answer in answers {
            match (self.streams.noted(api::acknowledged(answer.await)), &first) {
                (Ok(sequence), None) => written.push(sequence),
                (Err(failure), None) => first = Some(failure),
                (Ok(_), Some(_)) => unclear = true,
                (Err(failure), Some(_)) => {
                    unclear |= matches!(failure, Failure::Other(StoreError::Unknown(_)));
                }
            }
        }
        match first {
            None => Ok(()),
            Some(failure) if unclear => {
                let why = format!("one of several writes failed: {}", StoreError::from(failure));
                Err(Failure::Other(StoreError::Unknown(why)))
            }
            Some(failure) => Err(failure),
        }
    }

    /// Subjects and bytes up to the first document that can't be meant, and what is wrong with that.
    fn encode_all(&self, fence: &Key, documents: Vec<(Key, Document)>) -> (Vec<Body>, Option<StoreError>) {
        let largest = self.link.client().max_payload().saturating_sub(OVERHEAD);
        let mut bodies = Vec::with_capacity(documents.len());
        for (key, document) in documents {
            let encoded = check_fit(&key, &document)
                .and_then(|()| check_bucket(&key, &Expect::Fence(fence.clone(), Sequence(0))))
                .and_then(|()| {
                    token::encode_document(&key, &document)
                        .map_err(|error| StoreError::Refused(error.to_string()))
                });
            let payload = match encoded {
                Ok(payload) if payload.len() > largest => {
                    let error = format!("{} bytes are too many: at most {largest}", payload.len());
                    return (bodies, Some(StoreError::Refused(error)));
                }
                Ok(payload) => Bytes::from(payload),
                Err(error) => return (bodies, Some(error)),
            };
            bodies.push((token::subject(&key, &self.streams.names.prefix).into(), payload));
        }
        (bodies, None)
    }

    /// So many of the first are written before one of them is acknowledged.
    fn first_run(&self, bodies: &[Body]) -> usize {
        // Replicated streams take one write under a condition at a time.
        if self.streams.replicas > 1 { bodies.len().min(1) } else { distinct(bodies) }
    }

    fn send_run(&self, fence: &Key, claim: Sequence, run: &[Body]) -> Vec<link::Answer> {
        let fence_subject = token::subject(fence, &self.streams.names.prefix);
        let mut headers = HeaderMap::new();
        expect_fence(&mut headers, &fence_subject, claim);
        let lane = lane(fence.bucket());
        let send = |(subject, payload): &Body| {
            let message =
                Outgoing { subject: subject.clone(), headers: headers.clone(), payload: payload.clone() };
            self.link.request(lane, message)
        };
        run.iter().map(send).collect()
    }
}

/// A subject and what goes there.
type Body = (async_nats::Subject, Bytes);

/// So many of the first have subjects of their own.
fn distinct(bodies: &[Body]) -> usize {
    let mut seen: HashSet<&str, foldhash::fast::RandomState> = HashSet::default();
    bodies.iter().take(MAX_RUN).take_while(|(subject, _)| seen.insert(subject)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_before_a_repeated_subject() {
        let bodies = |subjects: &[&'static str]| -> Vec<Body> {
            subjects.iter().map(|subject| ((*subject).into(), Bytes::new())).collect()
        };
        assert_eq!(distinct(&bodies(&[])), 0);
        assert_eq!(distinct(&bodies(&["a", "b", "c"])), 3);
        assert_eq!(distinct(&bodies(&["a", "b", "a", "c"])), 2);
        assert_eq!(distinct(&bodies(&["a", "a"])), 1);
    }
}
