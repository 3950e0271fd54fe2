//! Who lives and who owns what, as this host knows it.

use axum::body::Body;
use axum::extract::State;
use http::{Response, Uri};
use presence_core::documents::{CleanupPhase, InstanceState};
use presence_core::membership::InstanceView;
use serde::{Deserialize, Serialize};

use super::{Desk, Problem, ask, json, known_parameters};
use crate::driver::{PartitionView, Query};
use crate::gateway::protocol::rfc3339;

/// An instance as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceDocument {
    /// Its id.
    pub instance: String,
    /// Its host's name; empty if only documents tell of it.
    pub host: String,
    /// `joining`, `ready`, `draining`, `left` or `dead`.
    pub state: InstanceState,
    /// Its lease has run out and nobody has judged it yet.
    pub suspect: bool,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// How long ago its lease was last seen renewed, in milliseconds.
    pub renewed_ms_ago: u64,
    /// How far the cleanup after a dead one is: `telling`, `told` or `purged`.
    pub cleanup: Option<CleanupPhase>,
    /// True for the host that answers.
    pub own: bool,
}

/// All known instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancesDocument {
    /// The host that answers comes first.
    pub instances: Vec<InstanceDocument>,
}

/// A partition as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDocument {
    /// Its number.
    pub partition: u16,
    /// The instance that owns it; null: nobody.
    pub owner: Option<String>,
    /// The owner's host, if it is known.
    pub host: Option<String>,
    /// If the host that answers owns it: its users by status.
    pub users: Option<UserCounts>,
}

/// Users by status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCounts {
    /// Users with the status `online`.
    pub online: u64,
    /// Users with the status `idle`.
    pub idle: u64,
    /// Users with the status `offline` whose record is still kept.
    pub offline: u64,
}

/// All partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsDocument {
    /// In the order of their numbers.
    pub partitions: Vec<PartitionDocument>,
}

impl From<InstanceView> for InstanceDocument {
    fn from(view: InstanceView) -> InstanceDocument {
        InstanceDocument {
            instance: view.id.to_string(),
            host: view.host,
            state: view.state,
            suspect: view.suspect,
            started_at: rfc3339(view.started_at),
            renewed_ms_ago: view.renewed_ago.as_millis() as u64,
            cleanup: view.cleanup,
            own: view.own,
        }
    }
}

impl From<PartitionView> for PartitionDocument {
    fn from(view: PartitionView) -> PartitionDocument {
        PartitionDocument {
            partition: view.partition.0,
            owner: view.owner.map(|owner| owner.to_string()),
            host: view.host,
            users: view.users.map(|[online, idle, offline]| UserCounts { online, idle, offline }),
        }
    }
}

pub(super) async fn instances(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    let views = ask(&desk.handle, Query::Instances).await?;
    let instances = views.into_iter().map(InstanceDocument::from).collect();
    Ok(json(&InstancesDocument { instances }))
}

pub(super) async fn partitions(State(desk): State<Desk>, uri: Uri) -> Result<Response<Body>, Problem> {
    known_parameters(&uri, &[])?;
    let views = ask(&desk.handle, Query::Partitions).await?;
    let partitions = views.into_iter().map(PartitionDocument::from).collect();
    Ok(json(&PartitionsDocument { partitions }))
}
