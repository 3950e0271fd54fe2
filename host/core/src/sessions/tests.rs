//! Whole effects of the sessions, rule by rule.

use super::*;

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
        listed: Default::default(),
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
    SessionEffect::Hook(SessionEvent { session, change, partition: None })
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
fn a_fresh_token_lets_a_session_stay_and_a_shorter_one_ends_it_sooner() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let open = |sessions: &mut LocalSessions, id| {
        let id = SessionId::Hosted(id);
        let expires = Some(Timestamp(5000));
        sessions.handle_open(Now::at(1000), id, user("alice"), Attributes::default(), expires)
    };
    let (longer, shorter, over) = (open(&mut sessions, 1), open(&mut sessions, 2), open(&mut sessions, 3));
    sessions.handle_renew(Now::at(2000), longer, Timestamp(9000));
    sessions.handle_renew(Now::at(2000), shorter, Timestamp(3000));
    assert_eq!(sessions.poll_timeout(), Some(Tick(3000)));
    let ended = |key| [SessionEffect::End { key, reason: "expired".into() }];
    sessions.handle_timeout(Now::at(3000));
    assert_eq!(effects(&mut sessions), ended(shorter));
    sessions.handle_timeout(Now::at(5000));
    assert_eq!(effects(&mut sessions), ended(over));
    sessions.handle_renew(Now::at(5001), over, Timestamp(99_000));
    sessions.handle_timeout(Now::at(8999));
    assert_eq!(effects(&mut sessions), [], "one has come too late, the other lives");
    sessions.handle_timeout(Now::at(9000));
    assert_eq!(effects(&mut sessions), ended(longer));
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

#[test]
fn a_ping_is_due_again_soon_after_a_frame_also_when_the_timeout_is_the_longer_wait() {
    let (heartbeat, heartbeat_timeout) = (Duration::from_secs(5), Duration::from_secs(60));
    let mut sessions = LocalSessions::new(SessionsConfig { heartbeat, heartbeat_timeout, ..config() }, HERE);
    let key = open(&mut sessions, 0, 1, "alice");
    sessions.handle_timeout(Now::at(5000));
    assert_eq!(effects(&mut sessions), [SessionEffect::Ping(key)]);
    sessions.handle_frame(Now::at(5100), key);
    assert_eq!(sessions.poll_timeout(), Some(Tick(10_100)));
    sessions.handle_timeout(Now::at(10_100));
    assert_eq!(effects(&mut sessions), [SessionEffect::Ping(key)]);
}

#[test]
fn a_host_that_wakes_up_late_pings_before_it_gives_up_on_a_client() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let key = open(&mut sessions, 0, 1, "alice");
    sessions.handle_timeout(Now::at(3_600_000));
    assert_eq!(effects(&mut sessions), [SessionEffect::Ping(key)]);
    sessions.handle_timeout(Now::at(3_609_999));
    assert_eq!(effects(&mut sessions), []);
    sessions.handle_timeout(Now::at(3_610_000));
    assert_eq!(effects(&mut sessions), [SessionEffect::End { key, reason: "timeout".into() }]);
}

#[test]
fn a_token_expires_by_the_wall_clock_even_when_that_is_set() {
    let expires = Some(Timestamp(100_000));
    let both = |wall: u64, tick: u64| Now { wall: Timestamp(wall), tick: Tick(tick) };
    let start = |sessions: &mut LocalSessions| {
        let id = SessionId::Hosted(1);
        sessions.handle_open(both(95_000, 0), id, user("alice"), Attributes::default(), expires)
    };
    let mut set_back = LocalSessions::new(config(), HERE);
    let key = start(&mut set_back);
    assert_eq!(set_back.poll_timeout(), Some(Tick(5000)));
    set_back.handle_timeout(both(98_000, 5000));
    assert_eq!(effects(&mut set_back), []);
    assert_eq!(set_back.poll_timeout(), Some(Tick(7000)));
    set_back.handle_timeout(both(100_000, 7000));
    assert_eq!(effects(&mut set_back), [SessionEffect::End { key, reason: "expired".into() }]);

    let expires = Some(Timestamp(1_000_000));
    let mut set_forward = LocalSessions::new(config(), HERE);
    let id = SessionId::Hosted(1);
    let key = set_forward.handle_open(both(0, 0), id, user("alice"), Attributes::default(), expires);
    set_forward.handle_timeout(both(2_000_000, 25_000));
    let ended = [SessionEffect::End { key, reason: "expired".into() }];
    assert_eq!(effects(&mut set_forward), ended, "noticed at the next heartbeat");
}

#[test]
fn the_clients_word_replaces_idleness_by_inactivity() {
    let idle_after = Some(Duration::from_secs(10));
    let mut sessions = LocalSessions::new(SessionsConfig { idle_after, ..config() }, HERE);
    let key = open(&mut sessions, 0, 1, "alice");
    sessions.handle_timeout(Now::at(10_000));
    assert_eq!(sessions.session(key).unwrap().status, Status::Idle);
    sessions.handle_set_status(Now::at(11_000), key, Status::Idle);
    sessions.handle_activity(Now::at(12_000), key);
    assert_eq!(sessions.session(key).unwrap().status, Status::Idle, "explicit now");
    sessions.handle_set_status(Now::at(13_000), key, Status::Online);
    assert_eq!(sessions.poll_timeout(), Some(Tick(23_000)));
}

#[test]
fn a_document_lists_sessions_by_id_and_they_are_announced_the_oldest_first() {
    let mut sessions = LocalSessions::new(config(), HERE);
    for (at, id) in [(1, 2), (2, 3), (3, 1)] {
        open(&mut sessions, at, id, "alice");
    }
    let listed = [(1, 3), (2, 1), (3, 2)].map(|(id, at)| entry(id, Status::Online, at, None));
    assert_eq!(sessions.poll_document(), put("alice", listed.to_vec()));
    sessions.handle_document_acked(Now::at(4), &user("alice"));
    let announced = [(2, 1), (3, 2), (1, 3)]
        .map(|(id, at)| hook(id, "alice", Status::Online, at, SessionChange::Connected));
    assert_eq!(effects(&mut sessions), announced);
}

#[test]
fn a_session_opened_while_a_document_is_in_flight_waits_for_the_next_one() {
    let mut sessions = LocalSessions::new(config(), HERE);
    open(&mut sessions, 1, 1, "alice");
    sessions.poll_document().unwrap();
    open(&mut sessions, 2, 2, "alice");
    sessions.handle_document_acked(Now::at(3), &user("alice"));
    assert_eq!(effects(&mut sessions), [hook(1, "alice", Status::Online, 1, SessionChange::Connected)]);
    sessions.handle_document_acked(Now::at(3), &user("alice"));
    assert_eq!(effects(&mut sessions), [], "nothing was in flight");
    let both = vec![entry(1, Status::Online, 1, None), entry(2, Status::Online, 2, None)];
    assert_eq!(sessions.poll_document(), put("alice", both));
    sessions.handle_document_acked(Now::at(4), &user("alice"));
    assert_eq!(effects(&mut sessions), [hook(2, "alice", Status::Online, 2, SessionChange::Connected)]);
}

#[test]
fn an_answer_without_a_write_says_nothing() {
    let mut sessions = LocalSessions::new(config(), HERE);
    open(&mut sessions, 1, 1, "alice");
    sessions.poll_document().unwrap();
    sessions.handle_document_failed(Now::at(2), &user("alice"));
    sessions.handle_document_acked(Now::at(3), &user("alice"));
    sessions.handle_document_failed(Now::at(3), &user("alice"));
    sessions.handle_document_acked(Now::at(3), &user("bob"));
    assert_eq!(effects(&mut sessions), []);
    assert_eq!(sessions.unsettled(), 1, "the document is still to be written");
}

#[test]
fn the_last_host_to_leave_holds_nobody_also_when_it_finds_out_late() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let land = |sessions: &mut LocalSessions| {
        let write = sessions.poll_document().unwrap();
        sessions.handle_document_acked(Now::at(9), &user("alice"));
        write
    };
    open(&mut sessions, 1, 1, "alice");
    land(&mut sessions);
    sessions.handle_drain(Now::at(2), Some(Timestamp(500)));
    sessions.handle_settled(&SessionId::Hosted(1));
    let held = SessionDocument { sessions: vec![], drained_until: Some(Timestamp(500)) };
    assert_eq!(land(&mut sessions).document, Some(Arc::new(held)));
    sessions.handle_drain(Now::at(3), Some(Timestamp(500)));
    assert_eq!(sessions.poll_document(), None, "nothing new");
    sessions.handle_drain(Now::at(4), None);
    assert_eq!(land(&mut sessions), DocumentWrite { user: user("alice"), document: None });
    assert_eq!((sessions.unsettled(), sessions.table.find_user(&user("alice"))), (0, None));
}

#[test]
fn i8_connections_that_come_and_go_leave_no_timers_behind() {
    let mut sessions = LocalSessions::new(config(), HERE);
    for id in 1..=10_000 {
        let key = open(&mut sessions, 1, id, "alice");
        sessions.handle_close(Now::at(1), key, "closed".into());
        assert!(sessions.timers.len() <= SPARE_TIMERS + TIMERS_PER_SESSION);
        sessions.poll_document().unwrap();
        sessions.handle_document_acked(Now::at(1), &user("alice"));
        sessions.handle_settled(&SessionId::Hosted(id));
    }
    assert_eq!(sessions.table.len(), 0);
}

#[test]
fn a_host_that_was_declared_dead_announces_its_sessions_under_new_ids() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let alice = open(&mut sessions, 1000, 1, "alice");
    open(&mut sessions, 1000, 2, "bob");
    while sessions.poll_document().is_some() {}
    sessions.handle_document_acked(Now::at(1001), &user("alice"));
    sessions.handle_document_acked(Now::at(1001), &user("bob"));
    effects(&mut sessions);
    let gone = open(&mut sessions, 2000, 3, "carol");
    assert!(sessions.poll_document().is_some());
    sessions.handle_close(Now::at(2001), gone, "closed".into());
    sessions.handle_set_status(Now::at(2001), alice, Status::Idle);

    let mut next = 100;
    let keys = sessions.handle_reborn(InstanceId(8), || {
        next += 1;
        SessionId::Hosted(next)
    });
    assert_eq!(keys.len(), 2, "carol's session is named in the cleanup of the old instance");
    assert_eq!(sessions.instance(), InstanceId(8));
    assert_eq!(sessions.unsettled(), 2, "the new documents");
    assert_eq!(sessions.poll_document(), put("alice", vec![entry(101, Status::Idle, 1000, None)]));
    assert_eq!(sessions.poll_document(), put("bob", vec![entry(102, Status::Online, 1000, None)]));
    assert_eq!(sessions.poll_document(), None);
    sessions.handle_document_acked(Now::at(3000), &user("alice"));
    let mut expected = hook(101, "alice", Status::Idle, 1000, SessionChange::Connected);
    if let SessionEffect::Hook(event) = &mut expected {
        event.session.instance = InstanceId(8);
    }
    assert_eq!(effects(&mut sessions), [expected]);
    assert_eq!(sessions.counts(), (1, 1));
}

#[test]
fn a_recreated_store_gets_every_document_again() {
    let mut sessions = LocalSessions::new(config(), HERE);
    open(&mut sessions, 1000, 1, "alice");
    open(&mut sessions, 1000, 2, "bob");
    assert!(sessions.poll_document().is_some());
    assert_eq!(sessions.handle_reassert(), [user("alice")], "a copy of it may take effect later");
    assert!(!sessions.is_listed());
    // At once: no answer of the old store is waited for. Bob's waits for the first time.
    let written: Vec<_> = std::iter::from_fn(|| sessions.poll_document()).collect();
    let alice = put("alice", vec![entry(1, Status::Online, 1000, None)]).unwrap();
    let bob = put("bob", vec![entry(2, Status::Online, 1000, None)]).unwrap();
    assert_eq!(written, [bob, alice]);
    assert_eq!(effects(&mut sessions), []);
    sessions.handle_document_acked(Now::at(1001), &user("alice"));
    assert_eq!(effects(&mut sessions), [hook(1, "alice", Status::Online, 1000, SessionChange::Connected)]);
    assert!(!sessions.is_listed());
    sessions.handle_document_failed(Now::at(1001), &user("bob"));
    assert!(sessions.poll_document().is_some());
    assert!(!sessions.is_listed());
    sessions.handle_document_acked(Now::at(1002), &user("bob"));
    assert!(sessions.is_listed());
    // Who was announced before is not announced again.
    effects(&mut sessions);
    assert_eq!(sessions.handle_reassert(), []);
    assert_eq!(std::iter::from_fn(|| sessions.poll_document()).count(), 2);
    for name in ["alice", "bob"] {
        sessions.handle_document_acked(Now::at(1003), &user(name));
    }
    assert_eq!(effects(&mut sessions), []);
    assert!(sessions.is_listed());
}

#[test]
fn metadata_that_changes_is_written_and_later_hooks_tell_it() {
    let mut sessions = LocalSessions::new(config(), HERE);
    let said = |device: &str| {
        let device = ("device".to_owned(), device.to_owned());
        Attributes::default().with_metadata(&crate::metadata::Metadata::new([device]).unwrap())
    };
    let key = sessions.handle_open(Now::at(1), SessionId::Hosted(1), user("alice"), said("phone"), None);
    let of =
        |attributes| put("alice", vec![SessionEntry { attributes, ..entry(1, Status::Online, 1, None) }]);
    assert_eq!(sessions.poll_document(), of(said("phone")));
    sessions.handle_document_acked(Now::at(2), &user("alice"));
    effects(&mut sessions);
    sessions.handle_attributes(key, said("phone"));
    assert_eq!(sessions.poll_document(), None, "nothing is new");
    sessions.handle_attributes(key, said("desk"));
    assert_eq!(sessions.poll_document(), of(said("desk")));
    sessions.handle_document_acked(Now::at(3), &user("alice"));
    assert_eq!(effects(&mut sessions), []);
    sessions.handle_close(Now::at(9), key, "closed".into());
    match &effects(&mut sessions)[..] {
        [SessionEffect::Hook(event)] => assert_eq!(event.session.attributes, said("desk")),
        other => panic!("{other:?}"),
    }
    sessions.handle_attributes(key, said("late"));
    assert_eq!(sessions.poll_document().unwrap().document.unwrap().sessions[0].attributes, said("desk"));
}
