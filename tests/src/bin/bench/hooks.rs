//! A hook through the whole dispatch path, beside the bare typed call on the same kind of guest.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use presence_core::events::{Status, Transition};
use presence_core::ids::{PartitionId, Sequence, UserId};
use presence_core::time::Timestamp;
use presence_host::clock::Clock;
use presence_host::plugins::{
    Backends, CompileMode, Deps, Event, Outcome, PluginSet, Plugins, time_bare_calls,
};
use presence_host::settings::{DeliverySettings, Grants, Initial, Limits, PluginSettings};
use presence_host::store::memory::MemoryStore;

use crate::report::{count, line, percentile, time};
use crate::{many, reload};

const EVENTS: u64 = 200_000;
const ROUNDS: usize = 5;
/// Events that find an empty queue.
const LATENCIES: u64 = 20_000;

fn settings(guest: PathBuf) -> PluginSettings {
    PluginSettings {
        name: "noop".into(),
        path: guest,
        config: "{}".into(),
        secrets: Default::default(),
        sha256: None,
        initial: Initial::Nothing,
        interval: None,
        grants: Grants::default(),
        limits: Limits { memory: 32 << 20, deadline: Duration::from_secs(2), log: 64 << 10 },
        delivery: DeliverySettings {
            concurrency: 1,
            queue: EVENTS as u32,
            attempts: 5,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
        },
    }
}

pub fn transition(at: u64) -> Event {
    Event::Status(Arc::new(Transition {
        user: UserId::new(&format!("user-{at:019}")).expect("a user id"),
        previous: Some(Status::Offline),
        current: Status::Online,
        since: Timestamp(1_700_000_000_000),
        revision: 1_700_000_000_000 + at,
        sessions: 1,
        last_seen: None,
        partition: PartitionId(0),
        sequence: Sequence(at),
    }))
}

pub async fn run() -> anyhow::Result<()> {
    let guest = PathBuf::from(std::env::var("PRESENCE_GUESTS").context("run `cargo xtask bench`")?);
    let settings = settings(guest.join("guest_noop.wasm"));
    let data_dir = std::env::temp_dir().join(format!("presence-bench-{}", std::process::id()));
    let deps = Deps {
        data_dir: data_dir.clone(),
        store: Arc::new(MemoryStore::new()),
        backends: Backends::for_trials(),
        compile: CompileMode::InProcess,
        clock: Clock::machine(),
        tracer: presence_host::traces::Tracer::off(),
    };
    let plugins = PluginSet::load(std::slice::from_ref(&settings), deps).await.map_err(|errors| {
        anyhow::anyhow!("{}", errors.iter().map(ToString::to_string).collect::<String>())
    })?;
    let mut bare_best = Duration::MAX;
    let mut whole_best = Duration::MAX;
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let calls = EVENTS as u32;
        let bare =
            time_bare_calls(&settings, &data_dir, CompileMode::InProcess, transition(1), calls).await?;
        let whole = full_queue(&plugins, round as u64 * EVENTS).await?;
        ratios.push(whole.as_secs_f64() / bare.as_secs_f64());
        bare_best = bare_best.min(bare);
        whole_best = whole_best.min(whole);
    }
    ratios.sort_by(f64::total_cmp);
    let per = |total: Duration| time(total / EVENTS as u32);
    line("hooks: bare typed call, reused guest, no-op", per(bare_best), "the yardstick");
    line("hooks: whole dispatch path, queue kept full, one guest", per(whole_best), "order checked");
    line("hooks: whole path / bare call, median of 5", format!("{:.2}", ratios[ROUNDS / 2]), "at most 6");
    let mut latencies = empty_queue(&plugins, ROUNDS as u64 * EVENTS).await?;
    line("hooks: latency with an empty queue, p50", time(percentile(&mut latencies, 0.5)), "");
    line("hooks: latency with an empty queue, p99", time(percentile(&mut latencies, 0.99)), "");
    line("hooks: events a second", count(EVENTS as f64 / whole_best.as_secs_f64()), "");
    reload::run(&plugins, &settings, ROUNDS as u64 * EVENTS + LATENCIES).await?;
    plugins.shutdown().await;
    many::run(&settings, &data_dir).await?;
    // A temporary folder that stays is no reason to fail.
    let _ = std::fs::remove_dir_all(&data_dir);
    Ok(())
}

/// Queues all events, then waits for the last outcome; checks that they came in order.
async fn full_queue(plugins: &PluginSet, first: u64) -> anyhow::Result<Duration> {
    let events: Vec<Event> = (first + 1..=first + EVENTS).map(transition).collect();
    let began = Instant::now();
    for event in events {
        plugins.submit(event);
    }
    let mut last = first;
    while last < first + EVENTS {
        for outcome in plugins.outcomes().await {
            let Outcome::Status { sequence, .. } = outcome else {
                continue;
            };
            ensure!(sequence.0 == last + 1, "outcome {} came after {last}", sequence.0);
            last = sequence.0;
        }
    }
    Ok(began.elapsed())
}

async fn empty_queue(plugins: &PluginSet, first: u64) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    for at in 1..=LATENCIES {
        let event = transition(first + at);
        let began = Instant::now();
        plugins.submit(event);
        let outcomes = plugins.outcomes().await;
        latencies.push(began.elapsed());
        ensure!(outcomes.len() == 1);
    }
    Ok(latencies)
}
