//! Holders of several hosts: who serves them may change, die or come back in between.

use presence_tests::{Holder, until};
use serde_json::json;

use super::Deployment;

#[tokio::test]
async fn any_host_serves_a_holder_and_its_lease_is_one() {
    let deployment = Deployment::with("offline_grace = \"0s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let holder = Holder::register(&a, "chat-1", "x", 6).await;
    let elsewhere = holder.at(&b);
    for at in 0..20 {
        let asked = if at % 2 == 0 { &holder } else { &elsewhere };
        let opened = asked.put(&format!("s{at}"), json!({"user": format!("u{}", at / 2)})).await;
        assert_eq!(opened.status, 201, "{opened:?}");
    }
    for user in ["u0", "u9"] {
        b.until_status(user, "online").await;
    }
    deployment.recorder.until_events("session-connected", 20).await;
    assert_eq!(elsewhere.renew(6).await.status, 200);
    assert_eq!(holder.delete("s1", "u0").await.status, 200, "the other host has opened it");
    assert_eq!(elsewhere.patch("s0", json!({"user": "u0", "status": "idle"})).await.status, 200);
    a.until_status("u0", "idle").await;
    deployment.recorder.until_events("session-disconnected", 1).await;

    let named = deployment.until_cleaned_up(holder.instance()).await;
    let settled = |id: &String| id != "chat-1/s1";
    assert_eq!(named.into_iter().filter(settled).count(), 19, "all that were open");
    for user in ["u0", "u9"] {
        b.until_status(user, "offline").await;
    }
    assert_eq!(deployment.lost().len(), 1, "one cleanup");
    assert_eq!(elsewhere.renew(6).await.status, 410);
}

#[tokio::test]
async fn a_new_incarnation_at_another_host_ends_the_old_one() {
    let deployment = Deployment::with("offline_grace = \"0s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let old = Holder::register(&a, "chat-1", "x", 3600).await;
    assert_eq!(old.put("s1", json!({"user": "alice"})).await.status, 201);
    b.until_status("alice", "online").await;
    let new = Holder::register(&b, "chat-1", "y", 3600).await;
    assert_eq!(new.put("t1", json!({"user": "bob"})).await.status, 201);
    assert_eq!(deployment.until_cleaned_up(old.instance()).await, ["chat-1/s1"]);
    a.until_status("alice", "offline").await;
    a.until_status("bob", "online").await;
    assert!(matches!(old.put("s2", json!({"user": "alice"})).await.status, 409 | 410));
    assert_eq!(new.at(&a).put("t2", json!({"user": "bob"})).await.status, 201);
}

#[tokio::test]
async fn held_sessions_outlive_the_owner_of_their_users() {
    let deployment = Deployment::with("offline_grace = \"1s\"").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    let holder = Holder::register(&a, "chat-1", "x", 3600).await;
    for at in 0..32 {
        assert_eq!(holder.put(&format!("s{at}"), json!({"user": format!("u{at}")})).await.status, 201);
    }
    deployment.recorder.until_events("session-connected", 32).await;
    a.kill().await;
    let holder = holder.at(&b);
    for at in 0..32 {
        let ended = holder.delete(&format!("s{at}"), &format!("u{at}")).await;
        assert_eq!(ended.status, 200, "{ended:?}");
    }
    for at in 0..32 {
        b.until_status(&format!("u{at}"), "offline").await;
    }
    let ended = deployment.recorder.until_events("session-disconnected", 32).await;
    assert_eq!(ended.len(), 32, "whoever owned them");
    let named: Vec<_> =
        deployment.lost().iter().map(|event| event["data"]["scope"]["lost"]["instance"].clone()).collect();
    assert!(!named.contains(&json!(holder.instance())), "the holder lives: {named:?}");
}

#[tokio::test]
async fn a_fresh_start_leaves_a_live_holder_alone() {
    let deployment = Deployment::with("offline_grace = \"0s\"").await;
    let a = deployment.host("a").await;
    let holder = Holder::register(&a, "chat-1", "x", 3600).await;
    assert_eq!(holder.put("s1", json!({"user": "alice"})).await.status, 201);
    deployment.recorder.until_statuses("alice", &["user-online"]).await;
    // A holder is nobody who would stay: this host is the last.
    a.stop().await.with_code(0);
    let b = deployment.host("b").await;
    assert_eq!(deployment.everything(), 2, "nobody else was there");
    b.until_status("alice", "online").await;
    deployment.recorder.until_statuses("alice", &["user-online", "user-online"]).await;
    let connected = || {
        let told = deployment.recorder.deliveries();
        told.iter().filter(|event| event["type"] == "session-connected").count()
    };
    until("alice's session is announced again", async || (connected() == 2).then_some(())).await;
    let holder = holder.at(&b);
    assert_eq!(holder.renew(3600).await.status, 200);
    assert_eq!(holder.delete("s1", "alice").await.status, 200);
    b.until_status("alice", "offline").await;
}
