//! Reading: one document from the leader, all documents of a coverage at one point. It knows how JetStream answers, not
//! what documents mean.
//!
//! Many documents come by direct get: one request names subjects with wildcards, the answer holds the last message of
//! each and the sequence that it was read at. Whoever answers may lag behind, so a point is asked for and the request
//! repeated until it is reached. An answer holds at most 1,024 subjects; with more the coverage is divided: by
//! partition, by leaf, by kind, and what is still too large is read through a consumer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subscriber, header};
use futures_util::{StreamExt, TryStreamExt, stream};
use presence_core::documents::{Bucket, Document, Key};
use presence_core::ids::{InstanceId, LeafId, PartitionId, Sequence, UserId};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::api::{self, Failure, Stored};
use super::link::Outgoing;
use super::streams::Which;
use super::{Shared, lane};
use crate::store::{Coverage, Snapshot, StoreError, bucket_of, token};

/// Between two messages of one answer.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a point may take to be reached.
const BEHIND: Duration = Duration::from_secs(5);
/// So many documents an answer holds; the server's limit.
const MAX_ANSWER: u32 = 1_024;
/// So many requests for parts of a coverage at once.
const AT_ONCE: usize = 8;
/// A consumer that has caught up is believed to know of nothing more after this time.
const SETTLING: Duration = Duration::from_secs(1);

/// What may be read in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    filters: Vec<String>,
    /// What it is divided into when it is too large; nothing: it can't be divided.
    parts: Division,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Division {
    Done,
    /// One part for each filter.
    Filters,
    Parts(Vec<Part>),
    /// The leaves of `s` and `u`, and the rest, of a partition.
    Leaves(PartitionId),
    /// The leaves of a partition's status records.
    RecordLeaves(PartitionId),
    /// The leaves of a partition, for one instance.
    InstanceLeaves(PartitionId, InstanceId),
    /// The partitions, for one instance.
    InstancePartitions(InstanceId),
}

type Found = BTreeMap<Key, (Sequence, Document)>;

enum ReadError {
    TooMany,
    Failed(Failure),
}

impl Shared {
    /// The last message of a key, from the leader, even if it says that there is no document. Asked at once.
    pub(super) fn last_of(
        &self,
        key: &Key,
    ) -> impl Future<Output = Result<Option<Stored>, Failure>> + Send + use<> {
        let streams = self.streams.clone();
        let stream = streams.names.stream(Which::Bucket(key.bucket()));
        let subject = token::subject(key, &streams.names.prefix);
        let message = Outgoing {
            subject: format!("$JS.API.STREAM.MSG.GET.{stream}").into(),
            headers: HeaderMap::new(),
            payload: json!({ "last_by_subj": subject }).to_string().into(),
        };
        let answer = self.link.request(lane(key.bucket()), message);
        async move {
            let answer = answer.await.map_err(Failure::from);
            streams.noted(answer.and_then(|message| api::stored(&message)))
        }
    }

    /// All documents of a coverage at a point at or after `at_least`.
    pub(super) async fn snapshot(
        &self,
        coverage: &Coverage,
        at_least: Sequence,
    ) -> Result<Snapshot, StoreError> {
        let bucket = bucket_of(coverage);
        let (found, up_to) = self.read(bucket, self.parts(coverage), at_least).await?;
        let documents = found.into_iter().map(|(key, (sequence, document))| (key, sequence, document));
        Ok(Snapshot { documents: documents.collect(), up_to })
    }

    /// All session documents of an instance, as of now.
    pub(super) async fn sessions_of(&self, instance: InstanceId) -> Result<Vec<(Key, Document)>, StoreError> {
        let now = self.streams.info(Which::Bucket(Bucket::Sessions)).await?;
        let part = Part {
            filters: vec![self.sessions_filter(instance)],
            parts: Division::InstancePartitions(instance),
        };
        let (found, _) = self.read(Bucket::Sessions, vec![part], Sequence(now.state.last_seq)).await?;
        Ok(found.into_iter().map(|(key, (_, document))| (key, document)).collect())
    }

    /// Removes the session documents that were last written at or before a point, but for those of some instances. Tells
    /// how many messages went.
    pub(super) async fn purge_but(&self, point: Sequence, spared: &[InstanceId]) -> Result<u64, StoreError> {
        let sessions = Which::Bucket(Bucket::Sessions);
        let filter = format!("{}.s.>", self.streams.names.prefix);
        let (mut instances, mut offset) = (BTreeSet::new(), 0);
        loop {
            let subjects = self.streams.subjects_from(sessions, &filter, offset).await?;
            if subjects.is_empty() {
                break;
            }
            offset += subjects.len();
            let last = |subject: &String| subject.rsplit('.').next()?.parse::<InstanceId>().ok();
            instances.extend(subjects.iter().filter_map(last));
        }
        let mut purged = 0;
        for instance in instances.into_iter().filter(|instance| !spared.contains(instance)) {
            let request = json!({ "filter": self.sessions_filter(instance), "seq": point.0 + 1 });
            let stream = self.streams.names.stream(sessions);
            let answer = self.streams.call("STREAM.PURGE", stream, request.to_string()).await;
            let answer = answer.and_then(|message| api::body::<serde_json::Value>(&message));
            purged += self.streams.noted(answer)?["purged"].as_u64().unwrap_or(0);
        }
        Ok(purged)
    }

    /// The subjects of all session documents of an instance.
    pub(super) fn sessions_filter(&self, instance: InstanceId) -> String {
        format!("{}.s.*.*.*.{instance}", self.streams.names.prefix)
    }

    fn parts(&self, coverage: &Coverage) -> Vec<Part> {
        let prefix = &self.streams.names.prefix;
        let whole = |partition: &PartitionId| Part {
            filters: partition_filters(prefix, *partition, true),
            parts: Division::Leaves(*partition),
        };
        match coverage {
            Coverage::Instances => vec![Part {
                filters: ["i.*", "boot", "meta"].map(|below| format!("{prefix}.{below}")).into(),
                parts: Division::Filters,
            }],
            Coverage::Partitions(partitions) => together(partitions.iter().map(whole).collect()),
            Coverage::PartitionsAndClaims(partitions) => {
                let claims = Part { filters: vec![format!("{prefix}.o.*")], parts: Division::Done };
                let partitions = partitions.iter().map(|partition| Part {
                    filters: partition_filters(prefix, *partition, false),
                    parts: Division::Leaves(*partition),
                });
                together(partitions.chain([claims]).collect())
            }
            Coverage::Records(partition, leaf) => {
                let parts = match leaf {
                    Some(_) => Division::Done,
                    None => Division::RecordLeaves(*partition),
                };
                vec![Part { filters: vec![records_filter(prefix, *partition, *leaf)], parts }]
            }
            Coverage::AllRecords => {
                let part = |partition| Part {
                    filters: vec![records_filter(prefix, partition, None)],
                    parts: Division::RecordLeaves(partition),
                };
                (0..self.layout.partitions).map(PartitionId).map(part).collect()
            }
            Coverage::SessionsOf(partition, leaf, user) => {
                let filters = vec![sessions_filter_of(prefix, *partition, *leaf, user)];
                vec![Part { filters, parts: Division::Done }]
            }
        }
    }

    /// Smaller parts of a part.
    fn divide(&self, part: &Part) -> Vec<Part> {
        let prefix = &self.streams.names.prefix;
        let done = |filters: Vec<String>| Part { filters, parts: Division::Done };
        let leaves = 0..self.layout.leaves;
        match &part.parts {
            Division::Done => Vec::new(),
            Division::Filters => part.filters.iter().map(|filter| done(vec![filter.clone()])).collect(),
            Division::Parts(parts) => parts.clone(),
            Division::Leaves(partition) => {
                let many = [format!("{prefix}.s.{partition}.>"), format!("{prefix}.u.{partition}.>")];
                let few = part.filters.iter().filter(|filter| !many.contains(filter)).cloned().collect();
                let leaf = |leaf| Part {
                    filters: ["s", "u"].map(|kind| format!("{prefix}.{kind}.{partition}.{leaf}.>")).into(),
                    parts: Division::Filters,
                };
                std::iter::once(done(few)).chain(leaves.map(leaf)).collect()
            }
            Division::RecordLeaves(partition) => {
                let leaf = |leaf| done(vec![records_filter(prefix, *partition, Some(LeafId(leaf)))]);
                leaves.map(leaf).collect()
            }
            Division::InstanceLeaves(partition, instance) => {
                leaves.map(|leaf| done(vec![format!("{prefix}.s.{partition}.{leaf}.*.{instance}")])).collect()
            }
            Division::InstancePartitions(instance) => {
                let partition = |partition| Part {
                    filters: vec![format!("{prefix}.s.{partition}.*.*.{instance}")],
                    parts: Division::InstanceLeaves(PartitionId(partition), *instance),
                };
                (0..self.layout.partitions).map(partition).collect()
            }
        }
    }

    /// Reads all parts, each at or after `at_least`, dividing what is too large; the point is the first of theirs.
    async fn read(
        &self,
        bucket: Bucket,
        parts: Vec<Part>,
        at_least: Sequence,
    ) -> Result<(Found, Sequence), StoreError> {
        if parts.is_empty() {
            let info = self.streams.info(Which::Bucket(bucket)).await?;
            return Ok((Found::new(), reached(Sequence(info.state.last_seq), at_least)?));
        }
        let mut found = Found::new();
        let mut up_to: Option<Sequence> = None;
        let mut level = parts;
        while !level.is_empty() {
            let reading = level.into_iter().map(|part| async move {
                match self.read_part(bucket, &part.filters, at_least).await {
                    Ok(read) => Ok((Some(read), Vec::new())),
                    Err(ReadError::TooMany) => match self.divide(&part) {
                        smaller if smaller.is_empty() => {
                            let read = self.read_by_consumer(bucket, &part.filters, at_least).await?;
                            Ok((Some(read), Vec::new()))
                        }
                        smaller => Ok((None, smaller)),
                    },
                    Err(ReadError::Failed(failure)) => Err(StoreError::from(failure)),
                }
            });
            let mut reading = stream::iter(reading).buffered(AT_ONCE);
            let mut next = Vec::new();
            while let Some((read, smaller)) = reading.try_next().await? {
                next.extend(smaller);
                let Some((messages, point)) = read else { continue };
                up_to = Some(up_to.map_or(point, |so_far| so_far.min(point)));
                found.extend(messages);
            }
            drop(reading);
            level = next;
        }
        Ok((found, up_to.unwrap_or_default()))
    }

    /// Reads one part until its point is reached.
    async fn read_part(
        &self,
        bucket: Bucket,
        filters: &[String],
        at_least: Sequence,
    ) -> Result<(Found, Sequence), ReadError> {
        let deadline = Instant::now() + BEHIND;
        let mut pause = Duration::from_millis(5);
        loop {
            let (found, up_to) = match self.direct_get(bucket, filters).await? {
                Some(read) => read,
                // There is nothing, and no point: the leader knows whether that is so.
                None => match self.nothing(bucket, filters).await.map_err(ReadError::Failed)? {
                    Some(up_to) => (Found::new(), up_to),
                    None => continue,
                },
            };
            match reached(up_to, at_least) {
                Ok(up_to) => return Ok((found, up_to)),
                Err(error) if Instant::now() > deadline => {
                    return Err(ReadError::Failed(Failure::Other(error)));
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// The point at which the leader has no message of these subjects; none if it has some.
    async fn nothing(&self, bucket: Bucket, filters: &[String]) -> Result<Option<Sequence>, Failure> {
        let mut up_to: Option<Sequence> = None;
        for filter in filters {
            let info = self.streams.info_with(Which::Bucket(bucket), Some(filter)).await?;
            if info.state.subjects.is_some_and(|subjects| !subjects.is_empty()) {
                return Ok(None);
            }
            let point = Sequence(info.state.last_seq);
            up_to = Some(up_to.map_or(point, |so_far| so_far.min(point)));
        }
        Ok(up_to)
    }

    /// One request; none: nothing was found.
    async fn direct_get(
        &self,
        bucket: Bucket,
        filters: &[String],
    ) -> Result<Option<(Found, Sequence)>, ReadError> {
        let stream = self.streams.names.stream(Which::Bucket(bucket));
        let mut found = Found::new();
        let body = json!({ "multi_last": filters, "batch": MAX_ANSWER }).to_string();
        let (mut answer, inbox) = self.subscribe().await?;
        let asked =
            self.link.client().publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, body.into());
        timeout(SILENCE, asked)
            .await
            .map_err(|_| failed("the connection to NATS is congested"))?
            .map_err(|error| failed(&error.to_string()))?;
        let mut last = 0;
        loop {
            let message = match timeout(SILENCE, answer.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(failed("the connection has ended")),
                Err(_) => return Err(failed("no answer to a read")),
            };
            match api::status(&message) {
                None => {}
                Some(204) => {
                    let complete = api::number(&message, header::NATS_LAST_SEQUENCE) == Some(last);
                    let more = header_number(&message, "Nats-Num-Pending") > Some(0);
                    let up_to = header_number(&message, "Nats-UpTo-Sequence");
                    return match up_to {
                        _ if more => Err(ReadError::TooMany),
                        Some(up_to) if complete => Ok(Some((found, Sequence(up_to)))),
                        _ => Err(failed("part of an answer is missing")),
                    };
                }
                Some(404) => return Ok(None),
                Some(413) => return Err(ReadError::TooMany),
                Some(503) => {
                    let why = format!("nobody answers for the stream {stream}");
                    return Err(ReadError::Failed(
                        self.streams.noted::<()>(Err(Failure::NoStream(why))).unwrap_err(),
                    ));
                }
                Some(code) => {
                    let text = message.description.as_deref().unwrap_or_default();
                    return Err(failed(&format!("a read was refused: {code} {text}")));
                }
            }
            let sequence = api::number(&message, header::NATS_SEQUENCE).unwrap_or_default();
            // Each names the one before it: so nothing is missing.
            if api::number(&message, header::NATS_LAST_SEQUENCE) != Some(last) {
                return Err(failed("part of an answer is missing"));
            }
            last = sequence;
            let subject = message.headers.as_ref().and_then(|headers| headers.get(header::NATS_SUBJECT));
            if let Some(subject) = subject.filter(|_| api::removal_of(message.headers.as_ref()).is_none()) {
                found.extend(self.document(subject.as_str(), Sequence(sequence), &message.payload));
            }
        }
    }

    async fn subscribe(&self) -> Result<(Subscriber, String), ReadError> {
        let inbox = self.link.client().new_inbox();
        match timeout(SILENCE, self.link.client().subscribe(inbox.clone())).await {
            Ok(Ok(subscriber)) => Ok((subscriber, inbox)),
            Ok(Err(error)) => Err(failed(&error.to_string())),
            Err(_) => Err(failed("the connection to NATS is congested")),
        }
    }

    fn document(
        &self,
        subject: &str,
        sequence: Sequence,
        payload: &[u8],
    ) -> Option<(Key, (Sequence, Document))> {
        let key = self.key_of(subject)?;
        let document = self.decode(&key, payload)?;
        Some((key, (sequence, document)))
    }

    /// What can't be read in one answer. The point is where the leader was before; what was written since is newer.
    async fn read_by_consumer(
        &self,
        bucket: Bucket,
        filters: &[String],
        at_least: Sequence,
    ) -> Result<(Found, Sequence), StoreError> {
        let info = self.streams.info(Which::Bucket(bucket)).await?;
        let up_to = reached(Sequence(info.state.last_seq), at_least)?;
        let mut consumer = self.consumer(bucket, filters, None).await?;
        let mut found = Found::new();
        let mut quiet_since: Option<Instant> = None;
        let mut expected = 1;
        loop {
            if quiet_since.is_some_and(|since| since.elapsed() > SETTLING) {
                return Ok((found, up_to));
            }
            let message = match timeout(Duration::from_millis(100), consumer.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(StoreError::Unavailable("the connection has ended".into())),
                Err(_) if quiet_since.is_some() => continue,
                Err(_) if consumer.is_silent() => {
                    return Err(StoreError::Unavailable("a consumer has fallen silent".into()));
                }
                Err(_) => continue,
            };
            let Some(place) = message.reply.as_ref().and_then(|reply| api::delivery(reply)) else {
                consumer.handle_control(&message).map_err(StoreError::Unavailable)?;
                // Nothing was delivered, and nothing is there.
                if quiet_since.is_none() && expected == 1 {
                    quiet_since = Some(Instant::now());
                }
                continue;
            };
            if place.count != expected {
                return Err(StoreError::Unavailable("a consumer has left something out".into()));
            }
            expected += 1;
            if let Some(key) = self.key_of(&message.subject) {
                match api::removal_of(message.headers.as_ref()) {
                    Some(_) => drop(found.remove(&key)),
                    None => {
                        if let Some(document) = self.decode(&key, &message.payload) {
                            found.insert(key, (place.sequence, document));
                        }
                    }
                }
            }
            if place.pending == 0 {
                quiet_since.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// Everything of a partition, with or without its claim.
pub(super) fn partition_filters(prefix: &str, partition: PartitionId, with_claim: bool) -> Vec<String> {
    let mut filters = vec![format!("{prefix}.s.{partition}.>"), format!("{prefix}.u.{partition}.>")];
    if with_claim {
        filters.push(format!("{prefix}.o.{partition}"));
    }
    filters.push(format!("{prefix}.d.{partition}"));
    filters
}

/// The status records of a partition, or of one of its leaves.
pub(super) fn records_filter(prefix: &str, partition: PartitionId, leaf: Option<LeafId>) -> String {
    match leaf {
        Some(leaf) => format!("{prefix}.u.{partition}.{}.*", leaf.0),
        None => format!("{prefix}.u.{partition}.*.*"),
    }
}

/// The session documents of a user.
pub(super) fn sessions_filter_of(
    prefix: &str,
    partition: PartitionId,
    leaf: LeafId,
    user: &UserId,
) -> String {
    format!("{prefix}.s.{partition}.{}.{}.*", leaf.0, token::encode_user(user))
}

/// Few parts are tried in one go.
fn together(parts: Vec<Part>) -> Vec<Part> {
    const FEW: usize = 4;
    if parts.len() < 2 || parts.len() > FEW {
        return parts;
    }
    let filters = parts.iter().flat_map(|part| part.filters.iter().cloned()).collect();
    vec![Part { filters, parts: Division::Parts(parts) }]
}

fn reached(up_to: Sequence, at_least: Sequence) -> Result<Sequence, StoreError> {
    if up_to >= at_least {
        return Ok(up_to);
    }
    let text = format!("it is at sequence {}, before the {} asked for", up_to.0, at_least.0);
    Err(StoreError::Unavailable(text))
}

fn header_number(message: &Message, name: &str) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}

fn failed(why: &str) -> ReadError {
    ReadError::Failed(Failure::Other(StoreError::Unavailable(why.to_owned())))
}
