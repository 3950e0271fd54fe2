//! Real NATS servers for tests: one, or a cluster of several on loopback. The program is named by `NATS_SERVER`, which
//! `cargo xtask test` sets. They end with their value; only processes started here are ever signalled.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::programs::Folder;
use crate::waiting::until;

/// Where the program is.
const VARIABLE: &str = "NATS_SERVER";

/// One server; killed with this value. Its data lives as long.
#[derive(Debug)]
pub struct NatsServer {
    child: Option<Child>,
    config: PathBuf,
    port: u16,
    folder: Folder,
}

impl NatsServer {
    /// A server with JetStream on a free port.
    pub async fn start() -> NatsServer {
        NatsServer::with("").await
    }

    /// The same with more lines in its configuration, which may contradict what is usual: a later line wins.
    pub async fn with(lines: &str) -> NatsServer {
        NatsServer::configured(free_ports(1)[0], &format!("jetstream {{ store_dir: \"$DATA\" }}\n{lines}"))
            .await
    }

    /// A server without JetStream.
    pub async fn without_jetstream() -> NatsServer {
        NatsServer::configured(free_ports(1)[0], "").await
    }

    async fn configured(port: u16, lines: &str) -> NatsServer {
        let mut server = NatsServer::prepared(port, lines);
        server.restart().await;
        server
    }

    /// Everything but the process.
    fn prepared(port: u16, lines: &str) -> NatsServer {
        let folder = Folder::new();
        let data = folder.path().join("data");
        let lines = lines.replace("$DATA", data.to_str().expect("paths of tests are UTF-8"));
        let config = folder.file("nats.conf", format!("listen: \"127.0.0.1:{port}\"\n{lines}\n"));
        NatsServer { child: None, config, port, folder }
    }

    /// For `cluster.urls`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The folder of its configuration and log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What somebody else publishes on these subjects from now on.
    pub async fn listener(&self, subjects: &str) -> async_nats::Subscriber {
        let client = async_nats::connect(self.url()).await.expect("a server that listens");
        let messages = client.subscribe(subjects.to_owned()).await.expect("a subscription");
        // An answer to something that was asked later: the server knows the subscription. Flushing alone waits for nothing.
        until("the server answers", async || client.request("$JS.API.INFO", "".into()).await.ok().map(drop))
            .await;
        messages
    }

    /// Ends it as a power cut would. Its data stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().expect("a child of ours");
        }
    }

    /// Starts it again on the same port with the same data, and waits until it listens.
    pub async fn restart(&mut self) {
        self.spawn();
        until(format!("NATS listens on {}", self.address()), async || {
            tokio::net::TcpStream::connect(self.address()).await.ok()
        })
        .await;
    }

    /// Stops its process, as a machine that hangs: connections stay open.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn spawn(&mut self) {
        self.kill();
        let program = std::env::var_os(VARIABLE)
            .unwrap_or_else(|| panic!("{VARIABLE} must name a nats-server: use `cargo xtask test`"));
        let mut command = Command::new(&program);
        command.arg("-c").arg(&self.config).arg("-l").arg(self.folder.path().join("log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("`{}`: {error}", program.display()));
        self.child = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).and_then(Pid::from_raw);
        let id = id.expect("a server that runs");
        kill_process(id, signal).unwrap_or_else(|error| panic!("NATS can't be signalled: {error}"));
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let problems: Vec<&str> = log
                .lines()
                .filter(|line| ["[WRN]", "[ERR]", "[FTL]"].iter().any(|m| line.contains(m)))
                .collect();
            eprintln!("NATS on {}:\n{}", self.address(), problems.join("\n"));
        }
        self.kill();
    }
}

/// Several servers with routes between them.
#[derive(Debug)]
pub struct NatsCluster {
    /// Each may be killed, suspended and started again.
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// So many servers, once they have a leader.
    pub async fn start(size: usize) -> NatsCluster {
        let ports = free_ports(size * 2);
        let (clients, routes) = ports.split_at(size);
        let list: Vec<String> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut servers = Vec::new();
        for (number, (port, route)) in clients.iter().zip(routes).enumerate() {
            let lines = format!(
                "server_name: n{number}\njetstream {{ store_dir: \"$DATA\" }}\n\
                 cluster {{ name: tests, listen: \"127.0.0.1:{route}\", routes: [{}], no_advertise: true }}",
                list.join(", ")
            );
            let mut server = NatsServer::prepared(*port, &lines);
            server.spawn();
            servers.push(server);
        }
        let cluster = NatsCluster { servers };
        cluster.until_led().await;
        cluster
    }

    /// For `cluster.urls`.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// Waits until streams of all servers can be made.
    pub async fn until_led(&self) {
        let size = self.servers.len();
        until("the servers have a leader", async || {
            let connecting = async_nats::connect(self.urls());
            let client = tokio::time::timeout(Duration::from_secs(2), connecting).await.ok()?.ok()?;
            let create = serde_json::json!({
                "name": "tests_probe", "subjects": ["tests_probe"], "storage": "memory", "num_replicas": size,
            });
            let asked = client.request("$JS.API.STREAM.CREATE.tests_probe", create.to_string().into());
            let answer = tokio::time::timeout(Duration::from_secs(3), asked).await.ok()?.ok()?;
            let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
            if answer.get("error").is_some() {
                return None;
            }
            let deleted = client.request("$JS.API.STREAM.DELETE.tests_probe", "".into());
            tokio::time::timeout(Duration::from_secs(3), deleted).await.ok()?.ok().map(drop)
        })
        .await;
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect()
}
