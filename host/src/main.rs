//! Arguments and exit codes; everything else is in the library.

use std::process::ExitCode;

use presence_host::{cli, commands};

fn main() -> ExitCode {
    commands::run(cli::parse_args())
}
