//! How long things that clients do may take. Only numbers.

use std::time::Duration;

use crate::settings::ClientLimits;

/// How long a client may take, whatever it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// From the connection (or the previous answer) to the end of a request's head.
    pub(super) head: Duration,
    /// From there to the end of its body.
    pub(super) body: Duration,
    /// For the TLS handshake.
    pub(super) handshake: Duration,
    /// For one frame to be written, and for one to wait until it is.
    pub(super) write: Duration,
    /// For goodbye and close.
    pub(super) close: Duration,
}

impl Bounds {
    /// As presence.toml has them.
    pub(super) fn of(limits: &ClientLimits) -> Bounds {
        Bounds {
            head: limits.header_timeout,
            body: limits.body_timeout,
            handshake: limits.handshake_timeout,
            write: limits.read_timeout,
            close: Duration::from_secs(2),
        }
    }
}
