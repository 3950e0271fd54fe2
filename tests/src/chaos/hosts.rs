//! The hosts as processes: started, killed, suspended, cut off, stopped in good order. Logs are appended to one file a
//! host, over all its lives.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{Fate, Ledger};
use super::plan::{GRACE, TTL};
use super::proxy::Proxy;
use super::recorder::ChaosRecorder;
use crate::config::{Config, Plugin};
use crate::http::{Answer, ask};
use crate::programs::{presence, shipped_plugin};

/// How long a host may take to start or to stop before that is a problem.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a state is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The exit code for: NATS is not there.
const UNAVAILABLE: i32 = 69;

/// Where hosts listen at the moment; clients look here before they connect.
#[derive(Debug)]
pub(super) struct Directory(Mutex<Vec<Option<[SocketAddr; 2]>>>);

impl Directory {
    /// Nobody listens yet.
    pub(super) fn new(hosts: usize) -> Directory {
        Directory(Mutex::new(vec![None; hosts]))
    }

    /// Where clients connect.
    pub(super) fn clients(&self, host: usize) -> Option<SocketAddr> {
        self.get(host).map(|[clients, _]| clients)
    }

    /// Where the API is.
    pub(super) fn admin(&self, host: usize) -> Option<SocketAddr> {
        self.get(host).map(|[_, admin]| admin)
    }

    fn get(&self, host: usize) -> Option<[SocketAddr; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied().flatten()
    }

    fn set(&self, host: usize, addresses: Option<[SocketAddr; 2]>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[host] = addresses;
    }
}

/// A GET of the admin listener that is given up after a few seconds.
pub(super) async fn get(directory: &Directory, host: usize, path: &str) -> Option<Answer> {
    let admin = directory.admin(host)?;
    timeout(Duration::from_secs(5), ask("GET", admin, path)).await.ok()?.ok()
}

/// The figures of `/metrics` whose name is one of these, added up over their labels.
pub(super) async fn figures(
    directory: &Directory,
    host: usize,
    names: &[&str],
) -> Option<BTreeMap<String, f64>> {
    let answer = get(directory, host, "/metrics").await.filter(|answer| answer.status == 200)?;
    let mut sums = BTreeMap::new();
    for line in answer.body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ')?;
        let name = name.split_once('{').map_or(name, |(name, _)| name);
        if names.contains(&name) {
            *sums.entry(name.to_owned()).or_insert(0.0) += value.parse().unwrap_or(0.0);
        }
    }
    Some(sums)
}

/// One host; its process is killed with this value.
#[derive(Debug)]
pub(super) struct Host {
    number: usize,
    config: PathBuf,
    log: PathBuf,
    proxies: Vec<Proxy>,
    directory: Arc<Directory>,
    ledger: Arc<Ledger>,
    process: Option<(Child, usize)>,
}

impl Host {
    /// Writes its presence.toml into `folder`; starts nothing.
    pub(super) async fn prepare(
        number: usize,
        folder: &Path,
        servers: &[SocketAddr],
        recorder: &ChaosRecorder,
        directory: Arc<Directory>,
        ledger: Arc<Ledger>,
    ) -> anyhow::Result<Host> {
        let mut proxies = Vec::new();
        for server in servers {
            proxies.push(Proxy::start(*server).await.context("a proxy")?);
        }
        let urls: Vec<String> =
            proxies.iter().map(|proxy| format!("\"nats://{}\"", proxy.address())).collect();
        let webhook = Plugin::at("webhook", shipped_plugin("webhook"))
            .config(&format!("{{ url = \"{}\" }}", recorder.url(number)))
            .may_reach(recorder.origin())
            // Session hooks outlive every absence of the receiver: none may be missing at the end.
            .delivery("backoff = \"50ms\"\nmax_backoff = \"1s\"\nattempts = 1000\nqueue = 65536");
        let config = Config::default()
            .host(&format!("name = \"host-{number}\"\ndrain_timeout = \"25s\""))
            .presence(&format!(
                "offline_grace = \"{}s\"\ndrain_grace = \"12s\"\nheartbeat = \"5s\"\nheartbeat_timeout = \"10s\"",
                GRACE.as_secs()
            ))
            .section(format!(
                "[cluster]\nstore = \"nats\"\nurls = [{}]\nreplicas = {}\ninstance_ttl = \"{}s\"",
                urls.join(", "),
                servers.len(),
                TTL.as_secs()
            ))
            .section(webhook);
        let path = folder.join(format!("host-{number}.toml"));
        std::fs::write(&path, config.render())?;
        let log = folder.join(format!("host-{number}.log"));
        Ok(Host { number, config: path, log, proxies, directory, ledger, process: None })
    }

    /// `host-1`.
    pub(super) fn name(&self) -> String {
        format!("host-{}", self.number)
    }

    /// Starts it, as often as needed while NATS is away, and waits until it listens.
    pub(super) async fn start(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.start_once().await {
                Ok(true) => return,
                Ok(false) => sleep(LOOK * 10).await,
                Err(error) => {
                    self.ledger.problem(format!("{} can't be started: {error:#}", self.name()));
                    return;
                }
            }
        }
        self.ledger.problem(format!("{} does not listen after {PATIENCE:?}", self.name()));
    }

    /// False if it found no NATS.
    async fn start_once(&mut self) -> anyhow::Result<bool> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let offset = log.metadata()?.len();
        let mut command = Command::new(presence());
        command.args(["serve", "--log-format", "json", "--config"]).arg(&self.config);
        command.env_remove("PRESENCE_LOG").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().context("presence")?;
        let life = self.ledger.born(self.number);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                let fate = fate(status);
                self.ledger.died(life, fate);
                ensure!(fate == Fate::Exited(UNAVAILABLE), "it ended at once: {fate:?}");
                return Ok(false);
            }
            if let Some(addresses) = listening(&self.log, offset)? {
                self.directory.set(self.number, Some(addresses));
                tokio::spawn(note_ready(self.ledger.clone(), self.directory.clone(), self.number, life));
                self.process = Some((child, life));
                return Ok(true);
            }
            sleep(LOOK).await;
        }
        child.kill().await?;
        self.ledger.died(life, Fate::Killed);
        anyhow::bail!("it does not listen");
    }

    /// Waits until `/readyz` says yes; false if it does not for too long.
    pub(super) async fn until_ready(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let answer = get(&self.directory, self.number, "/readyz").await;
            if answer.is_some_and(|answer| answer.status == 200) {
                return true;
            }
            sleep(LOOK * 4).await;
        }
        false
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) {
        if let Some((mut child, life)) = self.process.take() {
            // It may have ended a moment ago.
            let _ = child.kill().await;
            self.ledger.died(life, Fate::Killed);
        }
        self.directory.set(self.number, None);
    }

    /// SIGTERM, and waits for the end.
    pub(super) async fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let Some((mut child, life)) = self.process.take() else {
            return;
        };
        match timeout(PATIENCE, child.wait()).await {
            Ok(Ok(status)) => self.ledger.died(life, fate(status)),
            _ => {
                self.ledger.problem(format!("{} does not stop within {PATIENCE:?} of SIGTERM", self.name()));
                let _ = child.kill().await;
                self.ledger.died(life, Fate::Killed);
            }
        }
        self.directory.set(self.number, None);
    }

    /// SIGSTOP.
    pub(super) fn suspend(&self) {
        self.ledger.paused(self.number);
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(super) fn resume(&self) {
        self.signal(Signal::CONT);
        self.ledger.resumed(self.number);
    }

    /// Nothing gets through to NATS.
    pub(super) fn cut(&self) {
        self.ledger.paused(self.number);
        self.proxies.iter().for_each(Proxy::cut);
    }

    /// It does again.
    pub(super) fn mend(&self) {
        self.proxies.iter().for_each(Proxy::mend);
        self.ledger.resumed(self.number);
    }

    /// A host that has ended by itself is a problem, and is started again.
    pub(super) async fn look_after(&mut self) {
        let Some((child, life)) = &mut self.process else {
            return;
        };
        if let Ok(Some(status)) = child.try_wait() {
            self.ledger.died(*life, fate(status));
            self.ledger.problem(format!("{} has ended by itself: {status}", self.name()));
            self.process = None;
            self.directory.set(self.number, None);
            self.start().await;
        }
    }

    /// Panics are problems, whatever came of them.
    pub(super) fn look_for_panics(&self) {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        for line in log.lines().filter(|line| line.contains("panicked at")) {
            self.ledger.problem(format!("{}: {line}", self.name()));
        }
    }

    fn signal(&self, signal: Signal) {
        let Some((child, _)) = &self.process else {
            return;
        };
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
            && let Err(error) = kill_process(pid, signal)
        {
            self.ledger.problem(format!("{} can't be signalled: {error}", self.name()));
        }
    }
}

fn fate(status: ExitStatus) -> Fate {
    status.code().map_or(Fate::Killed, Fate::Exited)
}

async fn note_ready(ledger: Arc<Ledger>, directory: Arc<Directory>, host: usize, life: usize) {
    loop {
        if ledger.lock().lives.get(life).is_none_or(|life| life.ended.is_some()) {
            return;
        }
        if get(&directory, host, "/readyz").await.is_some_and(|answer| answer.status == 200) {
            let now = ledger.now();
            if let Some(life) = ledger.lock().lives.get_mut(life).filter(|life| life.ended.is_none()) {
                life.ready = Some(now);
            }
            return;
        }
        sleep(LOOK * 2).await;
    }
}

/// The addresses for clients and for admin, once the log behind `offset` tells them.
fn listening(log: &Path, offset: u64) -> anyhow::Result<Option<[SocketAddr; 2]>> {
    let mut file = std::fs::File::open(log)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.lines().find_map(addresses))
}

fn addresses(line: &str) -> Option<[SocketAddr; 2]> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let address = |key: &str| entry.get(key)?.as_str()?.parse().ok();
    if entry.get("message")? != "listening" {
        return None;
    }
    Some([address("clients")?, address("admin")?])
}
