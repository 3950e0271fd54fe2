//! The command line: what can be typed. What it does is in `commands.rs`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api_keys::Scope;
use crate::authoring::AuthoringCommand;
use crate::telemetry::LogFormat;

/// Who is online, idle or offline, with WebAssembly hooks.
#[derive(Debug, Parser)]
#[command(name = "presence", version, max_term_width = 100, after_help = "Example:\n  presence serve")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a host
    #[command(after_help = "Example:\n  presence serve --config presence.toml --log-format json")]
    Serve {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArgument,
        /// Logs for people or for programs
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        log_format: LogFormat,
        /// What is logged, such as `info` or `info,presence_host::plugins=debug`
        #[arg(
            long = "log",
            env = "PRESENCE_LOG",
            default_value = "info,async_nats=error",
            value_name = "FILTER"
        )]
        log_filter: String,
    },
    /// Check a configuration and its plugins, without running anything
    #[command(after_help = "Example:\n  presence check --config presence.toml")]
    Check {
        /// The configuration.
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Let a running host read presence.toml and its plugins again
    #[command(
        after_help = "Example:\n  presence reload --admin http://127.0.0.1:7071\n\nOnly [[plugin]] and [[api.key]] \
                            sections and plugin files are applied, all of them or, if anything is wrong, none."
    )]
    Reload {
        /// Whom to ask.
        #[command(flatten)]
        admin: AdminArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Open a session in this terminal and print what it is told
    #[command(after_help = "Example:\n  presence connect --user alice\n\nThen type i (idle), o (online), \
                            w NAME (watch), u NAME (unwatch), q (quit).")]
    Connect(ConnectArguments),
    /// Put the load of many clients on a deployment and print what it took
    #[command(
        after_help = "Example:\n  presence bench --sessions 2000 --admin http://127.0.0.1:7071\n  presence bench --url \
                            ws://a:7070 --url ws://b:7070 --tokens tokens.txt --json\n\nIts users are real ones: the \
                            plugins of the deployment hear of them."
    )]
    Bench(BenchArguments),
    /// Print the status of users
    #[command(after_help = "Example:\n  presence users alice bob")]
    Users {
        /// Where to ask.
        #[command(flatten)]
        admin: AdminArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// User ids
        #[arg(required = true, value_name = "USER")]
        users: Vec<String>,
    },
    /// Print the OpenAPI document of the admin listener
    #[command(
        after_help = "Example:\n  presence openapi > openapi.json\n\nA running host serves the same at /v1/openapi.json."
    )]
    Openapi,
    /// Print who lives: the instances that a host knows
    #[command(after_help = "Example:\n  presence instances --admin http://127.0.0.1:7071")]
    Instances {
        /// Where to ask.
        #[command(flatten)]
        admin: AdminArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print who owns what: the partitions and their owners
    #[command(after_help = "Example:\n  presence partitions --admin http://127.0.0.1:7071")]
    Partitions {
        /// Where to ask.
        #[command(flatten)]
        admin: AdminArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make keys for the HTTP API
    #[command(
        subcommand,
        after_help = "Example:\n  presence keys new --name backend --scope read --scope sessions"
    )]
    Keys(KeysCommand),
    /// Write, test and look after plugins
    #[command(subcommand, after_help = "Example:\n  presence plugin new greeter --lang rust")]
    Plugin(PluginCommand),
    /// Compile a plugin and write the code: what `serve` runs in a process of its own
    #[command(hide = true)]
    CompilePlugin {
        /// The component
        input: PathBuf,
        /// The compiled code
        output: PathBuf,
    },
}

/// `presence keys …`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key: print it, once, and the lines for presence.toml
    #[command(after_help = "Example:\n  presence keys new --name backend --scope read --scope sessions")]
    New {
        /// Whose it is
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What it may do: read, sessions, admin (which includes the others); any number of times
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `presence plugin …`
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// What authors do.
    #[command(flatten)]
    Author(AuthoringCommand),
    /// List what the plugins of a host do
    #[command(after_help = "Example:\n  presence plugin list --admin http://127.0.0.1:7071")]
    List {
        /// Where to ask.
        #[command(flatten)]
        admin: AdminArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List, show, replay or drop events that could not be delivered
    #[command(
        after_help = "Example:\n  presence plugin dead-letters --plugin webhook --hook user-online\n  presence \
                            plugin dead-letters replay 7 8"
    )]
    DeadLetters(DeadLettersArguments),
}

/// `presence plugin dead-letters`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DeadLettersArguments {
    /// What to do; none: list them.
    #[command(subcommand)]
    pub verb: Option<DeadLettersVerb>,
    /// For the list.
    #[command(flatten)]
    pub list: ListLettersArguments,
}

/// `presence plugin dead-letters …`
#[derive(Debug, Subcommand)]
pub enum DeadLettersVerb {
    /// List them, oldest first
    #[command(after_help = "Example:\n  presence plugin dead-letters list --plugin webhook --user alice")]
    List(ListLettersArguments),
    /// Show everything about one
    #[command(after_help = "Example:\n  presence plugin dead-letters show 7")]
    Show {
        /// Where to ask.
        #[command(flatten)]
        admin: AdminArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Its number
        #[arg(value_name = "NUMBER")]
        number: NonZeroU64,
    },
    /// Tell their plugins once more; each goes when it is delivered
    #[command(
        after_help = "Example:\n  presence plugin dead-letters replay 7 8\n  presence plugin dead-letters replay \
                            --all --plugin webhook"
    )]
    Replay(ChooseLettersArguments),
    /// Forget them
    #[command(after_help = "Example:\n  presence plugin dead-letters drop --all --user alice")]
    Drop(ChooseLettersArguments),
}

/// Which dead letters are listed.
#[derive(Debug, Args)]
pub struct ListLettersArguments {
    /// Where to ask.
    #[command(flatten)]
    pub admin: AdminArgument,
    /// Only these.
    #[command(flatten)]
    pub filter: LetterFilter,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which dead letters something is done with.
#[derive(Debug, Args)]
pub struct ChooseLettersArguments {
    /// Where to ask.
    #[command(flatten)]
    pub admin: AdminArgument,
    /// Of all of them, only these.
    #[command(flatten)]
    pub filter: LetterFilter,
    /// All there are, as far as the filters choose them
    #[arg(long)]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Their numbers
    #[arg(value_name = "NUMBER", required_unless_present = "all", conflicts_with_all = ["all", "plugin", "hook", "user"])]
    pub numbers: Vec<NonZeroU64>,
}

/// Narrows a choice of dead letters.
#[derive(Debug, Args)]
pub struct LetterFilter {
    /// Only of this plugin
    #[arg(long, value_name = "NAME")]
    pub plugin: Option<String>,
    /// Only of this hook
    #[arg(long, value_name = "HOOK")]
    pub hook: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
}

/// Which file.
#[derive(Debug, Args)]
pub struct ConfigArgument {
    /// The configuration file
    #[arg(long = "config", default_value = "presence.toml", value_name = "FILE")]
    pub path: PathBuf,
}

/// Which host to ask.
#[derive(Debug, Args)]
pub struct AdminArgument {
    /// The host's admin listener
    #[arg(long = "admin", default_value = "http://127.0.0.1:7071", value_name = "URL")]
    pub url: String,
    /// A file with a key for it, where presence.toml has [[api.key]]; without it, the key in PRESENCE_API_KEY
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A PEM file with the authority that has signed its certificate, for https; without it, those of the system
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// `presence connect`
#[derive(Debug, Args)]
pub struct ConnectArguments {
    /// The user, with auth.mode = "none"
    #[arg(long, value_name = "NAME", required_unless_present = "token")]
    pub user: Option<String>,
    /// The token, with auth.mode = "jwt"
    #[arg(long, env = "PRESENCE_TOKEN", value_name = "JWT", hide_env_values = true)]
    pub token: Option<String>,
    /// The host's listener for clients
    #[arg(long, default_value = "ws://127.0.0.1:7070", value_name = "URL")]
    pub url: String,
    /// A PEM file with the authority that has signed its certificate, for wss; without it, those of the system
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// `presence bench`
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// A host's listener for clients; several: sessions are opened at each in turn
    #[arg(long = "url", default_value = "ws://127.0.0.1:7070", value_name = "URL")]
    pub urls: Vec<String>,
    /// How many sessions are opened, one for each user
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub sessions: usize,
    /// So many are being opened at once
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub connecting: usize,
    /// Status changes a second, over all sessions
    #[arg(long, default_value_t = 200.0, value_parser = positive, value_name = "N")]
    pub rate: f64,
    /// How long statuses are changed
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub seconds: u64,
    /// So many sessions watch one user; at most all others
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub watchers: usize,
    /// So many transitions of one user are timed
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub rounds: usize,
    /// So many further sessions ask much and read nothing
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub slow: usize,
    /// So many sessions are opened, changed and closed as a backend that holds them, over --admin
    #[arg(long, default_value_t = 0, requires = "admin", value_name = "N")]
    pub held: usize,
    /// Users are called this and a number
    #[arg(long, default_value = "bench-", value_name = "TEXT")]
    pub prefix: String,
    /// With auth.mode = "jwt": a file with a token in each line
    #[arg(long, conflicts_with = "secret_file", value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// With auth.mode = "jwt": the secret of an HS256 key, to sign tokens with
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// The `iss` of these tokens
    #[arg(long, requires = "secret_file", value_name = "TEXT")]
    pub issuer: Option<String>,
    /// The `aud` of these tokens
    #[arg(long, requires = "secret_file", value_name = "TEXT")]
    pub audience: Option<String>,
    /// The `kid` of these tokens
    #[arg(long, requires = "secret_file", value_name = "TEXT")]
    pub key_id: Option<String>,
    /// The admin listener of the one host: its memory is measured, and --held is asked for there
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// A file with the key for it; or PRESENCE_API_KEY in the environment
    #[arg(long, requires = "admin", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A PEM file with the authority that has signed the certificates; without it, those of the system
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 1e6 => Ok(number),
        _ => Err("give a number above 0, at most 1000000".to_owned()),
    }
}

/// Reads the arguments of this process; on a mistake prints what would be right and exits with 64.
pub fn parse_args() -> Command {
    match Arguments::try_parse() {
        Ok(arguments) => arguments.command,
        Err(error) => {
            // Help and version are no mistakes. A closed output is nobody's loss.
            let _ = error.print();
            std::process::exit(if error.use_stderr() { 64 } else { 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_of_the_guide_are_understood() {
        let documents = [crate::guide::PLUGINS, crate::guide::GETTING_STARTED];
        let blocks: Vec<String> =
            documents.iter().flat_map(|document| crate::guide::blocks(document, "console")).collect();
        let lines = blocks.iter().flat_map(|block| block.lines());
        let others = ["$ cargo xtask ", "$ node "];
        let lines: Vec<&str> =
            lines.filter(|line| !others.iter().any(|other| line.starts_with(other))).collect();
        assert!(lines.len() > 20, "{lines:#?}");
        for line in lines {
            let command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("{line}"));
            let parsed = Arguments::try_parse_from(command.split_whitespace());
            parsed.unwrap_or_else(|error| panic!("{line}\n{error}"));
        }
    }

    #[test]
    fn every_verb_shows_an_example() {
        let mut open = vec![Arguments::command()];
        while let Some(command) = open.pop() {
            if command.is_hide_set() {
                continue;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:\n  presence"), "{}", command.get_name());
            open.extend(command.get_subcommands().cloned());
        }
        Arguments::command().debug_assert();
    }
}
