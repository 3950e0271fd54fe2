//! The decisions of Presence as pure state machines.
//!
//! ```text
//!            handle_*(now, input)                       poll_*(..)
//!  clients ──▶ LocalSessions ──▶ session documents ─┐
//!                                                   ▼ (the store, outside)
//!  updates ──▶ Tracker ──▶ status records ──▶ transitions ──▶ Delivery ──▶ hook calls
//!                 ▲                               │                │
//!  leases ──▶ Membership (claims, boot)           ▼                ▼
//!                                              Watchers        Checkpoints
//!  owned partitions ──▶ Ticks ──▶ Delivery
//!  holders ──▶ HeldDocuments ──▶ session documents ──▶ HeldHooks ──▶ Delivery
//! ```
//!
//! Inputs enter through `handle_*`, effects leave through `poll_*`, and `now` is always an argument. This crate
//! knows no tokio, no NATS, no wasmtime, no clock and no randomness; its iteration order is deterministic.

pub mod assignment;
pub mod checkpoint;
pub mod delivery;
pub mod documents;
pub mod events;
pub mod holders;
pub mod ids;
mod index;
pub mod membership;
pub mod message;
pub mod metadata;
pub mod retry;
pub mod sessions;
pub mod ticks;
pub mod time;
pub mod timers;
pub mod tracker;
pub mod trail;
mod users;
pub mod watchers;
