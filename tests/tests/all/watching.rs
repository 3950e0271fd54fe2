//! Who watches hears of changes, and of nothing else (I9).

use presence_tests::Daemon;
use serde_json::json;

#[tokio::test]
async fn a_watcher_hears_until_it_stops_watching() {
    let daemon = Daemon::with("").presence("offline_grace = \"0s\"").start().await;
    let mut alice = daemon.client("alice").await;
    alice.watch(&["bob", "carol"]).await;
    alice.expect(json!({"type": "presence", "user": "bob", "status": "offline", "revision": 0})).await;
    alice.expect(json!({"type": "presence", "user": "carol", "status": "offline", "revision": 0})).await;

    let mut bob = daemon.client("bob").await;
    let online = alice.expect_next(json!({"type": "presence", "user": "bob", "status": "online"})).await;
    bob.idle().await;
    let idle = alice.expect_next(json!({"type": "presence", "user": "bob", "status": "idle"})).await;
    assert!(idle["revision"].as_u64() > online["revision"].as_u64(), "{online} before {idle}");

    alice.unwatch(&["bob"]).await;
    bob.online().await;
    daemon.until_status("bob", "online").await;
    let carol = daemon.client("carol").await;
    // Had alice been told of bob's return, it would have come before carol's.
    alice.expect_next(json!({"type": "presence", "user": "carol", "status": "online"})).await;

    alice.watch(&["bob"]).await;
    alice.expect_next(json!({"type": "presence", "user": "bob", "status": "online"})).await;
    bob.close().await;
    alice.expect_next(json!({"type": "presence", "user": "bob", "status": "offline"})).await;
    carol.close().await;
    alice.expect_next(json!({"type": "presence", "user": "carol", "status": "offline"})).await;
}

#[tokio::test]
async fn two_users_watch_each_other() {
    let daemon = Daemon::with("").start().await;
    let mut alice = daemon.client("alice").await;
    let mut bob = daemon.client("bob").await;
    alice.watch(&["bob"]).await;
    bob.watch(&["alice"]).await;
    alice.expect(json!({"type": "presence", "user": "bob", "status": "online"})).await;
    bob.expect(json!({"type": "presence", "user": "alice", "status": "online"})).await;
    alice.idle().await;
    bob.expect_next(json!({"type": "presence", "user": "alice", "status": "idle"})).await;
    bob.idle().await;
    alice.expect_next(json!({"type": "presence", "user": "bob", "status": "idle"})).await;
}
