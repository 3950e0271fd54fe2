//! Applies what changed in presence.toml and in the plugins' files while the host runs: all of it, or nothing.
//!
//! ```text
//!  POST /v1/reload ─┐
//!  SIGHUP ──────────┼─▶ Reloader ──▶ read and check presence.toml ──▶ load what differs ──▶ the driver switches
//!  files changed ───┘       (one at a time; what is asked meanwhile is answered by the next)
//! ```
//!
//! Only `[[plugin]]` and `[[api.key]]` are applied. What else differs is told to need a restart. Knows neither guests nor queues.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::api_keys::ApiKeys;
use crate::config;
use crate::driver::Handle;
use crate::gateway::Callers;
use crate::gateway::admin::reload::{NotReloaded, Reload, ReloadDocument, ReloadFigures};
use crate::plugins::{Changes, PluginSet};
use crate::settings::{ClusterSettings, Initial, PluginSettings, Settings};

mod watch;
pub(crate) use watch::Watch;

/// So many ask at once before the next has to wait.
const MAX_ASKING: usize = 64;

type Answer = Result<ReloadDocument, NotReloaded>;

/// Where presence.toml is, and what it said as the host started.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Asks for a reload. Cheap to clone.
#[derive(Clone)]
pub struct Asker {
    asking: mpsc::Sender<oneshot::Sender<Answer>>,
    figures: Arc<Mutex<ReloadFigures>>,
}

impl Reload for Asker {
    fn reload(&self) -> BoxFuture<'_, Answer> {
        let asked = async {
            let (answer, answered) = oneshot::channel();
            self.asking.send(answer).await.map_err(|_| NotReloaded::Stopping)?;
            answered.await.map_err(|_| NotReloaded::Stopping)?
        };
        asked.boxed()
    }

    fn figures(&self) -> ReloadFigures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads everything again when it is told to.
pub struct Reloader {
    source: Source,
    plugins: Arc<PluginSet>,
    callers: Arc<Callers>,
    /// What the host runs with, whatever the file says now.
    cluster: ClusterSettings,
    watches: bool,
    watch: Watch,
    hangup: Hangup,
    asking: mpsc::Receiver<oneshot::Sender<Answer>>,
    figures: Arc<Mutex<ReloadFigures>>,
}

impl Reloader {
    /// From now on SIGHUP waits for [`Reloader::run`] instead of ending the process. Needs a tokio runtime around it.
    pub fn new(
        source: Source,
        settings: &Settings,
        plugins: Arc<PluginSet>,
        callers: Arc<Callers>,
    ) -> std::io::Result<(Reloader, Asker)> {
        let (sender, asking) = mpsc::channel(MAX_ASKING);
        let figures = Arc::<Mutex<ReloadFigures>>::default();
        let watch = Watch::new(files_of(&source, &settings.plugins));
        let reloader = Reloader {
            source,
            plugins,
            callers,
            cluster: settings.cluster.clone(),
            watches: settings.host.watch_files,
            watch,
            hangup: Hangup::new()?,
            asking,
            figures: figures.clone(),
        };
        Ok((reloader, Asker { asking: sender, figures }))
    }

    /// Waits and reloads, until nobody can ask any more or the task is dropped.
    pub async fn run(mut self, driver: Handle) {
        loop {
            let mut answers = Vec::new();
            tokio::select! {
                asked = self.asking.recv() => match asked {
                    Some(answer) => answers.push(answer),
                    None => return,
                },
                () = self.hangup.wait() => tracing::info!("SIGHUP: reading presence.toml and the plugins again"),
                () = self.watch.changed(), if self.watches => {
                    tracing::info!("files have changed: reading presence.toml and the plugins again");
                }
            }
            // Who asks while a reload runs may have written after it has read: the next one is for all of them.
            while let Ok(answer) = self.asking.try_recv() {
                answers.push(answer);
            }
            let answer = self.reload(&driver).await;
            for asked in answers {
                // Who does not wait for the answer finds it in the log.
                let _ = asked.send(answer.clone());
            }
        }
    }

    async fn reload(&mut self, driver: &Handle) -> Answer {
        let began = Instant::now();
        let answer = self.try_reload(driver).await;
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(document) => {
                figures.applied += 1;
                figures.took = began.elapsed();
                figures.last_applied =
                    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                drop(figures);
                tell(document, began.elapsed());
            }
            Err(NotReloaded::Refused(errors)) => {
                figures.refused += 1;
                drop(figures);
                for error in errors {
                    tracing::error!(error, "the reload is refused");
                }
                tracing::error!(
                    errors = errors.len(),
                    "nothing was changed: what ran before runs on; see `presence check`"
                );
            }
            Err(NotReloaded::Stopping) => {}
        }
        answer
    }

    async fn try_reload(&mut self, driver: &Handle) -> Answer {
        self.watch.taken([self.source.path.clone()].into()).await;
        let (text, settings) = self.read().await.map_err(NotReloaded::Refused)?;
        let files = files_of(&self.source, &settings.plugins);
        let mut plugin_files = files.clone();
        plugin_files.remove(&self.source.path);
        self.watch.taken(plugin_files).await;
        let prepared = self.plugins.prepare(&settings.plugins).await;
        let changes = prepared
            .map_err(|errors| NotReloaded::Refused(errors.iter().map(ToString::to_string).collect()))?;
        if !changes.is_empty() {
            let switched = driver.switch_plugins(silent_plugins(&settings.plugins)).await;
            switched.map_err(|_| NotReloaded::Stopping)?;
        }
        self.watch.keep(&files);
        let Changes { added, removed, changed, unchanged } = changes;
        let needs_restart = self.needs_restart(&text, settings.api);
        Ok(ReloadDocument { applied: true, added, removed, changed, unchanged, needs_restart })
    }

    /// The keys outside of `[[plugin]]` that differ and are not taken over; those of the API are.
    fn needs_restart(&self, text: &str, api: ApiKeys) -> Vec<String> {
        let mut keys = config::differences(&self.source.text, text);
        keys.retain(|key| key != "api.key");
        // An open door is a decision of its own: it takes a restart.
        if !self.callers.replace(api) {
            keys.push("api.key".to_owned());
        }
        keys
    }

    /// The text and what it says, or everything that is wrong with it: by itself, and beside what this host runs with.
    async fn read(&self) -> Result<(String, Settings), Vec<String>> {
        let (path, cluster) = (self.source.path.clone(), self.cluster.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let env = |name: &str| std::env::var(name).ok();
            let text = config::read_text(&path).map_err(|errors| errors.lines())?;
            config::parse(&text, &path, &env).map_err(|errors| errors.lines())?;
            let settings = config::parse_beside(&text, &path, &env, Some(&cluster));
            let restart = " (until it is restarted, this host runs with the [cluster] of its start)";
            let late = |line: String| line + restart;
            let settings =
                settings.map_err(|errors| errors.lines().into_iter().map(late).collect::<Vec<_>>())?;
            Ok((text, settings))
        });
        match reading.await {
            Ok(read) => read,
            Err(error) => Err(vec![format!("presence.toml can't be read: {error}")]),
        }
    }
}

fn tell(document: &ReloadDocument, took: Duration) {
    let ReloadDocument { added, removed, changed, unchanged, needs_restart, .. } = document;
    tracing::info!(?added, ?removed, ?changed, unchanged = unchanged.len(), ?took, "reloaded");
    if !needs_restart.is_empty() {
        tracing::warn!(keys = needs_restart.join(" "), "these keys of presence.toml need a restart");
    }
}

fn files_of(source: &Source, plugins: &[PluginSettings]) -> BTreeSet<PathBuf> {
    plugins.iter().map(|plugin| plugin.path.clone()).chain([source.path.clone()]).collect()
}

/// Plugins that do not want to hear of what was before them.
pub fn silent_plugins(plugins: &[PluginSettings]) -> BTreeSet<Arc<str>> {
    let silent = plugins.iter().filter(|plugin| plugin.initial == Initial::Nothing);
    silent.map(|plugin| plugin.name.as_str().into()).collect()
}

/// SIGHUP.
struct Hangup {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangup {
    #[cfg(unix)]
    fn new() -> std::io::Result<Hangup> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Hangup { signal: signal(SignalKind::hangup())? })
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Hangup> {
        Ok(Hangup {})
    }

    #[cfg(unix)]
    async fn wait(&mut self) {
        if self.signal.recv().await.is_none() {
            std::future::pending().await
        }
    }

    #[cfg(not(unix))]
    async fn wait(&mut self) {
        std::future::pending().await
    }
}
