//! Hosts over NATS, each figure beside what NATS alone does in the same run on the same machine.

mod changes;
mod crash;
mod hearing;
mod joining;
pub mod raw;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use presence_tests::{Config, Daemon, NatsServer, Plugin, guest};

/// Everything, in the order in which one disturbs the next least.
pub async fn run() -> anyhow::Result<()> {
    changes::run(1).await?;
    changes::run(3).await?;
    hearing::run().await?;
    crash::run().await?;
    joining::run().await
}

/// A host over these servers: no Pings, so that lean clients need no answers.
fn host(name: &str, urls: &[String], ttl: Duration, plugin: Plugin) -> Config {
    let urls: Vec<String> = urls.iter().map(|url| format!("\"{url}\"")).collect();
    let cluster = format!(
        "[cluster]\nstore = \"nats\"\nurls = [{}]\nreplicas = {}\ninstance_ttl = \"{}s\"",
        urls.join(", "),
        if urls.len() > 1 { 3 } else { 1 },
        ttl.as_secs()
    );
    Config::default()
        .host(&format!("name = \"{name}\""))
        .presence("heartbeat = \"30m\"\noffline_grace = \"5s\"")
        .section(cluster)
        .section(plugin)
}

/// The plugin that does nothing.
fn noop() -> Plugin {
    Plugin::at("noop", guest("guest-noop")).delivery("queue = 65536")
}

/// Servers, ended with this value.
enum Servers {
    One(NatsServer),
    Three(presence_tests::NatsCluster),
}

impl Servers {
    async fn start(count: usize) -> Servers {
        match count {
            1 => Servers::One(NatsServer::start().await),
            count => Servers::Three(presence_tests::NatsCluster::start(count).await),
        }
    }

    fn urls(&self) -> Vec<String> {
        match self {
            Servers::One(server) => vec![server.url()],
            Servers::Three(cluster) => cluster.urls(),
        }
    }

    async fn client(&self) -> anyhow::Result<async_nats::Client> {
        async_nats::connect(self.urls()).await.context("NATS")
    }
}

/// The figures of `/metrics` added up over the labels; with `label` only those lines that have it.
async fn figure(daemon: &Daemon, name: &str, label: &str) -> f64 {
    let text = daemon.get("/metrics").await.body;
    let of_name = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
    };
    let values = text.lines().filter(of_name).filter_map(|line| line.rsplit_once(' '));
    values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}

/// Partitions by the host that owns them, as this host sees it.
async fn shares(daemon: &Daemon) -> BTreeMap<String, usize> {
    let document = daemon.get("/v1/partitions").await.json();
    let mut shares = BTreeMap::new();
    for partition in document["partitions"].as_array().into_iter().flatten() {
        *shares.entry(partition["host"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    shares
}
