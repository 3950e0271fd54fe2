//! A million sessions that a backend holds, at one host: what each weighs, and how long all of them take to be opened,
//! changed and closed, in bulk over HTTP.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use presence_tests::{Daemon, NatsServer};
use tokio::net::TcpStream;

use crate::cluster::raw;
use crate::memory::resident_bytes_of;
use crate::report::{count, line, time};

const SESSIONS: usize = 1_000_000;
/// So many in one request, which is the most, and so many requests at once.
const BULK: usize = 1_000;
const AT_ONCE: usize = 4;

/// What is done with every session.
#[derive(Clone, Copy)]
enum Step {
    Open,
    Change,
    Close,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Open => "open",
            Step::Change => "change",
            Step::Close => "close",
        }
    }

    fn operations(self, from: usize) -> String {
        let mut text = String::with_capacity(BULK * 80);
        for at in from..from + BULK {
            let comma = if at == from { "{\"operations\":[" } else { "," };
            // Writing to a String can't fail.
            let _ = match self {
                Step::Open => {
                    write!(text, "{comma}{{\"do\":\"put\",\"session\":\"{at}\",\"user\":\"user-{at}\"}}")
                }
                Step::Change => write!(
                    text,
                    "{comma}{{\"do\":\"patch\",\"session\":\"{at}\",\"user\":\"user-{at}\",\"status\":\"idle\"}}"
                ),
                Step::Close => {
                    write!(text, "{comma}{{\"do\":\"delete\",\"session\":\"{at}\",\"user\":\"user-{at}\"}}")
                }
            };
        }
        text.push_str("]}");
        text
    }
}

pub async fn run() -> anyhow::Result<()> {
    let presence = "offline_grace = \"0s\"\nmax_users = 2000000";
    let daemon = Daemon::with("").presence(presence).start().await;
    steps(&daemon, "memory").await?;
    daemon.kill().await;

    let nats = NatsServer::start().await;
    let client = async_nats::connect(nats.url()).await?;
    let cluster = format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]", nats.url());
    let daemon = Daemon::with(cluster).presence(presence).start().await;
    let took = steps(&daemon, "NATS").await?;
    let (_, bytes) = raw::sessions_stream(&client).await?;
    daemon.kill().await;
    let raw = raw::puts(&client, 1, bytes.max(100), 100_000).await?;
    line("front: raw pipelined puts a second", count(raw), "the yardstick");
    for (step, took) in [Step::Open, Step::Change, Step::Close].into_iter().zip(took) {
        let rate = SESSIONS as f64 / took.as_secs_f64();
        let what = format!("front: NATS, sessions {} a second", past(step));
        line(&what, count(rate), &format!("{:.0}% of raw puts; each is two", rate / raw * 100.0));
    }
    Ok(())
}

fn past(step: Step) -> &'static str {
    match step {
        Step::Open => "opened",
        Step::Change => "changed",
        Step::Close => "closed",
    }
}

async fn steps(daemon: &Daemon, store: &str) -> anyhow::Result<[Duration; 3]> {
    let mut connections = Vec::new();
    for _ in 0..AT_ONCE {
        connections.push(connect(daemon.admin()).await?);
    }
    let body = r#"{"incarnation":"a","lease_seconds":3600}"#;
    send(&mut connections[0], "PUT", "/v1/holders/bench", body.into()).await?;
    let before = resident_bytes_of(daemon.pid());
    let mut took = [Duration::ZERO; 3];
    for (at, step) in [Step::Open, Step::Change, Step::Close].into_iter().enumerate() {
        let began = Instant::now();
        let tasks: Vec<_> = connections
            .drain(..)
            .enumerate()
            .map(|(worker, connection)| tokio::spawn(share(connection, step, worker)))
            .collect();
        for task in tasks {
            connections.push(task.await??);
        }
        took[at] = began.elapsed();
        line(
            &format!("front: {store}, {} 1,000,000 held sessions", step.name()),
            time(took[at]),
            "acknowledged",
        );
        if matches!(step, Step::Open) {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let each = resident_bytes_of(daemon.pid()).saturating_sub(before) as f64 / SESSIONS as f64;
            line(
                &format!("front: {store}, resident bytes a held session"),
                count(each),
                "gateway, owner and records",
            );
        }
    }
    Ok(took)
}

/// One worker's part of all sessions.
async fn share(
    mut connection: SendRequest<Full<Bytes>>,
    step: Step,
    worker: usize,
) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    for from in (worker * BULK..SESSIONS).step_by(AT_ONCE * BULK) {
        let path = "/v1/holders/bench/sessions?incarnation=a";
        let answer = send(&mut connection, "POST", path, step.operations(from)).await?;
        let refused =
            answer.windows(10).filter(|part| part == b"\"status\":4" || part == b"\"status\":5").count();
        ensure!(refused == 0, "{refused} of {BULK} were refused");
    }
    Ok(connection)
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(
    connection: &mut SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    body: String,
) -> anyhow::Result<Bytes> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1")
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
    ensure!(status.is_success(), "{method} {path}: {status} {text}");
    Ok(answer)
}
