//! Builds plugins and puts them where presence.toml and the tests look. What is up to date is cargo's to know.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::process;
use crate::tree::{Tree, WasmCrate};
use crate::wasm::{TARGET, Toolchain};

/// What to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What is in plugins/.
    Shipped,
    /// That, and what is in tests/guests/.
    WithGuests,
}

/// Builds, copies, and prints the sizes.
pub fn build(tree: &Tree, which: Which) -> anyhow::Result<()> {
    let mut jobs = Vec::new();
    jobs.extend(tree.plugins()?.into_iter().map(|plugin| (plugin, tree.plugins_out())));
    if which == Which::WithGuests {
        jobs.extend(tree.guests()?.into_iter().map(|guest| (guest, tree.guests_out())));
    }
    if jobs.is_empty() {
        eprintln!("xtask: there are no plugins to build");
        return Ok(());
    }
    let packages: Vec<&str> = jobs.iter().map(|(job, _)| job.package.as_str()).collect();
    let built = compile(tree, &packages, &jobs)?;
    for (job, folder) in &jobs {
        let file = folder.join(job.file_name());
        let size = deliver(&built.join(job.file_name()), &file)
            .with_context(|| format!("{} can't be put at `{}`", job.package, file.display()))?;
        let place = file.strip_prefix(tree.root()).unwrap_or(&file);
        println!("{:>8.1} KB  {}", size as f64 / 1000.0, place.display());
    }
    Ok(())
}

/// The folder with the components.
fn compile(tree: &Tree, packages: &[&str], jobs: &[(WasmCrate, PathBuf)]) -> anyhow::Result<PathBuf> {
    match Toolchain::bring(tree)? {
        Toolchain::Target => {
            let mut command = process::cargo();
            command.args(["build", "--profile", "plugin", "--target", TARGET]);
            command.args(packages.iter().flat_map(|package| ["-p", package]));
            process::call(command.current_dir(tree.root()))?;
            Ok(tree.target().join(TARGET).join("plugin"))
        }
        Toolchain::Debian(debian) => {
            let modules = debian.build(tree, packages)?;
            let components = modules.join("components");
            fs::create_dir_all(&components)
                .with_context(|| format!("can't make `{}`", components.display()))?;
            let pair = |name: String| (modules.join(&name), components.join(&name));
            let pairs: Vec<_> = jobs.iter().map(|(job, _)| pair(job.file_name())).collect();
            debian.encode(tree, &pairs)?;
            Ok(components)
        }
    }
}

/// Puts the file there in one step, and only if it differs: a running host takes a changed file for a new plugin.
/// Returns its size.
fn deliver(from: &Path, to: &Path) -> anyhow::Result<usize> {
    let bytes = fs::read(from).with_context(|| {
        format!("`{}` was not built: the crate needs crate-type = [\"cdylib\", \"rlib\"]", from.display())
    })?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(bytes.len());
    }
    let folder = to.parent().context("no folder")?;
    fs::create_dir_all(folder)?;
    let fresh = to.with_extension("wasm.new");
    fs::write(&fresh, &bytes)?;
    fs::rename(&fresh, to)?;
    Ok(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_file_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("presence-xtask-{}", std::process::id()));
        let (from, to) = (folder.join("a.wasm"), folder.join("out/a.wasm"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(&from, b"one").unwrap();
        assert_eq!(deliver(&from, &to).unwrap(), 3);
        let written = fs::metadata(&to).unwrap().modified().unwrap();
        assert_eq!(deliver(&from, &to).unwrap(), 3);
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), written);
        fs::write(&from, b"three").unwrap();
        assert_eq!(deliver(&from, &to).unwrap(), 5);
        assert_eq!(fs::read(&to).unwrap(), b"three");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_missing_module_is_named() {
        let error = deliver(Path::new("no/such.wasm"), Path::new("out.wasm")).unwrap_err();
        assert!(error.to_string().contains("`no/such.wasm` was not built"), "{error}");
    }
}
