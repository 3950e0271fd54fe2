//! The cleanup of dead instances: who does it, what every plugin was told, what is left to do.
//!
//! ```text
//!  declared dead ──▶ claimed ──▶ Telling: sessions read, chunk after chunk to each plugin ──▶ Told ──▶ purge ──▶ Purged
//! ```
//!
//! The dead instance's record is the journal, written by compare-and-set: whoever takes over goes on where it stands.
//! Chunks are slices of the sessions sorted by id, so that their event ids are the same whoever sends them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::assignment::desired_cleaner;
use crate::documents::{Cleanup, CleanupPhase, InstanceRecord};
use crate::events::{Scope, Session, Sweep, labels};
use crate::ids::{InstanceId, Sequence};

use super::peers::Peers;

/// So many sessions are told in one call.
pub const CLEANUP_CHUNK: usize = 256;

/// How long the record of a cleaned-up instance stays, so that late writes of it are recognised.
pub(super) const RECORD_KEPT: Duration = Duration::from_secs(3600);

/// What a cleanup wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chore {
    /// Write the journal, expecting this sequence.
    Write(InstanceId, InstanceRecord, Sequence, Option<Duration>),
    /// Read the sessions.
    /// Of this round of its cleanup.
    Sessions(InstanceId, u32),
    /// Tell a plugin.
    Tell(Arc<str>, Sweep),
    /// Remove the documents.
    Purge(InstanceId),
    /// Done: for the log.
    Done(InstanceId),
}

/// How long a dead instance's record lives; none: until it is cleaned up after.
pub(super) fn lease_of(record: &InstanceRecord) -> Option<Duration> {
    let purged = |cleanup: &Cleanup| cleanup.phase == CleanupPhase::Purged;
    record.cleanup.as_ref().is_some_and(purged).then_some(RECORD_KEPT)
}

#[derive(Debug)]
struct Job {
    record: InstanceRecord,
    sequence: Sequence,
    /// Chunks, once they are read.
    chunks: Option<Vec<Arc<Vec<Session>>>>,
    /// Something that the journal does not say yet.
    changed: bool,
    writing: bool,
    purging: bool,
}

impl Job {
    /// How often the instance was declared dead before.
    fn round(&self) -> u32 {
        self.record.cleanup.as_ref().map_or(0, |cleanup| cleanup.round)
    }

    /// The round as event ids have it.
    fn run(&self) -> Arc<str> {
        match self.round() {
            0 => "".into(),
            round => round.to_string().into(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Cleanups {
    /// Plugins that export `cleanup`.
    plugins: Vec<Arc<str>>,
    jobs: BTreeMap<InstanceId, Job>,
    /// Jobs whose journal is being claimed.
    claiming: BTreeSet<InstanceId>,
    /// Whose journal is not what it was taken for, and is being read.
    reading: BTreeSet<InstanceId>,
    pub(super) chores: VecDeque<Chore>,
}

impl Cleanups {
    pub(super) fn new(plugins: Vec<Arc<str>>) -> Cleanups {
        Cleanups {
            plugins,
            jobs: BTreeMap::new(),
            claiming: BTreeSet::new(),
            reading: BTreeSet::new(),
            chores: VecDeque::new(),
        }
    }

    /// Looks which dead instances are this one's to clean up. `candidates` is sorted.
    pub(super) fn decide(&mut self, me: InstanceId, candidates: &[InstanceId], peers: &Peers) {
        for (instance, peer) in peers.iter() {
            let Some(cleanup) = peer.record.cleanup.as_ref().filter(|_| peer.is_dead()) else {
                continue;
            };
            if cleanup.phase == CleanupPhase::Purged {
                // The watch may be faster than the answer.
                if self.jobs.remove(&instance).is_some() {
                    self.chores.push_back(Chore::Done(instance));
                }
                continue;
            }
            if self.jobs.get(&instance).is_some_and(|job| job.round() < cleanup.round) {
                self.jobs.remove(&instance);
            }
            let busy = self.jobs.contains_key(&instance) || self.claiming.contains(&instance);
            if busy || self.reading.contains(&instance) {
                continue;
            }
            if cleanup.by == Some(me) {
                self.begin(instance, peer.record.clone(), peer.sequence);
                continue;
            }
            let taken = cleanup.by.is_some_and(|by| !peers.is_over(by));
            if !taken && desired_cleaner(instance, candidates) == Some(me) {
                let mut record = peer.record.clone();
                record.cleanup = Some(Cleanup { by: Some(me), ..cleanup.clone() });
                self.claiming.insert(instance);
                self.chores.push_back(Chore::Write(instance, record, peer.sequence, None));
            }
        }
    }

    /// A fresh start closes the cleanup of all who died before: `everything` has told of them.
    pub(super) fn close_all(&mut self, me: InstanceId, peers: &Peers) {
        for (instance, peer) in peers.iter() {
            let Some(cleanup) = peer.record.cleanup.as_ref().filter(|_| peer.is_dead()) else {
                continue;
            };
            if cleanup.phase != CleanupPhase::Purged {
                let mut record = peer.record.clone();
                record.cleanup =
                    Some(Cleanup { by: Some(me), phase: CleanupPhase::Purged, ..cleanup.clone() });
                self.chores.push_back(Chore::Write(instance, record, peer.sequence, Some(RECORD_KEPT)));
            }
        }
    }

    /// This instance was declared dead itself: others take over.
    pub(super) fn abandon(&mut self) {
        self.jobs.clear();
        self.claiming.clear();
        self.reading.clear();
    }

    /// True if this is a write of this machine's.
    pub(super) fn owns(&self, instance: InstanceId) -> bool {
        self.jobs.contains_key(&instance) || self.claiming.contains(&instance)
    }

    /// A journal was written.
    pub(super) fn handle_written(
        &mut self,
        instance: InstanceId,
        sequence: Sequence,
        record: &InstanceRecord,
    ) {
        if self.claiming.remove(&instance) {
            return self.begin(instance, record.clone(), sequence);
        }
        // It was declared dead once more: what this one has told is not what is to be told now.
        let round = record.cleanup.as_ref().map_or(0, |cleanup| cleanup.round);
        if self.jobs.get(&instance).is_some_and(|job| job.round() != round) {
            self.jobs.remove(&instance);
        }
        let Some(job) = self.jobs.get_mut(&instance) else { return };
        job.sequence = sequence;
        job.writing = false;
        match record.cleanup.as_ref().map(|cleanup| cleanup.phase) {
            Some(CleanupPhase::Purged) => {
                self.jobs.remove(&instance);
                self.chores.push_back(Chore::Done(instance));
            }
            _ => self.go_on(instance),
        }
    }

    /// A journal was not written: somebody else has taken over, or it went with the store. Nothing is done for it before it
    /// was read, least of all removed: documents of a store that was recreated may be those of somebody who lives again.
    pub(super) fn handle_refused(&mut self, instance: InstanceId) {
        let claimed = self.claiming.remove(&instance);
        if self.jobs.remove(&instance).is_some() || claimed {
            self.reading.insert(instance);
        }
    }

    /// The instance's record was read.
    pub(super) fn handle_read(&mut self, instance: InstanceId) {
        self.reading.remove(&instance);
    }

    /// The dead instance's sessions, as they were read for this round.
    pub(super) fn handle_sessions(&mut self, instance: InstanceId, round: u32, mut sessions: Vec<Session>) {
        let waits = |job: &&mut Job| job.chunks.is_none() && job.round() == round;
        let Some(job) = self.jobs.get_mut(&instance).filter(waits) else { return };
        sessions.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let mut chunks: Vec<Arc<Vec<Session>>> = Vec::new();
        while !sessions.is_empty() {
            let rest = sessions.split_off(sessions.len().min(CLEANUP_CHUNK));
            chunks.push(Arc::new(std::mem::replace(&mut sessions, rest)));
        }
        if chunks.is_empty() {
            chunks.push(Arc::default());
        }
        job.chunks = Some(chunks);
        for plugin in self.plugins.clone() {
            self.tell(instance, &plugin);
        }
        self.go_on(instance);
    }

    /// This instance has other plugins than it had: nobody waits for those that are gone, and those that came hear of
    /// the cleanups under way.
    pub(super) fn handle_plugins(&mut self, plugins: Vec<Arc<str>>) {
        let known = std::mem::replace(&mut self.plugins, plugins);
        let added: Vec<Arc<str>> =
            self.plugins.iter().filter(|plugin| !known.contains(plugin)).cloned().collect();
        let telling = |job: &Job| {
            job.record.cleanup.as_ref().is_some_and(|cleanup| cleanup.phase == CleanupPhase::Telling)
        };
        let instances = self.jobs.iter().filter(|(_, job)| telling(job)).map(|(instance, _)| *instance);
        for instance in instances.collect::<Vec<_>>() {
            for plugin in &added {
                self.tell(instance, plugin);
            }
            self.go_on(instance);
        }
    }

    /// A plugin has settled a chunk; of one that is gone it says nothing.
    pub(super) fn handle_settled(&mut self, plugin: &Arc<str>, instance: InstanceId, run: &str, chunk: u32) {
        if !self.plugins.contains(plugin) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&instance).filter(|job| *job.run() == *run) else { return };
        let Some(cleanup) = &mut job.record.cleanup else { return };
        let settled = cleanup.settled.entry(plugin.to_string()).or_default();
        if chunk != *settled {
            return;
        }
        *settled += 1;
        job.changed = true;
        self.tell(instance, plugin);
        self.go_on(instance);
    }

    /// The dead instance's documents are gone.
    pub(super) fn handle_purged(&mut self, instance: InstanceId) {
        let Some(job) = self.jobs.get_mut(&instance).filter(|job| job.purging) else { return };
        if let Some(cleanup) = &mut job.record.cleanup {
            cleanup.phase = CleanupPhase::Purged;
            job.changed = true;
        }
        self.go_on(instance);
    }

    pub(super) fn running(&self) -> usize {
        self.jobs.len()
    }

    fn begin(&mut self, instance: InstanceId, record: InstanceRecord, sequence: Sequence) {
        let job = Job { record, sequence, chunks: None, changed: false, writing: false, purging: false };
        let phase = job.record.cleanup.as_ref().map(|cleanup| cleanup.phase);
        self.jobs.insert(instance, job);
        match phase {
            Some(CleanupPhase::Telling) => {
                let round = self.jobs[&instance].round();
                self.chores.push_back(Chore::Sessions(instance, round));
            }
            _ => self.go_on(instance),
        }
    }

    /// The next chunk for a plugin, if there is one.
    fn tell(&mut self, instance: InstanceId, plugin: &Arc<str>) {
        let Some(job) = self.jobs.get(&instance) else { return };
        let (Some(cleanup), Some(chunks)) = (&job.record.cleanup, &job.chunks) else { return };
        let next = cleanup.settled.get(&**plugin).copied().unwrap_or(0);
        let Some(sessions) = chunks.get(next as usize) else { return };
        let sweep = Sweep {
            cause: labels::INSTANCE_LOST.into(),
            scope: Scope::Lost { instance, sessions: sessions.clone() },
            chunk: next,
            last: next as usize + 1 == chunks.len(),
            run: job.run(),
        };
        self.chores.push_back(Chore::Tell(plugin.clone(), sweep));
    }

    /// Writes what the journal lacks, one write at a time; purges once everybody was told.
    fn go_on(&mut self, instance: InstanceId) {
        let Some(job) = self.jobs.get_mut(&instance).filter(|job| !job.writing) else { return };
        let Some(cleanup) = &mut job.record.cleanup else { return };
        if cleanup.phase == CleanupPhase::Telling
            && let Some(chunks) = &job.chunks
        {
            let all = chunks.len() as u32;
            let told =
                |plugin: &Arc<str>| cleanup.settled.get(&**plugin).is_some_and(|settled| *settled >= all);
            if self.plugins.iter().all(told) {
                cleanup.phase = CleanupPhase::Told;
                job.changed = true;
            }
        }
        if job.changed {
            job.changed = false;
            job.writing = true;
            let lease = lease_of(&job.record);
            self.chores.push_back(Chore::Write(instance, job.record.clone(), job.sequence, lease));
        } else if cleanup.phase == CleanupPhase::Told && !job.purging {
            job.purging = true;
            self.chores.push_back(Chore::Purge(instance));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::InstanceState;
    use crate::time::Timestamp;

    const DEAD: InstanceId = InstanceId(9);

    /// A cleanup under way, whose one chunk every plugin was told.
    fn telling(plugins: &[&str]) -> Cleanups {
        let mut cleanups = Cleanups::new(plugins.iter().map(|plugin| (*plugin).into()).collect());
        let cleanup = Cleanup {
            phase: CleanupPhase::Telling,
            by: Some(InstanceId(1)),
            declared_at: Timestamp(1),
            round: 0,
            settled: BTreeMap::new(),
        };
        let record = InstanceRecord {
            host: "host-9".into(),
            state: InstanceState::Dead,
            started_at: Timestamp(1),
            renewal: 1,
            plugins: 1,
            cleanup: Some(cleanup),
            holder: None,
        };
        cleanups.begin(DEAD, record, Sequence(1));
        cleanups.handle_sessions(DEAD, 0, vec![]);
        cleanups
    }

    fn told(cleanups: &mut Cleanups) -> Vec<String> {
        let chores = cleanups.chores.drain(..);
        let told = chores.filter_map(|chore| match chore {
            Chore::Tell(plugin, sweep) => Some(format!("{plugin} {}", sweep.chunk)),
            Chore::Write(_, record, ..) => record.cleanup.map(|cleanup| format!("{:?}", cleanup.phase)),
            Chore::Sessions(..) | Chore::Purge(_) | Chore::Done(_) => None,
        });
        told.collect()
    }

    #[test]
    fn a_plugin_that_is_removed_holds_no_cleanup_up() {
        let mut cleanups = telling(&["a", "b"]);
        assert_eq!(told(&mut cleanups), ["a 0", "b 0"]);
        cleanups.handle_settled(&"a".into(), DEAD, "", 0);
        assert_eq!(told(&mut cleanups), ["Telling"]);
        let written = cleanups.jobs[&DEAD].record.clone();
        cleanups.handle_written(DEAD, Sequence(2), &written);
        cleanups.handle_plugins(vec!["a".into()]);
        assert_eq!(told(&mut cleanups), ["Told"]);
        cleanups.handle_settled(&"b".into(), DEAD, "", 0);
        let settled = &cleanups.jobs[&DEAD].record.cleanup.as_ref().unwrap().settled;
        assert_eq!(settled.keys().collect::<Vec<_>>(), ["a"], "what was taken back was not told");
    }

    /// Seed 5221 of the simulation: what was told of its first death counted as told of its second, whose sessions nobody
    /// heard of.
    #[test]
    fn who_is_declared_dead_once_more_is_cleaned_up_after_from_the_start() {
        let mut cleanups = telling(&["a"]);
        assert_eq!(told(&mut cleanups), ["a 0"]);
        let mut again = cleanups.jobs[&DEAD].record.clone();
        again.cleanup.as_mut().unwrap().round = 1;
        cleanups.handle_written(DEAD, Sequence(5), &again);
        assert!(!cleanups.owns(DEAD));
        cleanups.begin(DEAD, again, Sequence(5));
        assert!(matches!(cleanups.chores.pop_front(), Some(Chore::Sessions(DEAD, 1))));
        assert!(cleanups.chores.is_empty());
        // What belongs to the first round comes late.
        cleanups.handle_sessions(DEAD, 0, vec![]);
        cleanups.handle_purged(DEAD);
        assert_eq!(told(&mut cleanups), Vec::<String>::new());
        cleanups.handle_sessions(DEAD, 1, vec![]);
        cleanups.handle_settled(&"a".into(), DEAD, "", 0);
        assert_eq!(told(&mut cleanups), ["a 0"]);
        cleanups.handle_settled(&"a".into(), DEAD, "1", 0);
        assert_eq!(told(&mut cleanups), ["Told"]);
    }

    #[test]
    fn a_plugin_that_is_added_hears_of_a_cleanup_under_way_and_does_not_block_it() {
        let mut cleanups = telling(&["a"]);
        assert_eq!(told(&mut cleanups), ["a 0"]);
        cleanups.handle_plugins(vec!["a".into(), "b".into()]);
        assert_eq!(told(&mut cleanups), ["b 0"]);
        cleanups.handle_settled(&"a".into(), DEAD, "", 0);
        cleanups.handle_settled(&"b".into(), DEAD, "", 0);
        assert_eq!(told(&mut cleanups), ["Telling"]);
        let written = cleanups.jobs[&DEAD].record.clone();
        cleanups.handle_written(DEAD, Sequence(2), &written);
        assert_eq!(told(&mut cleanups), ["Told"]);
    }
}
