//! Logs: where they go and how they look.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// `--log-format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A filter that can't be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{filter}` is not a log filter ({reason}); write for example `info` or `info,presence_host::plugins=debug`"
)]
pub struct InvalidFilter {
    filter: String,
    reason: String,
}

/// Sends logs to standard error, in this format, as far as `filter` lets them through.
pub fn init(format: LogFormat, filter: &str) -> Result<(), InvalidFilter> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| InvalidFilter { filter: filter.to_owned(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            builder.with_ansi(ansi).with_target(false).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
