//! Dead letters: what could not be delivered is listed, shown, replayed and dropped, on one host and on several.

use std::num::NonZeroU64;
use std::time::Duration;

use presence_tests::{
    Client, Config, Daemon, Ended, Mood, NatsServer, Plugin, Program, Recorder, ask, until,
};
use serde_json::{Value, json};

/// The receiver refuses for ever: the event is a dead letter after one attempt.
const REFUSES: Mood = Mood::Status(422);
const TAKES: Mood = Mood::Status(204);
const TTL: Duration = Duration::from_secs(4);

fn config(recorder: &Recorder) -> Config {
    Daemon::with(Plugin::webhook(recorder)).presence("offline_grace = \"0s\"")
}

/// `presence plugin dead-letters …` against this host.
async fn letters(daemon: &Daemon, arguments: &[&str]) -> Ended {
    let admin = format!("http://{}", daemon.admin());
    let (verb, rest) = arguments.split_at(usize::from(!arguments.is_empty()));
    let mut all = vec!["plugin", "dead-letters"];
    all.extend(verb);
    all.extend(["--admin", &*admin]);
    all.extend(rest);
    Program::presence(&all).run().await
}

/// The dead letters as this host knows them.
async fn kept(daemon: &Daemon) -> Vec<Value> {
    let found = daemon.get("/v1/dead-letters?limit=10000").await.json();
    found["dead_letters"].as_array().expect("a list").clone()
}

/// Both hosts own their share: nothing is being handed over.
async fn until_shared(daemon: &Daemon) {
    until("two owners", async || {
        let document = daemon.get("/v1/partitions").await.json();
        let all = document["partitions"].as_array().expect("a list").clone();
        let of = |host: &str| all.iter().filter(|partition| partition["host"] == host).count();
        (of("a") > 10 && of("b") > 10 && of("a") + of("b") == all.len()).then_some(())
    })
    .await;
}

async fn until_kept(daemon: &Daemon, count: usize) -> Vec<Value> {
    until(format!("{count} dead letters"), async || {
        let found = kept(daemon).await;
        (found.len() == count).then_some(found)
    })
    .await
}

fn number(letter: &Value) -> u64 {
    letter["number"].as_u64().and_then(NonZeroU64::new).expect("a number").get()
}

async fn post(daemon: &Daemon, path: &str) -> (u16, Value) {
    let answer = ask("POST", daemon.admin(), path).await.expect("the admin listener answers");
    (answer.status, answer.json())
}

async fn replay(daemon: &Daemon, letter: &Value) -> (u16, Value) {
    post(daemon, &format!("/v1/dead-letters/{}/replay", number(letter))).await
}

#[tokio::test]
async fn replayed_events_are_the_same_events_and_their_letters_go() {
    let recorder = Recorder::start().await;
    let daemon = config(&recorder).start().await;
    recorder.until_events("cleanup", 1).await;
    recorder.answer(REFUSES);
    let alice = daemon.client("alice").await;
    let dead = until_kept(&daemon, 2).await;
    recorder.answer(TAKES);

    let listed = letters(&daemon, &[]).await.with_code(0);
    listed.says(&["webhook", "user-online", "session-connected", "alice", alice.session(), "422"]);
    let filtered = letters(&daemon, &["list", "--hook", "user-online", "--json"]).await.with_code(0);
    let filtered: Value = serde_json::from_str(&filtered.stdout).expect("JSON");
    let status = filtered["dead_letters"][0].clone();
    assert_eq!(filtered["dead_letters"].as_array().map(Vec::len), Some(1));
    let shown = letters(&daemon, &["show", &number(&status).to_string()]).await.with_code(0);
    shown.says(&["event id", status["event_id"].as_str().unwrap(), "\"revision\"", "\"user\": \"alice\""]);

    let done = letters(&daemon, &["replay", "--all", "--plugin", "webhook"]).await.with_code(0);
    done.says(&["queued", "alice", "user-online", "session-connected"]);
    until_kept(&daemon, 0).await;
    for letter in &dead {
        let kind = letter["hook"].as_str().unwrap();
        let told = recorder.until_events(kind, 1).await;
        assert_eq!(told[0]["id"], letter["event_id"], "the event is the same one");
        assert_eq!(told[0]["data"]["user"], "alice");
    }
    letters(&daemon, &["replay", &number(&status).to_string()]).await.with_code(69).says(&["no dead letter"]);
    letters(&daemon, &["list"]).await.with_code(0).says(&["no dead letters"]);
    let metrics = daemon.get("/metrics").await.body;
    assert!(metrics.contains("presence_dead_letter_replays_total{outcome=\"delivered\"} 2"), "{metrics}");
}

#[tokio::test]
async fn a_status_older_than_what_was_delivered_is_told_to_nobody() {
    let recorder = Recorder::start().await;
    let daemon = config(&recorder).start().await;
    recorder.until_events("cleanup", 1).await;
    recorder.answer(REFUSES);
    let mut alice = daemon.client("alice").await;
    let dead = until_kept(&daemon, 2).await;
    recorder.answer(TAKES);
    alice.idle().await;
    recorder.until_statuses("alice", &["user-idle"]).await;

    let status = dead.iter().find(|letter| letter["hook"] == "user-online").expect("a status");
    let (code, report) = replay(&daemon, status).await;
    assert_eq!((code, &report["outcome"]), (200, &json!("superseded")));
    until_kept(&daemon, 1).await;
    alice.close().await;
    recorder.until_statuses("alice", &["user-idle", "user-offline"]).await;
    letters(&daemon, &["drop", "--all", "--user", "alice"]).await.with_code(0).says(&["dropped"]);
    until_kept(&daemon, 0).await;
}

#[tokio::test]
async fn what_fails_again_is_one_letter_and_not_two() {
    let recorder = Recorder::start().await;
    let daemon = config(&recorder).start().await;
    recorder.until_events("cleanup", 1).await;
    recorder.answer(REFUSES);
    let _alice = daemon.client("alice").await;
    let before = until_kept(&daemon, 2).await;
    for letter in &before {
        assert_eq!(replay(&daemon, letter).await.0, 202);
    }
    let newest = before.iter().map(number).max().expect("a letter");
    let after = until("two letters, both newer", async || {
        let found = kept(&daemon).await;
        (found.len() == 2 && found.iter().all(|letter| number(letter) > newest)).then_some(found)
    })
    .await;
    let ids = |letters: &[Value]| {
        let mut ids: Vec<String> = letters.iter().map(|letter| letter["event_id"].to_string()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&after), ids(&before));
    assert!(after.iter().all(|letter| letter["attempts"] == 1), "attempts count anew: {after:?}");
}

#[tokio::test]
async fn everything_once_more_is_followed_by_all_who_are_present() {
    let recorder = Recorder::start().await;
    recorder.answer(REFUSES);
    let daemon = config(&recorder).start().await;
    let everything = until_kept(&daemon, 1).await.remove(0);
    assert_eq!(everything["hook"], "cleanup");
    recorder.answer(TAKES);
    let mut alice = daemon.client("alice").await;
    alice.idle().await;
    let bob = daemon.client("bob").await;
    recorder.until_statuses("alice", &["user-online", "user-idle"]).await;
    recorder.until_statuses("bob", &["user-online"]).await;
    bob.close().await;
    recorder.until_statuses("bob", &["user-online", "user-offline"]).await;

    let (code, report) = replay(&daemon, &everything).await;
    assert_eq!(code, 202, "{report}");
    let cleanups = recorder.until_events("cleanup", 1).await;
    let written = everything["event_id"].as_str().unwrap();
    let (start, chunk) = written.rsplit_once("-0:").expect("the first run");
    assert_eq!(
        cleanups[0]["id"],
        format!("{start}-1:{chunk}"),
        "another event: receivers must not take it for a repeat"
    );
    recorder.until_statuses("alice", &["user-online", "user-idle", "user-idle"]).await;
    until_kept(&daemon, 0).await;
    let told: Vec<Value> =
        recorder.events().into_iter().filter(|event| event["data"]["user"] == "alice").collect();
    let told: Vec<&Value> = told.iter().filter(|event| event["type"] == "user-idle").collect();
    assert!(told[1]["data"]["revision"].as_u64() > told[0]["data"]["revision"].as_u64(), "{told:?}");
    assert_eq!(told[1]["data"]["previous"], Value::Null, "as after a fresh start");
    assert_eq!(recorder.statuses("bob"), ["user-online", "user-offline"], "who is offline stays so");
    alice.online().await;
    recorder.until_statuses("alice", &["user-online", "user-idle", "user-idle", "user-online"]).await;
}

/// Hosts of one deployment, which may do what docs/nats.conf says and nothing else.
struct Deployment {
    nats: NatsServer,
    recorder: Recorder,
}

/// The permissions of the documented server.
fn permissions() -> String {
    let (_, rest) = include_str!("../../../docs/nats.conf").split_once("permissions {").expect("permissions");
    let mut depth = 1_u32;
    let end = rest.find(|character| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    let permissions = &rest[..end.expect("the end of the permissions")];
    format!(
        "authorization {{ users: [ {{ user: host, password: secret, permissions {{ {permissions} }} }} ] }}"
    )
}

impl Deployment {
    async fn start() -> Deployment {
        Deployment { nats: NatsServer::with(&permissions()).await, recorder: Recorder::start().await }
    }

    /// What hosts have in common, besides their plugins.
    fn cluster(&self) -> String {
        let (url, ttl) = (self.nats.url(), TTL.as_secs());
        let credentials = "user = \"host\"\npassword = \"secret\"";
        format!("[cluster]\nstore = \"nats\"\nurls = [\"{url}\"]\ninstance_ttl = \"{ttl}s\"\n{credentials}")
    }

    async fn host(&self, name: &str) -> Daemon {
        config(&self.recorder).host(&format!("name = \"{name}\"")).section(self.cluster()).start().await
    }

    /// Sessions of so many users on these hosts by turns.
    async fn clients(&self, hosts: &[&Daemon], count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for at in 0..count {
            clients.push(hosts[at % hosts.len()].client(&format!("user-{at}")).await);
        }
        clients
    }
}

#[tokio::test]
async fn on_several_hosts_the_owner_replays_and_only_once() {
    const USERS: usize = 16;
    let deployment = Deployment::start().await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    until_shared(&a).await;
    let recorder = &deployment.recorder;
    recorder.until_events("cleanup", 1).await;
    recorder.answer(REFUSES);
    let _clients = deployment.clients(&[&a, &b], USERS).await;
    let dead = until_kept(&a, 2 * USERS).await;
    recorder.answer(TAKES);

    // One letter, asked for on both hosts at once.
    let (here, there) = tokio::join!(replay(&a, &dead[0]), replay(&b, &dead[0]));
    let mut codes = [here.0, there.0];
    codes.sort_unstable();
    assert!(codes == [202, 404] || codes == [202, 409], "{here:?} {there:?}");
    until_kept(&b, 2 * USERS - 1).await;

    // All that are left, asked for on one host.
    let done = letters(&b, &["replay", "--all", "--json"]).await.with_code(0);
    let done: Value = serde_json::from_str(&done.stdout).expect("JSON");
    let reports = done["reports"].as_array().expect("reports");
    assert_eq!(reports.len(), 2 * USERS - 1);
    for host in ["a", "b"] {
        assert!(reports.iter().any(|report| report["host"] == host), "nothing was done by {host}: {done}");
    }
    until_kept(&a, 0).await;
    let delivered = recorder.deliveries();
    for letter in &dead {
        let times = delivered.iter().filter(|event| event["id"] == letter["event_id"]).count();
        assert_eq!(times, 1, "{letter}");
    }
    for at in 0..USERS {
        assert_eq!(recorder.statuses(&format!("user-{at}")), ["user-online"]);
    }
}

#[tokio::test]
async fn of_two_who_drop_a_letter_one_does() {
    let deployment = Deployment::start().await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    until_shared(&a).await;
    deployment.recorder.until_events("cleanup", 1).await;
    deployment.recorder.answer(REFUSES);
    let _clients = deployment.clients(&[&a, &b], 4).await;
    for letter in until_kept(&b, 8).await {
        let path = format!("/v1/dead-letters/{}", number(&letter));
        let (here, there) = tokio::join!(ask("DELETE", a.admin(), &path), ask("DELETE", b.admin(), &path));
        let (here, there) = (here.unwrap(), there.unwrap());
        let mut codes = [here.status, there.status];
        codes.sort_unstable();
        assert!(codes == [200, 404] || codes == [200, 409], "{here:?} {there:?}");
    }
    until_kept(&a, 0).await;
}

#[tokio::test]
async fn a_host_that_dies_while_it_replays_loses_nothing_and_ids_outlive_it() {
    const USERS: usize = 16;
    let deployment = Deployment::start().await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    until_shared(&a).await;
    let recorder = &deployment.recorder;
    recorder.until_events("cleanup", 1).await;
    recorder.answer(REFUSES);
    let _clients = deployment.clients(&[&b], USERS).await;
    until_kept(&b, 2 * USERS).await;

    // Now the receiver is away: replays wait for it, on the host that owns the user.
    recorder.answer(Mood::Status(503));
    let done = letters(&b, &["replay", "--all", "--hook", "user-online", "--json"]).await.with_code(0);
    let done: Value = serde_json::from_str(&done.stdout).expect("JSON");
    let of_a = |report: &&Value| report["host"] == "a";
    let of_a: Vec<Value> =
        done["reports"].as_array().expect("reports").iter().filter(of_a).cloned().collect();
    assert!(!of_a.is_empty(), "{done}");
    assert_eq!(replay(&b, &of_a[0]).await.0, 409, "it is being replayed");
    a.kill().await;
    let all = kept(&b).await;
    assert_eq!(all.len(), 2 * USERS, "nothing goes before it is delivered");
    recorder.answer(TAKES);
    for report in &of_a {
        let accepted = async || (replay(&b, report).await.0 == 202).then_some(());
        until("the other host owns the user", accepted).await;
    }
    letters(&b, &["replay", "--all", "--hook", "session-connected"]).await;
    until_kept(&b, 0).await;
    let events = recorder.events();
    for letter in &all {
        assert!(events.iter().any(|event| event["id"] == letter["event_id"]), "{letter} in {events:?}");
    }
}

/// Status hooks and cleanups over NATS: repeated until they are delivered, under the same event id on every attempt and
/// every host; the newest status of a lagging plugin comes from the store, and another plugin is not held up.
#[tokio::test]
async fn what_waits_for_a_receiver_outlives_the_host_and_its_event_id_too() {
    const USERS: usize = 16;
    let deployment = Deployment::start().await;
    let healthy = Recorder::start().await;
    let second = String::from(Plugin::webhook(&healthy)).replacen("\"webhook\"", "\"second\"", 1);
    let host = async |name: &str| {
        // Short pauses: a receiver that is back is noticed, and warnings go on after the first ten.
        let webhook =
            Plugin::webhook(&deployment.recorder).delivery("backoff = \"50ms\"\nmax_backoff = \"500ms\"");
        let lagging = Daemon::with(webhook).presence("offline_grace = \"0s\"").section(second.clone());
        lagging.host(&format!("name = \"{name}\"")).section(deployment.cluster()).start().await
    };
    let (a, b) = (host("a").await, host("b").await);
    until_shared(&a).await;
    let recorder = &deployment.recorder;
    recorder.until_events("cleanup", 1).await;
    recorder.answer(Mood::Status(503));
    let mut clients = deployment.clients(&[&b], USERS).await;
    for (at, client) in clients.iter_mut().enumerate() {
        healthy.until_statuses(&format!("user-{at}"), &["user-online"]).await;
        client.idle().await;
        healthy.until_statuses(&format!("user-{at}"), &["user-online", "user-idle"]).await;
    }
    // The last of them is tried, in vain, on both hosts; each names the event.
    let mut tried = Vec::new();
    for host in [&a, &b] {
        tried.push(host.until_logged(&["webhook:user-idle:user-"]).await);
    }
    a.kill().await;
    healthy.until_events("cleanup", 2).await;
    recorder.answer(TAKES);
    for at in 0..USERS {
        let user = format!("user-{at}");
        until(format!("{user} is told as idle"), async || {
            (recorder.statuses(&user).last().map(String::as_str) == Some("user-idle")).then_some(())
        })
        .await;
    }
    let cleanups = recorder.until_events("cleanup", 2).await;
    let ids = |events: &[Value]| -> Vec<String> {
        events
            .iter()
            .map(|event| event["id"].as_str().unwrap_or_default().replace("second:", "webhook:"))
            .collect()
    };
    assert_eq!(ids(&cleanups), ids(&healthy.until_events("cleanup", 2).await), "the same cleanups");
    let told = recorder.events();
    for line in tried {
        let known = told.iter().filter_map(|event| event["id"].as_str()).any(|id| line.contains(id));
        assert!(known, "delivered under another id than it was tried: {line}");
    }
    assert_eq!(kept(&b).await.iter().filter(|letter| letter["hook"] != "session-connected").count(), 0);
}
