//! Waiting for states, with a bound.

use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take; far more than it takes, since tests share the machine with each other.
pub const WAIT: Duration = Duration::from_secs(30);

/// How often a state that can't be awaited is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Looks until `look` finds something; panics with `what` after [`WAIT`].
pub async fn until<T>(what: impl std::fmt::Display, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "after {WAIT:?} still not: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The future's answer; panics with `what` after [`WAIT`].
pub(crate) async fn within<T>(what: impl std::fmt::Display, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT, future).await {
        Ok(answer) => answer,
        Err(_) => panic!("after {WAIT:?} still not: {what}"),
    }
}
