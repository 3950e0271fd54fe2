//! What plugin authors use: `presence plugin new`, `build`, `inspect`, `run`, `test`. None of it needs a daemon. Knows
//! plugins through `plugins::local` and `plugins::inspect`, nothing of guests.

mod build;
mod command;
mod inspect;
mod new;
mod project;
mod run;
pub mod scenario;
mod script;
mod test;
mod verdict;

pub use command::{AuthoringCommand, run};
