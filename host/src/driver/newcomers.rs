//! The driver's side of a reload: plugins that come and go while the host runs.
//!
//! A plugin that comes hears first what is there: each owned partition is read for it, and what is told meanwhile waits
//! behind that, so that no user's news go back. To whoever takes the partition over in between it is as new as before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt;
use presence_core::checkpoint::Backlog;
use presence_core::documents::{Document, Key};
use presence_core::events::{Hook, Transition};
use presence_core::ids::{PartitionId, Sequence, UserId};
use presence_core::time::Now;

use super::engine::Driver;
use super::io::{Completion, read};
use super::partitions::transition_of;
use crate::plugins;
use crate::store::{Coverage, Snapshot};

/// The hooks that tell a status.
const STATUS_HOOKS: [Hook; 3] = [Hook::UserOnline, Hook::UserIdle, Hook::UserOffline];

/// Plugins that have yet to hear what is there in a partition.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    plugins: BTreeSet<Arc<str>>,
    /// The reading that is waited for.
    reading: u64,
    /// What was told meanwhile: the newest of each user and hook, in their order.
    held: BTreeMap<UserId, Vec<Arc<Transition>>>,
}

impl Newcomers {
    fn hold(&mut self, transition: Arc<Transition>) {
        let held = self.held.entry(transition.user.clone()).or_default();
        held.retain(|earlier| earlier.current != transition.current);
        held.push(transition);
    }

    /// What is due of what is there, up to what was told to the others; then what was told meanwhile.
    fn transitions(
        &self,
        id: PartitionId,
        snapshot: &Snapshot,
        told_to: Sequence,
        generation: u64,
        due: &Backlog<'_>,
    ) -> Vec<Arc<Transition>> {
        let mut transitions = Vec::new();
        for (key, sequence, document) in &snapshot.documents {
            let (Key::User(_, _, user), Document::User(record)) = (key, document) else { continue };
            // What is newer is told when its acknowledgement comes.
            let known = *sequence <= told_to && !self.held.contains_key(user);
            if known && record.generation >= generation && due.includes(user, *sequence, record.status) {
                let previous = record.previous.filter(|_| due.tells_previous());
                transitions.push(Arc::new(transition_of(id, *sequence, user, record, previous)));
            }
        }
        for held in self.held.values() {
            // Who is told of a user for the first time learns of no status before.
            let mut first = matches!(due, Backlog::Present { .. });
            for transition in held {
                let mut transition = transition.clone();
                if std::mem::take(&mut first) {
                    Arc::make_mut(&mut transition).previous = None;
                }
                transitions.push(transition);
            }
        }
        transitions
    }
}

impl Driver {
    /// What was prepared of the plugins takes effect.
    pub(super) fn switch_plugins(&mut self, now: Now, silent: BTreeSet<Arc<str>>) {
        // What was settled until now counts for those that were there.
        let plugins = self.plugins.clone();
        if let Some(outcomes) = plugins.outcomes().now_or_never() {
            self.handle_outcomes(outcomes);
        }
        self.plugins.switch();
        self.config.silent_plugins = silent;
        let hooks = self.plugins.hooks();
        self.membership.handle_plugins(now, fingerprint(&hooks), exporting(&hooks, Hook::Cleanup));
        self.ticks.handle_plugins(now, self.plugins.intervals());
        let (status_plugins, listeners) = status_plugins(&hooks);
        self.status_plugins = status_plugins;
        let before = std::mem::replace(&mut self.listeners, listeners);
        let gone: Vec<&Arc<str>> = before.iter().filter(|plugin| !self.listeners.contains(plugin)).collect();
        let new: BTreeSet<Arc<str>> =
            self.listeners.iter().filter(|plugin| !before.contains(plugin)).cloned().collect();
        let mut to_read = Vec::new();
        for (id, partition) in &mut self.partitions {
            if !partition.begun {
                partition.checkpoints.handle_known(self.listeners.clone());
                continue;
            }
            for plugin in &gone {
                let newcomer =
                    partition.newcomers.as_mut().map(|newcomers| newcomers.plugins.remove(*plugin));
                // Who had not begun stays as absent as it was.
                if newcomer != Some(true) {
                    partition.checkpoints.handle_removed(now.wall, plugin);
                }
            }
            partition.newcomers.take_if(|newcomers| newcomers.plugins.is_empty());
            if !new.is_empty() && partition.surrender.is_none() {
                partition.newcomers.get_or_insert_default().plugins.extend(new.iter().cloned());
                to_read.push(*id);
            }
        }
        to_read.into_iter().for_each(|id| self.read_for_newcomers(id));
    }

    /// Reads the partition for the plugins that have yet to hear what is there, if there are any.
    pub(super) fn read_for_newcomers(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let Some(newcomers) = &mut partition.newcomers else { return };
        self.loads += 1;
        newcomers.reading = self.loads;
        let (reading, at_least) = (self.loads, partition.told_to.max(partition.tracker.claim()));
        let (store, life) = (self.store.clone(), Arc::downgrade(&partition.life));
        let operation = async move {
            let coverage = Coverage::Partitions([id].into());
            match read(&life, || store.snapshot(coverage.clone(), at_least)).await {
                Some(snapshot) => Completion::ReadForNewcomers(id, reading, snapshot),
                None => Completion::Nothing,
            }
        };
        self.start(operation.boxed());
    }

    /// A transition is recorded, and some plugins have yet to hear what was before it.
    pub(super) fn tell_but_newcomers(&mut self, id: PartitionId, transition: Transition) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let Some(newcomers) = &mut partition.newcomers else { return };
        let wanting = self.status_plugins.get(&transition.hook()).into_iter().flatten();
        let others: Vec<Arc<str>> =
            wanting.filter(|plugin| !newcomers.plugins.contains(*plugin)).cloned().collect();
        let transition = Arc::new(transition);
        newcomers.hold(transition.clone());
        partition.issued(&others, &transition);
        if partition.tells() {
            for plugin in others {
                self.plugins.submit_to(&plugin, plugins::Event::Status(transition.clone()));
            }
        }
    }

    /// What is there was read: newcomers hear of it, then of what was told meanwhile.
    pub(super) fn catch_up(&mut self, now: Now, id: PartitionId, reading: u64, snapshot: &Snapshot) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if partition.surrender.is_some() {
            return;
        }
        let Some(newcomers) = partition.newcomers.take_if(|newcomers| newcomers.reading == reading) else {
            return;
        };
        let (generation, retention) = (self.membership.generation(), self.config.presence.offline_retention);
        let tells = partition.tells();
        let mut backlog = Vec::new();
        for plugin in &newcomers.plugins {
            let initial = !self.config.silent_plugins.contains(plugin);
            let entry = partition.checkpoints.entry(plugin);
            let due = Backlog::after(entry.as_ref(), initial, retention, now.wall);
            let transitions = newcomers.transitions(id, snapshot, partition.told_to, generation, &due);
            let wanted =
                |transition: &Arc<Transition>| hears(&self.status_plugins, plugin, transition.hook());
            for transition in transitions.into_iter().filter(wanted) {
                partition.issued(std::slice::from_ref(plugin), &transition);
                backlog.push((plugin.clone(), transition));
            }
            partition.checkpoints.handle_added(plugin, partition.told_to);
        }
        tracing::debug!(partition = %id, told = backlog.len(), "plugins that were added hear what is there");
        for (plugin, transition) in backlog.into_iter().filter(|_| tells) {
            self.plugins.submit_to(&plugin, plugins::Event::Status(transition));
        }
    }
}

/// Names of plugins by the hook that they export.
type ByHook = BTreeMap<Hook, Vec<Arc<str>>>;

/// Whether a plugin exports the hook.
pub(super) fn hears(by_hook: &ByHook, plugin: &str, hook: Hook) -> bool {
    by_hook.get(&hook).is_some_and(|plugins| plugins.iter().any(|one| **one == *plugin))
}

/// The plugins that export each status hook, and all of these plugins.
pub(super) fn status_plugins(hooks: &[(Arc<str>, BTreeSet<Hook>)]) -> (ByHook, Vec<Arc<str>>) {
    let by_hook = STATUS_HOOKS.map(|hook| (hook, exporting(hooks, hook))).into();
    let listens = |hooks: &BTreeSet<Hook>| STATUS_HOOKS.iter().any(|hook| hooks.contains(hook));
    let listeners = hooks.iter().filter(|(_, hooks)| listens(hooks)).map(|(plugin, _)| plugin.clone());
    (by_hook, listeners.collect())
}

/// The plugins that export a hook.
pub(super) fn exporting(hooks: &[(Arc<str>, BTreeSet<Hook>)], hook: Hook) -> Vec<Arc<str>> {
    hooks.iter().filter(|(_, hooks)| hooks.contains(&hook)).map(|(plugin, _)| plugin.clone()).collect()
}

/// Tells two sets of plugins apart: FNV-1a over the sorted names.
pub(super) fn fingerprint(hooks: &[(Arc<str>, BTreeSet<Hook>)]) -> u64 {
    let mut names: Vec<&str> = hooks.iter().map(|(plugin, _)| &**plugin).collect();
    names.sort_unstable();
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use presence_core::documents::{PluginCheckpoint, StatusRecord, Trail};
    use presence_core::events::Status;
    use presence_core::ids::LeafId;
    use presence_core::time::Timestamp;

    use super::*;

    const PARTITION: PartitionId = PartitionId(0);

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn record(status: Status, revision: u64, generation: u64) -> StatusRecord {
        StatusRecord {
            status,
            since: Timestamp(1),
            revision,
            last_seen: None,
            sessions: 1,
            generation,
            previous: Some(Status::Idle),
            trail: Trail::default(),
        }
    }

    fn snapshot(records: &[(&str, u64, StatusRecord)]) -> Snapshot {
        let document = |(name, sequence, record): &(&str, u64, StatusRecord)| {
            let key = Key::User(PARTITION, LeafId(0), user(name));
            (key, Sequence(*sequence), Document::User(*record))
        };
        Snapshot { documents: records.iter().map(document).collect(), up_to: Sequence(99) }
    }

    fn held(name: &str, current: Status, revision: u64) -> Arc<Transition> {
        let record = StatusRecord { previous: Some(Status::Online), ..record(current, revision, 2) };
        Arc::new(transition_of(PARTITION, Sequence(revision), &user(name), &record, record.previous))
    }

    fn told(newcomers: &Newcomers, entry: Option<&PluginCheckpoint>, initial: bool) -> Vec<String> {
        let snapshot = snapshot(&[
            ("alice", 5, record(Status::Online, 5, 2)),
            ("bob", 6, record(Status::Offline, 6, 2)),
            ("carol", 7, record(Status::Online, 7, 2)),
            ("dave", 8, record(Status::Online, 8, 1)),
            ("erin", 21, record(Status::Online, 21, 2)),
        ]);
        let due = Backlog::after(entry, initial, Duration::from_secs(1), Timestamp(500));
        let transitions = newcomers.transitions(PARTITION, &snapshot, Sequence(20), 2, &due);
        let shown = transitions
            .iter()
            .map(|told| format!("{} {} {:?}>{:?}", told.user, told.revision, told.previous, told.current));
        shown.collect()
    }

    #[test]
    fn what_is_there_comes_before_what_was_told_meanwhile() {
        let mut newcomers = Newcomers::default();
        assert_eq!(
            told(&newcomers, None, true),
            ["alice 5 None>Online", "carol 7 None>Online"],
            "neither who is offline, nor of before the fresh start, nor what is not told yet"
        );
        assert_eq!(told(&newcomers, None, false), Vec::<String>::new());
        newcomers.hold(held("alice", Status::Idle, 11));
        newcomers.hold(held("alice", Status::Online, 12));
        newcomers.hold(held("alice", Status::Idle, 13));
        let new = ["carol 7 None>Online", "alice 12 None>Online", "alice 13 Some(Online)>Idle"];
        assert_eq!(told(&newcomers, None, true), new, "the newest of each hook, in order");
        let silent = ["alice 12 Some(Online)>Online", "alice 13 Some(Online)>Idle"];
        assert_eq!(told(&newcomers, None, false), silent);
    }

    #[test]
    fn one_that_comes_back_hears_what_it_missed() {
        let newcomers = Newcomers::default();
        let entry = PluginCheckpoint {
            up_to: Sequence(6),
            except: vec![user("bob")],
            absent_since: Some(Timestamp(400)),
        };
        let missed = ["bob 6 Some(Idle)>Offline", "carol 7 Some(Idle)>Online"];
        assert_eq!(told(&newcomers, Some(&entry), true), missed);
    }
}
