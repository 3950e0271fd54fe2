//! From sessions to profiles: a user's statuses arrive at the profile service, in order.

use presence_tests::{Config, Daemon, Plugin, ProfileService};

/// Offline is decided at once: the tests of this module don't wait for pages that reload.
fn without_grace(profiles: &ProfileService) -> Config {
    Daemon::with(Plugin::profile_updater(profiles)).presence("offline_grace = \"0s\"")
}

#[tokio::test]
async fn two_devices_of_one_user() {
    let profiles = ProfileService::start().await;
    let daemon = without_grace(&profiles).start().await;

    let mut phone = daemon.client("alice").await;
    profiles.until_heard("alice", &["online"]).await;
    let mut laptop = daemon.client("alice").await;
    phone.idle().await;
    assert_eq!(daemon.status("alice").await, "online", "the laptop is in use");
    laptop.idle().await;
    profiles.until_heard("alice", &["online", "idle"]).await;
    assert_eq!(daemon.user("alice").await["sessions"], 2);
    phone.online().await;
    profiles.until_heard("alice", &["online", "idle", "online"]).await;
    phone.close().await;
    profiles.until_heard("alice", &["online", "idle", "online", "idle"]).await;
    laptop.online().await;
    laptop.close().await;
    profiles.until_heard("alice", &["online", "idle", "online", "idle", "online", "offline"]).await;
    assert_eq!(profiles.resets(), 1, "the fresh start, once");
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn a_client_that_is_gone_without_a_word_is_offline() {
    let profiles = ProfileService::start().await;
    let daemon = without_grace(&profiles).start().await;
    let client = daemon.client("alice").await;
    profiles.until_heard("alice", &["online"]).await;
    client.abort();
    profiles.until_heard("alice", &["online", "offline"]).await;
}

#[tokio::test]
async fn a_page_reload_is_no_transition() {
    let profiles = ProfileService::start().await;
    let config = Daemon::with(Plugin::profile_updater(&profiles)).presence("offline_grace = \"60s\"");
    let daemon = config.start().await;
    daemon.client("alice").await.close().await;
    let mut again = daemon.client("alice").await;
    again.idle().await;
    profiles.until_heard("alice", &["online", "idle"]).await;
}

#[tokio::test]
async fn a_session_without_activity_becomes_idle_and_returns_with_it() {
    let profiles = ProfileService::start().await;
    let config = Daemon::with(Plugin::profile_updater(&profiles)).presence("idle_after = \"300ms\"");
    let daemon = config.start().await;
    let mut alice = daemon.client("alice").await;
    profiles.until_heard("alice", &["online", "idle"]).await;
    // Any message but `ping` is activity.
    alice.watch(&["alice"]).await;
    profiles.until_heard("alice", &["online", "idle", "online", "idle"]).await;
}

#[tokio::test]
async fn ids_are_what_the_application_says() {
    let profiles = ProfileService::start().await;
    let daemon = without_grace(&profiles).start().await;
    let longest = "ü".repeat(128);
    let users = [
        "alice@example.org",
        "a.b.c",
        "...",
        "teams/red/alice",
        "..%2F..",
        "alice,bob",
        "*",
        ">",
        "$SYS.>",
        "Alice Liddell",
        " leading and trailing ",
        "100%",
        "q?user=eve&x#y",
        "👩‍🚀 Ada",
        "Ζωή",
        "reset",
        &longest,
    ];
    for user in users {
        let mut client = daemon.client(user).await;
        client.watch(&[user]).await;
        client.expect(serde_json::json!({"type": "presence", "user": user, "status": "online"})).await;
        client.idle().await;
        daemon.until_status(user, "idle").await;
        assert_eq!(daemon.user(user).await["user"], user);
        client.close().await;
    }
    for user in users {
        profiles.until_heard(user, &["online", "idle", "offline"]).await;
    }
}
