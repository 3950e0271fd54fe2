//! Lists what `presence plugin new` writes: the templates, the SDK as it is in this tree, the contract. Only lists: the
//! texts go in by `include_str!`, so that the SDK of a new project is the one this binary was built with.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let host = PathBuf::from(manifest);
    let workspace = host.parent().expect("host is in the workspace").to_owned();
    let sdk = workspace.join("plugin-sdk");
    let mut code = String::new();
    list(&mut code, "TEMPLATES", &host.join("templates"), &["."]);
    list(&mut code, "SDK", &sdk, &["Cargo.toml", "src", "macros", "wit"]);
    let root = workspace.join("Cargo.toml");
    watch(&root);
    writeln!(code, "pub(super) static WORKSPACE: &str = include_str!({root:?});").expect("a string grows");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("embedded.rs"), code).expect("OUT_DIR can be written");
    println!("cargo::rerun-if-changed=build.rs");
}

/// A table of paths, relative to `folder`, and texts.
fn list(code: &mut String, name: &str, folder: &Path, parts: &[&str]) {
    let mut files = Vec::new();
    for part in parts {
        collect(&folder.join(part), &mut files);
    }
    files.sort();
    writeln!(code, "pub(super) static {name}: &[(&str, &str)] = &[").expect("a string grows");
    for file in files {
        let relative = file.strip_prefix(folder).expect("it was found there");
        let relative = relative.components().collect::<PathBuf>();
        writeln!(code, "    ({relative:?}, include_str!({file:?})),").expect("a string grows");
    }
    writeln!(code, "];").expect("a string grows");
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    watch(path);
    if path.is_file() {
        files.push(path.components().collect());
        return;
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What tools leave in a template that somebody has tried in place.
        if !["target", "node_modules", "dist", ".venv", "Cargo.lock"].contains(&name.as_str()) {
            collect(&path, files);
        }
    }
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}
