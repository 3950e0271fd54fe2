//! "Why is she online?": the last transitions of a user, as the status record keeps them.

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use presence_core::documents::{Moment, Past, Reason, StatusRecord};
use presence_core::events::Status;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::users::{user_param, views};
use super::{Desk, Path, json, user_in};
use crate::gateway::api::words::{ReasonWord, StatusWord};
use crate::gateway::api::{Group, Operation, Routes};
use crate::gateway::problem::Problem;
use crate::gateway::protocol::rfc3339;

/// The most transitions that are kept of a user.
pub const MAX_TRANSITIONS: usize = Past::MOST + 1;

/// A transition as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Transition)]
pub struct TransitionDocument {
    /// What the status became.
    #[schema(value_type = StatusWord)]
    pub status: Status,
    /// When.
    #[schema(format = DateTime)]
    pub since: String,
    /// Its revision; null if a clock was wrong for weeks.
    #[schema(required = true, minimum = 0)]
    pub revision: Option<u64>,
    /// Why: what happened to the sessions.
    #[schema(value_type = ReasonWord)]
    pub reason: Reason,
}

/// The last transitions of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Transitions)]
pub struct TransitionsDocument {
    /// Whose.
    pub user: String,
    /// The newest, which is the present status, first.
    #[schema(max_items = 5)]
    pub transitions: Vec<TransitionDocument>,
}

impl From<Moment> for TransitionDocument {
    fn from(moment: Moment) -> TransitionDocument {
        let Moment { status, since, revision, reason } = moment;
        TransitionDocument { status, since: rfc3339(since), revision, reason }
    }
}

fn transitions_of(record: &StatusRecord) -> Vec<TransitionDocument> {
    let StatusRecord { status, since, revision, trail, .. } = record;
    let present = Moment { status: *status, since: *since, revision: Some(*revision), reason: trail.reason };
    std::iter::once(present).chain(trail.past.moments()).map(TransitionDocument::from).collect()
}

pub(super) fn reading() -> Routes<Desk> {
    let one = |status, since: &str, revision, reason| TransitionDocument {
        status,
        since: since.to_owned(),
        revision: Some(revision),
        reason,
    };
    let example = TransitionsDocument {
        user: "alice".to_owned(),
        transitions: vec![
            one(Status::Online, "2026-11-25T16:00:00.123Z", 1_795_622_400_123, Reason::Connected),
            one(Status::Offline, "2026-11-25T09:12:03.511Z", 1_795_597_923_511, Reason::Timeout),
        ],
    };
    let operation =
        Operation::get("/v1/users/{user}/transitions", "get_user_transitions", "The last transitions of a user")
            .about(
                "The last five at most, each with the reason: they are kept with the status, also over restarts of hosts as far \
                 as the store keeps statuses. While hosts of an older version decide, earlier ones are lost.",
            )
            .takes(user_param())
            .answers(StatusCode::OK, "The transitions; none for a user who was never seen.", &example);
    Routes::new(Group::Read).add(operation, transitions)
}

async fn transitions(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
    let user = user_in(path)?;
    let record = views(&desk, vec![user.clone()]).await?.pop().and_then(|view| view.record);
    let transitions = record.as_ref().map(transitions_of).unwrap_or_default();
    Ok(json(&TransitionsDocument { user: user.as_str().to_owned(), transitions }))
}
