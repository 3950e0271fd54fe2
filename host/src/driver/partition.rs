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
    /// Who waits for this partition to decide anew who is present.
    pub(super) anew: Vec<Anew>,
    /// Every record at or below was told to all plugins that there were.
    pub(super) told_to: Sequence,
    /// Plugins that came while the host runs and have yet to hear what is there.
    pub(super) newcomers: Option<Newcomers>,
    /// When it is read again, whatever the follower told.
    pub(super) reread_due: Tick,
    /// Transitions that some plugin has not settled yet, by user.
    unsettled: HashMap<UserId, u32>,
    /// Held by everything that is asked for this partition: dropped with it, nobody asks any more.
    pub(super) life: Arc<()>,
}

/// How far the handover is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Surrender {
    pub(super) hooks_ended: bool,
    pub(super) checkpointing: bool,
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

    /// True when everything is decided, written and told.
    pub(super) fn is_settled(&self) -> bool {
        self.tracker.is_settled() && self.newcomers.is_none()
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
    pub(super) fn issued(&mut self, plugins: &[Arc<str>], transition: &Transition) {
        for plugin in plugins {
            self.checkpoints.handle_issued(plugin, &transition.user, transition.sequence);
        }
        if !plugins.is_empty() {
            *self.unsettled.entry(transition.user.clone()).or_default() += plugins.len() as u32;
        }
    }

    pub(super) fn settled(&mut self, plugin: &str, user: &UserId, sequence: Sequence) {
        self.checkpoints.handle_settled(plugin, user, sequence);
        if let Some(count) = self.unsettled.get_mut(user) {
            *count -= 1;
            if *count == 0 {
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
