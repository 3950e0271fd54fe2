//! Metadata and custom messages, as clients and the admin API give them, and as who asks sees them.

use presence_core::message::Wanted;
use presence_core::metadata::Metadata;
use serde_json::json;

use super::driver::Heard;
use super::*;

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    Metadata::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into()))).unwrap()
}

#[tokio::test]
async fn metadata_is_given_with_the_connection_and_changed_by_messages() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let path = "/v1/connect?user=bob&meta.device=my%20phone&meta.app_version=4.2+1&meta.empty=";
    let mut client = gateway.try_connect(path, &[("user-agent", "test/1")]).await.unwrap();
    assert_eq!(client.next().await["type"], "welcome");
    let (_, session) = gateway.driver.opened().await;
    let expected = [
        ("remote-address", "127.0.0.1"),
        ("user-agent", "test/1"),
        ("meta.app_version", "4.2+1"),
        ("meta.device", "my phone"),
        ("meta.empty", ""),
    ];
    assert_eq!(session.attributes.pairs(), expected.map(|(name, value)| (name.into(), value.into())));

    client.send(r#"{"type":"set_metadata","metadata":{"empty":null,"room":"7"},"id":"1"}"#).await;
    assert_eq!(client.next().await, json!({"type": "ok", "id": "1"}));
    let first = metadata(&[("app_version", "4.2+1"), ("device", "my phone"), ("room", "7")]);
    assert!(matches!(gateway.driver.next().await, Heard::SetMetadata(set) if set == first));

    // All or nothing: the room stays, although it comes before what is wrong.
    let wrong = [
        (r#"{"type":"set_metadata","metadata":{"room":"8","Room":"9"},"id":"2"}"#, "1 to 32 of a-z"),
        (r#"{"type":"set_metadata","metadata":{"room":"8","z":"\u0000"},"id":"2"}"#, "control characters"),
    ];
    for (text, part) in wrong {
        client.send(text).await;
        let error = client.next().await;
        assert_eq!((&error["code"], &error["id"]), (&json!("invalid_message"), &json!("2")), "{text}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
        assert!(matches!(gateway.driver.next().await, Heard::Activity));
    }
    let long = format!(r#"{{"type":"set_metadata","metadata":{{"note":"{}"}}}}"#, "x".repeat(1020));
    client.send(&long).await;
    assert!(client.next().await["message"].as_str().unwrap().contains("at most 1024 bytes"));
    assert!(matches!(gateway.driver.next().await, Heard::Activity));
    client.send(r#"{"type":"set_metadata","metadata":{"device":null,"app_version":null}}"#).await;
    assert_eq!(client.next().await, json!({"type": "ok"}));
    let last = metadata(&[("room", "7")]);
    assert!(matches!(gateway.driver.next().await, Heard::SetMetadata(set) if set == last));
}

#[tokio::test]
async fn metadata_that_is_none_is_refused_before_the_upgrade() {
    let gateway = Gateway::start(open_to_all()).await;
    let many: String = (0..17).map(|n| format!("&meta.k{n}=")).collect();
    let long = format!("&meta.a={}", "x".repeat(1024));
    let cases = [
        ("&meta.=x", "1 to 32 of a-z"),
        ("&meta.Device=x", "1 to 32 of a-z"),
        ("&meta.%64=x", "1 to 32 of a-z"),
        ("&meta.a=%ff", "not percent-encoded UTF-8"),
        ("&meta.a=%00", "control characters"),
        ("&meta.a=1&meta.a=1", "more than once"),
        (&many, "at most 16 keys, not 17"),
        (&long, "at most 1024 bytes together, not 1025"),
    ];
    for (query, part) in cases {
        let (status, detail) = gateway.refused(&format!("/v1/connect?user=bob{query}"), &[]).await;
        assert_eq!(status, 400, "{query}");
        assert!(detail.contains(part), "{query}: {detail}");
    }
}

#[tokio::test]
async fn a_message_that_is_not_certainly_set_is_unavailable() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut client = gateway.connect("bob").await;
    gateway.driver.opened().await;
    client.send(r#"{"type":"set_message","message":"in a meeting","expires_in_ms":5000,"id":"1"}"#).await;
    let error = json!({"type": "error", "code": "unavailable", "message": "there is no store", "id": "1"});
    assert_eq!(client.next().await, error);
    let wanted = Wanted::new(Some("in a meeting"), Some(5000)).unwrap();
    assert!(matches!(gateway.driver.next().await, Heard::SetMessage(set) if set == wanted));
    client.send(r#"{"type":"set_message","message":null}"#).await;
    assert_eq!(client.next().await["code"], "unavailable");
    assert!(matches!(gateway.driver.next().await, Heard::SetMessage(None)));
}

#[tokio::test]
async fn who_asks_is_shown_more_and_who_does_not_is_shown_what_there_was() {
    let gateway = Gateway::start(open_to_all()).await;
    let mut client = gateway.connect("alice").await;
    client.send(r#"{"type":"watch","users":["bob"],"with":["message","metadata"]}"#).await;
    let mut presence = json!({
        "type": "presence", "user": "bob", "status": "online", "since": "1970-01-01T00:00:01.000Z", "revision": 1,
        "message": {"text": "in a meeting", "until": "2025-11-24T16:00:00.123Z"},
        "sessions": [{"status": "idle", "metadata": {"device": "phone"}}],
    });
    assert_eq!(client.next().await, presence);
    assert_eq!(client.next().await, json!({"type": "ok"}));
    client.send(r#"{"type":"watch","users":["bob"],"with":["message"]}"#).await;
    presence.as_object_mut().unwrap().remove("sessions");
    assert_eq!(client.next().await, presence);
    assert_eq!(client.next().await, json!({"type": "ok"}));
    client.send(r#"{"type":"watch","users":["bob"],"with":[]}"#).await;
    let plain = json!({"type": "presence", "user": "bob", "status": "online", "since": null, "revision": 0});
    assert_eq!(client.next().await, plain);
}

/// A request with a body: the status and the answer.
async fn asked(gateway: &Gateway, method: &str, path: &str, kind: &str, body: &str) -> (u16, Value) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        gateway.admin,
        body.len()
    );
    let mut stream = soon(TcpStream::connect(gateway.admin)).await.unwrap();
    soon(stream.write_all(format!("{head}{body}").as_bytes())).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

const JSON: &str = "application/json; charset=utf-8";

#[tokio::test]
async fn backends_read_set_and_clear_messages() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let path = "/v1/users/b%2Fob/message";
    let (status, found) = asked(&gateway, "GET", path, JSON, "").await;
    let message = json!({"text": "in a meeting", "until": "2025-11-24T16:00:00.123Z"});
    assert_eq!((status, found), (200, json!({"user": "b/ob", "message": message})));
    let body = r#"{"message":"at lunch","expires_in_ms":1000}"#;
    let (status, set) = asked(&gateway, "PUT", path, JSON, body).await;
    let message = json!({"text": "at lunch", "until": "2025-11-24T16:00:01.123Z"});
    assert_eq!((status, set), (200, json!({"user": "b/ob", "message": message})));
    let wanted = Wanted::new(Some("at lunch"), Some(1000)).unwrap();
    assert!(matches!(gateway.driver.next().await, Heard::SetMessage(set) if set == wanted));
    let cleared = asked(&gateway, "DELETE", path, JSON, "").await;
    assert_eq!(cleared, (200, json!({"user": "b/ob", "message": null})));
    assert!(matches!(gateway.driver.next().await, Heard::SetMessage(None)));

    gateway.driver.mood.lock().unwrap().users_fail = true;
    for (method, body) in [("GET", ""), ("PUT", body), ("DELETE", "")] {
        assert_eq!(asked(&gateway, method, path, JSON, body).await.0, 503, "{method}");
    }
}

#[tokio::test]
async fn bad_messages_of_backends_are_problems() {
    let gateway = Gateway::start(open_to_all()).await;
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(257));
    let huge = format!(r#"{{"message":"{}"}}"#, "x".repeat(5000));
    let good = r#"{"message":"a"}"#;
    let cases = [
        (JSON, "", 400, "there is none"),
        (JSON, "[]", 422, "must be a JSON object"),
        (JSON, r#"{"message":null}"#, 422, "the body does not fit"),
        (JSON, r#"{"message":"a","expires":5}"#, 422, "unknown field `expires`"),
        (JSON, r#"{"message":" "}"#, 422, "must not be blank"),
        (JSON, r#"{"message":"a\u0000"}"#, 422, "control characters"),
        (JSON, r#"{"message":"a","expires_in_ms":1}"#, 422, "from 1000 to"),
        (JSON, &long, 422, "at most 256 bytes, not 257"),
        (JSON, &huge, 413, "larger than the 4096 bytes"),
        ("text/plain", good, 415, "application/json"),
        ("", good, 415, "application/json"),
    ];
    for (kind, body, status, part) in cases {
        let (found, problem) = asked(&gateway, "PUT", "/v1/users/bob/message", kind, body).await;
        assert_eq!(found, status, "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{body}: {problem}");
    }
    assert_eq!(asked(&gateway, "PUT", "/v1/users/../message", JSON, good).await.0, 400);
    assert_eq!(asked(&gateway, "PUT", "/v1/users/bob/message?x=1", JSON, good).await.0, 400);
    assert_eq!(asked(&gateway, "POST", "/v1/users/bob/message", JSON, good).await.0, 405);
}
