//! `/v1/plugins`: what the plugins of this host do, at a glance. The figures in full are in `/metrics`.

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Desk, json};
use crate::gateway::api::{Group, Operation, Routes};
use crate::plugins::metrics::PluginMetrics;

/// Whether a plugin is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PluginState {
    /// It is told what there is.
    Running,
    /// It is left alone after repeated failures, and probed.
    BreakerOpen,
    /// It cleans up everything, or is about to; all else waits.
    BehindEverything,
}

/// A plugin as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Plugin)]
pub struct PluginDocument {
    /// Its name in presence.toml.
    pub name: String,
    /// What it is at.
    pub state: PluginState,
    /// SHA-256 of its file, hexadecimal.
    pub digest: String,
    /// The version of the contract that it speaks.
    pub version: String,
    /// The hooks that it exports.
    pub hooks: Vec<String>,
    /// Events waiting for their turn.
    pub queued: usize,
    /// Events waiting to be repeated.
    pub backing_off: usize,
    /// Events waiting until this host may act for the cluster.
    pub withheld: usize,
    /// Calls under way.
    pub running: usize,
    /// How long the oldest of all these has waited, in seconds.
    pub lag_seconds: f64,
    /// Calls that have ended, since the start.
    pub calls: u64,
    /// Those that failed.
    pub failures: u64,
    /// Events given up, since the start.
    pub dead_letters: u64,
    /// Guests that are instantiated.
    pub guests: usize,
    /// The most memory that one guest has held, in bytes.
    pub memory_peak_bytes: u64,
}

/// All plugins, in the order of presence.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Plugins)]
pub struct PluginsDocument {
    /// One for each.
    pub plugins: Vec<PluginDocument>,
}

impl From<PluginMetrics> for PluginDocument {
    fn from(metrics: PluginMetrics) -> PluginDocument {
        let state = match (metrics.breaker_open, metrics.behind_everything) {
            (true, _) => PluginState::BreakerOpen,
            (false, true) => PluginState::BehindEverything,
            (false, false) => PluginState::Running,
        };
        PluginDocument {
            name: metrics.plugin.to_string(),
            state,
            digest: metrics.digest.clone(),
            version: metrics.version.to_owned(),
            hooks: metrics.hooks.iter().map(|hook| hook.hook.to_string()).collect(),
            queued: metrics.queued,
            backing_off: metrics.backing_off,
            withheld: metrics.withheld,
            running: metrics.running,
            lag_seconds: metrics.lag.as_secs_f64(),
            calls: metrics.hooks.iter().map(|hook| hook.calls).sum(),
            failures: metrics.failures(),
            dead_letters: metrics.dead_letters(),
            guests: metrics.guests,
            memory_peak_bytes: metrics.memory_peak,
        }
    }
}

pub(super) fn reading() -> Routes<Desk> {
    let example = PluginDocument {
        name: "webhook".to_owned(),
        state: PluginState::Running,
        digest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
        version: "0.1.0".to_owned(),
        hooks: vec!["user-online".to_owned(), "user-offline".to_owned()],
        queued: 3,
        backing_off: 1,
        withheld: 0,
        running: 2,
        lag_seconds: 0.25,
        calls: 4711,
        failures: 2,
        dead_letters: 0,
        guests: 4,
        memory_peak_bytes: 1_245_184,
    };
    let operation = Operation::get("/v1/plugins", "get_plugins", "The plugins of this host and how they are")
        .answers(
            StatusCode::OK,
            "All plugins, in the order of presence.toml. Figures are of this host, since its start.",
            &PluginsDocument { plugins: vec![example] },
        );
    Routes::new(Group::Read).add(operation, plugins)
}

async fn plugins(State(desk): State<Desk>) -> Response<Body> {
    let plugins = desk.deps.metrics.plugins().into_iter().map(PluginDocument::from).collect();
    json(&PluginsDocument { plugins })
}
