//! Schemathesis, which asks an HTTP API whatever its OpenAPI document allows and forbids: a Python program, in an environment of
//! its own in target/tools, from the Python package index. Knows where it comes from, nothing of what it asks.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::process;
use crate::tree::Tree;

/// Names the program, for xtask and for the tests.
pub const VARIABLE: &str = "PRESENCE_SCHEMATHESIS";

/// The version that the tests are written for: another one asks other things.
const VERSION: &str = "4.32.5";

/// The path of the program.
pub fn bring(tree: &Tree) -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return Ok(std::path::absolute(PathBuf::from(named))?);
    }
    let folder = tree.target().join("tools/schemathesis");
    let program = folder.join("bin/st");
    if version(&program).as_deref() == Some(VERSION) {
        return Ok(program);
    }
    let _ = fs::remove_dir_all(&folder);
    let why =
        "schemathesis can't be fetched: it needs python3 with venv and pip, and the Python package index";
    process::call(Command::new("python3").args(["-m", "venv"]).arg(&folder)).context(why)?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", &format!("schemathesis=={VERSION}")]);
    process::call(&mut pip).context(why)?;
    if version(&program).is_none() {
        bail!("`{}` does not run on this machine", program.display());
    }
    Ok(program)
}

/// `st, version 4.32.5`
fn version(program: &std::path::Path) -> Option<String> {
    let text = process::answer(Command::new(program).arg("--version"))?;
    text.rsplit(' ').next().map(str::to_owned)
}
