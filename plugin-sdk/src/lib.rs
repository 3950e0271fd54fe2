//! Write plugins for Presence in Rust.
//!
//! A plugin is a type with the hooks it wants, each a method, and one attribute:
//!
//! ```
//! use presence_plugin::{Context, HookResult, StatusChange, info, plugin};
//!
//! #[derive(Default)]
//! struct Greeter;
//!
//! #[plugin]
//! impl Greeter {
//!     fn user_online(&self, _context: &Context, change: &StatusChange) -> HookResult {
//!         info!(user = change.user, "welcome back");
//!         Ok(())
//!     }
//! }
//! ```
//!
//! The hooks are `session_connected`, `session_disconnected`, `cleanup`, `user_online`, `user_idle` and `user_offline`;
//! only those in the impl block are exported. `fn configure(config: C) -> Result<Self, E>` takes the `config` of
//! presence.toml, deserialised into the author's type; without it the type's `Default` is used.
//!
//! Built with `--target wasm32-wasip2` the crate is the plugin; built natively it is ordinary code for `cargo test`, with
//! [`testing`] in the place of the host. Guests come and go: what must last belongs into [`keyvalue`].

use std::time::Duration;

pub use presence_plugin_macros::plugin;
pub use tracing::{self, debug, error, info, trace, warn};

#[doc(hidden)]
pub mod bindings;
pub mod http;
pub mod keyvalue;
mod logging;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[doc(hidden)]
pub use logging::install as install_logging;
#[doc(hidden)]
pub use serde_json;

pub use bindings::cleanup::exports::presence::plugin::cleanup::{Lost, Scope, Sweep};
pub use bindings::contract::presence::plugin::types::{
    Context, HookError, Later, Session, Status, StatusChange, Timestamp,
};
pub use bindings::session_disconnected::exports::presence::plugin::session_disconnected::Disconnect;

/// What a hook returns: taken, [`HookError::retry`] or [`HookError::reject`].
pub type HookResult = Result<(), HookError>;

impl HookError {
    /// Try again, when the host thinks fit. Session hooks end after `delivery.attempts`, the others never.
    pub fn retry(message: impl Into<String>) -> HookError {
        HookError::Retry(Later { message: message.into(), after_ms: None })
    }

    /// Try again after so long.
    pub fn retry_after(message: impl Into<String>, after: Duration) -> HookError {
        let after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        HookError::Retry(Later { message: message.into(), after_ms: Some(after_ms) })
    }

    /// Never again: the event becomes a dead letter.
    pub fn reject(message: impl Into<String>) -> HookError {
        HookError::Reject(message.into())
    }
}

impl Status {
    /// `online`, `idle`, `offline`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Online => "online",
            Status::Idle => "idle",
            Status::Offline => "offline",
        }
    }
}

/// A [`Timestamp`] (milliseconds since 1970, UTC) as RFC 3339 with milliseconds: `2026-11-24T23:40:25.123Z`.
pub fn rfc3339(timestamp: Timestamp) -> String {
    let (seconds, millis) = (timestamp / 1000, timestamp % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Days since 1970 to a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(rfc3339(1_795_563_625_123), "2026-11-24T23:40:25.123Z");
    }
}
