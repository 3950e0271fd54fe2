//! TLS on the way to NATS: an own authority, certificates of both sides, and what is said when they don't fit.

use presence_tests::{Authority, Folder};

use super::refusals::{error, says};
use super::*;

/// The name in the servers' certificates: where they listen.
const NAME: &str = "127.0.0.1";

fn over_tls(server: &NatsServer, tls: NatsTls) -> NatsSettings {
    NatsSettings { tls, ..settings(vec![format!("tls://{}", server.address())]) }
}

fn trusting(authority: &Authority) -> NatsTls {
    NatsTls { ca_file: Some(authority.file()), client: None }
}

/// What is written is read again over this connection.
async fn works(settings: &NatsSettings) {
    let store = connect(settings).await;
    let key = user_key(1, "alice");
    let sequence = write(&store, &key, record(1)).await;
    assert_eq!(store.get(key).await, Ok(Some((sequence, record(1)))));
}

#[tokio::test]
async fn an_own_authority_is_trusted_and_another_one_is_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = NatsServer::with(&authority.nats_lines(NAME, false)).await;
    works(&over_tls(&server, trusting(&authority))).await;
    // With a file of an authority TLS is used whatever the URL says.
    works(&NatsSettings { tls: trusting(&authority), ..settings(vec![server.url()]) }).await;
    // Without one the system's authorities are, who know nothing of this server.
    for tls in [trusting(&other), NatsTls::default()] {
        let started = std::time::Instant::now();
        let found = error(&over_tls(&server, tls)).await;
        let url = format!("tls://{}", server.address());
        says(&found, false, &[&url, "do not trust each other", "tls_ca_file", "certificate"]);
        assert!(started.elapsed() < Duration::from_secs(5), "waiting changes no certificate");
    }
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused() {
    let authority = Authority::new();
    let server = NatsServer::with(&authority.nats_lines("nats.example", false)).await;
    let found = error(&over_tls(&server, trusting(&authority))).await;
    says(&found, false, &["do not trust each other", "not valid for name"]);
}

#[tokio::test]
async fn a_server_that_wants_certificates_gets_one() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = NatsServer::with(&authority.nats_lines(NAME, true)).await;
    let client = |of: &Authority| NatsTls { client: Some(of.issue("presence")), ..trusting(&authority) };
    works(&over_tls(&server, client(&authority))).await;
    for tls in [trusting(&authority), client(&other)] {
        let found = error(&over_tls(&server, tls)).await;
        // Whether the server's reason arrives before the end of the connection is chance.
        says(&found, false, &["tls_cert_file"]);
    }
}

#[tokio::test]
async fn files_that_hold_no_certificate_or_key_are_named() {
    let authority = Authority::new();
    let server = NatsServer::with(&authority.nats_lines(NAME, true)).await;
    let folder = Folder::new();
    let text = folder.file("text.pem", "hello");
    let (certificate, key) = authority.issue("presence");
    let with = |ca_file: &std::path::Path, client| NatsTls { ca_file: Some(ca_file.to_owned()), client };
    for tls in [
        with(&text, None),
        with(&authority.file(), Some((text.clone(), key.clone()))),
        with(&authority.file(), Some((certificate, text.clone()))),
    ] {
        says(&error(&over_tls(&server, tls)).await, true, &["text.pem", "can't be used to connect to NATS"]);
    }
    let missing = with(&folder.path().join("none.pem"), None);
    says(&error(&over_tls(&server, missing)).await, true, &["none.pem"]);
}
