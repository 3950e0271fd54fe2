//! Keyvalue over a real NATS server: the conformance suite, two hosts at once, and what is NATS's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::future::join_all;
use presence_host::plugins::keyvalue::conformance::{self, SharedKeyValue};
use presence_host::plugins::keyvalue::nats::NatsKeyValue;
use presence_host::plugins::keyvalue::{Bucket, KeyValue, KeyValueError};
use presence_tests::NatsServer;

const BUCKET: Bucket<'static> = Bucket { plugin: "p", bucket: "b" };

async fn client(server: &NatsServer) -> async_nats::Client {
    async_nats::connect(server.url()).await.unwrap()
}

fn fresh() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

async fn open(client: &async_nats::Client, prefix: &str) -> NatsKeyValue {
    NatsKeyValue::open(client.clone(), prefix, 1).await.unwrap()
}

#[tokio::test]
async fn keyvalue_over_nats_passes_the_conformance_suite() {
    let server = NatsServer::start().await;
    let client = client(&server).await;
    conformance::run_all(async || Arc::new(open(&client, &fresh()).await) as SharedKeyValue).await;
}

#[tokio::test]
async fn two_hosts_see_the_same_and_no_increment_is_lost() {
    let server = NatsServer::start().await;
    let (one, other) = (client(&server).await, client(&server).await);
    let prefix = fresh();
    let hosts = [open(&one, &prefix).await, open(&other, &prefix).await];
    let added = join_all((0..40).map(|number| hosts[number % 2].increment(BUCKET, "n", 1))).await;
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    assert_eq!(hosts[0].increment(BUCKET, "n", 0).await, Ok(40));
    let version = hosts[0].set(BUCKET, "k", b"1".to_vec()).await.unwrap();
    assert_eq!(hosts[1].get(BUCKET, "k").await.unwrap().unwrap().version, version);
}

#[tokio::test]
async fn of_two_hosts_that_compare_and_set_one_wins_every_time() {
    let server = NatsServer::start().await;
    let (one, other) = (client(&server).await, client(&server).await);
    let prefix = fresh();
    let hosts = [open(&one, &prefix).await, open(&other, &prefix).await];
    let mut expected = None;
    for round in 0..50_u32 {
        let value = |host: u8| format!("{round} {host}").into_bytes();
        let (first, second) = tokio::join!(
            hosts[0].compare_and_set(BUCKET, "k", expected, value(0)),
            hosts[1].compare_and_set(BUCKET, "k", expected, value(1)),
        );
        let (winner, version) = match (first.unwrap(), second.unwrap()) {
            (Some(version), None) => (0, version),
            (None, Some(version)) => (1, version),
            both => panic!("round {round}: {both:?}"),
        };
        for host in &hosts {
            let entry = host.get(BUCKET, "k").await.unwrap().unwrap();
            assert_eq!((entry.value, entry.version), (value(winner), version), "round {round}");
        }
        expected = Some(version);
    }
}

#[tokio::test]
async fn a_bucket_is_bounded_in_keys() {
    let server = NatsServer::start().await;
    let client = client(&server).await;
    let store = open(&client, &fresh()).await.with_max_keys(10);
    for number in 0..10 {
        store.set(BUCKET, &number.to_string(), Vec::new()).await.unwrap();
    }
    let refused = |ended: Result<_, KeyValueError>| matches!(ended, Err(KeyValueError::TooLarge(_)));
    assert!(refused(store.set(BUCKET, "one more", Vec::new()).await));
    assert!(refused(store.compare_and_set(BUCKET, "one more", None, Vec::new()).await.map(|_| 0)));
    assert!(refused(store.increment(BUCKET, "one more", 1).await.map(|_| 0)));
    assert!(store.set(BUCKET, "0", b"overwriting is fine".to_vec()).await.is_ok());
    assert!(store.set(Bucket { plugin: "p", bucket: "c" }, "0", Vec::new()).await.is_ok());
    store.delete(BUCKET, "0").await.unwrap();
    let again = async {
        while store.set(BUCKET, "one more", Vec::new()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), again).await.expect("there is room again");
}

#[tokio::test]
async fn a_stream_that_was_taken_away_is_made_anew_and_versions_go_on() {
    let server = NatsServer::start().await;
    let client = client(&server).await;
    let prefix = fresh();
    let store = open(&client, &prefix).await;
    let before = store.set(BUCKET, "k", b"1".to_vec()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client.clone());
    jetstream.delete_stream(format!("{prefix}_keyvalue")).await.unwrap();
    assert!(matches!(store.get(BUCKET, "k").await, Err(KeyValueError::Unavailable(_))));
    assert_eq!(store.get(BUCKET, "k").await, Ok(None));
    assert!(store.set(BUCKET, "k", b"2".to_vec()).await.unwrap() > before);
    jetstream.delete_stream(format!("{prefix}_keyvalue")).await.unwrap();
    jetstream
        .create_stream(async_nats::jetstream::stream::Config {
            name: format!("{prefix}_keyvalue"),
            subjects: vec![format!("{prefix}.k.>")],
            ..Default::default()
        })
        .await
        .unwrap();
    let refused = NatsKeyValue::open(client, &prefix, 1).await.err().expect("not ours");
    assert!(refused.to_string().contains("max_msgs_per_subject is -1, not 1"), "{refused}");
}
