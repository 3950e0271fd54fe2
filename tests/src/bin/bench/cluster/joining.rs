//! The start of a host into a deployment that knows 200,000 users.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use presence_core::documents::{Document, Expect, Key, Layout, StatusRecord, Trail};
use presence_core::events::Status;
use presence_core::ids::UserId;
use presence_core::time::Timestamp;
use presence_host::settings::{NatsAuth, NatsSettings, NatsTls};
use presence_host::store::nats::NatsStore;
use presence_host::store::{Put, Store as _};

use super::{Servers, host, noop, shares};
use crate::memory::resident_bytes_of;
use crate::report::{count, line, time};

const USERS: usize = 200_000;
const TTL: Duration = Duration::from_secs(6);
/// So many writes may be without an answer.
const IN_FLIGHT: usize = 2_000;

/// One server; the records are written by this program, as an earlier run of the deployment would have left them.
pub(super) async fn run() -> anyhow::Result<()> {
    let nats = Servers::start(1).await;
    let first = host("a", &nats.urls(), TTL, noop()).start().await;
    first.stop().await.with_code(0);
    let took = preload(&nats.urls()).await?;
    line("cluster: records written by the bench, a second", count(USERS as f64 / took.as_secs_f64()), "");

    let began = Instant::now();
    let a = host("a", &nats.urls(), TTL, noop()).start().await;
    line(
        "cluster: the first host over 200,000 users is ready after",
        time(began.elapsed()),
        "one fresh start",
    );
    let bytes = resident_bytes_of(a.pid()) as f64 / USERS as f64;
    line("cluster: resident bytes a known offline user", count(bytes), "the whole process / 200,000");
    let began = Instant::now();
    let b = host("b", &nats.urls(), TTL, noop()).start().await;
    line("cluster: a second host is ready after", time(began.elapsed()), "");
    presence_tests::until("the second host has its share", async || {
        let shares = shares(&b).await;
        let (of_a, of_b) = (shares.get("a").copied().unwrap_or(0), shares.get("b").copied().unwrap_or(0));
        (of_a + of_b == 64 && of_b > 10).then_some(())
    })
    .await;
    line("cluster: and owns its share after", time(began.elapsed()), "about 100,000 users handed over");
    Ok(())
}

async fn preload(urls: &[String]) -> anyhow::Result<Duration> {
    let layout = Layout { partitions: 64, leaves: 16 };
    let settings = NatsSettings {
        urls: urls.to_vec(),
        auth: NatsAuth::None,
        tls: NatsTls::default(),
        prefix: "presence".to_owned(),
        replicas: 1,
        instance_ttl: TTL,
    };
    let store = NatsStore::connect(&settings, layout).await.context("the store")?;
    let now = Timestamp(std::time::UNIX_EPOCH.elapsed()?.as_millis() as u64);
    let began = Instant::now();
    let mut writes = futures_util::stream::iter(0..USERS)
        .map(|at| {
            let user = UserId::new(&format!("user-{at:015}")).expect("a user id");
            let (partition, leaf) = layout.place(&user);
            let record = StatusRecord {
                status: Status::Offline,
                since: now,
                revision: now.0,
                last_seen: Some(now),
                sessions: 0,
                generation: 1,
                previous: Some(Status::Online),
                trail: Trail::default(),
            };
            let key = Key::User(partition, leaf, user);
            store.put(Put { key, document: Document::User(record), expect: Expect::Any, lease: None })
        })
        .buffered(IN_FLIGHT);
    while let Some(written) = writes.next().await {
        written.context("a record")?;
    }
    Ok(began.elapsed())
}
