//! A small Node application that has moved over: its own sockets, our statuses.

use std::process::Stdio;

use presence_tests::until;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{cleaned_up, host};

/// The chat server, and its port.
async fn chat(admin: &str) -> (Child, u16) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/applications/chat.mjs");
    let mut command = Command::new("node");
    command.args([script, admin, "chat"]).kill_on_drop(true).stdout(Stdio::piped());
    let mut child = command.spawn().expect("node 20 or newer is needed");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let port = lines.next_line().await.expect("it runs").expect("it prints its port");
    (child, port.parse().expect("a port"))
}

/// A user of the chat, once she is welcome.
async fn user(port: u16, name: &str) -> BufReader<TcpStream> {
    let mut socket = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    socket.write_all(format!("hello {name}\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    socket.read_line(&mut line).await.unwrap();
    assert_eq!(line, "welcome\n");
    socket
}

#[tokio::test]
async fn a_node_application_keeps_its_sockets_and_reports_its_sessions() {
    let (daemon, recorder) = host().await;
    let admin = format!("http://{}", daemon.admin());
    let (mut app, port) = chat(&admin).await;
    let mut alice = user(port, "alice").await;
    let bob = user(port, "bob").await;
    daemon.until_status("alice", "online").await;
    let connected = recorder.until_events("session-connected", 2).await;
    assert!(connected.iter().all(|event| event["data"]["attributes"].to_string().contains("127.0.0.1")));
    alice.write_all(b"away\n").await.unwrap();
    daemon.until_status("alice", "idle").await;
    alice.write_all(b"back\nsay hi\n").await.unwrap();
    daemon.until_status("alice", "online").await;
    drop(bob);
    daemon.until_status("bob", "offline").await;
    let ended = recorder.until_events("session-disconnected", 1).await;
    assert_eq!(
        (ended[0]["data"]["session"]["user"].as_str(), ended[0]["data"]["reason"].as_str()),
        (Some("bob"), Some("closed"))
    );

    // It crashes: nobody tells of alice's end, the lease does.
    let instance = connected[0]["data"]["instance"].as_str().unwrap().to_owned();
    app.kill().await.unwrap();
    let named = cleaned_up(&recorder, &instance).await;
    let session = connected.iter().find(|event| event["data"]["user"] == "alice").unwrap();
    assert_eq!(named, [session["data"]["id"].as_str().unwrap()]);
    daemon.until_status("alice", "offline").await;

    // It is started again, and those who come back are there again.
    let (_app, port) = chat(&admin).await;
    let _alice = user(port, "alice").await;
    daemon.until_status("alice", "online").await;
    until("alice is told of once more", async || {
        (recorder.statuses("alice").last().map(String::as_str) == Some("user-online")).then_some(())
    })
    .await;
}
