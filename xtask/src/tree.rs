//! Where things are in the workspace, and which crates are plugins. Looks at folders, so that a new plugin needs no
//! line here.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// The workspace on disk.
pub struct Tree {
    root: PathBuf,
    target: PathBuf,
}

/// A crate that is built to WebAssembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmCrate {
    /// As cargo knows it: `profile-updater`.
    pub package: String,
}

impl WasmCrate {
    /// The name of the file that comes out: `profile_updater.wasm`.
    pub fn file_name(&self) -> String {
        format!("{}.wasm", self.package.replace('-', "_"))
    }
}

impl Tree {
    /// The workspace that this xtask belongs to.
    pub fn find() -> anyhow::Result<Tree> {
        // Cargo says where it found the package; the path from compile time is for direct calls.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let root = Path::new(&manifest).parent().context("xtask has no parent folder")?.to_owned();
        ensure!(
            root.join("Cargo.toml").is_file(),
            "`{}` is no workspace: call this as `cargo xtask` inside the repository",
            root.display()
        );
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => std::path::absolute(PathBuf::from(target))?,
            None => root.join("target"),
        };
        Ok(Tree { root, target })
    }

    /// The folder with the workspace's Cargo.toml.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts what it builds.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A program that a dev build makes.
    pub fn dev_binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// Where the shipped plugins go; presence.toml names this place, so it doesn't follow CARGO_TARGET_DIR.
    pub fn plugins_out(&self) -> PathBuf {
        self.root.join("target/plugins")
    }

    /// Where the tests' guests go.
    pub fn guests_out(&self) -> PathBuf {
        self.root.join("target/guests")
    }

    /// The shipped plugins, by name.
    pub fn plugins(&self) -> anyhow::Result<Vec<WasmCrate>> {
        crates_in(&self.root.join("plugins"))
    }

    /// The guests that only tests use, by name.
    pub fn guests(&self) -> anyhow::Result<Vec<WasmCrate>> {
        crates_in(&self.root.join("tests/guests"))
    }
}

/// Every folder in `folder` with a Cargo.toml; none if there is no such folder.
fn crates_in(folder: &Path) -> anyhow::Result<Vec<WasmCrate>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("can't list `{}`", folder.display()))? {
        let manifest = entry?.path().join("Cargo.toml");
        if !manifest.is_file() {
            continue;
        }
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("can't read `{}`", manifest.display()))?;
        let package =
            package_name(&text).with_context(|| format!("`{}` names no package", manifest.display()))?;
        found.push(WasmCrate { package });
    }
    found.sort_by(|a, b| a.package.cmp(&b.package));
    Ok(found)
}

/// The `name` of `[package]`.
fn package_name(manifest: &str) -> Option<String> {
    let package = manifest.lines().map(str::trim).skip_while(|line| *line != "[package]").skip(1);
    package
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "name")
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_named_in_its_own_section() {
        let manifest = "[lib]\nname = \"other\"\n[package]\nversion = \"1\"\nname = \"profile-updater\"\n[[bin]]\nname = \"x\"\n";
        assert_eq!(package_name(manifest).as_deref(), Some("profile-updater"));
        assert_eq!(package_name("[package]\nversion = \"1\"\n[lib]\nname = \"other\"\n"), None);
    }

    #[test]
    fn a_crate_becomes_a_file_with_underscores() {
        let plugin = WasmCrate { package: "profile-updater".into() };
        assert_eq!(plugin.file_name(), "profile_updater.wasm");
    }
}
