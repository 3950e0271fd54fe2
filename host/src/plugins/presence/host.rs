//! The import `presence`: checks the grant and the limit, then asks who knows.

use std::sync::Arc;

use presence_core::documents::StatusRecord;
use presence_core::ids::UserId;

use super::{MAX_USERS, Statuses, StatusesUnavailable};
use crate::plugins::bindings::statuses::{self, Error, UserStatus};
use crate::plugins::bindings::types;
use crate::plugins::convert;
use crate::plugins::denials::Denials;
use crate::plugins::guest::GuestState;

/// Whether one plugin may look up statuses.
#[derive(Clone)]
pub struct GrantedStatuses {
    /// Who knows.
    pub statuses: Arc<dyn Statuses>,
    /// The grant.
    pub granted: bool,
    /// Where denials are told.
    pub denials: Arc<Denials>,
}

impl GrantedStatuses {
    fn check(&self, users: &[String]) -> Result<(), Error> {
        if !self.granted {
            self.denials.tell("looking up statuses of users", "presence = true");
            return Err(Error::Denied("no grant for looking up statuses".to_owned()));
        }
        if users.len() > MAX_USERS {
            let count = users.len();
            return Err(Error::TooLarge(format!(
                "at most {MAX_USERS} users are asked for at once, not {count}"
            )));
        }
        Ok(())
    }
}

impl From<StatusesUnavailable> for Error {
    fn from(error: StatusesUnavailable) -> Error {
        Error::Unavailable(error.0)
    }
}

/// What is no user id is nobody's: offline, like every user that is not known.
fn answer(user: String, record: Option<StatusRecord>) -> UserStatus {
    UserStatus {
        user,
        status: record.map_or(types::Status::Offline, |record| convert::status(record.status)),
        since: record.map(|record| record.since.0),
        revision: record.map_or(0, |record| record.revision),
        last_seen: record.and_then(|record| record.last_seen).map(|seen| seen.0),
    }
}

impl statuses::Host for GuestState {
    async fn lookup(&mut self, users: Vec<String>) -> Result<Vec<UserStatus>, Error> {
        self.statuses.check(&users)?;
        let ids: Vec<Option<UserId>> = users.iter().map(|user| UserId::new(user).ok()).collect();
        let known = self.statuses.statuses.lookup(ids.iter().flatten().cloned().collect()).await?;
        let mut known = known.into_iter();
        let records = ids.iter().map(|id| id.as_ref().and_then(|_| known.next().flatten()));
        let found: Vec<UserStatus> =
            users.into_iter().zip(records).map(|(user, record)| answer(user, record)).collect();
        Ok(found)
    }
}
