//! Traces: from a client's message to the request that a plugin makes, on one host and on two; and what they must not
//! do: reveal anything, cost anything when they are off, hurt anybody when nobody takes them.

use presence_core::ids::{Layout, UserId};
use presence_tests::{
    Client, Collector, Config, Daemon, Mood, NatsServer, Plugin, Recorder, Request, Span, Trace, until,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

/// What a browser's or a service's own trace would send.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "b7ad6b7169203331";

fn traceparent() -> String {
    format!("00-{TRACE}-{SENDER}-01")
}

/// A session whose upgrade request carries the traceparent.
async fn traced_client(daemon: &Daemon, user: &str) -> Client {
    let path = format!("/v1/connect?user={user}");
    let headers = [("traceparent", traceparent())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    Client::open(daemon.clients(), user, &path, &headers).await.expect("anybody may come")
}

/// The `traceparent` that the receiver saw with the only event of this type and user.
fn seen(recorder: &Recorder, kind: &str, user: &str) -> String {
    let requests = recorder.requests();
    let wanted = |request: &&Request| {
        let event = request.json();
        event["type"] == kind && event["data"]["user"] == user
    };
    let mut of_kind = requests.iter().filter(wanted);
    let request = of_kind.next().unwrap_or_else(|| panic!("no event {kind}"));
    assert!(of_kind.next().is_none(), "one event {kind}");
    request.header("traceparent").to_owned()
}

/// The request below this hook's span, and where it comes from.
fn check_request(trace: &Trace, recorder: &Recorder, hook: &str, way: &[&str]) {
    let span = trace.span(&format!("hook webhook {hook}"));
    let http = trace.0.iter().find(|other| other.name == "http" && other.parent == span.id);
    let http = http.unwrap_or_else(|| panic!("no request below {span:?}"));
    assert_eq!(trace.names(http), way);
    assert_eq!((http.kind, http.attributes["presence.outcome"].as_str()), (3, "204"));
    assert_eq!(
        seen(recorder, hook, &span.attributes["presence.user"]),
        format!("00-{}-{}-01", http.trace, http.id)
    );
}

/// Both hooks' spans and requests.
const WHOLE: [&str; 5] = [
    "session.connect",
    "store.put",
    "transition",
    "hook webhook session-connected",
    "hook webhook user-online",
];

async fn until_whole(collector: &Collector) -> Trace {
    until("the whole trace", async || {
        let trace = collector.until_trace(TRACE, &WHOLE).await;
        (trace.0.iter().filter(|span| span.name == "http").count() == 2).then_some(trace)
    })
    .await
}

#[tokio::test]
async fn one_trace_leads_from_a_message_to_the_plugins_request() {
    let (collector, recorder) = (Collector::start().await, Recorder::start().await);
    let telemetry = collector.section("sample = 0.000001\nservice_name = \"shop\"");
    let config = Daemon::with(Plugin::webhook(&recorder)).section(telemetry);
    let daemon = config.host("name = \"one\"").presence("offline_grace = \"0s\"").start().await;
    let mut alice = traced_client(&daemon, "alice").await;
    let trace = until_whole(&collector).await;

    let root = trace.span("session.connect");
    assert_eq!((root.parent.as_str(), root.kind, root.service.as_str()), (SENDER, 2, "shop"));
    let online = ["http", "hook webhook user-online", "transition", "store.put", "session.connect"];
    check_request(&trace, &recorder, "user-online", &online);
    check_request(
        &trace,
        &recorder,
        "session-connected",
        &["http", "hook webhook session-connected", "session.connect"],
    );
    let hook = &trace.span("hook webhook user-online").attributes;
    assert_eq!(hook["presence.plugin"], "webhook");
    assert_eq!(hook["presence.hook"], "user-online");
    assert_eq!(hook["presence.user"], "alice");
    assert_eq!((&*hook["presence.attempt"], &*hook["presence.outcome"]), ("1", "delivered"));
    assert!(hook["presence.event_id"].starts_with("webhook:user-online:alice:"), "{hook:?}");
    for request in collector.requests() {
        assert!(!request.body.contains(Recorder::SECRET) && !request.body.contains(&recorder.url()));
    }

    // A message has a trace of its own.
    let other = TRACE.replace('0', "1");
    let text =
        json!({"type": "set_status", "status": "idle", "traceparent": format!("00-{other}-{SENDER}-01")});
    alice.send(Message::text(text.to_string())).await;
    let trace = collector.until_trace(&other, &["hook webhook user-idle", "http"]).await;
    let idle = ["http", "hook webhook user-idle", "transition", "store.put", "session.set_status"];
    check_request(&trace, &recorder, "user-idle", &idle);
    assert_eq!(trace.0.len(), idle.len());

    // What is not sampled leaves nothing, neither there nor at the receiver.
    alice.close().await;
    recorder.until_events("user-offline", 1).await;
    assert_eq!(seen(&recorder, "user-offline", "alice"), "");
    daemon.stop().await.with_code(0);
    assert_eq!(collector.spans().len(), WHOLE.len() + 2 + idle.len());
}

/// The first span of this name with this outcome.
async fn ended(collector: &Collector, name: &str, outcome: &str) -> Span {
    until(format!("a span {name} with outcome {outcome}"), async || {
        let wanted = |span: &Span| span.name == name && span.attributes["presence.outcome"] == outcome;
        collector.spans().into_iter().find(wanted)
    })
    .await
}

#[tokio::test]
async fn every_attempt_is_a_span_of_its_own() {
    let (collector, recorder) = (Collector::start().await, Recorder::start().await);
    let config = Daemon::with(Plugin::webhook(&recorder)).section(collector.section("sample = 0.000001"));
    let daemon = config.start().await;
    recorder.answer(Mood::Status(503));
    let alice = traced_client(&daemon, "alice").await;
    let failed = ended(&collector, "hook webhook user-online", "retry").await;
    recorder.answer(Mood::Status(204));
    let delivered = ended(&collector, "hook webhook user-online", "delivered").await;
    assert!(failed.failed && !delivered.failed);
    assert_eq!(failed.attributes["presence.attempt"], "1");
    assert_ne!(delivered.attributes["presence.attempt"], "1");
    assert_eq!((&failed.trace, &failed.parent), (&delivered.trace, &delivered.parent));
    let spans = collector.spans();
    for (attempt, outcome) in [(failed, "503"), (delivered, "204")] {
        let http =
            spans.iter().find(|span| span.parent == attempt.id).expect("a request ends before its attempt");
        assert_eq!((http.name.as_str(), http.attributes["presence.outcome"].as_str()), ("http", outcome));
        assert_eq!(http.failed, attempt.failed);
    }
    alice.close().await;
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn the_end_of_a_session_is_traced_through_the_grace() {
    let (collector, recorder) = (Collector::start().await, Recorder::start().await);
    let config = Daemon::with(Plugin::webhook(&recorder)).section(collector.section("sample = 1"));
    let daemon = config.presence("offline_grace = \"200ms\"").start().await;
    let alice = daemon.client("alice").await;
    recorder.until_events("user-online", 1).await;
    alice.close().await;
    recorder.until_events("user-offline", 1).await;
    let trace = collector.until_span("hook webhook user-offline").await;
    let offline = trace.span("hook webhook user-offline");
    let way = ["hook webhook user-offline", "transition", "store.put", "session.disconnect"];
    assert_eq!(trace.names(offline), way);
    assert_eq!(trace.names(trace.span("hook webhook session-disconnected")).last(), way.last());
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn a_trace_goes_on_at_the_owner() {
    let (collector, recorder, nats) =
        (Collector::start().await, Recorder::start().await, NatsServer::start().await);
    let config = |name: &str| -> Config {
        let cluster =
            format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\ninstance_ttl = \"4s\"", nats.url());
        let config = Config::default().host(&format!("name = \"{name}\"")).section(cluster);
        config.section(collector.section("sample = 0.000001")).section(Plugin::webhook(&recorder))
    };
    let (a, b) = (config("a").start().await, config("b").start().await);
    let (first, user) = until("users whose owner is b", async || {
        let document = a.get("/v1/partitions").await.json();
        let owner = |partition: u16| {
            let all = document["partitions"].as_array().expect("a list");
            all.iter().find(|entry| entry["partition"] == partition).map(|entry| entry["host"].clone())
        };
        let layout = Layout { partitions: 64, leaves: 16 };
        let partition = |user: &String| layout.partition(&UserId::new(user).unwrap());
        let users: Vec<String> = (0..1000).map(|number| format!("user-{number}")).collect();
        let first = users.iter().find(|user| owner(partition(user).0) == Some(json!("b")))?;
        let mut others = users.iter().filter(|user| *user != first);
        Some((first.clone(), others.find(|user| partition(user) == partition(first))?.clone()))
    })
    .await;
    // What comes once b has decided something of the partition it hears by itself, not with the partition.
    let _before = a.client(&first).await;
    recorder.until_statuses(&first, &["user-online"]).await;
    let client = traced_client(&a, &user).await;
    let trace = until_whole(&collector).await;
    let online = ["http", "hook webhook user-online", "transition", "store.put", "session.connect"];
    check_request(&trace, &recorder, "user-online", &online);
    for (name, host) in WHOLE.iter().zip(["a", "a", "b", "a", "b"]) {
        assert_eq!(trace.span(name).host, host, "{name}");
    }
    drop(client);
    a.stop().await.with_code(0);
    b.stop().await.with_code(0);
}

#[tokio::test]
async fn with_a_sample_of_0_nothing_is_traced() {
    let (collector, recorder) = (Collector::start().await, Recorder::start().await);
    let config = Daemon::with(Plugin::webhook(&recorder)).section(collector.section("sample = 0"));
    let daemon = config.presence("offline_grace = \"0s\"").start().await;
    traced_client(&daemon, "alice").await.close().await;
    recorder.until_events("user-offline", 1).await;
    assert_eq!(seen(&recorder, "user-online", "alice"), "");
    assert!(!daemon.get("/metrics").await.body.contains("presence_traces_dropped"));
    daemon.stop().await.with_code(0);
    assert!(collector.requests().is_empty());
}

#[tokio::test]
async fn a_collector_that_is_away_harms_nobody() {
    let (collector, recorder) = (Collector::start().await, Recorder::start().await);
    collector.take_down().await;
    let config = Daemon::with(Plugin::webhook(&recorder)).section(collector.section("sample = 1"));
    let daemon = config.presence("offline_grace = \"0s\"").start().await;
    let mut alice = daemon.client("alice").await;
    daemon.until_logged(&["traces do not arrive"]).await;
    alice.idle().await;
    alice.close().await;
    recorder.until_statuses("alice", &["user-online", "user-idle", "user-offline"]).await;
    until("a metric that tells of it", async || {
        let metrics = daemon.get("/metrics").await.body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("presence_traces_dropped_total "))?;
        (line.parse::<u64>().expect("a number") >= 10).then_some(())
    })
    .await;
    let ended = daemon.stop().await.with_code(0);
    assert_eq!(ended.stderr.matches("traces do not arrive").count(), 1, "told once in a while");
}
