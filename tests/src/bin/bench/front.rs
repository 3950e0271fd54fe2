//! The front door: what checking tokens costs, what an authenticated session weighs, how soon many watchers hear
//! of one transition, and a million sessions that a backend holds.

mod fan_out;
mod held;
mod raw;
mod tokens;

pub use raw::{ARGUMENT as RAW, serve as serve_raw};

pub async fn run() -> anyhow::Result<()> {
    tokens::run().await?;
    fan_out::run().await?;
    held::run().await
}
