//! `cargo xtask bench [core|hooks|websocket …]`: each figure beside its yardstick, from the same run.

mod core;
mod memory;
mod report;

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all = ["core"];
    for name in &wanted {
        anyhow::ensure!(all.contains(&name.as_str()), "no benchmark `{name}`; there are {}", all.join(", "));
    }
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if runs("core") {
        core::run();
    }
    Ok(())
}
