//! How long a plugin makes no progress when it is reloaded while its queue is full.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use presence_host::plugins::{Outcome, PluginSet, Plugins};
use presence_host::settings::PluginSettings;

use crate::hooks::transition;
use crate::report::{line, percentile, time};

const RELOADS: usize = 200;
/// More than are called while the switch is made.
const WAITING: u64 = 2_000;

/// Reloads the only plugin of the set, whose events go on after `last`.
pub async fn run(plugins: &PluginSet, settings: &PluginSettings, mut last: u64) -> anyhow::Result<()> {
    let mut settings = settings.clone();
    let (mut pauses, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..RELOADS {
        settings.limits.log += 1;
        let began = Instant::now();
        let changes = plugins.prepare(std::slice::from_ref(&settings)).await.map_err(|errors| {
            anyhow::anyhow!("{}", errors.iter().map(ToString::to_string).collect::<String>())
        })?;
        ensure!(changes.changed.len() == 1);
        let prepared = began.elapsed();
        let end = last + WAITING;
        for at in last + 1..=end {
            plugins.submit(transition(at));
        }
        let began = Instant::now();
        plugins.switch();
        whole.push(prepared + began.elapsed());
        while last < end {
            for outcome in plugins.outcomes().await {
                let Outcome::Status { sequence, .. } = outcome else { continue };
                ensure!(sequence.0 == last + 1, "outcome {} came after {last}", sequence.0);
                last = sequence.0;
            }
        }
        let metrics = plugins.metrics();
        let pause = metrics.first().and_then(|plugin| plugin.last_reload_pause);
        pauses.push(pause.context("no call waited when the plugin was switched")?);
    }
    let figure = |what: &str, share: f64, values: &mut [Duration]| {
        line(&format!("hooks: {what}"), time(percentile(values, share)), "");
    };
    figure("reload pause p50", 0.5, &mut pauses);
    figure("reload pause p99", 0.99, &mut pauses);
    figure("reload, from the file to the switch, warm cache, p50", 0.5, &mut whole);
    Ok(())
}
