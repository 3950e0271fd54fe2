//! What the deployment knows of its users: their statuses, wherever they are connected.
//!
//! ```
//! use presence_plugin::{Status, presence};
//!
//! # presence_plugin::testing::set_status("alice", Status::Online);
//! let found = presence::lookup(["alice", "bob"]).unwrap();
//! assert_eq!(found[0].status, Status::Online);
//! assert_eq!((found[1].status, found[1].revision), (Status::Offline, 0));
//! ```
//!
//! An answer is what is recorded at the time of the question; it may have changed when it is read. A hook that is told
//! of a status change has the newer truth about that user if its revision is greater.
//!
//! Needs a grant in presence.toml: `[plugin.grants] presence = true`.

use crate::event::{HookError, Status};

/// So many users are asked for in one call of the host; [`lookup`] makes as many calls as it takes.
pub const MAX_USERS: usize = 256;

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UserStatus {
    /// Whose.
    pub user: String,
    /// The status recorded last.
    pub status: Status,
    /// When it was decided, in milliseconds since 1970, UTC; none for a user nobody knows.
    pub since: Option<u64>,
    /// Grows with every change; 0 for a user nobody knows.
    pub revision: u64,
    /// The end of the last session, in milliseconds since 1970, UTC; none while there is one, or if there was none.
    pub last_seen: Option<u64>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The plugin has no grant: presence.toml has to change.
    #[error("presence denied: {0} (the host's log names the line to add to presence.toml)")]
    Denied(String),
    /// More than the host answers at once.
    #[error("presence limit: {0}")]
    TooLarge(String),
    /// The store cannot be reached.
    #[error("presence unavailable: {0}")]
    Unavailable(String),
}

/// As an answer of a hook. What is denied is tried again, like what is unavailable: the configuration is at fault and
/// not the event. What is too large stays so: rejected.
impl From<Error> for HookError {
    fn from(error: Error) -> HookError {
        match error {
            Error::Denied(_) | Error::Unavailable(_) => HookError::retry(error.to_string()),
            Error::TooLarge(_) => HookError::reject(error.to_string()),
        }
    }
}

/// The statuses of these users, in the order of the question. Users nobody knows are offline with revision 0.
pub fn lookup<U: Into<String>>(users: impl IntoIterator<Item = U>) -> Result<Vec<UserStatus>, Error> {
    let users: Vec<String> = users.into_iter().map(Into::into).collect();
    let mut found = Vec::with_capacity(users.len());
    for part in users.chunks(MAX_USERS) {
        found.extend(backend::lookup(part)?);
    }
    Ok(found)
}

/// The status of one user.
pub fn status(user: impl Into<String>) -> Result<UserStatus, Error> {
    let found = lookup([user])?;
    found.into_iter().next().ok_or_else(|| Error::Unavailable("the host's answer is empty".to_string()))
}

#[cfg(not(target_family = "wasm"))]
use crate::testing::presence as backend;

#[cfg(target_family = "wasm")]
mod backend {
    use super::{Error, UserStatus};
    use crate::guest::{Plain, presence as host};

    pub(super) fn lookup(users: &[String]) -> Result<Vec<UserStatus>, Error> {
        let found = host::lookup(users).map_err(|error| match error {
            host::Error::Denied(text) => Error::Denied(text),
            host::Error::TooLarge(text) => Error::TooLarge(text),
            host::Error::Unavailable(text) => Error::Unavailable(text),
        })?;
        Ok(found
            .into_iter()
            .map(|found| UserStatus {
                user: found.user,
                status: found.status.plain(),
                since: found.since,
                revision: found.revision,
                last_seen: found.last_seen,
            })
            .collect())
    }
}
