//! The Presence daemon as a library: `main.rs` only reads arguments, tests and benchmarks use the rest.

pub mod clock;
pub mod driver;
pub mod gateway;
pub mod plugins;
pub mod settings;
pub mod store;
