//! A consumer of a stream while it lives: messages are pushed to an inbox, in order, with heartbeats. It knows no
//! documents. Consumers cost the server something on every write, so one ends as soon as it is dropped.

use std::time::Duration;

use async_nats::{HeaderMap, Message, Subscriber, header};
use futures_util::StreamExt;
use presence_core::documents::Bucket;
use presence_core::ids::Sequence;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::api::{self, ConsumerConfig, ConsumerInfo, Failure};
use super::link::{ANSWER_TIMEOUT, Lane, Link, LinkError, Outgoing};
use super::streams::Which;

/// The server says so often that it is alive, if it has nothing else to say.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// So long may nothing be heard.
const SILENCE: Duration = Duration::from_millis(2_500);
/// A consumer that nobody listens to is removed by the server after this time.
const INACTIVE: Duration = Duration::from_secs(5);

/// A running consumer.
pub(super) struct Consumer {
    link: Link,
    stream: String,
    name: String,
    messages: Subscriber,
    heard: Instant,
    /// So many messages waited when it was made.
    pub(super) waiting: u64,
}

impl Shared {
    /// Messages of these subjects, all if there are none: those after `from`, or the last one of each subject and what
    /// comes after.
    pub(super) async fn consumer(
        &self,
        bucket: Bucket,
        filters: &[String],
        from: Option<Sequence>,
    ) -> Result<Consumer, Failure> {
        let client = self.link.client();
        let inbox = client.new_inbox();
        let not_sent = |why: String| Failure::from(LinkError::NotSent(why));
        let messages = timeout(ANSWER_TIMEOUT, client.subscribe(inbox.clone()))
            .await
            .map_err(|_| not_sent("the connection to NATS is congested".into()))?
            .map_err(|error| not_sent(error.to_string()))?;
        let name = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let stream = self.streams.names.stream(Which::Bucket(bucket)).to_owned();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let config = ConsumerConfig {
            name: &name,
            deliver_subject: &inbox,
            deliver_policy: if from.is_some() { "by_start_sequence" } else { "last_per_subject" },
            opt_start_seq: from.map(|from| from.0 + 1),
            ack_policy: "none",
            max_deliver: 1,
            mem_storage: true,
            num_replicas: 1,
            inactive_threshold: nanos(INACTIVE),
            idle_heartbeat: nanos(HEARTBEAT),
            flow_control: true,
            filter_subjects: filters,
        };
        let body = json!({ "stream_name": stream, "config": config, "action": "create" }).to_string();
        // From here on the consumer may exist.
        let mut consumer = Consumer {
            link: self.link.clone(),
            stream,
            name: name.clone(),
            messages,
            heard: Instant::now(),
            waiting: 0,
        };
        let place = format!("{}.{}", consumer.stream, consumer.name);
        let answer = self.streams.call("CONSUMER.CREATE", &place, body).await;
        let made = answer.and_then(|message| api::body::<ConsumerInfo>(&message));
        consumer.waiting = self.streams.noted(made)?.num_pending;
        consumer.heard = Instant::now();
        Ok(consumer)
    }
}

impl Consumer {
    /// The next message or heartbeat; waiting can be given up.
    pub(super) async fn next(&mut self) -> Option<Message> {
        let message = self.messages.next().await;
        self.heard = Instant::now();
        message
    }

    /// When nothing was heard until then, it is silent.
    pub(super) fn silent_at(&self) -> Instant {
        self.heard + SILENCE
    }

    /// True when the server should have said something.
    pub(super) fn is_silent(&self) -> bool {
        self.silent_at() <= Instant::now()
    }

    /// Takes a message that no stream holds: a heartbeat, or a question whether we keep up. Tells how many messages the
    /// server has delivered and up to which sequence, if it says so; an error if the consumer is gone.
    pub(super) fn handle_control(&self, message: &Message) -> Result<Option<(u64, Sequence)>, String> {
        if api::status(message) != Some(100) {
            let text = message.description.as_deref().unwrap_or("unknown");
            return Err(format!("the consumer has ended: {text}"));
        }
        let stalled = message.headers.as_ref().and_then(|headers| headers.get("Nats-Consumer-Stalled"));
        if let Some(subject) = message.reply.clone().or_else(|| stalled.map(|value| value.as_str().into())) {
            let answer = Outgoing { subject, headers: HeaderMap::new(), payload: bytes::Bytes::new() };
            self.link.publish(Lane::Urgent, answer);
        }
        let delivered = api::number(message, header::NATS_LAST_CONSUMER);
        let up_to = api::number(message, header::NATS_LAST_STREAM);
        Ok(delivered.zip(up_to.map(Sequence)))
    }

    /// How many messages the server has still to deliver.
    pub(super) async fn pending(&self, shared: &Shared) -> Result<u64, Failure> {
        let place = format!("{}.{}", self.stream, self.name);
        let answer = shared.streams.call("CONSUMER.INFO", &place, String::new()).await?;
        Ok(api::body::<ConsumerInfo>(&answer)?.num_pending)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let message = Outgoing {
            subject: format!("$JS.API.CONSUMER.DELETE.{}.{}", self.stream, self.name).into(),
            headers: HeaderMap::new(),
            payload: bytes::Bytes::new(),
        };
        // Best effort: without it the server removes the consumer a little later.
        self.link.tell(Lane::Urgent, message);
    }
}
