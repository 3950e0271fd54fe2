//! All plugins of this host together: loads them, deals events out, gathers what became of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use presence_core::delivery::{LetterNumber, Payload, Replayed};
use presence_core::events::Hook;
use presence_core::ids::{InstanceId, PartitionId};
use presence_core::time::Tick;
use tokio::task::JoinHandle;

use super::backends::Backends;
use super::compile::CompileMode;
use super::dead_letters::DeadLetters;
use super::engine::GuestRuntime;
use super::loading::{Loaded, Loader, PluginDescription};
use super::metrics::PluginMetrics;
use super::outcomes::Outcomes;
use super::permit::Permit;
use super::plugin::{Plugin, Surroundings};
use super::problem::{PluginError, Problem};
use super::reload::Prepared;
use super::worker::Worker;
use super::{NotWanted, Outcome, Plugins};
use crate::clock::Clock;
use crate::settings::PluginSettings;
use crate::store::SharedStore;
use crate::traces::Tracer;

/// Of a plugin that was not there before; a reload counts on.
pub(super) const FIRST_GENERATION: u64 = 1;

/// How long stopping waits for guests to come by at an epoch.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What plugins need of the host.
pub struct Deps {
    /// The cache of compiled code lives below it.
    pub data_dir: PathBuf,
    /// Where dead letters go.
    pub store: SharedStore,
    /// Where what plugins call leads to.
    pub backends: Backends,
    /// Where plugins are compiled.
    pub compile: CompileMode,
    /// For deadlines of retries and times of dead letters.
    pub clock: Clock,
    /// Hooks go on with the traces of their events.
    pub tracer: Tracer,
}

/// The plugins of this host. Dropping it cuts what runs.
pub struct PluginSet {
    runtime: Arc<GuestRuntime>,
    pub(super) loader: Loader,
    pub(super) roster: Arc<RwLock<Roster>>,
    pub(super) surroundings: Surroundings,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// What [`Plugins::switch`] is to bring about.
    pub(super) prepared: Mutex<Option<Prepared>>,
}

/// Who is there.
#[derive(Default)]
pub(super) struct Roster {
    /// In the order of presence.toml.
    pub(super) plugins: Vec<Entry>,
    /// Removed, with calls that have not ended.
    pub(super) leaving: Vec<Arc<Plugin>>,
}

/// A plugin, and what it exports now.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) plugin: Arc<Plugin>,
    pub(super) hooks: Arc<BTreeSet<Hook>>,
}

impl Entry {
    pub(super) fn of(plugin: Arc<Plugin>) -> Entry {
        let hooks = plugin.loaded().description.hooks.iter().copied().collect();
        Entry { plugin, hooks: Arc::new(hooks) }
    }
}

impl Roster {
    /// Those that were removed and have calls that run, too.
    fn everyone(&self) -> impl Iterator<Item = &Arc<Plugin>> + Clone {
        self.plugins.iter().map(|entry| &entry.plugin).chain(&self.leaving)
    }
}

impl std::fmt::Debug for PluginSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginSet").field("plugins", &self.descriptions()).finish_non_exhaustive()
    }
}

impl PluginSet {
    /// Loads all plugins and starts their workers. If any can't be used none runs, and all errors come back at once.
    /// Compiling takes seconds per MB the first time.
    pub async fn load(settings: &[PluginSettings], deps: Deps) -> Result<PluginSet, Vec<PluginError>> {
        let host_failed = |problem| vec![for_all(&deps.data_dir, problem)];
        let (runtime, loader) =
            loader(&deps.data_dir, deps.compile.clone(), deps.backends.clone()).map_err(host_failed)?;
        let (mut loaded, mut errors) = (Vec::new(), Vec::new());
        for ended in load_all(&loader, settings).await {
            match ended {
                Ok(plugin) => loaded.push(plugin),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(PluginSet::start(runtime, loader, loaded, deps)) } else { Err(errors) }
    }

    fn start(runtime: Arc<GuestRuntime>, loader: Loader, loaded: Vec<Arc<Loaded>>, deps: Deps) -> PluginSet {
        let outcomes = Arc::new(Outcomes::default());
        let (dead_letters, carry) = DeadLetters::new(deps.store, outcomes.clone());
        let permit = Arc::new(Permit::unlimited(deps.clock.clone()));
        let surroundings =
            Surroundings { clock: deps.clock, outcomes, dead_letters, permit, tracer: deps.tracer };
        let tasks = Mutex::new(vec![runtime.handle().spawn(carry)]);
        let (roster, prepared) = (Arc::default(), Mutex::default());
        let set = PluginSet { runtime, loader, roster, surroundings, tasks, prepared };
        let plugins = loaded.into_iter().map(|loaded| set.add(loaded)).collect();
        set.roster.write().unwrap_or_else(PoisonError::into_inner).plugins = plugins;
        set
    }

    /// A plugin that was not there, with its workers.
    pub(super) fn add(&self, loaded: Arc<Loaded>) -> Entry {
        let plugin = Arc::new(Plugin::new(loaded, self.surroundings.clone()));
        plugin.permit(self.surroundings.permit.until(), false);
        plugin.announce(self.surroundings.permit.announcing());
        // First the workers: who keeps time leaves a plugin that is to have none.
        let numbers = plugin.staff();
        self.spawn(plugin.clone().keep_time());
        self.start_workers(&plugin, numbers);
        Entry::of(plugin)
    }

    /// Starts the workers of these numbers.
    pub(super) fn start_workers(&self, plugin: &Arc<Plugin>, numbers: Vec<usize>) {
        for number in numbers {
            let plugin = plugin.clone();
            self.spawn(async move { Worker::new(plugin, number).run().await });
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(self.runtime.handle().spawn(task));
    }

    /// Lets go of tasks that have ended.
    pub(super) fn forget_ended_tasks(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
    }

    pub(super) fn roster(&self) -> RwLockReadGuard<'_, Roster> {
        self.roster.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tracer(&self) -> &Tracer {
        &self.surroundings.tracer
    }

    /// What is loaded now, in the order of presence.toml.
    pub fn descriptions(&self) -> Vec<PluginDescription> {
        let roster = self.roster();
        roster.plugins.iter().map(|entry| entry.plugin.loaded().description.clone()).collect()
    }

    /// The numbers of this moment, one entry for each plugin.
    pub fn metrics(&self) -> Vec<PluginMetrics> {
        self.roster().plugins.iter().map(|entry| entry.plugin.metrics()).collect()
    }

    /// Stops: running calls are cut, what is queued stays unsettled, events submitted later go nowhere. When this
    /// returns no guest runs any more; that takes an epoch or two, and a second at most.
    pub async fn shutdown(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
        if tokio::time::timeout(STOP_PATIENCE, join_all(tasks)).await.is_err() {
            tracing::warn!("some plugins did not stop in time and end with the process");
        }
        self.runtime.stop();
    }
}

impl Plugins for PluginSet {
    fn hooks(&self) -> Vec<(Arc<str>, BTreeSet<Hook>)> {
        let roster = self.roster();
        roster.plugins.iter().map(|entry| (entry.plugin.name.clone(), (*entry.hooks).clone())).collect()
    }

    fn intervals(&self) -> Vec<(Arc<str>, Duration)> {
        let roster = self.roster();
        let ticking = roster.plugins.iter().filter(|entry| entry.hooks.contains(&Hook::Tick));
        let interval = |entry: &Entry| (entry.plugin.name.clone(), entry.plugin.loaded().settings.interval());
        ticking.map(interval).collect()
    }

    fn submit(&self, event: Payload) {
        let (hook, roster) = (event.hook(), self.roster());
        let wanting = || roster.plugins.iter().filter(|entry| entry.hooks.contains(&hook));
        self.surroundings.outcomes.expect(&event, wanting().count());
        for entry in wanting() {
            entry.plugin.submit(event.clone());
        }
    }

    fn submit_to(&self, plugin: &str, event: Payload) {
        let (hook, roster) = (event.hook(), self.roster());
        let wanting =
            roster.plugins.iter().find(|one| *one.plugin.name == *plugin && one.hooks.contains(&hook));
        match wanting {
            None => self.surroundings.outcomes.refuse(plugin, &event),
            Some(entry) => {
                self.surroundings.outcomes.expect(&event, 1);
                entry.plugin.submit(event);
            }
        }
    }

    fn replay(
        &self,
        plugin: &str,
        event: Payload,
        letter: LetterNumber,
        newest: u64,
    ) -> Result<Replayed, NotWanted> {
        let (hook, roster) = (event.hook(), self.roster());
        let wanting =
            roster.plugins.iter().find(|one| *one.plugin.name == *plugin && one.hooks.contains(&hook));
        wanting.map(|one| one.plugin.replay(event, letter, newest)).ok_or(NotWanted)
    }

    fn permit(&self, until: Tick) {
        // First the calls, then the queues: what starts under a longer permit must find it.
        let shorter = self.surroundings.permit.set(until);
        self.roster().everyone().for_each(|plugin| plugin.permit(until, shorter));
    }

    fn announce(&self, allowed: bool) {
        self.surroundings.permit.set_announcing(allowed);
        self.roster().everyone().for_each(|plugin| plugin.announce(allowed));
    }

    fn withdraw(&self, partition: PartitionId, cut: bool) {
        let roster = self.roster();
        self.surroundings.outcomes.expect_withdrawal(partition, roster.everyone().count());
        roster.everyone().for_each(|plugin| plugin.withdraw(partition, cut));
    }

    fn drop_sessions(&self, instance: InstanceId) {
        self.roster().everyone().for_each(|plugin| plugin.drop_sessions(instance));
        self.surroundings.outcomes.forget_sessions(instance);
    }

    fn abandon_everything(&self) {
        self.roster().everyone().for_each(|plugin| plugin.abandon_everything());
        self.surroundings.outcomes.forget_everything();
    }

    fn switch(&self) {
        self.make_switch();
    }

    fn outcomes(&self) -> BoxFuture<'_, Vec<Outcome>> {
        self.surroundings.outcomes.take().boxed()
    }

    fn unsettled(&self) -> Vec<(Arc<str>, usize)> {
        let roster = self.roster();
        roster.plugins.iter().map(|entry| (entry.plugin.name.clone(), entry.plugin.unsettled())).collect()
    }

    fn unsettled_list(&self, limit: usize) -> Vec<String> {
        let mut list = Vec::new();
        for entry in &self.roster().plugins {
            list.extend(entry.plugin.unsettled_list(limit - list.len()));
        }
        list
    }
}

/// Loads plugins as [`PluginSet::load`] does, tries one guest of each, and lets them go: for `presence check`. The
/// answers are in the order of the settings.
pub async fn check(
    settings: &[PluginSettings],
    data_dir: &Path,
    compile: CompileMode,
) -> Vec<Result<PluginDescription, PluginError>> {
    match loader(data_dir, compile, Backends::for_trials()) {
        Err(problem) => vec![Err(for_all(data_dir, problem))],
        Ok((_runtime, loader)) => {
            let ended = load_all(&loader, settings).await;
            ended.into_iter().map(|ended| ended.map(|loaded| loaded.description.clone())).collect()
        }
    }
}

pub(super) fn loader(
    data_dir: &Path,
    compile: CompileMode,
    backends: Backends,
) -> Result<(Arc<GuestRuntime>, Loader), Problem> {
    let runtime = Arc::new(GuestRuntime::start().map_err(|error| Problem::Host(error.to_string()))?);
    let loader = Loader::new(runtime.clone(), data_dir, compile, backends)?;
    Ok((runtime, loader))
}

async fn load_all(loader: &Loader, settings: &[PluginSettings]) -> Vec<Result<Arc<Loaded>, PluginError>> {
    join_all(settings.iter().map(|settings| loader.load(settings, FIRST_GENERATION))).await
}

fn for_all(data_dir: &Path, problem: Problem) -> PluginError {
    PluginError { plugin: "(any)".into(), path: data_dir.to_owned(), problems: vec![problem] }
}
