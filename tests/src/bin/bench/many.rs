//! Many guests of one plugin beside one, and many plugins at the start of a host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use presence_host::clock::Clock;
use presence_host::plugins::{Backends, CompileMode, Deps, PluginSet, Plugins};
use presence_host::settings::PluginSettings;
use presence_host::store::memory::MemoryStore;

use crate::hooks::transition;
use crate::report::{line, time};

const EVENTS: u64 = 200_000;
/// Of the plugin that works: its keyvalue keeps some keys for each.
const WORKED: u64 = 5_000;
const ROUNDS: u64 = 5;
const GUESTS: u32 = 8;
const PLUGINS: u32 = 100;

fn deps(data_dir: &Path) -> Deps {
    Deps {
        data_dir: data_dir.to_owned(),
        store: Arc::new(MemoryStore::new()),
        backends: Backends::for_trials(),
        compile: CompileMode::InProcess,
        clock: Clock::machine(),
        tracer: presence_host::traces::Tracer::off(),
    }
}

async fn load(settings: &[PluginSettings], data_dir: &Path) -> anyhow::Result<PluginSet> {
    PluginSet::load(settings, deps(data_dir))
        .await
        .map_err(|errors| anyhow::anyhow!("{}", errors.iter().map(ToString::to_string).collect::<String>()))
}

pub async fn run(one: &PluginSettings, data_dir: &Path) -> anyhow::Result<()> {
    let plugins_folder = std::env::var("PRESENCE_PLUGINS").context("run `cargo xtask bench`")?;
    let mut analytics = one.clone();
    analytics.name = "analytics".into();
    analytics.path = PathBuf::from(plugins_folder).join("analytics.wasm");
    analytics.grants.keyvalue = vec!["analytics".into()];
    line("hooks: 8 guests / 1 guest, no-op", gain(one, data_dir, EVENTS).await?, "the dispatch alone");
    line(
        "hooks: 8 guests / 1 guest, analytics",
        gain(&analytics, data_dir, WORKED).await?,
        "at least 1.6 on 2 cores",
    );
    plugins(one, data_dir).await
}

/// How many times as many events a second eight guests take as one does, in turns; the median.
async fn gain(one: &PluginSettings, data_dir: &Path, events: u64) -> anyhow::Result<String> {
    let mut eight = one.clone();
    eight.delivery.concurrency = GUESTS;
    let one = load(std::slice::from_ref(one), data_dir).await?;
    let eight = load(&[eight], data_dir).await?;
    let mut gains = Vec::new();
    for round in 0..ROUNDS {
        let alone = drain(&one, round * events, events).await;
        let together = drain(&eight, round * events, events).await;
        gains.push(alone.as_secs_f64() / together.as_secs_f64());
    }
    gains.sort_by(f64::total_cmp);
    one.shutdown().await;
    eight.shutdown().await;
    Ok(format!("{:.2}", gains[gains.len() / 2]))
}

/// Queues events of as many users, then waits until all are settled.
async fn drain(plugins: &PluginSet, first: u64, count: u64) -> Duration {
    let events: Vec<_> = (first + 1..=first + count).map(transition).collect();
    let began = Instant::now();
    for event in events {
        plugins.submit(event);
    }
    let mut settled = 0;
    while settled < count {
        settled += plugins.outcomes().await.len() as u64;
    }
    began.elapsed()
}

/// A host's start with so many different plugins whose compiled code is in the cache.
async fn plugins(one: &PluginSettings, data_dir: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(&one.path)?;
    let mut settings = Vec::new();
    for number in 0..PLUGINS {
        let path = data_dir.join(format!("noop-{number}.wasm"));
        std::fs::write(&path, marked(&bytes, number))?;
        settings.push(plugin(one, number, path));
    }
    load(&settings, data_dir).await?.shutdown().await;
    let began = Instant::now();
    let plugins = load(&settings, data_dir).await?;
    let took = began.elapsed() / PLUGINS;
    plugins.shutdown().await;
    line("hooks: start of 100 plugins from a warm cache, each", time(took), "under 10 ms");
    Ok(())
}

fn plugin(one: &PluginSettings, number: u32, path: PathBuf) -> PluginSettings {
    PluginSettings { name: format!("noop-{number}"), path, ..one.clone() }
}

/// The component with a custom section that makes it another file.
fn marked(component: &[u8], number: u32) -> Vec<u8> {
    const NAME: &[u8] = b"mark";
    let mut bytes = component.to_vec();
    bytes.extend([0, 1 + NAME.len() as u8 + 4, NAME.len() as u8]);
    bytes.extend(NAME);
    bytes.extend(number.to_le_bytes());
    bytes
}
