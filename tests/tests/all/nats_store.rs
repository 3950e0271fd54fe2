//! The store over NATS: what every store must do, and what only this one can meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use presence_core::documents::{
    Change, Document, Expect, InstanceRecord, InstanceState, Key, SessionDocument, StatusRecord, Trail,
    Update,
};
use presence_core::events::Status;
use presence_core::ids::{InstanceId, Layout, PartitionId, Sequence, UserId};
use presence_core::time::Timestamp;
use presence_host::settings::{NatsAuth, NatsSettings, NatsTls};
use presence_host::store::nats::{NatsError, NatsStore};
use presence_host::store::{
    Coverage, Followed, Follower, Purge, Put, SharedStore, Store, StoreError, conformance,
};
use presence_tests::{NatsCluster, NatsServer, WAIT};
use serde_json::{Value, json};

mod differential;
mod faults;
mod large;
mod publishing;
mod refusals;
mod tls;

/// As the daemon would have them, under a prefix of the test's own.
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
    NatsStore::connect(settings, LAYOUT).await.unwrap_or_else(|error| panic!("{error}"))
}

const LAYOUT: Layout = conformance::LAYOUT;

/// A server, a deployment on it, and a way to go behind the store's back.
struct Bench {
    server: NatsServer,
    settings: NatsSettings,
    store: NatsStore,
}

impl Bench {
    async fn new() -> Bench {
        Bench::on(NatsServer::start().await).await
    }

    async fn on(server: NatsServer) -> Bench {
        let settings = settings(vec![server.url()]);
        let store = connect(&settings).await;
        Bench { server, settings, store }
    }

    /// A request of the JetStream API, by somebody else.
    async fn api(&self, verb: &str, body: Value) -> Value {
        let client = async_nats::connect(self.server.url()).await.expect("a client");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = client.request(format!("$JS.API.{verb}"), body.into()).await.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    }

    /// Publishes behind the store's back and waits until it is stored.
    async fn plant(&self, below: &str, payload: &'static str) {
        let client = async_nats::connect(self.server.url()).await.expect("a client");
        let subject = format!("{}.{below}", self.settings.prefix);
        let answer = client.request(subject, payload.into()).await.expect("an answer");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert!(answer.get("error").is_none(), "{answer}");
    }

    fn stream(&self, which: &str) -> String {
        format!("{}_{which}", self.settings.prefix)
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a user id")
}

fn user_key(partition: u16, name: &str) -> Key {
    Key::User(PartitionId(partition), LAYOUT.place(&user(name)).1, user(name))
}

fn sessions_key(partition: u16, name: &str, instance: u128) -> Key {
    Key::Sessions(PartitionId(partition), LAYOUT.place(&user(name)).1, user(name), InstanceId(instance))
}

fn record(revision: u64) -> Document {
    Document::User(StatusRecord {
        status: Status::Online,
        since: Timestamp(1),
        revision,
        last_seen: None,
        sessions: 1,
        generation: 1,
        previous: None,
        trail: Trail::default(),
    })
}

fn sessions(drained_until: u64) -> Document {
    let drained_until = Some(Timestamp(drained_until));
    Document::Sessions(Arc::new(SessionDocument { sessions: vec![], drained_until }))
}

fn instance(renewal: u64) -> Document {
    Document::Instance(InstanceRecord {
        host: "host".into(),
        state: InstanceState::Ready,
        started_at: Timestamp(1),
        renewal,
        plugins: 0,
        cleanup: None,
        holder: None,
    })
}

fn partitions(partitions: &[u16]) -> Coverage {
    Coverage::Partitions(partitions.iter().copied().map(PartitionId).collect())
}

fn every_partition() -> Vec<u16> {
    (0..LAYOUT.partitions).collect()
}

fn unconditional(key: &Key, document: Document) -> Put {
    Put { key: key.clone(), document, expect: Expect::Any, lease: None }
}

async fn write(store: &dyn Store, key: &Key, document: Document) -> Sequence {
    store.put(unconditional(key, document)).await.expect("a write without a condition")
}

async fn next(follower: &mut Follower) -> Followed {
    let next = tokio::time::timeout(WAIT, follower.next()).await;
    next.unwrap_or_else(|_| panic!("the follower has heard nothing for {WAIT:?}"))
}

async fn next_update(follower: &mut Follower) -> Update {
    match next(follower).await {
        Followed::Update(update) => update,
        Followed::Lost(why) => panic!("the follower was lost: {why}"),
    }
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

/// Over a marker, over an expiry, in a race with the server's own marker: every lease that was acknowledged ends, and
/// ends once.
#[tokio::test]
async fn a_renewal_near_the_end_is_in_time_or_refused() {
    const INSTANCES: u128 = 40;
    let bench = Bench::new().await;
    let mut follower = bench.store.follow(Coverage::Instances, Sequence(0)).await.unwrap();
    let lease = Duration::from_secs(1);
    let renewals = (0..INSTANCES).map(|number| {
        let (store, key) = (&bench.store, Key::Instance(InstanceId(number)));
        async move {
            let put = |renewal, expect| Put {
                key: key.clone(),
                document: instance(renewal),
                expect,
                lease: Some(lease),
            };
            let first = store.put(put(1, Expect::Last(Sequence(0)))).await.expect("a lease");
            // Around the end: some before, some after the marker.
            let late = Duration::from_millis(900 + u64::try_from(number).unwrap() * 40);
            tokio::time::sleep(late).await;
            (key.clone(), first, store.put(put(2, Expect::Last(first))).await)
        }
    });
    let renewed = futures_util::future::join_all(renewals).await;
    // Each is over for good once it has ended after its last write.
    let mut open: std::collections::BTreeMap<Key, Sequence> = renewed
        .iter()
        .map(|(key, first, outcome)| (key.clone(), outcome.as_ref().map_or(*first, |renewed| *renewed)))
        .collect();
    let mut alive: std::collections::BTreeMap<Key, u64> = Default::default();
    while !open.is_empty() {
        let Update { key, sequence, change } = next_update(&mut follower).await;
        match change {
            Change::Put(Document::Instance(record)) => _ = alive.insert(key, record.renewal),
            Change::Expired => {
                if open.get(&key).is_some_and(|last| *last < sequence) {
                    open.remove(&key);
                }
            }
            other => panic!("{key:?} {other:?}"),
        }
    }
    let (mut in_time, mut refused) = (0, 0);
    for (key, first, outcome) in renewed {
        match outcome {
            Ok(_) => {
                in_time += 1;
                assert_eq!(alive[&key], 2, "{key:?}");
            }
            Err(StoreError::Conflict { last }) => {
                refused += 1;
                assert!(last > first);
                assert_eq!(alive[&key], 1, "{key:?}");
            }
            Err(other) => panic!("{key:?}: {other}"),
        }
        assert_eq!(bench.store.get(key).await, Ok(None));
    }
    assert!(refused > 0, "{in_time} of {INSTANCES} were renewed: too early to tell anything");
}

#[tokio::test]
async fn notices_go_to_other_hosts_for_those_who_are_watched() {
    let bench = Bench::new().await;
    let other = connect(&bench.settings).await;
    let mut heard = other.notices();
    let notice = |name: &str, revision| presence_host::store::Notice {
        user: user(name),
        record: match record(revision) {
            Document::User(record) => record,
            _ => unreachable!("it is a record"),
        },
    };
    other.watch(&user("al.ice"));
    other.watch(&user("al.ice"));
    // Answered after the subscription has arrived.
    other.get(user_key(1, "al.ice")).await.unwrap();
    bench.store.notify(notice("bob", 1));
    bench.store.notify(notice("al.ice", 2));
    let next = tokio::time::timeout(WAIT, heard.next()).await.expect("a notice");
    assert_eq!(next, presence_host::store::Noticed::Notice(notice("al.ice", 2)));

    other.unwatch(&user("al.ice"));
    bench.store.notify(notice("al.ice", 3));
    let next = tokio::time::timeout(WAIT, heard.next()).await.expect("still watched once");
    assert_eq!(next, presence_host::store::Noticed::Notice(notice("al.ice", 3)));
    other.unwatch(&user("al.ice"));
    other.watch(&user("carol"));
    other.get(user_key(1, "carol")).await.unwrap();
    bench.store.notify(notice("al.ice", 4));
    bench.store.notify(notice("carol", 5));
    let next = tokio::time::timeout(WAIT, heard.next()).await.expect("a notice");
    assert_eq!(next, presence_host::store::Noticed::Notice(notice("carol", 5)));
}

#[tokio::test]
async fn the_clock_is_the_servers() {
    let bench = Bench::new().await;
    let told = bench.store.clock().await.unwrap().expect("a clock").0;
    let own = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(u64::try_from(own).unwrap().abs_diff(told) < 5_000, "{told} and {own}");
}

/// However often somebody follows anew, the server has one consumer for it.
#[tokio::test]
async fn followers_leave_no_consumers_behind() {
    let bench = Bench::new().await;
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(bench.store.follow(partitions(&[1]), Sequence(0)).await.unwrap());
    }
    for round in 0..50 {
        let coverage = partitions(&[round % 8, (round + 1) % 8]);
        followers[usize::from(round % 3)] = bench.store.follow(coverage, Sequence(0)).await.unwrap();
    }
    let consumers = async || {
        let info = bench.api(&format!("STREAM.INFO.{}", bench.stream("sessions")), Value::Null).await;
        info["state"]["consumer_count"].as_u64().expect("a number")
    };
    presence_tests::until("three consumers are left", async || (consumers().await == 3).then_some(())).await;
    drop(followers);
    presence_tests::until("no consumer is left", async || (consumers().await == 0).then_some(())).await;
}
