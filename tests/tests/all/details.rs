//! Metadata of sessions and custom messages of users: who asks sees them, wherever they were set, and nobody else does.

use presence_tests::{Client, Config, Daemon, Holder, NatsServer, Plugin, Recorder, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A session with metadata: the rest of the query.
async fn client_with(daemon: &Daemon, user: &str, metadata: &str) -> Client {
    let path = format!("/v1/connect?user={user}&{metadata}");
    Client::open(daemon.clients(), user, &path, &[]).await.expect("anybody may come")
}

/// Watches with everything.
async fn watch_all(client: &mut Client, user: &str) {
    let with = json!({"type": "watch", "users": [user], "with": ["message", "metadata"]});
    client.request(with).await;
}

async fn set_message(client: &mut Client, message: &str, expires_in_ms: u64) {
    let set = json!({"type": "set_message", "message": message, "expires_in_ms": expires_in_ms});
    let id = client.request(set).await;
    client.expect(json!({"type": "ok", "id": id})).await;
}

/// A request with a JSON body: the answer's.
async fn asked(daemon: &Daemon, method: &str, path: &str, body: &str) -> Value {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        daemon.admin(),
        body.len()
    );
    let mut stream = TcpStream::connect(daemon.admin()).await.expect("it listens");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("no JSON ({error}): {answer}"))
}

fn keys(message: &Value) -> Vec<&str> {
    message.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn who_asks_sees_message_and_metadata_and_nobody_else_does() {
    let recorder = Recorder::start().await;
    let daemon = Daemon::with(Plugin::webhook(&recorder)).presence("offline_grace = \"0s\"").start().await;
    let (mut asks, mut plain) = (daemon.client("asks").await, daemon.client("plain").await);
    watch_all(&mut asks, "bob").await;
    let first = json!({"user": "bob", "status": "offline", "revision": 0, "message": null, "sessions": []});
    asks.expect(first).await;
    plain.watch(&["bob"]).await;
    plain.expect(json!({"user": "bob", "status": "offline"})).await;

    let mut bob = client_with(&daemon, "bob", "meta.device=phone&meta.app_version=4.2").await;
    let phone = json!([{"status": "online", "metadata": {"app_version": "4.2", "device": "phone"}}]);
    let online = asks.expect(json!({"status": "online", "sessions": phone})).await;
    set_message(&mut bob, "in a meeting", 3_600_000).await;
    let told = asks.expect(json!({"message": {"text": "in a meeting"}})).await;
    assert_eq!((&told["status"], &told["revision"]), (&json!("online"), &online["revision"]));
    assert_eq!(told["message"], daemon.user("bob").await["message"]);

    let id = bob
        .request(json!({"type": "set_metadata", "metadata": {"device": "desk", "app_version": null}}))
        .await;
    bob.expect(json!({"type": "ok", "id": id})).await;
    asks.expect(json!({"sessions": [{"status": "online", "metadata": {"device": "desk"}}]})).await;
    bob.idle().await;
    asks.expect(json!({"status": "idle", "sessions": [{"status": "idle", "metadata": {"device": "desk"}}]}))
        .await;
    bob.close().await;
    let gone = asks.expect(json!({"status": "offline", "sessions": []})).await;
    assert_eq!(gone["message"]["text"], "in a meeting", "it outlives the session");

    // The other one was told of three changes of status, as ever.
    for status in ["online", "idle", "offline"] {
        let told = plain.expect_next(json!({"user": "bob", "status": status})).await;
        assert_eq!(keys(&told), ["revision", "since", "status", "type", "user"]);
    }
    let connected = recorder.until_events("session-connected", 3).await;
    let of_bob = connected.iter().find(|event| event["data"]["user"] == "bob").expect("bob's");
    let attributes = &of_bob["data"]["attributes"];
    assert_eq!(
        (&attributes["meta.device"], &attributes["meta.app_version"]),
        (&json!("phone"), &json!("4.2"))
    );
    let ended = recorder.until_events("session-disconnected", 1).await;
    let attributes = &ended[0]["data"]["session"]["attributes"];
    assert_eq!((&attributes["meta.device"], &attributes["meta.app_version"]), (&json!("desk"), &Value::Null));
}

#[tokio::test]
async fn the_metadata_of_held_sessions_is_seen_too() {
    let daemon = Daemon::with("").presence("offline_grace = \"0s\"").start().await;
    let mut asks = daemon.client("asks").await;
    watch_all(&mut asks, "bob").await;
    asks.expect(json!({"user": "bob", "sessions": []})).await;
    let holder = Holder::register(&daemon, "chat-1", "a", 30).await;
    holder.put("s1", json!({"user": "bob", "metadata": {"device": "tv"}})).await;
    let tv = json!([{"status": "online", "metadata": {"device": "tv"}}]);
    asks.expect(json!({"status": "online", "sessions": tv})).await;
    holder.delete("s1", "bob").await;
    asks.expect(json!({"status": "offline", "sessions": []})).await;
}

#[tokio::test]
async fn a_message_expires_is_cleared_and_is_set_by_backends() {
    let daemon = Daemon::with("").start().await;
    let mut alice = daemon.client("alice").await;
    watch_all(&mut alice, "bob").await;
    alice.expect(json!({"user": "bob", "message": null})).await;
    // Nobody has ever seen bob.
    let set = asked(&daemon, "PUT", "/v1/users/bob/message", r#"{"message":"on leave"}"#).await;
    let told = alice.expect(json!({"message": {"text": "on leave"}})).await;
    assert_eq!((&told["status"], &told["message"]), (&json!("offline"), &set["message"]));
    let short = r#"{"message":"back in a second","expires_in_ms":1000}"#;
    asked(&daemon, "PUT", "/v1/users/bob/message", short).await;
    alice.expect_next(json!({"message": {"text": "back in a second"}})).await;
    alice.expect_next(json!({"message": null})).await;
    assert_eq!(daemon.user("bob").await["message"], Value::Null);

    let mut bob = daemon.client("bob").await;
    set_message(&mut bob, "hello", 60_000).await;
    alice.expect(json!({"message": {"text": "hello"}})).await;
    let cleared = asked(&daemon, "DELETE", "/v1/users/bob/message", "").await;
    assert_eq!(cleared, json!({"user": "bob", "message": null}));
    alice.expect(json!({"message": null})).await;
}

#[tokio::test]
async fn what_is_not_allowed_changes_nothing() {
    let daemon = Daemon::with("").start().await;
    let mut bob = client_with(&daemon, "bob", "meta.device=phone").await;
    set_message(&mut bob, "before", 60_000).await;
    for message in [
        json!({"type": "set_message", "message": "x".repeat(257)}),
        json!({"type": "set_message", "message": "a\u{7}"}),
        json!({"type": "set_message", "message": "a", "expires_in_ms": 999}),
        json!({"type": "set_metadata", "metadata": {"device": "desk", "Bad": "1"}}),
        json!({"type": "watch", "users": ["bob"], "with": ["address"]}),
    ] {
        let id = bob.request(message).await;
        bob.expect_next(json!({"type": "error", "code": "invalid_message", "id": id})).await;
    }
    watch_all(&mut bob, "bob").await;
    let phone = json!([{"status": "online", "metadata": {"device": "phone"}}]);
    bob.expect_next(json!({"message": {"text": "before"}, "sessions": phone})).await;
}

/// The configuration of a host of this name.
fn host(nats: &NatsServer, name: &str) -> Config {
    let cluster = format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\ninstance_ttl = \"4s\"", nats.url());
    Config::default().host(&format!("name = \"{name}\"")).section(cluster).presence("offline_grace = \"0s\"")
}

#[tokio::test]
async fn what_is_set_on_one_host_is_seen_on_another() {
    let nats = NatsServer::start().await;
    let (a, b) = (host(&nats, "a").start().await, host(&nats, "b").start().await);
    let mut watcher = b.client("alice").await;
    watch_all(&mut watcher, "bob").await;
    watcher.expect(json!({"user": "bob", "message": null, "sessions": []})).await;

    let mut bob = client_with(&a, "bob", "meta.device=phone").await;
    let phone = json!([{"status": "online", "metadata": {"device": "phone"}}]);
    watcher.expect(json!({"status": "online", "sessions": phone})).await;
    set_message(&mut bob, "in a meeting", 3_600_000).await;
    watcher.expect(json!({"status": "online", "message": {"text": "in a meeting"}, "sessions": phone})).await;
    for host in [&a, &b] {
        assert_eq!(host.user("bob").await["message"]["text"], "in a meeting");
    }
    // The other host sets another one, which ends by itself.
    let short = r#"{"message":"soon over","expires_in_ms":1000}"#;
    asked(&b, "PUT", "/v1/users/bob/message", short).await;
    watcher.expect_next(json!({"message": {"text": "soon over"}})).await;
    watcher.expect_next(json!({"message": null, "sessions": phone})).await;
    for host in [&a, &b] {
        assert_eq!(host.user("bob").await["message"], Value::Null);
    }
    // A session with metadata ends while the status stays.
    let other = a.client("bob").await;
    bob.close().await;
    watcher.expect(json!({"status": "online", "sessions": []})).await;
    other.close().await;
    watcher.expect(json!({"status": "offline", "message": null, "sessions": []})).await;
}

#[tokio::test]
async fn a_host_that_dies_takes_its_sessions_along_and_leaves_the_message() {
    let nats = NatsServer::start().await;
    let (a, b) = (host(&nats, "a").start().await, host(&nats, "b").start().await);
    let mut phone = client_with(&a, "bob", "meta.device=phone").await;
    let _desk = client_with(&b, "bob", "meta.device=desk").await;
    set_message(&mut phone, "in a meeting", 3_600_000).await;
    let mut watcher = b.client("alice").await;
    watch_all(&mut watcher, "bob").await;
    let both = until("both are told of", async || {
        let told = watcher.expect(json!({"user": "bob"})).await;
        (told["sessions"].as_array().map(Vec::len) == Some(2)).then_some(told)
    })
    .await;
    let devices: Vec<&Value> =
        both["sessions"].as_array().unwrap().iter().map(|session| &session["metadata"]["device"]).collect();
    assert_eq!(devices, ["desk", "phone"], "the one opened last comes first");
    a.kill().await;
    let left = json!([{"status": "online", "metadata": {"device": "desk"}}]);
    let told = watcher.expect(json!({"status": "online", "sessions": left})).await;
    assert_eq!(told["message"]["text"], "in a meeting");
    assert_eq!(told["revision"], both["revision"], "his status is what it was");
    // And it is still there after everything has started afresh.
    drop(watcher);
    b.kill().await;
    let again = host(&nats, "c").start().await;
    assert_eq!(again.user("bob").await["message"]["text"], "in a meeting");
}
