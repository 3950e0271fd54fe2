//! The sessions against a naive reference model: plain lists, no timers, everything looked at every time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::events::Hook;

const HERE: InstanceId = InstanceId(7);
const USERS: usize = 3;
/// The two clocks never show the same, so that one can't be taken for the other.
const WALL: u64 = 1_700_000_000_000;

fn at(millis: u64) -> Now {
    Now { wall: Timestamp(WALL + millis), tick: Tick(millis) }
}

/// Online, idle by the client's word, idle by inactivity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Online,
    Explicit,
    Automatic,
}

#[derive(Debug)]
struct ModelSession {
    key: SessionKey,
    id: SessionId,
    user: usize,
    opened: u64,
    presence: Presence,
    frame: u64,
    activity: u64,
    pinged: Option<u64>,
    expires: Option<u64>,
    ended: Option<(u64, &'static str)>,
    announced: bool,
    settled: bool,
}

impl ModelSession {
    fn status(&self) -> Status {
        if self.presence == Presence::Online { Status::Online } else { Status::Idle }
    }

    fn entry(&self) -> SessionEntry {
        SessionEntry {
            id: self.id.clone(),
            status: self.status(),
            connected_at: at(self.opened).wall,
            attributes: Attributes::default(),
            ended: self.ended.map(|(when, reason)| Ended { at: at(when).wall, reason: reason.into() }),
            listed: Default::default(),
        }
    }

    fn hook(&self, name: &UserId, change: SessionChange) -> SessionEffect {
        let session = Session {
            id: self.id.clone(),
            user: name.clone(),
            instance: HERE,
            status: self.status(),
            connected_at: at(self.opened).wall,
            attributes: Attributes::default(),
        };
        SessionEffect::Hook(SessionEvent { session, change, partition: None })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open { user: usize, lifetime: Option<u64> },
    Close { session: prop::sample::Index },
    SetStatus { session: prop::sample::Index, status: Status },
    Frame { session: prop::sample::Index },
    Activity { session: prop::sample::Index },
    Renew { session: prop::sample::Index, lifetime: u64 },
    Pass { millis: u64, timers: bool },
    ToNextTimer,
    Take,
    Acknowledge { write: prop::sample::Index },
    Fail { write: prop::sample::Index },
    Settle { session: prop::sample::Index },
    Drain { hold: Option<u64> },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (0..USERS, prop::option::weighted(0.3, 0..120_000_u64))
            .prop_map(|(user, lifetime)| Step::Open { user, lifetime }),
        3 => index().prop_map(|session| Step::Close { session }),
        3 => (index(), prop_oneof![Just(Status::Online), Just(Status::Idle)])
            .prop_map(|(session, status)| Step::SetStatus { session, status }),
        2 => index().prop_map(|session| Step::Frame { session }),
        3 => index().prop_map(|session| Step::Activity { session }),
        2 => (index(), 0..120_000_u64).prop_map(|(session, lifetime)| Step::Renew { session, lifetime }),
        3 => (0..40_000_u64, any::<bool>()).prop_map(|(millis, timers)| Step::Pass { millis, timers }),
        4 => Just(Step::ToNextTimer),
        4 => Just(Step::Take),
        4 => index().prop_map(|write| Step::Acknowledge { write }),
        1 => index().prop_map(|write| Step::Fail { write }),
        2 => index().prop_map(|session| Step::Settle { session }),
        1 => prop::option::weighted(0.6, 0..60_000_u64).prop_map(|hold| Step::Drain { hold }),
    ]
}

fn config() -> impl Strategy<Value = SessionsConfig> {
    let idle_after = prop::option::weighted(0.8, (1..60_000_u64).prop_map(Duration::from_millis));
    (1..40_000_u64, 1..40_000_u64, idle_after).prop_map(|(heartbeat, timeout, idle_after)| SessionsConfig {
        idle_after,
        heartbeat: Duration::from_millis(heartbeat),
        heartbeat_timeout: Duration::from_millis(timeout),
        seed: 3,
    })
}

struct Model {
    config: SessionsConfig,
    system: LocalSessions,
    now: u64,
    names: Vec<UserId>,
    sessions: Vec<ModelSession>,
    drained: [bool; USERS],
    drained_until: Option<Timestamp>,
    /// What the system handed out last, landed or not; none: it failed or there was nothing yet.
    taken: [Option<Option<Arc<SessionDocument>>>; USERS],
    in_flight: Vec<DocumentWrite>,
    stored: BTreeMap<UserId, Arc<SessionDocument>>,
    heard: BTreeMap<SessionId, Vec<Hook>>,
    unsettled: Vec<SessionId>,
    /// What the step must cause.
    expected: Vec<SessionEffect>,
    most_live: usize,
}

impl Model {
    fn new(config: SessionsConfig) -> Model {
        Model {
            config,
            system: LocalSessions::new(config, HERE),
            now: 1,
            names: (0..USERS).map(|at| UserId::new(&format!("u{at}")).unwrap()).collect(),
            sessions: Vec::new(),
            drained: [false; USERS],
            drained_until: None,
            taken: [const { Some(None) }; USERS],
            in_flight: Vec::new(),
            stored: BTreeMap::new(),
            heard: BTreeMap::new(),
            unsettled: Vec::new(),
            expected: Vec::new(),
            most_live: 0,
        }
    }

    fn pick(&self, session: prop::sample::Index) -> Option<usize> {
        (!self.sessions.is_empty()).then(|| session.index(self.sessions.len()))
    }

    fn live(&self) -> Vec<usize> {
        (0..self.sessions.len()).filter(|at| self.sessions[*at].ended.is_none()).collect()
    }

    fn document(&self, user: usize) -> Option<Arc<SessionDocument>> {
        let listed = self.sessions.iter().filter(|session| session.user == user && !session.settled);
        let mut sessions: Vec<SessionEntry> = listed.map(ModelSession::entry).collect();
        sessions.sort_by(|one, other| one.id.cmp(&other.id));
        let drained_until = self.drained_until.filter(|_| self.drained[user]);
        let empty = sessions.is_empty() && drained_until.is_none();
        (!empty).then(|| Arc::new(SessionDocument { sessions, drained_until }))
    }

    fn end(&mut self, session: usize, reason: &'static str, by_host: bool) {
        let now = self.now;
        let session = &mut self.sessions[session];
        if session.ended.is_some() {
            return;
        }
        session.ended = Some((now, reason));
        if session.announced {
            let change =
                SessionChange::Disconnected { reason: reason.into(), duration_ms: now - session.opened };
            self.expected.push(session.hook(&self.names[session.user], change));
        }
        if by_host {
            self.expected.push(SessionEffect::End { key: session.key, reason: reason.into() });
        }
    }

    /// Looks at every session: the whole meaning of timers.
    fn look_at_the_clock(&mut self) {
        let (now, config) = (self.now, self.config);
        let passed = |since: u64, limit: Duration| u128::from(now - since) >= limit.as_millis();
        for at in self.live() {
            let session = &mut self.sessions[at];
            if session.expires.is_some_and(|expires| expires <= now) {
                self.end(at, labels::EXPIRED, true);
                continue;
            }
            match session.pinged {
                Some(pinged) if passed(pinged, config.heartbeat_timeout) => {
                    self.end(at, labels::TIMEOUT, true);
                    continue;
                }
                None if passed(session.frame, config.heartbeat) => {
                    session.pinged = Some(now);
                    self.expected.push(SessionEffect::Ping(session.key));
                }
                _ => {}
            }
            let idle = config.idle_after.is_some_and(|limit| passed(session.activity, limit));
            if idle && session.presence == Presence::Online {
                session.presence = Presence::Automatic;
            }
        }
    }

    /// The first time at which the clock would show something to do.
    fn next_due(&self) -> Option<u64> {
        let due = self.live().into_iter().flat_map(|at| {
            let session = &self.sessions[at];
            let alive = match session.pinged {
                Some(pinged) => pinged + self.config.heartbeat_timeout.as_millis() as u64,
                None => session.frame + self.config.heartbeat.as_millis() as u64,
            };
            let idle_after = self.config.idle_after.filter(|_| session.presence == Presence::Online);
            let idle = idle_after.map(|limit| session.activity + limit.as_millis() as u64);
            [Some(alive), idle, session.expires].into_iter().flatten()
        });
        due.min()
    }

    fn acknowledge(&mut self, write: usize) {
        let write = self.in_flight.remove(write);
        match &write.document {
            Some(document) => self.stored.insert(write.user.clone(), document.clone()),
            None => self.stored.remove(&write.user),
        };
        self.system.handle_document_acked(at(self.now), &write.user);
        for entry in write.document.iter().flat_map(|document| &document.sessions) {
            let session = self.sessions.iter_mut().find(|session| session.id == entry.id).unwrap();
            if std::mem::replace(&mut session.announced, true) {
                continue;
            }
            let name = &self.names[session.user];
            self.expected.push(session.hook(name, SessionChange::Connected));
            if let Some((when, reason)) = session.ended {
                let duration_ms = when - session.opened;
                let change = SessionChange::Disconnected { reason: reason.into(), duration_ms };
                self.expected.push(session.hook(name, change));
            }
        }
    }

    fn take(&mut self) {
        let Some(write) = self.system.poll_document() else {
            for user in 0..USERS {
                let in_flight = self.in_flight.iter().any(|write| write.user == self.names[user]);
                let written = self.taken[user].as_ref() == Some(&self.document(user));
                assert!(in_flight || written, "a document that changed is to be written");
            }
            return;
        };
        assert!(self.in_flight.iter().all(|other| other.user != write.user), "I8: one in flight a user");
        let user = self.names.iter().position(|name| *name == write.user).unwrap();
        assert_eq!(write.document, self.document(user), "the newest document");
        self.taken[user] = Some(write.document.clone());
        self.in_flight.push(write);
    }

    fn settle(&mut self, at: usize) {
        let id = self.unsettled.remove(at);
        self.system.handle_settled(&id);
        self.sessions.iter_mut().find(|session| session.id == id).unwrap().settled = true;
    }

    fn open(&mut self, user: usize, lifetime: Option<u64>) {
        // Ids don't grow with time here: a document is sorted all the same.
        let id = SessionId::Hosted(u128::from(
            (self.sessions.len() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ));
        let expires = lifetime.map(|lifetime| self.now + lifetime);
        let expires_at = expires.map(|expires| at(expires).wall);
        let name = self.names[user].clone();
        let key = self.system.handle_open(at(self.now), id.clone(), name, Attributes::default(), expires_at);
        assert!(self.sessions.iter().all(|session| session.key != key), "no key comes twice");
        self.sessions.push(ModelSession {
            key,
            id,
            user,
            opened: self.now,
            presence: Presence::Online,
            frame: self.now,
            activity: self.now,
            pinged: None,
            expires,
            ended: None,
            announced: false,
            settled: false,
        });
    }

    fn hear_of(&mut self, session: usize, activity: bool) {
        let session = &mut self.sessions[session];
        session.frame = self.now;
        session.pinged = None;
        if activity {
            session.activity = self.now;
        }
    }

    fn drain(&mut self, hold: Option<u64>) {
        let until = hold.map(|hold| at(self.now + hold).wall);
        self.system.handle_drain(at(self.now), until);
        self.drained = self.drained.map(|drained| drained && until.is_some());
        self.drained_until = until;
        for at in self.live() {
            self.drained[self.sessions[at].user] = until.is_some();
            self.end(at, labels::DRAINING, true);
        }
    }

    fn apply(&mut self, step: Step) {
        let now = at(self.now);
        match step {
            Step::Open { user, lifetime } => self.open(user, lifetime),
            Step::Close { session } => {
                let Some(at) = self.pick(session) else { return };
                self.system.handle_close(now, self.sessions[at].key, labels::CLOSED.into());
                self.end(at, labels::CLOSED, false);
            }
            Step::SetStatus { session, status } => {
                let Some(at) = self.pick(session) else { return };
                self.system.handle_set_status(now, self.sessions[at].key, status);
                if self.sessions[at].ended.is_none() {
                    self.hear_of(at, true);
                    let idle = status == Status::Idle;
                    self.sessions[at].presence = if idle { Presence::Explicit } else { Presence::Online };
                }
            }
            Step::Frame { session } => {
                let Some(at) = self.pick(session) else { return };
                self.system.handle_frame(now, self.sessions[at].key);
                self.hear_of(at, false);
            }
            Step::Activity { session } => {
                let Some(at) = self.pick(session) else { return };
                self.system.handle_activity(now, self.sessions[at].key);
                self.hear_of(at, true);
                let session = &mut self.sessions[at];
                if session.ended.is_none() && session.presence == Presence::Automatic {
                    session.presence = Presence::Online;
                }
            }
            Step::Renew { session, lifetime } => {
                let Some(at) = self.pick(session) else { return };
                let expires = self.now + lifetime;
                self.system.handle_renew(now, self.sessions[at].key, Timestamp(WALL + expires));
                // Of a session that is over it changes nothing that anybody could see.
                self.sessions[at].expires = Some(expires);
            }
            Step::Pass { millis, timers } => {
                self.now += millis;
                if timers {
                    self.system.handle_timeout(at(self.now));
                    self.look_at_the_clock();
                }
            }
            Step::ToNextTimer => {
                if let Some(next) = self.system.poll_timeout() {
                    self.now = self.now.max(next.0);
                }
                self.system.handle_timeout(at(self.now));
                self.look_at_the_clock();
            }
            Step::Take => self.take(),
            Step::Acknowledge { write } => {
                if !self.in_flight.is_empty() {
                    self.acknowledge(write.index(self.in_flight.len()));
                }
            }
            Step::Fail { write } => {
                if !self.in_flight.is_empty() {
                    let write = self.in_flight.remove(write.index(self.in_flight.len()));
                    self.system.handle_document_failed(now, &write.user);
                    let user = self.names.iter().position(|name| *name == write.user).unwrap();
                    self.taken[user] = None;
                }
            }
            Step::Settle { session } => {
                if !self.unsettled.is_empty() {
                    self.settle(session.index(self.unsettled.len()));
                }
            }
            Step::Drain { hold } => self.drain(hold),
        }
    }

    fn session_of(&self, effect: &SessionEffect) -> SessionId {
        match effect {
            SessionEffect::Hook(event) => event.session.id.clone(),
            SessionEffect::Ping(key) | SessionEffect::End { key, .. } => {
                self.sessions.iter().find(|session| session.key == *key).unwrap().id.clone()
            }
        }
    }

    /// Compares the effects of a step, of each session in order, and everything that can be asked.
    fn compare(&mut self) {
        let mut effects: Vec<SessionEffect> = std::iter::from_fn(|| self.system.poll_effect()).collect();
        let mut expected = std::mem::take(&mut self.expected);
        effects.sort_by_key(|effect| self.session_of(effect));
        expected.sort_by_key(|effect| self.session_of(effect));
        assert_eq!(effects, expected);
        for effect in effects {
            let SessionEffect::Hook(event) = effect else {
                continue;
            };
            self.heard.entry(event.session.id.clone()).or_default().push(event.hook());
            if event.hook() == Hook::SessionDisconnected {
                self.unsettled.push(event.session.id);
            }
        }
        let mut counts = (0, 0);
        for session in &self.sessions {
            let live = session.ended.is_none();
            let view = SessionView {
                id: session.id.clone(),
                user: self.names[session.user].clone(),
                status: session.status(),
            };
            assert_eq!(self.system.session(session.key), live.then_some(view));
            counts.0 += u64::from(live && session.status() == Status::Online);
            counts.1 += u64::from(live && session.status() == Status::Idle);
        }
        assert_eq!(self.system.counts(), counts);
        if let Some(due) = self.next_due() {
            assert!(self.system.poll_timeout().is_some_and(|next| next.0 <= due), "no timer is late");
        }
        self.most_live = self.most_live.max((counts.0 + counts.1) as usize);
        let limit = TIMERS_PER_SESSION * self.most_live + SPARE_TIMERS;
        assert!(self.system.timers.len() <= limit, "I8: timers");
        let open = self.sessions.iter().filter(|session| session.ended.is_some() && !session.settled).count();
        assert!(self.system.unsettled() >= open + self.in_flight.len());
    }

    /// Lets everything land and settle; sessions go on.
    fn rest(&mut self) {
        let mut rounds = 0;
        while self.system.unsettled() > 0 {
            rounds += 1;
            assert!(rounds < 100, "what is open settles");
            while self.system.unsettled() > self.unsettled_ends() + self.in_flight.len() {
                self.take();
            }
            while !self.in_flight.is_empty() {
                self.acknowledge(0);
                self.compare();
            }
            while !self.unsettled.is_empty() {
                self.settle(0);
            }
        }
        self.take();
        self.compare();
    }

    fn unsettled_ends(&self) -> usize {
        self.sessions.iter().filter(|session| session.ended.is_some() && !session.settled).count()
    }
}

proptest! {
    /// I6: `session-connected` then `session-disconnected`, one of each, for every session, and never before the
    /// document. At rest the stored documents are those of the model. I8: one document a user in flight, timers
    /// within their limit, and nothing is kept of who has left.
    #[test]
    fn i6_i8_the_sessions_do_what_the_model_does(
        config in config(),
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut model = Model::new(config);
        for step in steps {
            model.apply(step);
            model.compare();
        }
        model.rest();
        for session in &model.sessions {
            let pair = [Hook::SessionConnected, Hook::SessionDisconnected];
            let expected = if session.ended.is_some() { &pair[..] } else { &pair[..1] };
            prop_assert_eq!(model.heard.get(&session.id).map(Vec::as_slice), Some(expected), "I6");
        }
        for user in 0..USERS {
            let document = model.document(user);
            prop_assert_eq!(model.stored.get(&model.names[user]), document.as_ref());
            let known = model.system.table.find_user(&model.names[user]);
            prop_assert_eq!(known.is_some(), document.is_some(), "I8: users");
        }
        prop_assert_eq!(model.system.table.len(), model.live().len(), "I8: sessions");
    }
}
