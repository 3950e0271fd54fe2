//! What a `presence` shows besides the status, and the words with which a watcher asks for it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use presence_core::events::Status;
use presence_core::message::CustomMessage;
use presence_core::watchers::{Shown, With};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rfc3339;

/// A custom message, as clients and the API see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Message)]
pub struct ShownMessage {
    /// As it was set.
    pub text: String,
    /// When it expires.
    #[schema(format = DateTime)]
    pub until: String,
}

impl From<&CustomMessage> for ShownMessage {
    fn from(message: &CustomMessage) -> ShownMessage {
        ShownMessage { text: message.text.to_string(), until: rfc3339(message.until) }
    }
}

/// A session that has metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownSession<'a> {
    /// `online` or `idle`.
    pub status: Status,
    /// By key.
    pub metadata: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// A word of `with`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    Message,
    Metadata,
}

/// What is asked for; a word may come twice.
pub(super) fn asked_for(parts: &[Part]) -> With {
    With { message: parts.contains(&Part::Message), metadata: parts.contains(&Part::Metadata) }
}

/// The message as a `presence` tells it, if it was asked for: perhaps there is none.
pub(super) fn message_of(shown: Option<&Shown>) -> Option<Option<ShownMessage>> {
    let shown = shown.filter(|shown| shown.with.message)?;
    Some(shown.details.message.as_ref().map(ShownMessage::from))
}

/// The sessions as a `presence` tells them, if they were asked for. Of who is offline there are none.
pub(super) fn sessions_of(shown: Option<&Shown>, status: Status) -> Option<Vec<ShownSession<'_>>> {
    let shown = shown.filter(|shown| shown.with.metadata)?;
    let sessions = shown.details.sessions.iter().filter(|_| status != Status::Offline);
    let shown = sessions.map(|session| ShownSession {
        status: session.status,
        metadata: session.attributes.metadata().map(|(key, value)| (key.into(), value.into())).collect(),
    });
    Some(shown.collect())
}
