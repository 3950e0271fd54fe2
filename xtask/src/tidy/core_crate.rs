//! `host/core` holds decisions and nothing else: no runtime, no network, no clock, no randomness. The list of its
//! dependencies is short enough to be complete.

use std::path::Path;

use super::Fault;
use super::code::Code;

/// What `host/core` may depend on; anything new is a decision to take here.
const DEPENDENCIES: [&str; 4] = ["foldhash", "hashbrown", "serde", "thiserror"];
const DEV_DEPENDENCIES: [&str; 1] = ["proptest"];

/// Modules of the standard library that reach outside the process.
const OUTSIDE: [&str; 7] = ["env", "fs", "io", "net", "os", "process", "thread"];

/// Clocks, and the standard maps, whose order is random.
const WORDS: [(&str, &str); 5] = [
    ("SystemTime", "the core knows no clock: take `now` as an argument"),
    ("Instant", "the core knows no clock: take `now` as an argument"),
    ("RandomState", "the core knows no randomness: take the seed as an argument"),
    ("thread_rng", "the core knows no randomness: take the seed as an argument"),
    ("async", "the core waits for nothing: return an effect"),
];

/// Dependencies that are not on the list.
pub fn manifest_faults(file: &Path, manifest: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut section = String::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
            // `[dependencies.tokio]` names the crate in the header.
            if let Some((kind, name)) = section.rsplit_once('.')
                && kind.ends_with("dependencies")
            {
                faults.extend(dependency_fault(file, index + 1, kind, name));
            }
        } else if section.ends_with("dependencies")
            && !line.starts_with('#')
            && let Some((key, _)) = line.split_once('=')
        {
            let name = key.trim().split('.').next().unwrap_or_default();
            faults.extend(dependency_fault(file, index + 1, &section, name));
        }
    }
    faults
}

fn dependency_fault(file: &Path, line: usize, section: &str, name: &str) -> Option<Fault> {
    let name = name.trim_matches('"');
    let dev = section.ends_with("dev-dependencies");
    let allowed = DEPENDENCIES.contains(&name) || dev && DEV_DEPENDENCIES.contains(&name);
    (!allowed).then(|| {
        Fault::new(file, line, format!("the core must not depend on `{name}`: it is pure decisions"))
    })
}

/// Ways out of the process, clocks, randomness.
pub fn source_faults(file: &Path, text: &str) -> Vec<Fault> {
    let code = Code::of(text);
    let mut faults = Vec::new();
    for (line, module) in std_modules(code.text()) {
        if OUTSIDE.contains(&module.as_str()) {
            faults.push(Fault::new(
                file,
                line,
                format!("the core must not use `std::{module}`: it does no I/O"),
            ));
        }
    }
    for (word, why) in WORDS {
        faults.extend(code.lines_with_word(word).into_iter().map(|line| Fault::new(file, line, why)));
    }
    faults
}

/// Each `std::module`, also in `std::{a, b::c}`, with its line.
fn std_modules(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, path) in code.match_indices("std::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group).into_iter().map(|head| (line, head))),
            None => found.push((line, first_word(rest))),
        }
    }
    found
}

/// The first word of each entry of a `use` group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0usize;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(first_word(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(faults: &[Fault]) -> Vec<usize> {
        faults.iter().map(|fault| fault.line).collect()
    }

    #[test]
    fn the_list_of_dependencies_is_complete() {
        let good = "[package]\nname = \"x\"\n[dependencies]\nserde.workspace = true\nthiserror = \"2\"\n\
                    [dev-dependencies]\nproptest.workspace = true\n";
        assert_eq!(manifest_faults(Path::new("c"), good), []);
    }

    #[test]
    fn runtimes_clocks_and_dice_are_refused() {
        let bad = "[dependencies]\ntokio = { version = \"1\" }\nasync-nats.workspace = true\n# rand = \"1\"\n\
                   proptest = \"1\"\n[dependencies.uuid]\nversion = \"1\"\n[target.'cfg(unix)'.dependencies]\n\
                   wasmtime = \"48\"\n[build-dependencies]\nchrono = \"0.4\"\n[dev-dependencies]\nrand = \"1\"\n";
        assert_eq!(lines(&manifest_faults(Path::new("c"), bad)), [2, 3, 5, 6, 9, 11, 13]);
    }

    #[test]
    fn pure_code_passes() {
        let code = "//! No std::fs, no Instant.\nuse std::time::Duration;\nuse std::{mem, collections::VecDeque};\n\
                    use crate::io_std::fs;\nfn f() { std::mem::take(&mut x); }\n";
        assert_eq!(source_faults(Path::new("c"), code), []);
    }

    #[test]
    fn ways_out_are_found() {
        let code = "use std::fs;\nuse std::{mem, thread, time::{Duration, Instant}};\nlet x = std::net::lookup();\n\
                    use std::time::SystemTime;\nasync fn f() {}\n";
        assert_eq!(lines(&source_faults(Path::new("c"), code)), [1, 2, 3, 4, 2, 5]);
    }
}
