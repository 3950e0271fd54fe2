//! `/v1/events` as an operation of the API: what is asked of `gateway/events.rs`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::{Extensions, HeaderMap, Response, Uri};
use presence_core::documents::Reason;
use presence_core::events::Status;
use presence_core::ids::{Sequence, UserId};

use super::{Desk, MAX_USERS_PER_QUERY, bad_parameter};
use crate::gateway::api::{Group, Operation, Param, Routes, words};
use crate::gateway::events::words::{EventId, ResetEvent, ResetReason, TransitionEvent, frame};
use crate::gateway::events::{Filter, MEDIA_TYPE, last_event_id};
use crate::gateway::listeners::Slot;
use crate::gateway::problem::{Kind, Problem};
use crate::gateway::query;

pub(super) fn reading() -> Routes<Desk> {
    let id = |sequence| EventId { epoch: 0x9f3c_61d0_27ab_44e1, sequence: Sequence(sequence) };
    let transition = TransitionEvent {
        user: "alice".to_owned(),
        status: Status::Online,
        previous: Some(Status::Offline),
        since: "2026-11-25T16:00:00.123Z".to_owned(),
        revision: 1_795_622_400_123,
        previous_revision: Some(1_795_597_923_511),
        reason: Reason::Connected,
        last_seen: None,
        sessions: 1,
    };
    let reset = ResetEvent { reason: ResetReason::OtherEpoch };
    let frames = [frame(id(4711), "transition", &transition), frame(id(4712), "reset", &reset)].concat();
    let operation = Operation::get("/v1/events", "get_events", "Transitions of all users, as they are recorded")
        .about(
            "Server-sent events. `transition` has a TransitionEvent; `reset` has a ResetEvent and says that transitions may have been \
             missed. Ids are good for every host of the deployment. Who resumes hears of each user who changed meanwhile, \
             perhaps only the newest transition: `previous_revision` tells. A stream that lives says so every 15 s.",
        )
        .takes(Param::query("user", "Only transitions of these users.", words::user_id()).repeated(MAX_USERS_PER_QUERY))
        .takes(
            Param::query(
                "status",
                "Only transitions to these statuses.",
                words::one_of(words::STATUSES.map(Status::as_str)),
            )
            .repeated(words::STATUSES.len()),
        )
        .takes(Param::header("Last-Event-ID", "The `id` of the last event that came: it goes on from there.", words::text()))
        .answers_text(MEDIA_TYPE, "The stream, which ends with the host or the connection.", &String::from_utf8_lossy(&frames))
        .mentions::<TransitionEvent>()
        .mentions::<ResetEvent>()
        .may_fail(Kind::BadCursor, "Last-Event-ID is none that this API gives out.");
    Routes::new(Group::Read).add(operation, events)
}

fn filter_of(uri: &Uri) -> Result<Filter, Problem> {
    let mut filter = Filter::default();
    for (name, value) in query::pairs(uri.query()) {
        let value = value?;
        if name == "user" {
            let user = UserId::new(&value).map_err(|reason| bad_parameter(format!("`user`: {reason}")))?;
            filter.users.insert(user);
        } else if name == "status" {
            let status = words::STATUSES.into_iter().find(|status| status.as_str() == value);
            filter
                .statuses
                .push(status.ok_or_else(|| bad_parameter("`status` must be `online`, `idle` or `offline`"))?);
        }
    }
    Ok(filter)
}

async fn events(
    State(desk): State<Desk>,
    uri: Uri,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response<Body>, Problem> {
    let filter = filter_of(&uri)?;
    let last = last_event_id(&headers)?;
    let slot = extensions.get::<Arc<Slot>>();
    let cut = slot.map(|slot| slot.cut.clone()).unwrap_or_default();
    desk.events.open(filter, last, cut).await
}
