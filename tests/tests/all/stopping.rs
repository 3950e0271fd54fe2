//! SIGTERM: goodbye to every client, everything delivered, or an account of what was not.

use presence_tests::{Daemon, Plugin, ProfileService};
use rustix::process::Signal;
use serde_json::json;

#[tokio::test]
async fn stopping_delivers_everything() {
    let profiles = ProfileService::start().await;
    // Nobody would be offline for a minute, were it not the last host that stops.
    let config = Daemon::with(Plugin::profile_updater(&profiles)).presence("offline_grace = \"60s\"");
    let daemon = config.start().await;
    let alice = daemon.client("alice").await;
    let mut bob = daemon.client("bob").await;
    bob.idle().await;
    daemon.client("carol").await.close().await;

    daemon.stop().await.with_code(0);
    assert_eq!(profiles.heard("alice"), ["online", "offline"]);
    assert_eq!(profiles.heard("bob"), ["online", "idle", "offline"]);
    assert_eq!(profiles.heard("carol"), ["online", "offline"]);
    let told = alice.until_closed().await;
    let goodbye = told.iter().find(|message| message["type"] == "goodbye");
    assert_eq!(goodbye.expect("a goodbye before the close")["reason"], "draining");
}

#[tokio::test]
async fn an_interrupt_stops_as_well() {
    let mut daemon = Daemon::with("").start().await;
    let mut alice = daemon.client("alice").await;
    daemon.signal(Signal::INT);
    alice.expect(json!({"type": "goodbye", "reason": "draining"})).await;
    daemon.until_ended().await.with_code(0);
}

#[tokio::test]
async fn what_cannot_be_delivered_is_named() {
    let profiles = ProfileService::start().await;
    let config = Daemon::with(Plugin::profile_updater(&profiles)).host("drain_timeout = \"1s\"");
    let daemon = config.start().await;
    let _alice = daemon.client("alice").await;
    profiles.until_heard("alice", &["online"]).await;
    profiles.take_down().await;
    let ended = daemon.stop().await.with_code(75);
    let log = ended.stderr;
    let named =
        |line: &str| ["undelivered", "profile-updater", "alice"].iter().all(|text| line.contains(text));
    assert!(log.lines().any(named), "no line names plugin and user:\n{log}");
}

#[tokio::test]
async fn a_killed_host_starts_afresh() {
    let profiles = ProfileService::start().await;
    let config = Daemon::with(Plugin::profile_updater(&profiles));
    let daemon = config.clone().start().await;
    let _alice = daemon.client("alice").await;
    profiles.until_heard("alice", &["online"]).await;
    daemon.kill().await;
    let daemon = config.start().await;
    assert_eq!(
        profiles.resets(),
        2,
        "each start is a fresh one: the memory store knows nothing of the one before"
    );
    let _alice = daemon.client("alice").await;
    profiles.until_heard("alice", &["online", "online"]).await;
}
