//! What a well-behaved client sees, and what the driver hears of it.

use serde_json::json;

use super::driver::Heard;
use super::*;
use crate::driver::Outgoing;
use presence_core::events::Status;
use presence_core::ids::{InstanceId, SessionId};
use presence_core::time::Timestamp;

fn user(text: &str) -> UserId {
    UserId::new(text).unwrap()
}

fn token(subject: &str, expires: u64) -> String {
    signed(json!({"sub": subject, "exp": expires}))
}

fn signed(claims: Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

#[tokio::test]
async fn a_session_from_welcome_to_close() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let headers = [("sec-websocket-protocol", "presence.v1"), ("user-agent", "test/1")];
    let mut client =
        gateway.try_connect("/v1/connect?user=a.b%2Fc%2C*%3E%20%F0%9F%A6%80", &headers).await.unwrap();
    assert_eq!(client.protocol.as_ref().unwrap(), "presence.v1");
    let welcome = json!({
        "type": "welcome", "session": SessionId::Hosted(1), "user": "a.b/c,*> 🦀", "instance": InstanceId(7),
        "status": "online", "heartbeat_ms": 25000,
    });
    assert_eq!(client.next().await, welcome);
    let (_, session) = gateway.driver.opened().await;
    assert_eq!(session.user.as_str(), "a.b/c,*> 🦀");
    let expected =
        [("remote-address", "127.0.0.1"), ("user-agent", "test/1")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(session.attributes.pairs(), expected);
    assert_eq!(session.expires_at, None);

    client.send(r#"{"type":"set_status","status":"idle","id":"1"}"#).await;
    assert_eq!(client.next().await, json!({"type": "ok", "id": "1"}));
    assert!(matches!(gateway.driver.next().await, Heard::SetStatus(Status::Idle, Some(_))));
    client.send(r#"{"type":"watch","users":["bob","carol"],"id":"2"}"#).await;
    let presence = |user: &str, since, revision| json!({"type": "presence", "user": user, "status": "online", "since": since, "revision": revision});
    assert_eq!(client.next().await, presence("bob", None::<&str>, 0));
    assert_eq!(client.next().await, presence("carol", Some("1970-01-01T00:00:01.000Z"), 1));
    assert_eq!(client.next().await, json!({"type": "ok", "id": "2"}));
    assert!(matches!(gateway.driver.next().await, Heard::Watch(users) if users == ["bob", "carol"]));
    client.send(r#"{"type":"unwatch","users":["bob"],"id":"3"}"#).await;
    assert_eq!(client.next().await, json!({"type": "ok", "id": "3"}));
    assert!(matches!(gateway.driver.next().await, Heard::Unwatch(users) if users == ["bob"]));
    client.send(r#"{"type":"ping","id":"4"}"#).await;
    assert_eq!(client.next().await, json!({"type": "pong", "id": "4"}));
    assert!(matches!(gateway.driver.next().await, Heard::Frame));

    soon(client.socket.close(None)).await.unwrap();
    while soon(client.socket.next()).await.is_some_and(|frame| frame.is_ok()) {}
    assert_eq!(gateway.driver.closed().await, "closed");
    gateway.stop().await;
}

#[tokio::test]
async fn pings_of_the_driver_come_back_as_frames() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut client = gateway.connect("alice").await;
    let (connection, _) = gateway.driver.opened().await;
    gateway.driver.push(connection, Outgoing::Ping);
    assert!(matches!(soon(client.socket.next()).await, Some(Ok(Message::Ping(_)))));
    soon(client.socket.flush()).await.unwrap();
    assert!(matches!(gateway.driver.next().await, Heard::Frame));
    soon(client.socket.send(Message::Ping(vec![1].into()))).await.unwrap();
    assert!(matches!(soon(client.socket.next()).await, Some(Ok(Message::Pong(data))) if data[..] == [1]));
    assert!(matches!(gateway.driver.next().await, Heard::Frame));
}

#[tokio::test]
async fn goodbyes_of_the_driver_close_with_their_code() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let cases = [("draining", Some(1200), 1001), ("timeout", None, 4000), ("expired", None, 4001)];
    for (reason, retry_after_ms, code) in cases {
        let mut client = gateway.connect("alice").await;
        let (connection, _) = gateway.driver.opened().await;
        gateway.driver.push(connection, Outgoing::Goodbye { reason, retry_after_ms, code });
        let mut goodbye = json!({"type": "goodbye", "reason": reason});
        if let Some(pause) = retry_after_ms {
            goodbye["retry_after_ms"] = json!(pause);
        }
        assert_eq!(client.next().await, goodbye);
        match soon(client.socket.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), code),
            other => panic!("{other:?}"),
        }
        assert_eq!(gateway.driver.closed().await, reason);
    }
}

#[tokio::test]
async fn a_second_welcome_follows_a_new_instance() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut client = gateway.connect("alice").await;
    let (connection, _) = gateway.driver.opened().await;
    let again = Outgoing::Welcome(SessionId::Hosted(99), InstanceId(8), Status::Idle);
    gateway.driver.push(connection, again);
    let welcome = client.next().await;
    assert_eq!(welcome["session"], SessionId::Hosted(99).to_string());
    assert_eq!((&welcome["status"], &welcome["user"]), (&json!("idle"), &json!("alice")));
}

#[tokio::test]
async fn tokens_open_sessions_that_expire() {
    let mut gateway = Gateway::start(with_tokens()).await;
    let expires = jsonwebtoken::get_current_timestamp() + 60;
    let token = token("alice", expires);
    let bearer = format!("Bearer {token}");
    let protocols = format!("presence.v1, bearer.{token}");
    for headers in [("authorization", bearer.as_str()), ("sec-websocket-protocol", protocols.as_str())] {
        let mut client = gateway.try_connect("/v1/connect", &[headers]).await.unwrap();
        assert_eq!(client.next().await["user"], "alice");
        assert_eq!(gateway.driver.opened().await.1.expires_at, Some(expires * 1000));
        // `auth.watch = "self"`: one user too many refuses the message whole.
        client.send(r#"{"type":"watch","users":["alice","bob"],"id":"w"}"#).await;
        let error = client.next().await;
        assert_eq!((&error["code"], &error["id"]), (&json!("forbidden"), &json!("w")));
        assert!(matches!(gateway.driver.next().await, Heard::Activity));
        client.send(r#"{"type":"watch","users":["alice"]}"#).await;
        assert_eq!(client.next().await["user"], "alice");
        assert!(matches!(gateway.driver.next().await, Heard::Watch(_)));
    }
    let (status, detail) = gateway.refused("/v1/connect?user=alice", &[]).await;
    assert_eq!((status, detail.starts_with("no token")), (401, true));
    let (status, detail) = gateway.refused("/v1/connect", &[("authorization", "Bearer nonsense")]).await;
    assert_eq!((status, detail.as_str()), (401, "the token is not a JSON Web Token"));
}

#[tokio::test]
async fn a_fresh_token_renews_a_session_and_says_anew_whom_it_may_watch() {
    let mut gateway = Gateway::start(with_watch(WatchPolicy::Claims)).await;
    let now = jsonwebtoken::get_current_timestamp();
    let token = |user: &str, expires: u64, watch: &[&str]| {
        signed(json!({"sub": user, "exp": expires, "presence_watch": watch}))
    };
    let bearer = format!("Bearer {}", token("alice", now + 60, &["bob", "carol"]));
    let mut client = gateway.try_connect("/v1/connect", &[("authorization", &bearer)]).await.unwrap();
    assert_eq!(client.next().await["type"], "welcome");
    gateway.driver.opened().await;
    client.send(r#"{"type":"watch","users":["alice","bob","carol"],"id":"w"}"#).await;
    while client.next().await["type"] != "ok" {}
    assert!(matches!(gateway.driver.next().await, Heard::Watch(_)));

    let fresh = token("alice", now + 600, &["carol", "dave"]);
    client.send(&json!({"type": "token", "token": fresh, "id": "t"}).to_string()).await;
    assert_eq!(client.next().await, json!({"type": "ok", "id": "t"}));
    assert!(matches!(gateway.driver.next().await, Heard::Frame));
    match gateway.driver.next().await {
        Heard::Renew(expires_at, lost) => {
            assert_eq!((expires_at, lost), ((now + 600) * 1000, vec!["bob".to_owned()]));
        }
        other => panic!("{other:?}"),
    }
    client.send(r#"{"type":"watch","users":["bob"],"id":"b"}"#).await;
    assert_eq!(client.next().await["code"], "forbidden");
    client.send(r#"{"type":"watch","users":["dave"]}"#).await;
    assert_eq!(client.next().await["user"], "dave");
    assert_eq!(client.next().await["type"], "ok");

    let (_, metrics) = get(gateway.admin, "/metrics").await;
    assert!(metrics.contains("\npresence_gateway_tokens_renewed_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_fresh_token_that_is_not_taken_leaves_the_session_as_it_was() {
    let mut gateway = Gateway::start(with_tokens()).await;
    let now = jsonwebtoken::get_current_timestamp();
    let bearer = format!("Bearer {}", token("alice", now + 60));
    let mut client = gateway.try_connect("/v1/connect", &[("authorization", &bearer)]).await.unwrap();
    assert_eq!(client.next().await["type"], "welcome");
    gateway.driver.opened().await;
    for (fresh, part) in [
        (token("bob", now + 600), "another user"),
        (token("alice", now - 600), "has expired"),
        ("nonsense".to_owned(), "not a JSON Web Token"),
        (String::new(), "not a JSON Web Token"),
        ("x".repeat(9000), "longer than 8192 bytes"),
    ] {
        client.send(&json!({"type": "token", "token": fresh, "id": "t"}).to_string()).await;
        let error = client.next().await;
        assert_eq!((&error["code"], &error["id"]), (&json!("invalid_token"), &json!("t")), "{part}");
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
        assert!(matches!(gateway.driver.next().await, Heard::Frame), "{part}");
    }
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next().await["type"], "pong");
    // Who goes on guessing is sent away.
    for _ in 0..6 {
        client.send(r#"{"type":"token","token":"guess"}"#).await;
    }
    assert_eq!(client.goodbye().await, ("abuse".to_owned(), 1008));

    let mut open = Gateway::start(open_to_all()).await;
    let mut client = open.connect("alice").await;
    open.driver.opened().await;
    client.send(&json!({"type": "token", "token": token("alice", now + 600)}).to_string()).await;
    let error = client.next().await;
    assert!(error["message"].as_str().unwrap().contains("takes no tokens"), "{error}");
}

#[tokio::test]
async fn a_host_that_is_not_ready_refuses_sessions() {
    let gateway = Gateway::start(open_to_all()).await;
    for (refused, pause) in [(Refused::Starting, "1"), (Refused::Draining, "5")] {
        gateway.driver.mood.lock().unwrap().refuse = Some(refused);
        match gateway.try_connect("/v1/connect?user=alice", &[]).await {
            Err(SocketError::Http(response)) => {
                assert_eq!(response.status(), 503);
                assert_eq!(response.headers()["retry-after"], pause);
            }
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_and_is_dropped_in_the_end_i8() {
    let bounds = bounds(|bounds| bounds.write = Duration::from_millis(300));
    let mut gateway = Gateway::with_limits(open_to_all(), 10, bounds).await;
    let _client = gateway.connect("alice").await;
    let (connection, session) = gateway.driver.opened().await;
    // More than any socket buffer holds, of a client that reads nothing.
    let feeding = async {
        for round in 0.. {
            for at in 0..1000 {
                let name = format!("{at:0>250}");
                let frame = Outgoing::Presence(user(&name), Status::Online, Timestamp(round), round + 1);
                gateway.driver.push(connection, frame);
            }
            assert!(session.outbox.len() <= 1000, "unsent ones give way to newer ones");
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = feeding => unreachable!(),
        () = async { while Arc::strong_count(&session.outbox) > 2 { tokio::task::yield_now().await } } => {}
        () = tokio::time::sleep(BOUND) => panic!("the slow reader is still there"),
    }
    assert_eq!(gateway.driver.closed().await, "timeout");
    let (_, metrics) = get(gateway.admin, "/metrics").await;
    assert!(
        metrics.contains("presence_gateway_connections_cut_total{reason=\"slow_reader\"} 1\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn answers_do_not_pile_up_when_they_are_not_read_i8() {
    let bounds = bounds(|bounds| bounds.write = Duration::from_millis(500));
    let mut gateway = Gateway::with_limits(open_to_all(), 10, bounds).await;
    let mut client = gateway.connect("alice").await;
    let (_, session) = gateway.driver.opened().await;
    let text = format!(r#"{{"type":"set_status","status":"idle","id":"{}"}}"#, "x".repeat(128));
    let mut longest = 0;
    // A client that only writes: the host stops reading, so that in the end it can't write either.
    loop {
        longest = longest.max(session.outbox.len());
        match timeout(BOUND, client.socket.send(Message::text(text.as_str()))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => panic!("neither stopped nor dropped"),
        }
    }
    assert!(longest <= Outbox::MAX_ANSWERS + 64 + 1, "{longest} answers waited");
    assert_eq!(gateway.driver.closed().await, "timeout");
}
