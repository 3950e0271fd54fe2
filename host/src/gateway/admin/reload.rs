//! `POST /v1/reload`: presence.toml and the plugins' files are read again.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use futures_util::future::BoxFuture;
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Desk, Problem, json};
use crate::gateway::api::{Group, Operation, Routes};
use crate::gateway::auth::unavailable;
use crate::gateway::problem::Kind;

/// Whom the admin API asks for a reload.
pub trait Reload: Send + Sync + 'static {
    /// Reads everything again and applies what differs, or nothing.
    fn reload(&self) -> BoxFuture<'_, Result<ReloadDocument, NotReloaded>>;

    /// What came of reloads so far.
    fn figures(&self) -> ReloadFigures;
}

/// What a reload has done; plugins by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Reload)]
pub struct ReloadDocument {
    /// Always true: what is not applied is a problem.
    pub applied: bool,
    /// Plugins that were not there.
    pub added: Vec<String>,
    /// Plugins that are there no more.
    pub removed: Vec<String>,
    /// Plugins with another file or other settings.
    pub changed: Vec<String>,
    /// Plugins that go on as they were.
    pub unchanged: Vec<String>,
    /// Keys of presence.toml that differ from those at the start and count from the next start on.
    pub needs_restart: Vec<String>,
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReloaded {
    /// Something is wrong with presence.toml or with plugins: all of it.
    #[error("{}; nothing was changed, what ran before runs on", .0.join("; "))]
    Refused(Vec<String>),
    /// The host is about to end.
    #[error("this host is stopping")]
    Stopping,
}

/// What came of reloads, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadFigures {
    /// Reloads that were applied, also where nothing differed.
    pub applied: u64,
    /// Reloads that were refused.
    pub refused: u64,
    /// When the last one was applied, in seconds since 1970; 0: none was.
    pub last_applied: u64,
    /// How long the last one that was applied took.
    pub took: Duration,
}

pub(super) fn changing() -> Routes<Desk> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let example = ReloadDocument {
        applied: true,
        added: names(&["analytics"]),
        removed: names(&[]),
        changed: names(&["webhook"]),
        unchanged: names(&["profile-updater"]),
        needs_restart: names(&["host.listen"]),
    };
    let operation =
        Operation::new(Method::POST, "/v1/reload", "reload", "Read presence.toml and the plugins again")
            .about("Of this host. All that differs is applied, or nothing.")
            .answers(StatusCode::OK, "It was applied.", &example)
            .may_fail(
                Kind::Unprocessable,
                "Something is wrong; `errors` lists all of it. What ran before runs on.",
            );
    Routes::new(Group::Admin).add(operation, reload)
}

async fn reload(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
    match desk.deps.reload.reload().await {
        Ok(document) => Ok(json(&document)),
        Err(NotReloaded::Stopping) => Err(unavailable(NotReloaded::Stopping.to_string(), 5)),
        Err(NotReloaded::Refused(errors)) => {
            let detail = match errors.len() {
                1 => "there is 1 error; nothing was changed, what ran before runs on".to_owned(),
                count => format!("there are {count} errors; nothing was changed, what ran before runs on"),
            };
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_errors(errors))
        }
    }
}
