//! TLS of a whole daemon, from certificates that an authority has signed to the command line that trusts it; and addresses that
//! proxies tell.

use presence_tests::{Authority, Client, Daemon, Folder, Program};

fn section(name: &str, authority: &Authority) -> String {
    let (certificate, key) = authority.issue("localhost");
    format!("[host.{name}]\ncert_file = '{}'\nkey_file = '{}'", certificate.display(), key.display())
}

#[tokio::test]
async fn clients_connect_over_tls() {
    let authority = Authority::new();
    let daemon = Daemon::with(section("tls", &authority)).start().await;
    let (url, ca) = (format!("wss://localhost:{}", daemon.clients().port()), authority.file());
    let connect = ["connect", "--user", "alice", "--url", &url, "--ca-file", ca.to_str().unwrap()];
    // Without anything typed it says hello and leaves.
    Program::presence(&connect).run().await.with_code(0).says(&["alice", "online"]);
    let stranger = Authority::new();
    let ca = stranger.file();
    let connect = ["connect", "--user", "alice", "--url", &url, "--ca-file", ca.to_str().unwrap()];
    Program::presence(&connect).run().await.with_code(69).says(&["certificate"]);
    assert_eq!(daemon.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn bad_certificates_are_errors_with_their_line() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let (certificate, _) = authority.issue("localhost");
    let (_, other) = authority.issue("other");
    let missing = folder.path().join("missing.pem");
    for (certificate, key, part) in [
        (&certificate, &other, "the key of another certificate"),
        (&missing, &other, "can't be read"),
        (&certificate, &certificate, "has no private key"),
    ] {
        let lines =
            format!("[host.tls]\ncert_file = '{}'\nkey_file = '{}'", certificate.display(), key.display());
        let config = Daemon::with(lines);
        config.clone().check().await.with_code(78).says(&["host.tls.", part]);
        config.refused().await.with_code(78).says(&["host.tls.", part]);
    }
    let half = Daemon::with("[host.admin_tls]\nkey_file = 'a.key'");
    half.refused().await.with_code(78).says(&["host.admin_tls.cert_file", "is needed"]);
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let limits = "[limits]\nsessions_per_address = 1";
    let daemon = Daemon::with(limits).host("trusted_proxies = [\"127.0.0.1\"]").start().await;
    let from = async |address: &str| {
        let headers = [("x-forwarded-for", address)];
        Client::open(daemon.clients(), "alice", "/v1/connect?user=alice", &headers).await
    };
    let first = from("203.0.113.7").await.unwrap();
    let refusal = from("10.0.0.9, 203.0.113.7").await.map(drop).expect_err("the same address");
    assert_eq!(refusal.status, 429, "{refusal:?}");
    let _other = from("203.0.113.8").await.unwrap();
    first.close().await;
    let daemon = Daemon::with(limits).start().await;
    let header = [("x-forwarded-for", "203.0.113.9")];
    let _first = daemon.client("bob").await;
    let forged = Client::open(daemon.clients(), "bob", "/v1/connect?user=bob", &header).await;
    assert_eq!(forged.map(drop).expect_err("nobody is trusted").status, 429);
}
