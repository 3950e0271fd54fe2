//! The command line: what can be typed. What it does is in `commands.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
        after_help = "Example:\n  presence reload --admin http://127.0.0.1:7071\n\nOnly [[plugin]] sections and \
                            plugin files are applied, all of them or, if anything is wrong, none."
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

/// `presence plugin …`
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// What authors do.
    #[command(flatten)]
    Author(AuthoringCommand),
    /// List events that could not be delivered
    #[command(after_help = "Example:\n  presence plugin dead-letters --plugin webhook --hook user-online")]
    DeadLetters {
        /// Where to ask.
        #[command(flatten)]
        admin: AdminArgument,
        /// Only of this plugin
        #[arg(long, value_name = "NAME")]
        plugin: Option<String>,
        /// Only of this hook
        #[arg(long, value_name = "HOOK")]
        hook: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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
