//! Other programs: calling them, and ending the ones that were started. Only ever signals children of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

/// How often a child is asked whether it has ended.
pub const POLL: Duration = Duration::from_millis(50);

/// Cargo, as it called this program, without what it told of this package: build scripts look at some of that, and would
/// build again what is built when the same command is typed by hand.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs to the end; anything but success is an error that names the command.
pub fn call(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("xtask: {}", shown(command));
    let status = command.status().with_context(|| format!("can't start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Becomes the command: its exit code and its signals are this program's. Returns only if it can't be started.
pub fn become_program(command: &mut Command) -> anyhow::Error {
    eprintln!("xtask: {}", shown(command));
    let error = command.exec();
    anyhow::Error::new(error).context(format!("can't start `{}`", shown(command)))
}

/// What the command prints, without the last newline; `None` if it can't be started or fails.
pub fn answer(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// A program in the background. Ends with this value, by force if need be.
pub struct Background {
    name: String,
    child: Child,
}

impl Background {
    /// Starts it in a process group of its own: Ctrl-C in the terminal reaches xtask alone, which says who ends when.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Background> {
        let child = command.process_group(0).spawn().with_context(|| format!("can't start {name}"))?;
        Ok(Background { name: name.to_owned(), child })
    }

    /// The same, with every line of its outputs behind its name.
    pub fn start_prefixed(name: &str, command: &mut Command) -> anyhow::Result<Background> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut background = Background::start(name, command)?;
        for output in [
            background.child.stdout.take().map(|output| Box::new(output) as Box<dyn Read + Send>),
            background.child.stderr.take().map(|output| Box::new(output) as Box<dyn Read + Send>),
        ] {
            let (name, output) = (name.to_owned(), output.context("a pipe")?);
            // Ends with the output, which ends with the program.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    println!("{name} | {line}");
                }
            });
        }
        Ok(background)
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("can't wait for {}", self.name))
    }

    /// Asks it to stop.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Waits until it has ended or the time is over.
    pub fn wait_for(&mut self, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    fn signal(&mut self, signal: Signal) {
        // Once it was waited for, its id may be somebody else's.
        if !matches!(self.ended(), Ok(None)) {
            return;
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| rustix::process::kill_process(pid, signal)) {
            eprintln!("xtask: can't signal {}: {error}", self.name);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            self.kill();
            // Killed children end; what is left is to collect them.
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["test", "--workspace"]);
        assert_eq!(shown(&command), "cargo test --workspace");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = call(Command::new("false").arg("now")).unwrap_err();
        assert!(error.to_string().contains("`false now` failed"), "{error}");
        let error = call(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("can't start `no-such-program-here`"), "{error}");
    }

    #[test]
    fn a_program_in_the_background_is_asked_to_stop() {
        let mut program = Background::start("sleep", Command::new("sleep").arg("600")).unwrap();
        assert_eq!(program.ended().unwrap(), None);
        program.terminate();
        let status = program.wait_for(Duration::from_secs(10)).unwrap().expect("sleep ends on SIGTERM");
        assert!(!status.success());
    }
}
