//! TLS on both listeners, over real sockets.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::admin_client::AdminClient;
use crate::certificates::TlsFiles;
use crate::certificates::tests::issue;
use crate::cli::AdminArgument;
use crate::plugins::testing::Folder;

async fn start(files: &TlsFiles, bounds: Bounds) -> Gateway {
    let mut settings = settings(open_to_all());
    settings.host.tls = Some(files.clone());
    settings.host.admin_tls = Some(files.clone());
    Gateway::serve(bind(&settings).await.unwrap().limited(10, bounds)).await
}

/// A client that trusts this certificate.
async fn try_handshake(
    address: SocketAddr,
    pem: &str,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn handshake(address: SocketAddr, pem: &str) -> TlsStream<TcpStream> {
    try_handshake(address, pem, rustls::ALL_VERSIONS, &["http/1.1"]).await.unwrap()
}

async fn metrics(gateway: &Gateway, pem: &str) -> String {
    let mut stream = handshake(gateway.admin, pem).await;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_session_goes_over_either_version_of_tls() {
    let folder = Folder::new();
    let (files, pem) = issue(&folder, "tls.pem", "tls.key");
    let mut gateway = start(&files, bounds(|_| ())).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let stream = try_handshake(gateway.clients, &pem, &[version], &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let url = "wss://localhost/v1/connect?user=alice";
        let (mut socket, _) = soon(tokio_tungstenite::client_async(url, stream)).await.unwrap();
        let told = soon(socket.next()).await.unwrap().unwrap().into_text().unwrap();
        assert!(told.contains("\"welcome\""), "{told}");
        soon(socket.send(Message::text(r#"{"type":"ping"}"#))).await.unwrap();
        assert_eq!(soon(socket.next()).await.unwrap().unwrap().into_text().unwrap(), r#"{"type":"pong"}"#);
        soon(socket.close(None)).await.unwrap();
        assert_eq!(gateway.driver.closed().await, "closed");
    }
    let only_h2 = try_handshake(gateway.clients, &pem, rustls::ALL_VERSIONS, &["h2"]).await;
    assert!(only_h2.is_err(), "nothing but HTTP/1.1 is spoken");
}

#[tokio::test]
async fn what_is_no_handshake_is_cut() {
    let folder = Folder::new();
    let (files, pem) = issue(&folder, "tls.pem", "tls.key");
    let gateway = start(&files, bounds(|bounds| bounds.handshake = Duration::from_millis(300))).await;
    // Nothing at all, the beginning of one, and HTTP without TLS.
    for text in ["", "\u{16}\u{3}\u{1}", "GET /v1/connect HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut stream = TcpStream::connect(gateway.clients).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let metrics = metrics(&gateway, &pem).await;
    assert!(
        metrics.contains("presence_gateway_connections_cut_total{reason=\"handshake\"} 3\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_certificate_is_shown_anew_when_its_files_have_changed() {
    let folder = Folder::new();
    let (files, first) = issue(&folder, "tls.pem", "tls.key");
    let gateway = start(&files, bounds(|_| ())).await;
    let mut open = handshake(gateway.clients, &first).await;
    let counted = async |pem: &str, result: &str| {
        let name = format!("presence_gateway_certificate_readings_total{{result=\"{result}\"}} ");
        let metrics = metrics(&gateway, pem).await;
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).unwrap()
    };
    // Wrong ones change nothing. Each listener has read them.
    folder.write("tls.pem", "no certificate");
    soon(async { while counted(&first, "failed").await < 2 {} }).await;
    handshake(gateway.clients, &first).await;
    let (_, second) = issue(&folder, "tls.pem", "tls.key");
    let shown = async { try_handshake(gateway.clients, &second, rustls::ALL_VERSIONS, &[]).await.is_ok() };
    assert!(!shown.await || counted(&second, "read").await > 0);
    soon(async {
        while try_handshake(gateway.admin, &second, rustls::ALL_VERSIONS, &[]).await.is_err()
            || try_handshake(gateway.clients, &second, rustls::ALL_VERSIONS, &[]).await.is_err()
        {}
    })
    .await;
    assert!(try_handshake(gateway.clients, &first, rustls::ALL_VERSIONS, &[]).await.is_err());
    assert_eq!(counted(&second, "read").await, 2);
    // Who was there before is there still.
    open.write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    soon(open.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[tokio::test]
async fn the_command_line_trusts_whom_it_is_told_to() {
    let folder = Folder::new();
    let (files, _) = issue(&folder, "tls.pem", "tls.key");
    let (others, _) = issue(&folder, "other.pem", "other.key");
    let gateway = start(&files, bounds(|_| ())).await;
    let ask = async |ca_file: &TlsFiles| {
        let url = format!("https://localhost:{}", gateway.admin.port());
        let client = AdminClient::new(&AdminArgument {
            url,
            key_file: None,
            ca_file: Some(ca_file.certificate.clone()),
        });
        client.unwrap().get::<Value>("/healthz").await
    };
    assert_eq!(ask(&files).await.unwrap()["status"], "alive");
    assert!(ask(&others).await.is_err());
}

#[tokio::test]
async fn bad_files_are_told_before_anything_is_bound() {
    let folder = Folder::new();
    let (files, _) = issue(&folder, "tls.pem", "tls.key");
    let mut settings = settings(open_to_all());
    settings.host.admin_tls = Some(TlsFiles { key: folder.path().join("none.key"), ..files });
    let error = bind(&settings).await.map(|_| ()).unwrap_err();
    let told = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(told.starts_with("host.admin_tls: ") && told.contains("none.key can't be read"), "{told}");
}
