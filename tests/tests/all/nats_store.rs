//! The store over NATS: what every store must do, and what only this one can meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use presence_core::ids::Layout;
use presence_host::settings::{NatsAuth, NatsSettings, NatsTls};
use presence_host::store::SharedStore;
use presence_host::store::conformance;
use presence_host::store::nats::NatsStore;
use presence_tests::{NatsCluster, NatsServer};

fn settings(urls: Vec<String>) -> NatsSettings {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NatsSettings {
        urls,
        auth: NatsAuth::None,
        tls: NatsTls::default(),
        prefix: format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        replicas: 1,
        instance_ttl: Duration::from_secs(3),
    }
}

async fn connect(settings: &NatsSettings) -> NatsStore {
    let layout: Layout = conformance::LAYOUT;
    NatsStore::connect(settings, layout).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nats_store_conforms() {
    let server = NatsServer::start().await;
    conformance::run_all(async || Arc::new(connect(&settings(vec![server.url()])).await) as SharedStore)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nats_store_conforms_on_three_servers() {
    let cluster = NatsCluster::start(3).await;
    conformance::run_all(async || {
        let settings = NatsSettings { replicas: 3, ..settings(cluster.urls()) };
        Arc::new(connect(&settings).await) as SharedStore
    })
    .await;
}
