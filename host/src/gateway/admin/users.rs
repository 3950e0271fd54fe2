//! Users: one, those that are named, and page by page those who are online, idle or offline.

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode, Uri};
use presence_core::documents::{Document, Key};
use presence_core::events::Status;
use presence_core::ids::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::messages;
use super::paging::{self, Cursor, Statuses};
use super::{Desk, Path, ask, bad_parameter, json, number_of, read, user_in, wall_clock};
use crate::driver::{Query, UserView};
use crate::gateway::api::words::{self, StatusWord};
use crate::gateway::api::{Group, Operation, Param, Routes};
use crate::gateway::auth::unavailable;
use crate::gateway::problem::{Kind, Problem};
use crate::gateway::protocol::{ShownMessage, rfc3339};
use crate::gateway::query;

/// The most users of one question, and of one page.
pub const MAX_USERS_PER_QUERY: usize = 1000;

/// So many are on a page if nothing else is asked for.
const USERS_OF_A_PAGE: usize = 100;

/// A user as the API shows it. Of a user never seen everything but the status is null or 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = User)]
pub struct UserDocument {
    /// Whose status.
    pub user: String,
    /// The status.
    #[schema(value_type = StatusWord)]
    pub status: Status,
    /// When it was decided.
    #[schema(required = true, format = DateTime)]
    pub since: Option<String>,
    /// The end of the last session; null while there is one.
    #[schema(required = true, format = DateTime)]
    pub last_seen: Option<String>,
    /// How many sessions count.
    #[schema(minimum = 0)]
    pub sessions: u32,
    /// Grows with every transition.
    #[schema(minimum = 0)]
    pub revision: u64,
    /// The custom message, where one user was asked for; null: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ShownMessage>)]
    pub message: Option<Option<ShownMessage>>,
}

/// Several users: those that were named, in the order asked; or a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Users)]
pub struct UsersDocument {
    /// One for each.
    pub users: Vec<UserDocument>,
    /// Of a page: the cursor of the next one. Without it this was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
    /// Of a page: it shows what was recorded at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    pub as_of: Option<String>,
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

pub(super) fn user_param() -> Param {
    Param::path("user", "The user id, percent-encoded; an encoded slash belongs to it.", words::user_id())
        .example("alice")
}

fn example() -> UserDocument {
    UserDocument {
        user: "alice".to_owned(),
        status: Status::Online,
        since: Some("2026-11-25T16:00:00.123Z".to_owned()),
        last_seen: None,
        sessions: 2,
        revision: 1_795_622_400_123,
        message: None,
    }
}

pub(super) fn reading() -> Routes<Desk> {
    let with_message = UserDocument { message: Some(Some(messages::example_message())), ..example() };
    let one = Operation::get("/v1/users/{user}", "get_user", "The status of a user")
        .about("A user who was never seen is offline, with nulls and revision 0.")
        .takes(user_param())
        .answers(StatusCode::OK, "The user.", &with_message);
    let next = Some("AQEABwADYWxpY2U9nqHR0oWgLA".to_owned());
    let as_of = Some("2026-11-25T16:02:00.000Z".to_owned());
    let many = Operation::get("/v1/users", "get_users", "Named users, or a page of those of some statuses")
        .about(
            "Either name users with `user`, or ask for a page with `status`. Pages list the users of the whole deployment in a \
             fixed order, which is not that of their names. Nobody is listed twice; who changes while pages are read may be \
             on none. A page may have fewer users than asked for, even none, and yet a `next`.",
        )
        .takes(Param::query("user", "Whose status; in the order asked.", words::user_id()).repeated(MAX_USERS_PER_QUERY))
        .takes(
            Param::query("status", "Users of this status.", words::one_of(words::STATUSES.map(Status::as_str)))
                .repeated(words::STATUSES.len())
                .example(vec!["online", "idle"]),
        )
        .takes(Param::query(
            "limit",
            "Of a page: the most users; 100 if it is not given.",
            words::number(1, MAX_USERS_PER_QUERY as u64),
        ))
        .takes(Param::query("cursor", "Of a page: `next` of the one before, asked with the same `status`.", words::text()))
        .answers(StatusCode::OK, "The users.", &UsersDocument { users: vec![example()], next, as_of })
        .may_fail(Kind::BadCursor, "The cursor is of another deployment, or for other statuses.");
    Routes::new(Group::Read).add(one, user).add(many, users)
}

pub(super) async fn views(desk: &Desk, users: Vec<UserId>) -> Result<Vec<UserView>, Problem> {
    let views = ask(&desk.handle, |answer| Query::Users(users, answer)).await?;
    views.map_err(|why| unavailable(format!("the statuses can't be read now: {why}"), 1))
}

async fn user(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
    let user = user_in(path)?;
    let view = views(&desk, vec![user.clone()]).await?.pop();
    let view = view.ok_or_else(|| unavailable("the answer is empty".to_owned(), 1))?;
    let message = Some(messages::message_of(&desk, user).await?);
    Ok(json(&UserDocument { message, ..UserDocument::from(view) }))
}

async fn users(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    let has = |name| query::pairs(uri.query()).any(|(found, _)| found == name);
    match (has("user"), has("status")) {
        (true, false) if has("limit") || has("cursor") => {
            Err(bad_parameter("`limit` and `cursor` belong to pages: ask with `status`, not with `user`"))
        }
        (true, false) => named(&desk, &uri).await,
        (false, true) => page(&desk, &uri).await,
        (true, true) => {
            Err(bad_parameter("ask either for named users with `user`, or for a page with `status`"))
        }
        (false, false) => Err(bad_parameter(format!(
            "name 1 to {MAX_USERS_PER_QUERY} users as ?user=a&user=b, or ask for a page as ?status=online"
        ))),
    }
}

async fn named(desk: &Desk, uri: &Uri) -> Result<Response<Body>, Problem> {
    let mut users = Vec::new();
    for (_, value) in query::pairs(uri.query()) {
        let user = UserId::new(&value?)
            .map_err(|reason| bad_parameter(format!("user {}: {reason}", users.len() + 1)))?;
        users.push(user);
    }
    let users = views(desk, users).await?.into_iter().map(UserDocument::from).collect();
    Ok(json(&UsersDocument { users, next: None, as_of: None }))
}

async fn page(desk: &Desk, uri: &Uri) -> Result<Response<Body>, Problem> {
    let mut statuses = Statuses::default();
    for (name, value) in query::pairs(uri.query()) {
        if name == "status" {
            let value = value?;
            let status = words::STATUSES.into_iter().find(|status| status.as_str() == value);
            let status =
                status.ok_or_else(|| bad_parameter("`status` must be `online`, `idle` or `offline`"))?;
            statuses.insert(status);
        }
    }
    let limit = number_of(uri, "limit", MAX_USERS_PER_QUERY as u64)?;
    let limit = limit.map_or(USERS_OF_A_PAGE, |limit| limit as usize);
    let cursor = query::single(uri.query(), "cursor")?;
    let store = &desk.deps.store;
    let meta = match read("the statuses", store.get(Key::Meta)).await? {
        Some((_, Document::Meta(meta))) => meta,
        _ => return Err(unavailable("the deployment has not begun yet".to_owned(), 1)),
    };
    let from = match cursor {
        None => Cursor::start(statuses),
        Some(text) => Cursor::decode(&text, &meta, statuses)
            .map_err(|error| Problem::of(Kind::BadCursor, error.to_string()))?,
    };
    let as_of = Some(rfc3339(wall_clock()));
    let page = read("the statuses", paging::page(store, &meta, from, limit)).await?;
    let view = |(user, record)| UserDocument::from(UserView { user, record: Some(record) });
    let users = page.users.into_iter().map(view).collect();
    let next = page.next.map(|cursor| cursor.encode(&meta));
    Ok(json(&UsersDocument { users, next, as_of }))
}
