//! A whole daemon: idle sessions and what each costs, connects a second, and how soon a hook hears of a connect.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axum::Router;
use axum::routing::post;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use presence_tests::{Daemon, Plugin, shipped_plugin};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::memory::resident_bytes_of;
use crate::report::{count, line, percentile, time};

const SESSIONS: usize = 15_000;
const CONNECTING_AT_ONCE: usize = 64;
const LATENCIES: usize = 2_000;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(daemon: &Daemon, user: &str) -> anyhow::Result<Socket> {
    let url = format!("ws://{}/v1/connect?user={user}", daemon.clients());
    let (mut socket, _) = connect_async(url).await?;
    let welcome = socket.next().await.context("no welcome")??;
    ensure!(welcome.to_text()?.contains("\"welcome\""), "{welcome}");
    Ok(socket)
}

pub async fn run() -> anyhow::Result<()> {
    idle().await?;
    latency().await
}

/// Opens all sessions, then weighs the daemon.
async fn idle() -> anyhow::Result<()> {
    let daemon = Daemon::with("").presence("heartbeat = \"10m\"").start().await;
    // Warm up, so that what every process needs is there before the first reading.
    for at in 0..200 {
        connect(&daemon, &format!("warm-{at}")).await?.close(None).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = resident_bytes_of(daemon.pid());
    let began = Instant::now();
    let mut sockets = Vec::with_capacity(SESSIONS);
    let mut connecting = FuturesUnordered::new();
    for at in 0..SESSIONS {
        if connecting.len() >= CONNECTING_AT_ONCE {
            sockets.push(connecting.next().await.context("a connection")??);
        }
        let user = format!("user-{at:019}");
        let daemon = &daemon;
        connecting.push(async move { connect(daemon, &user).await });
    }
    while let Some(socket) = connecting.next().await {
        sockets.push(socket?);
    }
    drop(connecting);
    let elapsed = began.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = resident_bytes_of(daemon.pid()).saturating_sub(before);
    line(
        "websocket: connects a second (client on the same cores)",
        count(SESSIONS as f64 / elapsed.as_secs_f64()),
        "",
    );
    let each = held as f64 / SESSIONS as f64;
    line("websocket: resident bytes a session, 15,000 idle", count(each), "at most 6,144");
    let began = Instant::now();
    daemon.stop().await.with_code(0);
    line("websocket: SIGTERM with 15,000 sessions to exit 0", time(began.elapsed()), "");
    drop(sockets);
    Ok(())
}

/// Connects at an easy pace; the webhook plugin tells a server here of each session.
async fn latency() -> anyhow::Result<()> {
    let (heard, mut hooks) = mpsc::unbounded_channel();
    let receive = post(move |body: String| {
        let heard = heard.clone();
        async move {
            let event: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            if let Some(user) =
                event["data"]["user"].as_str().filter(|_| event["type"] == "session-connected")
            {
                // The bench may be over already.
                let _ = heard.send((user.to_owned(), Instant::now()));
            }
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(async move { axum::serve(listener, Router::new().route("/", receive)).await });
    let webhook = Plugin::at("webhook", shipped_plugin("webhook"));
    let webhook = webhook.config(&format!("{{ url = \"{origin}/\" }}")).may_reach(&origin);
    let daemon = Daemon::with(webhook).start().await;
    let mut latencies = Vec::with_capacity(LATENCIES);
    let mut begun: HashMap<String, Instant> = HashMap::new();
    let mut sockets = Vec::new();
    for at in 0..LATENCIES {
        let user = format!("user-{at}");
        begun.insert(user.clone(), Instant::now());
        sockets.push(connect(&daemon, &user).await?);
        let (user, at) = tokio::time::timeout(Duration::from_secs(10), hooks.recv())
            .await
            .context("no hook within 10 s")?
            .context("the server ended")?;
        if let Some(began) = begun.remove(&user) {
            latencies.push(at - began);
        }
    }
    line("websocket: connect to finished hook (webhook), p50", time(percentile(&mut latencies, 0.5)), "");
    line("websocket: connect to finished hook (webhook), p99", time(percentile(&mut latencies, 0.99)), "");
    server.abort();
    Ok(())
}
