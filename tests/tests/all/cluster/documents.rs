//! Documents that come at the wrong time: before their instance is known, and after it was cleaned up after.

use std::sync::Arc;

use presence_core::documents::{Document, Expect, Key, Layout, SessionDocument, SessionEntry};
use presence_core::events::{Attributes, Status};
use presence_core::ids::{InstanceId, SessionId, UserId};
use presence_core::time::Timestamp;
use presence_host::settings::{NatsAuth, NatsSettings, NatsTls};
use presence_host::store::nats::NatsStore;
use presence_host::store::{Put, Store};

use super::*;

/// As hosts slice their users unless presence.toml says otherwise.
const LAYOUT: Layout = Layout { partitions: 64, leaves: 16 };

/// A late document must be gone by then: it is looked for every second.
const SWEPT: Duration = Duration::from_secs(5);

/// The deployment's own streams.
async fn store(deployment: &Deployment) -> NatsStore {
    let settings = NatsSettings {
        urls: vec![deployment.nats.url()],
        auth: NatsAuth::None,
        tls: NatsTls::default(),
        prefix: "presence".into(),
        replicas: 1,
        instance_ttl: TTL,
    };
    NatsStore::connect(&settings, LAYOUT).await.unwrap_or_else(|error| panic!("{error}"))
}

fn key(user: &str, instance: InstanceId) -> Key {
    let user = UserId::new(user).expect("a user id");
    let (partition, leaf) = LAYOUT.place(&user);
    Key::Sessions(partition, leaf, user, instance)
}

async fn write(store: &NatsStore, key: &Key, document: Document) {
    let put = Put { key: key.clone(), document, expect: Expect::Any, lease: None };
    store.put(put).await.unwrap_or_else(|error| panic!("{error}"));
}

async fn until_gone(store: &NatsStore, key: &Key) {
    until("the document is gone", async || (store.get(key.clone()).await == Ok(None)).then_some(())).await;
}

/// How far the cleanup after this instance is, as this host knows it.
async fn until_purged(host: &Daemon, instance: &str) {
    until(format!("{instance} is purged"), async || {
        let document = host.get("/v1/instances").await.json();
        let instances = document["instances"].as_array().expect("a list").clone();
        instances.iter().any(|one| one["instance"] == instance && one["cleanup"] == "purged").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_document_of_an_instance_that_nobody_knows_counts_until_it_is_judged() {
    let deployment = Deployment::with("offline_grace = \"1s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let store = store(&deployment).await;
    let instance = InstanceId(0x0192_f0c0_0000_7000_8000_0000_0000_00ab);
    let id = SessionId::Hosted(0x0192_f0c0_0000_7000_8000_0000_0000_00cd);
    let entry = SessionEntry {
        id: id.clone(),
        status: Status::Online,
        connected_at: Timestamp(1_732_000_000_000),
        attributes: Attributes::default(),
        ended: None,
        listed: Default::default(),
    };
    let document = SessionDocument { sessions: vec![entry], drained_until: None };
    let key = key("stranger", instance);
    write(&store, &key, Document::Sessions(Arc::new(document))).await;

    deployment.recorder.until_statuses("stranger", &["user-online"]).await;
    let named = deployment.until_cleaned_up(&instance.to_string()).await;
    assert_eq!(named, [id.to_string()]);
    deployment.recorder.until_statuses("stranger", &["user-online", "user-offline"]).await;
    for host in [&a, &b] {
        host.until_status("stranger", "offline").await;
    }
    until_gone(&store, &key).await;
    assert_eq!((deployment.lost().len(), deployment.everything()), (1, 1));
}

#[tokio::test]
async fn a_document_that_is_written_after_the_purge_is_no_news_and_is_removed() {
    let deployment = Deployment::with("offline_grace = \"1s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let alice = a.client("alice").await;
    deployment.recorder.until_statuses("alice", &["user-online"]).await;
    let store = store(&deployment).await;
    let key = key("alice", alice.instance().parse().expect("an instance's id"));
    let (_, document) = store.get(key.clone()).await.expect("an answer").expect("alice's document");
    a.kill().await;
    assert_eq!(deployment.until_cleaned_up(alice.instance()).await, [alice.session()]);
    deployment.recorder.until_statuses("alice", &["user-online", "user-offline"]).await;
    until_purged(&b, alice.instance()).await;
    until_gone(&store, &key).await;
    let before = deployment.recorder.deliveries().len();

    for _ in 0..2 {
        write(&store, &key, document.clone()).await;
        let written = Instant::now();
        until_gone(&store, &key).await;
        assert!(written.elapsed() < SWEPT, "removed only after {:?}", written.elapsed());
    }
    assert_eq!(b.status("alice").await, "offline");
    // A change that comes after it on the same way: what the straggler would have caused is heard by then.
    let mut back = b.client("alice").await;
    back.idle().await;
    let statuses = ["user-online", "user-offline", "user-online", "user-idle"];
    deployment.recorder.until_statuses("alice", &statuses).await;
    let since: Vec<String> =
        deployment.recorder.deliveries()[before..].iter().map(|event| event["type"].to_string()).collect();
    assert!(!since.iter().any(|kind| kind.contains("cleanup")), "{since:?}");
    assert_eq!(deployment.lost().len(), 1);
}
