//! The shipped webhook: all six hooks as signed requests.

use presence_tests::{Daemon, Plugin, Recorder};

#[tokio::test]
async fn every_hook_is_a_signed_request() {
    let recorder = Recorder::start().await;
    let config = Daemon::with(Plugin::webhook(&recorder)).presence("offline_grace = \"0s\"");
    let daemon = config.start().await;
    let cleanup = recorder.until_events("cleanup", 1).await;
    assert!(cleanup[0].to_string().contains("everything"), "{}", cleanup[0]);

    let mut alice = daemon.client("alice").await;
    let connected = &recorder.until_events("session-connected", 1).await[0]["data"];
    assert_eq!(connected["user"], "alice");
    alice.idle().await;
    alice.close().await;
    let disconnected = &recorder.until_events("session-disconnected", 1).await[0]["data"];
    assert_eq!(disconnected["session"]["id"], connected["id"], "I6: one of each for the session");
    for status in ["online", "idle", "offline"] {
        let events = recorder.until_events(&format!("user-{status}"), 1).await;
        assert_eq!(events[0]["data"]["user"], "alice");
        assert_eq!(events[0]["data"]["current"], status);
    }
    daemon.stop().await.with_code(0);
    assert_eq!(recorder.events().len(), 6);
}
