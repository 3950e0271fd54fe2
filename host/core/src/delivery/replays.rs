//! Dead letters, once more: where their events stand among those that wait. It knows numbers of letters, not letters.

use super::lanes::Item;
use super::{Cleanup, Delivery, LetterNumber, Payload, Replayed};
use crate::events::Scope;
use crate::time::Tick;

impl Delivery {
    /// Queues the event of a dead letter, behind what waits of the same user or session. `newest` is the newest revision
    /// that the plugin was told of the user, or is about to be, as far as the caller knows; 0 if none. Of a
    /// tick: when the newest one was due.
    pub fn handle_replay(
        &mut self,
        now: Tick,
        payload: Payload,
        letter: LetterNumber,
        newest: u64,
    ) -> Replayed {
        match &payload {
            Payload::Cleanup(sweep) => {
                self.barriers += usize::from(sweep.scope == Scope::Everything);
                self.enter(now);
                self.cleanups.push_back(Cleanup { item: Item::replay(payload, now, letter), due: now });
            }
            Payload::Tick(beat) => match self.lanes.find(&payload) {
                _ if newest > beat.due.0 => return Replayed::Superseded,
                Some(lane) if self.lanes.get(lane).revision() >= beat.due.0 => return Replayed::Superseded,
                Some(lane) => self.replace(lane, Item::replay(payload, now, letter)),
                None => self.append(None, Item::replay(payload, now, letter)),
            },
            Payload::Session(_) if self.is_full() => return Replayed::Full,
            Payload::Session(_) => self.append(self.lanes.find(&payload), Item::replay(payload, now, letter)),
            Payload::Status(transition) => {
                let lane = self.lanes.find(&payload);
                let waiting = lane.map_or(0, |lane| self.lanes.get(lane).revision());
                if newest > transition.revision || waiting >= transition.revision {
                    return Replayed::Superseded;
                }
                match lane {
                    Some(lane) if self.lags(lane) => self.replace(lane, Item::replay(payload, now, letter)),
                    _ => self.append(lane, Item::replay(payload, now, letter)),
                }
            }
        }
        self.replays += 1;
        Replayed::Queued
    }
}
