//! The store over NATS beside the bare protocol: puts a second of one client, unconditional, conditional and fenced,
//! while somebody follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use presence_core::documents::{
    Claim, Document, Expect, Key, SessionDocument, SessionEntry, StatusRecord, Trail,
};
use presence_core::events::{Attributes, Status};
use presence_core::ids::{InstanceId, Layout, PartitionId, Sequence, SessionId, UserId};
use presence_core::time::Timestamp;
use presence_host::settings::{NatsAuth, NatsSettings, NatsTls};
use presence_host::store::nats::NatsStore;
use presence_host::store::token;
use presence_host::store::{Coverage, Follower, Put, Store};
use presence_tests::{NatsCluster, NatsServer};

use crate::report::{count, line};

const USERS: usize = 20_000;
const PUTS: usize = 100_000;
const IN_FLIGHT: usize = 1_024;
const LAYOUT: Layout = Layout { partitions: 64, leaves: 16 };

pub async fn run() -> anyhow::Result<()> {
    let server = NatsServer::start().await;
    measure("one server", vec![server.url()], 1).await?;
    drop(server);
    let cluster = NatsCluster::start(3).await;
    measure("three servers", cluster.urls(), 3).await
}

async fn measure(on: &str, urls: Vec<String>, replicas: u8) -> anyhow::Result<()> {
    let raw = raw(&urls, replicas).await?;
    let settings = NatsSettings {
        urls,
        auth: NatsAuth::None,
        tls: NatsTls::default(),
        prefix: "bench".into(),
        replicas,
        instance_ttl: Duration::from_secs(6),
    };
    let store = Arc::new(NatsStore::connect(&settings, LAYOUT).await?);
    let follower = store.follow(everything(), Sequence(0)).await?;
    let following = tokio::spawn(follow(follower));
    let yardstick = format!("bare requests of the same bytes: {}/s", count(raw));
    let puts = sessions(&store).await;
    line(&format!("NATS, {on}: session documents a second"), count(puts), &yardstick);
    for size in [1, 16, 128] {
        let fenced = records(&store, size).await;
        line(&format!("NATS, {on}: fenced records a second, {size} at a time"), count(fenced), &yardstick);
    }
    following.abort();
    Ok(())
}

fn everything() -> Coverage {
    Coverage::PartitionsAndClaims((0..LAYOUT.partitions).map(PartitionId).collect())
}

/// Takes what comes, as a driver does.
async fn follow(mut follower: Follower) {
    while !follower.next_batch().await.is_empty() {}
}

fn users() -> Vec<UserId> {
    (0..USERS).map(|n| UserId::new(&format!("user-{n}")).expect("a user id")).collect()
}

fn session_key(user: &UserId) -> Key {
    let (partition, leaf) = LAYOUT.place(user);
    Key::Sessions(partition, leaf, user.clone(), InstanceId(7))
}

fn session(number: usize) -> Document {
    let entry = SessionEntry {
        id: SessionId::Hosted(number as u128),
        status: Status::Online,
        connected_at: Timestamp(1_764_000_000_000),
        attributes: Attributes::new(vec![("user-agent".into(), "bench".into())]),
        ended: None,
        listed: Default::default(),
    };
    Document::Sessions(Arc::new(SessionDocument { sessions: vec![entry], drained_until: None }))
}

/// A stream of the same kind, a consumer on it, and nothing but requests.
async fn raw(urls: &[String], replicas: u8) -> anyhow::Result<f64> {
    let client = async_nats::connect(urls).await?;
    let create = serde_json::json!({
        "name": "raw", "subjects": ["raw.>"], "storage": "file", "num_replicas": replicas, "max_msgs_per_subject": 1,
        "discard": "new", "allow_rollup_hdrs": true, "allow_direct": true, "allow_msg_ttl": true,
        "subject_delete_marker_ttl": 120_000_000_000_u64, "allow_atomic": true,
    });
    client.request("$JS.API.STREAM.CREATE.raw", create.to_string().into()).await?;
    let mut updates = client.subscribe("raw-updates").await?;
    let config = serde_json::json!({
        "name": "c", "deliver_subject": "raw-updates", "ack_policy": "none", "mem_storage": true,
    });
    let consumer = serde_json::json!({ "stream_name": "raw", "config": config, "action": "create" });
    client.request("$JS.API.CONSUMER.CREATE.raw.c", consumer.to_string().into()).await?;
    let following = tokio::spawn(async move { while updates.next().await.is_some() {} });
    let messages: Vec<(String, bytes::Bytes)> = users()
        .iter()
        .enumerate()
        .map(|(number, user)| {
            let key = session_key(user);
            let bytes = token::encode_document(&key, &session(number)).expect("a session document");
            (token::subject(&key, "raw"), bytes.into())
        })
        .collect();
    let started = Instant::now();
    let mut answers = stream::iter(messages.iter().cycle().take(PUTS).cloned())
        .map(|(subject, bytes)| client.request(subject, bytes))
        .buffer_unordered(IN_FLIGHT);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    let rate = PUTS as f64 / started.elapsed().as_secs_f64();
    following.abort();
    Ok(rate)
}

async fn sessions(store: &NatsStore) -> f64 {
    let users = users();
    let started = Instant::now();
    let puts = users.iter().enumerate().cycle().take(PUTS).map(|(number, user)| Put {
        key: session_key(user),
        document: session(number),
        expect: Expect::Any,
        lease: None,
    });
    let mut answers = stream::iter(puts).map(|put| store.put(put)).buffer_unordered(IN_FLIGHT);
    while let Some(answer) = answers.next().await {
        answer.expect("a put");
    }
    PUTS as f64 / started.elapsed().as_secs_f64()
}

/// Every partition's owner writes so many records at a time, one call in flight each.
async fn records(store: &NatsStore, size: usize) -> f64 {
    let users = users();
    let each = PUTS / usize::from(LAYOUT.partitions);
    let started = Instant::now();
    let owners = (0..LAYOUT.partitions).map(PartitionId).map(|partition| {
        let users: Vec<&UserId> = users.iter().filter(|user| LAYOUT.partition(user) == partition).collect();
        async move {
            let owner = Key::Owner(partition);
            let document = Document::Owner(Claim { instance: Some(InstanceId(7)), nonce: 1 });
            let put = Put { key: owner.clone(), document, expect: Expect::Any, lease: None };
            let claim = store.put(put).await.expect("a claim");
            for call in 0..each / size {
                let batch = (0..size).map(|place| {
                    let user = users[(call * size + place) % users.len()];
                    let (partition, leaf) = LAYOUT.place(user);
                    (Key::User(partition, leaf, user.clone()), record(call))
                });
                let (written, error) = store.put_fenced((owner.clone(), claim), batch.collect()).await;
                assert_eq!((written.len(), error), (size, None));
            }
            each / size * size
        }
    });
    let written: usize = futures_util::future::join_all(owners).await.into_iter().sum();
    written as f64 / started.elapsed().as_secs_f64()
}

fn record(revision: usize) -> Document {
    Document::User(StatusRecord {
        status: Status::Online,
        since: Timestamp(1_764_000_000_000),
        revision: revision as u64,
        last_seen: None,
        sessions: 1,
        generation: 1,
        previous: Some(Status::Offline),
        trail: Trail::default(),
    })
}
