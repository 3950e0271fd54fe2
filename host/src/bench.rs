//! `presence bench`: the loads of a deployment's clients, from outside, and a report of what it took them. Knows the
//! protocol and the admin API like any other client, and nothing of the host's inside.
//!
//! ```text
//!  open ─▶ changes ─▶ hearing ─▶ fan-out ─▶ fan-out beside slow readers ─▶ close ─▶ held sessions
//! ```

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::admin_client::AdminClient;
use crate::cli::{AdminArgument, BenchArguments};

mod crowd;
mod fan_out;
mod held;
mod people;
mod report;
mod session;

use crowd::{Crowd, Opened};
use people::People;
use report::{Latency, Report};

/// The largest number of sessions of one run: each needs a file descriptor and a port.
const MAX_SESSIONS: usize = 60_000;

/// Runs all loads and prints the report. Answers the exit code: 1 if something that was asked failed.
pub async fn run(arguments: BenchArguments) -> anyhow::Result<u8> {
    ensure!(
        (2..=MAX_SESSIONS).contains(&arguments.sessions),
        "--sessions {}: give 2 to {MAX_SESSIONS}",
        arguments.sessions
    );
    ensure!(arguments.held <= held::MAX_HELD, "--held {}: at most {}", arguments.held, held::MAX_HELD);
    let targets = session::targets(&arguments.urls, arguments.ca_file.as_deref())?;
    let people = People::new(&arguments)?;
    let sessions = arguments.sessions.min(people.count());
    if sessions < arguments.sessions {
        bail!("--tokens has {sessions} tokens: give --sessions {sessions} or more tokens");
    }
    let memory_before = resident(&arguments).await?;
    let mut report = Report::new(&arguments.urls, sessions);
    let (mut crowd, opened) = Crowd::open(&targets, &people, sessions, arguments.connecting).await;
    open_figures(&mut report, opened);
    ensure!(crowd.len() >= 2, "{} of {sessions} sessions were let in: {}", crowd.len(), report.why());
    if let (Some(before), Some(after)) = (memory_before, resident(&arguments).await?) {
        report.bytes_a_session = Some(after.saturating_sub(before) / crowd.len() as u64);
    }
    changes(&mut report, &mut crowd, &arguments).await?;
    hearing(&mut report, &mut crowd, &targets, &people, &arguments).await?;
    fan_out::run(&mut report, &mut crowd, &targets, &people, &arguments).await?;
    let began = Instant::now();
    report.lost += crowd.close().await;
    report.closed_ms = began.elapsed().as_secs_f64() * 1e3;
    if let (1.., Some(client)) = (arguments.held, admin(&arguments)?) {
        report.held = Some(held::run(&client, &arguments, async || resident(&arguments).await).await?);
    }
    print(&report, arguments.json)?;
    Ok(u8::from(!report.is_clean()))
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let text = if json { format!("{}\n", serde_json::to_string_pretty(report)?) } else { report.text() };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn open_figures(report: &mut Report, opened: Opened) {
    report.opened = opened.latencies.len();
    report.opens_a_second = rate(opened.latencies.len(), opened.took);
    report.open = Latency::of(opened.latencies);
    report.refused = opened.refused;
}

/// So many of something in so much time, each second.
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

/// The admin listener that was named.
fn admin(arguments: &BenchArguments) -> anyhow::Result<Option<AdminClient>> {
    let Some(url) = arguments.admin.clone() else { return Ok(None) };
    let (key_file, ca_file) = (arguments.key_file.clone(), arguments.ca_file.clone());
    AdminClient::new(&AdminArgument { url, key_file, ca_file }).map(Some)
}

/// Resident bytes of the host's process, where an admin listener was named.
async fn resident(arguments: &BenchArguments) -> anyhow::Result<Option<u64>> {
    let Some(client) = admin(arguments)? else { return Ok(None) };
    let metrics = client.text("/metrics").await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let bytes = line.context("--admin does not tell process_resident_memory_bytes")?;
    Ok(Some(bytes.trim().parse::<f64>().context("process_resident_memory_bytes is no number")? as u64))
}

/// `set_status` at an even pace over all sessions: how long the answers take.
async fn changes(report: &mut Report, crowd: &mut Crowd, arguments: &BenchArguments) -> anyhow::Result<()> {
    let began = Instant::now();
    let wanted = (arguments.rate * arguments.seconds as f64) as usize;
    let mut pending: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut latencies = Vec::with_capacity(wanted);
    for at in 0..wanted {
        let due = began + Duration::from_secs_f64(at as f64 / arguments.rate);
        while let Some(note) = crowd.next_until(due).await {
            report.take(&note, &mut pending, &mut latencies);
        }
        // From when it was due: who falls behind must not look fast (coordinated omission).
        pending.insert(crowd.set_status(at), due);
    }
    let deadline = Instant::now() + crowd::PATIENCE;
    while !pending.is_empty() {
        let Some(note) = crowd.next_until(deadline).await else { break };
        report.take(&note, &mut pending, &mut latencies);
    }
    report.changes_unanswered = pending.len();
    report.changes_a_second = rate(latencies.len(), began.elapsed());
    report.changes = Latency::of(latencies);
    Ok(())
}

/// A user with a session at one address and an idle one at the next, which watches: the way of a transition through
/// the deployment. Watching oneself is what everybody may.
async fn hearing(
    report: &mut Report,
    crowd: &mut Crowd,
    targets: &[session::Target],
    people: &People,
    arguments: &BenchArguments,
) -> anyhow::Result<()> {
    let mut latencies = Vec::with_capacity(arguments.rounds);
    let request = crowd.set(0, "online");
    ensure!(crowd.done(request).await, "the first session can't be set online");
    let listener = crowd.second_session(0, targets, people).await;
    let mut listener = listener.context("a second session of one user")?;
    listener.idle_and_watching(&crowd.user(0)).await?;
    for round in 0..arguments.rounds {
        let status = if round % 2 == 0 { "idle" } else { "online" };
        let began = Instant::now();
        crowd.set(0, status);
        match listener.hears(status).await {
            Some(at) => latencies.push(at.saturating_duration_since(began)),
            None => report.unheard += 1,
        }
    }
    report.hearing = Latency::of(latencies);
    Ok(())
}
