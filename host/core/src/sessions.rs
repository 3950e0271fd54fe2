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
//! ends by `set_status` alone, automatic idle by activity.
//!
//! Memory: 96 bytes a session, 40 a user with sessions here, and a timer of 16, besides the user id.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::documents::{Ended, SessionDocument, SessionEntry};
use crate::events::{Attributes, Label, Session, SessionChange, SessionEvent, Status, labels};
use crate::ids::{InstanceId, SessionId, UserId};
use crate::time::{Now, Tick, Timestamp};
use crate::timers::Timers;

mod table;
use table::{Flags, Place, Record, Table};

/// What the sessions need to know.
#[derive(Clone, Copy, Debug)]
pub struct SessionsConfig {
    /// No activity for so long makes a session idle; none: off.
    pub idle_after: Option<Duration>,
    /// A Ping is sent after so long without a frame.
    pub heartbeat: Duration,
    /// The session ends when no frame comes for so long after the Ping.
    pub heartbeat_timeout: Duration,
    /// For the hash table.
    pub seed: u64,
}

/// A session's place in this host: never reused within 2^32 reuses of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u64);

/// A document to be put, or deleted; answer with [`LocalSessions::handle_document_acked`] or
/// [`LocalSessions::handle_document_failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentWrite {
    /// Whose document.
    pub user: UserId,
    /// None: delete it.
    pub document: Option<Arc<SessionDocument>>,
}

/// What is to be done about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEffect {
    /// Run the session hook.
    Hook(SessionEvent),
    /// Send a WebSocket Ping.
    Ping(SessionKey),
    /// The session is over by the host's decision: say goodbye and close the connection.
    End {
        /// Which session.
        key: SessionKey,
        /// `timeout`, `expired` or `draining`.
        reason: Label,
    },
}

/// What is known of a live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// `Online` or `Idle`.
    pub status: Status,
}

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
    effects: VecDeque<SessionEffect>,
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
            effects: VecDeque::new(),
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
        let place = self.table.insert(user, |user| Record::new(user, id, now, attributes, expires_at));
        self.online += 1;
        self.arm(place);
        self.touch(place);
        place.key()
    }

    /// Any frame came from the client.
    pub fn handle_frame(&mut self, now: Now, key: SessionKey) {
        if let Some(record) = self.table.live(Place::of(key)) {
            record.frame = now.tick;
            record.flags.pinged = false;
        }
    }

    /// A message other than `ping` came: somebody is there. Ends automatic idle.
    pub fn handle_activity(&mut self, now: Now, key: SessionKey) {
        self.handle_frame(now, key);
        let place = Place::of(key);
        let Some(record) = self.table.live(place) else { return };
        record.activity = now.tick;
        if record.flags.automatic {
            record.flags.automatic = false;
            self.set(place, Status::Online);
        }
    }

    /// The client's own word; [`Status::Offline`] is not one of them and ignored.
    pub fn handle_set_status(&mut self, now: Now, key: SessionKey, status: Status) {
        debug_assert!(status != Status::Offline);
        self.handle_frame(now, key);
        let place = Place::of(key);
        let Some(record) = self.table.live(place) else { return };
        record.activity = now.tick;
        record.flags.automatic = false;
        if status != Status::Offline && record.flags.status() != status {
            self.set(place, status);
        }
    }

    /// The connection has ended. A session that is over already is left alone.
    pub fn handle_close(&mut self, now: Now, key: SessionKey, reason: Label) {
        self.end(now, Place::of(key), reason);
    }

    /// The host is going: every session ends with reason `draining`, and its user counts as present until
    /// `drained_until`; none: nobody is held (the last host leaves).
    pub fn handle_drain(&mut self, now: Now, drained_until: Option<Timestamp>) {
        self.drained_until = drained_until;
        for place in self.table.places() {
            if self.table.live(place).is_some() {
                self.table.user_of_mut(place).drained = drained_until.is_some();
                self.end(now, place, labels::DRAINING.into());
                self.effects
                    .push_back(SessionEffect::End { key: place.key(), reason: labels::DRAINING.into() });
            }
        }
    }

    /// The user's document that was in flight is in the store.
    pub fn handle_document_acked(&mut self, now: Now, user: &UserId) {
        let Some(slot) = self.table.find_user(user) else { return };
        self.landed(slot);
        for place in self.table.sessions_of(slot) {
            let Some(record) = self.table.get_mut(place) else { continue };
            if record.flags.listed && !record.flags.connected {
                record.flags.connected = true;
                let ended = record.ended.is_some();
                self.issue(place, SessionChange::Connected);
                if ended {
                    self.issue_disconnected(place);
                }
            }
        }
        let _ = now;
        self.table.remove_idle_user(slot);
    }

    /// The document in flight is certainly not in the store: the newest one is to be written.
    pub fn handle_document_failed(&mut self, now: Now, user: &UserId) {
        let _ = now;
        let Some(slot) = self.table.find_user(user) else { return };
        self.landed(slot);
        self.mark(slot);
    }

    /// The `session-disconnected` of a session is settled everywhere: the document may forget it.
    pub fn handle_settled(&mut self, session: &SessionId) {
        let SessionId::Hosted(id) = session else { return };
        let Some(place) = self.ended.remove(id) else { return };
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
        let (user, drained) = (state.id.clone(), state.drained);
        let mut sessions = Vec::new();
        for place in self.table.sessions_of(slot) {
            if let Some(record) = self.table.get_mut(place) {
                record.flags.listed = true;
                sessions.push(SessionEntry {
                    id: SessionId::Hosted(record.id()),
                    status: record.flags.status(),
                    connected_at: record.connected_at,
                    attributes: record.attributes.clone(),
                    ended: record.ended.as_deref().cloned(),
                });
            }
        }
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
            status: record.flags.status(),
        })
    }

    /// Sessions whose end is not settled, and documents that are not acknowledged.
    pub fn unsettled(&self) -> usize {
        self.ended.len() + self.dirty.len() + self.in_flight
    }

    fn set(&mut self, place: Place, status: Status) {
        let Some(record) = self.table.live(place) else { return };
        record.flags.idle = status == Status::Idle;
        let (from, to) = match status {
            Status::Idle => (&mut self.online, &mut self.idle),
            _ => (&mut self.idle, &mut self.online),
        };
        *from -= 1;
        *to += 1;
        self.arm(place);
        self.touch(place);
    }

    fn end(&mut self, now: Now, place: Place, reason: Label) {
        let Some(record) = self.table.live(place) else { return };
        match record.flags.status() {
            Status::Idle => self.idle -= 1,
            _ => self.online -= 1,
        }
        record.ended = Some(Box::new(Ended { at: now.wall, reason }));
        let (id, connected) = (record.id(), record.flags.connected);
        self.ended.insert(id, place);
        self.touch(place);
        if connected {
            self.issue_disconnected(place);
        }
    }

    fn issue_disconnected(&mut self, place: Place) {
        let Some(record) = self.table.get(place) else { return };
        let Some(ended) = &record.ended else { return };
        let duration_ms = ended.at.millis_since(record.connected_at);
        let change = SessionChange::Disconnected { reason: ended.reason.clone(), duration_ms };
        self.issue(place, change);
    }

    fn issue(&mut self, place: Place, change: SessionChange) {
        let Some(record) = self.table.get(place) else { return };
        let session = Session {
            id: SessionId::Hosted(record.id()),
            user: self.table.user(record.user).id.clone(),
            instance: self.instance,
            status: record.flags.status(),
            connected_at: record.connected_at,
            attributes: record.attributes.clone(),
        };
        self.effects.push_back(SessionEffect::Hook(SessionEvent { session, change }));
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

    fn landed(&mut self, slot: u32) {
        let user = self.table.user_mut(slot);
        if user.in_flight {
            user.in_flight = false;
            self.in_flight -= 1;
        }
        if std::mem::take(&mut user.changed) {
            self.mark(slot);
        }
    }

    /// Sets the session's one timer to the first thing that may be due. An entry set before is stale then.
    fn arm(&mut self, place: Place) {
        let config = self.config;
        let Some(record) = self.table.live(place) else { return };
        let mut due = record.liveness_due(&config);
        if let Some(idle) = record.idle_due(&config) {
            due = due.min(idle);
        }
        if let Some(expires) = record.expires_in {
            due = due.min(expires);
        }
        if record.armed == Tick(0) || due < record.armed {
            record.armed = due;
            self.timers.set(due, place);
        }
    }

    /// The timer fired: does what is really due, then sets it anew.
    fn fire(&mut self, now: Now, place: Place) {
        let config = self.config;
        let Some(record) = self.table.live(place) else { return };
        record.armed = Tick(0);
        if record.expires_in.is_some_and(|due| due <= now.tick) {
            return self.end_by_host(now, place, labels::EXPIRED);
        }
        let idle_due = record.idle_due(&config).is_some_and(|due| due <= now.tick);
        if record.liveness_due(&config) <= now.tick {
            if record.flags.pinged {
                return self.end_by_host(now, place, labels::TIMEOUT);
            }
            // From now on `frame` is the time of the Ping: a host that woke up late does not close at once.
            record.frame = now.tick;
            record.flags.pinged = true;
            self.effects.push_back(SessionEffect::Ping(place.key()));
        }
        if idle_due && let Some(record) = self.table.live(place) {
            record.flags.automatic = true;
            self.set(place, Status::Idle);
        }
        self.arm(place);
    }

    fn end_by_host(&mut self, now: Now, place: Place, reason: &'static str) {
        self.end(now, place, reason.into());
        self.effects.push_back(SessionEffect::End { key: place.key(), reason: reason.into() });
    }
}

impl Record {
    fn new(user: u32, id: u128, now: Now, attributes: Attributes, expires_at: Option<Timestamp>) -> Record {
        Record {
            id: [(id >> 64) as u64, id as u64],
            connected_at: now.wall,
            frame: now.tick,
            activity: now.tick,
            armed: Tick(0),
            expires_in: expires_at.map(|at| now.tick + Duration::from_millis(at.millis_since(now.wall))),
            attributes,
            ended: None,
            user,
            next: None,
            flags: Flags::default(),
        }
    }

    /// When a Ping is due, or, once it was sent, the end.
    fn liveness_due(&self, config: &SessionsConfig) -> Tick {
        self.frame + if self.flags.pinged { config.heartbeat_timeout } else { config.heartbeat }
    }

    /// When the session becomes idle by itself.
    fn idle_due(&self, config: &SessionsConfig) -> Option<Tick> {
        let idle_after = config.idle_after.filter(|_| !self.flags.idle)?;
        Some(self.activity + idle_after)
    }
}

#[cfg(test)]
mod tests;
