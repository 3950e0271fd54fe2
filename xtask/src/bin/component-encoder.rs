//! Makes components of core modules: `component-encoder MODULE COMPONENT [MODULE COMPONENT ...]`. The interface comes
//! from the modules' own custom sections; only the Debian way of building plugins needs this.

use std::fs;

use anyhow::{Context, ensure};
use wit_component::ComponentEncoder;

fn main() -> anyhow::Result<()> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    ensure!(paths.len() % 2 == 0, "expected pairs of a module and a component");
    for pair in paths.chunks_exact(2) {
        let (module, component) = (&pair[0], &pair[1]);
        let bytes = fs::read(module).with_context(|| format!("can't read `{module}`"))?;
        let encoded = encode(&bytes).with_context(|| format!("`{module}` can't be made a component"))?;
        fs::write(component, encoded).with_context(|| format!("can't write `{component}`"))?;
    }
    Ok(())
}

fn encode(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}
