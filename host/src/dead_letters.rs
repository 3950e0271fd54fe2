//! `presence plugin dead-letters`: lists what plugins could not be told, as a host's admin API knows it.

use std::io::Write;

use crate::admin_client::{encoded, get};
use crate::gateway::admin::{DeadLetterDocument, DeadLettersDocument, MAX_DEAD_LETTERS_SHOWN};
use crate::table::{printable, table};

/// The longest error in the table, in characters; JSON has the whole.
const MAX_ERROR_CHARS: usize = 100;

/// Prints the dead letters, oldest first, as a table or as JSON. Answers the exit code.
pub async fn run(admin: &str, plugin: Option<&str>, hook: Option<&str>, json: bool) -> anyhow::Result<u8> {
    let mut path = format!("/v1/dead-letters?limit={MAX_DEAD_LETTERS_SHOWN}");
    for (name, value) in [("plugin", plugin), ("hook", hook)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let found: DeadLettersDocument = get(admin, &path).await?;
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(&found)?)
    } else if found.dead_letters.is_empty() {
        "no dead letters\n".to_owned()
    } else {
        as_table(&found.dead_letters)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

fn as_table(letters: &[DeadLetterDocument]) -> String {
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| {
            let error = printable(&letter.error);
            let mut shown: String = error.chars().take(MAX_ERROR_CHARS).collect();
            if shown.len() < error.len() {
                shown.push('…');
            }
            vec![
                printable(&letter.at),
                printable(&letter.plugin),
                printable(&letter.hook),
                letter.user.as_deref().map_or("-".to_owned(), printable),
                letter.attempts.to_string(),
                printable(&letter.event_id),
                shown,
            ]
        })
        .collect();
    table(&["AT", "PLUGIN", "HOOK", "USER", "ATTEMPTS", "EVENT", "ERROR"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shortened_and_harmless() {
        let letter = DeadLetterDocument {
            number: 1,
            plugin: "webhook".into(),
            digest: "ab".into(),
            hook: "cleanup".into(),
            user: None,
            event_id: "e".into(),
            event: serde_json::Value::Null,
            error: format!("\u{1b}[31m{}", "ë".repeat(200)),
            attempts: 5,
            at: "2025-11-24T16:00:00.123Z".into(),
        };
        let text = as_table(&[letter]);
        assert!(text.contains("webhook  cleanup  -     5         e      ·[31më"), "{text}");
        assert!(text.trim_end().ends_with("ë…"), "{text}");
    }
}
