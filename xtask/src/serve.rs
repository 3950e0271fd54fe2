//! `cargo xtask run`: a profile service and a host, from source, until Ctrl-C. The host's exit code is the answer.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::plugins::{self, Which};
use crate::process::{self, Background, POLL, call};
use crate::tree::Tree;

/// Where presence.toml's profile-updater sends profiles.
const PROFILE_SERVICE: &str = "127.0.0.1:8090";

/// A program that binds a port does so within this time; a slow machine compiles plugins meanwhile.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Builds, starts, waits for the end.
pub fn run(tree: &Tree) -> anyhow::Result<ExitCode> {
    plugins::build(tree, Which::Shipped)?;
    build(tree)?;

    let interrupted = note_interrupts()?;
    let mut service = start_profile_service(tree)?;
    let presence = tree.dev_binary("presence");
    print_next_steps(tree, &presence);
    let mut command = Command::new(&presence);
    command.args(["serve", "--config", "presence.toml"]).current_dir(tree.root()).stdin(Stdio::null());
    let mut host = Background::start("presence", &mut command)?;
    let status = wait(&mut host, &mut service, &interrupted)?;
    service.terminate();
    service.wait_for(START_LIMIT)?;
    Ok(exit_code(status))
}

/// The host and the profile service. All packages and one test: features are then those of `cargo xtask test`, and
/// whoever types that next does not wait for every dependency again.
pub fn build(tree: &Tree) -> anyhow::Result<()> {
    let mut build = process::cargo();
    build.args(["build", "--workspace", "--bin", "presence", "--bin", "profile-service"]);
    call(build.args(["--test", "all"]).current_dir(tree.root()))
}

/// Notes Ctrl-C and its like instead of dying of them.
pub fn note_interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let noted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, noted.clone()).context("can't listen to signals")?;
    }
    Ok(noted)
}

fn start_profile_service(tree: &Tree) -> anyhow::Result<Background> {
    let address: SocketAddr = PROFILE_SERVICE.parse().context("the address of the profile service")?;
    if TcpStream::connect_timeout(&address, START_LIMIT).is_ok() {
        bail!(
            "something listens on {PROFILE_SERVICE} already, where the profile service belongs: end it first"
        );
    }
    let mut command = Command::new(tree.dev_binary("profile-service"));
    command.args(["--listen", PROFILE_SERVICE]).stdin(Stdio::piped());
    let mut service = Background::start("the profile service", &mut command)?;
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect_timeout(&address, START_LIMIT).is_err() {
        if let Some(status) = service.ended()? {
            bail!("the profile service ended ({status})");
        }
        if Instant::now() > deadline {
            bail!("the profile service does not listen on {PROFILE_SERVICE}");
        }
        std::thread::sleep(POLL);
    }
    Ok(service)
}

fn print_next_steps(tree: &Tree, presence: &Path) {
    let shown = presence.strip_prefix(tree.root()).unwrap_or(presence).display();
    println!();
    println!("In a second terminal:   {shown} connect --user alice");
    println!("Then type i (idle), o (online), q (quit), and watch the profile service's lines here.");
    println!("Ctrl-C stops the host; a second one at once.");
    println!();
}

/// Until the host ends. The first interrupt asks it to stop, the next one makes it.
fn wait(
    host: &mut Background,
    service: &mut Background,
    interrupted: &AtomicBool,
) -> anyhow::Result<ExitStatus> {
    let mut asked = false;
    let mut service_lives = true;
    loop {
        if let Some(status) = host.ended()? {
            return Ok(status);
        }
        if service_lives && let Some(status) = service.ended()? {
            eprintln!("xtask: the profile service has ended ({status}); the host tries until it is back");
            service_lives = false;
        }
        if interrupted.swap(false, Ordering::Relaxed) {
            if asked {
                host.kill();
            } else {
                host.terminate();
            }
            asked = true;
        }
        std::thread::sleep(POLL);
    }
}

/// The same code; 128 and the signal's number for a host that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
