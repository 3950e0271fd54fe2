//! The frames of `/v1/hold`: read and printed. It knows no socket.

use std::time::Duration;

use presence_core::events::Status;
use presence_core::holders::Rejected;
use presence_core::ids::{HolderName, Incarnation};
use presence_core::metadata::Metadata;
use serde::{Deserialize, Serialize};

use super::super::words::{self, OperationDocument, Verb};
use crate::driver::HolderRefused;
use crate::gateway::protocol::MAX_ID_BYTES;

/// The kinds of frames of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Register,
    Renew,
    End,
    Put,
    Patch,
    Delete,
    Ping,
}

/// A frame of a holder; which fields it may have depends on its type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    r#type: Kind,
    id: Option<String>,
    holder: Option<String>,
    incarnation: Option<String>,
    lease_seconds: Option<u64>,
    session: Option<String>,
    user: Option<String>,
    status: Option<Status>,
    metadata: Option<Metadata>,
    remote_address: Option<String>,
    user_agent: Option<String>,
    reason: Option<String>,
}

/// A frame of the host.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Reply<'a> {
    Registered {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        holder: &'a str,
        incarnation: &'a str,
        instance: String,
        created: bool,
        lease_seconds: u64,
    },
    Ok {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'static str>,
    },
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        code: &'static str,
        message: String,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    Goodbye {
        reason: &'static str,
        retry_after_ms: u64,
    },
}

/// What a frame wants.
pub(super) enum Wish {
    Register(Option<String>, HolderName, Incarnation, Duration),
    Renew(Option<String>),
    End(Option<String>),
    Change(Option<String>, Box<OperationDocument>),
    Ping(Option<String>),
}

/// A frame that can't be meant.
pub(super) struct Invalid {
    pub(super) id: Option<String>,
    pub(super) reason: String,
}

pub(super) fn read(text: &str) -> Result<Wish, Invalid> {
    let frame: Frame =
        serde_json::from_str(text).map_err(|error| Invalid { id: None, reason: error.to_string() })?;
    let id = frame.id.clone();
    if id.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES) {
        return Err(Invalid { id: None, reason: format!("`id` has at most {MAX_ID_BYTES} bytes") });
    }
    wish(frame).map_err(|reason| Invalid { id, reason })
}

fn wish(frame: Frame) -> Result<Wish, String> {
    let of_holder = frame.holder.is_some() || frame.incarnation.is_some() || frame.lease_seconds.is_some();
    let of_session = frame.session.is_some()
        || frame.user.is_some()
        || frame.status.is_some()
        || frame.metadata.is_some()
        || frame.remote_address.is_some()
        || frame.user_agent.is_some()
        || frame.reason.is_some();
    let needed = |name: &str| format!("`{name}` is needed");
    let verb = match frame.r#type {
        Kind::Register if !of_session => {
            let holder = words::holder_name(&frame.holder.ok_or_else(|| needed("holder"))?)?;
            let incarnation = words::incarnation(&frame.incarnation.ok_or_else(|| needed("incarnation"))?)?;
            return Ok(Wish::Register(frame.id, holder, incarnation, words::lease(frame.lease_seconds)?));
        }
        Kind::Renew if !of_session && !of_holder => return Ok(Wish::Renew(frame.id)),
        Kind::End if !of_session && !of_holder => return Ok(Wish::End(frame.id)),
        Kind::Ping if !of_session && !of_holder => return Ok(Wish::Ping(frame.id)),
        Kind::Put if !of_holder => Verb::Put,
        Kind::Patch if !of_holder => Verb::Patch,
        Kind::Delete if !of_holder => Verb::Delete,
        _ => return Err("a field of the frame does not belong to its type".into()),
    };
    let operation = OperationDocument {
        r#do: verb,
        session: frame.session.ok_or_else(|| needed("session"))?,
        user: frame.user.ok_or_else(|| needed("user"))?,
        status: frame.status,
        metadata: frame.metadata,
        remote_address: frame.remote_address,
        user_agent: frame.user_agent,
        reason: frame.reason,
    };
    Ok(Wish::Change(frame.id, Box::new(operation)))
}

pub(super) fn code(rejected: &Rejected) -> &'static str {
    match rejected {
        Rejected::Unknown => "unknown_session",
        Rejected::Ended => "ended",
        Rejected::TooMany => "too_many",
        Rejected::Gone => "gone",
        Rejected::Lapsed => "lapsed",
        Rejected::Busy | Rejected::Unsure | Rejected::Withdrawn | Rejected::Refused(_) => "unavailable",
    }
}

pub(super) fn refused_code(refused: &HolderRefused) -> &'static str {
    match refused {
        HolderRefused::Unknown => "not_registered",
        HolderRefused::Lapsed => "lapsed",
        HolderRefused::Replaced(_) | HolderRefused::AtOnce(_) => "replaced",
        HolderRefused::Gone => "gone",
        HolderRefused::TooMany => "too_many",
        HolderRefused::Starting | HolderRefused::Draining | HolderRefused::Store(_) => "unavailable",
    }
}
