//! From a file and its settings to a plugin that is ready to get guests. Whatever is wrong is found here.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use wasmtime::component::{InstancePre, Linker};

use super::admission::{self, Admitted};
use super::anatomy;
use super::backends::Backends;
use super::cache::{CodeCache, hex};
use super::compile::CompileMode;
use super::denials::Denials;
use super::engine::GuestRuntime;
use super::guest::{CUT, Failure, Guest, GuestState, HookIndices, NoGuest};
use super::http::{HttpAccess, Outbound};
use super::keyvalue::host::GrantedBuckets;
use super::linker::new_linker;
use super::local::StandIns;
use super::messaging::host::GrantedSubjects;
use super::permit::Bounds;
use super::presence::host::GrantedStatuses;
use super::problem::{MAX_FILE_BYTES, PluginError, Problem};
use super::redact::Redactor;
use super::turns::Turns;
use super::watch::Watch;
use crate::settings::{Grants, Limits, PluginSettings};
use presence_core::events::Hook;

/// Compilers at work at once: each takes all processors and much memory.
const MAX_COMPILERS: usize = 1;

/// What `presence check` and the first lines of `presence serve` tell of a plugin.
#[derive(Clone, Debug)]
pub struct PluginDescription {
    /// In presence.toml.
    pub name: String,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// Bytes of the file.
    pub size: u64,
    /// In the order of the contract.
    pub hooks: Vec<Hook>,
    /// Full names of the interfaces it uses, sorted.
    pub imports: Vec<String>,
    /// True when it exports `configure`.
    pub configurable: bool,
    /// What it may use.
    pub grants: Grants,
    /// What it may take.
    pub limits: Limits,
    /// True when its compiled code was found in the cache.
    pub cached: bool,
}

/// One generation of a plugin: admitted, linked, configured once for trial.
pub(super) struct Loaded {
    pub(super) name: Arc<str>,
    pub(super) generation: u64,
    pub(super) settings: PluginSettings,
    pub(super) description: PluginDescription,
    instance_pre: InstancePre<GuestState>,
    indices: HookIndices,
    capabilities: Capabilities,
    stand_ins: Option<StandIns>,
    redactor: Arc<Redactor>,
    turns: Turns,
}

/// What the imports of one plugin lead to, with its grants.
pub(super) struct Capabilities {
    pub(super) outbound: Outbound,
    pub(super) buckets: GrantedBuckets,
    pub(super) subjects: GrantedSubjects,
    pub(super) statuses: GrantedStatuses,
}

impl Loaded {
    pub(super) fn instance_pre(&self) -> &InstancePre<GuestState> {
        &self.instance_pre
    }

    pub(super) fn indices(&self) -> &HookIndices {
        &self.indices
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Given in local runs.
    pub(super) fn stand_ins(&self) -> Option<&StandIns> {
        self.stand_ins.as_ref()
    }

    /// Takes the plugin's secrets out of what it says.
    pub(super) fn redactor(&self) -> &Arc<Redactor> {
        &self.redactor
    }

    /// To compute, among all plugins.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }
}

/// Loads plugins, any number at once.
pub(super) struct Loader {
    runtime: Arc<GuestRuntime>,
    linker: Linker<GuestState>,
    cache: CodeCache,
    compile: CompileMode,
    compilers: Semaphore,
    backends: Backends,
    stand_ins: Option<StandIns>,
}

impl Loader {
    pub(super) fn new(
        runtime: Arc<GuestRuntime>,
        data_dir: &Path,
        compile: CompileMode,
        backends: Backends,
    ) -> Result<Loader, Problem> {
        let linker = new_linker(runtime.engine()).map_err(|error| Problem::Host(format!("{error:#}")))?;
        let cache = CodeCache::open(data_dir).map_err(Problem::Compile)?;
        let compilers = Semaphore::new(MAX_COMPILERS);
        Ok(Loader { runtime, linker, cache, compile, compilers, backends, stand_ins: None })
    }

    /// For a local run: what it loads goes through these.
    pub(super) fn with_stand_ins(mut self, stand_ins: StandIns) -> Loader {
        self.stand_ins = Some(stand_ins);
        self
    }

    /// Loads one plugin; all that is wrong with it at once.
    pub(super) async fn load(
        &self,
        settings: &PluginSettings,
        generation: u64,
    ) -> Result<Arc<Loaded>, PluginError> {
        self.try_load(settings, generation).await.map_err(|problems| PluginError {
            plugin: settings.name.as_str().into(),
            path: settings.path.clone(),
            problems,
        })
    }

    /// Of the plugin's file as it is now; none if it can't be read.
    pub(super) async fn digest(&self, settings: &PluginSettings) -> Option<String> {
        let bytes = read(&settings.path).await.ok()?;
        Some(hex(&Sha256::digest(&bytes)))
    }

    async fn try_load(
        &self,
        settings: &PluginSettings,
        generation: u64,
    ) -> Result<Arc<Loaded>, Vec<Problem>> {
        for warning in &settings.secrets.warnings {
            tracing::warn!(plugin = settings.name, "{warning}");
        }
        let bytes = read(&settings.path).await.map_err(one)?;
        let digest = hex(&Sha256::digest(&bytes));
        check_pin(settings, &digest).map_err(one)?;
        admission::check_header(&bytes).map_err(one)?;
        anatomy::examine(&bytes).map_err(one)?;
        let engine = self.runtime.engine();
        let compiled = {
            let _turn = self.compilers.acquire().await;
            self.cache.component(engine, &self.compile, &digest, &bytes).await
        };
        let compiled = compiled.map_err(Problem::Compile).map_err(one)?;
        let admitted = admission::examine(engine, &compiled.component)?;
        if settings.interval.is_some() && !admitted.hooks.contains(&Hook::Tick) {
            return Err(one(Problem::IntervalWithoutTick));
        }
        let instance_pre = self
            .linker
            .instantiate_pre(&compiled.component)
            .map_err(|error| one(Problem::Link(format!("{error:#}"))))?;
        let indices = HookIndices::find(&instance_pre, &admitted)?;
        let name: Arc<str> = settings.name.as_str().into();
        let redactor = Arc::new(Redactor::new(settings.secrets.values.iter().map(String::as_str)));
        let capabilities = self.capabilities(&name, &settings.grants, &redactor).map_err(one)?;
        let description = describe(settings, digest, bytes.len(), admitted, compiled.cached);
        let settings = settings.clone();
        let stand_ins = self.stand_ins.clone();
        let turns = self.runtime.turns().of_another_plugin();
        let loaded = Arc::new(Loaded {
            name,
            generation,
            settings,
            description,
            instance_pre,
            indices,
            capabilities,
            stand_ins,
            redactor,
            turns,
        });
        self.try_out(loaded.clone()).await?;
        Ok(loaded)
    }

    fn capabilities(
        &self,
        name: &Arc<str>,
        grants: &Grants,
        redactor: &Arc<Redactor>,
    ) -> Result<Capabilities, Problem> {
        let tape = self.stand_ins.as_ref().map(|stand_ins| stand_ins.tape.clone());
        let denials = Denials::new(name.clone()).without_secrets(redactor.clone()).with_tape(tape);
        let denials = Arc::new(denials);
        let http = HttpAccess::new(name.clone(), grants.http.clone(), denials.clone())
            .map_err(Problem::Certificates)?;
        let buckets = GrantedBuckets {
            store: self.backends.keyvalue.clone(),
            plugin: name.clone(),
            granted: grants.keyvalue.clone().into(),
            denials: denials.clone(),
        };
        let http = Arc::new(http);
        let outbound = match &self.stand_ins {
            None => Outbound::network(http),
            Some(stand_ins) => stand_ins.outbound(http),
        };
        let subjects = GrantedSubjects {
            broker: self.backends.messaging.clone(),
            granted: grants.messaging.clone().into(),
            denials: denials.clone(),
        };
        let statuses =
            GrantedStatuses { statuses: self.backends.statuses.clone(), granted: grants.presence, denials };
        Ok(Capabilities { outbound, buckets, subjects, statuses })
    }

    /// Brings a guest to life and lets it go: types, memory and configuration are found wanting now or never.
    async fn try_out(&self, loaded: Arc<Loaded>) -> Result<(), Vec<Problem>> {
        let trial = async move { Guest::start(&loaded, &mut Watch::new(Bounds::none())).await.map(drop) };
        let ended = self.runtime.handle().spawn(trial).await;
        ended.map_err(|error| one(Problem::Host(error.to_string())))?.map_err(|no_guest| match no_guest {
            NoGuest::Types(problems) => problems,
            NoGuest::Start(failure) => one(Problem::Start(failure.into_text())),
            NoGuest::Configure(failure) => {
                one(Problem::Start(format!("its function `configure` failed: {}", failure.into_text())))
            }
            NoGuest::Refused(reason) => one(Problem::Configure(reason)),
        })
    }
}

impl Failure {
    /// For messages that do not care which.
    pub(super) fn into_text(self) -> String {
        match self {
            Failure::Trapped(text) | Failure::Stalled(text) => text,
            Failure::Cut => CUT.to_owned(),
        }
    }
}

fn one(problem: Problem) -> Vec<Problem> {
    vec![problem]
}

/// Whether the file is the one that presence.toml names.
fn check_pin(settings: &PluginSettings, digest: &str) -> Result<(), Problem> {
    match &settings.sha256 {
        Some(expected) if expected != digest => {
            Err(Problem::Digest { expected: expected.clone(), found: digest.to_owned() })
        }
        _ => Ok(()),
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let found = tokio::fs::metadata(path).await.map_err(Problem::Unreadable)?;
    if found.len() > MAX_FILE_BYTES {
        return Err(Problem::TooLarge(found.len()));
    }
    tokio::fs::read(path).await.map_err(Problem::Unreadable)
}

fn describe(
    settings: &PluginSettings,
    digest: String,
    size: usize,
    admitted: Admitted,
    cached: bool,
) -> PluginDescription {
    PluginDescription {
        name: settings.name.clone(),
        digest,
        size: size as u64,
        hooks: admitted.hooks.into_iter().collect(),
        imports: admitted.imports,
        configurable: admitted.configurable,
        grants: settings.grants.clone(),
        limits: settings.limits.clone(),
        cached,
    }
}
