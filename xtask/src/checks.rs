//! What keeps the tree in order: `test`, `lint`, `bench`, `sim`, `ci`. One dev profile for everything, so that nothing is
//! compiled twice.

use std::process::Command;

use anyhow::bail;

use crate::languages;
use crate::nats;
use crate::plugins::{self, Which};
use crate::process::{self, become_program, call};
use crate::schemathesis;
use crate::tidy;
use crate::tree::Tree;
use crate::wasm::{self, Toolchain};

/// Plugins, guests, programs, then `cargo test` with these arguments. Becomes cargo, so its last lines and its exit
/// code are what one sees.
pub fn test(tree: &Tree, arguments: &[String]) -> anyhow::Result<()> {
    let server = nats::bring(tree)?;
    let fuzzer = schemathesis::bring(tree)?;
    plugins::build(tree, Which::WithGuests)?;
    build_for_tests(tree)?;
    languages::build(tree)?;
    languages::from_nothing(tree)?;
    let mut test = process::cargo();
    test.args(["test", "--workspace"]).args(arguments).current_dir(tree.root());
    test.env("PRESENCE_BIN", tree.dev_binary("presence"));
    test.env("PRESENCE_PLUGINS", tree.plugins_out());
    test.env("PRESENCE_LANGUAGES", languages::folder(tree)).env("PRESENCE_NODE", languages::node(tree)?);
    test.env(schemathesis::VARIABLE, fuzzer);
    test.env("PRESENCE_GUESTS", tree.guests_out()).env(nats::VARIABLE, server);
    Err(become_program(&mut test))
}

/// The shipped plugins that are not in Rust.
pub fn languages(tree: &Tree) -> anyhow::Result<()> {
    build_for_tests(tree)?;
    languages::build(tree)
}

/// From nothing to a running hook in each language.
pub fn authoring(tree: &Tree) -> anyhow::Result<()> {
    build_for_tests(tree)?;
    languages::from_nothing(tree)
}

/// All targets at once, and not `-p presence-host --bin presence`: features are then those of the tests, and the
/// dependencies are compiled once.
fn build_for_tests(tree: &Tree) -> anyhow::Result<()> {
    let mut build = process::cargo();
    call(build.args(["build", "--workspace", "--all-targets"]).current_dir(tree.root()))
}

/// Formatting, clippy (the plugins also as WebAssembly), tidy. All of them, then the verdict.
pub fn lint(tree: &Tree) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    let mut format = process::cargo();
    if let Err(error) = call(format.args(["fmt", "--all", "--check"]).current_dir(tree.root())) {
        failures.push(format!("{error:#}: `cargo fmt --all` puts it right"));
    }
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).current_dir(tree.root());
    failures.extend(call(&mut clippy).err().map(|error| format!("{error:#}")));
    failures.extend(lint_wasm(tree).err().map(|error| format!("{error:#}")));
    failures.extend(tidy::check(tree.root()).err().map(|error| format!("{error:#}")));
    if failures.is_empty() {
        return Ok(());
    }
    bail!("lint found faults:\n  {}", failures.join("\n  "));
}

/// Clippy over the code that exists only in plugins. With Debian's compiler there is no clippy for it.
fn lint_wasm(tree: &Tree) -> anyhow::Result<()> {
    let crates = [tree.plugins()?, tree.guests()?].concat();
    if crates.is_empty() || !matches!(Toolchain::bring(tree)?, Toolchain::Target) {
        return Ok(());
    }
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--target", wasm::TARGET, "-p", "presence-plugin"]);
    clippy.args(crates.iter().flat_map(|found| ["-p", found.package.as_str()]));
    call(clippy.args(["--", "-D", "warnings"]).current_dir(tree.root()))
}

/// The benchmarks with these names, or all. Becomes the benchmark.
pub fn bench(tree: &Tree, names: &[String]) -> anyhow::Result<()> {
    Err(become_program(&mut measured(tree, "bench", names)?))
}

/// A deployment under faults, judged by the invariants. Becomes the run.
pub fn chaos(tree: &Tree, arguments: &[String]) -> anyhow::Result<()> {
    Err(become_program(&mut measured(tree, "chaos", arguments)?))
}

/// A program of the tests in release mode, with all that it needs.
fn measured(tree: &Tree, program: &str, arguments: &[String]) -> anyhow::Result<Command> {
    plugins::build(tree, Which::WithGuests)?;
    let server = nats::bring(tree)?;
    // Both at once: features are the same for the daemon that is measured and for what measures it.
    let mut build = process::cargo();
    build.args(["build", "--release", "-p", "presence-host", "-p", "presence-tests"]);
    call(build.args(["--bin", "presence", "--bin", program]).current_dir(tree.root()))?;
    let release = tree.target().join("release");
    let mut command = Command::new(release.join(program));
    command.args(arguments).current_dir(tree.root());
    command.env("PRESENCE_BIN", release.join("presence"));
    command.env("PRESENCE_PLUGINS", tree.plugins_out()).env("PRESENCE_GUESTS", tree.guests_out());
    command.env(nats::VARIABLE, server);
    Ok(command)
}

/// The simulation, over many seeds. Becomes it.
pub fn simulate(tree: &Tree, arguments: &[String]) -> anyhow::Result<()> {
    let mut build = process::cargo();
    build.args(["build", "--release", "-p", "presence-tests", "--bin", "sim"]);
    call(build.current_dir(tree.root()))?;
    Err(become_program(Command::new(tree.target().join("release").join("sim")).args(arguments)))
}

/// What CI calls: faults that show without running anything first.
pub fn ci(tree: &Tree) -> anyhow::Result<()> {
    lint(tree)?;
    test(tree, &[])
}
