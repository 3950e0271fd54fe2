//! Other plugins while the host runs: loaded beside those that run, then switched to at once. Who decides when is not
//! known here.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use futures_util::future::join_all;

use super::loading::Loaded;
use super::plugin::Plugin;
use super::problem::PluginError;
use super::registry::{Entry, FIRST_GENERATION, PluginSet};
use crate::settings::PluginSettings;

/// What a reload changes, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Plugins that were not there; in the order of presence.toml.
    pub added: Vec<String>,
    /// Plugins that are there no more.
    pub removed: Vec<String>,
    /// Plugins with another file or other settings.
    pub changed: Vec<String>,
    /// All others.
    pub unchanged: Vec<String>,
}

impl Changes {
    /// True when every plugin stays as it is.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// The plugins there are to be, in the order of presence.toml.
pub(super) struct Prepared(Vec<Successor>);

enum Successor {
    Unchanged(Arc<Plugin>),
    Changed(Arc<Plugin>, Arc<Loaded>),
    Added(Arc<Loaded>),
}

impl PluginSet {
    /// Loads what differs from what runs, and lets it run from the next [`switch`](super::Plugins::switch) on. If anything
    /// is wrong nothing is prepared, and all errors come back at once. Compiling happens where it does at the start; what
    /// runs goes on meanwhile. One at a time.
    pub async fn prepare(&self, settings: &[PluginSettings]) -> Result<Changes, Vec<PluginError>> {
        let (before, leaving) = {
            let roster = self.roster();
            let plugins: Vec<Arc<Plugin>> = roster.plugins.iter().map(|entry| entry.plugin.clone()).collect();
            (plugins, roster.leaving.clone())
        };
        let successors = settings.iter().map(|settings| {
            let old = before.iter().find(|plugin| *plugin.name == *settings.name);
            self.successor(old.cloned(), settings)
        });
        let (mut changes, mut prepared, mut errors) = (Changes::default(), Vec::new(), Vec::new());
        for (settings, successor) in settings.iter().zip(join_all(successors).await) {
            match &successor {
                Ok(Successor::Unchanged(_)) => changes.unchanged.push(settings.name.clone()),
                Ok(Successor::Changed(..)) => changes.changed.push(settings.name.clone()),
                Ok(Successor::Added(_)) => changes.added.push(settings.name.clone()),
                Err(_) => {}
            }
            match successor {
                Ok(successor) => prepared.push(successor),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let stays = |plugin: &Arc<Plugin>| settings.iter().any(|settings| *settings.name == *plugin.name);
        changes.removed =
            before.iter().filter(|plugin| !stays(plugin)).map(|plugin| plugin.name.to_string()).collect();
        // One that comes back begins when the calls of its former self have ended, so that no user's news go back.
        for plugin in leaving.iter().filter(|plugin| stays(plugin)) {
            plugin.until_gone().await;
        }
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Prepared(prepared));
        Ok(changes)
    }

    async fn successor(
        &self,
        old: Option<Arc<Plugin>>,
        settings: &PluginSettings,
    ) -> Result<Successor, PluginError> {
        let Some(plugin) = old else {
            return Ok(Successor::Added(self.loader.load(settings, FIRST_GENERATION).await?));
        };
        let loaded = plugin.loaded();
        if loaded.settings == *settings
            && self.loader.digest(settings).await.as_ref() == Some(&loaded.description.digest)
        {
            return Ok(Successor::Unchanged(plugin));
        }
        let loaded = self.loader.load(settings, loaded.generation + 1).await?;
        Ok(Successor::Changed(plugin, loaded))
    }

    /// Whoever submits events must be the one that switches, or an event may go to fewer plugins than it is expected of.
    pub(super) fn make_switch(&self) {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Prepared(successors)) = prepared else { return };
        let mut plugins = Vec::new();
        for successor in successors {
            plugins.push(match successor {
                Successor::Unchanged(plugin) => Entry::of(plugin),
                Successor::Added(loaded) => self.add(loaded),
                Successor::Changed(plugin, loaded) => {
                    let to_start = plugin.reload(loaded);
                    self.start_workers(&plugin, to_start);
                    Entry::of(plugin)
                }
            });
        }
        let names: BTreeSet<Arc<str>> = plugins.iter().map(|entry| entry.plugin.name.clone()).collect();
        let mut roster = self.roster.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut roster.plugins, plugins);
        let gone: Vec<Arc<Plugin>> = before
            .into_iter()
            .map(|entry| entry.plugin)
            .filter(|plugin| !names.contains(&plugin.name))
            .collect();
        roster.leaving.extend(gone.iter().cloned());
        drop(roster);
        self.forget_ended_tasks();
        for plugin in gone {
            plugin.remove();
            let roster = self.roster.clone();
            self.spawn(async move {
                plugin.until_gone().await;
                let mut roster = roster.write().unwrap_or_else(PoisonError::into_inner);
                roster.leaving.retain(|other| !Arc::ptr_eq(other, &plugin));
            });
        }
    }
}
