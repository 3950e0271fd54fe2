//! Who lives and who owns what, as this host knows it.

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use presence_core::documents::{CleanupPhase, InstanceState};
use presence_core::membership::InstanceView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Desk, Problem, ask, json};
use crate::driver::{PartitionView, Query};
use crate::gateway::api::words::{CleanupPhaseWord, InstanceStateWord};
use crate::gateway::api::{Group, Operation, Routes};
use crate::gateway::protocol::rfc3339;

/// An instance as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Instance)]
pub struct InstanceDocument {
    /// Its id.
    pub instance: String,
    /// Its host's name; empty if only documents tell of it.
    pub host: String,
    /// `joining`, `ready`, `draining`, `left` or `dead`.
    #[schema(value_type = InstanceStateWord)]
    pub state: InstanceState,
    /// Its lease has run out and nobody has judged it yet.
    pub suspect: bool,
    /// When it started.
    #[schema(format = DateTime)]
    pub started_at: String,
    /// How long ago its lease was last seen renewed, in milliseconds.
    #[schema(minimum = 0)]
    pub renewed_ms_ago: u64,
    /// How far the cleanup after a dead one is: `telling`, `told` or `purged`.
    #[schema(required = true, value_type = Option<CleanupPhaseWord>)]
    pub cleanup: Option<CleanupPhase>,
    /// True for the host that answers.
    pub own: bool,
    /// Set if it is no host's, but a holder's: which of its lives. `host` is the holder's name then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
}

/// All known instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Instances)]
pub struct InstancesDocument {
    /// The host that answers comes first.
    pub instances: Vec<InstanceDocument>,
}

/// A partition as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Partition)]
pub struct PartitionDocument {
    /// Its number.
    #[schema(minimum = 0)]
    pub partition: u16,
    /// The instance that owns it; null: nobody.
    #[schema(required = true)]
    pub owner: Option<String>,
    /// The owner's host, if it is known.
    #[schema(required = true)]
    pub host: Option<String>,
    /// If the host that answers owns it: its users by status.
    #[schema(required = true)]
    pub users: Option<UserCounts>,
}

/// Users by status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserCounts {
    /// Users with the status `online`.
    #[schema(minimum = 0)]
    pub online: u64,
    /// Users with the status `idle`.
    #[schema(minimum = 0)]
    pub idle: u64,
    /// Users with the status `offline` whose record is still kept.
    #[schema(minimum = 0)]
    pub offline: u64,
}

/// All partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Partitions)]
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
            incarnation: view.holder.map(|holder| holder.incarnation.to_string()),
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

pub(super) fn reading() -> Routes<Desk> {
    let instance = "0190163d-8694-739b-aea5-966c26f8ad90".to_owned();
    let example = InstanceDocument {
        instance: instance.clone(),
        host: "host-1".to_owned(),
        state: InstanceState::Ready,
        suspect: false,
        started_at: "2026-11-25T08:00:00.000Z".to_owned(),
        renewed_ms_ago: 812,
        cleanup: None,
        own: true,
        incarnation: None,
    };
    let listed = Operation::get("/v1/instances", "get_instances", "The instances that this host knows")
        .answers(
            StatusCode::OK,
            "All instances, also dead ones that are still remembered.",
            &InstancesDocument { instances: vec![example] },
        );
    let users = Some(UserCounts { online: 12, idle: 1, offline: 240 });
    let example =
        PartitionDocument { partition: 0, owner: Some(instance), host: Some("host-1".to_owned()), users };
    let owned = Operation::get("/v1/partitions", "get_partitions", "Every partition and its owner").answers(
        StatusCode::OK,
        "All partitions; `users` of those that the host that answers owns.",
        &PartitionsDocument { partitions: vec![example] },
    );
    Routes::new(Group::Read).add(listed, instances).add(owned, partitions)
}

async fn instances(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
    let views = ask(&desk.handle, Query::Instances).await?;
    let instances = views.into_iter().map(InstanceDocument::from).collect();
    Ok(json(&InstancesDocument { instances }))
}

async fn partitions(State(desk): State<Desk>) -> Result<Response<Body>, Problem> {
    let views = ask(&desk.handle, Query::Partitions).await?;
    let partitions = views.into_iter().map(PartitionDocument::from).collect();
    Ok(json(&PartitionsDocument { partitions }))
}
