//! The users of one partition as its owner sees them: a compact table. It stores, it decides nothing.

use crate::documents::{Moment, Past, Reason, StatusRecord, Trail};
use crate::events::Status;
use crate::ids::{InstanceId, UserId};
use crate::index::UserIndex;
use crate::time::{Tick, Timestamp};

/// What one instance's document says, as far as the status is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) instance: InstanceSlot,
    pub(crate) online: u32,
    pub(crate) idle: u32,
}

/// A number that stands for an instance while any user is present there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InstanceSlot(u32);

/// The instances that users are present on: few, so that each place needs four bytes instead of sixteen.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    /// With the number of places on each; a slot without any is reused.
    slots: Vec<(InstanceId, u64)>,
}

impl Instances {
    pub(crate) fn find(&self, id: InstanceId) -> Option<InstanceSlot> {
        let at = self.slots.iter().position(|(other, places)| *other == id && *places > 0)?;
        Some(InstanceSlot(at as u32))
    }

    pub(crate) fn id(&self, slot: InstanceSlot) -> InstanceId {
        self.slots[slot.0 as usize].0
    }

    /// One more place on it.
    pub(crate) fn enter(&mut self, id: InstanceId) -> InstanceSlot {
        let slot = self.find(id).unwrap_or_else(|| {
            let at = self.slots.iter().position(|(_, places)| *places == 0).unwrap_or_else(|| {
                self.slots.push((id, 0));
                self.slots.len() - 1
            });
            self.slots[at] = (id, 0);
            InstanceSlot(at as u32)
        });
        self.slots[slot.0 as usize].1 += 1;
        slot
    }

    /// One place less on it.
    pub(crate) fn leave(&mut self, slot: InstanceSlot) {
        self.slots[slot.0 as usize].1 -= 1;
    }
}

/// Where a user is present. Almost always in one place, which then costs no allocation.
#[derive(Clone, Debug, Default)]
pub(crate) enum Places {
    #[default]
    None,
    One(Presence),
    #[expect(clippy::box_collection, reason = "a vector would make every user a word larger")]
    Many(Box<Vec<Presence>>),
}

impl Places {
    pub(crate) fn as_slice(&self) -> &[Presence] {
        match self {
            Places::None => &[],
            Places::One(presence) => std::slice::from_ref(presence),
            Places::Many(presences) => presences,
        }
    }

    /// How many sessions there are on an instance: online, idle.
    pub(crate) fn sessions_at(&self, instance: InstanceSlot) -> [u64; 2] {
        let at = self.as_slice().iter().find(|presence| presence.instance == instance);
        at.map_or([0; 2], |presence| [presence.online, presence.idle].map(u64::from))
    }

    pub(crate) fn is_at(&self, instance: InstanceSlot) -> bool {
        self.as_slice().iter().any(|presence| presence.instance == instance)
    }

    /// Replaces what an instance says.
    pub(crate) fn put(&mut self, presence: Presence) {
        match self {
            Places::None => *self = Places::One(presence),
            Places::One(old) if old.instance == presence.instance => *old = presence,
            Places::One(old) => *self = Places::Many(Box::new(vec![*old, presence])),
            Places::Many(all) => match all.iter_mut().find(|old| old.instance == presence.instance) {
                Some(old) => *old = presence,
                None => all.push(presence),
            },
        }
    }

    /// Removes what an instance said.
    pub(crate) fn remove(&mut self, instance: InstanceSlot) {
        match self {
            Places::One(old) if old.instance == instance => *self = Places::None,
            Places::Many(all) => {
                all.retain(|old| old.instance != instance);
                if let [one] = all.as_slice() {
                    *self = Places::One(*one);
                }
            }
            _ => {}
        }
    }
}

/// One user.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) places: Places,
    /// When offline is decided if no session comes; only while there is no session and offline is not decided.
    pub(crate) offline_due: Option<Tick>,
    /// The last end of a session that documents told of.
    pub(crate) last_end: Timestamp,
    /// How that session ended.
    pub(crate) end_reason: Reason,
    since: Timestamp,
    /// 0: nothing was ever decided.
    revision: u64,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) sessions: u32,
    status: Status,
    previous: Option<Status>,
    /// False: decided before the last fresh start, so that nobody can count on it.
    pub(crate) known: bool,
    /// How many decisions wait for the store or are on their way.
    pub(crate) undecided: u16,
    /// Where the newest of them stands in the queue; meaningless once that place is behind its head.
    pub(crate) queued_at: u64,
    reason: Reason,
    /// Most users have none for long.
    past: Option<Box<Past>>,
}

impl User {
    fn new(id: UserId) -> User {
        User {
            id,
            places: Places::None,
            offline_due: None,
            last_end: Timestamp(0),
            end_reason: Reason::Ended,
            since: Timestamp(0),
            revision: 0,
            last_seen: None,
            sessions: 0,
            status: Status::Offline,
            previous: None,
            known: false,
            undecided: 0,
            queued_at: 0,
            reason: Reason::Unknown,
            past: None,
        }
    }

    /// The last decision, whatever generation it is from; none if there was none.
    pub(crate) fn decided(&self) -> Option<Status> {
        (self.revision > 0).then_some(self.status)
    }

    /// The status that others were told of in this generation.
    pub(crate) fn known_status(&self) -> Option<Status> {
        self.decided().filter(|_| self.known)
    }

    pub(crate) fn since(&self) -> Timestamp {
        self.since
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn take(&mut self, record: &StatusRecord, generation: u64) {
        self.status = record.status;
        self.since = record.since;
        self.revision = record.revision;
        self.last_seen = record.last_seen;
        self.previous = record.previous;
        self.sessions = record.sessions;
        self.known = record.generation >= generation;
        self.reason = record.trail.reason;
        match &mut self.past {
            Some(past) => **past = record.trail.past,
            None if record.trail.past.is_empty() => {}
            None => self.past = Some(Box::new(record.trail.past)),
        }
    }

    /// Why the last decision was made, and what was before it.
    pub(crate) fn trail(&self) -> Trail {
        Trail { reason: self.reason, past: self.past.as_deref().copied().unwrap_or_default() }
    }

    /// What the next decision leaves behind, if it is made for this reason.
    pub(crate) fn next_trail(&self, reason: Reason) -> Trail {
        let past = self.trail().past;
        let Some(status) = self.decided() else { return Trail { reason, past } };
        let moment = Moment { status, since: self.since, revision: Some(self.revision), reason: self.reason };
        Trail { reason, past: past.and(moment) }
    }

    /// The last record, with the generation that it was decided in as far as that is known.
    pub(crate) fn last_record(&self, generation: u64) -> Option<StatusRecord> {
        let generation = if self.known { generation } else { generation.saturating_sub(1) };
        self.record(generation)
    }

    pub(crate) fn record(&self, generation: u64) -> Option<StatusRecord> {
        (self.revision > 0).then_some(StatusRecord {
            status: self.status,
            since: self.since,
            revision: self.revision,
            last_seen: self.last_seen,
            sessions: self.sessions,
            generation,
            previous: self.previous,
            trail: self.trail(),
        })
    }
}

/// A user's place in the table; reused after the user is forgotten.
pub(crate) type Slot = u32;

/// All users of a partition.
pub(crate) struct Users {
    index: UserIndex,
    slots: Vec<Option<User>>,
    free: Vec<Slot>,
}

impl Users {
    pub(crate) fn new(seed: u64) -> Users {
        Users { index: UserIndex::new(seed), slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn find(&self, id: &UserId) -> Option<Slot> {
        self.index.find(id, |slot| self.slots[slot as usize].as_ref().is_some_and(|user| user.id == *id))
    }

    pub(crate) fn find_or_insert(&mut self, id: &UserId) -> Slot {
        if let Some(slot) = self.find(id) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as Slot
        });
        self.slots[slot as usize] = Some(User::new(id.clone()));
        self.index.insert(id, slot);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<User> {
        let user = self.slots[slot as usize].take()?;
        self.index.remove(&user.id, slot);
        self.free.push(slot);
        Some(user)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&User> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut User> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Every slot in use, in a fixed order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter().enumerate().filter(|(_, user)| user.is_some()).map(|(slot, _)| slot as Slot)
    }
}
