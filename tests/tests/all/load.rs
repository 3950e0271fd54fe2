//! `presence bench` against running hosts.

use presence_tests::{Daemon, Ended, Folder, Program};
use serde_json::Value;

const SECRET: &str = "a secret of at least thirty-two bytes";

/// A short run with these further arguments.
async fn bench(daemon: &Daemon, arguments: &[&str]) -> Ended {
    let url = format!("ws://{}", daemon.clients());
    let short =
        ["bench", "--url", &url, "--sessions", "30", "--seconds", "1", "--rounds", "4", "--slow", "2"];
    Program::presence(&[&short, arguments].concat()).run().await
}

#[tokio::test]
async fn a_run_measures_every_load_and_leaves_nobody_behind() {
    let daemon = Daemon::with("").presence("offline_grace = \"0s\"").start().await;
    let admin = format!("http://{}", daemon.admin());
    let ended = bench(&daemon, &["--json", "--admin", &admin]).await.with_code(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    for (figure, expected) in
        [("opened", 30), ("watchers", 29), ("slow", 2), ("unheard", 0), ("lost", 0), ("changes_refused", 0)]
    {
        assert_eq!(report[figure], expected, "{figure}: {report:#}");
    }
    for figure in ["open", "changes", "hearing", "fan_out", "fan_out_beside_slow"] {
        let [p50, max] = ["p50_ms", "max_ms"].map(|part| report[figure][part].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= max, "{figure}: {report:#}");
    }
    assert!(report["bytes_a_session"].is_u64(), "{report:#}");
    for user in ["bench-0", "bench-29"] {
        daemon.until_status(user, "offline").await;
    }
}

#[tokio::test]
async fn held_sessions_are_opened_changed_and_closed() {
    let daemon = Daemon::with("").presence("offline_grace = \"0s\"").start().await;
    let admin = format!("http://{}", daemon.admin());
    let ended = bench(&daemon, &["--json", "--admin", &admin, "--held", "2500"]).await.with_code(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let held = &report["held"];
    assert_eq!((&held["sessions"], &held["refused"]), (&2500.into(), &0.into()), "{report:#}");
    for figure in ["opens_a_second", "changes_a_second", "closes_a_second"] {
        assert!(held[figure].as_f64().unwrap() > 0.0, "{figure}: {report:#}");
    }
    daemon.until_status("bench-held-2499", "offline").await;
    assert_eq!(daemon.get("/v1/holders").await.json()["holders"], serde_json::json!([]));
    let user = daemon.get("/v1/users/bench-held-0/transitions").await.body;
    assert!(user.contains("idle") && user.contains("online"), "{user}");
}

#[tokio::test]
async fn with_tokens_that_let_one_watch_oneself_there_is_no_fan_out() {
    let auth = format!(
        "[auth]\nmode = \"jwt\"\naudience = \"presence\"\n[[auth.key]]\nid = \"k\"\nalgorithm = \
         \"HS256\"\nsecret = \"{SECRET}\""
    );
    let daemon = Daemon::with(auth).start().await;
    let folder = Folder::new();
    let secret = folder.file("secret", format!("{SECRET}\n"));
    let secret = ["--secret-file", secret.to_str().unwrap(), "--key-id", "k", "--audience", "presence"];
    bench(&daemon, &secret).await.with_code(0).says(&["open 30 sessions", "only themselves"]);

    let wrong = folder.file("wrong", SECRET.replace("secret", "Secret"));
    let wrong = ["--secret-file", wrong.to_str().unwrap(), "--audience", "presence"];
    bench(&daemon, &wrong).await.with_code(69).says(&["0 of 30 sessions", "401 Unauthorized", "signature"]);
}

#[tokio::test]
async fn wrong_arguments_are_told_before_anything_is_opened() {
    let daemon = Daemon::with("").start().await;
    let folder = Folder::new();
    let tokens = folder.file("tokens", "no token\n");
    let tokens = tokens.to_str().unwrap();
    for (arguments, said) in [
        (&["--sessions", "1"][..], "--sessions 1: give 2 to"),
        (&["--rate", "0"][..], "above 0"),
        (&["--held", "10"][..], "--admin"),
        (&["--tokens", tokens][..], "tokens:1"),
        (&["--secret-file", "nowhere"][..], "nowhere can't be read"),
        (&["--admin", "ws://127.0.0.1:1"][..], "--admin ws://127.0.0.1:1"),
    ] {
        let url = format!("ws://{}", daemon.clients());
        let ended = Program::presence(&[&["bench", "--url", &url], arguments].concat()).run().await;
        assert_ne!(ended.code, Some(0));
        ended.says(&[said]);
    }
    assert!(!daemon.get("/metrics").await.body.contains("presence_gateway_sessions_opened_total 1"));
}
