//! Answers a plugin's look-ups in a native test with what the test has set. Grants are the host's: not known here.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::event::Status;
use crate::presence::{Error, UserStatus};

#[derive(Default)]
struct Fake {
    users: BTreeMap<String, UserStatus>,
    refusal: Option<Error>,
}

std::thread_local! {
    static FAKE: RefCell<Fake> = RefCell::default();
}

/// Sets a user's status: decided now, with the next revision.
pub fn set_status(user: &str, status: Status) {
    let now = crate::time::now_ms();
    FAKE.with_borrow_mut(|fake| {
        let revision = fake.users.get(user).map_or(0, |found| found.revision) + 1;
        let last_seen = (status == Status::Offline).then_some(now);
        let found = UserStatus { user: user.to_string(), status, since: Some(now), revision, last_seen };
        fake.users.insert(found.user.clone(), found);
    });
}

/// Sets all that is known of a user.
pub fn set_user(user: UserStatus) {
    FAKE.with_borrow_mut(|fake| fake.users.insert(user.user.clone(), user));
}

/// Answers every look-up with this error from now on; none: answers again.
pub fn refuse_lookups(error: Option<Error>) {
    FAKE.with_borrow_mut(|fake| fake.refusal = error);
}

pub(crate) fn reset() {
    FAKE.take();
}

pub(crate) fn lookup(users: &[String]) -> Result<Vec<UserStatus>, Error> {
    FAKE.with_borrow(|fake| match &fake.refusal {
        Some(error) => Err(error.clone()),
        None => Ok(users
            .iter()
            .map(|user| fake.users.get(user).cloned().unwrap_or_else(|| unknown(user)))
            .collect()),
    })
}

fn unknown(user: &str) -> UserStatus {
    UserStatus { user: user.to_string(), status: Status::Offline, since: None, revision: 0, last_seen: None }
}
