//! The Presence daemon as a library: `main.rs` only reads arguments, tests and benchmarks use the rest.

mod admin_client;
pub mod api_keys;
pub mod app;
pub mod authoring;
pub mod bench;
pub mod certificates;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod connect;
pub mod dead_letters;
pub mod driver;
pub mod gateway;
#[cfg(test)]
mod guide;
mod plugin_list;
pub mod plugins;
pub mod reload;
mod requests;
pub mod settings;
pub mod store;
mod table;
pub mod telemetry;
pub mod tokens;
pub mod traces;
pub mod users;
