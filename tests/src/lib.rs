//! Whole daemons over real sockets, so that tests read as sentences. Knows the daemon as its users do: the binary,
//! presence.toml, the protocol, the log; nothing of what is inside. Every wait has a bound, and whatever does not
//! happen in time is a panic that says what was awaited and what was seen instead.
//!
//! ```no_run
//! # use presence_tests::{Daemon, Plugin, ProfileService};
//! # async fn test() {
//! let profiles = ProfileService::start().await;
//! let daemon = Daemon::with(Plugin::profile_updater(&profiles)).start().await;
//! let mut alice = daemon.client("alice").await;
//! alice.idle().await;
//! profiles.until_heard("alice", &["online", "idle"]).await;
//! assert_eq!(daemon.stop().await.code, Some(0));
//! # }
//! ```

/// The examples of the guide, which compile and run as they stand there.
#[cfg(doctest)]
#[doc = include_str!("../../docs/plugins.md")]
pub struct Guide;

mod certificates;
pub mod chaos;
mod client;
mod collector;
mod config;
mod daemon;
mod documents;
mod event_stream;
mod holder;
mod http;
mod issuer;
mod nats;
mod operator;
mod profiles;
mod programs;
mod receiver;
mod schema;
pub mod simulation;
mod waiting;
mod webhook;

pub use certificates::Authority;
pub use client::{Client, Refusal};
pub use collector::{Collector, Span, Trace};
pub use config::{Config, Plugin};
pub use daemon::Daemon;
pub use documents::{NodeProgram, blocks};
pub use event_stream::{EventStream, StreamEvent};
pub use holder::Holder;
pub use http::{Answer, ask, ask_with, send};
pub use issuer::Issuer;
pub use nats::{NatsCluster, NatsServer};
pub use operator::Operator;
pub use profiles::ProfileService;
pub use programs::{
    Ended, Folder, Program, Terminal, guest, languages, presence, schemathesis, shipped_plugin,
};
pub use receiver::{Mood, Receiver, Request};
pub use schema::OpenApi;
pub use waiting::{WAIT, until};
pub use webhook::Recorder;
