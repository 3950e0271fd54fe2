//! Holders at one host: what a backend that holds its users' connections itself can count on, over HTTP and over one
//! WebSocket.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use presence_tests::{Config, Daemon, Holder, Plugin, Recorder, ask, send, until};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

mod node;

/// A host without grace, and what its webhook plugin tells.
async fn host() -> (Daemon, Recorder) {
    let recorder = Recorder::start().await;
    let config = Config::default().presence("offline_grace = \"0s\"").section(Plugin::webhook(&recorder));
    (config.start().await, recorder)
}

/// The sessions that a cleanup of this instance names, sorted, once it was told.
async fn cleaned_up(recorder: &Recorder, instance: &str) -> Vec<String> {
    let lost = until(format!("the cleanup after {instance}"), async || {
        let events = recorder.events();
        events.into_iter().find(|event| event["data"]["scope"]["lost"]["instance"] == instance)
    });
    let lost = lost.await;
    let sessions = lost["data"]["scope"]["lost"]["sessions"].as_array().expect("a list");
    let mut ids: Vec<String> =
        sessions.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn a_held_session_is_a_session() {
    let (daemon, recorder) = host().await;
    let holder = Holder::register(&daemon, "chat-1", "a", 30).await;
    let facts = json!({"user": "alice", "metadata": {"device": "tv"}, "remote_address": "10.0.0.7", "user_agent": "x"});
    let opened = holder.put("s1", facts.clone()).await;
    assert_eq!((opened.status, &opened.json()["result"]), (201, &json!("created")), "{opened:?}");
    daemon.until_status("alice", "online").await;
    let connected = recorder.until_events("session-connected", 1).await;
    let session = &connected[0]["data"];
    assert_eq!(session["id"], "chat-1/s1");
    assert_eq!(session["instance"], holder.instance());
    let attributes = session["attributes"].to_string();
    for fact in ["10.0.0.7", "user-agent", "meta.device", "tv"] {
        assert!(attributes.contains(fact), "{attributes}");
    }
    let again = holder.put("s1", facts).await;
    assert_eq!((again.status, &again.json()["result"]), (200, &json!("unchanged")), "{again:?}");

    assert_eq!(holder.patch("s1", json!({"user": "alice", "status": "idle"})).await.status, 200);
    daemon.until_status("alice", "idle").await;
    assert_eq!(holder.put("s2", json!({"user": "alice"})).await.status, 201);
    daemon.until_status("alice", "online").await;
    for session in ["s1", "s2"] {
        assert_eq!(holder.delete(session, "alice").await.status, 200);
    }
    daemon.until_status("alice", "offline").await;
    let ended = recorder.until_events("session-disconnected", 2).await;
    assert_eq!(ended[0]["data"]["reason"], "closed");
    recorder.until_statuses("alice", &["user-online", "user-idle", "user-online", "user-offline"]).await;
    // Once the end is settled nothing of the session is left.
    until("the session is forgotten", async || {
        (holder.delete("s1", "alice").await.status == 404).then_some(())
    })
    .await;
    let metrics = daemon.get("/metrics").await.body;
    for line in ["presence_holders 1", "presence_held_sessions 0", "presence_holders_registered_total 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    let instances = daemon.get("/v1/instances").await.json();
    let shown = instances["instances"].as_array().expect("a list");
    assert!(shown.iter().any(|one| one["host"] == "chat-1" && one["incarnation"] == "a"), "{instances}");
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn a_holder_whose_lease_runs_out_is_cleaned_up_after_once() {
    let (daemon, recorder) = host().await;
    let holder = Holder::register(&daemon, "chat-1", "a", 5).await;
    for (session, user) in [("s1", "alice"), ("s2", "alice"), ("s3", "bob")] {
        assert_eq!(holder.put(session, json!({"user": user})).await.status, 201);
    }
    recorder.until_events("session-connected", 3).await;
    let named = cleaned_up(&recorder, holder.instance()).await;
    assert_eq!(named, ["chat-1/s1", "chat-1/s2", "chat-1/s3"]);
    for user in ["alice", "bob"] {
        daemon.until_status(user, "offline").await;
        recorder.until_statuses(user, &["user-online", "user-offline"]).await;
    }
    assert!(recorder.events().iter().all(|event| event["type"] != "session-disconnected"));
    for answer in [holder.renew(5).await, holder.put("s4", json!({"user": "alice"})).await] {
        assert_eq!(answer.status, 410, "{answer:?}");
    }
    let next = Holder::register(&daemon, "chat-1", "b", 30).await;
    assert_eq!(next.put("s5", json!({"user": "alice"})).await.status, 201);
    daemon.until_status("alice", "online").await;
    let cleanups =
        recorder.events().iter().filter(|event| event["data"]["scope"]["lost"].is_object()).count();
    assert_eq!(cleanups, 1);
}

#[tokio::test]
async fn a_new_incarnation_takes_the_place_of_the_old_one_at_once() {
    let (daemon, recorder) = host().await;
    let old = Holder::register(&daemon, "chat-1", "a", 3600).await;
    assert_eq!(old.put("s1", json!({"user": "alice"})).await.status, 201);
    daemon.until_status("alice", "online").await;
    let new = Holder::register(&daemon, "chat-1", "b", 3600).await;
    assert_ne!(old.instance(), new.instance());
    assert_eq!(cleaned_up(&recorder, old.instance()).await, ["chat-1/s1"]);
    daemon.until_status("alice", "offline").await;
    let late = old.put("s2", json!({"user": "alice"})).await;
    assert_eq!(late.status, 409, "{late:?}");
    assert!(late.body.contains("incarnation `b`"), "{late:?}");

    assert_eq!(new.put("s1", json!({"user": "bob"})).await.status, 201);
    daemon.until_status("bob", "online").await;
    assert_eq!(new.end().await.status, 204);
    assert_eq!(cleaned_up(&recorder, new.instance()).await, ["chat-1/s1"]);
    daemon.until_status("bob", "offline").await;
    assert_eq!(new.put("s3", json!({"user": "bob"})).await.status, 410);
}

#[tokio::test]
async fn a_bulk_has_an_answer_for_each_item_and_does_nothing_by_halves() {
    let (daemon, _recorder) = host().await;
    let holder = Holder::register(&daemon, "chat-1", "a", 30).await;
    let done = holder
        .bulk(json!([
            {"do": "put", "session": "s1", "user": "alice"},
            {"do": "put", "session": "s2", "user": "bob", "status": "idle"},
            {"do": "patch", "session": "s3", "user": "bob", "status": "idle"},
            {"do": "delete", "session": "s4", "user": "carol"},
        ]))
        .await;
    assert_eq!(done.status, 200, "{done:?}");
    let results = done.json();
    let statuses: Vec<_> =
        results["results"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, [201, 201, 404, 404]);
    daemon.until_status("bob", "idle").await;

    let halves = holder
        .bulk(json!([
            {"do": "put", "session": "s5", "user": "dave"},
            {"do": "put", "session": "s6", "user": "dave", "status": "offline"},
            {"do": "delete", "session": "s5", "user": "dave"},
        ]))
        .await;
    assert_eq!(halves.status, 422, "{halves:?}");
    let errors = halves.json()["errors"].clone();
    assert!(errors[0].as_str().unwrap().contains("operation 2: status"), "{errors}");
    assert!(
        errors[1].as_str().unwrap().contains("operation 3: chat-1/s5 is named more than once"),
        "{errors}"
    );
    assert_eq!(holder.delete("s5", "dave").await.status, 404, "nothing was done");
    let many: Vec<Value> =
        (0..1001).map(|at| json!({"do": "put", "session": format!("x{at}"), "user": "u"})).collect();
    assert_eq!(holder.bulk(json!(many)).await.status, 422);
    assert_eq!(holder.bulk(json!([])).await.status, 422);
    let wide = "x".repeat(1 << 20);
    assert_eq!(holder.bulk(json!([{"do": "put", "session": wide, "user": "u"}])).await.status, 413);
}

#[tokio::test]
async fn bad_requests_are_problems() {
    let (daemon, _recorder) = host().await;
    let holder = Holder::register(&daemon, "chat-1", "a", 30).await;
    let register = |name: &str, body: Value| {
        let (path, admin) = (format!("/v1/holders/{name}"), daemon.admin());
        let json = [("content-type", "application/json")];
        async move { send("PUT", admin, &path, &json, body.to_string()).await.unwrap() }
    };
    for (name, body, status) in [
        ("chat-2", json!({"incarnation": "a", "lease_seconds": 4}), 422),
        ("chat-2", json!({"incarnation": "a", "lease_seconds": 3601}), 422),
        ("chat-2", json!({"incarnation": "a", "lease_seconds": -1}), 422),
        ("chat-2", json!({"incarnation": "a/b"}), 422),
        ("chat-2", json!({"incarnation": "a", "ttl": 5}), 422),
        ("chat-2", json!({}), 422),
        ("a%2Fb", json!({"incarnation": "a"}), 400),
        ("%ff", json!({"incarnation": "a"}), 400),
        (&"x".repeat(65), json!({"incarnation": "a"}), 400),
    ] {
        let answer = register(name, body).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert_eq!(answer.content_type, "application/problem+json");
    }
    for (session, body, status) in [
        ("a%2Fb", json!({"user": "u"}), 422),
        ("%00", json!({"user": "u"}), 422),
        ("s", json!({"user": ""}), 422),
        ("s", json!({}), 422),
        ("s", json!({"user": "u", "status": "offline"}), 422),
        ("s", json!({"user": "u", "metadata": {"k": "x".repeat(1025)}}), 422),
        ("s", json!({"user": "u", "metadata": {"K!": "x"}}), 422),
        ("s", json!({"user": "u", "session": "t"}), 422),
        ("s", json!({"user": "u", "remote_address": "nowhere"}), 422),
    ] {
        let answer = holder.put(session, body.clone()).await;
        assert_eq!(answer.status, status, "{session} {body}: {answer:?}");
    }
    let admin = daemon.admin();
    let plain = |method: &'static str, path: &'static str, kind: &'static str, body: &'static str| async move {
        send(method, admin, path, &[("content-type", kind)], body).await.unwrap().status
    };
    let path = "/v1/holders/chat-1/sessions/s?incarnation=a";
    assert_eq!(plain("PUT", path, "text/plain", "{}").await, 415);
    assert_eq!(plain("PUT", path, "application/json", "{").await, 400);
    assert_eq!(plain("POST", path, "application/json", "{}").await, 405);
    assert_eq!(
        plain("PUT", "/v1/holders/chat-1/sessions/s", "application/json", r#"{"user":"u"}"#).await,
        400
    );
    let other = "/v1/holders/chat-9/sessions/s?incarnation=a";
    assert_eq!(plain("PUT", other, "application/json", r#"{"user":"u"}"#).await, 404, "never registered");
    let newer = "/v1/holders/chat-1/sessions/s?incarnation=z";
    assert_eq!(
        plain("PUT", newer, "application/json", r#"{"user":"u"}"#).await,
        409,
        "another incarnation's"
    );
    assert_eq!(ask("DELETE", admin, path).await.unwrap().status, 400, "whose session?");
}

/// A connection to `/v1/hold`.
struct Line(WebSocketStream<TcpStream>);

impl Line {
    async fn open(admin: SocketAddr) -> Line {
        let stream = TcpStream::connect(admin).await.unwrap();
        let url = format!("ws://{admin}/v1/hold");
        Line(tokio_tungstenite::client_async(url, stream).await.unwrap().0)
    }

    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let heard = until("a frame", async || match self.0.next().await {
            Some(Ok(Message::Text(text))) => Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(_)) => None,
            ended => panic!("no frame: {ended:?}"),
        });
        heard.await
    }
}

#[tokio::test]
async fn the_same_over_one_websocket() {
    let (daemon, recorder) = host().await;
    let mut line = Line::open(daemon.admin()).await;
    line.say(json!({"type": "put", "id": "0", "session": "s", "user": "alice"})).await;
    assert_eq!(line.hear().await["code"], "not_registered");
    line.say(
        json!({"type": "register", "id": "1", "holder": "chat-1", "incarnation": "a", "lease_seconds": 3600}),
    )
    .await;
    let registered = line.hear().await;
    assert_eq!(
        (&registered["type"], &registered["id"], &registered["created"]),
        (&json!("registered"), &json!("1"), &json!(true)),
        "{registered}"
    );
    for at in 0..500 {
        let (id, session) = (format!("p{at}"), format!("s{at}"));
        line.say(json!({"type": "put", "id": id, "session": session, "user": format!("u{}", at % 100)}))
            .await;
    }
    let mut created = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let answer = line.hear().await;
        assert_eq!((&answer["type"], &answer["result"]), (&json!("ok"), &json!("created")), "{answer}");
        created.insert(answer["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(created.len(), 500, "an answer for each");
    daemon.until_status("u7", "online").await;
    for (frame, code) in [
        (
            json!({"type": "patch", "id": "x", "session": "nobody", "user": "u1", "status": "idle"}),
            "unknown_session",
        ),
        (json!({"type": "put", "id": "x", "session": "a/b", "user": "u1"}), "invalid_message"),
        (
            json!({"type": "put", "id": "x", "session": "a", "user": "u1", "holder": "chat-2"}),
            "invalid_message",
        ),
        (json!({"type": "register", "id": "x", "holder": "chat-2", "incarnation": "a"}), "invalid_message"),
        (json!({"type": "shout", "id": "x"}), "invalid_message"),
    ] {
        line.say(frame.clone()).await;
        let answer = line.hear().await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{frame}: {answer}");
    }
    line.say(json!({"type": "renew", "id": "2"})).await;
    assert_eq!(line.hear().await, json!({"type": "ok", "id": "2"}));
    line.say(json!({"type": "ping", "id": "3"})).await;
    assert_eq!(line.hear().await, json!({"type": "pong", "id": "3"}));
    drop(line);
    daemon.until_status("u7", "online").await;
    let again = Holder::register(&daemon, "chat-1", "a", 3600).await;
    assert_eq!(again.delete("s7", "u7").await.status, 200, "the connection was no lease");

    let mut line = Line::open(daemon.admin()).await;
    line.say(json!({"type": "register", "holder": "chat-1", "incarnation": "a"})).await;
    assert_eq!(line.hear().await["created"], false);
    line.say(json!({"type": "end", "id": "4"})).await;
    assert_eq!(line.hear().await, json!({"type": "ok", "id": "4"}));
    assert_eq!(cleaned_up(&recorder, again.instance()).await.len(), 256, "the first chunk of 499");
}
