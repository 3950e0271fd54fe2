//! Arguments and exit codes; everything else is in the library.

use std::process::ExitCode;

use presence_host::{cli, commands};

/// Many small things live shortly here: the system's allocator took a fifth of the time of a change (ARCHITECTURE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    commands::run(cli::parse_args())
}
