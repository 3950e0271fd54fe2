//! The custom message of a user: read, set and cleared by a backend. The rules are those of `set_message`.

use axum::body::{Body, to_bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use presence_core::ids::UserId;
use presence_core::message::Wanted;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{Desk, PATIENCE, Problem, ask, bad_request, json, known_parameters, unavailable, user_in};
use crate::driver::{MessageOutcome, Query};
use crate::gateway::protocol::ShownMessage;

/// The longest body, in bytes: many times what a message needs.
const MAX_BODY_BYTES: usize = 4096;

/// The custom message of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMessageDocument {
    /// Whose.
    pub user: String,
    /// Null: there is none.
    pub message: Option<ShownMessage>,
}

/// What is to be set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    message: String,
    expires_in_ms: Option<u64>,
}

/// The message of a user, for whoever shows the user.
pub(super) async fn message_of(desk: &Desk, user: UserId) -> Result<Option<ShownMessage>, Problem> {
    let found = ask(&desk.handle, |answer| Query::Message(user, answer)).await?;
    let found = found.map_err(|why| unavailable(format!("the message can't be read now: {why}"), 1))?;
    Ok(found.as_ref().map(ShownMessage::from))
}

pub(super) async fn show(
    State(desk): State<Desk>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    known_parameters(request.uri(), &[])?;
    let user = user_in(path)?;
    let message = message_of(&desk, user.clone()).await?;
    Ok(json(&UserMessageDocument { user: user.as_str().to_owned(), message }))
}

pub(super) async fn set(
    State(desk): State<Desk>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    known_parameters(request.uri(), &[])?;
    let user = user_in(path)?;
    let written = read(request).await?;
    let wanted = Wanted::new(Some(&written.message), written.expires_in_ms)
        .map_err(|error| bad_request(error.to_string()))?;
    change(&desk, user, wanted).await
}

pub(super) async fn clear(
    State(desk): State<Desk>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    known_parameters(request.uri(), &[])?;
    change(&desk, user_in(path)?, None).await
}

async fn change(desk: &Desk, user: UserId, wanted: Option<Wanted>) -> Result<Response<Body>, Problem> {
    let whose = user.as_str().to_owned();
    let outcome: MessageOutcome = ask(&desk.handle, |answer| Query::SetMessage(user, wanted, answer)).await?;
    let set = outcome.map_err(|why| {
        unavailable(format!("whether the message is set is not certain: {why}; set it again"), 1)
    })?;
    Ok(json(&UserMessageDocument { user: whose, message: set.as_ref().map(ShownMessage::from) }))
}

/// The body of a request, as JSON.
async fn read(request: Request<Body>) -> Result<Written, Problem> {
    let (parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        let detail = "send the message as `content-type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let bytes = match timeout(PATIENCE, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let detail = format!("the body broke off or has more than {MAX_BODY_BYTES} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s", PATIENCE.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let like = r#"{"message":"in a meeting","expires_in_ms":3600000}"#;
        bad_request(format!("the body is not like {like}: {error}"))
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}
