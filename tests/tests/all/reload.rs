//! Other plugins, other versions, other settings, while the host runs.

use presence_tests::{
    Config, Daemon, Plugin, ProfileService, Program, Receiver, Request, ask, guest, shipped_plugin, until,
};
use rustix::process::Signal;
use serde_json::json;

/// Nothing is reloaded but when it is asked for.
fn unwatched() -> Config {
    Daemon::with("").host("watch_files = false")
}

/// The plugin that POSTs whatever it hears.
fn recorder(receiver: &Receiver) -> Plugin {
    Plugin::at("recorder", guest("guest-recorder"))
        .config(&format!("{{ url = \"{}/heard\" }}", receiver.origin()))
        .may_reach(receiver.origin())
}

/// The status hooks that were told of a user, in order.
fn told(requests: &[Request], user: &str) -> Vec<String> {
    let documents = requests.iter().map(Request::json);
    let of_user = documents.filter(|document| document["event"]["user"] == user);
    let hooks = of_user.filter_map(|document| document["hook"].as_str().map(str::to_owned));
    hooks.filter(|hook| hook.starts_with("user-")).collect()
}

async fn until_told(receiver: &Receiver, user: &str, hooks: &[&str]) {
    let what = format!("{user} told as {}", hooks.join(", "));
    let shown = |requests: &[Request]| told(requests, user).join(", ");
    receiver.until(what, shown, |requests| told(requests, user) == hooks).await;
}

async fn until_metric(daemon: &Daemon, line: &str) {
    until(format_args!("`{line}` in the metrics"), async || {
        daemon.get("/metrics").await.body.lines().any(|present| present == line).then_some(())
    })
    .await;
}

/// How many status hooks the recorder has taken.
async fn delivered_statuses(daemon: &Daemon) -> usize {
    let metrics = daemon.get("/metrics").await.body;
    let prefix = "presence_hook_delivered_total{plugin=\"recorder\",hook=\"user-";
    let counts = metrics.lines().filter(|line| line.starts_with(prefix));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

#[tokio::test]
async fn an_edited_file_is_applied_and_an_added_plugin_hears_who_is_present() {
    let (profiles, receiver) = (ProfileService::start().await, Receiver::start().await);
    let one = Daemon::with(Plugin::profile_updater(&profiles)).presence("offline_grace = \"0s\"");
    let daemon = one.clone().start().await;
    let mut alice = daemon.client("alice").await;
    alice.idle().await;
    daemon.client("bob").await.close().await;
    profiles.until_heard("alice", &["online", "idle"]).await;
    profiles.until_heard("bob", &["online", "offline"]).await;

    daemon.edit(&one.clone().section(recorder(&receiver)));
    until_told(&receiver, "alice", &["user-idle"]).await;
    let first = receiver.requests()[0].json();
    assert_eq!(first["event"]["previous"], json!(null), "who hears of her for the first time knows of none");
    alice.online().await;
    until_told(&receiver, "alice", &["user-idle", "user-online"]).await;
    profiles.until_heard("alice", &["online", "idle", "online"]).await;
    assert_eq!(told(&receiver.requests(), "bob"), Vec::<String>::new(), "he is not there");
    daemon.until_logged(&["reloaded", "recorder"]).await;
    until_metric(&daemon, "presence_reloads_total{result=\"applied\"} 1").await;

    daemon.edit(&one);
    daemon.until_logged(&["reloaded", "removed", "recorder"]).await;
    until("the figures of the recorder are gone", async || {
        (!daemon.get("/metrics").await.body.contains("plugin=\"recorder\"")).then_some(())
    })
    .await;
    alice.close().await;
    profiles.until_heard("alice", &["online", "idle", "online", "offline"]).await;
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_all_its_errors_and_the_old_goes_on() {
    let profiles = ProfileService::start().await;
    let good = unwatched().section(Plugin::profile_updater(&profiles));
    let daemon = good.clone().start().await;
    let mut alice = daemon.client("alice").await;

    daemon.edit(&good.clone().section("[[plugin]]\nname = \"A b\"\nqueue = 1"));
    let ended = daemon.reload().await.with_code(78);
    ended.says(&[
        "plugin.name",
        "plugin.path: is needed",
        "plugin.queue: is not a key",
        "nothing was changed",
    ]);

    let no_file = Plugin::at("gone", "/no/such/file.wasm");
    let bad_config = Plugin::at("hostile", guest("guest-hostile")).config("{ rulez = 1 }");
    daemon.edit(&good.clone().section(no_file).section(bad_config));
    daemon.reload().await.with_code(78).says(&["`gone`", "can't be read", "`hostile`", "rulez"]);
    daemon.until_logged(&["the reload is refused", "`gone`"]).await;
    until_metric(&daemon, "presence_reloads_total{result=\"refused\"} 2").await;
    until_metric(&daemon, "presence_plugin_generation{plugin=\"profile-updater\"} 1").await;
    alice.idle().await;
    profiles.until_heard("alice", &["online", "idle"]).await;

    let answer = ask("POST", daemon.admin(), "/v1/reload").await.unwrap();
    assert_eq!((answer.status, answer.json()["errors"].as_array().map(Vec::len)), (422, Some(2)));
}

#[tokio::test]
async fn a_new_version_that_takes_the_files_place_is_taken_over() {
    let receiver = Receiver::start().await;
    let config = Config::default();
    let folder = presence_tests::Folder::new();
    let bytes = |path| std::fs::read(path).expect("a built plugin");
    let path = folder.file("plugin.wasm", bytes(shipped_plugin("profile-updater")));
    let plugin = Plugin::at("p", &path)
        .config(&format!("{{ url = \"{}\" }}", receiver.origin()))
        .may_reach(receiver.origin());
    let daemon = config.section(plugin).start().await;
    let mut alice = daemon.client("alice").await;
    let methods = |requests: &[Request]| -> Vec<String> {
        let of_users = requests.iter().filter(|request| request.body.contains("alice"));
        of_users.map(|request| request.method.clone()).collect()
    };
    receiver.until("a PUT", |_| String::new(), |requests| methods(requests) == ["PUT"]).await;
    let new = folder.file("plugin.new", bytes(guest("guest-recorder")));
    std::fs::rename(new, path).expect("within one folder");
    until_metric(&daemon, "presence_plugin_generation{plugin=\"p\"} 2").await;
    alice.idle().await;
    receiver.until("then a POST", |_| String::new(), |requests| methods(requests) == ["PUT", "POST"]).await;
}

#[tokio::test]
async fn a_hangup_reloads() {
    let receiver = Receiver::start().await;
    let daemon = unwatched().start().await;
    let _alice = daemon.client("alice").await;
    daemon.until_status("alice", "online").await;
    daemon.edit(&unwatched().section(recorder(&receiver)));
    daemon.signal(Signal::HUP);
    until_told(&receiver, "alice", &["user-online"]).await;
}

#[tokio::test]
async fn a_reload_prints_what_it_did_and_what_needs_a_restart() {
    let profiles = ProfileService::start().await;
    let config = unwatched().section(Plugin::profile_updater(&profiles));
    let daemon = config.clone().start().await;
    daemon.reload().await.with_code(0).says(&["unchanged        profile-updater"]);
    let quicker = Plugin::profile_updater(&profiles).delivery("concurrency = 2");
    daemon.edit(&unwatched().presence("offline_grace = \"1s\"").section(quicker));
    let ended = daemon.reload().await.with_code(0);
    ended.says(&["changed          profile-updater", "needs a restart  presence.offline_grace"]);
    let gone = daemon.admin();
    daemon.stop().await.with_code(0);
    let url = format!("http://{gone}");
    Program::presence(&["reload", "--admin", &url]).run().await.with_code(69).says(&[&url]);
}

#[tokio::test]
async fn a_removed_plugin_holds_up_no_stop_and_one_that_comes_back_hears_what_it_missed() {
    let profiles = ProfileService::start().await;
    let with = unwatched().section(Plugin::profile_updater(&profiles));
    let daemon = with.clone().start().await;
    let mut alice = daemon.client("alice").await;
    profiles.until_heard("alice", &["online"]).await;
    profiles.take_down().await;
    alice.idle().await;
    daemon.until_status("alice", "idle").await;
    let _bob = daemon.client("bob").await;
    daemon.until_status("bob", "online").await;
    daemon.edit(&unwatched());
    daemon.reload().await.with_code(0).says(&["removed          profile-updater"]);
    let _carol = daemon.client("carol").await;
    daemon.until_status("carol", "online").await;

    profiles.bring_back().await;
    daemon.edit(&with);
    daemon.reload().await.with_code(0).says(&["added            profile-updater"]);
    profiles.until_heard("bob", &["online"]).await;
    profiles.until_heard("carol", &["online"]).await;
    profiles.until_heard("alice", &["online", "idle"]).await;

    profiles.take_down().await;
    alice.online().await;
    daemon.until_status("alice", "online").await;
    daemon.edit(&unwatched());
    daemon.reload().await.with_code(0).says(&["removed"]);
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn a_hundred_reloads_under_load_lose_repeat_and_reorder_nothing() {
    const USERS: usize = 3;
    const ROUNDS: usize = 100;
    let receiver = Receiver::start().await;
    let config = |round: usize| {
        let plugin = recorder(&receiver).limits(&format!("log = {:?}", format!("{}KiB", 64 + round)));
        let plugin = plugin.delivery(&format!("concurrency = {}", 1 + round % 8));
        // A fast machine reloads more often in a second than a session may change by default.
        unwatched().section("[limits]\nmessages_per_second = 100_000").section(plugin)
    };
    let daemon = config(0).start().await;
    let mut clients = Vec::new();
    for user in 0..USERS {
        clients.push(daemon.client(&format!("user{user}")).await);
    }
    let (round, rounds) = tokio::sync::watch::channel(0);
    let load: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let mut rounds = rounds.clone();
            tokio::spawn(async move {
                for at in 1..=ROUNDS {
                    rounds.wait_for(|round| *round >= at).await.expect("the test goes on");
                    client.idle().await;
                    client.online().await;
                }
                client
            })
        })
        .collect();
    for at in 1..=ROUNDS {
        // Everybody changes while the host reloads.
        round.send_replace(at);
        daemon.edit(&config(at));
        let answer = ask("POST", daemon.admin(), "/v1/reload").await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["changed"], json!(["recorder"]), "{answer:?}");
    }
    let mut clients = Vec::new();
    for load in load {
        clients.push(load.await.unwrap());
    }
    let all = USERS * (2 * ROUNDS + 1);
    until(format_args!("{all} transitions delivered"), async || {
        (delivered_statuses(&daemon).await >= all).then_some(())
    })
    .await;
    let requests = receiver.requests();
    let hooks = ["user-online", "user-idle"].into_iter().cycle().take(2 * ROUNDS + 1);
    let hooks: Vec<&str> = hooks.collect();
    for user in 0..USERS {
        assert_eq!(told(&requests, &format!("user{user}")), hooks, "user{user}: each once, in order");
    }
    until_metric(&daemon, "presence_plugin_generation{plugin=\"recorder\"} 101").await;
    daemon.stop().await.with_code(0);
    let sessions = |hook: &str| {
        let told = |request: &&Request| request.json()["hook"] == hook;
        receiver.requests().iter().filter(told).count()
    };
    assert_eq!(["session-connected", "session-disconnected"].map(sessions), [USERS; 2]);
}
