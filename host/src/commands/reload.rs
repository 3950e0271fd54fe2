//! `presence reload`: asks a running host to read presence.toml and the plugins again, and prints what came of it.

use std::time::Duration;

use crate::admin_client::{AdminClient, Posted};
use crate::cli::AdminArgument;
use crate::gateway::admin::reload::ReloadDocument;
use crate::table::printable;

use super::EXIT_CONFIGURATION;

/// Plugins may have to be compiled.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) async fn run(admin: &AdminArgument, json: bool) -> anyhow::Result<u8> {
    match AdminClient::new(admin)?.post::<ReloadDocument>("/v1/reload", PATIENCE).await? {
        Posted::Done(document) if json => println!("{}", serde_json::to_string_pretty(&document)?),
        Posted::Done(document) => print!("{}", text(&document)),
        Posted::Refused(problem) => {
            for error in &problem.errors {
                eprintln!("{}", printable_lines(error));
            }
            eprintln!("presence: refused: {}", printable(&problem.detail));
            return Ok(EXIT_CONFIGURATION);
        }
    }
    Ok(0)
}

fn text(document: &ReloadDocument) -> String {
    let ReloadDocument { added, removed, changed, unchanged, needs_restart, .. } = document;
    let mut text = String::new();
    for (what, names) in [
        ("added", added),
        ("removed", removed),
        ("changed", changed),
        ("unchanged", unchanged),
        ("needs a restart", needs_restart),
    ] {
        if !names.is_empty() {
            text.push_str(&format!("{what:<16} {}\n", printable(&names.join(" "))));
        }
    }
    if text.is_empty() { "no plugins\n".to_owned() } else { text }
}

/// An error of a plugin has a line for each thing that is wrong.
fn printable_lines(error: &str) -> String {
    error.lines().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_is_printed() {
        let mut document = ReloadDocument {
            applied: true,
            added: vec!["webhook".into(), "mailer".into()],
            removed: Vec::new(),
            changed: vec!["profiles".into()],
            unchanged: Vec::new(),
            needs_restart: vec!["host.listen".into()],
        };
        let expected =
            "added            webhook mailer\nchanged          profiles\nneeds a restart  host.listen\n";
        assert_eq!(text(&document), expected);
        document.added.clear();
        document.changed.clear();
        document.needs_restart.clear();
        assert_eq!(text(&document), "no plugins\n");
    }
}
