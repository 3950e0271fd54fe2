//! The admin listener: users, health, metrics, and what it says to those who ask for anything else.

use presence_tests::{Daemon, Plugin, ProfileService, ask, until};
use serde_json::{Value, json};

#[tokio::test]
async fn users_are_told_as_they_are() {
    let daemon = Daemon::with("").presence("offline_grace = \"0s\"").start().await;
    let unknown = daemon.user("nobody").await;
    let expected = json!({"user": "nobody", "status": "offline", "since": null, "last_seen": null, "sessions": 0,
        "revision": 0, "message": null});
    assert_eq!(unknown, expected);

    let mut alice = daemon.client("alice").await;
    alice.idle().await;
    daemon.until_status("alice", "idle").await;
    let known = daemon.user("alice").await;
    assert_eq!(known["sessions"], 1);
    assert_eq!(known["last_seen"], Value::Null);
    assert!(known["since"].is_string() && known["revision"].as_u64() > Some(0), "{known}");

    alice.close().await;
    daemon.until_status("alice", "offline").await;
    assert!(daemon.user("alice").await["last_seen"].is_string());

    let several = daemon.get("/v1/users?user=bob&user=alice&user=a%2Fb").await.json();
    let names: Vec<&str> =
        several["users"].as_array().unwrap().iter().filter_map(|user| user["user"].as_str()).collect();
    assert_eq!(names, ["bob", "alice", "a/b"]);
}

#[tokio::test]
async fn mistakes_get_problem_documents() {
    let daemon = Daemon::with("").start().await;
    let cases = [
        ("GET", daemon.admin(), "/nowhere", 404),
        ("POST", daemon.admin(), "/v1/users/alice", 405),
        ("GET", daemon.admin(), "/v1/users", 400),
        ("GET", daemon.admin(), "/v1/users/%00", 400),
        ("GET", daemon.clients(), "/nowhere", 404),
        ("GET", daemon.clients(), "/metrics", 404),
        ("DELETE", daemon.clients(), "/v1/connect", 405),
    ];
    for (method, address, path, status) in cases {
        let answer = ask(method, address, path).await.unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.content_type, "application/problem+json", "{method} {path}");
        assert_eq!(answer.json()["status"], status, "{method} {path}");
    }
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let profiles = ProfileService::start().await;
    let daemon = Daemon::with(Plugin::profile_updater(&profiles)).start().await;
    assert_eq!(daemon.get("/healthz").await.status, 200);
    assert_eq!(daemon.get("/readyz").await.status, 200);
    let _online = daemon.client("alice").await;
    let mut idle = daemon.client("bob").await;
    idle.idle().await;
    profiles.until_heard("bob", &["online", "idle"]).await;
    let wanted = [
        "presence_sessions{status=\"online\"} 1",
        "presence_sessions{status=\"idle\"} 1",
        "presence_users{status=\"online\"} 1",
        "presence_users{status=\"idle\"} 1",
        "presence_transitions_total{status=\"online\"} 2",
        "presence_transitions_total{status=\"idle\"} 1",
    ];
    for line in wanted {
        until(format_args!("`{line}` in the metrics"), async || {
            daemon.get("/metrics").await.body.lines().any(|present| present == line).then_some(())
        })
        .await;
    }
    let metrics = daemon.get("/metrics").await.body;
    let of_plugin = |line: &str| line.contains("profile-updater") && line.contains("user-online");
    assert!(metrics.lines().any(of_plugin), "nothing of the plugin's hooks in\n{metrics}");
}

#[tokio::test]
async fn every_line_of_a_plugin_tells_what_it_is_about() {
    let acts = "{ user = \"printer\", act = { flood_output = 1 } }, { user = \"logger\", act = { flood_log = 1 } }, \
                { user = \"talker\", act = { flood_log = 100000 } }, { user = \"failer\", act = \"retry\" }";
    let plugin = Plugin::hostile("").config(&format!("{{ rules = [{acts}] }}"));
    let daemon = Daemon::with(plugin).start().await;
    for (user, text) in [
        ("printer", "\"stream\":\"stdout\""),
        ("printer", "\"stream\":\"stderr\""),
        ("logger", "a line among many"),
        ("talker", "limits.log"),
        ("failer", "a hook failed"),
    ] {
        let _client = daemon.client(user).await;
        let about = format!("\"user\":\"{user}\"");
        let event = format!("\"event_id\":\"hostile:user-online:{user}:");
        let whole = ["\"plugin\":\"hostile\"", "\"hook\":\"user-online\"", &about, &event, text];
        daemon.until_logged(&whole).await;
    }
}
