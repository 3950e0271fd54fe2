//! What authors write compiles natively and behaves: the attribute, events as JSON, keyvalue and its fake.

use crate::keyvalue::{self, Bucket};
use crate::testing::{self, keyvalue::Fault};
use crate::{Attributes, Cleanup, HookError, Scope, Session, Status, StatusChange};

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
