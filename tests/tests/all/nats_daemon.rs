//! One daemon over NATS: it serves as it does in memory, and what is wrong with NATS is said in words and exit codes.

use presence_tests::{Daemon, NatsServer, Plugin, ProfileService};

fn over(server: &NatsServer, more: &str) -> String {
    format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\ninstance_ttl = \"4s\"\n{more}", server.url())
}

#[tokio::test]
async fn a_daemon_over_nats_serves() {
    let (server, profiles) = (NatsServer::start().await, ProfileService::start().await);
    let config = Daemon::with(Plugin::profile_updater(&profiles)).section(over(&server, ""));
    let daemon = config.presence("offline_grace = \"0s\"").start().await;
    let mut alice = daemon.client("alice").await;
    alice.idle().await;
    alice.online().await;
    alice.close().await;
    daemon.until_status("alice", "offline").await;
    profiles.until_heard("alice", &["online", "idle", "online", "offline"]).await;
    daemon.stop().await.with_code(0);
}
