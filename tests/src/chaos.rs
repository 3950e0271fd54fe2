//! A deployment under faults: three NATS servers, three hosts, clients that behave well, a receiver that keeps what it
//! is told on disk. Faults come from one seed; afterwards it is quiet, and what the receiver and the clients know is
//! held against the invariants by their names. Knows hosts as operators do: processes, signals, ports, the admin API.
//!
//! `plan.rs` is the schedule, `hosts.rs` the processes, `proxy.rs` the network between a host and NATS, `clients.rs`
//! the crowd, `recorder.rs` the receiver, `ledger.rs` what was seen, `verdict.rs` the invariants.

mod clients;
mod faults;
mod hosts;
mod ledger;
mod plan;
mod proxy;
mod recorder;
mod report;
mod run;
mod verdict;

pub use ledger::{Fate, Heard, Ledger, Life, Pause, SessionNote};
pub use plan::{Fault, Plan, Step};
pub use proxy::Proxy;
pub use report::Report;
pub use run::run;
pub use verdict::{Evidence, Final, Violation, judge};
