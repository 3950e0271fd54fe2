//! Until when the host may act for the cluster: what is withheld without that, and what is released again.

use super::Delivery;
use crate::time::Tick;

impl Delivery {
    /// Status hooks and cleanups start only if their deadline lies at or before `until`; at first nothing limits them.
    /// Returns true if that may have released something: poll again.
    pub fn handle_permit(&mut self, until: Tick) -> bool {
        let extended = until > self.permit;
        self.permit = until;
        extended && self.release()
    }

    /// Whether `session-connected` of this host's sessions may be told: not while the documents that list them are missing
    /// from the store, since nobody would tell of their end if this host died. What waits behind one waits too. Returns true
    /// if that may have released something: poll again.
    pub fn handle_announcing(&mut self, announcing: bool) -> bool {
        let before = std::mem::replace(&mut self.announcing, announcing);
        announcing && !before && self.release()
    }

    /// True while a cleanup of everything waits or runs: all else waits for it.
    pub fn behind_everything(&self) -> bool {
        self.barriers > 0
    }

    /// What is withheld is looked at again.
    pub(super) fn release(&mut self) -> bool {
        let some = !self.withheld.is_empty() || (self.withholding && !self.cleanups.is_empty());
        self.withholding = false;
        while let Some(lane) = self.withheld.pop_back() {
            self.ready.push_front(lane);
        }
        some
    }

    /// The first lane that is ready and permitted; those before it are put aside.
    pub(super) fn next_lane(&mut self, permitted: bool) -> Option<u32> {
        while let Some(lane) = self.ready.pop_front() {
            let entry = self.lanes.get(lane);
            if (permitted || !entry.needs_permit()) && (self.announcing || !entry.announces()) {
                return Some(lane);
            }
            self.withheld.push_back(lane);
        }
        None
    }
}
