//! Whole daemons, end to end: what a user of Presence can see. One module per subject; `cargo xtask test` builds what
//! they need.

mod admin;
mod analytics;
mod api_keys;
mod chaos;
mod clocks;
mod cluster;
mod commands;
mod compat;
mod dead_letters;
mod details;
mod events;
mod first_steps;
mod fuzzing;
mod holders;
mod hostile;
mod http_api;
mod imports;
mod keyvalue_file;
mod keyvalue_nats;
mod languages;
mod load;
mod nats_daemon;
mod nats_store;
mod outage;
mod refusals;
mod reload;
mod secrets;
mod simulation;
mod statuses;
mod stopping;
mod tls;
mod tokens;
mod traces;
mod watching;
mod webhooks;
