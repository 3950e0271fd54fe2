//! What plugins may do besides answering: publish over NATS, look up statuses, tick. Real servers, one host or two.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use presence_tests::{Config, Daemon, NatsServer, Plugin, Receiver, WAIT, until};
use serde_json::{Value, json};

fn config(nats: &NatsServer, host: &str) -> Config {
    let cluster = format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\ninstance_ttl = \"4s\"", nats.url());
    Config::default().host(&format!("name = \"{host}\"")).section(cluster)
}

/// What the receiver was sent of this hook, as JSON.
fn heard(receiver: &Receiver, hook: &str) -> Vec<Value> {
    let documents = receiver.requests().into_iter().map(|request| request.json());
    documents.filter(|document| document["hook"] == hook).collect()
}

#[tokio::test]
async fn messages_go_where_they_are_granted_and_nowhere_else() {
    let mut nats = NatsServer::start().await;
    let granted = r#"messaging = ["app.presence.>"]"#;
    let courier = |name: &str, subject: &str| {
        let plugin = Plugin::courier(name).config(&format!("{{ subject = \"{subject}\" }}")).grants(granted);
        plugin.interval("1d")
    };
    let (courier, stray) = (courier("courier", "app.presence.heard"), courier("stray", "app.other"));
    let host = config(&nats, "a").section(courier).section(stray).start().await;
    let mut messages = nats.listener("app.>").await;

    let _alice = host.client("alice").await;
    let message = tokio::time::timeout(WAIT, messages.next()).await.expect("a message").unwrap();
    assert_eq!(message.subject.as_str(), "app.presence.heard");
    let document: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((&document["hook"], &document["event"]["user"]), (&json!("user-online"), &json!("alice")));
    let headers = message.headers.expect("headers");
    let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    let event = document["event_id"].as_str().unwrap();
    assert!(event.starts_with("courier:user-online:alice:"), "{event}");
    assert_eq!(
        (header("Presence-Event-Id"), header("Nats-Msg-Id")),
        (event.to_owned(), format!("{event}#0"))
    );
    assert_eq!(header("Hook"), "user-online");
    let line = r#"messaging = [\"app.presence.>\", \"app.other\"]"#;
    host.until_logged(&["plugin `stray` was denied", line]).await;

    // While NATS is away nothing is sent, and nothing is thought to be: the hook is repeated until it is.
    nats.kill();
    host.until_logged(&["the connection to NATS is lost"]).await;
    nats.restart().await;
    let mut messages = nats.listener("app.>").await;
    let _bob = host.client("bob").await;
    let told = async {
        while let Some(message) = messages.next().await {
            let document: Value = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(message.subject.as_str(), "app.presence.heard", "never outside of the grant");
            if document["event"]["user"] == "bob" {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, told).await.expect("bob is told of");
}

#[tokio::test]
async fn a_look_up_knows_users_of_all_hosts() {
    let (nats, receiver) = (NatsServer::start().await, Receiver::start().await);
    let courier = |grants: &str| {
        Plugin::courier("courier")
            .config(&format!(
                r#"{{ url = "{}/x", users = ["bob", "nobody", "carol", "\u0001"] }}"#,
                receiver.origin()
            ))
            .may_reach(receiver.origin())
            .grants(grants)
    };
    let a = config(&nats, "a").section(courier("presence = true")).start().await;
    let b = config(&nats, "b").section(courier("presence = true")).start().await;
    let _bob = a.client("bob").await;
    let mut carol = b.client("carol").await;
    carol.idle().await;
    for host in [&a, &b] {
        host.until_status("bob", "online").await;
        host.until_status("carol", "idle").await;
    }
    let _alice = b.client("alice").await;
    let document = until("alice is told of", async || {
        heard(&receiver, "user-online").into_iter().find(|document| document["event"]["user"] == "alice")
    })
    .await;
    let found = document["found"].as_array().unwrap();
    let shown: Vec<(&str, &str, bool)> = found
        .iter()
        .map(|user| {
            let text = |key: &str| user[key].as_str().unwrap();
            (text("user"), text("status"), user["revision"].as_u64().unwrap() > 0)
        })
        .collect();
    let expected = [
        ("bob", "online", true),
        ("nobody", "offline", false),
        ("carol", "idle", true),
        ("\u{1}", "offline", false),
    ];
    assert_eq!(shown, expected);
    assert_eq!((&found[1]["since"], &found[1]["last_seen"]), (&Value::Null, &Value::Null));
    assert_eq!(found[0]["revision"], a.user("bob").await["revision"]);
}

#[tokio::test]
async fn a_look_up_needs_its_grant() {
    let receiver = Receiver::start().await;
    let courier = Plugin::courier("courier")
        .config(&format!(r#"{{ url = "{}/x", users = ["bob"] }}"#, receiver.origin()))
        .may_reach(receiver.origin());
    let host = Daemon::with(courier).start().await;
    let _alice = host.client("alice").await;
    host.until_logged(&["plugin `courier` was denied looking up statuses of users", "presence = true"]).await;
    assert_eq!(receiver.requests().len(), 0);
}

/// Calls of `tick` that have ended on a host.
async fn ticks(host: &Daemon) -> u64 {
    let metrics = host.get("/metrics").await.body;
    let line = metrics.lines().find(|line| line.contains("hook_calls") && line.contains(r#"hook="tick""#));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no ticks in:\n{metrics}"))
}

/// How many partitions a host owns, as another sees it.
async fn partitions(seen_by: &Daemon, host: &str) -> usize {
    let document = seen_by.get("/v1/partitions").await.json();
    let all = document["partitions"].as_array().expect("a list");
    all.iter().filter(|partition| partition["host"] == host).count()
}

#[tokio::test]
async fn one_host_ticks_and_another_goes_on_when_it_stops() {
    let (nats, receiver) = (NatsServer::start().await, Receiver::start().await);
    let courier = || {
        Plugin::courier("courier")
            .config(&format!(r#"{{ url = "{}/x" }}"#, receiver.origin()))
            .may_reach(receiver.origin())
            .interval("1s")
    };
    let a = config(&nats, "a").section(courier()).start().await;
    let b = config(&nats, "b").section(courier()).start().await;
    until("both own a share", async || {
        let (of_a, of_b) = (partitions(&a, "a").await, partitions(&a, "b").await);
        let agreed = (partitions(&b, "a").await, partitions(&b, "b").await) == (of_a, of_b);
        (agreed && of_a > 0 && of_b > 0 && of_a + of_b == 64).then_some(())
    })
    .await;
    let before = [ticks(&a).await, ticks(&b).await];
    let owner = until("three more ticks", async || {
        let more = [ticks(&a).await - before[0], ticks(&b).await - before[1]];
        more.iter().position(|more| *more >= 3)
    })
    .await;
    let after = [ticks(&a).await, ticks(&b).await];
    assert_eq!(after[1 - owner], before[1 - owner], "only one host ticks");

    let (stops, stays) = if owner == 0 { (a, b) } else { (b, a) };
    stops.stop().await.with_code(0);
    let ticked = ticks(&stays).await;
    until("the other host ticks", async || (ticks(&stays).await >= ticked + 2).then_some(())).await;
    let told = heard(&receiver, "tick");
    let dues: Vec<u64> = told.iter().filter_map(|tick| tick["event"]["due"].as_u64()).collect();
    assert!(dues.is_sorted() && dues.iter().all(|due| due % 1000 == 0), "{dues:?}");
    assert_eq!(dues.iter().collect::<BTreeSet<_>>().len(), dues.len(), "each once: {dues:?}");
    assert_eq!(told[0]["event"]["interval_ms"], 1000);
    assert_eq!(told[0]["event_id"], format!("courier:tick:{}", dues[0]));
}

#[tokio::test]
async fn one_host_alone_ticks_too_and_what_fails_is_repeated() {
    let receiver = Receiver::start().await;
    receiver.answer(presence_tests::Mood::Status(503));
    let courier = Plugin::courier("courier")
        .config(&format!(r#"{{ url = "{}/x" }}"#, receiver.origin()))
        .may_reach(receiver.origin())
        .interval("1s");
    let host = Daemon::with(courier).start().await;
    receiver.until_attempts(3).await;
    receiver.answer(presence_tests::Mood::Status(204));
    until("a tick is heard", async || (!heard(&receiver, "tick").is_empty()).then_some(())).await;
    let ended =
        tokio::time::timeout(Duration::from_secs(20), host.stop()).await.expect("a tick holds up no stop");
    ended.with_code(0);
}

#[tokio::test]
async fn an_interval_without_ticks_is_an_error() {
    let receiver = presence_tests::ProfileService::start().await;
    let checked = Daemon::with(Plugin::profile_updater(&receiver).interval("5s")).check().await;
    checked.with_code(78).says(&["profile-updater", "`interval` is set, but it exports no `tick`"]);
}
