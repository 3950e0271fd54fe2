//! Arguments and exit codes; everything else is in the library.

use std::process::ExitCode;

use presence_host::cli::{self, Command};
use presence_host::{commands, telemetry};

fn main() -> ExitCode {
    let command = cli::parse_args();
    commands::run(command)
}
