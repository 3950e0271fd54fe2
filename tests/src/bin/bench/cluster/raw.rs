//! What NATS alone does: the yardsticks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream::{self, consumer, stream};
use futures_util::StreamExt as _;

/// So many puts may be without an acknowledgement.
const IN_FLIGHT: usize = 4_096;

/// A stream like those of Presence: the newest of each subject, in files.
async fn stream(context: &jetstream::Context, name: &str, replicas: usize) -> anyhow::Result<stream::Stream> {
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec![format!("{name}.>")],
        max_messages_per_subject: 1,
        storage: stream::StorageType::File,
        num_replicas: replicas,
        allow_direct: true,
        ..stream::Config::default()
    };
    context.create_stream(config).await.with_context(|| format!("the stream {name}"))
}

/// Puts a second of one client that keeps many in flight.
pub async fn puts(
    client: &async_nats::Client,
    replicas: usize,
    bytes: usize,
    subjects: usize,
) -> anyhow::Result<f64> {
    let context =
        jetstream::context::ContextBuilder::new().max_ack_inflight(IN_FLIGHT * 2).build(client.clone());
    stream(&context, "raw_puts", replicas).await?;
    let payload = bytes::Bytes::from(vec![b'x'; bytes]);
    let names: Vec<String> = (0..subjects).map(|at| format!("raw_puts.{at}")).collect();
    let mut waiting: VecDeque<jetstream::context::PublishAckFuture> = VecDeque::with_capacity(IN_FLIGHT);
    let (mut count, began) = (0_u64, Instant::now());
    while began.elapsed() < Duration::from_secs(6) {
        for name in &names {
            if waiting.len() == IN_FLIGHT
                && let Some(ack) = waiting.pop_front()
            {
                ack.await.context("a put")?;
                count += 1;
            }
            waiting.push_back(context.publish(name.clone(), payload.clone()).await.context("a put")?);
            if count.is_multiple_of(1_024) && began.elapsed() > Duration::from_secs(6) {
                break;
            }
        }
    }
    for ack in waiting {
        ack.await.context("a put")?;
        count += 1;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    context.delete_stream("raw_puts").await.context("the stream")?;
    Ok(rate)
}

/// From a put to its subscriber, at this many a second.
pub async fn hearing(client: &async_nats::Client, bytes: usize, rate: u64) -> anyhow::Result<Vec<Duration>> {
    let context = jetstream::new(client.clone());
    let stream = stream(&context, "raw_hearing", 1).await?;
    let config = consumer::push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        deliver_policy: consumer::DeliverPolicy::New,
        ..consumer::push::OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.context("a consumer")?;
    let mut messages = consumer.messages().await.context("a consumer")?;
    let count = rate as usize * 10;
    let publisher = context.clone();
    let publishing = tokio::spawn(async move {
        let mut sent = Vec::with_capacity(count);
        let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / rate));
        for at in 0..count {
            tick.tick().await;
            let mut payload = at.to_string().into_bytes();
            payload.resize(bytes.max(16), b' ');
            sent.push(Instant::now());
            // The acknowledgement is not waited for: the subscriber is what counts.
            drop(publisher.publish(format!("raw_hearing.{}", at % 1_000), payload.into()).await?);
        }
        anyhow::Ok(sent)
    });
    let mut heard = Vec::with_capacity(count);
    while heard.len() < count {
        let message = tokio::time::timeout(Duration::from_secs(10), messages.next()).await;
        let message = message.context("a message")?.context("the end")?.context("a message")?;
        let text = std::str::from_utf8(&message.payload)?;
        heard.push((text.trim_end().parse::<usize>()?, Instant::now()));
    }
    let sent = publishing.await??;
    context.delete_stream("raw_hearing").await.context("the stream")?;
    Ok(heard.into_iter().map(|(at, when)| when - sent[at]).collect())
}

/// The last sequence of the stream of sessions, and the mean bytes of its messages.
pub async fn sessions_stream(client: &async_nats::Client) -> anyhow::Result<(u64, usize)> {
    let context = jetstream::new(client.clone());
    let mut stream = context.get_stream("presence_sessions").await.context("presence_sessions")?;
    let state = &stream.info().await.context("presence_sessions")?.state;
    Ok((state.last_sequence, (state.bytes / state.messages.max(1)) as usize))
}
