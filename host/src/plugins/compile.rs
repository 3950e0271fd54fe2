//! From a component to native code, in a child process with limits: a compiler is large, and its input is not ours.
//! Knows files and processes, not plugins.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::engine::new_engine;

/// The hidden verb under which the executable compiles: `presence compile-plugin <component> <output>`.
pub const COMPILE_VERB: &str = "compile-plugin";

/// How long one compilation may take.
pub(super) const WALL_LIMIT: Duration = Duration::from_secs(120);
/// Processor seconds of the child, over all its threads.
pub(super) const CPU_LIMIT_SECONDS: u64 = 240;
/// Address space of the child, in bytes.
pub(super) const ADDRESS_SPACE_LIMIT: u64 = 6 << 30;
/// So much nicer than the host the child is: enough for guests to go first, little enough to be done in time where
/// others use the machine too.
const LESS_URGENT: i32 = 5;
/// So often the child looks whether its parent lives.
const ORPHAN_LOOK: Duration = Duration::from_millis(500);
/// So much of what the child says is kept.
const MAX_COMPLAINT_BYTES: u64 = 16 << 10;

/// Where compilation happens.
#[derive(Clone, Debug)]
pub enum CompileMode {
    /// In a child process: this executable, called with [`COMPILE_VERB`].
    Child(PathBuf),
    /// In this process, without limits: for tests and benchmarks, whose executable has no such verb.
    InProcess,
}

impl CompileMode {
    /// A child process of the running executable.
    pub fn current_exe() -> std::io::Result<CompileMode> {
        std::env::current_exe().map(CompileMode::Child)
    }
}

/// Why there is no native code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler refuses the component.
    #[error("it is not a valid component: {0}")]
    Invalid(String),
    /// The compiler hit a limit or crashed.
    #[error(
        "compiling it failed ({status}): it may be too large for the compiler's limits (6 GiB, 240 s of processor time). {complaint}"
    )]
    Died {
        /// How the child ended.
        status: String,
        /// What it said before.
        complaint: String,
    },
    /// The wall clock limit.
    #[error("compiling it took longer than {} s and was given up", WALL_LIMIT.as_secs())]
    TooSlow,
    /// The child process did not start.
    #[error("the compiler `{}` can't be started: {error}", program.display())]
    NotStarted {
        /// The executable.
        program: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The compiler's files.
    #[error("compiled code can't be kept in `{}`: {error}; is the disk full?", path.display())]
    Files {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl CompileError {
    pub(super) fn files(path: &Path) -> impl FnOnce(std::io::Error) -> CompileError + '_ {
        move |error| CompileError::Files { path: path.to_owned(), error }
    }
}

/// What the child process does: limits itself, compiles the component in `input` and writes native code to `output`.
/// The error text is meant for standard error, the exit code for anything but 0.
pub fn compile_in_this_process(input: &Path, output: &Path) -> anyhow::Result<()> {
    limit(Resource::Cpu, CPU_LIMIT_SECONDS)?;
    limit(Resource::As, ADDRESS_SPACE_LIMIT)?;
    limit(Resource::Core, 0)?;
    // Plugins that run meanwhile go first. Where that is not allowed, it is a wish.
    _ = rustix::process::nice(LESS_URGENT);
    end_with(rustix::process::getppid());
    Ok(compile_file(input, output)?)
}

/// A compiler without its host is of no use: nobody waits for what it writes, and nobody would stop it.
fn end_with(parent: Option<rustix::process::Pid>) {
    std::thread::spawn(move || {
        while rustix::process::getppid() == parent {
            std::thread::sleep(ORPHAN_LOOK);
        }
        std::process::exit(1);
    });
}

/// Lowers a limit of this process; one that is lower already stays.
fn limit(resource: Resource, wanted: u64) -> std::io::Result<()> {
    let now = rustix::process::getrlimit(resource);
    let lower = |present: Option<u64>| Some(present.map_or(wanted, |present| present.min(wanted)));
    let limits = Rlimit { current: lower(now.current), maximum: lower(now.maximum) };
    Ok(rustix::process::setrlimit(resource, limits)?)
}

/// Compiles without limits.
fn compile_file(input: &Path, output: &Path) -> Result<(), CompileError> {
    let bytes = std::fs::read(input).map_err(CompileError::files(input))?;
    let engine = new_engine().map_err(|error| CompileError::Invalid(error.to_string()))?;
    let code =
        engine.precompile_component(&bytes).map_err(|error| CompileError::Invalid(format!("{error:#}")))?;
    std::fs::write(output, code).map_err(CompileError::files(output))
}

/// Compiles `input` to `output`, where the mode says.
pub(super) async fn compile(mode: &CompileMode, input: &Path, output: &Path) -> Result<(), CompileError> {
    match mode {
        CompileMode::Child(program) => compile_in_child(program, input, output, WALL_LIMIT).await,
        CompileMode::InProcess => {
            let (input, output) = (input.to_owned(), output.to_owned());
            tokio::task::spawn_blocking(move || compile_file(&input, &output))
                .await
                .unwrap_or_else(|error| Err(died("panic", &error.to_string())))
        }
    }
}

async fn compile_in_child(
    program: &Path,
    input: &Path,
    output: &Path,
    limit: Duration,
) -> Result<(), CompileError> {
    // The child gets no environment: it parses what others wrote, and secrets are kept in variables.
    let mut child = Command::new(program)
        .args([OsStr::new(COMPILE_VERB), input.as_os_str(), output.as_os_str()])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| CompileError::NotStarted { program: program.to_owned(), error })?;
    match tokio::time::timeout(limit, ended(&mut child)).await {
        Err(_) => Err(CompileError::TooSlow),
        Ok(Err(error)) => Err(CompileError::NotStarted { program: program.to_owned(), error }),
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, complaint))) => match (status.code(), complaint.split_once(INVALID)) {
            (Some(_), Some((_, reason))) => Err(CompileError::Invalid(reason.trim().to_owned())),
            _ => Err(died(&status.to_string(), &complaint)),
        },
    }
}

/// How [`CompileError::Invalid`] begins: by it the parent knows the author's mistakes from the compiler's.
const INVALID: &str = "it is not a valid component: ";

fn died(status: &str, complaint: &str) -> CompileError {
    CompileError::Died { status: status.to_owned(), complaint: complaint.trim().to_owned() }
}

/// Waits for the child's end and what it complained of.
async fn ended(child: &mut Child) -> std::io::Result<(std::process::ExitStatus, String)> {
    let mut complaint = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut limited = stderr.take(MAX_COMPLAINT_BYTES);
        limited.read_to_end(&mut complaint).await?;
        // What comes after the limit is read too, or the child would wait for a reader for ever.
        tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok((child.wait().await?, String::from_utf8_lossy(&complaint).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::plugins::testing::{Folder, quiet_component};

    /// What the child does, when [`the_child_compiles_and_complains`] runs it in a process of its own: it limits its
    /// process, so in any other it has nothing to do.
    #[test]
    fn the_child() {
        if std::env::var_os("TEST_INPUT").is_none() {
            return;
        }
        let file = |variable| PathBuf::from(std::env::var_os(variable).unwrap());
        if let Err(error) = compile_in_this_process(&file("TEST_INPUT"), &file("TEST_OUTPUT")) {
            eprintln!("Error: {error:#}");
            std::process::exit(1);
        }
        let limit = rustix::process::getrlimit(Resource::As).current;
        assert!(limit.is_some_and(|limit| limit <= ADDRESS_SPACE_LIMIT));
    }

    /// A stand-in for the executable: takes the verb and runs [`the_child`].
    fn executable(folder: &Folder) -> PathBuf {
        let this = std::env::current_exe().unwrap();
        let test = "--exact plugins::compile::tests::the_child --nocapture";
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = {COMPILE_VERB} ] || exit 64\n[ -z \"$SECRET\" ] || exit 65\n\
             TEST_INPUT=\"$2\" TEST_OUTPUT=\"$3\" exec '{}' {test}\n",
            this.display()
        );
        let path = folder.write("presence", script);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[tokio::test]
    async fn the_child_compiles_and_complains() {
        let folder = Folder::new();
        let mode = CompileMode::Child(executable(&folder));
        let output = folder.path().join("code");
        let good = folder.write("good.wasm", quiet_component());
        compile(&mode, &good, &output).await.unwrap();
        assert!(std::fs::metadata(&output).unwrap().len() > 0);
        let broken = folder.write("broken.wasm", b"\0asm\x0d\0\x01\0nonsense");
        let error = compile(&mode, &broken, &output).await.unwrap_err();
        assert!(matches!(error, CompileError::Invalid(_)), "{error}");
        assert!(!error.to_string().contains("Error:"), "{error}");
    }

    #[tokio::test]
    async fn a_compiler_that_takes_too_long_is_ended() {
        let folder = Folder::new();
        let started = folder.path().join("started");
        let script = format!("#!/bin/sh\necho $$ > '{}'\nexec sleep 600\n", started.display());
        let program = folder.write("presence", script);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let input = folder.write("good.wasm", quiet_component());
        let limit = Duration::from_millis(500);
        let ended = compile_in_child(&program, &input, &folder.path().join("code"), limit).await;
        assert!(matches!(ended, Err(CompileError::TooSlow)), "{ended:?}");
        // It may not even have begun, on a slow machine.
        if let Ok(process) = std::fs::read_to_string(started) {
            let command = Path::new("/proc").join(process.trim()).join("cmdline");
            let runs = || std::fs::read_to_string(&command).is_ok_and(|command| command.contains("600"));
            let gone = async {
                while runs() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is killed");
        }
    }
}
