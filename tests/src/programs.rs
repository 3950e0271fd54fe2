//! The built programs and plugins, where they are, and running them to their end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::waiting::{WAIT, within};

/// The `presence` binary. Panics if it was not built.
pub fn presence() -> PathBuf {
    built("PRESENCE_BIN", "debug/presence")
}

/// A plugin of plugins/, by its crate's name. Panics if it was not built.
pub fn shipped_plugin(name: &str) -> PathBuf {
    let folder = built("PRESENCE_PLUGINS", "plugins");
    must_exist(folder.join(format!("{}.wasm", name.replace('-', "_"))))
}

/// Where `cargo xtask test` built the plugins of other languages: their projects, and their compiled code in `cache`.
/// Panics if it did not.
pub fn languages() -> PathBuf {
    built("PRESENCE_LANGUAGES", "languages")
}

/// Where `cargo xtask test` put schemathesis. Panics if it did not.
pub fn schemathesis() -> PathBuf {
    built("PRESENCE_SCHEMATHESIS", "tools/schemathesis/bin/st")
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
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    workspace.expect("the crate is in the workspace").join("target")
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
    line: String,
}

impl Program {
    /// `presence` with these arguments.
    pub fn presence(arguments: &[&str]) -> Program {
        let mut command = Command::new(presence());
        command.args(arguments).env_remove("PRESENCE_LOG").env_remove("PRESENCE_TOKEN");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Program { command, line: format!("presence {}", arguments.join(" ")) }
    }

    /// An environment variable for it.
    pub fn env(mut self, name: &str, value: &str) -> Program {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end, without input.
    pub async fn run(mut self) -> Ended {
        let output = within(format!("the end of `{}`", self.line), self.command.output()).await;
        let output = output.unwrap_or_else(|error| panic!("`{}`: {error}", self.line));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts it as if in a terminal.
    pub fn start(mut self) -> Terminal {
        self.command.stdin(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("`{}`: {error}", self.line));
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Terminal { child, input, output, line: self.line }
    }
}

/// A program that is typed into.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    line: String,
}

impl Terminal {
    /// Types a line.
    pub async fn types(&mut self, line: &str) {
        let typed = self.input.write_all(format!("{line}\n").as_bytes()).await;
        typed.unwrap_or_else(|error| panic!("`{}` takes no input: {error}", self.line));
    }

    /// Reads on until a line has all these texts.
    pub async fn until_printed(&mut self, texts: &[&str]) {
        let mut before = Vec::new();
        let reading = async {
            while let Ok(Some(line)) = self.output.next_line().await {
                if texts.iter().all(|text| line.contains(text)) {
                    return true;
                }
                before.push(line);
            }
            false
        };
        let found = tokio::time::timeout(WAIT, reading).await.unwrap_or(false);
        assert!(found, "`{}` printed no line with {texts:?} but\n{}", self.line, before.join("\n"));
    }

    /// Waits until it has ended by itself; returns its exit code.
    pub async fn until_ended(mut self) -> Option<i32> {
        let ended = within(format!("the end of `{}`", self.line), self.child.wait()).await;
        ended.expect("it is our child").code()
    }
}
