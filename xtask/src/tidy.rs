//! The rules of this repository that no compiler checks. Each rule is a function from text to faults, so that the
//! tests can show it failing.

mod code;
mod core_crate;
mod links;
mod published;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use code::Code;

/// Longer files are a sign to split by idea; tests don't count.
const LONG_FILE: usize = 500;

/// A rule is broken here.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    file: PathBuf,
    /// From 1; 0 for the whole file.
    line: usize,
    what: String,
}

impl Fault {
    fn new(file: &Path, line: usize, what: impl Into<String>) -> Fault {
        Fault { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

/// Every rule on every file under `root`. Prints warnings and faults; faults are an error.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    for file in files(root)? {
        let name = file.strip_prefix(root).unwrap_or(&file).to_owned();
        let is = |ending: &str| name.extension().is_some_and(|found| found == ending);
        let in_core = name.starts_with("host/core");
        if is("rs") {
            let text = read(&file)?;
            faults.extend(source_faults(&name, &text));
            if in_core {
                faults.extend(core_crate::source_faults(&name, &text));
            }
            if let Some(warning) = length_warning(&name, &text) {
                eprintln!("warning: {warning}");
            }
        } else if is("md") {
            faults.extend(links::faults(root, &name, &read(&file)?));
        } else if in_core && name.ends_with("Cargo.toml") {
            faults.extend(core_crate::manifest_faults(&name, &read(&file)?));
        }
    }
    faults.extend(published::faults(root)?);
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("tidy: {} rules are broken", faults.len());
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("can't read `{}`", file.display()))
}

/// All files, sorted; without what is hidden or built.
fn files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("can't list `{}`", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let kind = entry.file_type()?;
            if name.to_string_lossy().starts_with('.') || name == "target" {
                continue;
            }
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What holds for every Rust file.
fn source_faults(file: &Path, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push(Fault::new(
            file,
            1,
            "must open with `//!`: what the file is for, and what it must not know",
        ));
    }
    if file.ends_with("mod.rs") {
        faults.push(Fault::new(
            file,
            0,
            "must be called after its folder and lie beside it (`foo.rs` beside `foo/`)",
        ));
    }
    let code = Code::of(text);
    for (name, why) in
        [("todo", "unfinished code"), ("unimplemented", "unfinished code"), ("dbg", "left from a search")]
    {
        for line in code.lines_with_macro(name) {
            faults.push(Fault::new(file, line, format!("`{name}!` is {why}")));
        }
    }
    for line in code.lines_with("#[ignore") {
        faults.push(Fault::new(file, line, "an ignored test tests nothing: mend it or remove it"));
    }
    faults
}

/// A word on files that are too long, tests apart.
fn length_warning(file: &Path, text: &str) -> Option<Fault> {
    let in_tests = file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs");
    let length = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
    let long = length > LONG_FILE && !in_tests;
    long.then(|| Fault::new(file, 0, format!("{length} lines: over {LONG_FILE}, split it by idea")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_in_order_has_no_faults() {
        let text = "//! What it is for.\n\n// todo!() in a comment\nfn f() -> &'static str { \"dbg!(1) #[ignore]\" }\n";
        assert_eq!(source_faults(Path::new("host/src/a.rs"), text), []);
    }

    #[test]
    fn a_file_must_say_what_it_is_for() {
        for text in ["fn f() {}\n", "\n//! Late.\n", "// Plain.\n", ""] {
            let faults = source_faults(Path::new("a.rs"), text);
            assert_eq!(faults.len(), 1, "{text:?}");
            assert!(faults[0].to_string().starts_with("a.rs:1: must open with `//!`"), "{}", faults[0]);
        }
    }

    #[test]
    fn unfinished_code_is_found() {
        let text =
            "//! A.\nfn f() {\n    todo!();\n    std::unimplemented! (\"later\");\n    let _ = dbg!(1);\n}\n";
        let faults = source_faults(Path::new("a.rs"), text);
        let expected = [
            "a.rs:3: `todo!` is unfinished code",
            "a.rs:4: `unimplemented!` is unfinished code",
            "a.rs:5: `dbg!` is left from a search",
        ];
        assert_eq!(whats(&faults), expected);
    }

    #[test]
    fn ignored_tests_are_found() {
        let text = "//! A.\n#[test]\n#[ignore = \"slow\"]\nfn f() {}\n";
        assert_eq!(
            source_faults(Path::new("a.rs"), text),
            [Fault::new(Path::new("a.rs"), 3, "an ignored test tests nothing: mend it or remove it")]
        );
    }

    #[test]
    fn modules_lie_beside_their_folder() {
        let faults = source_faults(Path::new("host/src/store/mod.rs"), "//! A.\n");
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn long_files_are_warned_about_but_tests_do_not_count() {
        let long = "//! A.\n".to_owned() + &"fn f() {}\n".repeat(LONG_FILE);
        assert!(length_warning(Path::new("host/src/a.rs"), &long).is_some());
        assert!(length_warning(Path::new("host/src/a/tests.rs"), &long).is_none());
        let tested = "//! A.\n#[cfg(test)]\n".to_owned() + &"fn f() {}\n".repeat(LONG_FILE);
        assert!(length_warning(Path::new("host/src/a.rs"), &tested).is_none());
    }

    #[test]
    fn a_tree_with_a_fault_is_refused() {
        let root = std::env::temp_dir().join(format!("presence-tidy-{}", std::process::id()));
        fs::create_dir_all(root.join("host/core/src")).unwrap();
        fs::create_dir_all(root.join("target")).unwrap();
        fs::write(root.join("target/made.rs"), "todo!()").unwrap();
        fs::write(root.join("host/core/src/lib.rs"), "//! A.\n").unwrap();
        check(&root).unwrap();
        fs::write(root.join("host/core/src/lib.rs"), "//! A.\nuse std::time::Instant;\n").unwrap();
        fs::write(root.join("host/core/Cargo.toml"), "[dependencies]\ntokio = \"1\"\n").unwrap();
        fs::write(root.join("README.md"), "[gone](docs/gone.md)\n").unwrap();
        let error = check(&root).unwrap_err();
        assert_eq!(error.to_string(), "tidy: 3 rules are broken");
        fs::remove_dir_all(&root).unwrap();
    }
}
