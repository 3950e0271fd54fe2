//! The Presence daemon as a library: `main.rs` only reads arguments, tests and benchmarks use the rest.

pub mod cli;
pub mod clock;
pub mod config;
pub mod driver;
pub mod gateway;
pub mod plugins;
pub mod settings;
pub mod store;
pub mod telemetry;
