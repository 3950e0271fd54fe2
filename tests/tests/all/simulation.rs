//! The simulation of several hosts: it repeats itself, it finds what is planted, and it finds nothing else.

use std::sync::Arc;

use presence_tests::simulation::{Plant, Summary, run, store};

/// So many seeds are run here; `cargo xtask sim` runs more.
const SEEDS: u64 = 240;

#[test]
fn a_seed_says_everything() {
    for seed in [3, 4] {
        let (first, second) = (run(seed, Plant::Nothing, true), run(seed, Plant::Nothing, true));
        assert!(first.lines.len() > 100);
        for (one, other) in first.lines.iter().zip(&second.lines) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.counts, second.counts, "seed {seed}");
    }
}

#[test]
fn invariants_hold_whatever_fails() {
    const THREADS: u64 = 2;
    let share = |first: u64| {
        let mut summary = Summary::default();
        for seed in (1_000_000 + first..1_000_000 + SEEDS).step_by(THREADS as usize) {
            let report = run(seed, Plant::Nothing, false);
            assert!(
                report.violations.is_empty(),
                "seed {seed}: {:#?}\n`cargo xtask sim --seed {seed}` shows the history",
                report.violations
            );
            summary.add(&report);
        }
        summary
    };
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || share(first))).collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => summary.merge(&part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{summary}");
    assert_eq!(summary.runs, SEEDS);
}

/// Seeds that once found something, of runs of 10,000 and more. A change of the simulation gives them other histories.
#[test]
fn what_was_found_once_is_not_found_again() {
    for seed in [
        48, 167, 416, 481, 512, 557, 703, 1221, 1378, 1825, 2404, 2593, 3036, 3205, 3214, 3263, 4264, 4481,
        4718, 4953, 5221, 5727, 5773, 5868, 6973, 7299, 7388, 7392, 7835, 7970, 8447, 8806, 9229, 12531,
        12722, 13608, 14734, 17211, 18347, 22953, 24581, 25020, 27457, 27836, 29299, 29339, 29582, 30336,
        35591, 39684, 46099, 48859, 49219, 68705, 77056, 215032, 229377, 237724, 301193, 312986, 317067,
        334817, 819,
    ] {
        let report = run(seed, Plant::Nothing, false);
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
    }
}

/// The first of so many seeds that finds what is planted, by this invariant.
fn finds(plant: Plant, invariants: &[&str], seeds: u64) {
    for seed in 0..seeds {
        let report = run(seed, plant, false);
        if let Some(found) = report.violations.iter().find(|found| invariants.contains(&found.invariant)) {
            println!("{plant:?}: seed {seed}: {found}");
            return;
        }
    }
    panic!("{seeds} seeds did not find {plant:?}");
}

#[test]
fn a_store_without_fences_is_found() {
    finds(Plant::NoFencing, &["I4"], 100);
}

#[test]
fn a_consumer_taken_for_a_snapshot_is_found() {
    finds(Plant::ConsumerForSnapshot, &["I1"], 100);
}

#[test]
fn a_hook_before_its_record_is_found() {
    finds(Plant::HookBeforeRecord, &["I2", "I3", "I1"], 100);
}

#[test]
fn a_death_that_is_not_compared_is_found() {
    finds(Plant::DeathWithoutCompare, &["I5"], 200);
}

#[test]
fn everything_by_two_is_found() {
    finds(Plant::EverythingByTwo, &["I5"], 200);
}

/// Without faults the simulated store is a store like any other, but for notices: there they come late, in any order, and
/// of users who are watched alone. All of that is allowed, and more than the cases ask for.
#[tokio::test(start_paused = true)]
async fn the_simulated_store_conforms() {
    let cases = presence_host::store::conformance::CASES.iter().filter(|(name, _)| !name.contains("notices"));
    for (name, case) in cases {
        println!("{name}");
        case(Arc::new(store())).await;
    }
}
