//! The owner's view of one partition: documents in, status records and transitions out.
//!
//! ```text
//!  documents ──handle_document──▶ users ──decide──▶ decisions ──poll_write──▶ store (fenced by the claim)
//!                                   ▲ grace timers       │
//!                                                        └──handle_written──▶ poll_transition
//! ```
//!
//! Rules (DESIGN sections 2 and 4): a transition is told only after its record is acknowledged; at most one write of
//! the partition is in flight; `offline` is held back for the grace, or until a drained user's time is up; a record
//! of an older boot generation counts as unknown, which differs from every status.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::documents::{Reason, SessionDocument, StatusRecord};
use crate::events::{Status, Transition};
use crate::ids::{InstanceId, PartitionId, Sequence, UserId};
use crate::time::{Now, Tick, Timestamp};
use crate::timers::Timers;
use crate::users::{InstanceSlot, Instances, Presence, Slot, Users};

/// So many decisions go into one write.
pub const MAX_BATCH: usize = 256;

/// Beyond so many waiting decisions a user's newer decision replaces the one that waits: the queue is bounded by
/// this number plus the number of users.
const EAGER_DECISIONS: usize = 1024;

/// What a tracker needs to know.
#[derive(Clone, Copy, Debug)]
pub struct TrackerConfig {
    /// How long `offline` is held back; zero: not at all.
    pub offline_grace: Duration,
    /// How long an offline user's record is kept.
    pub offline_retention: Duration,
    /// How many records this partition keeps at most, as far as they may be forgotten.
    pub max_users: usize,
    /// The boot generation.
    pub generation: u64,
    /// For the hash table.
    pub seed: u64,
}

/// Records to be written under the partition's claim, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusBatch {
    /// Whose claim fences them.
    pub partition: PartitionId,
    /// The fencing token.
    pub claim: Sequence,
    /// In order of decision; a user may be in it more than once.
    pub records: Vec<(UserId, StatusRecord)>,
}

/// What the owner knows of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The last decision; perhaps not acknowledged yet.
    pub record: StatusRecord,
    /// Live sessions, drained ones left out.
    pub sessions: u32,
}

#[derive(Clone, Debug)]
struct Decision {
    slot: Slot,
    previous: Option<Status>,
    record: StatusRecord,
    /// The store lost what it had acknowledged: the record is written again, and nobody is told again.
    repeat: bool,
}

/// One partition.
pub struct Tracker {
    partition: PartitionId,
    claim: Sequence,
    config: TrackerConfig,
    users: Users,
    instances: Instances,
    /// Until when drained users count as present, by the instance that says so. Few, and not for long.
    drained: BTreeMap<(Slot, InstanceSlot), Timestamp>,
    /// Places that a new snapshot has not named yet.
    unconfirmed: BTreeSet<(Slot, InstanceSlot)>,
    /// Users whose record a new snapshot has not named yet.
    unrecorded: BTreeSet<Slot>,
    /// Documents of instances that may be gone, which say no more than that their user was drained.
    leftovers: VecDeque<(UserId, InstanceId)>,
    /// When drained users are next looked at.
    drained_due: Tick,
    /// When offline is decided. An entry that is not the user's `offline_due` is stale.
    due: Timers<Slot>,
    /// How many users have an `offline_due`.
    waiting: usize,
    /// Offline users, the longest offline first.
    offline: BTreeSet<(Timestamp, Slot)>,
    decisions: VecDeque<Decision>,
    /// The position of the first of them, counted since the start; positions begin at 1.
    head: u64,
    in_flight: Vec<Decision>,
    transitions: VecDeque<Transition>,
    counts: [u64; 3],
    /// Live sessions: online, idle.
    sessions: [u64; 2],
    decided: [u64; 3],
    coalesced: u64,
    leaving: bool,
    surrendered: bool,
}

impl Tracker {
    /// A partition that was just claimed: `claim` is the sequence of the own claim. Feed the snapshot next, with
    /// [`Tracker::handle_record`] and [`Tracker::handle_document`], then call [`Tracker::handle_loaded`].
    pub fn new(partition: PartitionId, claim: Sequence, config: TrackerConfig) -> Tracker {
        Tracker {
            partition,
            claim,
            config,
            users: Users::new(config.seed),
            instances: Instances::default(),
            drained: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            unrecorded: BTreeSet::new(),
            leftovers: VecDeque::new(),
            drained_due: Tick(0),
            due: Timers::new(),
            waiting: 0,
            offline: BTreeSet::new(),
            decisions: VecDeque::new(),
            head: 1,
            in_flight: Vec::new(),
            transitions: VecDeque::new(),
            counts: [0; 3],
            sessions: [0; 2],
            decided: [0; 3],
            coalesced: 0,
            leaving: false,
            surrendered: false,
        }
    }

    /// The fencing token.
    pub fn claim(&self) -> Sequence {
        self.claim
    }

    /// The own claim was written once more: writes are fenced by this sequence from now on.
    pub fn handle_adopted(&mut self, claim: Sequence) {
        self.claim = self.claim.max(claim);
    }

    /// The store was recreated and the partition claimed again, with this sequence: a snapshot follows, fed like the first
    /// one, and every record that it lacks is written again. Nothing is to be written before it: another owner may have
    /// decided meanwhile.
    pub fn handle_restore(&mut self, claim: Sequence) {
        self.claim = claim;
        self.surrendered = false;
        // What was on its way went to the old store.
        self.handle_written(&[]);
        self.expect_records();
    }

    /// Records that the next snapshot lacks are written again.
    fn expect_records(&mut self) {
        for slot in self.users.slots() {
            if self.users.get(slot).is_some_and(|user| user.decided().is_some() && user.undecided == 0) {
                self.unrecorded.insert(slot);
            }
        }
    }

    /// The partition is being handed over: nothing more is decided or written.
    pub fn handle_surrender(&mut self) {
        self.surrendered = true;
    }

    /// True while a write is in flight.
    pub fn is_writing(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// A record of the snapshot, as an earlier owner left it. True if it is newer than what is known here.
    pub fn handle_record(&mut self, user: &UserId, record: &StatusRecord) -> bool {
        let slot = self.users.find_or_insert(user);
        let generation = self.config.generation;
        let Some(entry) = self.users.get_mut(slot) else { return false };
        if entry.revision() >= record.revision {
            if entry.revision() == record.revision {
                self.unrecorded.remove(&slot);
            }
            return false;
        }
        if let Some(old) = entry.decided() {
            self.counts[old as usize] -= 1;
            self.offline.remove(&(entry.since(), slot));
        }
        entry.take(record, generation);
        let waiting = entry.undecided > 0;
        self.unrecorded.remove(&slot);
        if waiting {
            // Decided here without knowing of that: it is written no more, and nobody hears of it after what is newer.
            for decision in self.decisions.iter_mut().filter(|decision| decision.slot == slot) {
                (decision.record, decision.repeat) = (*record, true);
            }
        }
        self.counts[record.status as usize] += 1;
        if record.status == Status::Offline {
            self.offline.insert((record.since, slot));
        }
        true
    }

    /// Updates were missed: a new snapshot follows, fed like the first one. What was decided stays; documents that the
    /// snapshot does not name are gone.
    pub fn handle_reload(&mut self) {
        for slot in self.users.slots() {
            let Some(user) = self.users.get(slot) else { continue };
            self.unconfirmed.extend(user.places.as_slice().iter().map(|place| (slot, place.instance)));
        }
        self.expect_records();
    }

    /// The snapshot is complete: users whose record doesn't fit the documents are decided, and those without a
    /// document get a full grace (nobody can know how much of it an earlier owner had given them).
    pub fn handle_loaded(&mut self, now: Now) {
        for (slot, instance) in std::mem::take(&mut self.unconfirmed) {
            self.leave(slot, instance);
        }
        for slot in std::mem::take(&mut self.unrecorded) {
            self.repair(slot);
        }
        let slots: Vec<Slot> = self.users.slots().collect();
        for slot in slots {
            self.decide(now, slot);
        }
    }

    /// A document of the partition changed, or is gone.
    pub fn handle_document(
        &mut self,
        now: Now,
        user: &UserId,
        instance: InstanceId,
        document: Option<&SessionDocument>,
    ) {
        let slot = match document {
            Some(_) => self.users.find_or_insert(user),
            None => match self.users.find(user) {
                Some(slot) => slot,
                None => return,
            },
        };
        let (mut online, mut idle) = (0, 0);
        if let (Some(document), Some(entry)) = (document, self.users.get_mut(slot)) {
            for session in &document.sessions {
                match (&session.ended, session.status) {
                    (Some(ended), _) if ended.at >= entry.last_end => {
                        (entry.last_end, entry.end_reason) = (ended.at, Reason::of_end(&ended.reason));
                    }
                    (Some(_), _) => {}
                    (None, Status::Online) => online += 1,
                    (None, _) => idle += 1,
                }
            }
        }
        let drained_until = document.and_then(|document| document.drained_until);
        self.place(slot, instance, (online, idle), drained_until);
        self.decide(now, slot);
        self.drop_unheard_of(slot);
    }

    /// Notes what an instance says of a user: live sessions, and until when a drained one counts.
    fn place(
        &mut self,
        slot: Slot,
        id: InstanceId,
        (online, idle): (u32, u32),
        drained_until: Option<Timestamp>,
    ) {
        let known = self.instances.find(id);
        let Some(user) = self.users.get_mut(slot) else { return };
        let known = known.filter(|instance| user.places.is_at(*instance));
        if online + idle == 0 && drained_until.is_none() {
            if let Some(instance) = known {
                self.leave(slot, instance);
            }
            return;
        }
        let instance = known.unwrap_or_else(|| self.instances.enter(id));
        self.unconfirmed.remove(&(slot, instance));
        let before = user.places.sessions_at(instance);
        user.places.put(Presence { instance, online, idle });
        for (at, count) in [online, idle].into_iter().enumerate() {
            self.sessions[at] = self.sessions[at] + u64::from(count) - before[at];
        }
        match drained_until {
            Some(until) => {
                self.drained.insert((slot, instance), until);
            }
            None if self.drained.is_empty() => {}
            None => {
                self.drained.remove(&(slot, instance));
            }
        }
    }

    /// All documents of an instance stopped counting: it was declared dead. Grace counts from `last_renewal`.
    pub fn handle_instance_lost(&mut self, now: Now, instance: InstanceId, last_renewal: Tick) {
        let Some(lost) = self.instances.find(instance) else { return };
        let slots: Vec<Slot> = self.users.slots().collect();
        for slot in slots {
            let Some(entry) = self.users.get_mut(slot).filter(|entry| entry.places.is_at(lost)) else {
                continue;
            };
            entry.last_end = entry.last_end.max(now.wall);
            entry.end_reason = Reason::InstanceLost;
            self.place(slot, instance, (0, 0), None);
            self.decide_from(now, slot, last_renewal);
        }
    }

    /// This host leaves and there is no other to come: nothing is held back any more, who has no session is
    /// offline now.
    pub fn handle_last_leave(&mut self, now: Now) {
        self.leaving = true;
        let slots: Vec<Slot> = self.users.slots().collect();
        for slot in slots {
            self.decide(now, slot);
        }
    }

    /// Timers: call at or after [`Tracker::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        if self.surrendered {
            return;
        }
        self.end_drained(now);
        while let Some((tick, slot)) = self.due.pop_due(now.tick) {
            if self.users.get(slot).is_some_and(|user| user.offline_due == Some(tick)) {
                self.wait_until(slot, None);
                self.decide_now(now, slot);
            }
        }
    }

    /// When [`Tracker::handle_timeout`] may have something to do.
    pub fn poll_timeout(&self) -> Option<Tick> {
        if self.surrendered { None } else { self.due.next() }
    }

    /// The next document that may be of an instance that has left and says no more than that its user was drained, the
    /// time for which is over.
    pub fn poll_leftover(&mut self) -> Option<(UserId, InstanceId)> {
        self.leftovers.pop_front()
    }

    /// The next write; none while one is in flight. Answer with [`Tracker::handle_written`].
    pub fn poll_write(&mut self) -> Option<StatusBatch> {
        if !self.in_flight.is_empty() || self.decisions.is_empty() || self.surrendered {
            return None;
        }
        let count = self.decisions.len().min(MAX_BATCH);
        self.in_flight.extend(self.decisions.drain(..count));
        self.head += count as u64;
        let records = self.in_flight.iter().filter_map(|decision| {
            self.users.get(decision.slot).map(|user| (user.id.clone(), decision.record))
        });
        Some(StatusBatch { partition: self.partition, claim: self.claim, records: records.collect() })
    }

    /// The write in flight is in the store as far as `sequences` reach, in order; the rest of it was certainly not
    /// written and is asked for again by [`Tracker::poll_write`].
    pub fn handle_written(&mut self, sequences: &[Sequence]) {
        let mut rest = self.in_flight.split_off(sequences.len().min(self.in_flight.len()));
        for (decision, sequence) in self.in_flight.drain(..).zip(sequences) {
            let Some(user) = self.users.get_mut(decision.slot) else { continue };
            user.undecided = user.undecided.saturating_sub(1);
            let record = decision.record;
            if decision.repeat {
                continue;
            }
            self.decided[record.status as usize] += 1;
            self.transitions.push_back(Transition {
                user: user.id.clone(),
                previous: decision.previous,
                current: record.status,
                since: record.since,
                revision: record.revision,
                sessions: record.sessions,
                last_seen: record.last_seen,
                partition: self.partition,
                sequence: *sequence,
            });
        }
        while let Some(decision) = rest.pop() {
            self.decisions.push_front(decision);
            self.head -= 1;
        }
    }

    /// The next transition whose record is acknowledged.
    pub fn poll_transition(&mut self) -> Option<Transition> {
        self.transitions.pop_front()
    }

    /// The next user to be forgotten: offline for longer than the retention, or one too many, the longest offline
    /// first. `settled` tells whether every plugin has heard the user's last status. The user's record is to be
    /// deleted from the store, under the claim.
    pub fn poll_forgotten(&mut self, now: Now, settled: impl Fn(&UserId) -> bool) -> Option<UserId> {
        let total: u64 = self.counts.iter().sum();
        let crowded = total > self.config.max_users as u64;
        // Someone whose last status is still being delivered is passed over, a few at a time.
        for (since, slot) in self.offline.iter().take(64).copied().collect::<Vec<_>>() {
            if !crowded && since + self.config.offline_retention > now.wall {
                return None;
            }
            let Some(user) = self.users.get(slot) else { continue };
            if user.undecided > 0 || !user.places.as_slice().is_empty() || !settled(&user.id) {
                continue;
            }
            self.offline.remove(&(since, slot));
            self.wait_until(slot, None);
            self.counts[Status::Offline as usize] -= 1;
            return self.users.remove(slot).map(|user| user.id);
        }
        None
    }

    /// What is known of a user; none for an unknown one.
    pub fn known(&self, user: &UserId) -> Option<Known> {
        let entry = self.users.get(self.users.find(user)?)?;
        let record = entry.record(self.config.generation)?;
        Some(Known { record, sessions: live(entry.places.as_slice()) })
    }

    /// Users by decided status: online, idle, offline.
    pub fn counts(&self) -> [u64; 3] {
        self.counts
    }

    /// Live sessions of the partition's users, drained ones left out: online, idle.
    pub fn sessions(&self) -> [u64; 2] {
        self.sessions
    }

    /// Transitions acknowledged so far, by new status: online, idle, offline.
    pub fn decided(&self) -> [u64; 3] {
        self.decided
    }

    /// Decisions that gave way to a newer one of the same user before they were written.
    pub fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// True when every decision is in the store and every transition was taken.
    pub fn is_settled(&self) -> bool {
        self.decisions.is_empty() && self.in_flight.is_empty() && self.transitions.is_empty()
    }

    /// Drops a user of whom nothing was ever decided and nothing is known.
    fn drop_unheard_of(&mut self, slot: Slot) {
        let unheard_of =
            |user: &crate::users::User| user.decided().is_none() && user.places.as_slice().is_empty();
        if self.users.get(slot).is_some_and(unheard_of) {
            self.users.remove(slot);
        }
    }

    /// Decides, with a grace that starts now where one is due.
    fn decide(&mut self, now: Now, slot: Slot) {
        self.decide_from(now, slot, now.tick);
    }

    /// Decides, with a grace that starts at `grace_from` where one is due and none is running.
    fn decide_from(&mut self, now: Now, slot: Slot, grace_from: Tick) {
        let Some(user) = self.users.get(slot) else { return };
        let (present, running) = (live(user.places.as_slice()) > 0, user.offline_due);
        if !present && user.decided().is_none_or(|status| status == Status::Offline) {
            // Nobody was told otherwise: an unknown offline user stays so without a hook.
            return;
        }
        if present || self.leaving {
            self.wait_until(slot, None);
            return self.decide_now(now, slot);
        }
        let holds =
            user.places.as_slice().iter().filter_map(|place| self.drained.get(&(slot, place.instance)));
        let due = match (holds.max(), running) {
            // A drained user counts as present until then, on the clock of the document.
            (Some(until), _) => now.tick + Duration::from_millis(until.millis_since(now.wall)),
            (None, Some(running)) => running,
            (None, None) => grace_from + self.config.offline_grace,
        };
        if due <= now.tick {
            self.wait_until(slot, None);
            return self.decide_now(now, slot);
        }
        self.wait_until(slot, Some(due));
    }

    /// A user is present on this instance no more.
    fn leave(&mut self, slot: Slot, instance: InstanceSlot) {
        if let Some(user) = self.users.get_mut(slot).filter(|user| user.places.is_at(instance)) {
            let gone = user.places.sessions_at(instance);
            user.places.remove(instance);
            self.sessions.iter_mut().zip(gone).for_each(|(sessions, gone)| *sessions -= gone);
            self.drained.remove(&(slot, instance));
            self.unconfirmed.remove(&(slot, instance));
            self.instances.leave(instance);
        }
    }

    /// Sets or forgets when offline is decided.
    fn wait_until(&mut self, slot: Slot, due: Option<Tick>) {
        let Some(user) = self.users.get_mut(slot) else { return };
        if user.offline_due == due {
            return;
        }
        self.waiting -= usize::from(user.offline_due.is_some());
        self.waiting += usize::from(due.is_some());
        user.offline_due = due;
        if let Some(due) = due {
            self.due.set(due, slot);
        }
        if self.due.len() > 2 * self.waiting + 64 {
            let users = &self.users;
            let is_set =
                |tick, slot: &Slot| users.get(*slot).is_some_and(|user| user.offline_due == Some(tick));
            self.due.retain(is_set);
        }
    }

    /// Decides what the documents say, without grace.
    fn decide_now(&mut self, now: Now, slot: Slot) {
        let Some(user) = self.users.get_mut(slot) else { return };
        let places = user.places.as_slice();
        let sessions = live(places);
        let status = if places.iter().any(|presence| presence.online > 0) {
            Status::Online
        } else if sessions > 0 {
            Status::Idle
        } else {
            Status::Offline
        };
        let before = std::mem::replace(&mut user.sessions, sessions);
        let previous = user.known_status();
        if previous == Some(status) {
            return;
        }
        let reason = reason_of(status, sessions > before, sessions < before, user.end_reason);
        let old = user.decided();
        if let Some(old) = old {
            self.counts[old as usize] -= 1;
            if old == Status::Offline {
                self.offline.remove(&(user.since(), slot));
            }
        }
        let last_end = if user.last_end == Timestamp(0) { now.wall } else { user.last_end };
        let record = StatusRecord {
            status,
            since: now.wall,
            revision: now.wall.0.max(user.revision() + 1),
            last_seen: (status == Status::Offline).then_some(last_end),
            sessions,
            generation: self.config.generation,
            previous,
            trail: user.next_trail(reason),
        };
        user.take(&record, self.config.generation);
        self.counts[status as usize] += 1;
        if status == Status::Offline {
            self.offline.insert((record.since, slot));
        }
        self.enqueue(Decision { slot, previous, record, repeat: false });
    }

    /// Writes the last decision again, unless a write of the user is on its way anyway.
    fn repair(&mut self, slot: Slot) {
        let generation = self.config.generation;
        let Some(user) = self.users.get(slot).filter(|user| user.undecided == 0) else { return };
        let Some(record) = user.last_record(generation) else { return };
        let previous = record.previous;
        self.enqueue(Decision { slot, previous, record, repeat: true });
    }

    /// Drained users whose time is over: what their documents say is over too.
    fn end_drained(&mut self, now: Now) {
        if self.drained.is_empty() || self.drained_due > now.tick {
            return;
        }
        self.drained_due = now.tick + Duration::from_secs(1);
        let over = self.drained.iter().filter(|(_, until)| **until <= now.wall);
        for (slot, instance) in over.map(|(place, _)| *place).collect::<Vec<_>>() {
            let Some(user) = self.users.get(slot) else { continue };
            let live = user
                .places
                .as_slice()
                .iter()
                .any(|place| place.instance == instance && place.online + place.idle > 0);
            if !live {
                self.leftovers.push_back((user.id.clone(), self.instances.id(instance)));
                self.leave(slot, instance);
                self.decide(now, slot);
            } else {
                self.drained.remove(&(slot, instance));
            }
        }
    }

    fn enqueue(&mut self, decision: Decision) {
        let Some(user) = self.users.get_mut(decision.slot) else { return };
        if self.decisions.len() >= EAGER_DECISIONS && user.queued_at >= self.head {
            let waiting = &mut self.decisions[(user.queued_at - self.head) as usize];
            if waiting.repeat && !decision.repeat {
                waiting.repeat = false;
                waiting.previous = decision.previous;
            }
            waiting.record = decision.record;
            self.coalesced += 1;
            return;
        }
        user.undecided = user.undecided.saturating_add(1);
        user.queued_at = self.head + self.decisions.len() as u64;
        self.decisions.push_back(decision);
    }
}

/// Why a status changes to this one, when there are more or fewer sessions than there were.
fn reason_of(status: Status, more: bool, fewer: bool, last_end: Reason) -> Reason {
    match status {
        Status::Offline => last_end,
        _ if more => Reason::Connected,
        _ if fewer => last_end,
        Status::Online => Reason::Active,
        Status::Idle => Reason::Idle,
    }
}

fn live(places: &[Presence]) -> u32 {
    places.iter().map(|presence| presence.online + presence.idle).sum()
}

mod anew;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod tests;
