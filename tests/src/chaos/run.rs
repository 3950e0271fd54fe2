//! One run from start to verdict.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::clients::{Crowd, user};
use super::faults::Stage;
use super::hosts::{Directory, Host, figures, get};
use super::ledger::Ledger;
use super::plan::{GRACE, HOSTS, Plan, TTL};
use super::recorder::ChaosRecorder;
use super::report::Report;
use super::verdict::{Evidence, Final, Violation, judge};
use crate::nats::{NatsCluster, NatsServer};

/// How long after the last fault everything may take to become right.
const SETTLING: Duration = Duration::from_secs(120);
/// At the earliest so long after the last fault is anything judged.
const QUIET: Duration = Duration::from_secs(TTL.as_secs() + GRACE.as_secs() + 4);
/// So long nothing is heard before it counts as quiet.
const SILENT: Duration = Duration::from_secs(2);
/// How many users are asked for in one question.
const ASKED_AT_ONCE: usize = 100;
/// Gauges that are 0 at rest.
const AT_WORK: [&str; 4] = [
    "presence_plugin_queue_depth",
    "presence_plugin_backing_off",
    "presence_plugin_withheld",
    "presence_plugin_running",
];

/// Runs the plan in `folder`, where everything that helps to understand it is kept.
pub async fn run(plan: &Plan, folder: &Path, talkative: bool) -> anyhow::Result<Report> {
    let ledger = Arc::new(Ledger::default());
    let servers = match plan.servers {
        1 => vec![NatsServer::start().await],
        size => NatsCluster::start(size).await.servers,
    };
    let addresses: Vec<_> = servers.iter().map(NatsServer::address).collect();
    let recorder = ChaosRecorder::start(&folder.join("heard.jsonl"), ledger.clone()).await?;
    let directory = Arc::new(Directory::new(HOSTS));
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        let (directory, ledger) = (directory.clone(), ledger.clone());
        hosts.push(Host::prepare(number, folder, &addresses, &recorder, directory, ledger).await?);
    }
    for host in &mut hosts {
        host.start().await;
    }
    for host in &hosts {
        ensure!(
            host.until_ready(Duration::from_secs(60)).await,
            "{} is not ready; its log is in {}",
            host.name(),
            folder.display()
        );
    }
    let noting: JoinSet<()> =
        (0..HOSTS).map(|host| note_instances(host, directory.clone(), ledger.clone())).collect();
    let crowd = Crowd::start(plan, &directory, &ledger);
    let stage = Stage {
        hosts: hosts.into_iter().map(Mutex::new).collect(),
        servers: servers.into_iter().map(Mutex::new).collect(),
        recorder,
        ledger: ledger.clone(),
        talkative,
    };
    // The crowd fills the house first.
    sleep(plan.pace).await;
    let until = Instant::now() + plan.faults_for;
    let [of_hosts, of_nats, of_receiver] = plan.lanes();
    let faults = async {
        tokio::join!(
            stage.run(of_hosts, until),
            stage.run(of_nats, until),
            stage.run(of_receiver, until),
            sleep(plan.faults_for)
        )
    };
    tokio::select! {
        _ = faults => {}
        () = stage.supervise() => {}
    }
    crowd.rest();
    if talkative {
        println!("{:>8.1} s  quiet", ledger.now().as_secs_f64());
    }
    let (evidence, violations, settled) = settle(plan, &stage, &crowd, &directory).await;
    for host in &stage.hosts {
        host.lock().await.look_for_panics();
    }
    keep_logs_of_nats(&stage, folder).await;
    drop(noting);
    let evidence = Evidence { kept: ledger.copy(), ..evidence };
    Ok(Report::new(plan, &evidence, violations, settled))
}

/// Notes under which instance ids a host runs, for ever.
async fn note_instances(host: usize, directory: Arc<Directory>, ledger: Arc<Ledger>) {
    loop {
        let asked = ledger.now();
        if let Some(answer) = get(&directory, host, "/v1/instances").await {
            let document: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let mut all = document["instances"].as_array().into_iter().flatten();
            let own = all.find(|instance| instance["own"] == true);
            if let Some(instance) = own.and_then(|own| own["instance"].as_str()) {
                ledger.instance(host, instance, asked);
            }
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Looks again and again until there is nothing to object to, or the time is over.
async fn settle(
    plan: &Plan,
    stage: &Stage,
    crowd: &Crowd,
    directory: &Arc<Directory>,
) -> (Evidence, Vec<Violation>, Duration) {
    let began = Instant::now();
    sleep(QUIET).await;
    let mut heard = (stage.recorder.count(), Instant::now());
    loop {
        sleep(Duration::from_secs(1)).await;
        for host in &stage.hosts {
            host.lock().await.look_after().await;
        }
        let count = stage.recorder.count();
        if count != heard.0 {
            heard = (count, Instant::now());
        }
        let over = began.elapsed() > SETTLING;
        let silent = heard.1.elapsed() >= SILENT && at_rest(directory).await;
        if !silent && !over {
            continue;
        }
        let evidence = gather(plan, stage, crowd, directory).await;
        let violations = judge(&evidence);
        if violations.is_empty() || over {
            return (evidence, violations, began.elapsed());
        }
    }
}

async fn at_rest(directory: &Directory) -> bool {
    for host in 0..HOSTS {
        let figures = figures(directory, host, &AT_WORK).await;
        if figures.is_none_or(|figures| figures.values().any(|value| *value > 0.0)) {
            return false;
        }
    }
    true
}

/// Everything that can be known now.
async fn gather(plan: &Plan, stage: &Stage, crowd: &Crowd, directory: &Arc<Directory>) -> Evidence {
    let users: Vec<String> = (0..plan.users).map(user).collect();
    let mut statuses = Vec::new();
    let mut dead_letters = Vec::new();
    for host in 0..HOSTS {
        statuses.push(recorded(directory, host, &users).await);
        // Of each host only what it wrote is asked for; all see the same list, so that a set is enough.
        if let Some(answer) = get(directory, host, "/v1/dead-letters").await {
            dead_letters.push(answer.body);
        }
    }
    dead_letters.sort_unstable();
    dead_letters.dedup();
    Evidence {
        heard: stage.recorder.heard(),
        kept: stage.ledger.copy(),
        clients: crowd.slots().into_iter().map(Final::from).collect(),
        statuses,
        dead_letters,
    }
}

/// What the host says of every user; empty if it does not answer.
async fn recorded(directory: &Directory, host: usize, users: &[String]) -> BTreeMap<String, (String, u64)> {
    let mut found = BTreeMap::new();
    for part in users.chunks(ASKED_AT_ONCE) {
        let query: Vec<String> = part.iter().map(|user| format!("user={user}")).collect();
        let Some(answer) = get(directory, host, &format!("/v1/users?{}", query.join("&"))).await else {
            continue;
        };
        let document: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        for entry in document["users"].as_array().into_iter().flatten() {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            found.insert(text("user"), (text("status"), entry["revision"].as_u64().unwrap_or(0)));
        }
    }
    found
}

async fn keep_logs_of_nats(stage: &Stage, folder: &Path) {
    for (number, server) in stage.servers.iter().enumerate() {
        let log = server.lock().await.folder().join("log");
        let copy: PathBuf = folder.join(format!("nats-{number}.log"));
        if let Err(error) = std::fs::copy(&log, &copy).context("a log of NATS") {
            eprintln!("{error:#}");
        }
    }
}
