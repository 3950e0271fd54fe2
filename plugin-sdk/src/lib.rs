//! Write plugins for Presence in Rust: a plugin is a type with the hook functions it wants.
//!
//! ```
//! use presence_plugin::{Context, HookResult, StatusChange, http::Request, log};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     url: String,
//! }
//!
//! struct Greeter {
//!     url: String,
//! }
//!
//! #[presence_plugin::plugin]
//! impl Greeter {
//!     /// Optional: gets `config` of the plugin's entry in presence.toml. Without it, `Default` makes the plugin.
//!     fn configure(config: Config) -> Result<Self, String> {
//!         presence_plugin::http::check_url(&config.url).map_err(|error| format!("url: {error}"))?;
//!         Ok(Greeter { url: config.url })
//!     }
//!
//!     fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult {
//!         log::info!(user = event.user, revision = event.revision, "is here");
//!         Request::post(&self.url).json(event).idempotent(ctx).deliver()
//!     }
//! }
//! ```
//!
//! The crate's manifest needs `crate-type = ["cdylib", "rlib"]`, this crate and, for a config struct, serde. Build it
//! with `cargo build --release --target wasm32-wasip2`; on every other target the same code compiles without exports,
//! so that `cargo test` runs the plugin's logic natively against the fakes of `testing`.
//!
//! # Hooks
//! | function | event |
//! |---|---|
//! | `session_connected` | [`Session`] |
//! | `session_disconnected` | [`SessionDisconnected`] |
//! | `cleanup` | [`Cleanup`] |
//! | `user_online`, `user_idle`, `user_offline` | [`StatusChange`] |
//! | `tick` | [`Tick`]: every `interval`, on one host of the deployment |
//!
//! Each is `fn name(&self, ctx: &Context, event: &Event) -> HookResult` (`&mut self` works as well). Only those that
//! are there are exported. Any function but these and `configure` belongs in another impl block: a misspelt hook is
//! a compile error.
//!
//! ```compile_fail
//! # use presence_plugin::{Context, HookResult, StatusChange};
//! #[derive(Default)]
//! struct Greeter;
//!
//! #[presence_plugin::plugin]
//! impl Greeter {
//!     fn user_onlin(&self, _: &Context, _: &StatusChange) -> HookResult {
//!         Ok(())
//!     }
//! }
//! ```
//!
//! # What a plugin must bear
//! The host keeps several guests of one plugin, each with its own memory, and throws guests away after a trap, a
//! deadline or some number of calls: what has to last belongs in [`keyvalue`]. Every event may come more than once:
//! drop repeats by [`Context::event_id`], or status changes by user and revision.
//!
//! # What a plugin may call
//! [`log`], [`http`], [`keyvalue`], [`messaging`] and [`presence`]. All but the log need a grant in presence.toml.
//!
//! This crate knows the contract (`presence:plugin`) and WASI, and nothing of the host behind them.

pub mod event;
pub mod http;
pub mod keyvalue;
pub mod log;
pub mod messaging;
pub mod presence;
pub mod time;

#[cfg(target_family = "wasm")]
mod guest;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[cfg(test)]
mod tests;

pub use event::{
    Attributes, Cleanup, Context, HookError, HookResult, Scope, Session, SessionDisconnected, Status,
    StatusChange, Tick,
};
pub use presence_plugin_macros::plugin;

/// What the code written by `#[plugin]` calls. Not for authors.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod __private {
    pub use crate::guest::bindings::{
        cleanup, configure, session_connected, session_disconnected, tick, user_idle, user_offline,
        user_online,
    };
    pub use crate::guest::{Context, HookError, State, configure as make, handle};
}
