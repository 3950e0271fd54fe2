//! Runs a plugin's hooks in this process, outside of any daemon, with what the daemon uses: the same loader, linker,
//! limits and guest. What the guest asks of the host is written down, and answered by stand-ins.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use presence_core::delivery::Payload;
use presence_core::documents::StatusRecord;

use super::backends::Backends;
use super::bindings::types::{HookError, Later};
use super::compile::CompileMode;
use super::engine::GuestRuntime;
use super::events::event_id;
use super::guest::{Guest, NoGuest, Occasion};
use super::keyvalue::memory::MemoryKeyValue;
use super::keyvalue::{Bucket, KeyValue};
use super::loading::{Loaded, Loader, PluginDescription};
use super::permit::Bounds;
use super::problem::{PluginError, Problem};
use super::watch::Watch;
use crate::settings::PluginSettings;

mod keyvalue;
pub mod tape;
pub mod web;
mod world;

use tape::{Entry, Tape};
use web::{LocalHttp, Network, Web};
use world::{TapedMessaging, TapedStatuses};

use super::http::{HttpAccess, Outbound};

/// What stands in for the world around a guest.
#[derive(Clone)]
pub(super) struct StandIns {
    pub(super) tape: Arc<Tape>,
    web: Arc<dyn Web>,
    /// What the guest's wall clock says, since 1970; none: the real one.
    pub(super) now: Option<Duration>,
}

impl StandIns {
    pub(super) fn outbound(&self, access: Arc<HttpAccess>) -> Outbound {
        let (web, tape) = (self.web.clone(), self.tape.clone());
        Outbound::Local(Arc::new(LocalHttp { access, web, tape }))
    }
}

/// A wall clock that stands still.
pub(super) struct StoppedClock(pub(super) Duration);

impl wasmtime_wasi::HostWallClock for StoppedClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

/// The world that a local run finds.
pub struct World {
    /// Who answers requests.
    pub web: Arc<dyn Web>,
    /// What the buckets hold: bucket, key, value.
    pub keyvalue: Vec<(String, String, Vec<u8>)>,
    /// The users that the import `presence` knows.
    pub users: BTreeMap<String, StatusRecord>,
    /// What the guest's wall clock says, since 1970; none: the real one.
    pub now: Option<Duration>,
}

impl World {
    /// An empty one, where requests go over the network.
    pub fn online() -> World {
        World { web: Arc::new(Network), keyvalue: Vec::new(), users: BTreeMap::new(), now: None }
    }
}

/// Starts plugins for local runs.
pub struct LocalRuns {
    runtime: Arc<GuestRuntime>,
    folder: std::path::PathBuf,
    compile: CompileMode,
}

impl LocalRuns {
    /// Compiled code is kept in `folder`.
    pub fn new(folder: &Path, compile: CompileMode) -> Result<LocalRuns, Problem> {
        let runtime = GuestRuntime::start().map_err(|error| Problem::Host(error.to_string()))?;
        Ok(LocalRuns { runtime: Arc::new(runtime), folder: folder.to_owned(), compile })
    }

    /// Loads a plugin into a world; as in the daemon, a guest is brought to life and configured for trial.
    pub async fn load(&self, settings: &PluginSettings, world: World) -> Result<LocalPlugin, PluginError> {
        let failed = |problem| PluginError {
            plugin: settings.name.as_str().into(),
            path: settings.path.clone(),
            problems: vec![problem],
        };
        let tape = Arc::new(Tape::default());
        let buckets = Arc::new(MemoryKeyValue::default());
        for (bucket, key, value) in world.keyvalue {
            let place = Bucket { plugin: &settings.name, bucket: &bucket };
            let written = buckets.set(place, &key, value).await;
            written.map_err(|error| failed(Problem::Host(format!("{bucket}, key {key:?}: {error}"))))?;
        }
        let stand_ins = StandIns { tape: tape.clone(), web: world.web, now: world.now };
        let backends = Backends {
            keyvalue: Arc::new(keyvalue::TapedKeyValue::new(buckets.clone(), tape.clone())),
            messaging: Some(Arc::new(TapedMessaging(tape.clone()))),
            statuses: Arc::new(TapedStatuses { users: world.users, tape: tape.clone() }),
        };
        let loader = Loader::new(self.runtime.clone(), &self.folder, self.compile.clone(), backends);
        let loader = loader.map_err(failed)?.with_stand_ins(stand_ins);
        let loaded = loader.load(settings, 1).await?;
        // What the trial guest did is nobody's news: the one that is called does it again.
        drop(tape.take());
        Ok(LocalPlugin { runtime: self.runtime.clone(), loaded, tape, buckets, guest: None })
    }
}

/// How a hook ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The event is taken.
    Delivered,
    /// Once more, please.
    Retry {
        /// Why.
        message: String,
        /// Not before so long.
        after: Option<Duration>,
    },
    /// Never again.
    Rejected(String),
    /// No answer: a trap, a deadline, a guest that did not start. The daemon tries again, up to `attempts` times.
    Failed(String),
}

/// A call and everything about it.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// The event's id, as the daemon would make it.
    pub event_id: String,
    /// What happened meanwhile; of the first call, `configure` included.
    pub entries: Vec<Entry>,
    /// Without the start of the guest.
    pub took: Duration,
    /// The most the guest has held so far, in bytes, over all its memories.
    pub memory: u64,
    /// Bytes of output beyond `limits.log`.
    pub log_cut: u64,
}

/// A plugin with one guest. A guest that trapped or was cut is replaced at the next call, as in the daemon.
pub struct LocalPlugin {
    runtime: Arc<GuestRuntime>,
    loaded: Arc<Loaded>,
    tape: Arc<Tape>,
    buckets: Arc<MemoryKeyValue>,
    guest: Option<Guest>,
}

impl LocalPlugin {
    /// What was loaded.
    pub fn description(&self) -> &PluginDescription {
        &self.loaded.description
    }

    /// Calls the hook of an event.
    pub async fn call(&mut self, payload: Payload, id: Option<&str>, attempt: u32) -> Ran {
        let event_id = id.map_or_else(|| event_id(&self.loaded.name, &payload), str::to_owned);
        let (loaded, guest, id) = (self.loaded.clone(), self.guest.take(), event_id.clone());
        let calling = async move { call(&loaded, guest, &payload, &id, attempt).await };
        let called = self.runtime.handle().spawn(calling).await.unwrap_or_else(|error| Called {
            guest: None,
            ended: Ended::Failed(format!("the host itself failed in this call: {error}")),
            took: Duration::ZERO,
            memory: 0,
            log_cut: 0,
        });
        self.guest = called.guest;
        Ran {
            ended: called.ended,
            event_id,
            entries: self.tape.take(),
            took: called.took,
            memory: called.memory,
            log_cut: called.log_cut,
        }
    }

    /// What a bucket holds now, in order of the keys.
    pub async fn bucket(&self, bucket: &str) -> Vec<(String, Vec<u8>)> {
        let place = Bucket { plugin: &self.loaded.name, bucket };
        let (mut contents, mut after) = (Vec::new(), None);
        // Memory answers always; a page without a successor ends the walk.
        while let Ok(page) = self.buckets.keys(place, "", after.as_deref()).await {
            for key in page.keys {
                if let Ok(Some(entry)) = self.buckets.get(place, &key).await {
                    contents.push((key, entry.value));
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        contents
    }
}

impl NoGuest {
    /// For people.
    fn into_text(self) -> String {
        match self {
            NoGuest::Start(failure) => format!("it can't be started: {}", failure.into_text()),
            NoGuest::Configure(failure) => {
                format!("its function `configure` failed: {}", failure.into_text())
            }
            NoGuest::Refused(reason) => format!("it refuses its configuration: {reason}"),
            NoGuest::Types(problems) => {
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

struct Called {
    guest: Option<Guest>,
    ended: Ended,
    took: Duration,
    memory: u64,
    log_cut: u64,
}

async fn call(loaded: &Loaded, guest: Option<Guest>, payload: &Payload, id: &str, attempt: u32) -> Called {
    let mut watch = Watch::new(Bounds::none());
    let started = match guest {
        Some(guest) => Ok(guest),
        None => Guest::start(loaded, &mut watch).await,
    };
    let mut guest = match started {
        Ok(guest) => guest,
        Err(no_guest) => {
            let ended = Ended::Failed(no_guest.into_text());
            return Called { guest: None, ended, took: Duration::ZERO, memory: 0, log_cut: 0 };
        }
    };
    let began = Instant::now();
    let called = guest.call(began, payload, Occasion { event_id: id, attempt }, &mut watch, || ()).await;
    let took = began.elapsed();
    let (memory, log_cut) = (guest.memory(), guest.end_log());
    let keep = called.is_ok() && !guest.is_spent();
    let ended = match called {
        Ok(Ok(())) => Ended::Delivered,
        Ok(Err(HookError::Retry(Later { message, after_ms }))) => {
            Ended::Retry { message, after: after_ms.map(|ms| Duration::from_millis(ms.into())) }
        }
        Ok(Err(HookError::Reject(message))) => Ended::Rejected(message),
        Err(failure) => Ended::Failed(failure.into_text()),
    };
    Called { guest: keep.then_some(guest), ended, took, memory, log_cut }
}
