//! The sessions of a user, over all hosts, as their documents in the store tell of them.

use std::collections::{BTreeMap, HashMap};

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use presence_core::documents::{Document, InstanceState, Key};
use presence_core::events::Status;
use presence_core::ids::{InstanceId, Sequence};
use presence_core::membership::InstanceView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::users::user_param;
use super::{Desk, Path, ask, json, read, user_in, wall_clock};
use crate::driver::Query;
use crate::gateway::api::words::StatusWord;
use crate::gateway::api::{Group, Operation, Routes};
use crate::gateway::auth::unavailable;
use crate::gateway::problem::Problem;
use crate::gateway::protocol::rfc3339;
use crate::store::Coverage;

/// The most sessions of one answer.
pub const MAX_SESSIONS_SHOWN: usize = 1000;

/// A session as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionDocument {
    /// Its id.
    pub session: String,
    /// `online` or `idle`.
    #[schema(value_type = StatusWord)]
    pub status: Status,
    /// The instance that has it.
    pub instance: String,
    /// That one's host; null if it is not known here yet.
    #[schema(required = true)]
    pub host: Option<String>,
    /// When it was opened.
    #[schema(format = DateTime)]
    pub connected_at: String,
    /// `remote-address`, `user-agent`, `meta.<key>`.
    pub attributes: BTreeMap<String, String>,
}

/// The sessions of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Sessions)]
pub struct SessionsDocument {
    /// Whose.
    pub user: String,
    /// The longest open first.
    #[schema(max_items = 1000)]
    pub sessions: Vec<SessionDocument>,
    /// How many there are; more than are shown only beyond 1000.
    #[schema(minimum = 0)]
    pub total: usize,
    /// The answer shows what was recorded at this time or later.
    #[schema(format = DateTime)]
    pub as_of: String,
}

pub(super) fn reading() -> Routes<Desk> {
    let session = SessionDocument {
        session: "019016a1-0e6c-7c5a-9f0a-4f1c4f0f2d11".to_owned(),
        status: Status::Online,
        instance: "0190163d-8694-739b-aea5-966c26f8ad90".to_owned(),
        host: Some("host-1".to_owned()),
        connected_at: "2026-11-25T16:00:00.123Z".to_owned(),
        attributes: [("remote-address", "192.0.2.7"), ("user-agent", "Mozilla/5.0")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    };
    let example = SessionsDocument {
        user: "alice".to_owned(),
        sessions: vec![session],
        total: 1,
        as_of: "2026-11-25T16:02:00.000Z".to_owned(),
    };
    let operation = Operation::get("/v1/users/{user}/sessions", "get_user_sessions", "The sessions of a user")
        .about("On all hosts, from their documents. Those of instances declared dead are left out, as they do not count.")
        .takes(user_param())
        .answers(StatusCode::OK, "The sessions; none for a user who is not there.", &example);
    Routes::new(Group::Read).add(operation, sessions)
}

async fn sessions(State(desk): State<Desk>, path: Path) -> Result<Response<Body>, Problem> {
    let user = user_in(path)?;
    let as_of = rfc3339(wall_clock());
    let store = &desk.deps.store;
    let layout = match read("the sessions", store.get(Key::Meta)).await? {
        Some((_, Document::Meta(meta))) => meta.layout,
        _ => return Err(unavailable("the deployment has not begun yet".to_owned(), 1)),
    };
    let (partition, leaf) = layout.place(&user);
    let coverage = Coverage::SessionsOf(partition, leaf, user.clone());
    let documents = read("the sessions", store.snapshot(coverage, Sequence(0))).await?.documents;
    let instances = ask(&desk.handle, Query::Instances).await?;
    let instances: HashMap<InstanceId, InstanceView> =
        instances.into_iter().map(|view| (view.id, view)).collect();
    let mut found = Vec::new();
    for (key, _, document) in documents {
        let (Key::Sessions(.., instance), Document::Sessions(document)) = (key, document) else { continue };
        let view = instances.get(&instance);
        if view.is_some_and(|view| view.state == InstanceState::Dead) {
            continue;
        }
        let live = document.sessions.iter().filter(|entry| entry.ended.is_none());
        found.extend(live.map(|entry| (entry.connected_at, instance, view, entry.clone())));
    }
    found.sort_by(|a, b| (a.0, &a.3.id).cmp(&(b.0, &b.3.id)));
    let total = found.len();
    let shown = found.into_iter().take(MAX_SESSIONS_SHOWN);
    let sessions = shown.map(|(connected_at, instance, view, entry)| SessionDocument {
        session: entry.id.to_string(),
        status: entry.status,
        instance: instance.to_string(),
        host: view.map(|view| view.host.clone()).filter(|host| !host.is_empty()),
        connected_at: rfc3339(connected_at),
        attributes: entry.attributes.pairs().iter().cloned().collect(),
    });
    let sessions = sessions.collect();
    Ok(json(&SessionsDocument { user: user.as_str().to_owned(), sessions, total, as_of }))
}
