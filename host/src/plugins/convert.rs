//! Events of the core in the types of the contract. Borrows what it can: this runs for every call.

use presence_core::events::{Attributes, Session, Status, Sweep, Transition};

use super::bindings::hooks::{cleanup, session_disconnected};
use super::bindings::types;

pub(super) fn status(status: Status) -> types::Status {
    match status {
        Status::Online => types::Status::Online,
        Status::Idle => types::Status::Idle,
        Status::Offline => types::Status::Offline,
    }
}

pub(super) fn status_change(transition: &Transition) -> types::StatusChange<'_> {
    types::StatusChange {
        user: transition.user.as_str(),
        previous: transition.previous.map(status),
        current: status(transition.current),
        since: transition.since.0,
        revision: transition.revision,
        sessions: transition.sessions,
        last_seen: transition.last_seen.map(|seen| seen.0),
    }
}

/// What a session has that the contract wants as text or in another shape.
pub(super) struct SessionTexts<'a> {
    session: &'a Session,
    id: String,
    instance: String,
    attributes: Vec<(&'a str, &'a str)>,
}

impl<'a> SessionTexts<'a> {
    pub(super) fn new(session: &'a Session) -> SessionTexts<'a> {
        SessionTexts {
            session,
            id: session.id.to_string(),
            instance: session.instance.to_string(),
            attributes: pairs(&session.attributes),
        }
    }

    pub(super) fn record(&self) -> types::Session<'_> {
        types::Session {
            id: &self.id,
            user: self.session.user.as_str(),
            instance: &self.instance,
            status: status(self.session.status),
            connected_at: self.session.connected_at.0,
            attributes: &self.attributes,
        }
    }

    pub(super) fn disconnect(
        &self,
        reason: &'a str,
        duration_ms: u64,
    ) -> session_disconnected::Disconnect<'_> {
        session_disconnected::Disconnect { session: self.record(), reason, duration_ms }
    }
}

fn pairs(attributes: &Attributes) -> Vec<(&str, &str)> {
    attributes.pairs().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

pub(super) fn sweep<'a>(sweep: &'a Sweep, scope: cleanup::Scope<'a>) -> cleanup::Sweep<'a> {
    cleanup::Sweep { cause: &sweep.cause, scope, chunk: sweep.chunk, last: sweep.last }
}
