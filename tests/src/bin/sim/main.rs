//! `cargo xtask sim [--seeds N] [--seed S] [--threads T] [--plant NAME]`: runs the simulation over many seeds, or shows one.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use presence_tests::simulation::{Plant, Report, Summary, run};

/// So many lines of a failing history are shown.
const LINES: usize = 400;

struct Arguments {
    first: u64,
    seeds: u64,
    threads: u64,
    lines: usize,
    show: bool,
    plant: Plant,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut arguments =
        Arguments { first: 0, seeds: 1_000, threads: 2, lines: LINES, show: false, plant: Plant::Nothing };
    let mut words = std::env::args().skip(1);
    let mut seed = None;
    let mut seeds = None;
    while let Some(word) = words.next() {
        if word == "--plant" {
            arguments.plant = plant(&words.next().unwrap_or_default())?;
            continue;
        }
        let mut number = || -> anyhow::Result<u64> {
            let text = words.next().with_context(|| format!("{word} needs a number"))?;
            text.parse().with_context(|| format!("{word} {text}"))
        };
        match word.as_str() {
            "--seed" => seed = Some(number()?),
            "--seeds" => seeds = Some(number()?),
            "--threads" => arguments.threads = number()?.max(1),
            "--lines" => arguments.lines = number()? as usize,
            "--show" => arguments.show = true,
            _ => bail!("`{word}` is not understood: --seeds N, --seed S, --threads T, --lines L, --show"),
        }
    }
    arguments.first = seed.unwrap_or(0);
    arguments.seeds = seeds.unwrap_or(if seed.is_some() { 1 } else { arguments.seeds });
    Ok(arguments)
}

fn plant(name: &str) -> anyhow::Result<Plant> {
    let names = Plant::ALL.map(|plant| format!("{plant:?}"));
    let at = names.iter().position(|known| known == name);
    at.map(|at| Plant::ALL[at]).with_context(|| format!("no plant `{name}`; there are {}", names.join(", ")))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = arguments()?;
    let started = Instant::now();
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first + arguments.seeds;
    let failed = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let failures: Mutex<Vec<Report>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                let mut own = Summary::default();
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let report = run(seed, arguments.plant, arguments.show);
                    own.add(&report);
                    if !report.violations.is_empty() || arguments.show {
                        failed.store(!arguments.show, Ordering::Relaxed);
                        failures.lock().expect("no panic").push(report);
                    }
                }
                summary.lock().expect("no panic").merge(&own);
            });
        }
    });
    let summary = summary.into_inner().expect("no panic");
    let mut failures = failures.into_inner().expect("no panic");
    failures.sort_by_key(|report| report.seed);
    let took = started.elapsed().as_secs_f64();
    print!("{summary}");
    println!("{} seeds in {took:.1} s: {:.1} a second", summary.runs, summary.runs as f64 / took);
    if let Some(report) = failures.first() {
        let report =
            if report.lines.is_empty() { run(report.seed, arguments.plant, true) } else { report.clone() };
        show(&report, arguments.lines);
        if !report.violations.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
    }
    let missing = summary.missing();
    if !missing.is_empty() && arguments.seeds >= 1_000 {
        println!("these never occurred, so they are not tested: {}", missing.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(report: &Report, lines: usize) {
    let skipped = report.lines.len().saturating_sub(lines) as u64 + report.dropped;
    if skipped > 0 {
        println!("({skipped} earlier lines are not shown: --lines shows more)");
    }
    for line in &report.lines[report.lines.len().saturating_sub(lines)..] {
        println!("{line}");
    }
    for violation in &report.violations {
        println!("seed {}: {violation}", report.seed);
    }
}
