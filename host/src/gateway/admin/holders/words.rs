//! What holders say, over HTTP and over `/v1/hold`, and what they are answered. It reads and prints; it knows no socket and
//! no driver.

use std::net::IpAddr;
use std::time::Duration;

use presence_core::documents::HolderRecord;
use presence_core::events::{Status, labels};
use presence_core::holders::{Done, Facts, Operation, Rejected};
use presence_core::ids::{HolderName, Incarnation, UserId};
use presence_core::membership::InstanceView;
use presence_core::metadata::Metadata;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::driver::{HeldChange, HolderRefused, Kept};
use crate::gateway::api::words::{self, SessionStatusWord};
use crate::gateway::protocol::whole;

/// The shortest lease, in seconds.
pub const MIN_LEASE: u64 = 5;

/// The longest lease, in seconds.
pub const MAX_LEASE: u64 = 3600;

/// The lease of who does not ask for another one, in seconds.
const DEFAULT_LEASE: u64 = 30;

/// The longest user agent, in bytes.
const MAX_USER_AGENT_BYTES: usize = 256;

/// The longest reason for the end of a session, in bytes.
pub const MAX_REASON_BYTES: usize = 32;

/// The body of `PUT /v1/holders/{holder}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Registration)]
pub struct RegistrationDocument {
    /// Which life of the holder: another one with every start.
    #[schema(schema_with = words::holder_text)]
    pub incarnation: String,
    /// How long it lives without a renewal: 5 to 3,600; 30 if nothing is said.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 5, maximum = 3600)]
    pub lease_seconds: Option<u64>,
}

/// A holder as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Holder)]
pub struct HolderDocument {
    /// Its name.
    pub holder: String,
    /// Which of its lives.
    pub incarnation: String,
    /// The instance that this life is: hooks name it.
    pub instance: String,
    /// How long it lives without a renewal.
    pub lease_seconds: u64,
    /// When its lease was last seen renewed; none in the answer to a renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed_ms_ago: Option<u64>,
    /// Its lease has run out and nobody has judged it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<bool>,
}

/// All holders that live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Holders)]
pub struct HoldersDocument {
    /// In the order of their instances.
    pub holders: Vec<HolderDocument>,
}

/// What is said of a session: the body of `PUT` and `PATCH`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HeldSession)]
pub struct SessionDocument {
    /// Whose it is.
    #[schema(schema_with = words::user_id)]
    pub user: String,
    /// `online` or `idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SessionStatusWord>)]
    pub status: Option<Status>,
    /// At most 16 keys and 1 KiB; takes the place of what there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = words::metadata)]
    pub metadata: Option<Metadata>,
    /// The address that the user connected from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<String>,
    /// What the user's program calls itself, at most 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub user_agent: Option<String>,
}

/// What is to be done with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = HolderVerb)]
pub enum Verb {
    /// It is there, like this.
    Put,
    /// Some of it is different.
    Patch,
    /// It has ended.
    Delete,
}

/// One operation of a bulk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HolderOperation)]
pub struct OperationDocument {
    /// `put`, `patch` or `delete`.
    pub r#do: Verb,
    /// The holder's id of the session.
    #[schema(schema_with = words::held_id)]
    pub session: String,
    /// Whose it is.
    #[schema(schema_with = words::user_id)]
    pub user: String,
    /// As for [`SessionDocument`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<SessionStatusWord>)]
    pub status: Option<Status>,
    /// As for [`SessionDocument`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = words::metadata)]
    pub metadata: Option<Metadata>,
    /// As for [`SessionDocument`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<String>,
    /// As for [`SessionDocument`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256, pattern = r"^[^\u0000-\u001F\u007F-\u009F]*$")]
    pub user_agent: Option<String>,
    /// Of `delete`: why it has ended; `ended` if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 32, pattern = "^[a-z0-9_-]+$")]
    pub reason: Option<String>,
}

/// The body of `POST /v1/holders/{holder}/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HolderOperations)]
pub struct BulkDocument {
    /// At most 1,000, of different sessions.
    #[schema(min_items = 1, max_items = 1000)]
    pub operations: Vec<OperationDocument>,
}

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HolderResult)]
pub struct ResultDocument {
    /// The holder's id of the session.
    pub session: String,
    /// As of an answer to a request for it alone.
    pub status: u16,
    /// `created`, `changed`, `unchanged`; none if it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer to a bulk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = HolderResults)]
pub struct ResultsDocument {
    /// One for each operation, in order.
    pub results: Vec<ResultDocument>,
}

impl OperationDocument {
    /// The same as one of a bulk.
    pub fn of(verb: Verb, session: String, document: SessionDocument) -> OperationDocument {
        let SessionDocument { user, status, metadata, remote_address, user_agent } = document;
        OperationDocument {
            r#do: verb,
            session,
            user,
            status,
            metadata,
            remote_address,
            user_agent,
            reason: None,
        }
    }

    /// Checks it, for this holder; what is wrong is for the person who reads the answer.
    pub fn read(self, holder: &HolderName) -> Result<HeldChange, String> {
        let session = holder.session(&self.session).map_err(|reason| format!("session: {reason}"))?;
        let user = UserId::new(&self.user).map_err(|reason| format!("user: {reason}"))?;
        if self.status == Some(Status::Offline) {
            return Err("status: a session is `online` or `idle`; delete it when it has ended".into());
        }
        let says_nothing = self.status.is_none()
            && self.metadata.is_none()
            && self.remote_address.is_none()
            && self.user_agent.is_none();
        let facts = Facts {
            remote_address: self.remote_address.as_deref().map(address).transpose()?,
            user_agent: self.user_agent.map(agent).transpose()?,
            metadata: self.metadata,
        };
        if self.reason.is_some() && self.r#do != Verb::Delete {
            return Err("reason: only an end has one".into());
        }
        let operation = match self.r#do {
            Verb::Put => Operation::Put(self.status.unwrap_or(Status::Online), facts),
            Verb::Patch if says_nothing => return Err("patch: nothing is to be changed".into()),
            Verb::Patch => Operation::Change(self.status, facts),
            Verb::Delete if !says_nothing => {
                return Err("delete: only the session, its user and a reason are taken".into());
            }
            Verb::Delete => Operation::End(match self.reason {
                None => labels::ENDED.into(),
                Some(reason) => reason_word(reason)?.into(),
            }),
        };
        Ok(HeldChange { user, session, operation })
    }
}

fn address(text: &str) -> Result<String, String> {
    let address: IpAddr =
        text.parse().map_err(|_| "remote_address: an IP address without a port is needed")?;
    Ok(address.to_canonical().to_string())
}

fn agent(text: String) -> Result<String, String> {
    if text.len() > MAX_USER_AGENT_BYTES || text.chars().any(char::is_control) {
        return Err(format!("user_agent: at most {MAX_USER_AGENT_BYTES} bytes without control characters"));
    }
    Ok(text)
}

fn reason_word(text: String) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if (1..=MAX_REASON_BYTES).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text)
    } else {
        Err(format!("reason: 1 to {MAX_REASON_BYTES} of `a-z 0-9 - _`"))
    }
}

/// A holder's name.
pub fn holder_name(text: &str) -> Result<HolderName, String> {
    text.parse().map_err(|reason| format!("holder: {reason}"))
}

/// A holder's incarnation.
pub fn incarnation(text: &str) -> Result<Incarnation, String> {
    text.parse().map_err(|reason| format!("incarnation: {reason}"))
}

/// A lease within its bounds.
pub fn lease(seconds: Option<u64>) -> Result<Duration, String> {
    let seconds = seconds.unwrap_or(DEFAULT_LEASE);
    if (MIN_LEASE..=MAX_LEASE).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(format!("lease_seconds: {MIN_LEASE} to {MAX_LEASE} are allowed, not {seconds}"))
    }
}

/// The word for what was done.
pub fn word(done: Done) -> &'static str {
    match done {
        Done::Created => "created",
        Done::Changed => "changed",
        Done::Unchanged => "unchanged",
    }
}

/// The HTTP status of what was done.
pub fn status(result: &Result<Done, Rejected>) -> u16 {
    match result {
        Ok(Done::Created) => 201,
        Ok(Done::Changed | Done::Unchanged) => 200,
        Err(Rejected::Unknown) => 404,
        Err(Rejected::Ended | Rejected::Lapsed) => 409,
        Err(Rejected::Gone) => 410,
        Err(Rejected::TooMany) => 422,
        Err(Rejected::Busy | Rejected::Unsure | Rejected::Withdrawn | Rejected::Refused(_)) => 503,
    }
}

/// The HTTP status of why nothing was done.
pub fn refused_status(refused: &HolderRefused) -> u16 {
    match refused {
        HolderRefused::Unknown => 404,
        HolderRefused::Lapsed | HolderRefused::Replaced(_) | HolderRefused::AtOnce(_) => 409,
        HolderRefused::Gone => 410,
        HolderRefused::TooMany => 429,
        HolderRefused::Starting | HolderRefused::Draining | HolderRefused::Store(_) => 503,
    }
}

impl ResultDocument {
    /// Of a session, by the holder's id.
    pub fn of(session: String, result: &Result<Done, Rejected>) -> ResultDocument {
        ResultDocument {
            session,
            status: status(result),
            result: result.as_ref().ok().map(|done| word(*done).to_owned()),
            detail: result.as_ref().err().map(ToString::to_string),
        }
    }
}

impl HolderDocument {
    /// Of one that was registered or renewed.
    pub fn kept(name: &HolderName, incarnation: &Incarnation, kept: &Kept) -> HolderDocument {
        HolderDocument {
            holder: name.to_string(),
            incarnation: incarnation.to_string(),
            instance: kept.instance.to_string(),
            lease_seconds: kept.lease.as_secs(),
            renewed_ms_ago: None,
            suspect: None,
        }
    }

    /// Of one that is known.
    pub fn known(view: &InstanceView, holder: &HolderRecord) -> HolderDocument {
        HolderDocument {
            holder: holder.name.to_string(),
            incarnation: holder.incarnation.to_string(),
            instance: view.id.to_string(),
            lease_seconds: holder.lease_ms / 1000,
            renewed_ms_ago: u64::try_from(view.renewed_ago.as_millis()).ok(),
            suspect: Some(view.suspect),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<HeldChange, String> {
        let document: OperationDocument = serde_json::from_str(json).map_err(|error| error.to_string())?;
        document.read(&holder_name("chat-1").unwrap())
    }

    #[test]
    fn operations_are_read() {
        let put = read(
            r#"{"do":"put","session":"42","user":"alice","status":"idle","metadata":{"device":"tv"},
                "remote_address":"::ffff:10.0.0.7","user_agent":"x"}"#,
        )
        .unwrap();
        assert_eq!((put.session.to_string().as_str(), put.user.as_str()), ("chat-1/42", "alice"));
        let Operation::Put(Status::Idle, facts) = put.operation else { panic!("{put:?}") };
        assert_eq!(facts.remote_address.as_deref(), Some("10.0.0.7"));
        let end = read(r#"{"do":"delete","session":"42","user":"alice","reason":"timeout"}"#).unwrap();
        assert_eq!(end.operation, Operation::End("timeout".into()));
    }

    #[test]
    fn whatever_is_wrong_is_said() {
        let long = "x".repeat(129);
        for (json, why) in [
            (r#"{"do":"put","session":"a/b","user":"u"}"#.to_owned(), "session: "),
            (r#"{"do":"put","session":"","user":"u"}"#.into(), "session: "),
            (r#"{"do":"put","session":"é","user":"u"}"#.into(), "session: "),
            (format!(r#"{{"do":"put","session":"{long}","user":"u"}}"#), "session: "),
            (r#"{"do":"put","session":"a","user":"\u0000"}"#.into(), "user: "),
            (r#"{"do":"put","session":"a","user":"u","status":"offline"}"#.into(), "status: "),
            (r#"{"do":"put","session":"a","user":"u","status":"away"}"#.into(), "unknown variant"),
            (r#"{"do":"put","session":"a","user":"u","holder":"other"}"#.into(), "unknown field"),
            (r#"{"do":"put","session":"a","user":"u","reason":"x"}"#.into(), "reason: "),
            (r#"{"do":"put","session":"a","user":"u","remote_address":"here"}"#.into(), "remote_address: "),
            (r#"{"do":"put","session":"a","user":"u","user_agent":"\n"}"#.into(), "user_agent: "),
            (r#"{"do":"put","session":"a","user":"u","metadata":{"A":"b"}}"#.into(), "no key of metadata"),
            (r#"{"do":"patch","session":"a","user":"u"}"#.into(), "nothing is to be changed"),
            (r#"{"do":"delete","session":"a","user":"u","status":"idle"}"#.into(), "delete: "),
            (r#"{"do":"delete","session":"a","user":"u","reason":"Bye!"}"#.into(), "reason: "),
        ] {
            let error = read(&json).unwrap_err();
            assert!(error.contains(why), "{json}: {error}");
        }
        for seconds in [0, 4, 3601, u64::MAX] {
            assert!(lease(Some(seconds)).unwrap_err().starts_with("lease_seconds: "));
        }
        assert_eq!(lease(None), Ok(Duration::from_secs(30)));
        for name in ["", ".", "..", "a/b", "a b", &"x".repeat(65)] {
            assert!(holder_name(name).is_err() && incarnation(name).is_err(), "{name}");
        }
    }
}
