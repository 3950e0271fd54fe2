//! `/v1/holders`: backends that hold their users' connections themselves report them. One request, one answer, after it is
//! in the store.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use http::{Method, Response, StatusCode, Uri};
use presence_core::documents::InstanceState;
use presence_core::events::Status;
use presence_core::holders::{Done, Rejected};
use presence_core::ids::{HolderName, Incarnation};
use presence_core::metadata::Metadata;
use tokio::time::timeout;

use super::{Desk, Path, Problem, ask, bad_parameter, json};
use crate::driver::{HeldChange, HolderAnswer, HolderOrder, HolderRefused, HolderVerb, Query};
use crate::gateway::api::words as schemas;
use crate::gateway::api::{Group, Operation, Param, Routes};
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

fn holder_param() -> Param {
    Param::path("holder", "The holder's name.", schemas::holder_text()).example("chat-1")
}

fn session_param() -> Param {
    Param::path("session", "The id that the holder has given the session.", schemas::held_id()).example("42")
}

fn incarnation_param() -> Param {
    let about = "Which life of the holder asks, as it was registered.";
    Param::query("incarnation", about, schemas::holder_text()).required().example("2026-11-25T10-00-00")
}

fn example_holder() -> HolderDocument {
    HolderDocument {
        holder: "chat-1".to_owned(),
        incarnation: "2026-11-25T10-00-00".to_owned(),
        instance: "0192f0c0-8694-739b-aea5-966c26f8ad90".to_owned(),
        lease_seconds: 30,
        renewed_ms_ago: None,
        suspect: None,
    }
}

fn example_session() -> SessionDocument {
    SessionDocument {
        user: "alice".to_owned(),
        status: Some(Status::Online),
        metadata: Metadata::new([("device".to_owned(), "tv".to_owned())]).ok(),
        remote_address: Some("203.0.113.9".to_owned()),
        user_agent: Some("chat/3".to_owned()),
    }
}

fn example_result(result: &Result<Done, Rejected>) -> ResultDocument {
    ResultDocument::of("42".to_owned(), result)
}

/// What is answered to whoever speaks for a holder.
trait OfAHolder {
    fn of_a_holder(self) -> Self;
    fn of_its_session(self) -> Self;
}

impl OfAHolder for Operation {
    fn of_a_holder(self) -> Operation {
        self.may_fail(Kind::NotFound, "There is no such holder.")
            .may_fail(
                Kind::Conflict,
                "Another incarnation has replaced this one, or was first; or its lease has run out: renew at once.",
            )
            .may_fail(Kind::Gone, "This incarnation is over: register with another one.")
    }

    fn of_its_session(self) -> Operation {
        self.takes(holder_param())
            .takes(session_param())
            .takes(incarnation_param())
            .may_fail(Kind::NotFound, "There is no such holder, or no such session of this user.")
            .may_fail(
                Kind::Conflict,
                "The session has ended; or another incarnation has replaced this one; or its lease has run out: renew at once.",
            )
            .may_fail(Kind::Unprocessable, "The user has as many sessions of this holder as there may be.")
            .of_a_holder()
    }
}

/// What tells and changes nothing.
pub(super) fn reading() -> Routes<Desk> {
    let known = HolderDocument { renewed_ms_ago: Some(1200), suspect: Some(false), ..example_holder() };
    let operation = Operation::get("/v1/holders", "get_holders", "The holders that live").answers(
        StatusCode::OK,
        "In the order of their instances.",
        &HoldersDocument { holders: vec![known] },
    );
    Routes::new(Group::Read).add(operation, list)
}

/// What holders do. `GET /v1/hold`, the same over one WebSocket, stands beside it: OpenAPI has no words for that.
pub(super) fn changing() -> Routes<Desk> {
    let of_holder = "/v1/holders/{holder}";
    let of_session = "/v1/holders/{holder}/sessions/{session}";
    let registration =
        RegistrationDocument { incarnation: "2026-11-25T10-00-00".to_owned(), lease_seconds: Some(30) };
    let kept = Operation::new(Method::PUT, of_holder, "keep_holder", "Register a holder, or renew its lease")
        .about(
            "When the lease runs out, the holder's sessions are cleaned up as those of a dead host. Another incarnation of the \
             same name ends the one before at once.",
        )
        .takes(holder_param())
        .takes_body(&registration)
        .answers(StatusCode::OK, "It is renewed.", &example_holder())
        .answers(
            StatusCode::CREATED,
            "It is registered: nothing was known of this incarnation.",
            &example_holder(),
        )
        .may_fail(Kind::TooManyRequests, "There are as many holders as there may be.")
        .of_a_holder();
    let ended = Operation::new(Method::DELETE, of_holder, "end_holder", "End a holder")
        .about("The sessions that are still open are cleaned up as those of a dead host.")
        .takes(holder_param())
        .takes(incarnation_param())
        .answers_nothing(StatusCode::NO_CONTENT, "It is over.")
        .of_a_holder();
    let put = Operation::new(Method::PUT, of_session, "put_held_session", "A session is there, like this")
        .takes_body(&example_session())
        .answers(StatusCode::CREATED, "It is new.", &example_result(&Ok(Done::Created)))
        .answers(StatusCode::OK, "It was there.", &example_result(&Ok(Done::Changed)))
        .of_its_session();
    let patch = SessionDocument { status: Some(Status::Idle), ..SessionDocument::default() };
    let patch = SessionDocument { user: "alice".to_owned(), ..patch };
    let patch = Operation::new(Method::PATCH, of_session, "patch_held_session", "Some of a session changes")
        .about("`user` says whose it is, and one more must be there. `metadata` is replaced as a whole.")
        .takes_body(&patch)
        .answers(StatusCode::OK, "It is so now.", &example_result(&Ok(Done::Changed)))
        .of_its_session();
    let reason = schemas::matching(words::MAX_REASON_BYTES, "^[a-z0-9_-]+$");
    let deleted = Operation::new(Method::DELETE, of_session, "delete_held_session", "A session has ended")
        .takes(Param::query("user", "Whose it is.", schemas::user_id()).required().example("alice"))
        .takes(
            Param::query("reason", "Told to plugins; `ended` if nothing is said.", reason).example("closed"),
        )
        .answers(StatusCode::OK, "It has.", &example_result(&Ok(Done::Changed)))
        .may_fail(Kind::BadBody, "The reason, the session or the user can't be meant.")
        .of_its_session();
    let operation = OperationDocument::of(Verb::Put, "42".to_owned(), example_session());
    let end = SessionDocument { user: "bob".to_owned(), ..SessionDocument::default() };
    let end = OperationDocument {
        reason: Some("timeout".to_owned()),
        ..OperationDocument::of(Verb::Delete, "43".to_owned(), end)
    };
    let unknown = ResultDocument::of("43".to_owned(), &Err(Rejected::Unknown));
    let results = vec![example_result(&Ok(Done::Created)), unknown];
    let path = "/v1/holders/{holder}/sessions";
    let bulk = Operation::new(Method::POST, path, "change_held_sessions", "Several sessions at once")
        .about(
            "What can't be meant (a bad id, a session named twice) refuses all of it, and nothing is done; else each operation \
             has an answer of its own.",
        )
        .takes(holder_param())
        .takes(incarnation_param())
        .takes_body(&BulkDocument { operations: vec![operation, end] })
        .answers(StatusCode::OK, "One answer for each, in order.", &ResultsDocument { results })
        .of_a_holder();
    Routes::new(Group::Sessions)
        .add(kept, keep)
        .add(ended, self::end)
        .add(bulk, self::bulk)
        .add(put, put_one)
        .add(patch, patch_one)
        .add(deleted, delete_one)
}

/// The same over one WebSocket.
pub(super) fn connecting() -> Router<Desk> {
    Router::new().route("/v1/hold", get(hold::hold))
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

async fn list(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
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
    JsonBody(document): JsonBody<RegistrationDocument>,
) -> Result<Response<Body>, Problem> {
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
    one(&desk, &path, &uri, Verb::Put, document, None).await
}

async fn patch_one(
    State(desk): State<Desk>,
    path: Path,
    uri: Uri,
    JsonBody(document): JsonBody<SessionDocument>,
) -> Result<Response<Body>, Problem> {
    one(&desk, &path, &uri, Verb::Patch, document, None).await
}

async fn delete_one(State(desk): State<Desk>, path: Path, uri: Uri) -> Result<Response<Body>, Problem> {
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
