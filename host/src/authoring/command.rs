//! The arguments of the authors' verbs, and their exit codes: 0, 1 a hook or a scenario failed, 64 usage, 69 a tool is
//! missing, 78 the plugin or its configuration can't be used.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{build, inspect, new, run as run_hook, test};
use crate::plugins::CompileMode;

/// What authors do.
#[derive(Debug, Subcommand)]
pub enum AuthoringCommand {
    /// Write a small working project
    #[command(after_help = "Example:\n  presence plugin new greeter --lang rust")]
    New(NewArguments),
    /// Build a project with the tools of its language
    #[command(after_help = "Example:\n  presence plugin build greeter")]
    Build {
        /// The project
        #[arg(default_value = ".", value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print what a plugin file is, and whether a host can use it
    #[command(after_help = "Example:\n  presence plugin inspect greeter/dist/greeter.wasm")]
    Inspect {
        /// The component
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run one hook here, without a host
    #[command(
        after_help = "Example:\n  presence plugin run greeter/dist/greeter.wasm --hook user-online --user alice \\\n      --config presence.toml\n\nRequests go out to granted origins; keyvalue is in memory and starts empty."
    )]
    Run(RunArguments),
    /// Run the scenarios of a project: DIR/scenarios/*.toml
    #[command(after_help = "Example:\n  presence plugin test greeter")]
    Test(TestArguments),
}

/// `presence plugin new`
#[derive(Debug, Args)]
pub struct NewArguments {
    /// The plugin's name: lower-case letters, digits, `-`
    pub name: String,
    /// The language
    #[arg(long, value_enum, default_value_t = Language::Rust, value_name = "LANGUAGE")]
    pub lang: Language,
    /// Where the project goes; default: a folder of the plugin's name
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A language with a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// With cargo.
    Rust,
    /// JavaScript, with node and componentize-js.
    Js,
    /// With componentize-py.
    Python,
}

/// `presence plugin run`
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The component
    pub file: PathBuf,
    /// Which hook
    #[arg(long, value_name = "HOOK")]
    pub hook: String,
    /// Whose event
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// What differs from the usual event: a JSON file, names in snake_case
    #[arg(long, value_name = "FILE")]
    pub event: Option<PathBuf>,
    /// The plugin's config (JSON or TOML), or a presence.toml with its entry: then also grants and limits
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which entry of that presence.toml; default: the one with this file
    #[arg(long, value_name = "NAME", requires = "config")]
    pub plugin: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `presence plugin test`
#[derive(Debug, Args)]
pub struct TestArguments {
    /// The project
    #[arg(default_value = ".", value_name = "DIR")]
    pub folder: PathBuf,
    /// The component; default: the one in DIR/dist
    #[arg(long, value_name = "FILE")]
    pub component: Option<PathBuf>,
}

/// Carries a verb out; returns the exit code.
pub async fn run(command: AuthoringCommand, compile: CompileMode) -> u8 {
    match command {
        AuthoringCommand::New(arguments) => new::run(&arguments),
        AuthoringCommand::Build { folder } => build::run(&folder),
        AuthoringCommand::Inspect { file, json } => inspect::run(&file, json, compile).await,
        AuthoringCommand::Run(arguments) => run_hook::run(&arguments, compile).await,
        AuthoringCommand::Test(arguments) => test::run(&arguments, compile).await,
    }
}

/// Where compiled code of local runs is kept: the user's own cache.
pub(super) fn cache_folder() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = rustix::process::getuid().as_raw();
    named("XDG_CACHE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".cache")))
        .map_or_else(|| std::env::temp_dir().join(format!("presence-{user}")), |cache| cache.join("presence"))
}
