//! One user's transition, heard by everybody who watches: all of them, then while some do not read.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use presence_tests::Daemon;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::raw::Raw;
use super::tokens::{NO_LIMITS, Socket};
use crate::report::{count, line, percentile, time};

const WATCHERS: usize = 10_000;
const CONNECTING_AT_ONCE: usize = 64;
const ROUNDS: usize = 40;
const SLOW: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// What each slow reader asks for and does not read: so many users, so often.
const ASKED_AT_ONCE: usize = 900;
const ASKED: usize = 100;

/// A text frame of a server.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(payload.len()) {
        Ok(length @ ..=125) => frame.push(length),
        _ => {
            frame.push(126);
            frame.extend((payload.len() as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// The bytes of the first frame in `buffer`, if it is there whole.
fn whole(buffer: &[u8]) -> Option<usize> {
    let [_, length, rest @ ..] = buffer else { return None };
    let end = match (length, rest) {
        (length @ ..=125, _) => 2 + usize::from(*length),
        (126, [high, low, ..]) => 4 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => return None,
    };
    (buffer.len() >= end).then_some(end)
}

pub async fn run() -> anyhow::Result<()> {
    let mut raw = raw_figures().await?;
    let raw_p99 = percentile(&mut raw, 0.99);
    line("front: raw writes to 10,000 sockets, p99", time(raw_p99), "the yardstick");

    let daemon = Daemon::with("[auth]\nmode = \"none\"\n")
        .section(NO_LIMITS)
        .presence("heartbeat = \"10m\"")
        .start()
        .await;
    let (heard, mut times) = mpsc::unbounded_channel();
    let mut watching = FuturesUnordered::new();
    for at in 0..WATCHERS {
        if watching.len() >= CONNECTING_AT_ONCE {
            watching.next().await.context("a watcher")??;
        }
        watching.push(watcher(daemon.clients(), at, heard.clone()));
    }
    while let Some(done) = watching.next().await {
        done?;
    }
    let mut star = connect(daemon.clients(), "star").await?;
    // They hear that the star came.
    gather(&mut times, Instant::now()).await?;
    let mut all = rounds(&mut star, &mut times).await?;
    let p99 = percentile(&mut all, 0.99);
    let ratio = p99.as_secs_f64() / raw_p99.as_secs_f64();
    line("front: one transition to 10,000 watchers, p50", time(percentile(&mut all, 0.5)), "");
    line(
        "front: one transition to 10,000 watchers, p99",
        time(p99),
        &format!("{ratio:.2} times the raw p99"),
    );

    let mut slow = Vec::new();
    for at in 0..SLOW {
        slow.push(slow_reader(daemon.clients(), at).await?);
    }
    let mut beside = rounds(&mut star, &mut times).await?;
    let (beside_p50, beside_p99) = (percentile(&mut beside, 0.5), percentile(&mut beside, 0.99));
    let ratio = beside_p50.as_secs_f64() / percentile(&mut all, 0.5).as_secs_f64();
    line(
        &format!("front: the same beside {SLOW} that do not read, p50"),
        time(beside_p50),
        &format!("{ratio:.2} times that without them"),
    );
    let ratio = beside_p99.as_secs_f64() / p99.as_secs_f64();
    line(
        &format!("front: the same beside {SLOW} that do not read, p99"),
        time(beside_p99),
        &format!("{ratio:.2} times that without them"),
    );
    let dropped = slow_dropped(&daemon).await;
    line("front: slow readers dropped", count(dropped), "");
    drop(slow);
    Ok(())
}

/// From the write to each socket's reader, without a host.
async fn raw_figures() -> anyhow::Result<Vec<Duration>> {
    let mut raw = Raw::start().await?;
    let (heard, mut times) = mpsc::unbounded_channel();
    for _ in 0..WATCHERS {
        let stream = TcpStream::connect(raw.address).await?;
        tokio::spawn(listen(stream, heard.clone()));
    }
    // As long as what a host tells.
    let text = json!({
        "type": "presence", "user": "star", "status": "online", "since": "2026-11-25T20:00:00.000Z",
        "revision": 1_764_100_800_000_u64,
    });
    // The first line is read when all are connected: accepting goes first.
    raw.tell(&text.to_string()).await?;
    gather(&mut times, Instant::now()).await?;
    let mut all = Vec::with_capacity(ROUNDS * WATCHERS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        raw.tell(&text.to_string()).await?;
        all.extend(gather(&mut times, began).await?);
    }
    Ok(all)
}

/// The star is idle and online by turns; how long it took each watcher to hear of each.
async fn rounds(
    star: &mut Socket,
    times: &mut mpsc::UnboundedReceiver<Instant>,
) -> anyhow::Result<Vec<Duration>> {
    let mut all = Vec::with_capacity(ROUNDS * WATCHERS);
    for round in 0..ROUNDS {
        let status = if round % 2 == 0 { "idle" } else { "online" };
        let began = Instant::now();
        star.send(Message::text(json!({"type": "set_status", "status": status}).to_string())).await?;
        all.extend(gather(times, began).await?);
    }
    Ok(all)
}

/// Waits until every watcher has heard once more.
async fn gather(
    times: &mut mpsc::UnboundedReceiver<Instant>,
    began: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut found = Vec::with_capacity(WATCHERS);
    while found.len() < WATCHERS {
        let at = tokio::time::timeout(PATIENCE, times.recv()).await;
        let at = at.with_context(|| format!("{} of {WATCHERS} have heard", found.len()))?;
        found.push(at.context("no watcher is left")? - began);
    }
    Ok(found)
}

async fn connect(address: SocketAddr, user: &str) -> anyhow::Result<Socket> {
    enter(TcpStream::connect(address).await?, address, user).await
}

async fn enter(stream: TcpStream, address: SocketAddr, user: &str) -> anyhow::Result<Socket> {
    let url = format!("ws://{address}/v1/connect?user={user}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
    let welcome = socket.next().await.context("no welcome")??;
    ensure!(welcome.to_text()?.contains("\"welcome\""), "{welcome}");
    Ok(socket)
}

/// A session that watches the star; from then on its frames are counted as they come, at the least cost.
async fn watcher(
    address: SocketAddr,
    at: usize,
    heard: mpsc::UnboundedSender<Instant>,
) -> anyhow::Result<()> {
    let mut socket = connect(address, &format!("watcher-{at}")).await?;
    socket.send(Message::text(json!({"type": "watch", "users": ["star"]}).to_string())).await?;
    loop {
        let message = socket.next().await.context("the watcher's connection ended")??;
        if message.to_text()?.contains("\"ok\"") {
            break;
        }
    }
    tokio::spawn(listen(socket.into_inner(), heard));
    Ok(())
}

async fn listen(mut stream: TcpStream, heard: mpsc::UnboundedSender<Instant>) {
    let mut buffer = Vec::with_capacity(256);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        let now = Instant::now();
        while let Some(end) = whole(&buffer) {
            buffer.drain(..end);
            if heard.send(now).is_err() {
                return;
            }
        }
    }
}

/// Asks for more than its socket can take, and reads nothing.
async fn slow_reader(address: SocketAddr, at: usize) -> anyhow::Result<Socket> {
    let small = TcpSocket::new_v4()?;
    small.set_recv_buffer_size(4096)?;
    let mut socket = enter(small.connect(address).await?, address, &format!("slow-{at}")).await?;
    let users: Vec<String> = (0..ASKED_AT_ONCE).map(|of| format!("nobody-{of}")).collect();
    let message = json!({"type": "watch", "users": users}).to_string();
    for _ in 0..ASKED {
        // Whoever is sent away already was slow enough.
        if tokio::time::timeout(Duration::from_millis(50), socket.send(Message::text(message.clone())))
            .await
            .is_err()
        {
            break;
        }
    }
    Ok(socket)
}

/// As the host counts them.
async fn slow_dropped(daemon: &Daemon) -> f64 {
    let metrics = daemon.get("/metrics").await;
    let lines = metrics.body.lines().filter(|line| line.contains("slow"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
