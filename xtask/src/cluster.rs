//! `cargo xtask cluster`: NATS, a profile service and three hosts on loopback, from source, until Ctrl-C, for trying out
//! what happens when one of them dies. Knows presence.toml, nothing of how hosts agree.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::nats;
use crate::plugins::{self, Which};
use crate::process::{Background, POLL};
use crate::serve;
use crate::tree::Tree;

/// A program that binds a port does so within this time.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Stopping in good order may take as long as hosts wait for each other and for their plugins.
const STOP_LIMIT: Duration = Duration::from_secs(60);

const HOSTS: usize = 3;

/// Free ports, picked before anything starts.
struct Addresses {
    nats: SocketAddr,
    profiles: SocketAddr,
    /// For clients and for admin.
    hosts: Vec<[SocketAddr; 2]>,
}

/// Builds, starts, waits for the end.
pub fn run(tree: &Tree) -> anyhow::Result<ExitCode> {
    plugins::build(tree, Which::Shipped)?;
    let server = nats::bring(tree)?;
    serve::build(tree)?;
    let interrupted = serve::note_interrupts()?;
    let addresses = Addresses::pick()?;
    let folder = tree.target().join("cluster");
    prepare(&folder)?;

    let config = folder.join("nats.conf");
    let store = folder.join("nats");
    let text = format!("listen: \"{}\"\njetstream {{ store_dir: {:?} }}\n", addresses.nats, store);
    fs::write(&config, text).with_context(|| format!("can't write `{}`", config.display()))?;
    let mut command = Command::new(server);
    let mut nats = start("nats", command.arg("-c").arg(&config), addresses.nats)?;
    let mut command = Command::new(tree.dev_binary("profile-service"));
    command.args(["--listen", &addresses.profiles.to_string()]).stdin(Stdio::piped());
    let mut profiles = start("profiles", &mut command, addresses.profiles)?;

    let presence = tree.dev_binary("presence");
    let mut hosts = Vec::new();
    for number in 1..=HOSTS {
        let path = write_config(tree, &folder, number, &addresses)?;
        let mut command = Command::new(&presence);
        command.arg("serve").arg("--config").arg(&path).current_dir(tree.root()).stdin(Stdio::null());
        let shown = format!("{} serve --config {}", short(tree, &presence), short(tree, &path));
        hosts.push((Background::start_prefixed(&format!("host-{number}"), &mut command)?, shown));
    }
    for ((host, _), [clients, admin]) in hosts.iter_mut().zip(&addresses.hosts) {
        until_listening(host, *clients)?;
        until_listening(host, *admin)?;
    }
    print_next_steps(tree, &presence, &hosts, &addresses);
    let failed = wait(&mut hosts, &mut [&mut nats, &mut profiles], &interrupted)?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A path as one would type it in the workspace.
fn short(tree: &Tree, path: &Path) -> String {
    path.strip_prefix(tree.root()).unwrap_or(path).display().to_string()
}

impl Addresses {
    fn pick() -> anyhow::Result<Addresses> {
        // All are held until the last one is picked, so that no two are alike.
        let mut held = Vec::new();
        let mut next = || -> anyhow::Result<SocketAddr> {
            let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
            let address = listener.local_addr()?;
            held.push(listener);
            Ok(address)
        };
        let (nats, profiles) = (next()?, next()?);
        let mut hosts = Vec::new();
        for _ in 0..HOSTS {
            hosts.push([next()?, next()?]);
        }
        Ok(Addresses { nats, profiles, hosts })
    }
}

/// An empty folder for this run; compiled plugins of earlier ones stay.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    let store = folder.join("nats");
    if store.exists() {
        fs::remove_dir_all(&store).with_context(|| format!("can't remove `{}`", store.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("can't make `{}`", folder.display()))
}

fn write_config(tree: &Tree, folder: &Path, number: usize, addresses: &Addresses) -> anyhow::Result<PathBuf> {
    let [clients, admin] = addresses.hosts[number - 1];
    let plugin = tree.plugins_out().join("profile_updater.wasm");
    let text = format!(
        "[host]\nname = \"host-{number}\"\nlisten = \"{clients}\"\nadmin = \"{admin}\"\ndata_dir = \"data\"\n\n\
         [cluster]\nstore = \"nats\"\nurls = [\"nats://{}\"]\n\n\
         [[plugin]]\nname = \"profile-updater\"\npath = {plugin:?}\n\
         config = {{ url = \"http://{profiles}/profiles\" }}\n\n\
         [plugin.grants]\nhttp = [\"http://{profiles}\"]\n",
        addresses.nats,
        profiles = addresses.profiles,
    );
    let path = folder.join(format!("host-{number}.toml"));
    fs::write(&path, text).with_context(|| format!("can't write `{}`", path.display()))?;
    Ok(path)
}

/// Starts a program and waits until it listens.
fn start(name: &str, command: &mut Command, address: SocketAddr) -> anyhow::Result<Background> {
    let mut program = Background::start_prefixed(name, command)?;
    until_listening(&mut program, address)?;
    Ok(program)
}

fn until_listening(program: &mut Background, address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect_timeout(&address, START_LIMIT).is_err() {
        if let Some(status) = program.ended()? {
            bail!("{} ended ({status})", program.name());
        }
        if Instant::now() > deadline {
            bail!("{} does not listen on {address}", program.name());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn print_next_steps(tree: &Tree, presence: &Path, hosts: &[(Background, String)], addresses: &Addresses) {
    let presence = short(tree, presence);
    println!("\nIn other terminals, be a client of any host; i is idle, o online, q quits:\n");
    for ((host, _), [clients, admin]) in hosts.iter().zip(&addresses.hosts) {
        println!("  {presence} connect --url ws://{clients} --user alice");
        println!("      {}: admin http://{admin}   kill -9 {}\n", host.name(), host.pid());
    }
    println!(
        "What the profile service is sent comes behind `profiles |`. Ctrl-C ends all; a second one at once.\n"
    );
}

/// Until all hosts have ended. The first interrupt asks them to stop, the next one makes them. True if something ended
/// otherwise than it should.
fn wait(
    hosts: &mut Vec<(Background, String)>,
    others: &mut [&mut Background],
    interrupted: &AtomicBool,
) -> anyhow::Result<bool> {
    let mut asked: Option<Instant> = None;
    let mut reported = vec![false; others.len()];
    let mut failed = false;
    while !hosts.is_empty() {
        let mut at = 0;
        while at < hosts.len() {
            let Some(status) = hosts[at].0.ended()? else {
                at += 1;
                continue;
            };
            let (host, command) = hosts.remove(at);
            eprintln!("xtask: {} has ended ({status})", host.name());
            failed |= asked.is_some() && !status.success();
            if asked.is_none() {
                eprintln!("xtask: {} others go on; to start it again: {command}", hosts.len());
            }
        }
        for (other, reported) in others.iter_mut().zip(&mut reported) {
            if !*reported && let Some(status) = other.ended()? {
                eprintln!("xtask: {} has ended ({status})", other.name());
                *reported = true;
            }
        }
        let impatient = interrupted.swap(false, Ordering::Relaxed);
        match asked {
            None if impatient => {
                hosts.iter_mut().for_each(|(host, _)| host.terminate());
                asked = Some(Instant::now());
            }
            Some(since) if impatient || since.elapsed() > STOP_LIMIT => {
                hosts.iter_mut().for_each(|(host, _)| host.kill());
            }
            _ => {}
        }
        std::thread::sleep(POLL);
    }
    Ok(failed)
}
