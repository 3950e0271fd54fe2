//! The HTTP side of the client listener: one address, `/v1/connect`, that leads to a WebSocket; and the answers to
//! unknown paths and wrong methods that both listeners share.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use http::header::{ALLOW, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use presence_core::events::Attributes;
use presence_core::metadata::{METADATA_PREFIX, Metadata};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::auth::unavailable;
use super::handshake::Handshake;
use super::limits::Limit;
use super::listeners::{Gate, Slot};
use super::problem::Problem;
use super::query;
use super::traffic::Refusal;
use super::ws::{self, Arrival, NotOpened};
use super::{Handle, Refused};
use crate::traces::Traceparent;

/// The longest `user-agent` attribute, in bytes.
const MAX_USER_AGENT_BYTES: usize = 256;

/// What the client listener needs.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) gate: Arc<Gate>,
    pub(super) handle: Handle,
    pub(super) sessions: TaskTracker,
}

/// The addresses of the client listener.
pub(super) fn router(door: Door) -> Router {
    with_answers_to_the_rest(Router::new().route("/v1/connect", get(connect))).with_state(door)
}

/// 404 and 405 as problem documents.
pub(super) fn with_answers_to_the_rest<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.fallback(unknown_path).method_not_allowed_fallback(wrong_method)
}

async fn unknown_path(request: Request<Body>) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("nothing is at {path}"))
}

async fn wrong_method(request: Request<Body>) -> Problem {
    // The router adds the header.
    let detail = format!("{} is not possible here; the header Allow says what is", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

async fn connect(State(door): State<Door>, request: Request<Body>) -> Response<Body> {
    match admit(&door, request).await {
        Ok(response) => response,
        Err(turned) => {
            door.gate.traffic.count_refused(turned.reason);
            turned.problem.into()
        }
    }
}

/// A request that leads to no session.
struct TurnedAway {
    reason: Refusal,
    problem: Problem,
}

impl From<Problem> for TurnedAway {
    fn from(problem: Problem) -> TurnedAway {
        TurnedAway { reason: Refusal::of(problem.status()), problem }
    }
}

fn over(limit: Limit) -> TurnedAway {
    let detail = limit.to_string();
    let (reason, problem) = match limit {
        Limit::Rate => (Refusal::Rate, unavailable(detail, 1)),
        Limit::User => (Refusal::UserSessions, Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)),
        Limit::Address => (Refusal::AddressSessions, Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)),
    };
    TurnedAway { reason, problem }
}

async fn admit(door: &Door, mut request: Request<Body>) -> Result<Response<Body>, TurnedAway> {
    if request.method() != Method::GET {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is asked for with GET");
        return Err(problem.with(ALLOW, HeaderValue::from_static("GET")).into());
    }
    // Before any signature is checked: that is what costs most.
    door.gate.limits.connect(Instant::now()).map_err(over)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let identity = door.gate.authenticator.identify(&parts, now_in_seconds()).await.map_err(Problem::from)?;
    let handshake = Handshake::read(&parts).map_err(Problem::from)?;
    let metadata = metadata_of(&parts)?;
    let slot = parts.extensions.get::<Arc<Slot>>().cloned().ok_or_else(|| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request came without a connection")
    })?;
    let client = door.gate.proxies.client(slot.peer, &parts);
    let seat = door.gate.limits.seat(&identity.user, client).map_err(over)?;
    let sender = parts.headers.get("traceparent").and_then(|value| Traceparent::parse(value.to_str().ok()?));
    let arrival = Box::new(Arrival {
        trace: door.gate.tracer.root("session.connect", sender),
        identity,
        attributes: attributes(&parts, client).with_metadata(&metadata),
        upgrade,
        slot,
        seat,
        gate: door.gate.clone(),
        handle: door.handle.clone(),
    });
    let (verdict, decided) = oneshot::channel();
    door.sessions.spawn(ws::session(arrival, verdict));
    match decided.await {
        Ok(Ok(())) => Ok(handshake.answer()),
        Ok(Err(refused)) => Err(unavailable(refused.to_string(), retry_after_seconds(refused)).into()),
        Err(_) => {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the session could not be opened").into())
        }
    }
}

fn retry_after_seconds(refused: NotOpened) -> u32 {
    match refused {
        NotOpened::Refused(Refused::Starting) => 1,
        NotOpened::Refused(Refused::Draining) | NotOpened::Stopped => 5,
    }
}

fn attributes(request: &Parts, client: IpAddr) -> Attributes {
    let mut pairs = vec![("remote-address".to_owned(), client.to_canonical().to_string())];
    if let Some(agent) = request.headers.get(USER_AGENT) {
        let agent = String::from_utf8_lossy(agent.as_bytes());
        let end = (0..=agent.len().min(MAX_USER_AGENT_BYTES)).rev().find(|at| agent.is_char_boundary(*at));
        pairs.push(("user-agent".to_owned(), agent[..end.unwrap_or(0)].to_owned()));
    }
    Attributes::new(pairs)
}

/// The query parameters `meta.<key>`, each of which may be given once.
fn metadata_of(request: &Parts) -> Result<Metadata, Problem> {
    let bad = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let mut pairs = Vec::new();
    for (name, value) in query::pairs(request.uri.query()) {
        if let Some(key) = name.strip_prefix(METADATA_PREFIX) {
            pairs.push((key.to_owned(), value.map_err(|error| bad(error.to_string()))?));
        }
    }
    Metadata::new(pairs).map_err(|error| bad(error.to_string()))
}

/// Seconds since 1970; 0 on a machine whose clock is before that.
pub(super) fn now_in_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
