//! What authors write compiles natively and behaves: the attribute, events as JSON, keyvalue and its fake.

use crate::keyvalue::{self, Bucket};
use crate::testing::{self, keyvalue::Fault};
use crate::{Attributes, Cleanup, HookError, Scope, Session, Status, StatusChange, Tick};
use crate::{messaging, presence};

fn session() -> Session {
    let attributes: Attributes = [("user-agent", "x"), ("meta.app", "web")].into_iter().collect();
    let text = |text: &str| text.to_string();
    Session {
        id: text("s"),
        user: text("alice"),
        instance: text("i"),
        status: Status::Idle,
        connected_at: 5,
        attributes,
    }
}

#[test]
fn events_are_the_contracts_records_in_snake_case() {
    let json = |scope| {
        let event = Cleanup { cause: "instance-lost".to_string(), scope, chunk: 0, last: true };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Cleanup>(&text).unwrap(), event);
        text
    };
    assert_eq!(
        json(Scope::Everything),
        r#"{"cause":"instance-lost","scope":"everything","chunk":0,"last":true}"#
    );
    assert_eq!(
        json(Scope::Lost { instance: "i".to_string(), sessions: vec![session()] }),
        concat!(
            r#"{"cause":"instance-lost","scope":{"lost":{"instance":"i","sessions":[{"id":"s","user":"alice","#,
            r#""instance":"i","status":"idle","connected_at":5,"attributes":{"meta.app":"web","user-agent":"x"}}]}},"#,
            r#""chunk":0,"last":true}"#
        )
    );
    let change = StatusChange {
        user: "bob".to_string(),
        previous: None,
        current: Status::Offline,
        since: 1,
        revision: 2,
        sessions: 0,
        last_seen: Some(3),
    };
    assert_eq!(
        serde_json::to_string(&change).unwrap(),
        r#"{"user":"bob","previous":null,"current":"offline","since":1,"revision":2,"sessions":0,"last_seen":3}"#
    );
    assert_eq!(
        serde_json::to_string(&Tick { due: 120_000, interval_ms: 60_000 }).unwrap(),
        r#"{"due":120000,"interval_ms":60000}"#
    );
}

#[test]
fn messages_are_kept_for_the_test() {
    testing::reset();
    let message = || messaging::Message::to("app.a").header("x", "y");
    message().json(&Tick { due: 1, interval_ms: 1 }).publish().unwrap();
    let sent = testing::messages();
    assert_eq!((sent.len(), &*sent[0].subject, &sent[0].json()["due"]), (1, "app.a", &serde_json::json!(1)));
    assert_eq!(sent[0].headers, [("x".to_string(), "y".to_string())]);
    let error = message().payload(vec![0; messaging::MAX_PAYLOAD + 1]).publish().unwrap_err();
    assert!(!HookError::from(error).is_retry(), "what is too large stays so");
    let unwritable = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = message().json(&unwritable).publish().unwrap_err();
    assert!(matches!(error, messaging::Error::Invalid(_)), "{error}");
    testing::refuse_messages(Some(messaging::Error::Unavailable("away".to_string())));
    assert!(HookError::from(message().publish().unwrap_err()).is_retry());
    assert_eq!(testing::messages(), []);
}

#[test]
fn look_ups_answer_what_the_test_has_set_in_the_order_of_the_question() {
    testing::reset();
    testing::set_now_ms(7);
    testing::set_status("alice", Status::Online);
    testing::set_status("alice", Status::Offline);
    let users: Vec<String> = (0..presence::MAX_USERS).map(|number| format!("u{number}")).collect();
    let found = presence::lookup(users.into_iter().chain(["alice".to_string()])).unwrap();
    assert_eq!((found.len(), &*found[3].user, found[3].revision), (presence::MAX_USERS + 1, "u3", 0));
    let alice = found.last().unwrap();
    assert_eq!((alice.since, alice.revision, alice.last_seen), (Some(7), 2, Some(7)));
    testing::refuse_lookups(Some(presence::Error::Denied("no".to_string())));
    assert!(HookError::from(presence::status("alice").unwrap_err()).is_retry());
}

#[test]
fn attributes_are_found_by_name() {
    let session = session();
    assert_eq!((session.attributes.get("meta.app"), session.attributes.get("meta")), (Some("web"), None));
    assert_eq!(session.attributes.iter().next(), Some(("meta.app", "web")));
}

#[test]
fn keyvalue_compares_and_counts() {
    testing::reset();
    let bucket = Bucket::new("b");
    let first = bucket.compare_and_set("k", None, "1").unwrap().expect("absent");
    assert_eq!(bucket.compare_and_set("k", None, "2"), Ok(None));
    assert_eq!(bucket.compare_and_set("k", Some(first + 1), "2"), Ok(None));
    assert!(bucket.compare_and_set("k", Some(first), "2").unwrap().is_some());
    assert_eq!(bucket.get("k").unwrap().unwrap().value, b"2");
    assert_eq!((bucket.increment("n", 5), bucket.increment("n", -7)), (Ok(5), Ok(-2)));
    assert_eq!(bucket.get("n").unwrap().unwrap().value, b"-2");
    bucket.delete("k").unwrap();
    assert_eq!((bucket.get("k"), Bucket::new("other").get("n")), (Ok(None), Ok(None)));
    let error = bucket.set("k", vec![0; keyvalue::MAX_VALUE + 1]).unwrap_err();
    assert!(!HookError::from(error).is_retry(), "what is too large stays so");
}

#[test]
fn keys_come_page_by_page() {
    testing::reset();
    let bucket = Bucket::new("b");
    for number in 0..8 {
        bucket.set(&format!("a/{number}"), "").unwrap();
        bucket.set(&format!("b/{number}"), "").unwrap();
    }
    let keys: Vec<String> = bucket.keys("a/").collect::<Result<_, _>>().unwrap();
    assert_eq!(keys, (0..8).map(|number| format!("a/{number}")).collect::<Vec<_>>());
    let rest: Vec<String> = bucket.keys_after("a/", "a/4").collect::<Result<_, _>>().unwrap();
    assert_eq!(rest, ["a/5", "a/6", "a/7"]);
    testing::keyvalue::disturb(Some(Fault::Before(1)));
    let found: Vec<_> = bucket.keys("a/").collect();
    testing::keyvalue::disturb(None);
    assert_eq!((found.len(), found[3].is_err()), (4, true), "a page, then the error, then no more");
}

#[test]
fn faults_cut_a_guest_off_before_or_after_a_step() {
    testing::reset();
    let bucket = Bucket::new("b");
    testing::keyvalue::disturb(Some(Fault::After(1)));
    assert!(bucket.set("a", "").is_ok());
    assert!(bucket.set("b", "").is_err(), "done, and not heard of");
    assert!(bucket.set("c", "").is_err());
    testing::keyvalue::disturb(None);
    assert_eq!(bucket.keys("").collect::<Result<Vec<_>, _>>().unwrap(), ["a", "b"]);
}

#[test]
fn waits_are_capped_to_what_the_contract_can_say() {
    let error = HookError::retry_after("later", std::time::Duration::from_secs(1 << 40));
    assert_eq!(error, HookError::Retry { message: "later".to_string(), after_ms: Some(u32::MAX) });
}
