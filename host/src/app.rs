//! Builds everything, then runs, then drains. Knows every part and how none of them works inside.
//!
//! Building checks the plugins and binds both listeners, so that whatever is wrong is known, and told, before
//! anything runs; running starts the tasks.

use std::sync::Arc;
use std::time::Duration;

use presence_core::documents::Layout;
use presence_core::ids::InstanceId;

use crate::clock::Clock;
use crate::driver::{Driver, DriverConfig, Ending, Event, Handle};
use crate::gateway::{self, AdminDeps, BindError, Listeners};
use crate::plugins::keyvalue::KeyValueError;
use crate::plugins::keyvalue::file::{FileError, FileKeyValue};
use crate::plugins::keyvalue::nats::NatsKeyValue;
use crate::plugins::messaging::nats::NatsMessaging;
use crate::plugins::presence::StoreStatuses;
use crate::plugins::{self, Backends, CompileMode, PluginError, PluginSet};
use crate::reload::{Asker, Reloader, Source, silent_plugins};
use crate::settings::{Settings, StoreKind};
use crate::store::SharedStore;
use crate::store::memory::MemoryStore;
use crate::store::nats::{NatsError, NatsStore};
use crate::traces::Tracer;
use tokio_util::sync::CancellationToken;

/// So many events of the gateway wait for the driver; then the gateway waits.
const EVENT_QUEUE: usize = 4096;

/// How long connections may take to flush their last frames after the driver has ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the program does not run.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A contradiction between presence.toml and the plugins: exit code 78.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Plugins(Vec<PluginError>),
    /// A port is taken, say: exit code 69.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// NATS is away, exit code 69, or not as presence.toml says, 78.
    #[error(transparent)]
    Store(#[from] NatsError),
    /// A collector over https can't be reached without certificates: exit code 69.
    #[error("telemetry.otlp: no root certificates to check the collector with")]
    Telemetry(#[source] std::io::Error),
    /// The plugins' keys can't be kept there: exit code 69.
    #[error("the plugins' keys can't be kept in NATS: {0}")]
    KeyValue(#[from] KeyValueError),
    /// Signals can't be handled: exit code 69.
    #[error("SIGHUP can't be handled: {0}")]
    Signal(#[from] std::io::Error),
    /// The file of the plugins' keys is in use or can't be opened, exit code 69, or is damaged, 78.
    #[error(transparent)]
    KeyFile(#[from] FileError),
}

/// The store of documents, and what plugins are given beside it.
async fn open_store(settings: &Settings, tracer: &Tracer) -> Result<(SharedStore, Backends), BuildError> {
    let cluster = &settings.cluster;
    let layout = Layout { partitions: cluster.partitions, leaves: cluster.leaves };
    match &cluster.store {
        StoreKind::Memory => {
            let keyvalue = FileKeyValue::new(&settings.host.data_dir)?;
            // Without any grant there is nothing to keep: the file is left alone until there is one.
            if settings.plugins.iter().any(|plugin| !plugin.grants.keyvalue.is_empty()) {
                keyvalue.open()?;
            }
            let store: SharedStore = Arc::new(MemoryStore::new());
            let statuses = Arc::new(StoreStatuses::new(store.clone(), layout));
            Ok((store, Backends { keyvalue: Arc::new(keyvalue), messaging: None, statuses }))
        }
        StoreKind::Nats(nats) => {
            let store = NatsStore::connect_traced(nats, layout, tracer.clone()).await?;
            let keyvalue = NatsKeyValue::open(store.client().clone(), &nats.prefix, nats.replicas).await?;
            let messaging = NatsMessaging::new(store.publisher());
            let store: SharedStore = Arc::new(store);
            let statuses = Arc::new(StoreStatuses::new(store.clone(), layout));
            let (keyvalue, messaging) = (Arc::new(keyvalue), Arc::new(messaging));
            Ok((store, Backends { keyvalue, messaging: Some(messaging), statuses }))
        }
    }
}

/// Everything built, nothing running.
pub struct App {
    settings: Settings,
    listeners: Listeners,
    plugins: Arc<PluginSet>,
    reloading: (Reloader, Asker),
    store: SharedStore,
    clock: Clock,
    tracer: Tracer,
}

impl App {
    /// Connects to the store, loads the plugins, then binds. `source` is read again for reloads.
    pub async fn build(settings: Settings, source: Source, compile: CompileMode) -> Result<App, BuildError> {
        let clock = Clock::machine();
        let tracer =
            Tracer::start(settings.telemetry.as_ref(), &settings.host.name).map_err(BuildError::Telemetry)?;
        let (store, backends) = open_store(&settings, &tracer).await?;
        let deps = plugins::Deps {
            data_dir: settings.host.data_dir.clone(),
            store: store.clone(),
            backends,
            compile,
            clock: clock.clone(),
            tracer: tracer.clone(),
        };
        let plugins = PluginSet::load(&settings.plugins, deps).await.map_err(BuildError::Plugins)?;
        let plugins = Arc::new(plugins);
        let listeners = gateway::bind(&settings).await?.traced(tracer.clone());
        let reloading = Reloader::new(source, &settings, plugins.clone(), listeners.callers())?;
        let app = App { settings, listeners, plugins, reloading, store, clock, tracer };
        app.announce();
        Ok(app)
    }

    /// A few readable lines: what runs here.
    fn announce(&self) {
        let settings = &self.settings;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            host = settings.host.name,
            store = self.store.describe(),
            partitions = settings.cluster.partitions,
            "presence"
        );
        for plugin in self.plugins.descriptions() {
            let hooks: Vec<&str> = plugin.hooks.iter().map(|hook| hook.as_str()).collect();
            tracing::info!(
                name = &*plugin.name,
                digest = &plugin.digest[..12],
                hooks = hooks.join(" "),
                "plugin"
            );
        }
        tracing::info!(clients = %self.listeners.client_address(), admin = %self.listeners.admin_address(), "listening");
    }

    /// Runs until `shutdown` resolves, then drains. What was not delivered is in the answer.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Ending {
        let (handle, events) = Handle::channel(EVENT_QUEUE);
        let settings = &self.settings;
        let config = DriverConfig {
            host: settings.host.name.clone(),
            instance: InstanceId(uuid::Uuid::now_v7().as_u128()),
            layout: Layout { partitions: settings.cluster.partitions, leaves: settings.cluster.leaves },
            instance_ttl: settings.cluster.instance_ttl,
            presence: settings.presence.clone(),
            drain_timeout: settings.host.drain_timeout,
            unready_after: settings.host.unready_after,
            handover_timeout: settings.cluster.handover_timeout,
            shared: settings.cluster.store != StoreKind::Memory,
            silent_plugins: silent_plugins(&settings.plugins),
            seed: fastrand::u64(..),
        };
        let driver = Driver::new(config, self.clock, self.store.clone(), self.plugins.clone(), events);
        let driver = driver.traced(self.tracer.clone());
        let (reloader, asker) = self.reloading;
        let admin = AdminDeps { store: self.store, metrics: self.plugins.clone(), reload: Arc::new(asker) };
        let reloading = tokio::spawn(reloader.run(handle.clone()));
        let closing = CancellationToken::new();
        let serving = tokio::spawn(self.listeners.serve(handle.clone(), admin, closing.clone()));
        let drain = tokio::spawn(async move {
            shutdown.await;
            // A driver that has ended needs no telling.
            let _ = handle.send(Event::Drain).await;
        });
        let stopped = driver.run().await;
        drain.abort();
        reloading.abort();
        closing.cancel();
        // Clients are sent their goodbye; who does not take it in time is cut off.
        if tokio::time::timeout(FLUSH_TIMEOUT, serving).await.is_err() {
            tracing::debug!("some connections did not take their last frames");
        }
        self.plugins.shutdown().await;
        self.tracer.shutdown().await;
        stopped
    }
}
