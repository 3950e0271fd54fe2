//! A host whose clock is wrong: it says so, takes nobody in, and goes on once the clock is right. The host is built here
//! out of its parts, since a process can't be given a clock of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use presence_core::ids::InstanceId;
use presence_core::time::{Now, Timestamp};
use presence_host::clock::{Clock, TimeSource};
use presence_host::config;
use presence_host::driver::{Driver, DriverConfig, Handle};
use presence_host::gateway::{self, AdminDeps};
use presence_host::plugins::{Backends, CompileMode, Deps, PluginSet};
use presence_host::reload::{Reloader, Source};
use presence_host::settings::StoreKind;
use presence_host::store::SharedStore;
use presence_host::store::nats::NatsStore;
use presence_tests::{Client, Config, Folder, NatsServer, ask, until};
use tokio_util::sync::CancellationToken;

const HOUR: i64 = 3_600_000;

/// The machine's clock, off by some milliseconds.
#[derive(Debug)]
struct Skewed(AtomicI64);

impl Skewed {
    fn set(&self, skew: i64) {
        self.0.store(skew, Ordering::Relaxed);
    }
}

impl TimeSource for Skewed {
    fn now(&self) -> Now {
        let now = Clock::machine().now();
        Now { wall: Timestamp(now.wall.0.saturating_add_signed(self.0.load(Ordering::Relaxed))), ..now }
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn has(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(text)
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A host with this clock; ends with the runtime. Answers where clients and admin are.
async fn host(server: &NatsServer, clock: Clock, folder: &Folder) -> (SocketAddr, SocketAddr) {
    let cluster =
        format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\ninstance_ttl = \"3s\"", server.url());
    let text = Config::default().section(cluster).render();
    let settings = config::parse(&text, &folder.path().join("presence.toml"), &|_| None)
        .unwrap_or_else(|errors| panic!("{errors}"));
    let layout = presence_core::documents::Layout {
        partitions: settings.cluster.partitions,
        leaves: settings.cluster.leaves,
    };
    let StoreKind::Nats(nats) = &settings.cluster.store else { panic!("it says nats") };
    let store: SharedStore = Arc::new(NatsStore::connect(nats, layout).await.unwrap());
    let deps = Deps {
        data_dir: folder.path().to_owned(),
        store: store.clone(),
        backends: Backends::for_trials(),
        compile: CompileMode::InProcess,
        clock: clock.clone(),
        tracer: presence_host::traces::Tracer::off(),
    };
    let plugins = Arc::new(PluginSet::load(&[], deps).await.unwrap());
    let listeners = gateway::bind(&settings).await.unwrap();
    let addresses = (listeners.client_address(), listeners.admin_address());
    let callers = listeners.callers();
    let (handle, events) = Handle::channel(64);
    let driver_config = DriverConfig {
        host: "skewed".into(),
        instance: InstanceId(fastrand::u128(..)),
        layout,
        instance_ttl: settings.cluster.instance_ttl,
        presence: settings.presence.clone(),
        drain_timeout: settings.host.drain_timeout,
        unready_after: settings.host.unready_after,
        handover_timeout: settings.cluster.handover_timeout,
        shared: true,
        silent_plugins: Default::default(),
        seed: fastrand::u64(..),
    };
    let driver = Driver::new(driver_config, clock, store.clone(), plugins.clone(), events);
    tokio::spawn(driver.run());
    let source = Source { path: folder.path().join("presence.toml"), text };
    let (reloader, reload) = Reloader::new(source, &settings, plugins.clone(), callers).unwrap();
    tokio::spawn(reloader.run(handle.clone()));
    let admin = AdminDeps { store, metrics: plugins, reload: Arc::new(reload) };
    tokio::spawn(listeners.serve(handle, admin, CancellationToken::new()));
    addresses
}

/// Waits until `/readyz` has this status, and the body this text.
async fn until_readyz(admin: SocketAddr, status: u16, text: &str) {
    until(format!("/readyz is {status} with `{text}`"), async || {
        let answer = ask("GET", admin, "/readyz").await.expect("the admin listener answers");
        (answer.status == status && answer.body.contains(text)).then_some(())
    })
    .await;
}

/// The clock's offset in the metrics, in milliseconds.
async fn offset(admin: SocketAddr) -> i64 {
    let answer = ask("GET", admin, "/metrics").await.expect("the admin listener answers");
    let name = "presence_clock_offset_milliseconds ";
    let found = answer.body.lines().find_map(|line| line.strip_prefix(name));
    found.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("no offset in {}", answer.body))
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_keeps_a_host_from_being_ready() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // The runtime has one thread, so that everything in it is heard.
    let _logging = tracing::subscriber::set_default(subscriber);
    let server = NatsServer::start().await;
    let (clock, folder) = (Arc::new(Skewed(AtomicI64::new(HOUR))), Folder::new());
    let (clients, admin) = host(&server, Clock::of(clock.clone()), &folder).await;
    let connect =
        async |user: &str| Client::open(clients, user, &format!("/v1/connect?user={user}"), &[]).await;

    until_readyz(admin, 503, "clock").await;
    let told = offset(admin).await;
    assert!((told + HOUR).abs() < 2_000, "{told}");
    assert!(log.has("ERROR") && log.has("this machine's clock is not that of the NATS server"));
    let owners = ask("GET", admin, "/v1/partitions").await.expect("the admin listener answers").body;
    assert!(!owners.contains("\"skewed\""), "it owns nothing: {owners}");
    let refused = connect("alice").await.expect_err("a host that is not ready takes nobody");
    assert_eq!(refused.status, 503, "{refused:?}");
    clock.set(0);
    until_readyz(admin, 200, "ready").await;
    assert!(log.has("this machine's clock is right again"));
    assert!(offset(admin).await.abs() < 1_000);
    let mut alice = connect("alice").await.expect("it is ready");

    // An administrator sets it wrong while clients are there: they stay.
    clock.set(-HOUR);
    until_readyz(admin, 503, "clock").await;
    alice.ping().await;
    connect("bob").await.expect_err("a host that is not ready takes nobody");
    clock.set(0);
    until_readyz(admin, 200, "ready").await;
    alice.ping().await;
    connect("bob").await.expect("it is ready");
}
