//! `cargo xtask bench [core|hooks|nats|websocket|front|cluster …]`: each figure beside its yardstick, from the same run.

mod cluster;
mod core;
mod front;
mod hooks;
mod lean;
mod many;
mod memory;
mod nats;
mod reload;
mod report;
mod websocket;

const ALL: [&str; 6] = ["core", "hooks", "nats", "websocket", "front", "cluster"];

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted == [front::RAW] {
        return tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(front::serve_raw());
    }
    for name in &wanted {
        anyhow::ensure!(ALL.contains(&name.as_str()), "no benchmark `{name}`; there are {}", ALL.join(", "));
    }
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if runs("core") {
        core::run();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if runs("hooks") {
        runtime.block_on(hooks::run())?;
    }
    if runs("nats") {
        runtime.block_on(nats::run())?;
    }
    if runs("websocket") {
        runtime.block_on(websocket::run())?;
    }
    if runs("front") {
        runtime.block_on(front::run())?;
    }
    if runs("cluster") {
        runtime.block_on(cluster::run())?;
    }
    Ok(())
}
