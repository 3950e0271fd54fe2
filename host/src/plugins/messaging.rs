//! Messages of plugins to whoever listens on NATS. Knows neither WebAssembly nor grants.
//!
//! What is promised is what core NATS promises: at most once. [`Messaging::publish`] is done when the server has taken
//! the message, whoever hears it; what was certainly not sent is an error.

use futures_util::future::BoxFuture;

pub mod host;
pub mod nats;
pub mod subjects;

/// The largest payload, in bytes; the server may take less.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// So many headers a message has at most, beside the host's own.
pub const MAX_HEADERS: usize = 32;
/// The names and values of headers together, in bytes.
pub const MAX_HEADER_BYTES: usize = 8 << 10;

/// A message on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Granted, and without wildcards.
    pub subject: String,
    /// Names and values, checked.
    pub headers: Vec<(String, String)>,
    /// Whatever the plugin wrote.
    pub payload: Vec<u8>,
}

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessagingError {
    /// It will not work the next time either.
    #[error("{0}")]
    Denied(String),
    /// More than the server takes.
    #[error("{0}")]
    TooLarge(String),
    /// Not sent, or nobody knows whether it was; it may work later.
    #[error("{0}")]
    Unavailable(String),
}

/// Where messages go. Subject, headers and payload are within the limits above: the caller has checked.
pub trait Messaging: Send + Sync + 'static {
    /// Sends a message. One after the other keeps their order.
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), MessagingError>>;
}
