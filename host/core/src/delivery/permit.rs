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
            if permitted || !self.lanes.get(lane).needs_permit() {
                return Some(lane);
            }
            self.withheld.push_back(lane);
        }
        None
    }
}
