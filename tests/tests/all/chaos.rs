//! A small run of `cargo xtask chaos`: enough to see that faults, crowd and verdict work, and most faults once.

use std::time::Duration;

use presence_tests::chaos::{Plan, run};

/// Names a seed; without it each run has its own, which is printed.
const SEED: &str = "PRESENCE_TEST_SEED";
/// For how many seconds faults go on, if not for [`FAULTS_FOR`].
const SECONDS: &str = "PRESENCE_TEST_CHAOS";

const FAULTS_FOR: Duration = Duration::from_secs(75);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_under_faults_keeps_its_promises() {
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(1..1_000_000));
    let faults_for = number(SECONDS).map_or(FAULTS_FOR, Duration::from_secs);
    let folder = std::env::temp_dir().join(format!("presence-chaos-{seed}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let report = run(&Plan::small(seed, faults_for), &folder, true).await.unwrap();
    println!("{report}");
    assert!(report.violations.is_empty(), "seed {seed}, {SEED} repeats it; logs are in {}", folder.display());
    std::fs::remove_dir_all(&folder).unwrap();
}
