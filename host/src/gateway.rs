//! Clients: WebSocket sessions in, statuses out; and the admin API. Knows the driver only through [`Handle`].

use std::sync::Arc;

use presence_core::events::Attributes;
use presence_core::ids::UserId;

pub use crate::driver::{Handle, Opened, Outbox, Refused};

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
}
