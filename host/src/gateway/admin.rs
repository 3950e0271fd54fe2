//! The admin listener: users and their sessions, holders, plugins, dead letters, health, metrics, reloads, and what changes. Keep it
//! private: it changes dead letters and plugins. Each route stands in one list, with what the OpenAPI document says of it, and in the group whose
//! scope a key needs.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Uri};
use presence_core::ids::UserId;
use presence_core::time::Timestamp;
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::Handle;
use super::api::{Group, Operation, Routes, document, words};
use super::auth::unavailable;
use super::callers::{Callers, scoped};
use super::events::Events;
use super::http::with_answers_to_the_rest;
use super::metrics::{self, Metrics};
use super::origin;
use super::problem::{Kind, Problem};
use super::query::{self, QueryError};
use super::traffic::Traffic;
use crate::api_keys::Scope;
use crate::driver::{Event, Query};
use crate::store::{SharedStore, StoreError};

pub mod cluster;
pub mod counts;
mod events;
pub mod holders;
pub mod letters;
pub mod messages;
mod paging;
pub mod plugins;
pub mod reload;
pub mod sessions;
pub mod transitions;
pub mod users;

pub use users::{MAX_USERS_PER_QUERY, UserDocument, UsersDocument};

/// How long the driver or the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the admin API asks besides the driver.
#[derive(Clone)]
pub struct AdminDeps {
    /// Has the dead letters.
    pub store: SharedStore,
    /// Has the plugins' figures.
    pub metrics: Arc<dyn Metrics>,
    /// Reads presence.toml and the plugins again.
    pub reload: Arc<dyn reload::Reload>,
}

/// Who may ask: whoever has a key, if there are keys; no web page of another origin; and on a loopback listener without
/// keys nobody who calls it by another name.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) is_loopback: bool,
    pub(super) callers: Arc<Callers>,
    pub(super) traffic: Arc<Traffic>,
}

impl Guard {
    pub(super) fn check(&self, request: &mut Parts) -> Result<(), Problem> {
        let is_by_name = self.is_loopback && self.callers.are_free();
        let allowed = if is_by_name { origin::loopback_host(request) } else { Ok(()) };
        allowed
            .and_then(|()| origin::same_origin(request))
            .map_err(|foreign| Problem::new(StatusCode::FORBIDDEN, foreign.to_string()))?;
        self.callers.check(request, &self.traffic)
    }
}

#[derive(Clone)]
struct Desk {
    handle: Handle,
    deps: AdminDeps,
    traffic: Arc<Traffic>,
    /// Ends what lasts longer than a request.
    shutdown: CancellationToken,
    /// Places for connections of holders, beside those of the listener.
    holds: Arc<Semaphore>,
    events: Events,
}

/// The addresses of the admin listener. Each route is in the list of its group; only what is [`open`] needs no key.
pub(super) fn router(
    handle: Handle,
    deps: AdminDeps,
    traffic: Arc<Traffic>,
    closing: CancellationToken,
) -> Router {
    let holds = Arc::new(Semaphore::new(holders::MAX_CONNECTIONS));
    let shutdown = closing.clone();
    let events = Events::new(deps.store.clone(), traffic.clone(), closing);
    let groups = [open(), reading(), holding(), changing()];
    let router = groups.into_iter().fold(Router::new(), |router, routes| {
        let scope = routes.group().scope();
        let routes = routes.into_parts().0;
        router.merge(match scope {
            Some(scope) => scoped(scope, routes, &traffic),
            None => routes,
        })
    });
    let router = router.merge(scoped(Scope::Sessions, holders::connecting(), &traffic));
    let desk = Desk { handle, deps, traffic, shutdown, holds, events };
    with_answers_to_the_rest(router).with_state(desk)
}

/// Whether the host lives and may be sent clients. The paths are those of [`super::callers::OPEN_PATHS`].
fn open() -> Routes<Desk> {
    Routes::new(Group::Open).add(healthz_operation(), healthz).add(readyz_operation(), readyz)
}

/// What tells and changes nothing.
fn reading() -> Routes<Desk> {
    Routes::new(Group::Read)
        .and(users::reading())
        .and(sessions::reading())
        .and(transitions::reading())
        .and(messages::reading())
        .and(counts::reading())
        .and(events::reading())
        .and(holders::reading())
        .and(cluster::reading())
        .and(plugins::reading())
        .and(letters::reading())
        .add(metrics_operation(), print_metrics)
        .add(openapi_operation(), print_openapi)
}

/// What backends say of their users and of the sessions that they hold.
fn holding() -> Routes<Desk> {
    Routes::new(Group::Sessions).and(messages::changing()).and(holders::changing())
}

/// What changes plugins and dead letters.
fn changing() -> Routes<Desk> {
    Routes::new(Group::Admin).and(letters::changing()).and(reload::changing())
}

/// All operations, and for whom.
pub fn operations() -> Vec<(Group, Operation)> {
    [open(), reading(), holding(), changing()].into_iter().flat_map(|group| group.into_parts().1).collect()
}

/// The OpenAPI document, as it is served.
pub fn openapi() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let document = document::of(operations());
        serde_json::to_string_pretty(&document).expect("an OpenAPI document always becomes JSON")
    });
    &DOCUMENT
}

fn openapi_operation() -> Operation {
    Operation::get("/v1/openapi.json", "get_openapi", "This document").answers_text(
        "application/json",
        "OpenAPI 3.1.",
        "{\"openapi\":\"3.1.0\",\"info\":{},\"paths\":{}}",
    )
}

async fn print_openapi() -> Response<Body> {
    bytes_answer("application/json", Bytes::from_static(openapi().as_bytes()))
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Problem {
        bad_parameter(error.to_string())
    }
}

fn bad_parameter(detail: impl Into<String>) -> Problem {
    Problem::of(Kind::BadParameter, detail)
}

fn json(document: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_string(document).expect("documents with text keys always become JSON");
    bytes_answer("application/json", text.into())
}

fn bytes_answer(kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn ask<T>(handle: &Handle, question: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Problem> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        handle.send(Event::Query(question(answer))).await.ok()?;
        answered.await.ok()
    };
    match timeout(PATIENCE, asked).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(unavailable("this host is stopping".to_owned(), 5)),
        Err(_) => {
            Err(unavailable(format!("no answer within {} s: this host is overloaded", PATIENCE.as_secs()), 5))
        }
    }
}

/// What the store answers, in time.
async fn read<T>(what: &str, reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
    match timeout(PATIENCE, reading).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(unavailable(format!("{what} can't be read now: {error}"), 1)),
        Err(_) => Err(unavailable("the store does not answer".to_owned(), 5)),
    }
}

type Path = Result<RawPathParams, RawPathParamsRejection>;

/// The user that the path names.
fn user_in(path: Path) -> Result<UserId, Problem> {
    let path = path.map_err(|_| bad_parameter("the user id is not percent-encoded UTF-8"))?;
    // The decoded segment, not the path: an encoded slash belongs to the user id.
    let segment = path.iter().find(|(name, _)| *name == "user").map(|(_, value)| value).unwrap_or_default();
    UserId::new(segment).map_err(|reason| bad_parameter(reason.to_string()))
}

/// The value of a parameter that is a number from 1 to `most`.
fn number_of(uri: &Uri, name: &'static str, most: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = query::single(uri.query(), name)? else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ if most == words::GREATEST_NUMBER => {
            Err(bad_parameter(format!("`{name}` must be a number from 1 on")))
        }
        _ => Err(bad_parameter(format!("`{name}` must be a number from 1 to {most}"))),
    }
}

/// The wall clock; 1970 on a machine whose clock is before that.
fn wall_clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// How the host is.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
struct HealthDocument {
    /// `alive` or `ready`.
    status: &'static str,
    /// The id of this incarnation of the host.
    instance: String,
}

fn health(status: &'static str) -> HealthDocument {
    HealthDocument { status, instance: "0190163d-8694-739b-aea5-966c26f8ad90".to_owned() }
}

fn healthz_operation() -> Operation {
    Operation::get("/healthz", "get_health", "Whether the process lives").answers(
        StatusCode::OK,
        "It answers, so it lives.",
        &health("alive"),
    )
}

fn readyz_operation() -> Operation {
    Operation::get("/readyz", "get_readiness", "Whether clients should be sent here")
        .answers(StatusCode::OK, "They should.", &health("ready"))
        .may_fail(Kind::Unavailable, "They should not; `detail` says why.")
}

fn metrics_operation() -> Operation {
    Operation::get("/metrics", "get_metrics", "Figures of this host for Prometheus").answers_text(
        METRICS_TYPE,
        "OpenMetrics; docs/metrics.md lists them.",
        "# TYPE presence_sessions gauge\npresence_sessions{status=\"online\"} 1\n# EOF\n",
    )
}

/// The media type of `/metrics`.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn healthz(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
    let health = ask(&desk.handle, Query::Health).await?;
    Ok(json(&HealthDocument { status: "alive", instance: health.instance.to_string() }))
}

async fn readyz(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
    let health = ask(&desk.handle, Query::Health).await?;
    if health.ready {
        return Ok(json(&HealthDocument { status: "ready", instance: health.instance.to_string() }));
    }
    let reason = health.reason.unwrap_or_else(|| "no reason is known".to_owned());
    Err(unavailable(format!("not ready: {reason}"), 1))
}

/// Without the driver's answer the rest is still told: it is wanted most when something hangs.
async fn print_metrics(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
    let census = ask(&desk.handle, Query::Census).await.ok();
    let (plugins, traces_dropped) = (desk.deps.metrics.plugins(), desk.deps.metrics.traces_dropped());
    let text =
        metrics::render(census.as_ref(), &desk.traffic, &plugins, desk.deps.reload.figures(), traces_dropped)
            .map_err(|_| {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be printed")
            })?;
    Ok(bytes_answer(METRICS_TYPE, text.into()))
}
