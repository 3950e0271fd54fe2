//! What the verbs of the command line do, and the exit codes: 0, 1 a hook or a scenario failed, 64 usage, 69 unavailable, 75 stopped with something
//! undelivered, 78 configuration.

use std::path::Path;
use std::process::ExitCode;

use crate::app::{App, BuildError};
use crate::cli::{Command, KeysCommand, PluginCommand};
use crate::driver::Ending;
use crate::gateway;
use crate::plugins::{self, CompileMode};
use crate::reload::Source;
use crate::settings::Settings;
use crate::telemetry;
use crate::{authoring, bench, cluster, config, connect, dead_letters, plugin_list, users};

mod check;
mod keys;
mod reload;

/// The arguments are wrong.
pub const EXIT_USAGE: u8 = 64;
/// A port is taken, or a server does not answer.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Stopped with something undelivered.
pub const EXIT_UNDELIVERED: u8 = 75;
/// presence.toml, or a plugin named there, is wrong.
pub const EXIT_CONFIGURATION: u8 = 78;

/// Runs a verb to its end.
pub fn run(command: Command) -> ExitCode {
    let code = match command {
        Command::Serve { config, log_format, log_filter } => {
            if let Err(error) = telemetry::init(log_format, &log_filter) {
                eprintln!("presence: {error}");
                return ExitCode::from(EXIT_USAGE);
            }
            with_settings(&config.path, |settings| serve(settings, &config.path))
        }
        Command::Check { config } => with_settings(&config.path, check::run),
        Command::Reload { admin, json } => block_on(reload::run(&admin, json)).unwrap_or_else(unavailable),
        Command::Connect(arguments) => block_on(connect::run(arguments)).unwrap_or_else(unavailable),
        Command::Bench(arguments) => block_on(bench::run(arguments)).unwrap_or_else(unavailable),
        Command::Users { admin, json, users } => {
            block_on(users::run(&admin, &users, json)).unwrap_or_else(unavailable)
        }
        Command::Openapi => {
            println!("{}", gateway::admin::openapi());
            0
        }
        Command::Instances { admin, json } => {
            block_on(cluster::instances(&admin, json)).unwrap_or_else(unavailable)
        }
        Command::Partitions { admin, json } => {
            block_on(cluster::partitions(&admin, json)).unwrap_or_else(unavailable)
        }
        Command::Keys(KeysCommand::New { name, scopes, json }) => keys::new(&name, scopes, json),
        Command::Plugin(PluginCommand::Author(command)) => block_on(authoring::run(command, compile_mode())),
        Command::Plugin(PluginCommand::List { admin, json }) => {
            block_on(plugin_list::run(&admin, json)).unwrap_or_else(unavailable)
        }
        Command::Plugin(PluginCommand::DeadLetters(arguments)) => {
            block_on(dead_letters::run(arguments)).unwrap_or_else(unavailable)
        }
        Command::CompilePlugin { input, output } => match plugins::compile_in_this_process(&input, &output) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error:#}");
                1
            }
        },
    };
    ExitCode::from(code)
}

fn unavailable(error: anyhow::Error) -> u8 {
    eprintln!("presence: {error:#}");
    EXIT_UNAVAILABLE
}

fn with_settings(path: &Path, run: impl FnOnce(Settings) -> u8) -> u8 {
    match config::load(path, &|name| std::env::var(name).ok()) {
        Ok(settings) => run(settings),
        Err(errors) => {
            eprintln!("{errors}");
            EXIT_CONFIGURATION
        }
    }
}

/// Runs on a runtime for the sockets; guests have one of their own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("presence").build();
    match runtime {
        Ok(runtime) => {
            let output = runtime.block_on(future);
            runtime.shutdown_background();
            output
        }
        Err(error) => panic!("the operating system gives no threads: {error}"),
    }
}

fn compile_mode() -> CompileMode {
    CompileMode::current_exe().unwrap_or_else(|error| {
        tracing::warn!(%error, "the own executable can't be found: plugins are compiled in this process, without limits");
        CompileMode::InProcess
    })
}

fn serve(settings: Settings, path: &Path) -> u8 {
    let text = match config::read_text(path) {
        Ok(text) => text,
        Err(errors) => {
            eprintln!("{errors}");
            return EXIT_CONFIGURATION;
        }
    };
    let source = Source { path: path.to_owned(), text };
    block_on(async {
        // Before anything is announced: whoever reads the addresses may send a signal at once.
        let signal = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals can't be handled");
                return EXIT_UNAVAILABLE;
            }
        };
        let app = match App::build(settings, source, compile_mode()).await {
            Ok(app) => app,
            Err(error @ BuildError::Plugins(_)) => {
                eprintln!("{error}");
                return EXIT_CONFIGURATION;
            }
            Err(BuildError::Store(error)) if error.is_configuration() => {
                eprintln!("presence: {error}");
                return EXIT_CONFIGURATION;
            }
            Err(error @ BuildError::Telemetry(_)) => return unavailable(error.into()),
            Err(BuildError::KeyFile(error)) if error.is_configuration() => {
                eprintln!("presence: {error}");
                return EXIT_CONFIGURATION;
            }
            Err(
                error @ (BuildError::Bind(_)
                | BuildError::Store(_)
                | BuildError::KeyValue(_)
                | BuildError::KeyFile(_)
                | BuildError::Signal(_)),
            ) => {
                eprintln!("presence: {error}");
                return EXIT_UNAVAILABLE;
            }
        };
        report(&app.run(signal.wait()).await)
    })
}

/// The last lines, and the exit code.
fn report(stopped: &Ending) -> u8 {
    if let Some(error) = &stopped.error {
        tracing::error!(error, "the host can't go on");
        return EXIT_CONFIGURATION;
    }
    if stopped.undelivered == 0 {
        tracing::info!("stopped: everything is settled");
        return 0;
    }
    for event in &stopped.undelivered_list {
        tracing::error!(event, "undelivered");
    }
    tracing::error!(
        undelivered = stopped.undelivered,
        listed = stopped.undelivered_list.len(),
        "stopped with something undelivered"
    );
    EXIT_UNDELIVERED
}

/// SIGTERM and SIGINT.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {})
    }

    #[cfg(unix)]
    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT"),
        }
    }

    #[cfg(not(unix))]
    async fn wait(self) {
        // Without a console there is nobody to interrupt it.
        let _ = tokio::signal::ctrl_c().await;
    }
}
