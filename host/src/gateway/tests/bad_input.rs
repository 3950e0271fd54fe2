//! Everything that a client can do wrong, through the real sockets. None of it may disturb another client.

use serde_json::json;

use super::driver::Heard;
use super::*;
use crate::gateway::protocol::MAX_MESSAGE_BYTES;

/// A second client that must go on working.
async fn still_served(client: &mut Client) {
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next().await, json!({"type": "pong"}));
}

#[tokio::test]
async fn malformed_messages_get_an_error_and_the_connection_stays_i7() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut other = gateway.connect("bob").await;
    gateway.driver.opened().await;
    let mut client = gateway.connect("alice").await;
    gateway.driver.opened().await;
    let cases = [
        ("{not json", None),
        (r#"{"type":"shout","id":"1"}"#, Some("1")),
        (r#"{"type":"set_status","status":"offline","id":"2"}"#, Some("2")),
        (r#"{"type":"watch","users":[""],"id":"3"}"#, Some("3")),
        (r#"{"type":"watch","users":[".."],"id":"4"}"#, Some("4")),
    ];
    for (text, id) in cases {
        client.send(text).await;
        let error = client.next().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("invalid_message")), "{text}");
        assert_eq!(error["id"].as_str(), id, "{text}");
        assert!(matches!(gateway.driver.next().await, Heard::Frame), "{text}");
    }
    soon(client.socket.send(Message::binary(vec![1, 2, 3]))).await.unwrap();
    let error = client.next().await;
    assert!(error["message"].as_str().unwrap().contains("binary"), "{error}");
    still_served(&mut client).await;
    still_served(&mut other).await;
}

#[tokio::test]
async fn an_oversized_message_closes_with_1009() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut other = gateway.connect("bob").await;
    for bytes in [MAX_MESSAGE_BYTES + 1, 600_000] {
        let mut client = gateway.connect("alice").await;
        client.send(&"x".repeat(bytes)).await;
        assert_eq!(client.goodbye().await, ("too_large".to_owned(), 1009));
        assert_eq!(gateway.driver.closed().await, "abuse");
    }
    let mut client = gateway.connect("alice").await;
    client.send(&" ".repeat(MAX_MESSAGE_BYTES)).await;
    assert_eq!(client.next().await["type"], "error");
    still_served(&mut other).await;
}

#[tokio::test]
async fn repeated_abuse_closes_with_1008() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut client = gateway.connect("alice").await;
    for _ in 0..11 {
        client.send("nonsense").await;
    }
    assert_eq!(client.goodbye().await, ("abuse".to_owned(), 1008));
    assert_eq!(gateway.driver.closed().await, "abuse");
}

#[tokio::test]
async fn a_session_watches_so_many_users_and_no_more_i8() {
    let gateway = Gateway::start(open_to_all()).await;
    let mut client = gateway.connect("alice").await;
    let watch = |from: usize, count: usize| {
        let users: Vec<String> = (from..from + count).map(|n| format!("\"u{n}\"")).collect();
        format!(r#"{{"type":"watch","users":[{}],"id":"w"}}"#, users.join(","))
    };
    for part in 0..10 {
        client.send(&watch(part * 1000, 1000)).await;
        while client.next().await["type"] != "ok" {}
    }
    client.send(&watch(9_999, 2)).await;
    let error = client.next().await;
    assert_eq!((&error["code"], &error["id"]), (&json!("too_many"), &json!("w")));
    // Those already watched may be named again, and unwatching makes room.
    client.send(&watch(0, 1000)).await;
    while client.next().await["type"] != "ok" {}
    client.send(r#"{"type":"unwatch","users":["u0"],"id":"x"}"#).await;
    while client.next().await["type"] != "ok" {}
    client.send(&watch(9_999, 2)).await;
    while client.next().await["type"] != "ok" {}
    client.send(&watch(0, 1001)).await;
    assert_eq!(client.next().await["code"], "too_many");
}

#[tokio::test]
async fn unusable_user_ids_are_refused_before_the_upgrade() {
    let gateway = Gateway::start(open_to_all()).await;
    let long = "x".repeat(257);
    let cases = [
        ("", "must not be empty"),
        ("..", "`.` and `..`"),
        ("%2E", "`.` and `..`"),
        ("a%00b", "control characters"),
        ("a%C2%85b", "control characters"),
        ("%ff", "not percent-encoded UTF-8"),
        ("%4", "not percent-encoded UTF-8"),
        ("a&user=b", "more than once"),
        (&long, "at most 256 bytes"),
    ];
    for (user, part) in cases {
        let (status, detail) = gateway.refused(&format!("/v1/connect?user={user}"), &[]).await;
        assert_eq!(status, 400, "{user}");
        assert!(detail.contains(part), "{user}: {detail}");
    }
    let (status, detail) = gateway.refused("/v1/connect", &[]).await;
    assert_eq!((status, detail.contains("?user=<id>")), (400, true));
}

#[tokio::test]
async fn web_pages_of_another_origin_are_refused() {
    let gateway = Gateway::start(open_to_all()).await;
    for origin in ["https://example.org", "null"] {
        let (status, _) = gateway.refused("/v1/connect?user=alice", &[("origin", origin)]).await;
        assert_eq!(status, 403, "{origin}");
    }
    let (status, _) =
        gateway.refused("/v1/connect?user=alice", &[("host", "rebound.example.org:7070")]).await;
    assert_eq!(status, 403);
    gateway.try_connect("/v1/connect?user=alice", &[("origin", "http://localhost:3000")]).await.unwrap();
}

#[tokio::test]
async fn unknown_subprotocols_are_refused() {
    let gateway = Gateway::start(open_to_all()).await;
    let (status, detail) = gateway.refused("/v1/connect?user=a", &[("sec-websocket-protocol", "chat")]).await;
    assert_eq!((status, detail.contains("presence.v1")), (400, true));
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_problems_on_both_listeners() {
    let gateway = Gateway::start(open_to_all()).await;
    for address in [gateway.clients, gateway.admin] {
        for path in ["/", "/v1", "/v1/connect/", "/v1/nothing", "/%ff"] {
            let (head, body) = get(address, path).await;
            assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
            assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
            assert!(body.contains("\"status\":404"), "{body}");
        }
    }
    for (address, path) in
        [(gateway.clients, "/v1/connect"), (gateway.admin, "/v1/users"), (gateway.admin, "/metrics")]
    {
        for method in ["POST", "DELETE", "PUT"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
            let (head, _) = raw(address, &request).await;
            assert!(head.starts_with("http/1.1 405"), "{method} {path}: {head}");
            assert_eq!(head.matches("allow: get").count(), 1, "{head}");
            assert!(head.contains("content-type: application/problem+json"), "{head}");
        }
    }
    let (head, _) = raw(
        gateway.clients,
        "HEAD /v1/connect?user=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(head.starts_with("http/1.1 405"), "{head}");
    let (head, body) = get(gateway.clients, "/v1/connect?user=a").await;
    assert!(head.starts_with("http/1.1 426") && head.contains("upgrade: websocket"), "{head}");
    assert!(body.contains("ask for an upgrade"), "{body}");
}

#[tokio::test]
async fn what_is_not_http_or_too_long_is_answered_and_closed() {
    let gateway = Gateway::start(open_to_all()).await;
    let (head, _) = raw(gateway.clients, "\u{16}\u{3}\u{1}\0\0 nonsense\r\n\r\n").await;
    assert!(head.starts_with("http/1.1 400"), "{head}");
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
    // The host may answer and close before everything is written.
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = [0; 12];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up_i8() {
    let bounds = bounds(|bounds| bounds.head = Duration::from_millis(100));
    let gateway = Gateway::with_limits(open_to_all(), 10, bounds).await;
    for text in ["", "GET /v1/connect HTTP/1.1\r\nHost: lo"] {
        raw(gateway.clients, text).await;
    }
}

#[tokio::test]
async fn broken_websocket_frames_close_with_their_code() {
    let mut gateway = Gateway::start(open_to_all()).await;
    // Unmasked, a reserved opcode, a reserved bit, a fragmented control frame; then a text that is not UTF-8.
    let masked = |first: u8, data: &[u8]| [&[first, 0x80 | data.len() as u8, 0, 0, 0, 0], data].concat();
    let cases = [
        (vec![0x81, 1, b'x'], 1002_u16),
        (masked(0x83, b"x"), 1002),
        (masked(0xc1, b"x"), 1002),
        (masked(0x09, b"x"), 1002),
        (masked(0x81, b"\xff\xff"), 1007),
    ];
    for (frame, code) in cases {
        let mut client = gateway.connect("alice").await;
        let MaybeTlsStream::Plain(stream) = client.socket.get_mut() else { panic!("not plain") };
        stream.write_all(&frame).await.unwrap();
        assert_eq!(client.goodbye().await, ("protocol_error".to_owned(), code), "{frame:02x?}");
        assert_eq!(gateway.driver.closed().await, "abuse");
    }
}

#[tokio::test]
async fn clients_that_vanish_end_their_session() {
    let mut gateway = Gateway::start(open_to_all()).await;
    drop(gateway.connect("alice").await);
    assert_eq!(gateway.driver.closed().await, "closed");
    // In the middle of the handshake: whatever was opened is closed.
    let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
    let request = "GET /v1/connect?user=alice HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(gateway.driver.closed().await, "closed");
}

#[tokio::test]
async fn a_frame_sent_with_the_handshake_is_not_lost() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
    let mut request = b"GET /v1/connect?user=alice HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    request.extend([0x89, 0x80, 0, 0, 0, 0]);
    stream.write_all(&request).await.unwrap();
    gateway.driver.opened().await;
    assert!(matches!(gateway.driver.next().await, Heard::Frame));
}

#[tokio::test]
async fn too_many_connections_get_503_and_the_others_stay_i8() {
    let gateway = Gateway::with_limits(open_to_all(), 2, bounds(|_| ())).await;
    let mut first = gateway.connect("alice").await;
    let second = gateway.connect("bob").await;
    let (status, detail) = gateway.refused("/v1/connect?user=carol", &[]).await;
    assert_eq!((status, detail.as_str()), (503, "this host has as many clients as it may"));
    still_served(&mut first).await;
    // A place is free once a connection has ended, upgraded or not.
    drop(second);
    let connected = async {
        loop {
            if let Ok(client) = gateway.try_connect("/v1/connect?user=carol", &[]).await {
                break client;
            }
        }
    };
    soon(connected).await;
    let (_, text) = get(gateway.admin, "/metrics").await;
    assert!(text.contains("presence_gateway_connections_refused_total{reason=\"full\"}"), "{text}");
}

#[tokio::test]
async fn ports_in_use_and_open_doors_are_refused_at_bind() {
    let gateway = Gateway::start(open_to_all()).await;
    let mut taken = settings(open_to_all());
    taken.host.admin = gateway.admin;
    let error = bind(&taken).await.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), format!("host.admin: can't listen on {}", gateway.admin));
    let mut open = settings(open_to_all());
    open.host.listen = "0.0.0.0:0".parse().unwrap();
    let error = bind(&open).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("auth.mode is \"none\", but host.listen is 0.0.0.0:0"), "{error}");
}
