//! `presence plugin inspect`: what a file is, in words or as JSON.

use std::path::Path;

use serde_json::json;

use super::command::cache_folder;
use crate::commands::EXIT_CONFIGURATION;
use crate::plugins::{CONTRACT, CompileMode, Inspection, inspect};

pub(super) async fn run(file: &Path, json: bool, compile: CompileMode) -> u8 {
    let found = match inspect(file, &cache_folder(), compile).await {
        Ok(found) => found,
        Err(error) => {
            eprintln!("presence: `{}` can't be read: {error}", file.display());
            return EXIT_CONFIGURATION;
        }
    };
    if json {
        println!("{:#}", as_json(&found));
    } else {
        print!("{}", as_text(file, &found));
    }
    if found.problems.is_empty() { 0 } else { EXIT_CONFIGURATION }
}

fn as_json(found: &Inspection) -> serde_json::Value {
    let hooks: Vec<&str> = found.hooks.iter().map(|hook| hook.as_str()).collect();
    json!({
        "contract": found.contract, "hooks": hooks, "imports": found.imports,
        "configure": found.configurable, "size": found.size, "sha256": found.digest,
        "problems": found.problems,
    })
}

fn as_text(file: &Path, found: &Inspection) -> String {
    let hooks: Vec<&str> = found.hooks.iter().map(|hook| hook.as_str()).collect();
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let configure = match (&found.without_config, found.configurable) {
        (None, false) => "takes no configuration".to_owned(),
        (None, true) => "yes, and it works without".to_owned(),
        (Some(reason), _) => format!("yes, and it is needed: without one it says: {reason}"),
    };
    let mut rows = vec![
        ("file", file.display().to_string()),
        ("size", format!("{} bytes", found.size)),
        ("sha256", found.digest.clone()),
        ("contract", or_none(found.contract.join(" ")) + &format!(" (this host speaks {CONTRACT})")),
        ("hooks", or_none(hooks.join(" "))),
        ("config", configure),
    ];
    let (ours, wasi): (Vec<&String>, Vec<&String>) =
        found.imports.iter().partition(|import| !import.starts_with("wasi:"));
    for (name, imports) in [("imports", ours), ("wasi", wasi)] {
        let list: Vec<&str> = imports.iter().map(|import| import.as_str()).collect();
        rows.push((name, or_none(list.join("\n         "))));
    }
    let mut text: String = rows.into_iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect();
    if !found.problems.is_empty() {
        text.push_str("A host refuses it:\n");
        found.problems.iter().for_each(|problem| text.push_str(&format!("  - {problem}\n")));
    }
    text
}
