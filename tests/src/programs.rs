//! The built programs and plugins, where they are, and running them to their end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::waiting::within;

/// The `presence` binary. Panics if it was not built.
pub fn presence() -> PathBuf {
    built("PRESENCE_BIN", "debug/presence")
}

/// A plugin of plugins/, by its crate's name. Panics if it was not built.
pub fn shipped_plugin(name: &str) -> PathBuf {
    let folder = built("PRESENCE_PLUGINS", "plugins");
    must_exist(folder.join(format!("{}.wasm", name.replace('-', "_"))))
}

/// A guest of tests/guests/, by its crate's name. Panics if it was not built.
pub fn guest(name: &str) -> PathBuf {
    let folder = built("PRESENCE_GUESTS", "guests");
    must_exist(folder.join(format!("{}.wasm", name.replace('-', "_"))))
}

/// What the variable says, or the place in the workspace's target folder.
fn built(variable: &str, in_target: &str) -> PathBuf {
    let place = std::env::var_os(variable).map(PathBuf::from);
    must_exist(place.unwrap_or_else(|| target().join(in_target)))
}

fn must_exist(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "`{}` is missing: run `cargo xtask test`, which builds it", path.display());
    path
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// Where daemons of tests keep compiled plugins: shared, so that each plugin is compiled once.
pub(crate) fn shared_data() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("presence-tests-{}", rustix::process::getuid().as_raw()));
    private_folder(&folder);
    folder
}

fn private_folder(folder: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.unwrap_or_else(|error| panic!("can't make `{}`: {error}", folder.display()));
}

/// A folder of a test's own; gone when the value is.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty one.
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("presence-test-{}-{number}", std::process::id()));
        private_folder(&folder);
        Folder(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and says where it is.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content)
            .unwrap_or_else(|error| panic!("can't write `{}`: {error}", path.display()));
        path
    }
}

impl Default for Folder {
    fn default() -> Folder {
        Folder::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How a program ended and what it printed.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error: the log.
    pub stderr: String,
}

impl Ended {
    /// Panics unless the exit code is this one.
    pub fn with_code(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "exit code\n{}", self.output());
        self
    }

    /// Panics unless every text was printed somewhere.
    pub fn says(self, texts: &[&str]) -> Ended {
        let output = self.output();
        for text in texts {
            assert!(output.contains(text), "`{text}` is not in\n{output}");
        }
        self
    }

    /// Both outputs.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// One run of `presence` with arguments.
#[derive(Debug)]
pub struct Program {
    command: Command,
    input: String,
    line: String,
}

impl Program {
    /// `presence` with these arguments.
    pub fn presence(arguments: &[&str]) -> Program {
        let mut command = Command::new(presence());
        command.args(arguments).env_remove("PRESENCE_LOG").env_remove("PRESENCE_TOKEN").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Program { command, input: String::new(), line: format!("presence {}", arguments.join(" ")) }
    }

    /// What is typed into it before its input ends.
    pub fn typing(mut self, input: &str) -> Program {
        self.input = input.to_owned();
        self
    }

    /// An environment variable for it.
    pub fn env(mut self, name: &str, value: &str) -> Program {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end.
    pub async fn run(mut self) -> Ended {
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("`{}`: {error}", self.line));
        let mut stdin = child.stdin.take().expect("a pipe");
        // A program that ends without reading is the caller's to judge.
        let _ = stdin.write_all(self.input.as_bytes()).await;
        drop(stdin);
        let output = within(format_args!("the end of `{}`", self.line), child.wait_with_output()).await;
        let output = output.unwrap_or_else(|error| panic!("`{}`: {error}", self.line));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}
