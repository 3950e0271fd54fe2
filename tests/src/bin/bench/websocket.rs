//! A whole daemon: idle sessions and what each costs, connects a second, and how soon a hook hears of a connect.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use axum::Router;
use axum::routing::post;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::memory::resident_bytes_of;
use crate::report::{count, line, percentile, time};

const SESSIONS: usize = 15_000;
const CONNECTING_AT_ONCE: usize = 64;
const LATENCIES: usize = 2_000;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A daemon that ends with this.
struct Daemon {
    child: Child,
    clients: String,
    admin: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(folder: &Path, plugins: &str) -> anyhow::Result<Daemon> {
        let binary = std::env::var("PRESENCE_BIN").context("run `cargo xtask bench`")?;
        std::fs::create_dir_all(folder)?;
        let config = folder.join("presence.toml");
        let text = format!(
            "[host]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[presence]\nheartbeat = \"10m\"\n{plugins}"
        );
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut serve = Command::new(binary);
        serve.args(["serve", "--log-format", "json", "--config"]).arg(&config);
        let child = serve.stderr(log).stdout(Stdio::null()).spawn()?;
        let mut daemon = Daemon { child, clients: String::new(), admin: String::new() };
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let log = std::fs::read_to_string(folder.join("log"))?;
            let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            for line in lines {
                if line["message"] == "listening" {
                    daemon.clients = line["clients"].as_str().unwrap_or_default().to_owned();
                    daemon.admin = line["admin"].as_str().unwrap_or_default().to_owned();
                }
            }
            if log.contains("\"message\":\"ready\"") {
                return Ok(daemon);
            }
            if let Some(status) = daemon.child.try_wait()? {
                bail!("the daemon ended ({status}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the daemon was not ready within 60 s")
    }

    /// SIGTERM; returns how it ended and how long that took.
    fn stop(&mut self) -> anyhow::Result<(std::process::ExitStatus, Duration)> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
        let began = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, began.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("it did not stop within 60 s")
    }

    async fn connect(&self, user: &str) -> anyhow::Result<Socket> {
        let (mut socket, _) = connect_async(format!("ws://{}/v1/connect?user={user}", self.clients)).await?;
        let welcome = socket.next().await.context("no welcome")??;
        ensure!(welcome.to_text()?.contains("\"welcome\""), "{welcome}");
        Ok(socket)
    }
}

pub async fn run() -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("presence-bench-ws-{}", std::process::id()));
    idle(&folder.join("idle")).await?;
    latency(&folder.join("latency")).await?;
    // A temporary folder that stays is no reason to fail.
    let _ = std::fs::remove_dir_all(&folder);
    Ok(())
}

/// Opens all sessions, then weighs the daemon.
async fn idle(folder: &Path) -> anyhow::Result<()> {
    let mut daemon = Daemon::start(folder, "")?;
    // Warm up, so that what every process needs is there before the first reading.
    for at in 0..200 {
        daemon.connect(&format!("warm-{at}")).await?.close(None).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = resident_bytes_of(daemon.child.id());
    let began = Instant::now();
    let mut sockets = Vec::with_capacity(SESSIONS);
    let mut connecting = FuturesUnordered::new();
    for at in 0..SESSIONS {
        if connecting.len() >= CONNECTING_AT_ONCE {
            sockets.push(connecting.next().await.context("a connection")??);
        }
        let user = format!("user-{at:019}");
        let daemon = &daemon;
        connecting.push(async move { daemon.connect(&user).await });
    }
    while let Some(socket) = connecting.next().await {
        sockets.push(socket?);
    }
    drop(connecting);
    let elapsed = began.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = resident_bytes_of(daemon.child.id()).saturating_sub(before);
    line(
        "websocket: connects a second (client on the same cores)",
        count(SESSIONS as f64 / elapsed.as_secs_f64()),
        "",
    );
    let each = held as f64 / SESSIONS as f64;
    line("websocket: resident bytes a session, 15,000 idle", count(each), "at most 6,144");
    let (status, took) = daemon.stop()?;
    ensure!(status.success(), "SIGTERM with 15,000 sessions: {status}");
    line("websocket: SIGTERM with 15,000 sessions to exit 0", time(took), "");
    drop(sockets);
    Ok(())
}

/// Connects at an easy pace; the webhook plugin tells a server here of each session.
async fn latency(folder: &Path) -> anyhow::Result<()> {
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
    let plugins = std::env::var("PRESENCE_PLUGINS").context("run `cargo xtask bench`")?;
    let plugin = format!(
        "[[plugin]]\nname = \"webhook\"\npath = \"{plugins}/webhook.wasm\"\nconfig = {{ url = \"{origin}/\" }}\n\
         [plugin.grants]\nhttp = [\"{origin}\"]\n"
    );
    let daemon = Daemon::start(folder, &plugin)?;
    let mut latencies = Vec::with_capacity(LATENCIES);
    let mut begun: HashMap<String, Instant> = HashMap::new();
    let mut sockets = Vec::new();
    for at in 0..LATENCIES {
        let user = format!("user-{at}");
        begun.insert(user.clone(), Instant::now());
        sockets.push(daemon.connect(&user).await?);
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
