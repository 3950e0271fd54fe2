//! The front door: what checking tokens costs, what an authenticated session weighs, and how soon many watchers hear
//! of one transition.

mod fan_out;
mod raw;
mod tokens;

pub use raw::{ARGUMENT as RAW, serve as serve_raw};

pub async fn run() -> anyhow::Result<()> {
    tokens::run().await?;
    fan_out::run().await
}
