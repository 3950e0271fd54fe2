//! Whole effects of the sessions, and their invariants against a naive model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::events::Hook;

const HERE: InstanceId = InstanceId(7);

fn config() -> SessionsConfig {
    SessionsConfig {
        idle_after: None,
        heartbeat: Duration::from_secs(25),
        heartbeat_timeout: Duration::from_secs(10),
        seed: 3,
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn open(sessions: &mut LocalSessions, at: u64, id: u128, name: &str) -> SessionKey {
    sessions.handle_open(Now::at(at), SessionId::Hosted(id), user(name), Attributes::default(), None)
}

fn entry(id: u128, status: Status, connected_at: u64, ended: Option<(u64, &'static str)>) -> SessionEntry {
    SessionEntry {
        id: SessionId::Hosted(id),
        status,
        connected_at: Timestamp(connected_at),
        attributes: Attributes::default(),
        ended: ended.map(|(at, reason)| Ended { at: Timestamp(at), reason: reason.into() }),
    }
}

fn put(name: &str, entries: Vec<SessionEntry>) -> Option<DocumentWrite> {
    let document = SessionDocument { sessions: entries, drained_until: None };
    Some(DocumentWrite { user: user(name), document: Some(Arc::new(document)) })
}

fn effects(sessions: &mut LocalSessions) -> Vec<SessionEffect> {
    std::iter::from_fn(|| sessions.poll_effect()).collect()
}

fn hook(id: u128, name: &str, status: Status, connected_at: u64, change: SessionChange) -> SessionEffect {
    let session = Session {
        id: SessionId::Hosted(id),
        user: user(name),
        instance: HERE,
        status,
        connected_at: Timestamp(connected_at),
        attributes: Attributes::default(),
    };
    SessionEffect::Hook(SessionEvent { session, change })
}

fn disconnected(reason: &'static str, duration_ms: u64) -> SessionChange {
    SessionChange::Disconnected { reason: reason.into(), duration_ms }
}

#[test]
fn a_session_is_announced_after_its_document_and_stays_listed_until_its_end_is_settled() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let key = open(&mut sessions, 1000, 1, "alice");
    assert_eq!(effects(&mut sessions), []);
    assert_eq!(sessions.poll_document(), put("alice", vec![entry(1, Status::Online, 1000, None)]));
    assert_eq!(sessions.poll_document(), None);
    sessions.handle_document_acked(Now::at(1001), &user("alice"));
    assert_eq!(effects(&mut sessions), [hook(1, "alice", Status::Online, 1000, SessionChange::Connected)]);
    sessions.handle_close(Now::at(3000), key, "closed".into());
    assert_eq!(
        effects(&mut sessions),
        [hook(1, "alice", Status::Online, 1000, disconnected("closed", 2000))]
    );
    let listed = put("alice", vec![entry(1, Status::Online, 1000, Some((3000, "closed")))]);
    assert_eq!(sessions.poll_document(), listed);
    sessions.handle_document_acked(Now::at(3001), &user("alice"));
    assert_eq!(sessions.poll_document(), None);
    assert_eq!(sessions.unsettled(), 1);
    sessions.handle_settled(&SessionId::Hosted(1));
    assert_eq!(sessions.poll_document(), Some(DocumentWrite { user: user("alice"), document: None }));
    sessions.handle_document_acked(Now::at(3002), &user("alice"));
    assert_eq!(sessions.unsettled(), 0);
    assert_eq!(sessions.table.find_user(&user("alice")), None);
}

#[test]
fn a_session_that_ends_before_its_document_is_acknowledged_has_both_hooks_in_order() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let key = open(&mut sessions, 1000, 1, "alice");
    sessions.poll_document().unwrap();
    sessions.handle_close(Now::at(1500), key, "closed".into());
    assert_eq!(effects(&mut sessions), []);
    assert_eq!(sessions.poll_document(), None, "one document a user is in flight");
    sessions.handle_document_acked(Now::at(1600), &user("alice"));
    let expected = [
        hook(1, "alice", Status::Online, 1000, SessionChange::Connected),
        hook(1, "alice", Status::Online, 1000, disconnected("closed", 500)),
    ];
    assert_eq!(effects(&mut sessions), expected);
    assert!(sessions.poll_document().is_some());
}

#[test]
fn a_document_that_failed_is_written_again_with_what_is_true_then() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let key = open(&mut sessions, 1000, 1, "alice");
    sessions.poll_document().unwrap();
    sessions.handle_set_status(Now::at(1100), key, Status::Idle);
    sessions.handle_document_failed(Now::at(1200), &user("alice"));
    assert_eq!(effects(&mut sessions), []);
    assert_eq!(sessions.poll_document(), put("alice", vec![entry(1, Status::Idle, 1000, None)]));
    assert_eq!(sessions.poll_document(), None);
}

#[test]
fn explicit_idle_ends_by_set_status_alone_automatic_idle_by_activity() {
    let idle_after = Some(Duration::from_secs(60));
    let mut sessions = LocalSessions::new(SessionsConfig { idle_after, ..config() }, HERE);
    let key = open(&mut sessions, 0, 1, "alice");
    sessions.handle_set_status(Now::at(1000), key, Status::Idle);
    sessions.handle_activity(Now::at(2000), key);
    assert_eq!(sessions.session(key).unwrap().status, Status::Idle);
    sessions.handle_set_status(Now::at(3000), key, Status::Online);
    for second in 3..63 {
        sessions.handle_frame(Now::at(second * 1000), key);
        sessions.handle_timeout(Now::at(second * 1000));
        assert_eq!(sessions.session(key).unwrap().status, Status::Online, "at {second} s");
    }
    sessions.handle_timeout(Now::at(63_000));
    assert_eq!(sessions.session(key).unwrap().status, Status::Idle);
    assert_eq!(sessions.counts(), (0, 1));
    sessions.handle_frame(Now::at(64_000), key);
    assert_eq!(sessions.session(key).unwrap().status, Status::Idle, "a frame is no activity");
    sessions.handle_activity(Now::at(65_000), key);
    assert_eq!(sessions.session(key).unwrap().status, Status::Online);
    assert_eq!(sessions.counts(), (1, 0));
}

#[test]
fn a_silent_connection_is_pinged_then_ended() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let key = open(&mut sessions, 0, 1, "alice");
    sessions.poll_document().unwrap();
    sessions.handle_document_acked(Now::at(0), &user("alice"));
    effects(&mut sessions);
    assert_eq!(sessions.poll_timeout(), Some(Tick(25_000)));
    sessions.handle_frame(Now::at(10_000), key);
    sessions.handle_timeout(Now::at(34_999));
    assert_eq!(effects(&mut sessions), []);
    sessions.handle_timeout(Now::at(35_000));
    assert_eq!(effects(&mut sessions), [SessionEffect::Ping(key)]);
    sessions.handle_frame(Now::at(35_100), key);
    sessions.handle_timeout(Now::at(45_000));
    assert_eq!(effects(&mut sessions), [], "the answer keeps it");
    sessions.handle_timeout(Now::at(60_100));
    assert_eq!(effects(&mut sessions), [SessionEffect::Ping(key)]);
    sessions.handle_timeout(Now::at(70_099));
    assert_eq!(effects(&mut sessions), []);
    sessions.handle_timeout(Now::at(70_100));
    let expected = [
        hook(1, "alice", Status::Online, 0, disconnected("timeout", 70_100)),
        SessionEffect::End { key, reason: "timeout".into() },
    ];
    assert_eq!(effects(&mut sessions), expected);
    sessions.handle_close(Now::at(70_200), key, "closed".into());
    assert_eq!(effects(&mut sessions), [], "the gateway's word comes late");
}

#[test]
fn a_session_ends_with_its_token() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let expires = Some(Timestamp(5000));
    let id = SessionId::Hosted(1);
    let key = sessions.handle_open(Now::at(1000), id, user("alice"), Attributes::default(), expires);
    assert_eq!(sessions.poll_timeout(), Some(Tick(5000)));
    sessions.handle_timeout(Now::at(5000));
    assert_eq!(effects(&mut sessions), [SessionEffect::End { key, reason: "expired".into() }]);
    assert_eq!(sessions.counts(), (0, 0));
}

#[test]
fn draining_ends_every_session_and_the_documents_hold_the_users() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let key = open(&mut sessions, 1000, 1, "alice");
    sessions.poll_document().unwrap();
    sessions.handle_document_acked(Now::at(1000), &user("alice"));
    effects(&mut sessions);
    sessions.handle_drain(Now::at(2000), Some(Timestamp(32_000)));
    let expected = [
        hook(1, "alice", Status::Online, 1000, disconnected("draining", 1000)),
        SessionEffect::End { key, reason: "draining".into() },
    ];
    assert_eq!(effects(&mut sessions), expected);
    let held = |sessions| {
        let document = SessionDocument { sessions, drained_until: Some(Timestamp(32_000)) };
        Some(DocumentWrite { user: user("alice"), document: Some(Arc::new(document)) })
    };
    let listed = held(vec![entry(1, Status::Online, 1000, Some((2000, "draining")))]);
    assert_eq!(sessions.poll_document(), listed);
    sessions.handle_settled(&SessionId::Hosted(1));
    sessions.handle_document_acked(Now::at(2001), &user("alice"));
    assert_eq!(sessions.poll_document(), held(vec![]));
    sessions.handle_document_acked(Now::at(2002), &user("alice"));
    assert_eq!(sessions.unsettled(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Open { user: usize },
    Close { session: usize },
    SetStatus { session: usize, idle: bool },
    Activity { session: usize },
    Pass { millis: u64 },
    Take,
    Acknowledge,
    Fail,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize).prop_map(|user| Step::Open { user }),
        3 => (0..64_usize).prop_map(|session| Step::Close { session }),
        3 => (0..64_usize, any::<bool>()).prop_map(|(session, idle)| Step::SetStatus { session, idle }),
        2 => (0..64_usize).prop_map(|session| Step::Activity { session }),
        2 => (0..40_000_u64).prop_map(|millis| Step::Pass { millis }),
        4 => Just(Step::Take),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::Fail),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    /// I6: for every session `session-connected` then `session-disconnected`, one of each. At rest the last document
    /// of a user lists exactly the live sessions; I8: at most one document a user is in flight, and nothing is
    /// kept of who has left.
    #[test]
    fn i6_i8_sessions_pair_up_and_documents_tell_the_truth(steps in proptest::collection::vec(step(), 1..150)) {
        let idle_after = Some(Duration::from_secs(50));
        let mut sessions = LocalSessions::new(SessionsConfig { idle_after, ..config() }, HERE);
        let names = ["a", "b", "c"].map(user);
        let mut now = 1_000_u64;
        let mut opened: Vec<(SessionKey, u128)> = Vec::new();
        let mut in_flight: Vec<DocumentWrite> = Vec::new();
        let mut stored: BTreeMap<UserId, Arc<SessionDocument>> = BTreeMap::new();
        let mut heard: BTreeMap<u128, Vec<Hook>> = BTreeMap::new();
        let mut unsettled: Vec<SessionId> = Vec::new();
        let mut closed: BTreeMap<u128, bool> = BTreeMap::new();
        let mut hear = |sessions: &mut LocalSessions, unsettled: &mut Vec<SessionId>| {
            while let Some(effect) = sessions.poll_effect() {
                if let SessionEffect::Hook(event) = effect {
                    let SessionId::Hosted(id) = event.session.id else { panic!("hosted") };
                    heard.entry(id).or_default().push(event.hook());
                    if event.hook() == Hook::SessionDisconnected {
                        unsettled.push(event.session.id);
                    }
                }
            }
        };
        fn land(stored: &mut BTreeMap<UserId, Arc<SessionDocument>>, write: &DocumentWrite) {
            match &write.document {
                Some(document) => stored.insert(write.user.clone(), document.clone()),
                None => stored.remove(&write.user),
            };
        }
        for step in steps {
            match step {
                Step::Open { user } => {
                    let id = opened.len() as u128 + 1;
                    let attributes = Attributes::default();
                    let id_ = SessionId::Hosted(id);
                    let key = sessions.handle_open(Now::at(now), id_, names[user].clone(), attributes, None);
                    opened.push((key, id));
                }
                Step::Close { session } => {
                    if let Some((key, id)) = opened.get(session) {
                        sessions.handle_close(Now::at(now), *key, "closed".into());
                        closed.insert(*id, true);
                    }
                }
                Step::SetStatus { session, idle } => {
                    if let Some((key, _)) = opened.get(session) {
                        let status = if idle { Status::Idle } else { Status::Online };
                        sessions.handle_set_status(Now::at(now), *key, status);
                    }
                }
                Step::Activity { session } => {
                    if let Some((key, _)) = opened.get(session) {
                        sessions.handle_activity(Now::at(now), *key);
                    }
                }
                Step::Pass { millis } => {
                    now += millis;
                    sessions.handle_timeout(Now::at(now));
                }
                Step::Take => {
                    if let Some(write) = sessions.poll_document() {
                        prop_assert!(in_flight.iter().all(|other| other.user != write.user), "I8");
                        in_flight.push(write);
                    }
                }
                Step::Acknowledge => {
                    if !in_flight.is_empty() {
                        let write = in_flight.remove(0);
                        land(&mut stored, &write);
                        sessions.handle_document_acked(Now::at(now), &write.user);
                    }
                }
                Step::Fail => {
                    if !in_flight.is_empty() {
                        let write = in_flight.remove(0);
                        sessions.handle_document_failed(Now::at(now), &write.user);
                    }
                }
                Step::Settle => {
                    if let Some(session) = unsettled.pop() {
                        sessions.handle_settled(&session);
                    }
                }
            }
            hear(&mut sessions, &mut unsettled);
        }
        let live: Vec<SessionView> =
            opened.iter().filter_map(|(key, _)| sessions.session(*key)).collect();
        while !in_flight.is_empty() || sessions.unsettled() > 0 {
            for write in std::mem::take(&mut in_flight) {
                land(&mut stored, &write);
                sessions.handle_document_acked(Now::at(now), &write.user);
            }
            hear(&mut sessions, &mut unsettled);
            for session in std::mem::take(&mut unsettled) {
                sessions.handle_settled(&session);
            }
            in_flight.extend(std::iter::from_fn(|| sessions.poll_document()));
        }
        let mut listed: Vec<(SessionId, UserId, Status)> = Vec::new();
        for (user, document) in &stored {
            for entry in &document.sessions {
                prop_assert_eq!(&entry.ended, &None);
                listed.push((entry.id.clone(), user.clone(), entry.status));
            }
        }
        listed.sort();
        let mut expected: Vec<(SessionId, UserId, Status)> =
            live.into_iter().map(|view| (view.id, view.user, view.status)).collect();
        expected.sort();
        prop_assert_eq!(&listed, &expected);
        let (online, idle) = sessions.counts();
        prop_assert_eq!(online + idle, listed.len() as u64);
        for (_, id) in &opened {
            let alive = listed.iter().any(|(other, ..)| *other == SessionId::Hosted(*id));
            let pair: &[Hook] = match alive {
                true => &[Hook::SessionConnected],
                false => &[Hook::SessionConnected, Hook::SessionDisconnected],
            };
            prop_assert_eq!(heard.get(id).map(Vec::as_slice), Some(pair), "I6");
            prop_assert!(!(alive && closed.contains_key(id)));
        }
        prop_assert_eq!(sessions.table.len(), listed.len());
    }
}
