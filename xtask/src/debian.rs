//! Plugins without rustup: Debian's compiler builds the standard library for wasm32-unknown-unknown, and the module
//! that comes out is encoded as a component by `bin/component-encoder.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process;
use crate::tree::Tree;

/// Debian's Rust of the day (the one its browsers are built with), the standard library's source, the linker.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];
const COMPILER: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const LINKER: &str = "/usr/bin/lld-19";
const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's packages, installed.
pub struct DebianRust(());

impl DebianRust {
    /// Installs what is missing, if this is root.
    pub fn bring() -> anyhow::Result<DebianRust> {
        let missing = missing_packages()?;
        if missing.is_empty() {
            return Ok(DebianRust(()));
        }
        if !rustix::process::geteuid().is_root() {
            bail!("missing packages; as root: apt-get install {}", missing.join(" "));
        }
        eprintln!("xtask: installing {}", missing.join(" "));
        let mut update = Command::new("apt-get");
        process::call(update.args(["update", "-qq"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
        let mut install = Command::new("apt-get");
        install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
        process::call(install.env("DEBIAN_FRONTEND", "noninteractive"))?;
        Ok(DebianRust(()))
    }

    /// Builds `packages` into core modules; returns the folder they are in.
    pub fn build(&self, tree: &Tree, packages: &[&str]) -> anyhow::Result<PathBuf> {
        let target = tree.target().join("debian");
        let mut command = Command::new(CARGO);
        command.args(["build", "--profile", "plugin", "--target", TARGET, "-Z", "build-std=std,panic_abort"]);
        command.args(packages.iter().flat_map(|package| ["-p", package]));
        command.arg("--target-dir").arg(&target).current_dir(tree.root());
        // build-std is not stable: this variable opens it in a stable compiler.
        command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", COMPILER);
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", LINKER);
        // What a rustup's cargo has left in the environment would lead back to its own compiler.
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTFLAGS");
        process::call(&mut command)?;
        Ok(target.join(TARGET).join("plugin"))
    }

    /// Encodes the modules as components: pairs of a module and where the component goes.
    pub fn encode(&self, tree: &Tree, pairs: &[(PathBuf, PathBuf)]) -> anyhow::Result<()> {
        let mut command = process::cargo();
        command.args([
            "run",
            "--quiet",
            "-p",
            "xtask",
            "--features",
            "encoder",
            "--bin",
            "component-encoder",
            "--",
        ]);
        command.args(pairs.iter().flat_map(|(module, component)| [module, component]));
        process::call(command.current_dir(tree.root()))
    }
}

/// Those of [`PACKAGES`] that are not installed.
fn missing_packages() -> anyhow::Result<Vec<&'static str>> {
    let status = Path::new("/var/lib/dpkg/status");
    let text = fs::read_to_string(status)
        .with_context(|| format!("this is no Debian (`{}` can't be read)", status.display()))?;
    Ok(PACKAGES.into_iter().filter(|package| !is_installed(&text, package)).collect())
}

/// Whether dpkg's list has the package as installed.
fn is_installed(list: &str, package: &str) -> bool {
    list.split("\n\n").any(|entry| {
        let mut lines = entry.lines();
        lines.next() == Some(&format!("Package: {package}"))
            && lines.any(|line| line == "Status: install ok installed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let list = "Package: lld-19\nStatus: install ok installed\nVersion: 1\n\nPackage: rustc-web\n\
                    Status: deinstall ok config-files\n\nPackage: rustc-web-dbg\nStatus: install ok installed\n";
        assert!(is_installed(list, "lld-19"));
        assert!(!is_installed(list, "rustc-web"));
        assert!(!is_installed(list, "cargo-web"));
    }
}
