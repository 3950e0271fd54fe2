//! `cargo xtask chaos --minutes M [--seed S]`: a deployment under faults, then the verdict. Exits with 1 if something is
//! not as promised; logs and deliveries are kept then.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use presence_tests::chaos::{Plan, run};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut minutes = 2.0_f64;
    let mut seed = fastrand::u64(1..1_000_000);
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--minutes" => {
                minutes = value.parse().with_context(|| format!("`--minutes {value}`"))?;
            }
            [name, value] if name == "--seed" => {
                seed = value.parse().with_context(|| format!("`--seed {value}`"))?;
            }
            _ => bail!("usage: chaos [--minutes NUMBER] [--seed NUMBER]"),
        }
    }
    let plan = Plan::full(seed, Duration::from_secs_f64(minutes * 60.0));
    let folder = std::env::temp_dir().join(format!("presence-chaos-{seed}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("can't make `{}`", folder.display()))?;
    println!("chaos: seed {seed}, {minutes} minutes; everything is in {}", folder.display());
    let report = run(&plan, &folder, true).await?;
    std::fs::write(folder.join("report.txt"), report.to_string())?;
    println!("\n{report}");
    if report.violations.is_empty() {
        std::fs::remove_dir_all(&folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("seed {seed}; logs and deliveries are kept in {}", folder.display());
    Ok(ExitCode::FAILURE)
}
