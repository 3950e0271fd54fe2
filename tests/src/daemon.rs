//! One running daemon.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Client, Refusal, percent_encoded};
use crate::config::Config;
use crate::http::{Answer, ask};
use crate::programs::{Ended, Folder, Program, presence};
use crate::waiting::{WAIT, until, within};

/// A daemon that is ready; killed with this value. Its log is printed if the test fails.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Arc<watch::Sender<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    clients: SocketAddr,
    admin: SocketAddr,
    folder: Folder,
}

impl Config {
    /// Starts a daemon with this and waits until it is ready.
    pub async fn start(self) -> Daemon {
        let folder = Folder::new();
        let path = folder.file("presence.toml", self.clone().placed(folder.path()).render());
        let mut command = Command::new(presence());
        command.args(["serve", "--log-format", "json", "--config"]).arg(&path);
        command.env_remove("PRESENCE_LOG").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("presence can't be started: {error}"));
        let log = Arc::new(watch::Sender::new(Vec::new()));
        let readers = vec![
            tokio::spawn(collect(child.stdout.take().expect("a pipe"), log.clone())),
            tokio::spawn(collect(child.stderr.take().expect("a pipe"), log.clone())),
        ];
        let [clients, admin] = addresses(&log, &mut child).await;
        let daemon = Daemon { child, log, readers, clients, admin, folder };
        until("/readyz is 200", async || daemon.ready().await.then_some(())).await;
        daemon
    }

    /// Starts a daemon that ends by itself, and says how.
    pub async fn refused(self) -> Ended {
        let folder = Folder::new();
        let path = folder.file("presence.toml", self.clone().placed(folder.path()).render());
        self.run("serve", &path).await
    }

    /// `presence check` of this.
    pub async fn check(self) -> Ended {
        let folder = Folder::new();
        let path = folder.file("presence.toml", self.clone().placed(folder.path()).render());
        self.run("check", &path).await
    }

    async fn run(self, verb: &str, path: &std::path::Path) -> Ended {
        Program::presence(&[verb, "--config", path.to_str().expect("paths of tests are UTF-8")]).run().await
    }
}

/// Waits for the log line that tells the real addresses.
async fn addresses(log: &watch::Sender<Vec<String>>, child: &mut Child) -> [SocketAddr; 2] {
    let mut lines = log.subscribe();
    let listening = async {
        let lines = lines.wait_for(|lines| lines.iter().any(|line| listening(line).is_some())).await;
        lines.ok().and_then(|lines| lines.iter().find_map(|line| listening(line)))
    };
    let outcome = tokio::select! {
        found = tokio::time::timeout(WAIT, listening) => found.ok().flatten(),
        _ = child.wait() => None,
    };
    outcome.unwrap_or_else(|| panic!("the daemon does not listen; its log:\n{}", log.borrow().join("\n")))
}

/// The addresses for clients and for admin, if the line tells them.
fn listening(line: &str) -> Option<[SocketAddr; 2]> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let address = |key: &str| entry.get(key)?.as_str()?.parse().ok();
    if entry["message"] != "listening" {
        return None;
    }
    Some([address("clients")?, address("admin")?])
}

async fn collect(output: impl AsyncRead + Unpin, log: Arc<watch::Sender<Vec<String>>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        log.send_modify(|log| log.push(line));
    }
}

impl Daemon {
    /// A daemon with these sections in its configuration; `.start()` starts it.
    pub fn with(sections: impl Into<String>) -> Config {
        Config::default().section(sections)
    }

    /// Where clients connect.
    pub fn clients(&self) -> SocketAddr {
        self.clients
    }

    /// Where the API is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("a daemon that has not ended")
    }

    /// The folder of its presence.toml.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Writes this over its presence.toml.
    pub fn edit(&self, config: &Config) {
        self.folder.file("presence.toml", config.render());
    }

    /// `presence reload` of it.
    pub async fn reload(&self) -> Ended {
        Program::presence(&["reload", "--admin", &format!("http://{}", self.admin)]).run().await
    }

    /// A session of `user`, where `auth.mode` is `none`.
    pub async fn client(&self, user: &str) -> Client {
        Client::connect(self.clients, user).await
    }

    /// A session of `user` with this token, where `auth.mode` is `jwt`.
    pub async fn client_with_token(&self, user: &str, token: &str) -> Result<Client, Refusal> {
        let bearer = format!("Bearer {token}");
        Client::open(self.clients, user, "/v1/connect", &[("authorization", &bearer)]).await
    }

    /// GET of the admin listener.
    pub async fn get(&self, path: &str) -> Answer {
        let answer = ask("GET", self.admin, path).await;
        answer.unwrap_or_else(|error| panic!("the admin listener does not answer {path}: {error}"))
    }

    /// What the API says of the user.
    pub async fn user(&self, user: &str) -> Value {
        let answer = self.get(&format!("/v1/users/{}", percent_encoded(user))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The user's status: `online`, `idle` or `offline`.
    pub async fn status(&self, user: &str) -> String {
        let answer = self.user(user).await;
        answer["status"].as_str().unwrap_or_else(|| panic!("no status: {answer}")).to_owned()
    }

    /// Waits until the user has this status.
    pub async fn until_status(&self, user: &str, status: &str) {
        let what = format!("{user} is {status}");
        until(what, async || (self.status(user).await == status).then_some(())).await;
    }

    /// Waits until a line of the log has all these texts, and returns it.
    pub async fn until_logged(&self, texts: &[&str]) -> String {
        let mut lines = self.log.subscribe();
        let found = |lines: &[String]| {
            lines.iter().find(|line| texts.iter().all(|text| line.contains(text))).cloned()
        };
        let waiting = lines.wait_for(|lines| found(lines).is_some());
        let lines = within(format!("a line in the log with {texts:?}"), waiting).await;
        found(&lines.expect("the log outlives its readers")).expect("it was just there")
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// Asks it to stop with SIGTERM, and waits until it has. The log is in `stderr`.
    pub async fn stop(mut self) -> Ended {
        self.signal(Signal::TERM);
        self.until_ended().await
    }

    /// Asks it to stop with this signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let id = id.unwrap_or_else(|| panic!("the daemon has ended; its log:\n{}", self.log()));
        kill_process(id, signal).unwrap_or_else(|error| panic!("the daemon can't be signalled: {error}"));
    }

    /// Waits until it has ended by itself.
    pub async fn until_ended(&mut self) -> Ended {
        let status = within("the end of the daemon", self.child.wait()).await.expect("it is our child");
        for reader in self.readers.drain(..) {
            within("the end of the log", reader).await.expect("reading does not panic");
        }
        Ended { code: status.code(), stdout: String::new(), stderr: self.log() }
    }

    /// Ends it as a power cut would.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap_or_else(|error| panic!("the daemon can't be killed: {error}"));
    }

    async fn ready(&self) -> bool {
        matches!(ask("GET", self.admin, "/readyz").await, Ok(answer) if answer.status == 200)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}
