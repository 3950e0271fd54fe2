//! A partition that this host owns: its tracker, its checkpoints, and where its snapshot stands. It holds together, it
//! decides nothing.

use std::collections::HashMap;
use std::sync::Arc;

use presence_core::checkpoint::Checkpoints;
use presence_core::documents::Update;
use presence_core::events::Transition;
use presence_core::holders::HeldHooks;
use presence_core::ids::{Sequence, UserId};
use presence_core::time::Tick;
use presence_core::tracker::Tracker;

use super::letters::Anew;
use super::newcomers::Newcomers;

/// So many updates wait for a snapshot; when more come it is taken again.
const MAX_BUFFERED: usize = 16_384;

pub(super) struct Partition {
    pub(super) tracker: Tracker,
    pub(super) checkpoints: Checkpoints,
    /// Sessions of its users that holders hold.
    pub(super) held: HeldHooks,
    /// The snapshot's point: older updates are in it already. None while it is being read.
    pub(super) loaded: Option<Sequence>,
    /// The load that is waited for.
    pub(super) load: u64,
    /// The batch of status records that is waited for.
    pub(super) batch: u64,
    /// The first snapshot was taken: what earlier owners left is known.
    pub(super) begun: bool,
    /// Updates that came while the snapshot is being read.
    pub(super) buffered: Vec<Update>,
    /// More came than are kept.
    pub(super) overflowed: bool,
    /// A write was refused by its fence: nothing is written before the owner was read.
    pub(super) fenced: bool,
    /// Claimed again in a recreated store: nothing is written before the snapshot tells what others have written there.
    pub(super) restoring: bool,
    pub(super) surrender: Option<Surrender>,
    /// It was being handed over and stays, since the store has lost the claim: its hooks were withdrawn, and are told again
    /// once those that ran have ended (true).
    pub(super) kept: Option<bool>,
    /// Who waits for this partition to decide anew who is present.
    pub(super) anew: Vec<Anew>,
    /// Every record at or below was told to all plugins that there were.
    pub(super) told_to: Sequence,
    /// Plugins that came while the host runs and have yet to hear what is there.
    pub(super) newcomers: Option<Newcomers>,
    /// When it is read again, whatever the follower told.
    pub(super) reread_due: Tick,
    /// What some plugin has not settled yet, by user.
    unsettled: HashMap<UserId, Unsettled>,
    /// Held by everything that is asked for this partition: dropped with it, nobody asks any more.
    pub(super) life: Arc<()>,
}

/// How far the handover is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Surrender {
    pub(super) hooks_ended: bool,
    pub(super) checkpointing: bool,
}

/// Transitions of one user.
struct Unsettled {
    /// Of all plugins together.
    count: u32,
    last: Arc<Transition>,
}

impl Partition {
    pub(super) fn new(tracker: Tracker, checkpoints: Checkpoints, held: HeldHooks) -> Partition {
        Partition {
            tracker,
            checkpoints,
            held,
            loaded: None,
            load: 0,
            batch: 0,
            begun: false,
            buffered: Vec::new(),
            overflowed: false,
            fenced: false,
            restoring: false,
            surrender: None,
            kept: None,
            anew: Vec::new(),
            told_to: Sequence(0),
            newcomers: None,
            reread_due: Tick(u64::MAX),
            unsettled: HashMap::new(),
            life: Arc::new(()),
        }
    }

    /// Whether regular checkpoints are written.
    pub(super) fn writes_checkpoints(&self) -> bool {
        self.begun && !self.fenced && !self.restoring && self.surrender.is_none()
    }

    /// It is not handed over after all.
    pub(super) fn keep(&mut self) {
        if let Some(surrender) = self.surrender.take() {
            self.kept = Some(surrender.hooks_ended);
        }
    }

    /// Whether plugins hear of its transitions now. While they don't, it is only noted what they are to hear: the next owner
    /// tells it, or this one once it is certain that it stays.
    pub(super) fn tells(&self) -> bool {
        self.surrender.is_none() && self.kept.is_none()
    }

    /// What was withdrawn, if it is to be told again here: of each user the newest, as a next owner would.
    pub(super) fn told_again(
        &mut self,
        hears: impl Fn(&Arc<str>, &Transition) -> bool,
    ) -> Vec<(Arc<str>, Arc<Transition>)> {
        if self.kept != Some(true) || self.loaded.is_none() {
            return Vec::new();
        }
        self.kept = None;
        let unsettled = std::mem::take(&mut self.unsettled);
        let mut again = Vec::new();
        self.checkpoints.handle_withdrawn(|plugin, user| {
            let last = unsettled.get(user).map(|unsettled| &unsettled.last);
            let last = last.filter(|transition| hears(plugin, transition));
            again.extend(last.map(|transition| (plugin.clone(), transition.clone())));
            last.is_some()
        });
        for (_, transition) in &again {
            self.note_unsettled(transition, 1);
        }
        again
    }

    fn note_unsettled(&mut self, transition: &Arc<Transition>, count: u32) {
        let unsettled = self
            .unsettled
            .entry(transition.user.clone())
            .or_insert_with(|| Unsettled { count: 0, last: transition.clone() });
        unsettled.count += count;
        unsettled.last = transition.clone();
    }

    /// True when everything is decided, written and told.
    pub(super) fn is_settled(&self) -> bool {
        self.tracker.is_settled() && self.newcomers.is_none() && self.kept.is_none()
    }

    /// Keeps an update until the snapshot is there.
    pub(super) fn buffer(&mut self, update: &Update) {
        if self.buffered.len() < MAX_BUFFERED {
            self.buffered.push(update.clone());
        } else {
            self.overflowed = true;
        }
    }

    /// A transition is about to be told to these plugins.
    pub(super) fn issued(&mut self, plugins: &[Arc<str>], transition: &Arc<Transition>) {
        for plugin in plugins {
            self.checkpoints.handle_issued(plugin, &transition.user, transition.sequence);
        }
        if !plugins.is_empty() {
            self.note_unsettled(transition, plugins.len() as u32);
        }
    }

    pub(super) fn settled(&mut self, plugin: &str, user: &UserId, sequence: Sequence) {
        self.checkpoints.handle_settled(plugin, user, sequence);
        if let Some(unsettled) = self.unsettled.get_mut(user) {
            unsettled.count -= 1;
            if unsettled.count == 0 {
                self.unsettled.remove(user);
            }
        }
    }

    /// The tracker, and whether every plugin has settled all of a user's transitions.
    pub(super) fn forgetting(&mut self) -> (&mut Tracker, impl Fn(&UserId) -> bool) {
        let unsettled = &self.unsettled;
        (&mut self.tracker, move |user: &UserId| !unsettled.contains_key(user))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use presence_core::events::Status;
    use presence_core::ids::PartitionId;
    use presence_core::time::Timestamp;
    use presence_core::tracker::TrackerConfig;

    use super::*;

    /// Seed 7835 of the simulation.
    #[test]
    fn what_was_withdrawn_is_told_again_by_whoever_keeps_the_partition() {
        let (id, plugin): (PartitionId, Arc<str>) = (PartitionId(0), "p".into());
        let config = TrackerConfig {
            offline_grace: Duration::ZERO,
            offline_retention: Duration::from_secs(1000),
            max_users: 100,
            generation: 1,
            seed: 7,
        };
        let tracker = Tracker::new(id, Sequence(1), config);
        let checkpoints = Checkpoints::new(5, vec![plugin.clone()]);
        let mut partition = Partition::new(tracker, checkpoints, HeldHooks::new(id, 1));
        let user = UserId::new("alice").unwrap();
        let transition = |sequence| {
            Arc::new(Transition {
                user: user.clone(),
                previous: None,
                current: Status::Online,
                since: Timestamp(1),
                revision: sequence,
                sessions: 1,
                last_seen: None,
                partition: id,
                sequence: Sequence(sequence),
            })
        };
        partition.issued(std::slice::from_ref(&plugin), &transition(70));
        partition.surrender = Some(Surrender::default());
        partition.keep();
        // The store was recreated; a running hook has not ended yet.
        partition.checkpoints.handle_restored(6, Sequence(3));
        partition.loaded = Some(Sequence(3));
        partition.issued(std::slice::from_ref(&plugin), &transition(71));
        assert!(!partition.tells() && !partition.is_settled());
        assert!(partition.told_again(|_, _| true).is_empty());
        partition.kept = Some(true);
        let again = partition.told_again(|_, _| true);
        let told: Vec<u64> = again.iter().map(|(_, transition)| transition.revision).collect();
        assert_eq!(told, [71], "the newest, once");
        assert!(partition.tells());
        assert_eq!(partition.checkpoints.document_now().plugins["p"].except, std::slice::from_ref(&user));
        partition.settled("p", &user, Sequence(71));
        assert!(partition.checkpoints.document_now().plugins["p"].except.is_empty());
        assert!((partition.forgetting().1)(&user));
    }
}
