//! `presence plugin list`: what the plugins of a host do, as its admin API knows it.

use std::io::Write;
use std::time::Duration;

use crate::admin_client::AdminClient;
use crate::cli::AdminArgument;
use crate::gateway::admin::plugins::{PluginDocument, PluginState, PluginsDocument};
use crate::table::{printable, table};

/// So much of a digest tells versions apart.
const DIGEST_CHARS: usize = 12;

/// Prints the plugins, as a table or as JSON. Answers the exit code.
pub async fn run(admin: &AdminArgument, json: bool) -> anyhow::Result<u8> {
    let found: PluginsDocument = AdminClient::new(admin)?.get("/v1/plugins").await?;
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(&found)?)
    } else if found.plugins.is_empty() {
        "no plugins\n".to_owned()
    } else {
        as_table(&found.plugins)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

fn as_table(plugins: &[PluginDocument]) -> String {
    let rows: Vec<Vec<String>> = plugins
        .iter()
        .map(|plugin| {
            let state = match plugin.state {
                PluginState::Running => "running",
                PluginState::BreakerOpen => "breaker open",
                PluginState::BehindEverything => "behind everything",
            };
            let waiting = plugin.queued + plugin.backing_off + plugin.withheld;
            vec![
                printable(&plugin.name),
                state.to_owned(),
                plugin.digest.chars().filter(char::is_ascii_alphanumeric).take(DIGEST_CHARS).collect(),
                waiting.to_string(),
                lag(plugin.lag_seconds),
                plugin.calls.to_string(),
                plugin.failures.to_string(),
                plugin.dead_letters.to_string(),
                plugin.guests.to_string(),
                format!("{:.1} MiB", plugin.memory_peak_bytes as f64 / f64::from(1 << 20)),
                printable(&plugin.hooks.join(" ")),
            ]
        })
        .collect();
    let headings =
        ["PLUGIN", "STATE", "DIGEST", "WAITING", "LAG", "CALLS", "FAILED", "DEAD", "GUESTS", "PEAK", "HOOKS"];
    table(&headings, &rows)
}

/// Tenths of a second for a minute, then what a person reads.
fn lag(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(lag) if lag.is_zero() => "-".to_owned(),
        Ok(lag) if lag.as_secs() < 60 => format!("{seconds:.1} s"),
        Ok(lag) => humantime::format_duration(Duration::from_secs(lag.as_secs())).to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_one_line() {
        let plugin = PluginDocument {
            name: "webhook".into(),
            state: PluginState::BreakerOpen,
            digest: "9f86d081884c7d65".into(),
            version: "0.1.0".into(),
            hooks: vec!["cleanup".into(), "user-online".into()],
            queued: 8,
            backing_off: 1,
            withheld: 0,
            running: 1,
            lag_seconds: 3725.2,
            calls: 12,
            failures: 10,
            dead_letters: 0,
            guests: 2,
            memory_peak_bytes: 1_114_112,
        };
        let expected = "\
PLUGIN   STATE         DIGEST        WAITING  LAG       CALLS  FAILED  DEAD  GUESTS  PEAK     HOOKS
webhook  breaker open  9f86d081884c  9        1h 2m 5s  12     10      0     2       1.1 MiB  cleanup user-online
";
        assert_eq!(as_table(&[plugin]), expected);
        assert_eq!([lag(0.0), lag(2.51), lag(f64::NAN)], ["-", "2.5 s", "?"]);
    }
}
