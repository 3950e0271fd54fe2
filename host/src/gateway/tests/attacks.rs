//! Known attacks on WebSocket and HTTP endpoints over real sockets, a test for each; docs/authentication.md lists them by
//! the names of the tests. None of them may disturb another client.

use std::collections::BTreeSet;

use serde_json::json;

use super::limits::NONE;
use super::*;
use crate::gateway::protocol::MAX_MESSAGE_BYTES;

/// The head of a request for a session of alice, without its end.
const UPGRADE: &str = "GET /v1/connect?user=alice HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What is waited for in vain, and therefore not for long.
const SOON: Duration = Duration::from_millis(300);

/// A second client that must go on working.
async fn still_served(client: &mut Client) {
    client.send(r#"{"type":"ping","id":"still"}"#).await;
    while client.next().await["id"] != "still" {}
}

/// A frame whose mask changes nothing.
fn frame(first: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match data.len() {
        0..=125 => frame.push(0x80 | data.len() as u8),
        126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((data.len() as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((data.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(data);
    frame
}

async fn write(client: &mut Client, bytes: &[u8]) {
    let MaybeTlsStream::Plain(stream) = client.socket.get_mut() else { panic!("not plain") };
    // The host may have had enough before everything is written.
    let _ = soon(stream.write_all(bytes)).await;
}

/// Each of these frames ends its session with this code, and nobody else's.
async fn each_is_closed_with(code: u16, reason: &str, attacks: Vec<Vec<u8>>) {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut other = gateway.connect("bob").await;
    for attack in attacks {
        let mut client = gateway.connect("alice").await;
        write(&mut client, &attack).await;
        let shown = &attack[..attack.len().min(24)];
        assert_eq!(client.goodbye().await, (reason.to_owned(), code), "{shown:02x?}");
        assert_eq!(gateway.driver.closed().await, "abuse", "{shown:02x?}");
    }
    still_served(&mut other).await;
}

async fn is_refused(address: SocketAddr, request: &str, statuses: &[&str]) {
    let (head, _) = raw(address, request).await;
    let status = head.split(' ').nth(1).unwrap_or_default();
    assert!(statuses.contains(&status), "{head:?} for {request:?}");
}

async fn counted(gateway: &Gateway, family: &str, label: &str) -> u64 {
    let (_, metrics) = get(gateway.admin, "/metrics").await;
    let name = format!("{family}_total{{{label}}} ");
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(&name)?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

async fn cut(gateway: &Gateway, reason: &str) -> u64 {
    counted(gateway, "presence_gateway_connections_cut", &format!("reason=\"{reason}\"")).await
}

#[tokio::test]
async fn cross_site_websockets() {
    let gateway = Gateway::start(open_to_all()).await;
    let pages = ["https://evil.example", "null", "http://localhost.evil.example", "file://"];
    for origin in pages {
        let headers = [("origin", origin), ("cookie", "session=alice")];
        assert_eq!(gateway.refused("/v1/connect?user=alice", &headers).await.0, 403, "{origin}");
    }
    // A name of the page's own that leads here.
    assert_eq!(gateway.refused("/v1/connect?user=alice", &[("host", "evil.example:7070")]).await.0, 403);

    let listed = JwtSettings { origins: Some(vec!["https://app.example".into()]), ..jwt() };
    let auth =
        AuthSettings { mode: AuthMode::Jwt(Box::new(listed)), watch: WatchPolicy::Own, query_token: false };
    let gateway = Gateway::start(auth).await;
    for origin in pages {
        let headers = [("origin", origin), ("cookie", "session=alice")];
        assert_eq!(gateway.refused("/v1/connect", &headers).await.0, 403, "{origin}");
    }
    // No cookie stands for a token.
    let own = [("origin", "https://app.example"), ("cookie", "access_token=a.b.c; session=alice")];
    assert_eq!(gateway.refused("/v1/connect", &own).await.0, 401);
}

#[tokio::test]
async fn slow_heads() {
    let gateway = Gateway::with_limits(open_to_all(), 10, bounds(|bounds| bounds.head = SOON)).await;
    let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
    stream.write_all(b"GET /v1/connect HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    // Always a little more, never the end: no header may reset the time.
    let dripping = async {
        while stream.write_all(b"X-A: b\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(dripping).await;
    assert_eq!(cut(&gateway, "head").await, 1);
}

#[tokio::test]
async fn slow_bodies() {
    let short = |bounds: &mut Bounds| (bounds.head, bounds.body) = (SOON, SOON);
    let gateway = Gateway::with_limits(open_to_all(), 10, bounds(short)).await;
    let request = "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx";
    // Answered or cut, but not waited for.
    raw(gateway.admin, request).await;
    let request =
        "PUT /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    raw(gateway.admin, request).await;
    assert_eq!(get(gateway.admin, "/healthz").await.0.split(' ').nth(1), Some("200"));
}

#[tokio::test]
async fn silent_connections() {
    let gateway = Gateway::with_limits(open_to_all(), 3, bounds(|bounds| bounds.head = SOON)).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(gateway.clients).await.unwrap());
    }
    for mut stream in silent {
        assert_eq!(soon(stream.read(&mut [0; 1])).await.unwrap_or(0), 0, "it is closed without a word");
    }
    assert_eq!(cut(&gateway, "head").await, 3);
    // Their places are free again.
    let connected = async { while gateway.try_connect("/v1/connect?user=alice", &[]).await.is_err() {} };
    soon(connected).await;
}

#[tokio::test]
async fn fragmented_floods() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut other = gateway.connect("bob").await;
    // Pieces that are small, of a message that is not.
    let mut client = gateway.connect("alice").await;
    let mut flood = frame(0x01, b"x");
    for _ in 0..MAX_MESSAGE_BYTES {
        flood.extend(frame(0x00, b"x"));
    }
    write(&mut client, &flood).await;
    assert_eq!(client.goodbye().await, ("too_large".to_owned(), 1009));
    assert_eq!(gateway.driver.closed().await, "abuse");
    // Pieces of nothing: they take no room, and others go on.
    let mut client = gateway.connect("alice").await;
    let mut flood = frame(0x01, b"{");
    for _ in 0..100_000 {
        flood.extend(frame(0x00, b""));
    }
    write(&mut client, &flood).await;
    still_served(&mut other).await;
    write(&mut client, &frame(0x80, br#""type":"ping"}"#)).await;
    assert_eq!(client.next().await, json!({"type": "pong"}));
    assert_eq!(cut(&gateway, "too_large").await, 1);
}

#[tokio::test]
async fn unfinished_fragments() {
    let begun = |second: Vec<u8>| [frame(0x01, b"{"), second].concat();
    let attacks = vec![
        begun(frame(0x81, b"{}")),
        begun(frame(0x01, b"{}")),
        begun(frame(0x82, b"{}")),
        frame(0x80, b"{}"),
        frame(0x00, b""),
    ];
    each_is_closed_with(1002, "protocol_error", attacks).await;
    // What is left unfinished takes a session's room and no more.
    let mut gateway = Gateway::start(open_to_all()).await;
    let mut client = gateway.connect("alice").await;
    write(&mut client, &frame(0x01, &vec![b' '; MAX_MESSAGE_BYTES])).await;
    write(&mut client, &frame(0x89, b"")).await;
    match soon(client.socket.next()).await {
        Some(Ok(Message::Pong(_))) => {}
        other => panic!("{other:?}"),
    }
    drop(client);
    gateway.driver.closed().await;
}

#[tokio::test]
async fn compression_bombs() {
    let gateway = Gateway::start(open_to_all()).await;
    let request =
        format!("{UPGRADE}Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n");
    let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && !head.contains("extensions"), "{head}");
    // Compressed all the same.
    each_is_closed_with(1002, "protocol_error", vec![frame(0xc1, b"\xaa\x56\x2a\xa9"), frame(0x41, b"\xaa")])
        .await;
}

#[tokio::test]
async fn unmasked_frames() {
    let attacks = vec![vec![0x81, 2, b'{', b'}'], vec![0x89, 0], vec![0x01, 1, b'{']];
    each_is_closed_with(1002, "protocol_error", attacks).await;
}

#[tokio::test]
async fn oversized_control_frames() {
    let attacks = vec![
        frame(0x89, &[b'x'; 126]),
        frame(0x8a, &[b'x'; 126]),
        frame(0x88, &[b'x'; 126]),
        frame(0x89, &[b'x'; 1000]),
        frame(0x09, b"in pieces"),
        frame(0x08, b""),
    ];
    each_is_closed_with(1002, "protocol_error", attacks).await;
}

#[tokio::test]
async fn reserved_opcodes_and_bits() {
    let opcodes = [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf].map(|opcode| frame(0x80 | opcode, b"x"));
    let bits = [0x40, 0x20, 0x10, 0x70].map(|bits| frame(0x81 | bits, b"{}"));
    each_is_closed_with(1002, "protocol_error", [&opcodes[..], &bits[..]].concat()).await;
}

#[tokio::test]
async fn huge_frames() {
    // Only the head of a frame: nothing is set aside for what it announces.
    let announced = |length: u64| [&[0x81, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
    let attacks =
        vec![announced(1 << 20), announced(1 << 40), announced(i64::MAX as u64), announced(u64::MAX)];
    each_is_closed_with(1009, "too_large", attacks).await;
}

#[tokio::test]
async fn texts_that_are_none() {
    let attacks = vec![
        frame(0x81, b"\xff\xfe"),
        frame(0x81, b"\xed\xa0\x80"),
        frame(0x81, b"\xc0\xaf"),
        [frame(0x01, b"\xf0\x9f"), frame(0x80, b"\xff")].concat(),
    ];
    each_is_closed_with(1007, "protocol_error", attacks).await;
}

#[tokio::test]
async fn floods_of_messages() {
    let limits = ClientLimits { messages_per_second: Some(5), ..NONE };
    let mut gateway = Gateway::within(open_to_all(), limits).await;
    let mut other = gateway.connect("bob").await;
    gateway.driver.opened().await;
    let mut client = gateway.connect("alice").await;
    gateway.driver.opened().await;
    for number in 0..5 {
        client.send(&format!(r#"{{"type":"ping","id":"{number}"}}"#)).await;
        assert_eq!(client.next().await["type"], "pong");
    }
    client.send(r#"{"type":"set_status","status":"idle","id":"6"}"#).await;
    let told = client.next().await;
    // A machine that stood still in between has let time for one more pass.
    if told["type"] == "error" {
        assert_eq!((&told["code"], &told["id"]), (&json!("too_fast"), &json!("6")));
    }
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.extend(frame(0x81, br#"{"type":"ping"}"#));
    }
    write(&mut client, &flood).await;
    assert_eq!(client.goodbye().await, ("abuse".to_owned(), 1008));
    assert!(counted(&gateway, "presence_gateway_errors", "code=\"too_fast\"").await >= 11);
    assert_eq!(cut(&gateway, "abuse").await, 1);
    still_served(&mut other).await;
}

#[tokio::test]
async fn floods_of_pings() {
    let gateway = Gateway::within(open_to_all(), ClientLimits { messages_per_second: Some(5), ..NONE }).await;
    for first in [0x89, 0x8a] {
        let mut client = gateway.connect("alice").await;
        let mut flood = Vec::new();
        for _ in 0..200 {
            flood.extend(frame(first, b"x"));
        }
        write(&mut client, &flood).await;
        assert_eq!(client.goodbye().await, ("abuse".to_owned(), 1008));
    }
}

#[tokio::test]
async fn huge_heads() {
    let gateway = Gateway::start(open_to_all()).await;
    for address in [gateway.clients, gateway.admin] {
        for part in [
            format!("/{} HTTP/1.1\r\n", "x".repeat(70_000)),
            format!("/ HTTP/1.1\r\nX: {}\r\n", "x".repeat(70_000)),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The host may answer and close before everything is written.
            let _ = stream.write_all(format!("GET {part}").as_bytes()).await;
            let mut answer = [0; 12];
            match soon(stream.read_exact(&mut answer)).await {
                Ok(_) => assert!([b"HTTP/1.1 431", b"HTTP/1.1 414"].contains(&&answer), "{answer:?}"),
                // What was left unread resets the connection, which may overtake the answer.
                Err(error) => assert!(error.kind() != std::io::ErrorKind::TimedOut, "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn too_many_headers() {
    let gateway = Gateway::start(open_to_all()).await;
    let headers: String = (0..100).map(|number| format!("X-{number}: 1\r\n")).collect();
    for address in [gateway.clients, gateway.admin] {
        is_refused(address, &format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"), &["431"]).await;
    }
}

#[tokio::test]
async fn request_smuggling() {
    // Connections that are kept end soon, so that all that is answered can be read.
    let gateway = Gateway::with_limits(open_to_all(), 100, bounds(|bounds| bounds.head = SOON)).await;
    let hidden = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (te, chunks) = ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n");
    let ambiguous = [
        format!("Content-Length: {}\r\n{te}\r\n{chunks}{hidden}", chunks.len() + hidden.len()),
        format!("{te}Content-Length: {}\r\n\r\n{chunks}{hidden}", chunks.len() + hidden.len()),
        format!("Content-Length: 0\r\n{te}\r\n{chunks}{hidden}"),
        format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("Content-Length: 0, {}\r\n\r\n{hidden}", hidden.len()),
        format!("Content-Length: +0\r\n\r\n{hidden}"),
        format!("Content-Length : 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n{chunks}{hidden}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n{chunks}{hidden}"),
        format!("Transfer-Encoding : chunked\r\n\r\n{chunks}{hidden}"),
        format!("X: y\rContent-Length: 5\r\n\r\n{hidden}"),
        format!(" Content-Length: 0\r\n\r\n{hidden}"),
    ];
    for address in [gateway.clients, gateway.admin] {
        for rest in &ambiguous {
            let request = format!("POST /v1/users HTTP/1.1\r\nHost: localhost\r\n{rest}");
            let (head, body) = raw(address, &request).await;
            let answers =
                head.matches("http/1.1 ").count() + body.to_ascii_lowercase().matches("http/1.1 ").count();
            assert!(answers <= 1, "{rest:?} hides a request: {head}\n{body}");
            assert!(!body.contains("# TYPE presence"), "{rest:?}: {body}");
        }
    }
}

#[tokio::test]
async fn http_1_0() {
    let gateway = Gateway::start(open_to_all()).await;
    let request = format!("{}\r\n", UPGRADE.replace("HTTP/1.1", "HTTP/1.0"));
    is_refused(gateway.clients, &request, &["426"]).await;
    let chunked =
        "POST /v1/reload HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    is_refused(gateway.admin, chunked, &["400"]).await;
    is_refused(gateway.admin, "GET /v1/users/bob HTTP/2.0\r\nHost: localhost\r\n\r\n", &["400", "505"]).await;
}

#[tokio::test]
async fn upgrades_with_a_body() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let hidden = "xxxx";
    for head in ["Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n"] {
        is_refused(gateway.clients, &format!("{UPGRADE}{head}\r\n{hidden}"), &["400"]).await;
    }
    // Nothing was opened by any of them.
    gateway.connect("bob").await;
    assert_eq!(gateway.driver.opened().await.1.user.as_str(), "bob");
}

#[tokio::test]
async fn broken_handshakes() {
    let gateway = Gateway::start(open_to_all()).await;
    let without = |line: &str| {
        UPGRADE.split_inclusive("\r\n").filter(|found| !found.starts_with(line)).collect::<String>()
    };
    for (request, status) in [
        (without("Sec-WebSocket-Key"), "400"),
        (UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"), "400"),
        (UPGRADE.replace("Version: 13", "Version: 8"), "426"),
        (without("Sec-WebSocket-Version"), "426"),
        (without("Upgrade"), "426"),
        (without("Connection"), "426"),
        (without("Host"), "403"),
        (UPGRADE.replace("GET", "POST"), "405"),
        (format!("{UPGRADE}Host: localhost\r\n"), "403"),
        (format!("{UPGRADE}Sec-WebSocket-Protocol: chat\r\n"), "400"),
        (format!("{UPGRADE}X-\u{7f}: a\r\n"), "400"),
        (format!("{UPGRADE}X: a\nY: \0\r\n"), "400"),
    ] {
        let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
        stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        soon(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{request:?}");
    }
}

/// The table of docs/authentication.md names each of these tests, and no other.
#[test]
fn every_attack_is_in_the_document() {
    let page = include_str!("../../../../docs/authentication.md");
    let (_, section) = page.split_once("### On WebSockets and HTTP\n").expect("a section");
    let section = section.split("\n#").next().unwrap_or_default();
    let documented: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .collect();
    let source = include_str!("attacks.rs");
    let mut tests: BTreeSet<&str> = source
        .split("#[tokio::test]\nasync fn ")
        .skip(1)
        .filter_map(|test| test.split_once("()"))
        .map(|(name, _)| name)
        .collect();
    assert!(tests.len() >= 18, "{tests:?}");
    // Those that need more than a socket are beside what they are about.
    for (name, source) in [
        ("what_is_no_handshake_is_cut", include_str!("tls.rs")),
        ("a_slow_reader_gets_the_newest_and_is_dropped_in_the_end_i8", include_str!("sessions.rs")),
        ("a_user_has_so_many_sessions_and_no_more_i8", include_str!("limits.rs")),
        ("too_many_connects_a_second_are_put_off", include_str!("limits.rs")),
        ("too_many_connections_get_503_and_the_others_stay_i8", include_str!("bad_input.rs")),
    ] {
        assert!(source.contains(&format!("async fn {name}()")), "{name}");
        tests.insert(name);
    }
    assert_eq!(documented, tests);
}
