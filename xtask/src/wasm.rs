//! The compiler for plugins: found, or brought. Rust's target wasm32-wasip2 comes from rustup; where rustup is absent
//! or refuses, Debian's packages do (`debian.rs`).

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::debian::DebianRust;
use crate::process;
use crate::tree::Tree;

/// The target of components.
pub const TARGET: &str = "wasm32-wasip2";

/// Says which way is taken: `rustup` or `debian`; without it, the first that works.
const CHOICE: &str = "PRESENCE_WASM_TOOLCHAIN";

/// A compiler for plugins.
pub enum Toolchain {
    /// The workspace's own compiler has the target.
    Target,
    /// Debian's compiler makes core modules; they are encoded as components afterwards.
    Debian(DebianRust),
}

impl Toolchain {
    /// Finds one, and installs what is missing.
    pub fn bring(tree: &Tree) -> anyhow::Result<Toolchain> {
        match std::env::var(CHOICE).ok().as_deref() {
            None | Some("") => {}
            Some("rustup") => {
                bring_target(tree)?;
                return Ok(Toolchain::Target);
            }
            Some("debian") => return Ok(Toolchain::Debian(DebianRust::bring()?)),
            Some(other) => bail!("{CHOICE} is `{other}`; it can be `rustup` or `debian`"),
        }
        let refusal = match bring_target(tree) {
            Ok(()) => return Ok(Toolchain::Target),
            Err(refusal) => refusal,
        };
        eprintln!("xtask: {refusal:#}; trying Debian's packages");
        match DebianRust::bring() {
            Ok(debian) => Ok(Toolchain::Debian(debian)),
            Err(error) => bail!(
                "there is no compiler for plugins.\n  rustup: {refusal:#}\n  Debian: {error:#}\n\
                 Install rustup (https://rustup.rs) and call this again: it adds the target {TARGET} by itself."
            ),
        }
    }
}

/// Sees to it that the workspace's compiler has the target.
fn bring_target(tree: &Tree) -> anyhow::Result<()> {
    if target_is_there(tree) {
        return Ok(());
    }
    if process::answer(Command::new("rustup").arg("--version")).is_none() {
        bail!("the compiler has no target {TARGET}, and there is no rustup that could add it");
    }
    process::call(Command::new("rustup").args(["target", "add", TARGET]).current_dir(tree.root()))?;
    if !target_is_there(tree) {
        bail!(
            "rustup has added {TARGET}, but the compiler in use does not have it: is another rustc first in PATH?"
        );
    }
    Ok(())
}

/// Whether the standard library of the target is on disk: asked of the compiler, so it works without rustup too.
fn target_is_there(tree: &Tree) -> bool {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(compiler);
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(tree.root());
    process::answer(&mut command).is_some_and(|folder| PathBuf::from(folder).is_dir())
}
