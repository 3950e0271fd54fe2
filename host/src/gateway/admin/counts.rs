//! How many users and sessions there are in the whole deployment: what the owners of all partitions count.

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cluster::UserCounts;
use super::{Desk, ask, json, wall_clock};
use crate::driver::{DeploymentCounts, Query};
use crate::gateway::api::{Group, Operation, Routes};
use crate::gateway::problem::Problem;
use crate::gateway::protocol::rfc3339;

/// Sessions by status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionCounts {
    /// Sessions that are online.
    #[schema(minimum = 0)]
    pub online: u64,
    /// Sessions that are idle.
    #[schema(minimum = 0)]
    pub idle: u64,
}

/// Counts of the whole deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counts)]
pub struct CountsDocument {
    /// Users by status.
    pub users: UserCounts,
    /// Sessions by status, those of holders too; drained ones are left out.
    pub sessions: SessionCounts,
    /// How many partitions there are.
    #[schema(minimum = 1)]
    pub partitions: u16,
    /// How many of them were counted.
    #[schema(minimum = 0)]
    pub counted: u16,
    /// Every partition was counted. Else the numbers are too small: an owner has not answered, or a partition has none just now.
    pub complete: bool,
    /// Each partition was counted at this time or at most three seconds later.
    #[schema(format = DateTime)]
    pub as_of: String,
}

pub(super) fn reading() -> Routes<Desk> {
    let example = CountsDocument {
        users: UserCounts { online: 812, idle: 97, offline: 15_204 },
        sessions: SessionCounts { online: 1033, idle: 140 },
        partitions: 64,
        counted: 64,
        complete: true,
        as_of: "2026-11-25T16:02:00.000Z".to_owned(),
    };
    let operation = Operation::get("/v1/counts", "get_counts", "Users by status, and sessions, of the whole deployment")
        .about(
            "Each owner tells the exact numbers of its partitions; they are of slightly different moments. Nothing is read for them, \
             so they may be asked for often.",
        )
        .answers(StatusCode::OK, "The counts.", &example);
    Routes::new(Group::Read).add(operation, counts)
}

async fn counts(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
    let as_of = rfc3339(wall_clock());
    let DeploymentCounts { partitions, counted, users, sessions } = ask(&desk.handle, Query::Counts).await?;
    let [online, idle, offline] = users;
    let users = UserCounts { online, idle, offline };
    let [online, idle] = sessions;
    let sessions = SessionCounts { online, idle };
    let complete = counted == partitions;
    Ok(json(&CountsDocument { users, sessions, partitions, counted, complete, as_of }))
}
