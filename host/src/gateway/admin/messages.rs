//! The custom message of a user: read, set and cleared by a backend. The rules are those of `set_message`.

use axum::body::Body;
use axum::extract::State;
use http::{Method, Response, StatusCode};
use presence_core::ids::UserId;
use presence_core::message::Wanted;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::users::user_param;
use super::{Desk, Path, Problem, ask, json, unavailable, user_in};
use crate::driver::{MessageOutcome, Query};
use crate::gateway::api::{Group, Operation, Routes};
use crate::gateway::body::JsonBody;
use crate::gateway::problem::Kind;
use crate::gateway::protocol::{ShownMessage, whole};

/// The longest body, in bytes: many times what a message needs.
const MAX_BODY_BYTES: usize = 4096;

/// The custom message of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = UserMessage)]
pub struct UserMessageDocument {
    /// Whose.
    pub user: String,
    /// Null: there is none.
    #[schema(required = true)]
    pub message: Option<ShownMessage>,
}

/// What is to be set.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WrittenMessage)]
struct Written {
    /// At most 256 bytes of UTF-8 without control characters, and not blank.
    #[schema(
        min_length = 1,
        max_length = 256,
        pattern = r"^[^\u0000-\u001F\u007F-\u009F]*[^\s\u0000-\u001F\u007F-\u009F][^\u0000-\u001F\u007F-\u009F]*$"
    )]
    message: String,
    /// After so long it is gone by itself; if it is not given, after `presence.offline_retention`, a year at most.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1000, maximum = 31_536_000_000_u64)]
    expires_in_ms: Option<u64>,
}

fn example(message: Option<ShownMessage>) -> UserMessageDocument {
    UserMessageDocument { user: "alice".to_owned(), message }
}

/// "In a meeting", for an hour.
pub(super) fn example_message() -> ShownMessage {
    ShownMessage { text: "in a meeting".to_owned(), until: "2026-11-25T17:00:00.000Z".to_owned() }
}

pub(super) fn reading() -> Routes<Desk> {
    let operation =
        Operation::get("/v1/users/{user}/message", "get_user_message", "The custom message of a user")
            .takes(user_param())
            .answers(
                StatusCode::OK,
                "The message, or that there is none.",
                &example(Some(example_message())),
            );
    Routes::new(Group::Read).add(operation, show)
}

pub(super) fn changing() -> Routes<Desk> {
    let path = "/v1/users/{user}/message";
    let written = Written { message: "in a meeting".to_owned(), expires_in_ms: Some(3_600_000) };
    let set = Operation::new(Method::PUT, path, "set_user_message", "Set the custom message of a user")
        .takes(user_param())
        .takes_body(&written)
        .answers(StatusCode::OK, "It is set.", &example(Some(example_message())));
    let cleared =
        Operation::new(Method::DELETE, path, "clear_user_message", "Clear the custom message of a user")
            .takes(user_param())
            .answers(StatusCode::OK, "There is none any more.", &example(None));
    Routes::new(Group::Sessions).add(set, self::set).add(cleared, clear)
}

/// The message of a user, for whoever shows the user.
pub(super) async fn message_of(desk: &Desk, user: UserId) -> Result<Option<ShownMessage>, Problem> {
    let found = ask(&desk.handle, |answer| Query::Message(user, answer)).await?;
    let found = found.map_err(|why| unavailable(format!("the message can't be read now: {why}"), 1))?;
    Ok(found.as_ref().map(ShownMessage::from))
}

async fn show(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
    let user = user_in(path)?;
    let message = message_of(&desk, user.clone()).await?;
    Ok(json(&UserMessageDocument { user: user.as_str().to_owned(), message }))
}

async fn set(
    State(desk): State<Desk>,
    path: Path,
    JsonBody(written): JsonBody<Written, MAX_BODY_BYTES>,
) -> Result<Response<Body>, Problem> {
    let user = user_in(path)?;
    let wanted = Wanted::new(Some(&written.message), written.expires_in_ms)
        .map_err(|error| Problem::of(Kind::BadBody, error.to_string()))?;
    change(&desk, user, wanted).await
}

async fn clear(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
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
