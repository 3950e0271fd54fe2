//! Logging: the macros of `tracing`, whose events reach the host's log with their fields.
//!
//! ```
//! use presence_plugin::log;
//! log::warn!(user = "alice", status = 503, "the profile service is away");
//! log::info!("plain {} work too", "format strings");
//! ```
//!
//! The host limits log bytes per call and drops the rest. Spans are accepted and not forwarded. On native targets
//! nothing is installed: a test may install any subscriber it likes.

pub use tracing::{debug, error, info, trace, warn};
