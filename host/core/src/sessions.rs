//! The sessions that this host's gateway holds, and the documents that tell the deployment of them.
//!
//! ```text
//!  open, frames, set_status, close ──handle_*──▶ table ──poll_document──▶ store (one in flight per user)
//!                          ▲ timers                │              │
//!                                                  │       handle_document_acked
//!                                                  ▼              ▼
//!                                             poll_effect: Ping, End, Hook(connected, disconnected)
//! ```
//!
//! Rules (DESIGN section 2): `session-connected` is issued after the document that lists the session is acknowledged,
//! `session-disconnected` after it; an ended session stays in the document until its hook is settled. Explicit idle
//! ends by `set_status` alone, automatic idle by activity. It must not know sockets, stores or plugins.
//!
//! Memory: 88 bytes a session and 16 for its timer, 24 a user with sessions here and up to 11 in the index, besides
//! the user id, which is shared. With 24-byte ids and one session a user that is less than 190 bytes all told. No
//! document is kept once it was taken for writing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::documents::{Ended, SessionDocument, SessionEntry};
use crate::events::{Attributes, Label, Session, SessionChange, SessionEvent, Status, labels};
use crate::ids::{InstanceId, SessionId, UserId};
use crate::time::{Now, Tick, Timestamp};
use crate::timers::Timers;

mod words;
pub use words::{DocumentWrite, SessionEffect, SessionKey, SessionView, SessionsConfig};

mod table;
use table::{Mode, Place, Record, Stage, Table};

/// Stale timers are dropped when there are more entries than `TIMERS_PER_SESSION` times the live sessions, and so
/// many more.
const TIMERS_PER_SESSION: usize = 3;
const SPARE_TIMERS: usize = 64;

/// The sessions of one host.
pub struct LocalSessions {
    config: SessionsConfig,
    instance: InstanceId,
    table: Table,
    timers: Timers<Place>,
    /// Ended sessions whose hook is not settled.
    ended: BTreeMap<u128, Place>,
    /// Users whose document is to be written; each at most once.
    dirty: VecDeque<u32>,
    in_flight: usize,
    /// Whose documents were taken, in order: most stores answer in that order, and then nobody is looked up. Entries that
    /// were answered out of order are stale.
    taken: VecDeque<u32>,
    /// Users whose document was not acknowledged since the store was recreated.
    unlisted: BTreeSet<u32>,
    effects: VecDeque<SessionEffect>,
    /// Room for the sessions that one acknowledgement announces; empty between calls.
    announced: Vec<Place>,
    drained_until: Option<Timestamp>,
    online: u64,
    idle: u64,
}

impl LocalSessions {
    /// No sessions yet.
    pub fn new(config: SessionsConfig, instance: InstanceId) -> LocalSessions {
        LocalSessions {
            table: Table::new(config.seed),
            config,
            instance,
            timers: Timers::new(),
            ended: BTreeMap::new(),
            dirty: VecDeque::new(),
            in_flight: 0,
            taken: VecDeque::new(),
            unlisted: BTreeSet::new(),
            effects: VecDeque::new(),
            announced: Vec::new(),
            drained_until: None,
            online: 0,
            idle: 0,
        }
    }

    /// The instance that the sessions belong to.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// A client was authenticated. The session starts online. An id that is not [`SessionId::Hosted`] is a bug of
    /// the caller; its text is not kept.
    pub fn handle_open(
        &mut self,
        now: Now,
        id: SessionId,
        user: UserId,
        attributes: Attributes,
        expires_at: Option<Timestamp>,
    ) -> SessionKey {
        debug_assert!(matches!(id, SessionId::Hosted(_)));
        let id = if let SessionId::Hosted(id) = id { id } else { 0 };
        let place = self.table.insert(user, Record::new(now, id, attributes, expires_at));
        self.online += 1;
        self.arm(now, place);
        self.touch(place);
        place.key()
    }

    /// Any frame came from the client.
    pub fn handle_frame(&mut self, now: Now, key: SessionKey) {
        let place = Place::of(key);
        let Some(record) = self.table.live(place) else {
            return;
        };
        record.frame = now.tick;
        if std::mem::take(&mut record.pinged) {
            // The timer stands at the end of the timeout; the next Ping may be due before that.
            self.arm(now, place);
        }
    }

    /// A message other than `ping` came: somebody is there. Ends automatic idle.
    pub fn handle_activity(&mut self, now: Now, key: SessionKey) {
        self.handle_frame(now, key);
        let place = Place::of(key);
        let Some(record) = self.table.live(place) else {
            return;
        };
        record.activity = now.tick;
        if record.mode == Mode::AutomaticIdle {
            self.set(now, place, Mode::Online);
        }
    }

    /// The client's own word; [`Status::Offline`] is not one of them and ignored.
    pub fn handle_set_status(&mut self, now: Now, key: SessionKey, status: Status) {
        let mode = match status {
            Status::Online => Mode::Online,
            Status::Idle => Mode::Idle,
            Status::Offline => return debug_assert!(false, "a client can't set itself offline"),
        };
        self.handle_frame(now, key);
        let place = Place::of(key);
        let Some(record) = self.table.live(place) else {
            return;
        };
        record.activity = now.tick;
        self.set(now, place, mode);
    }

    /// The client says other things of the session: its attributes with its metadata.
    pub fn handle_attributes(&mut self, key: SessionKey, attributes: Attributes) {
        let place = Place::of(key);
        let Some(record) = self.table.live(place) else {
            return;
        };
        if record.attributes != attributes {
            record.attributes = attributes;
            self.touch(place);
        }
    }

    /// The client has shown a fresh token: the session ends with that one, sooner or later than before.
    pub fn handle_renew(&mut self, now: Now, key: SessionKey, expires_at: Timestamp) {
        let place = Place::of(key);
        let Some(record) = self.table.live(place) else {
            return;
        };
        record.set_expires_at(Some(expires_at));
        self.arm(now, place);
    }

    /// The connection has ended. A session that is over already is left alone.
    pub fn handle_close(&mut self, now: Now, key: SessionKey, reason: Label) {
        self.end(now, Place::of(key), reason);
    }

    /// The host is going: every session ends with reason `draining`, and its user counts as present until
    /// `drained_until`; none: nobody is held (the last host leaves). May come again with another time, which then
    /// holds for the users drained before as well.
    pub fn handle_drain(&mut self, now: Now, drained_until: Option<Timestamp>) {
        if self.drained_until != drained_until {
            for slot in self.table.drained_users() {
                self.table.user_mut(slot).drained = drained_until.is_some();
                self.mark(slot);
            }
            self.drained_until = drained_until;
        }
        for place in self.table.live_places() {
            if let Some(record) = self.table.get(place) {
                let slot = record.user;
                self.table.user_mut(slot).drained = drained_until.is_some();
            }
            self.end_by_host(now, place, labels::DRAINING);
        }
    }

    /// The user's document that was in flight is in the store: the sessions it lists are announced, the oldest first.
    pub fn handle_document_acked(&mut self, _now: Now, user: &UserId) {
        let Some(slot) = self.answered(user) else { return };
        if !self.landed(slot) {
            return;
        }
        if !self.unlisted.is_empty() {
            self.unlisted.remove(&slot);
        }
        let mut announced = std::mem::take(&mut self.announced);
        self.table.for_sessions(slot, |place, record| {
            if record.stage == Stage::Listed {
                record.stage = Stage::Announced;
                announced.push(place);
            }
        });
        while let Some(place) = announced.pop() {
            self.issue(place, SessionChange::Connected);
            self.issue_disconnected(place);
        }
        self.announced = announced;
        self.table.remove_idle_user(slot);
    }

    /// The document in flight is certainly not in the store: the newest one is to be written.
    pub fn handle_document_failed(&mut self, _now: Now, user: &UserId) {
        let Some(slot) = self.answered(user) else { return };
        if self.landed(slot) {
            self.mark(slot);
        }
    }

    /// A write of the user's document was without an answer, and a copy of it may have taken effect since: the newest one
    /// is written again. False if there is nothing to be written: then there must be no document.
    pub fn handle_doubt(&mut self, user: &UserId) -> bool {
        let slot = self.table.find_user(user);
        if let Some(slot) = slot {
            self.mark(slot);
        }
        slot.is_some()
    }

    /// The store was recreated: every document is written again. What the old one acknowledges says nothing of this one, and
    /// must not come here any more; whose document was in flight is told, since a copy of it may yet take effect.
    pub fn handle_reassert(&mut self) -> Vec<UserId> {
        self.taken.clear();
        self.in_flight = 0;
        let mut in_flight = Vec::new();
        for slot in self.table.all_users() {
            let user = self.table.user_mut(slot);
            user.changed = false;
            if std::mem::take(&mut user.in_flight) {
                in_flight.push(user.id.clone());
            }
            self.unlisted.insert(slot);
            self.table.for_sessions(slot, |_, record| {
                if record.stage == Stage::Listed {
                    record.stage = Stage::New;
                }
            });
            self.mark(slot);
        }
        in_flight
    }

    /// False from [`LocalSessions::handle_reassert`] until every document of before is in the new store: a session that is
    /// told of meanwhile may be in none, and nobody would tell of its end if this host died.
    pub fn is_listed(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// This host was declared dead and comes back as another instance: every live session gets another id and is
    /// announced again, once the documents that list it are acknowledged; ended ones are named in the cleanup of the old
    /// instance. Answers to documents of the old instance must not come here any more. Tells whose sessions are new.
    pub fn handle_reborn(
        &mut self,
        instance: InstanceId,
        mut new_id: impl FnMut() -> SessionId,
    ) -> Vec<SessionKey> {
        self.instance = instance;
        self.effects.retain(|effect| !matches!(effect, SessionEffect::Hook(_)));
        for place in std::mem::take(&mut self.ended).into_values() {
            self.table.remove(place);
        }
        self.dirty.clear();
        self.taken.clear();
        self.unlisted.clear();
        self.in_flight = 0;
        self.drained_until = None;
        for slot in self.table.all_users() {
            let user = self.table.user_mut(slot);
            (user.dirty, user.in_flight, user.changed, user.drained) = (false, false, false, false);
            self.table.remove_idle_user(slot);
        }
        let live = self.table.live_places();
        for place in &live {
            let SessionId::Hosted(id) = new_id() else { continue };
            if let Some(record) = self.table.live(*place) {
                record.set_id(id);
                record.stage = Stage::New;
            }
            self.touch(*place);
        }
        live.into_iter().map(Place::key).collect()
    }

    /// The `session-disconnected` of a session is settled everywhere: the document may forget it.
    pub fn handle_settled(&mut self, session: &SessionId) {
        let SessionId::Hosted(id) = session else {
            return;
        };
        let Some(place) = self.ended.remove(id) else {
            return;
        };
        self.touch(place);
        self.table.remove(place);
    }

    /// Timers: call at or after [`LocalSessions::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((tick, place)) = self.timers.pop_due(now.tick) {
            if self.table.live(place).is_some_and(|record| record.armed == tick) {
                self.fire(now, place);
            }
        }
    }

    /// The next document to write; at most one a user is in flight, and it is the newest when it is taken.
    pub fn poll_document(&mut self) -> Option<DocumentWrite> {
        let slot = self.dirty.pop_front()?;
        let state = self.table.user_mut(slot);
        state.dirty = false;
        state.in_flight = true;
        self.in_flight += 1;
        if self.taken.len() > 2 * self.in_flight + 64 {
            // Answers come out of order: looking users up is what is left.
            self.taken.clear();
        }
        self.taken.push_back(slot);
        let (user, drained) = (state.id.clone(), state.drained);
        let mut count = 0;
        self.table.for_sessions(slot, |_, _| count += 1);
        let mut sessions = Vec::with_capacity(count);
        self.table.for_sessions(slot, |_, record| {
            if record.stage == Stage::New {
                record.stage = Stage::Listed;
            }
            sessions.push(SessionEntry {
                id: SessionId::Hosted(record.id()),
                status: record.status(),
                connected_at: record.connected_at,
                attributes: record.attributes.clone(),
                ended: record.ended.as_deref().cloned(),
                listed: Default::default(),
            });
        });
        sessions.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let drained_until = self.drained_until.filter(|_| drained);
        let document = SessionDocument { sessions, drained_until };
        let empty = document.sessions.is_empty() && drained_until.is_none();
        Some(DocumentWrite { user, document: (!empty).then(|| Arc::new(document)) })
    }

    /// The next thing to do about a session.
    pub fn poll_effect(&mut self) -> Option<SessionEffect> {
        self.effects.pop_front()
    }

    /// When [`LocalSessions::handle_timeout`] may have something to do.
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// Live sessions: online, idle.
    pub fn counts(&self) -> (u64, u64) {
        (self.online, self.idle)
    }

    /// A live session.
    pub fn session(&self, key: SessionKey) -> Option<SessionView> {
        let record = self.table.get(Place::of(key)).filter(|record| record.ended.is_none())?;
        Some(SessionView {
            id: SessionId::Hosted(record.id()),
            user: self.table.user(record.user).id.clone(),
            status: record.status(),
        })
    }

    /// Sessions whose end is not settled, and documents that are not acknowledged.
    pub fn unsettled(&self) -> usize {
        self.ended.len() + self.dirty.len() + self.in_flight
    }

    /// Changes who says what; the document changes only with the status.
    fn set(&mut self, now: Now, place: Place, mode: Mode) {
        let Some(record) = self.table.live(place) else {
            return;
        };
        let before = record.status();
        record.mode = mode;
        if record.status() == before {
            return;
        }
        let (from, to) = match mode {
            Mode::Online => (&mut self.idle, &mut self.online),
            Mode::Idle | Mode::AutomaticIdle => (&mut self.online, &mut self.idle),
        };
        *from -= 1;
        *to += 1;
        self.arm(now, place);
        self.touch(place);
    }

    fn end(&mut self, now: Now, place: Place, reason: Label) {
        let Some(record) = self.table.live(place) else {
            return;
        };
        match record.mode {
            Mode::Online => self.online -= 1,
            Mode::Idle | Mode::AutomaticIdle => self.idle -= 1,
        }
        record.ended = Some(Box::new(Ended { at: now.wall, reason }));
        let (id, stage) = (record.id(), record.stage);
        self.ended.insert(id, place);
        self.touch(place);
        if stage == Stage::Announced {
            self.issue_disconnected(place);
        }
    }

    /// Issues `session-disconnected`, if the session has ended.
    fn issue_disconnected(&mut self, place: Place) {
        let Some(record) = self.table.get(place) else {
            return;
        };
        let Some(ended) = &record.ended else { return };
        let duration_ms = ended.at.millis_since(record.connected_at);
        let change = SessionChange::Disconnected { reason: ended.reason.clone(), duration_ms };
        self.issue(place, change);
    }

    fn issue(&mut self, place: Place, change: SessionChange) {
        let Some(record) = self.table.get(place) else {
            return;
        };
        let session = Session {
            id: SessionId::Hosted(record.id()),
            user: self.table.user(record.user).id.clone(),
            instance: self.instance,
            status: record.status(),
            connected_at: record.connected_at,
            attributes: record.attributes.clone(),
        };
        self.effects.push_back(SessionEffect::Hook(SessionEvent { session, change, partition: None }));
    }

    /// The session changed: its user's document is to be written.
    fn touch(&mut self, place: Place) {
        if let Some(record) = self.table.get(place) {
            let slot = record.user;
            self.mark(slot);
        }
    }

    fn mark(&mut self, slot: u32) {
        let user = self.table.user_mut(slot);
        if user.in_flight {
            user.changed = true;
        } else if !user.dirty {
            user.dirty = true;
            self.dirty.push_back(slot);
        }
    }

    /// Whose document an answer is about.
    fn answered(&mut self, user: &UserId) -> Option<u32> {
        while let Some(slot) = self.taken.front().copied() {
            match self.table.user_at(slot).filter(|first| first.in_flight) {
                Some(first) if first.id == *user => {
                    self.taken.pop_front();
                    return Some(slot);
                }
                Some(_) => break,
                None => {
                    self.taken.pop_front();
                }
            }
        }
        self.table.find_user(user)
    }

    /// Takes note that nothing is in flight for the user; false if nothing was.
    fn landed(&mut self, slot: u32) -> bool {
        let user = self.table.user_mut(slot);
        if !std::mem::take(&mut user.in_flight) {
            return false;
        }
        self.in_flight -= 1;
        if std::mem::take(&mut user.changed) {
            self.mark(slot);
        }
        true
    }

    /// Sets the session's one timer to the first thing that may be due, unless it stands earlier: frames and
    /// activity only put things off, which is found out when it fires. An entry set before is stale then.
    fn arm(&mut self, now: Now, place: Place) {
        let Some(record) = self.table.live(place) else {
            return;
        };
        let due = record.due(now, &self.config);
        if record.armed == Tick(0) || due < record.armed {
            record.armed = due;
            self.timers.set(due, place);
            self.drop_stale_timers();
        }
    }

    fn drop_stale_timers(&mut self) {
        let live = (self.online + self.idle) as usize;
        if self.timers.len() > TIMERS_PER_SESSION * live + SPARE_TIMERS {
            let table = &mut self.table;
            self.timers.retain(|tick, place| table.live(*place).is_some_and(|record| record.armed == tick));
        }
    }

    /// The timer fired: does what is really due, then sets it anew.
    fn fire(&mut self, now: Now, place: Place) {
        let config = self.config;
        let Some(record) = self.table.live(place) else {
            return;
        };
        record.armed = Tick(0);
        if record.expires_at().is_some_and(|at| at <= now.wall) {
            return self.end_by_host(now, place, labels::EXPIRED);
        }
        let idle_due = record.idle_due(&config).is_some_and(|due| due <= now.tick);
        if record.liveness_due(&config) <= now.tick {
            if record.pinged {
                return self.end_by_host(now, place, labels::TIMEOUT);
            }
            // From now on `frame` is the time of the Ping: a host that woke up late does not close at once.
            record.frame = now.tick;
            record.pinged = true;
            self.effects.push_back(SessionEffect::Ping(place.key()));
        }
        if idle_due {
            self.set(now, place, Mode::AutomaticIdle);
        }
        self.arm(now, place);
    }

    fn end_by_host(&mut self, now: Now, place: Place, reason: &'static str) {
        self.end(now, place, reason.into());
        self.effects.push_back(SessionEffect::End { key: place.key(), reason: reason.into() });
    }
}

impl Record {
    /// The first time at which something may have to be done. Expiry goes by the wall clock, which may be set:
    /// this is when it comes as the clock stands, and it is looked at again then.
    fn due(&self, now: Now, config: &SessionsConfig) -> Tick {
        let expiry = self.expires_at().map(|at| now.tick + Duration::from_millis(at.millis_since(now.wall)));
        let due = [self.idle_due(config), expiry].into_iter().flatten();
        due.fold(self.liveness_due(config), Tick::min)
    }

    /// When a Ping is due, or, once it was sent, the end.
    fn liveness_due(&self, config: &SessionsConfig) -> Tick {
        self.frame + if self.pinged { config.heartbeat_timeout } else { config.heartbeat }
    }

    /// When the session becomes idle by itself.
    fn idle_due(&self, config: &SessionsConfig) -> Option<Tick> {
        let idle_after = config.idle_after.filter(|_| self.mode == Mode::Online)?;
        Some(self.activity + idle_after)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
