//! Several hosts over NATS: what their users see when hosts die, hang, leave, come, and when NATS is away.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use presence_tests::{Client, Config, Daemon, NatsServer, Plugin, Recorder, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::sleep;

mod documents;
mod economy;
mod holders;
mod plugin_sets;

const TTL: Duration = Duration::from_secs(4);

/// NATS, a receiver, and the configuration that all hosts share.
struct Deployment {
    nats: NatsServer,
    recorder: Recorder,
    presence: &'static str,
}

impl Deployment {
    /// With these lines of `[presence]`; no host yet.
    async fn with(presence: &'static str) -> Deployment {
        Deployment { nats: NatsServer::start().await, recorder: Recorder::start().await, presence }
    }

    /// The configuration of the host of this name.
    fn config(&self, name: &str) -> Config {
        let cluster = format!(
            "[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\ninstance_ttl = \"{}s\"",
            self.nats.url(),
            TTL.as_secs()
        );
        let config = Config::default().host(&format!("name = \"{name}\"")).section(cluster);
        config.presence(self.presence).section(Plugin::webhook(&self.recorder))
    }

    async fn host(&self, name: &str) -> Daemon {
        self.config(name).start().await
    }

    /// The cleanups of dead instances, in order.
    fn lost(&self) -> Vec<Value> {
        let events = self.recorder.events();
        events.into_iter().filter(|event| event["data"]["scope"]["lost"].is_object()).collect()
    }

    /// The cleanups after fresh starts.
    fn everything(&self) -> usize {
        let events = self.recorder.events();
        events.iter().filter(|event| event["data"]["scope"] == "everything").count()
    }

    /// Waits for the cleanup after this instance; returns the ids of the sessions it names, sorted.
    async fn until_cleaned_up(&self, instance: &str) -> Vec<String> {
        let lost = until(format!("the cleanup after {instance}"), async || {
            self.lost().into_iter().find(|event| event["data"]["scope"]["lost"]["instance"] == instance)
        })
        .await;
        let sessions = lost["data"]["scope"]["lost"]["sessions"].as_array().expect("a list");
        let mut ids: Vec<String> =
            sessions.iter().filter_map(|session| session["id"].as_str().map(str::to_owned)).collect();
        ids.sort();
        ids
    }
}

/// How many partitions each host owns, as this one sees it.
async fn partitions(daemon: &Daemon, host: &str) -> usize {
    let document = daemon.get("/v1/partitions").await.json();
    let all = document["partitions"].as_array().expect("a list");
    all.iter().filter(|partition| partition["host"] == host).count()
}

#[tokio::test]
async fn a_user_on_two_hosts_is_one_user() {
    let deployment = Deployment::with("offline_grace = \"0s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let mut phone = a.client("alice").await;
    let laptop = b.client("alice").await;
    let mut watcher = b.client("bob").await;
    watcher.watch(&["alice"]).await;
    watcher.expect(json!({"type": "presence", "user": "alice", "status": "online"})).await;

    phone.idle().await;
    laptop.close().await;
    for host in [&a, &b] {
        host.until_status("alice", "idle").await;
    }
    watcher.expect(json!({"type": "presence", "user": "alice", "status": "idle"})).await;
    phone.close().await;
    for host in [&a, &b] {
        host.until_status("alice", "offline").await;
    }
    watcher.expect(json!({"type": "presence", "user": "alice", "status": "offline"})).await;
    deployment.recorder.until_statuses("alice", &["user-online", "user-idle", "user-offline"]).await;
    drop(watcher);
    for host in [a, b] {
        host.stop().await.with_code(0);
    }
    assert_eq!(deployment.everything(), 1, "the second host joins");
}

#[tokio::test]
async fn a_killed_host_is_cleaned_up_after() {
    let deployment = Deployment::with("offline_grace = \"1s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let (alice, bob) = (a.client("alice").await, a.client("bob").await);
    let _bob_elsewhere = b.client("bob").await;
    let gone = a.client("carol").await;
    let ended = gone.session().to_owned();
    gone.close().await;
    deployment.recorder.until_events("session-disconnected", 1).await;
    deployment.recorder.until_statuses("alice", &["user-online"]).await;
    deployment.recorder.until_statuses("bob", &["user-online"]).await;
    deployment.recorder.until_events("session-connected", 4).await;

    let instance = alice.instance().to_owned();
    let mut sessions = vec![alice.session().to_owned(), bob.session().to_owned()];
    sessions.sort();
    let killed = Instant::now();
    a.kill().await;
    let mut named = deployment.until_cleaned_up(&instance).await;
    // It was heard to end; that this was noted too before the kill is not sure.
    named.retain(|session| *session != ended);
    assert_eq!(named, sessions, "all that were open, and no other");
    let took = killed.elapsed();
    assert!(took < TTL + Duration::from_secs(6), "the cleanup came after {took:?}");
    deployment.recorder.until_statuses("alice", &["user-online", "user-offline"]).await;
    b.until_status("alice", "offline").await;
    assert_eq!(deployment.recorder.statuses("bob"), ["user-online"], "he has a session elsewhere");
    assert_eq!(deployment.lost().len(), 1);
    let disconnected = deployment.recorder.until_events("session-disconnected", 1).await;
    assert_eq!(disconnected.len(), 1, "the dead host's sessions are in the cleanup alone");
}

/// A client that comes back: after a goodbye when it says so, to any host that is in the list.
async fn faithful(user: String, hosts: Arc<Mutex<Vec<SocketAddr>>>) {
    loop {
        let address = {
            let hosts = hosts.lock().unwrap();
            hosts[fastrand::usize(..hosts.len())]
        };
        let path = format!("/v1/connect?user={user}");
        let Ok(client) = Client::open(address, &user, &path, &[]).await else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        let told = client.until_ended().await;
        let after = told.iter().find_map(|message| message["retry_after_ms"].as_u64());
        sleep(Duration::from_millis(after.unwrap_or(100))).await;
    }
}

#[tokio::test]
async fn a_rolling_restart_is_no_news() {
    let deployment = Deployment::with("offline_grace = \"1s\"\ndrain_grace = \"20s\"").await;
    let names = ["a", "b", "c"];
    let mut hosts = Vec::new();
    for name in names {
        hosts.push(deployment.host(name).await);
    }
    let addresses = Arc::new(Mutex::new(hosts.iter().map(Daemon::clients).collect::<Vec<_>>()));
    let users: Vec<String> = (0..20).map(|number| format!("user-{number}")).collect();
    let clients: Vec<_> =
        users.iter().map(|user| tokio::spawn(faithful(user.clone(), addresses.clone()))).collect();
    for user in &users {
        deployment.recorder.until_statuses(user, &["user-online"]).await;
    }
    for name in names {
        let host = hosts.remove(0);
        addresses.lock().unwrap().retain(|address| *address != host.clients());
        host.stop().await.with_code(0);
        let again = deployment.host(name).await;
        addresses.lock().unwrap().push(again.clients());
        hosts.push(again);
    }
    for user in &users {
        hosts[0].until_status(user, "online").await;
    }
    // Longer than a grace and a lease: what was decided wrongly shows by then.
    sleep(TTL + Duration::from_secs(4)).await;
    for user in &users {
        assert_eq!(deployment.recorder.statuses(user), ["user-online"], "{user}");
    }
    assert_eq!((deployment.everything(), deployment.lost().len()), (1, 0));
    let mut ids: Vec<String> =
        deployment.recorder.deliveries().iter().map(|event| event["id"].to_string()).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "no hook was repeated");
    for client in clients {
        assert!(!client.is_finished(), "no client has failed");
        client.abort();
    }
}

#[tokio::test]
async fn a_host_that_hung_comes_back_as_another_one() {
    let deployment = Deployment::with("offline_grace = \"25s\"").await;
    let (a, _b) = (deployment.host("a").await, deployment.host("b").await);
    let mut alice = a.client("alice").await;
    deployment.recorder.until_statuses("alice", &["user-online"]).await;
    alice.idle().await;
    deployment.recorder.until_statuses("alice", &["user-online", "user-idle"]).await;
    a.signal(Signal::STOP);
    let named = deployment.until_cleaned_up(alice.instance()).await;
    assert_eq!(named, [alice.session()]);
    a.signal(Signal::CONT);

    let welcome = alice.expect(json!({"type": "welcome", "user": "alice"})).await;
    assert_ne!(welcome["instance"], alice.instance());
    assert_ne!(welcome["session"], alice.session());
    assert_eq!(welcome["status"], "idle", "nobody asked for another status");
    let connected = deployment.recorder.until_events("session-connected", 2).await;
    assert_eq!(connected[1]["data"]["id"], welcome["session"]);
    a.until_status("alice", "idle").await;
    alice.ping().await;
    alice.online().await;
    deployment.recorder.until_statuses("alice", &["user-online", "user-idle", "user-online"]).await;
    let told = deployment.recorder.deliveries();
    assert!(!told.iter().any(|event| event["type"] == "session-disconnected"), "nobody was disconnected");
}

#[tokio::test]
async fn nats_away_for_longer_than_a_lease_kills_nobody() {
    let mut deployment = Deployment::with("offline_grace = \"1s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let mut alice = a.client("alice").await;
    let (bob, carol) = (b.client("bob").await, a.client("carol").await);
    for user in ["alice", "bob", "carol"] {
        deployment.recorder.until_statuses(user, &["user-online"]).await;
    }
    deployment.nats.kill();
    sleep(TTL + Duration::from_secs(3)).await;
    // Local connections go on meanwhile.
    alice.idle().await;
    bob.close().await;
    deployment.nats.restart().await;

    deployment.recorder.until_statuses("alice", &["user-online", "user-idle"]).await;
    deployment.recorder.until_statuses("bob", &["user-online", "user-offline"]).await;
    for host in [&a, &b] {
        host.until_status("alice", "idle").await;
        host.until_status("bob", "offline").await;
        host.until_status("carol", "online").await;
    }
    assert_eq!(deployment.recorder.statuses("carol"), ["user-online"]);
    assert_eq!((deployment.everything(), deployment.lost().len()), (1, 0));
    drop(carol);
}

#[tokio::test]
async fn when_all_are_restarted_everything_is_cleaned_up_once() {
    let deployment = Deployment::with("offline_grace = \"1s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let (_alice, _bob) = (a.client("alice").await, b.client("bob").await);
    for user in ["alice", "bob"] {
        deployment.recorder.until_statuses(user, &["user-online"]).await;
    }
    tokio::join!(a.kill(), b.kill());
    // As long as their leases last, those who come next join them.
    sleep(TTL + Duration::from_secs(2)).await;
    let (a, b) = tokio::join!(deployment.host("a"), deployment.host("b"));
    assert_eq!(deployment.everything(), 2, "it comes before the first of them is ready");
    let _alice = b.client("alice").await;
    deployment.recorder.until_statuses("alice", &["user-online", "user-online"]).await;
    deployment.recorder.until_statuses("bob", &["user-online", "user-offline"]).await;
    for host in [&a, &b] {
        host.until_status("alice", "online").await;
        host.until_status("bob", "offline").await;
    }
    assert_eq!(deployment.everything(), 2);
    assert_eq!(deployment.lost(), Vec::<Value>::new(), "`everything` closes the cleanups of all before it");
    let events = deployment.recorder.events();
    let place = |wanted: &dyn Fn(&Value) -> bool| events.iter().rposition(wanted).expect("it was heard");
    let second = place(&|event| event["data"]["scope"] == "everything");
    assert!(second < place(&|event| event["type"] == "user-offline" && event["data"]["user"] == "bob"));
}

#[tokio::test]
async fn hosts_of_one_name_are_told() {
    let deployment = Deployment::with("").await;
    let (a, b) = (deployment.host("twin").await, deployment.host("twin").await);
    let logged = async |daemon: &Daemon| daemon.until_logged(&["WARN", "name", "twin"]).await;
    tokio::select! {
        _ = logged(&a) => {}
        _ = logged(&b) => {}
    }
}

#[tokio::test]
async fn a_joiner_takes_its_share_without_a_hook() {
    let deployment = Deployment::with("").await;
    let a = deployment.host("a").await;
    let mut clients = Vec::new();
    for number in 0..30 {
        clients.push(a.client(&format!("user-{number}")).await);
    }
    deployment.recorder.until_events("user-online", 30).await;
    deployment.recorder.until_events("session-connected", 30).await;
    let before = deployment.recorder.deliveries().len();
    let b = deployment.host("b").await;
    for host in [&a, &b] {
        until("both own a good part", async || {
            let (of_a, of_b) = (partitions(host, "a").await, partitions(host, "b").await);
            (of_a + of_b == 64 && of_a.min(of_b) > 15).then_some(())
        })
        .await;
    }
    for number in 0..30 {
        b.until_status(&format!("user-{number}"), "online").await;
    }
    assert_eq!(deployment.recorder.deliveries().len(), before, "nothing has happened to anybody");
    // What its new owner decides is told once, wherever the session is.
    clients.truncate(10);
    deployment.recorder.until_events("user-offline", 20).await;
    drop(clients);
}
