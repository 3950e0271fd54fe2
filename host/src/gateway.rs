//! Clients: WebSocket sessions in, statuses out; and the admin API. Knows the driver only through [`Handle`].
//!
//! `listeners` accepts connections, `http` and `admin` answer requests, `ws` serves one session. The rest is free of
//! sockets: `origin`, `auth`, `callers`, `handshake` judge the head of a request, `limits` counts who is there, `protocol` reads and writes messages.

use std::sync::Arc;

use presence_core::events::Attributes;
use presence_core::ids::UserId;

use crate::traces::Traced;

pub mod admin;
pub mod api;
mod auth;
pub mod body;
mod bounds;
mod callers;
pub mod events;
mod handshake;
mod http;
mod lag;
mod limits;
mod listeners;
pub mod metrics;
mod origin;
pub mod problem;
pub mod protocol;
mod proxies;
mod query;
mod stream;
mod strikes;
mod timed_body;
mod tls;
mod traffic;
mod ws;

pub use crate::driver::{Handle, Opened, Outbox, Refused};
pub use admin::AdminDeps;
pub use callers::Callers;
pub use listeners::{BindError, Listeners, bind};

/// What a connection asks of the driver when it opens.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Authenticated.
    pub user: UserId,
    /// `remote-address`, `user-agent`.
    pub attributes: Attributes,
    /// Where frames to the client go.
    pub outbox: Arc<Outbox>,
    /// When the token expires, milliseconds since 1970: the session ends then with reason `expired`.
    pub expires_at: Option<u64>,
    /// Goes on with the session.
    pub trace: Traced,
}

#[cfg(test)]
pub(crate) mod tests;
