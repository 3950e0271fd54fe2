//! I7, isolation: whatever one plugin does, the other plugin hears everything in order, sessions are served, and the
//! host lives.

use std::time::{Duration, Instant};

use presence_tests::{Daemon, Mood, Plugin, ProfileService, Receiver};

/// So many users come, go idle, return and leave.
const USERS: usize = 8;

/// A message and its answer take far less; a host that is stopped by a plugin takes as long as the plugin's deadline,
/// 2 s, and many times over.
const PROMPT: Duration = Duration::from_secs(1);

/// The plugin does this in every hook, beside a healthy one.
async fn beside(hostile: Plugin) {
    let profiles = ProfileService::start().await;
    let config = Daemon::with(hostile)
        .section(Plugin::profile_updater(&profiles))
        .presence("offline_grace = \"0s\"\nboot_timeout = \"500ms\"")
        .host("drain_timeout = \"1s\"");
    let daemon = config.start().await;
    let mut bystander = daemon.client("bystander").await;
    let mut slowest = Duration::ZERO;
    for number in 0..USERS {
        let mut client = daemon.client(&format!("user-{number}")).await;
        client.idle().await;
        client.online().await;
        client.close().await;
        let asked = Instant::now();
        bystander.ping().await;
        slowest = slowest.max(asked.elapsed());
    }
    for number in 0..USERS {
        profiles.until_heard(&format!("user-{number}"), &["online", "idle", "online", "offline"]).await;
    }
    profiles.until_heard("bystander", &["online"]).await;
    assert_eq!(profiles.resets(), 1);
    assert!(slowest < PROMPT, "a pong took {slowest:?}");
    assert_eq!(daemon.get("/healthz").await.status, 200);
    assert_eq!(daemon.get("/readyz").await.status, 200);
    // Something may be undelivered to the hostile plugin, and is accounted for then.
    let ended = daemon.stop().await;
    assert!(matches!(ended.code, Some(0 | 75)), "{:?}", ended.code);
    assert_eq!(profiles.heard("bystander"), ["online", "offline"]);
}

/// Quick to fail: few attempts, short deadline.
fn hostile(rule: &str) -> Plugin {
    Plugin::hostile(rule)
        .delivery("attempts = 2\nbackoff = \"20ms\"\nmax_backoff = \"200ms\"")
        .limits("deadline = \"500ms\"")
}

#[tokio::test]
async fn a_plugin_that_traps() {
    beside(hostile("act = \"trap\"")).await;
}

#[tokio::test]
async fn a_plugin_that_panics() {
    beside(hostile("act = \"panic\"")).await;
}

#[tokio::test]
async fn a_plugin_that_loops_for_ever() {
    beside(hostile("act = \"loop\"")).await;
}

#[tokio::test]
async fn a_plugin_that_recurses_for_ever() {
    beside(hostile("act = \"recurse\"")).await;
}

#[tokio::test]
async fn a_plugin_that_allocates_without_end() {
    beside(hostile("act = \"allocate\"")).await;
}

#[tokio::test]
async fn a_plugin_that_leaves_the_program() {
    beside(hostile("act = \"exit\"")).await;
}

#[tokio::test]
async fn a_plugin_that_fails_every_time() {
    beside(hostile("act = \"retry\"")).await;
}

#[tokio::test]
async fn a_plugin_that_rejects_everything() {
    beside(hostile("act = \"reject\"")).await;
}

#[tokio::test]
async fn a_plugin_that_answers_with_megabytes() {
    beside(hostile("act = { huge_error = 20000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_floods_the_log() {
    beside(hostile("act = { flood_log = 1000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_logs_one_huge_message() {
    beside(hostile("act = { huge_log = 20000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_floods_its_output() {
    beside(hostile("act = { flood_output = 1000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_prints_one_huge_line() {
    beside(hostile("act = { huge_line = 20000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_sleeps() {
    beside(hostile("act = { sleep = 600000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_asks_a_server_that_never_answers() {
    let silent = Receiver::start().await;
    silent.answer(Mood::Hang);
    let rule = format!("act = {{ ask = \"{}/\" }}", silent.origin());
    beside(hostile(&rule).may_reach(silent.origin())).await;
    assert!(silent.attempts() > 0, "the plugin did ask");
}

#[tokio::test]
async fn a_plugin_without_a_grant_reaches_nobody() {
    let secret = Receiver::start().await;
    let rule = format!("hook = \"user-online\", act = {{ ask = \"{}/\" }}", secret.origin());
    let daemon = Daemon::with(hostile(&rule)).start().await;
    let _alice = daemon.client("alice").await;
    // The log names the line to add to presence.toml.
    daemon.until_logged(&["http", &secret.origin()]).await;
    assert_eq!(secret.attempts(), 0);
}

#[tokio::test]
async fn one_user_that_fails_delays_no_other() {
    let profiles = ProfileService::start().await;
    let bad = Plugin::hostile("user = \"mallory\", act = \"retry\"");
    let daemon = Daemon::with(bad).section(Plugin::profile_updater(&profiles)).start().await;
    let _mallory = daemon.client("mallory").await;
    daemon.until_logged(&["hostile", "user-online", "mallory"]).await;
    let _alice = daemon.client("alice").await;
    profiles.until_heard("alice", &["online"]).await;
    profiles.until_heard("mallory", &["online"]).await;
}
