//! The admin listener: statuses of users, plugins, dead letters, health, metrics, reloads. Keep it private: it changes
//! dead letters and plugins. Who may ask for what is said by the scope that a route is put into.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use axum::routing::{delete, get, post, put};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Uri};
use presence_core::events::Status;
use presence_core::ids::UserId;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Handle;
use super::auth::unavailable;
use super::callers::{Callers, scoped};
use super::http::with_answers_to_the_rest;
use super::metrics::{self, Metrics};
use super::origin;
use super::problem::Problem;
use super::protocol::{ShownMessage, rfc3339};
use super::query::{self, QueryError};
use super::traffic::Traffic;
use crate::api_keys::Scope;
use crate::driver::{Event, Query, UserView};
use crate::store::SharedStore;

pub mod cluster;
pub mod letters;
pub mod messages;
pub mod plugins;
pub mod reload;

/// The most users of one question.
pub const MAX_USERS_PER_QUERY: usize = 1000;

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
}

/// The addresses of the admin listener. Each route belongs to one scope, by which of these functions has it; only what is in
/// [`open`] needs no key.
pub(super) fn router(handle: Handle, deps: AdminDeps, traffic: Arc<Traffic>) -> Router {
    let router = open()
        .merge(scoped(Scope::Read, reading(), &traffic))
        .merge(scoped(Scope::Sessions, holding(), &traffic))
        .merge(scoped(Scope::Admin, changing(), &traffic));
    with_answers_to_the_rest(router).with_state(Desk { handle, deps, traffic })
}

/// What tells and changes nothing: scope `read`.
fn reading() -> Router<Desk> {
    Router::new()
        .route("/v1/users/{user}", get(user))
        .route("/v1/users/{user}/message", get(messages::show))
        .route("/v1/users", get(users))
        .route("/v1/plugins", get(plugins::plugins))
        .route("/v1/dead-letters", get(letters::list))
        .route("/v1/dead-letters/{number}", get(letters::show))
        .route("/v1/instances", get(cluster::instances))
        .route("/v1/partitions", get(cluster::partitions))
        .route("/metrics", get(print_metrics))
}

/// What backends say of their users and of the sessions that they hold: scope `sessions`.
fn holding() -> Router<Desk> {
    Router::new().route("/v1/users/{user}/message", put(messages::set).delete(messages::clear))
}

/// What changes plugins and dead letters: scope `admin`.
fn changing() -> Router<Desk> {
    Router::new()
        .route("/v1/dead-letters", delete(letters::discard_many))
        .route("/v1/dead-letters/replay", post(letters::replay_many))
        .route("/v1/dead-letters/{number}", delete(letters::discard))
        .route("/v1/dead-letters/{number}/replay", post(letters::replay))
        .route("/v1/reload", post(reload::reload))
}

/// Whether the host lives and may be sent clients: for everybody. The paths are those of [`super::callers::OPEN_PATHS`].
fn open() -> Router<Desk> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

/// A user as the API shows it. Of a user never seen everything but the status is null or 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDocument {
    /// Whose status.
    pub user: String,
    /// The status.
    pub status: Status,
    /// When it was decided, RFC 3339.
    pub since: Option<String>,
    /// The end of the last session, RFC 3339; null while there is one.
    pub last_seen: Option<String>,
    /// How many sessions count.
    pub sessions: u32,
    /// Grows with every transition.
    pub revision: u64,
    /// The custom message, where one user was asked for; null: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Option<ShownMessage>>,
}

/// Several users, in the order asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsersDocument {
    /// One for each that was asked for.
    pub users: Vec<UserDocument>,
}

impl From<UserView> for UserDocument {
    fn from(view: UserView) -> UserDocument {
        let record = view.record;
        UserDocument {
            user: view.user.as_str().to_owned(),
            status: record.map_or(Status::Offline, |record| record.status),
            since: record.map(|record| rfc3339(record.since)),
            last_seen: record.and_then(|record| record.last_seen).map(rfc3339),
            sessions: record.map_or(0, |record| record.sessions),
            revision: record.map_or(0, |record| record.revision),
            message: None,
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Problem {
        bad_request(error.to_string())
    }
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn json(document: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_string(document).expect("documents with text keys always become JSON");
    text_answer("application/json", text)
}

fn text_answer(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
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

async fn views(desk: &Desk, users: Vec<UserId>) -> Result<Vec<UserDocument>, Problem> {
    let views = ask(&desk.handle, |answer| Query::Users(users, answer)).await?;
    let views = views.map_err(|why| unavailable(format!("the statuses can't be read now: {why}"), 1))?;
    Ok(views.into_iter().map(UserDocument::from).collect())
}

async fn user(
    State(desk): State<Desk>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    uri: Uri,
) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    let user = user_in(path)?;
    let document = views(&desk, vec![user.clone()]).await?.pop();
    let mut document = document.ok_or_else(|| unavailable("the answer is empty".to_owned(), 1))?;
    document.message = Some(messages::message_of(&desk, user).await?);
    Ok(json(&document))
}

/// The user that an address names.
fn user_in(path: Result<RawPathParams, RawPathParamsRejection>) -> Result<UserId, Problem> {
    let path = path.map_err(|_| bad_request("the user id is not percent-encoded UTF-8"))?;
    // The decoded segment, not the path: an encoded slash belongs to the user id.
    let segment = path.iter().find(|(name, _)| *name == "user").map(|(_, value)| value).unwrap_or_default();
    UserId::new(segment).map_err(|reason| bad_request(reason.to_string()))
}

async fn users(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &["user"])?;
    let mut users = Vec::new();
    for (_, value) in query::pairs(uri.query()) {
        let user = UserId::new(&value?)
            .map_err(|reason| bad_request(format!("user {}: {reason}", users.len() + 1)))?;
        users.push(user);
    }
    if users.is_empty() || users.len() > MAX_USERS_PER_QUERY {
        let found = users.len();
        return Err(bad_request(format!(
            "name 1 to {MAX_USERS_PER_QUERY} users as ?user=a&user=b, not {found}"
        )));
    }
    Ok(json(&UsersDocument { users: views(&desk, users).await? }))
}

/// A misspelt parameter would otherwise be a question for everything.
fn known_parameters(uri: &Uri, known: &[&str]) -> Result<(), Problem> {
    match query::pairs(uri.query()).find(|(name, _)| !known.contains(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let name: String = name.chars().take(40).collect();
            Err(bad_request(format!("the query parameter `{name}` is not known here")))
        }
    }
}

#[derive(Serialize)]
struct HealthDocument {
    status: &'static str,
    instance: String,
}

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
    Ok(text_answer("application/openmetrics-text; version=1.0.0; charset=utf-8", text))
}
