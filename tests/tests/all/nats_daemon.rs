//! One daemon over NATS: it serves as it does in memory, and what is wrong with NATS is said in words and exit codes.

use presence_tests::{Authority, Daemon, Folder, NatsServer, Operator, Plugin, ProfileService};

fn over(server: &NatsServer, more: &str) -> String {
    format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\ninstance_ttl = \"4s\"\n{more}", server.url())
}

#[tokio::test]
async fn a_daemon_over_nats_serves() {
    let (server, profiles) = (NatsServer::start().await, ProfileService::start().await);
    let config = Daemon::with(Plugin::profile_updater(&profiles)).section(over(&server, ""));
    let daemon = config.presence("offline_grace = \"0s\"").start().await;
    let mut alice = daemon.client("alice").await;
    // One after the other: two quick changes may be told as one.
    profiles.until_heard("alice", &["online"]).await;
    alice.idle().await;
    profiles.until_heard("alice", &["online", "idle"]).await;
    alice.online().await;
    profiles.until_heard("alice", &["online", "idle", "online"]).await;
    alice.close().await;
    daemon.until_status("alice", "offline").await;
    profiles.until_heard("alice", &["online", "idle", "online", "offline"]).await;
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn what_is_wrong_with_nats_is_an_exit_code_and_words() {
    let server = NatsServer::start().await;
    let config = |more: &str| Daemon::with(over(&server, more));
    config("user = \"nobody\"").refused().await.with_code(78).says(&["cluster.user", "password"]);
    config("").check().await.with_code(0).says(&["nats at", &server.url()]);
    Daemon::with(over(&server, "")).start().await.stop().await.with_code(0);
    let client = async_nats::connect(server.url()).await.unwrap();
    let update = serde_json::json!({
        "name": "presence_dead_letters", "subjects": ["presence.dead"], "max_msgs": 5, "storage": "file",
        "allow_direct": true, "num_replicas": 1,
    });
    client.request("$JS.API.STREAM.UPDATE.presence_dead_letters", update.to_string().into()).await.unwrap();
    let expected = ["presence_dead_letters", "max_msgs is 5, not 10000"];
    config("").refused().await.with_code(78).says(&expected);
    let url = server.url();
    drop(server);
    let away = format!("[cluster]\nstore = \"nats\"\nurls = [\"{url}\"]\n");
    Daemon::with(away.as_str()).check().await.with_code(0);
    Daemon::with(away).refused().await.with_code(69).says(&[&url, "not reachable"]);
}

#[tokio::test]
async fn a_daemon_serves_over_tls_with_certificates_of_both_sides() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = NatsServer::with(&authority.nats_lines("127.0.0.1", true)).await;
    let (certificate, key) = authority.issue("presence");
    let config = |authority: &Authority| {
        Daemon::with(format!(
            "[cluster]\nstore = \"nats\"\nurls = [\"tls://{}\"]\ninstance_ttl = \"4s\"\ntls_ca_file = \"{}\"\n\
             tls_cert_file = \"{}\"\ntls_key_file = \"{}\"",
            server.address(),
            authority.file().display(),
            certificate.display(),
            key.display()
        ))
    };
    let daemon = config(&authority).start().await;
    let _alice = daemon.client("alice").await;
    daemon.until_status("alice", "online").await;
    daemon.stop().await.with_code(0);
    let expected = ["do not trust each other", "tls_ca_file", &server.address().to_string()];
    config(&other).refused().await.with_code(69).says(&expected);
    let text = server.folder().join("nats.conf");
    let wrong_file = format!(
        "[cluster]\nstore = \"nats\"\nurls = [\"tls://{}\"]\ntls_ca_file = \"{}\"",
        server.address(),
        text.display()
    );
    Daemon::with(wrong_file).refused().await.with_code(78).says(&["nats.conf", "no certificate"]);
}

#[tokio::test]
async fn a_daemon_shows_its_credentials_file() {
    let (operator, stranger) = (Operator::new(), Operator::new());
    let server = NatsServer::with(&operator.nats_lines()).await;
    let folder = Folder::new();
    let config = |credentials: String| {
        let file = folder.file("presence.creds", credentials);
        Daemon::with(over(&server, &format!("credentials_file = \"{}\"", file.display())))
    };
    let daemon = config(operator.credentials()).start().await;
    let _alice = daemon.client("alice").await;
    daemon.until_status("alice", "online").await;
    daemon.stop().await.with_code(0);
    for wrong in [stranger.credentials(), operator.expired_credentials(), operator.mismatched_credentials()] {
        let expected = [server.url(), "refuses the credentials".to_owned()];
        let refused = config(wrong).refused().await.with_code(69).says(&[&expected[0], &expected[1]]);
        assert!(!refused.output().contains("SU"), "no seed is printed: {}", refused.output());
    }
    Daemon::with(over(&server, "")).refused().await.with_code(69).says(&["refuses the credentials"]);
    config("hello".into()).refused().await.with_code(78).says(&["presence.creds"]);
}
