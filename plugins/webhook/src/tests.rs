//! What is sent for each event, and how it is signed.

use presence_plugin::http::Response;
use presence_plugin::{Scope, Status, testing};
use serde_json::{Value, json};

use super::*;

const NOW_MS: u64 = 1_764_060_000_000;

fn config() -> Config {
    Config { url: "https://hooks.example/presence?t=1".to_string(), secret: None, headers: BTreeMap::new() }
}

fn webhook(config: Config) -> Webhook {
    testing::reset();
    testing::set_now_ms(NOW_MS);
    Webhook::configure(config).unwrap_or_else(|error| panic!("{error}"))
}

fn context() -> Context {
    Context { event_id: "e-1".to_string(), attempt: 2, time_left_ms: 2000, ..Context::default() }
}

fn session() -> Session {
    Session {
        id: "s-1".to_string(),
        user: "alice".to_string(),
        instance: "i-1".to_string(),
        status: Status::Online,
        connected_at: 1_764_059_400_125,
        attributes: [("remote-address", "192.0.2.1"), ("meta.app", "web")].into_iter().collect(),
    }
}

fn session_json() -> Value {
    json!({
        "id": "s-1", "user": "alice", "instance": "i-1", "status": "online", "connected_at": 1_764_059_400_125u64,
        "attributes": {"remote-address": "192.0.2.1", "meta.app": "web"},
    })
}

fn sent() -> Value {
    let requests = testing::requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].method, "POST");
    assert_eq!(requests[0].url, config().url);
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    requests[0].json()
}

#[test]
fn session_events() {
    let webhook = webhook(config());
    webhook.session_connected(&context(), &session()).unwrap();
    assert_eq!(
        sent(),
        json!({
            "type": "session-connected", "id": "e-1", "timestamp": "2025-11-25T08:30:00.125Z", "data": session_json(),
        })
    );
    let event =
        SessionDisconnected { session: session(), reason: "timeout".to_string(), duration_ms: 60_000 };
    webhook.session_disconnected(&context(), &event).unwrap();
    assert_eq!(
        sent(),
        json!({
            "type": "session-disconnected", "id": "e-1", "timestamp": "2025-11-25T08:31:00.125Z",
            "data": {"session": session_json(), "reason": "timeout", "duration_ms": 60_000},
        })
    );
}

#[test]
fn status_events() {
    let webhook = webhook(config());
    let event = StatusChange {
        user: "alice".to_string(),
        previous: Some(Status::Idle),
        current: Status::Offline,
        since: 1_764_059_400_125,
        revision: 7,
        sessions: 0,
        last_seen: Some(1_764_059_395_125),
    };
    webhook.user_offline(&context(), &event).unwrap();
    assert_eq!(
        sent(),
        json!({
            "type": "user-offline", "id": "e-1", "timestamp": "2025-11-25T08:30:00.125Z",
            "data": {
                "user": "alice", "previous": "idle", "current": "offline", "since": 1_764_059_400_125u64,
                "revision": 7, "sessions": 0, "last_seen": 1_764_059_395_125u64,
            },
        })
    );
    webhook
        .user_online(&context(), &StatusChange { previous: None, last_seen: None, ..event.clone() })
        .unwrap();
    let document = sent();
    assert_eq!((&document["type"], &document["data"]["previous"]), (&json!("user-online"), &Value::Null));
    webhook.user_idle(&context(), &event).unwrap();
    assert_eq!(sent()["type"], "user-idle");
}

#[test]
fn cleanups_list_the_sessions() {
    let webhook = webhook(config());
    let scope = Scope::Lost { instance: "i-1".to_string(), sessions: vec![session()] };
    let event = Cleanup { cause: "instance-lost".to_string(), scope, chunk: 1, last: false };
    webhook.cleanup(&context(), &event).unwrap();
    assert_eq!(
        sent(),
        json!({
            "type": "cleanup", "id": "e-1", "timestamp": time::rfc3339(NOW_MS),
            "data": {
                "cause": "instance-lost", "chunk": 1, "last": false,
                "scope": {"lost": {"instance": "i-1", "sessions": [session_json()]}},
            },
        })
    );
    let none = Scope::Lost { instance: "i-2".to_string(), sessions: vec![] };
    webhook.cleanup(&context(), &Cleanup { scope: none, chunk: 0, last: true, ..event.clone() }).unwrap();
    let data = sent()["data"].clone();
    assert_eq!((&data["chunk"], &data["last"]), (&json!(0), &json!(true)));
    assert_eq!(data["scope"], json!({"lost": {"instance": "i-2", "sessions": []}}), "it held no session");
    webhook.cleanup(&context(), &Cleanup { scope: Scope::Everything, ..event }).unwrap();
    assert_eq!(sent()["data"]["scope"], "everything");
}

/// The example of the Standard Webhooks specification.
#[test]
fn signs_as_the_specification_says() {
    let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let body = br#"{"test": 2432232314}"#;
    assert_eq!(
        signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body),
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    );
}

#[test]
fn requests_are_signed_and_carry_the_headers() {
    let webhook = webhook(Config {
        secret: Some("not base64!".to_string()),
        headers: BTreeMap::from([("Authorization".to_string(), "Bearer x".to_string())]),
        ..config()
    });
    webhook.session_connected(&context(), &session()).unwrap();
    let request = testing::requests().remove(0);
    assert_eq!(request.header("webhook-id"), Some("e-1"));
    assert_eq!(request.header("webhook-timestamp"), Some("1764060000"));
    let expected = signature(b"not base64!", "e-1", "1764060000", &request.body);
    assert_eq!(request.header("webhook-signature"), Some(expected.as_str()));
    assert_eq!(request.header("authorization"), Some("Bearer x"));
}

#[test]
fn refusals_are_dead_letters_and_outages_are_not() {
    let webhook = webhook(config());
    testing::answer(Ok(Response::new(410)));
    let error = webhook.session_connected(&context(), &session()).unwrap_err();
    assert_eq!(error, HookError::reject("POST https://hooks.example/presence answered 410"));
    testing::answer(Ok(Response::new(429).with_header("Retry-After", "7")));
    let error = webhook.session_connected(&context(), &session()).unwrap_err();
    assert!(matches!(error, HookError::Retry { after_ms: Some(7000), .. }));
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let refused = |config: Config| Webhook::configure(config).err().expect("refused");
    assert!(refused(Config { url: "hooks.example".to_string(), ..config() }).starts_with("config.url: "));
    for secret in ["", "whsec_", "whsec_?"] {
        assert!(
            refused(Config { secret: Some(secret.to_string()), ..config() }).starts_with("config.secret: ")
        );
    }
    for name in ["a b", "Webhook-Id", "Content-Length"] {
        let headers = BTreeMap::from([(name.to_string(), "x".to_string())]);
        assert!(refused(Config { headers, ..config() }).starts_with("config.headers: "), "{name}");
    }
}
