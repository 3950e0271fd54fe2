//! Messages over NATS to whoever listens, for example to the application's own services.
//!
//! ```
//! use presence_plugin::messaging::Message;
//! use presence_plugin::{Context, HookResult, StatusChange};
//!
//! fn tell(_: &Context, event: &StatusChange) -> HookResult {
//!     Ok(Message::to("app.presence.online").json(event).publish()?)
//! }
//! # presence_plugin::testing::reset();
//! # let event = StatusChange {
//! #     user: "alice".into(), previous: None, current: presence_plugin::Status::Online, since: 1, revision: 1,
//! #     sessions: 1, last_seen: None,
//! # };
//! # tell(&Context::default(), &event).unwrap();
//! # assert_eq!(presence_plugin::testing::messages()[0].subject, "app.presence.online");
//! ```
//!
//! Delivery is that of core NATS: at most once, to those who listen at the time. [`Message::publish`] returns when the
//! server has taken the message; what was certainly not sent is an error. Since a hook may run again, so may its
//! messages be sent again: the host gives each a header `Presence-Event-Id` and a `Nats-Msg-Id` made of the event's id
//! and of how many messages the call sent before it, so that a JetStream stream drops repeats if the call sends the same
//! messages in the same order.
//!
//! Each subject needs a grant in presence.toml: `[plugin.grants] messaging = ["app.presence.>"]`.

use serde::Serialize;

use crate::event::HookError;

/// The longest payload, in bytes, headers not counted. The NATS server may take less.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The plugin has no grant for the subject: presence.toml has to change. Or it is no subject to publish to, or a
    /// header that only the host sets, or `configure` tried to publish.
    #[error("messaging denied: {0} (the host's log names the line to add to presence.toml)")]
    Denied(String),
    /// More than the host or the NATS server takes.
    #[error("messaging limit: {0}")]
    TooLarge(String),
    /// NATS cannot be reached: the message was not sent, or nobody knows whether it was.
    #[error("messaging unavailable: {0}")]
    Unavailable(String),
    /// [`Message::json`] was given what can't be JSON.
    #[error("message: {0}")]
    Invalid(String),
}

/// As an answer of a hook. What is denied is tried again, like what is unavailable: the configuration is at fault and
/// not the event. What is too large or no message stays so: rejected.
impl From<Error> for HookError {
    fn from(error: Error) -> HookError {
        match error {
            Error::Denied(_) | Error::Unavailable(_) => HookError::retry(error.to_string()),
            Error::TooLarge(_) | Error::Invalid(_) => HookError::reject(error.to_string()),
        }
    }
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a message that is not published goes nowhere"]
pub struct Message {
    subject: String,
    payload: Vec<u8>,
    headers: Vec<(String, String)>,
    fault: Option<String>,
}

impl Message {
    /// An empty message to a subject, which has no wildcards: `app.presence.online`.
    pub fn to(subject: impl Into<String>) -> Message {
        Message { subject: subject.into(), payload: Vec::new(), headers: Vec::new(), fault: None }
    }

    /// Adds a header. Names that begin with `Nats-` or `Presence-` are the host's: it refuses them.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Message {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the payload.
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Message {
        self.payload = payload.into();
        self
    }

    /// Sets the payload to this as JSON. If it can't be JSON, publishing fails with [`Error::Invalid`].
    pub fn json(mut self, payload: &(impl Serialize + ?Sized)) -> Message {
        match serde_json::to_vec(payload) {
            Ok(json) => self.payload = json,
            Err(error) => self.fault = Some(format!("its payload can't be JSON: {error}")),
        }
        self
    }

    /// Sends it.
    pub fn publish(self) -> Result<(), Error> {
        match self.fault {
            Some(fault) => Err(Error::Invalid(fault)),
            None => backend::publish(&self.subject, &self.payload, &self.headers),
        }
    }
}

#[cfg(not(target_family = "wasm"))]
use crate::testing::messaging as backend;

#[cfg(target_family = "wasm")]
mod backend {
    use super::Error;
    use crate::guest::messaging as host;

    pub(super) fn publish(subject: &str, payload: &[u8], headers: &[(String, String)]) -> Result<(), Error> {
        host::publish(subject, payload, headers).map_err(|error| match error {
            host::Error::Denied(text) => Error::Denied(text),
            host::Error::TooLarge(text) => Error::TooLarge(text),
            host::Error::Unavailable(text) => Error::Unavailable(text),
        })
    }
}
