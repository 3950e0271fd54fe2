//! What watchers may ask to see besides a status: the user's custom message, and the sessions that have metadata.
//!
//! It is read as a whole, told when it is another one than before, and kept only of users of whom somebody asks for it. One
//! reading of a user is under way at a time; what changes meanwhile causes another one. It must not know who may see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{WatchEffect, Watched, Watcher, Watchers};
use crate::documents::SessionDocument;
use crate::events::{Attributes, Status};
use crate::ids::{InstanceId, UserId};
use crate::message::CustomMessage;
use crate::time::{Now, Tick, Timestamp};

/// So many sessions of a user are shown: those that were opened last.
pub const MAX_SESSIONS_SHOWN: usize = 16;

/// What a watcher asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct With {
    /// The custom message.
    pub message: bool,
    /// The sessions that have metadata.
    pub metadata: bool,
}

impl With {
    /// True if it asks for nothing but the status.
    pub fn is_nothing(self) -> bool {
        self == With::default()
    }
}

/// A session that has metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDetails {
    /// Where it is.
    pub instance: InstanceId,
    /// `Online` or `Idle`.
    pub status: Status,
    /// They hold the metadata.
    pub attributes: Attributes,
}

/// What is known of a user besides the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// None: there is none, or its time is over.
    pub message: Option<CustomMessage>,
    /// The sessions that have metadata, the one opened last first; [`MAX_SESSIONS_SHOWN`] at most.
    pub sessions: Vec<SessionDetails>,
}

impl Details {
    /// What a user's message and session documents say at this time.
    pub fn of<'a>(
        now: Now,
        message: Option<CustomMessage>,
        documents: impl IntoIterator<Item = (InstanceId, &'a SessionDocument)>,
    ) -> Details {
        let mut found = Vec::new();
        for (instance, document) in documents {
            let live = document.sessions.iter().filter(|entry| entry.ended.is_none());
            found.extend(live.filter(|entry| entry.attributes.has_metadata()).map(|entry| (instance, entry)));
        }
        found.sort_unstable_by(|(_, one), (_, other)| {
            (other.connected_at, &other.id).cmp(&(one.connected_at, &one.id))
        });
        let sessions = found.into_iter().take(MAX_SESSIONS_SHOWN).map(|(instance, entry)| SessionDetails {
            instance,
            status: entry.status,
            attributes: entry.attributes.clone(),
        });
        Details { message: message.filter(|message| message.holds(now.wall)), sessions: sessions.collect() }
    }
}

/// What goes with a status to a watcher that has asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What it has asked for: nothing else is to be told.
    pub with: With,
    /// All that is known.
    pub details: Arc<Details>,
}

/// A user of whom somebody asks for more than the status.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// None until the first reading is answered.
    details: Option<Arc<Details>>,
    /// A reading is under way.
    reading: bool,
    /// Something has changed since it began.
    again: bool,
    watchers: BTreeMap<Watcher, With>,
}

impl Watched {
    /// What goes with this user's status to a watcher: none: it is not to be told before that is known; a `Some` of none:
    /// it has not asked for anything.
    pub(super) fn shown(&self, watcher: Watcher) -> Option<Option<Shown>> {
        let Some(asked) = &self.asked else { return Some(None) };
        let Some(with) = asked.watchers.get(&watcher) else { return Some(None) };
        let details = asked.details.clone()?;
        Some(Some(Shown { with: *with, details }))
    }
}

impl Watchers {
    /// The custom message or the metadata of a user may have changed.
    pub fn handle_details_changed(&mut self, user: &UserId) {
        if let Some(slot) = self.find(user) {
            self.read_details(slot);
        }
    }

    /// What a [`WatchEffect::ReadDetails`] has found.
    pub fn handle_details(&mut self, user: &UserId, details: Details) {
        let Some(slot) = self.find(user) else { return };
        let Some(asked) = self.asked_mut(slot) else { return };
        asked.reading = false;
        if std::mem::take(&mut asked.again) {
            self.read_details(slot);
        }
        self.take_details(slot, details);
    }

    /// The sessions of an instance are over: it was declared dead.
    pub fn handle_instance_lost(&mut self, instance: InstanceId) {
        let there = |details: &&Arc<Details>| details.sessions.iter().any(|at| at.instance == instance);
        for slot in 0..self.slots.len() as u32 {
            let Some(asked) = self.asked_mut(slot) else { continue };
            if let Some(details) = asked.details.as_ref().filter(there) {
                let mut details = Details::clone(details);
                details.sessions.retain(|session| session.instance != instance);
                self.take_details(slot, details);
                // There may be more than were shown.
                self.read_details(slot);
            }
        }
    }

    /// Messages whose time is over: call at or after [`Watchers::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((until, slot)) = self.expiries.first().copied() {
            if until > now.wall {
                return;
            }
            self.expiries.remove(&(until, slot));
            let details = self.asked_mut(slot).and_then(|asked| asked.details.clone());
            if let Some(details) = details {
                self.take_details(slot, Details { message: None, ..Details::clone(&details) });
            }
        }
    }

    /// When [`Watchers::handle_timeout`] may have something to do.
    pub fn poll_timeout(&self, now: Now) -> Option<Tick> {
        let (until, _) = self.expiries.first()?;
        Some(now.tick + std::time::Duration::from_millis(until.millis_since(now.wall)))
    }

    /// Notes what a watcher asks for with a user; the latest message counts.
    pub(super) fn ask(&mut self, watcher: Watcher, slot: u32, with: With) {
        if with.is_nothing() {
            return self.ask_no_more(watcher, slot);
        }
        let Some(watched) = self.slots[slot as usize].as_mut() else { return };
        let new = watched.asked.is_none();
        watched.asked.get_or_insert_default().watchers.insert(watcher, with);
        if new {
            self.effects.push_back(WatchEffect::WatchDetails(watched.user.clone()));
            self.read_details(slot);
        }
    }

    /// A watcher does not ask for anything of this user any more.
    pub(super) fn ask_no_more(&mut self, watcher: Watcher, slot: u32) {
        let Some(watched) = self.slots[slot as usize].as_mut() else { return };
        let Some(asked) = &mut watched.asked else { return };
        if asked.watchers.remove(&watcher).is_none() || !asked.watchers.is_empty() {
            return;
        }
        if let Some(until) = expiry(asked.details.as_deref()) {
            self.expiries.remove(&(until, slot));
        }
        watched.asked = None;
        self.effects.push_back(WatchEffect::UnwatchDetails(watched.user.clone()));
    }

    /// Reads, or reads again once the reading that is under way is answered.
    pub(super) fn read_details(&mut self, slot: u32) {
        let Some(watched) = self.slots[slot as usize].as_mut() else { return };
        let Some(asked) = &mut watched.asked else { return };
        if std::mem::replace(&mut asked.reading, true) {
            asked.again = true;
        } else {
            self.effects.push_back(WatchEffect::ReadDetails(watched.user.clone()));
        }
    }

    fn asked_mut(&mut self, slot: u32) -> Option<&mut Asked> {
        self.slots[slot as usize].as_mut()?.asked.as_deref_mut()
    }

    /// Tells those for whom something is different.
    fn take_details(&mut self, slot: u32, details: Details) {
        let Some(watched) = self.slots[slot as usize].as_mut() else { return };
        let Some(asked) = &mut watched.asked else { return };
        let before = asked.details.replace(Arc::new(details));
        let (Some(details), first) = (asked.details.clone(), before.is_none()) else { return };
        let was = expiry(before.as_deref());
        if was != expiry(Some(&details)) {
            self.expiries.extend(expiry(Some(&details)).map(|until| (until, slot)));
            if let Some(was) = was {
                self.expiries.remove(&(was, slot));
            }
        }
        let Some((status, since, revision)) = watched.known else { return };
        // Of who is offline no session is shown.
        let message = before.as_ref().is_none_or(|before| before.message != details.message);
        let sessions = before.as_ref().is_none_or(|before| before.sessions != details.sessions);
        let sessions = first || sessions && status != Status::Offline;
        let concerns = |with: &With| with.message && message || with.metadata && sessions;
        let concerned: Vec<(Watcher, With)> =
            asked.watchers.iter().filter(|(_, with)| concerns(with)).map(|(of, with)| (*of, *with)).collect();
        let user = watched.user.clone();
        for (watcher, with) in &concerned {
            let shown = Some(Shown { with: *with, details: details.clone() });
            let user = user.clone();
            self.effects.push_back(WatchEffect::Tell {
                watcher: *watcher,
                user,
                status,
                since,
                revision,
                shown,
            });
        }
        if first {
            self.settle(slot, concerned.into_iter().map(|(watcher, _)| watcher).collect());
        }
    }
}

fn expiry(details: Option<&Details>) -> Option<Timestamp> {
    details?.message.as_ref().map(|message| message.until)
}

#[cfg(test)]
mod tests;
