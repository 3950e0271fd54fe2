//! Hooks that the plugin does not export any more: its new version lacks them, or it was removed. What waits for them
//! is settled as unwanted, so that nobody waits for it; what runs ends by itself and is not repeated.

use std::collections::BTreeSet;

use super::lanes::{Item, State};
use super::{Delivery, Payload, Settlement};
use crate::events::Hook;
use crate::time::Tick;

impl Delivery {
    /// The plugin exports these hooks from now on; none once it is removed. Returns how many waiting events that
    /// settled. Looks at every event.
    pub fn handle_hooks(&mut self, hooks: BTreeSet<Hook>) -> usize {
        self.hooks = Some(hooks);
        let mut unwanted = self.clear_unwanted_lanes();
        unwanted.append(&mut self.clear_unwanted_cleanups());
        let count = unwanted.len();
        self.counters.unwanted += count as u64;
        for item in unwanted {
            self.leave(item.since);
            self.settle(item, Settlement::Unwanted);
        }
        count
    }

    /// Whether the plugin exports the event's hook.
    pub(super) fn wants(&self, payload: &Payload) -> bool {
        self.hooks.as_ref().is_none_or(|hooks| hooks.contains(&payload.hook()))
    }

    /// An event that the plugin has no hook for is done with at once.
    pub(super) fn refuse(&mut self, payload: Payload) {
        self.counters.unwanted += 1;
        self.settled.push_back(Item::new(payload, Tick(0)).settled(Settlement::Unwanted));
    }

    fn clear_unwanted_lanes(&mut self) -> Vec<Item> {
        let meant = self.lanes.select(|lane| {
            let mut items = std::iter::once(&lane.head).chain(&lane.rest);
            items.any(|item| !self.wants(&item.payload))
        });
        let mut unwanted = Vec::new();
        for slot in meant {
            let wanted = |item: &Item| match &self.hooks {
                Some(hooks) => hooks.contains(&item.payload.hook()),
                None => true,
            };
            let lane = self.lanes.get_mut(slot);
            let items = std::mem::take(&mut lane.rest);
            let (rest, others): (Vec<Item>, Vec<Item>) = items.into_iter().partition(wanted);
            lane.rest = rest.into();
            if lane.state != State::Running && !wanted(&lane.head) {
                match lane.rest.pop_front() {
                    Some(next) => {
                        unwanted.push(std::mem::replace(&mut lane.head, next));
                        if lane.state == State::Paused {
                            lane.state = State::Ready;
                            self.pauses.retain(|(_, paused)| *paused != slot);
                            self.ready.push_back(slot);
                        }
                    }
                    None => unwanted.push(self.lanes.remove(slot)),
                }
            }
            unwanted.extend(others);
        }
        self.forget_unused_lanes();
        unwanted
    }

    fn clear_unwanted_cleanups(&mut self) -> Vec<Item> {
        if self.hooks.as_ref().is_none_or(|hooks| hooks.contains(&Hook::Cleanup)) {
            return Vec::new();
        }
        let waiting = self.cleanups.split_off(usize::from(self.cleaning));
        self.barriers = self.cleanups.iter().filter(|cleanup| cleanup.is_everything()).count();
        waiting.into_iter().map(|cleanup| cleanup.item).collect()
    }
}
