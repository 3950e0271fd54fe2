//! `/v1/holders`: backends that hold their users' connections themselves report them. One request, one answer, after it is
//! in the store.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post, put};
use http::{Response, StatusCode, Uri};
use presence_core::documents::InstanceState;
use presence_core::ids::{HolderName, Incarnation};
use tokio::time::timeout;

use super::{Desk, Path, Problem, ask, bad_parameter, json};
use crate::driver::{HeldChange, HolderAnswer, HolderOrder, HolderRefused, HolderVerb, Query};
use crate::gateway::auth::unavailable;
use crate::gateway::body::JsonBody;
use crate::gateway::problem::Kind;
use crate::gateway::query;

mod hold;
mod words;

pub use words::{
    BulkDocument, HolderDocument, HoldersDocument, OperationDocument, RegistrationDocument, ResultDocument,
    ResultsDocument, SessionDocument, Verb,
};

/// The most operations of one bulk.
pub const MAX_OPERATIONS: usize = 1000;

/// The most connections to `/v1/hold` at once.
pub const MAX_CONNECTIONS: usize = 1024;

/// The largest body of a bulk, in bytes.
const MAX_BULK_BYTES: usize = 1 << 20;

/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What tells and changes nothing.
pub(super) fn reading() -> Router<Desk> {
    Router::new().route("/v1/holders", get(list))
}

/// What holders do.
pub(super) fn changing() -> Router<Desk> {
    Router::new()
        .route("/v1/holders/{holder}", put(keep).delete(end))
        .route("/v1/holders/{holder}/sessions", post(bulk))
        .route("/v1/holders/{holder}/sessions/{session}", put(put_one).patch(patch_one).delete(delete_one))
        .route("/v1/hold", get(hold::hold))
}

/// A misspelt parameter would otherwise be let go.
fn known_parameters(uri: &Uri, known: &[&str]) -> Result<(), Problem> {
    match query::pairs(uri.query()).find(|(name, _)| !known.contains(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let name: String = name.chars().take(40).collect();
            Err(bad_parameter(format!("the query parameter `{name}` is not known here")))
        }
    }
}

/// A decoded segment of the path.
fn segment(path: &Path, wanted: &str) -> Result<String, Problem> {
    let path = path.as_ref().map_err(|_| bad_parameter("the path is not percent-encoded UTF-8"))?;
    let found = path.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
    Ok(found.unwrap_or_default())
}

fn holder(path: &Path) -> Result<HolderName, Problem> {
    words::holder_name(&segment(path, "holder")?).map_err(bad_parameter)
}

/// A parameter that must be there.
fn parameter(uri: &Uri, name: &'static str) -> Result<String, Problem> {
    query::single(uri.query(), name)?
        .ok_or_else(|| bad_parameter(format!("the query parameter `{name}` is needed")))
}

fn incarnation(uri: &Uri) -> Result<Incarnation, Problem> {
    words::incarnation(&parameter(uri, "incarnation")?).map_err(bad_parameter)
}

fn refuse(refused: &HolderRefused) -> Problem {
    match refused {
        HolderRefused::Starting | HolderRefused::Store(_) => unavailable(refused.to_string(), 1),
        HolderRefused::Draining => unavailable(refused.to_string(), 5),
        _ => Problem::new(status_code(words::refused_status(refused)), refused.to_string()),
    }
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Asks the driver on behalf of a holder. Without an answer in time it may be done all the same.
async fn order(desk: &Desk, order: HolderOrder) -> Result<HolderAnswer, Problem> {
    match timeout(PATIENCE, desk.handle.hold(order)).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(refused))) => Err(refuse(&refused)),
        Ok(Err(stopped)) => Err(unavailable(stopped.to_string(), 5)),
        Err(_) => Err(unavailable(
            format!(
                "no answer of the store within {} s: repeat the request, it does no harm",
                PATIENCE.as_secs()
            ),
            1,
        )),
    }
}

fn unexpected() -> Problem {
    Problem::of(Kind::Internal, "the answer was for another question")
}

async fn list(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    let views = ask(&desk.handle, Query::Instances).await?;
    let living =
        views.iter().filter(|view| view.state != InstanceState::Dead && view.state != InstanceState::Left);
    let holders =
        living.filter_map(|view| Some(HolderDocument::known(view, view.holder.as_ref()?))).collect();
    Ok(json(&HoldersDocument { holders }))
}

async fn keep(
    State(desk): State<Desk>,
    path: Path,
    uri: Uri,
    JsonBody(document): JsonBody<RegistrationDocument>,
) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    let name = holder(&path)?;
    let bad_body = |reason| Problem::of(Kind::BadBody, reason);
    let incarnation = words::incarnation(&document.incarnation).map_err(bad_body)?;
    let lease = words::lease(document.lease_seconds).map_err(bad_body)?;
    let verb = HolderVerb::Keep(lease);
    let wish = HolderOrder { name: name.clone(), incarnation: incarnation.clone(), verb };
    let HolderAnswer::Kept(kept) = order(&desk, wish).await? else { return Err(unexpected()) };
    let mut response = json(&HolderDocument::kept(&name, &incarnation, &kept));
    if kept.created {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

async fn end(State(desk): State<Desk>, path: Path, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &["incarnation"])?;
    let (name, incarnation) = (holder(&path)?, incarnation(&uri)?);
    order(&desk, HolderOrder { name, incarnation, verb: HolderVerb::End }).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// One operation: the answer is its result, or a problem.
async fn one(
    desk: &Desk,
    path: &Path,
    uri: &Uri,
    verb: Verb,
    document: SessionDocument,
    reason: Option<String>,
) -> Result<Response<Body>, Problem> {
    let (name, incarnation) = (holder(path)?, incarnation(uri)?);
    let session = segment(path, "session")?;
    let operation = OperationDocument { reason, ..OperationDocument::of(verb, session.clone(), document) };
    let change = operation.read(&name).map_err(|reason| Problem::of(Kind::BadBody, reason))?;
    let verb = HolderVerb::Change(vec![change]);
    let answer = order(desk, HolderOrder { name, incarnation, verb }).await?;
    let HolderAnswer::Changed(results) = answer else { return Err(unexpected()) };
    let result = results.first().ok_or_else(unexpected)?;
    let status = words::status(result);
    if let Err(rejected) = result {
        return Err(match status {
            503 => unavailable(rejected.to_string(), 1),
            status => Problem::new(status_code(status), rejected.to_string()),
        });
    }
    let mut response = json(&ResultDocument::of(session, result));
    *response.status_mut() = status_code(status);
    Ok(response)
}

async fn put_one(
    State(desk): State<Desk>,
    path: Path,
    uri: Uri,
    JsonBody(document): JsonBody<SessionDocument>,
) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &["incarnation"])?;
    one(&desk, &path, &uri, Verb::Put, document, None).await
}

async fn patch_one(
    State(desk): State<Desk>,
    path: Path,
    uri: Uri,
    JsonBody(document): JsonBody<SessionDocument>,
) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &["incarnation"])?;
    one(&desk, &path, &uri, Verb::Patch, document, None).await
}

async fn delete_one(State(desk): State<Desk>, path: Path, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &["incarnation", "user", "reason"])?;
    let document = SessionDocument { user: parameter(&uri, "user")?, ..SessionDocument::default() };
    let reason = query::single(uri.query(), "reason")?;
    one(&desk, &path, &uri, Verb::Delete, document, reason).await
}

/// Checks all operations before any is done.
fn read_all(name: &HolderName, operations: Vec<OperationDocument>) -> Result<Vec<HeldChange>, Problem> {
    if operations.is_empty() || operations.len() > MAX_OPERATIONS {
        let found = operations.len();
        let detail = format!("1 to {MAX_OPERATIONS} operations are taken at once, not {found}");
        return Err(Problem::of(Kind::BadBody, detail));
    }
    let (mut changes, mut errors) = (Vec::with_capacity(operations.len()), Vec::new());
    let mut sessions = BTreeSet::new();
    for (number, operation) in (1..).zip(operations) {
        match operation.read(name) {
            Ok(change) if !sessions.insert(change.session.clone()) => {
                errors.push(format!("operation {number}: {} is named more than once", change.session));
            }
            Ok(change) => changes.push(change),
            Err(reason) => errors.push(format!("operation {number}: {reason}")),
        }
    }
    if errors.is_empty() {
        return Ok(changes);
    }
    errors.truncate(MAX_ERRORS);
    Err(Problem::of(Kind::BadBody, "some operations can't be meant; none was done").with_errors(errors))
}

/// So many errors of one bulk are told.
const MAX_ERRORS: usize = 100;

async fn bulk(
    State(desk): State<Desk>,
    path: Path,
    uri: Uri,
    JsonBody(document): JsonBody<BulkDocument, MAX_BULK_BYTES>,
) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &["incarnation"])?;
    let (name, incarnation) = (holder(&path)?, incarnation(&uri)?);
    let sessions: Vec<String> =
        document.operations.iter().map(|operation| operation.session.clone()).collect();
    let verb = HolderVerb::Change(read_all(&name, document.operations)?);
    let answer = order(&desk, HolderOrder { name, incarnation, verb }).await?;
    let HolderAnswer::Changed(results) = answer else { return Err(unexpected()) };
    let results = sessions.into_iter().zip(&results);
    let results = results.map(|(session, result)| ResultDocument::of(session, result)).collect();
    Ok(json(&ResultsDocument { results }))
}
