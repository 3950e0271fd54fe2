//! The analytics plugin as it is shipped, eight guests at once, each killed again and again between two steps of its
//! work: the figures are exact all the same. The daemon's plugin runtime runs in this process, so that the keyvalue can
//! be made to hang and be read afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use presence_core::events::{Attributes, Session, SessionChange, SessionEvent, Status, Transition};
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use presence_core::time::Timestamp;
use presence_host::clock::Clock;
use presence_host::plugins::keyvalue::memory::MemoryKeyValue;
use presence_host::plugins::keyvalue::{Answer, Bucket, Entry, KeyValue, Page};
use presence_host::plugins::{Backends, CompileMode, Deps, Event, PluginSet, Plugins};
use presence_host::settings::{DeliverySettings, Grants, Initial, Limits, PluginSettings};
use presence_host::store::memory::MemoryStore;
use presence_tests::{Folder, WAIT, shipped_plugin};
use serde_json::{Value, json};

const USERS: u128 = 30;
const PLACE: Bucket<'static> = Bucket { plugin: "analytics", bucket: "analytics" };

/// A keyvalue whose writes never return every so often, before or after they are done: the call's deadline passes and
/// the guest is thrown away.
struct Deadly {
    inner: MemoryKeyValue,
    random: std::sync::Mutex<fastrand::Rng>,
    killed: AtomicU64,
}

impl Deadly {
    /// Whether to hang before the write, and after it.
    fn fate(&self) -> (bool, bool) {
        let fate = self.random.lock().unwrap().u32(0..16);
        if fate < 2 {
            self.killed.fetch_add(1, Ordering::Relaxed);
        }
        (fate == 0, fate == 1)
    }

    async fn around<T>(&self, write: impl Future<Output = T>) -> T {
        let (before, after) = self.fate();
        if before {
            std::future::pending::<()>().await;
        }
        let done = write.await;
        if after {
            std::future::pending::<()>().await;
        }
        done
    }
}

impl KeyValue for Deadly {
    fn get<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, Option<Entry>> {
        self.inner.get(bucket, key)
    }

    fn set<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, value: Vec<u8>) -> Answer<'a, u64> {
        Box::pin(self.around(async move { self.inner.set(bucket, key, value).await }))
    }

    fn compare_and_set<'a>(
        &'a self,
        bucket: Bucket<'a>,
        key: &'a str,
        expected: Option<u64>,
        value: Vec<u8>,
    ) -> Answer<'a, Option<u64>> {
        Box::pin(self.around(async move { self.inner.compare_and_set(bucket, key, expected, value).await }))
    }

    fn increment<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, delta: i64) -> Answer<'a, i64> {
        Box::pin(self.around(async move { self.inner.increment(bucket, key, delta).await }))
    }

    fn delete<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, ()> {
        Box::pin(self.around(async move { self.inner.delete(bucket, key).await }))
    }

    fn keys<'a>(&'a self, bucket: Bucket<'a>, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.inner.keys(bucket, prefix, after)
    }
}

fn settings() -> PluginSettings {
    PluginSettings {
        name: "analytics".into(),
        path: shipped_plugin("analytics"),
        config: "{}".into(),
        secrets: Default::default(),
        sha256: None,
        initial: Initial::Nothing,
        interval: None,
        grants: Grants { keyvalue: vec!["analytics".into()], ..Grants::default() },
        limits: Limits { memory: 32 << 20, deadline: Duration::from_millis(250), log: 64 << 10 },
        delivery: DeliverySettings {
            concurrency: 8,
            queue: 4096,
            attempts: 100_000,
            backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(5),
        },
    }
}

fn user(number: u128) -> UserId {
    UserId::new(&format!("user-{number}")).unwrap()
}

fn transition(number: u128, previous: Option<Status>, current: Status, at: u64) -> Event {
    Event::Status(Arc::new(Transition {
        user: user(number),
        previous,
        current,
        since: Timestamp(at),
        revision: at,
        sessions: 1,
        last_seen: None,
        partition: PartitionId(0),
        sequence: Sequence(at),
    }))
}

fn session(number: u128, opened: u64, change: SessionChange) -> Event {
    let session = Session {
        id: SessionId::Hosted(number),
        user: user(number),
        instance: InstanceId(1),
        status: Status::Online,
        connected_at: Timestamp(opened),
        attributes: Attributes::default(),
    };
    Event::Session(Arc::new(SessionEvent { session, change, partition: None }))
}

/// Submits events and waits until each is settled.
async fn settle(plugins: &PluginSet, events: Vec<Event>) {
    let mut left = events.len();
    for event in events {
        plugins.submit(event);
    }
    while left > 0 {
        let settled = tokio::time::timeout(WAIT, plugins.outcomes()).await;
        let waiting = || panic!("{left} events are not settled: {:#?}", plugins.unsettled_list(5));
        left -= settled.unwrap_or_else(|_| waiting()).len();
    }
}

/// Adds up all roll-ups.
async fn totals(store: &MemoryKeyValue) -> Value {
    let mut totals = serde_json::Map::new();
    let page = store.keys(PLACE, "rollup/", None).await.unwrap();
    assert_eq!(page.next, None);
    for key in page.keys {
        let entry = store.get(PLACE, &key).await.unwrap().unwrap();
        let document: Value = serde_json::from_slice(&entry.value).unwrap();
        for (name, figure) in document["figures"].as_object().unwrap() {
            let sum = totals.entry(name.clone()).or_insert(json!(0));
            *sum = json!(sum.as_i64().unwrap() + figure.as_i64().unwrap());
        }
    }
    Value::Object(totals)
}

#[tokio::test]
async fn figures_are_exact_with_eight_guests_that_are_killed_again_and_again() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let keyvalue = Arc::new(Deadly {
        inner: MemoryKeyValue::default(),
        random: std::sync::Mutex::new(fastrand::Rng::with_seed(seed)),
        killed: AtomicU64::new(0),
    });
    let folder = Folder::new();
    let deps = Deps {
        data_dir: folder.path().to_owned(),
        store: Arc::new(MemoryStore::new()),
        backends: Backends { keyvalue: keyvalue.clone(), ..Backends::for_trials() },
        compile: CompileMode::InProcess,
        clock: Clock::machine(),
        tracer: presence_host::traces::Tracer::off(),
    };
    let plugins = PluginSet::load(&[settings()], deps).await.unwrap_or_else(|errors| panic!("{errors:?}"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let began = now - 60_000;
    let users = || 1..=USERS;
    let connected = users().map(|number| session(number, began, SessionChange::Connected));
    let online = users().map(|number| transition(number, None, Status::Online, began));
    settle(&plugins, connected.chain(online).collect()).await;
    let (on, off) = (Some(Status::Online), Some(Status::Idle));
    settle(&plugins, users().map(|number| transition(number, on, Status::Idle, began + 1000)).collect())
        .await;
    settle(&plugins, users().map(|number| transition(number, off, Status::Online, began + 3000)).collect())
        .await;
    let end = || SessionChange::Disconnected { reason: "closed".into(), duration_ms: 7000 };
    let disconnected = users().map(|number| session(number, began, end()));
    let offline = users().map(|number| transition(number, on, Status::Offline, began + 7000));
    settle(&plugins, disconnected.chain(offline).collect()).await;
    plugins.shutdown().await;

    let killed = keyvalue.killed.load(Ordering::Relaxed);
    assert!(killed > 20, "only {killed} guests were killed");
    let each = |figure: i64| json!(figure * USERS as i64);
    let expected = json!({
        "sessions_started": each(1), "sessions_ended": each(1), "sessions_lost": 0, "session_ms": each(7000),
        "became_online": each(2), "became_idle": each(1), "became_offline": each(1),
        "online_ms": each(5000), "idle_ms": each(2000), "offline_ms": 0, "unknown_ms": 0,
    });
    assert_eq!(totals(&keyvalue.inner).await, expected, "seed {seed}, {killed} guests killed");
}
