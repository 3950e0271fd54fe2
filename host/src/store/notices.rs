//! Notices of changed statuses for one reader: bounded, and a reader that is too slow knows that it missed some. It
//! knows nothing of watchers.

use presence_core::ids::UserId;
use tokio::sync::broadcast;

use super::Notice;

/// What a reader of notices gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// A user's status changed.
    Notice(Notice),
    /// A user's custom message, or the metadata of a session, may have changed.
    Details(UserId),
    /// Some were missed: read again whatever matters.
    Missed,
}

/// A running [`Store::notices`](super::Store::notices). Waiting can be given up at any time without losing one.
#[derive(Debug)]
pub struct Notices {
    receiver: broadcast::Receiver<Noticed>,
}

impl Notices {
    /// So many notices may wait for a reader before it misses the oldest.
    pub const MAX_WAITING: usize = 8_192;

    /// The notices that a store sends to all its readers from now on.
    pub fn new(sender: &broadcast::Sender<Noticed>) -> Notices {
        Notices { receiver: sender.subscribe() }
    }

    /// The next one. Waits for ever when the store is gone.
    pub async fn next(&mut self) -> Noticed {
        match self.receiver.recv().await {
            Ok(noticed) => noticed,
            Err(broadcast::error::RecvError::Lagged(_)) => Noticed::Missed,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    /// The next one, if one waits.
    pub fn try_next(&mut self) -> Option<Noticed> {
        match self.receiver.try_recv() {
            Ok(noticed) => Some(noticed),
            Err(broadcast::error::TryRecvError::Lagged(_)) => Some(Noticed::Missed),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }
}
