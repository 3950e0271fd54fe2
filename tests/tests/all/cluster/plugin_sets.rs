//! Hosts with different plugins: told once, and a metric for as long as it is so.

use presence_tests::guest;

use super::*;

async fn until_others(daemon: &Daemon, count: u64) {
    let line = format!("presence_instances_with_other_plugins {count}");
    until(&line, async || {
        let metrics = daemon.get("/metrics").await.body;
        metrics.lines().any(|found| found == line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hosts_with_different_plugins_are_told_and_counted() {
    let deployment = Deployment::with("").await;
    let (a, b) = (deployment.host("a").await, deployment.host("b").await);
    for host in [&a, &b] {
        until_others(host, 0).await;
    }
    let other = deployment.config("c").section(Plugin::at("noop", guest("guest-noop"))).start().await;
    until_others(&other, 2).await;
    for host in [&a, &b] {
        until_others(host, 1).await;
        host.until_logged(&["WARN", "other plugins", "\"c\""]).await;
    }
    other.stop().await.with_code(0);
    for host in [&a, &b] {
        until_others(host, 0).await;
    }
}
