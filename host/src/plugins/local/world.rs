//! Messages that go nowhere and users that are made up: what stands behind `messaging` and `presence` in a local run.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use presence_core::documents::StatusRecord;
use presence_core::ids::UserId;
use serde_json::json;

use super::tape::{Tape, text_of, words};
use crate::plugins::messaging::{Message, Messaging, MessagingError};
use crate::plugins::presence::{Records, Statuses};

/// Takes every message and writes it down.
pub(super) struct TapedMessaging(pub(super) Arc<Tape>);

impl Messaging for TapedMessaging {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), MessagingError>> {
        let payload = text_of(&message.payload);
        let line = words([message.subject.as_str(), &payload]);
        let details = json!({ "subject": message.subject, "payload": payload, "headers": message.headers });
        self.0.call("messaging publish", line, "ok".to_owned(), details);
        ready(Ok(())).boxed()
    }
}

/// Knows the users it was given.
pub(super) struct TapedStatuses {
    pub(super) users: BTreeMap<String, StatusRecord>,
    pub(super) tape: Arc<Tape>,
}

impl Statuses for TapedStatuses {
    fn lookup(&self, users: Vec<UserId>) -> BoxFuture<'_, Records> {
        let found: Vec<Option<StatusRecord>> =
            users.iter().map(|user| self.users.get(user.as_str()).copied()).collect();
        let statuses: Vec<&str> =
            found.iter().map(|record| record.map_or("offline", |record| record.status.as_str())).collect();
        let line = words(users.iter().map(UserId::as_str));
        let details = json!({ "users": users, "answer": statuses });
        self.tape.call("presence lookup", line, statuses.join(" "), details);
        ready(Ok(found)).boxed()
    }
}
