//! `presence plugin dead-letters`: what plugins could not be told, as a host's admin API knows it, and what is to be done
//! about it.

use std::io::Write;

use http::Method;

use crate::admin_client::{AdminClient, encoded};
use crate::cli::{
    ChooseLettersArguments, DeadLettersArguments, DeadLettersVerb, LetterFilter, ListLettersArguments,
};
use crate::commands::EXIT_UNAVAILABLE;
use crate::driver::{LetterReport, LetterVerb};
use crate::gateway::admin::letters::{
    DeadLetterDocument, DeadLettersDocument, LetterReportsDocument, MAX_DEAD_LETTERS_SHOWN,
};
use crate::table::{printable, table};

/// The longest error in a table, in characters; `show` and JSON have the whole.
const MAX_ERROR_CHARS: usize = 100;

/// Carries out a verb; none is `list`. Answers the exit code.
pub async fn run(arguments: DeadLettersArguments) -> anyhow::Result<u8> {
    match arguments.verb.unwrap_or(DeadLettersVerb::List(arguments.list)) {
        DeadLettersVerb::List(arguments) => list(arguments).await,
        DeadLettersVerb::Show { admin, json, number } => {
            show(&AdminClient::new(&admin)?, number.get(), json).await
        }
        DeadLettersVerb::Replay(arguments) => choose(arguments, LetterVerb::Replay).await,
        DeadLettersVerb::Drop(arguments) => choose(arguments, LetterVerb::Drop).await,
    }
}

fn print(text: String) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// `&name=value` for each that is given.
fn query(filter: &LetterFilter) -> String {
    let given = [("plugin", &filter.plugin), ("hook", &filter.hook), ("user", &filter.user)];
    let given = given.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value)));
    given.map(|(name, value)| format!("&{name}={}", encoded(value))).collect()
}

/// The newest that fit, oldest first.
async fn listed(
    admin: &AdminClient,
    filter: &LetterFilter,
    limit: usize,
) -> anyhow::Result<DeadLettersDocument> {
    admin.get(&format!("/v1/dead-letters?limit={limit}{}", query(filter))).await
}

async fn list(ListLettersArguments { admin, filter, json }: ListLettersArguments) -> anyhow::Result<u8> {
    let found = listed(&AdminClient::new(&admin)?, &filter, MAX_DEAD_LETTERS_SHOWN).await?;
    print(if json {
        format!("{}\n", serde_json::to_string_pretty(&found)?)
    } else if found.dead_letters.is_empty() {
        "no dead letters\n".to_owned()
    } else {
        as_table(&found.dead_letters)
    })?;
    Ok(0)
}

async fn show(admin: &AdminClient, number: u64, json: bool) -> anyhow::Result<u8> {
    let letter: DeadLetterDocument = admin.get(&format!("/v1/dead-letters/{number}")).await?;
    let document = serde_json::to_string_pretty(&letter)?;
    print(if json { format!("{document}\n") } else { as_text(&letter)? })?;
    Ok(0)
}

async fn choose(arguments: ChooseLettersArguments, verb: LetterVerb) -> anyhow::Result<u8> {
    let ChooseLettersArguments { admin, filter, all, json, numbers } = arguments;
    let admin = AdminClient::new(&admin)?;
    let mut done = Vec::new();
    let mut left = 0;
    if all {
        left = choose_all(&admin, &filter, verb, &mut done).await?;
    }
    for number in numbers {
        let (method, path) = match verb {
            LetterVerb::Replay => (Method::POST, format!("/v1/dead-letters/{number}/replay")),
            LetterVerb::Drop => (Method::DELETE, format!("/v1/dead-letters/{number}")),
        };
        match admin.send::<LetterReport>(method, &path, None).await {
            Ok(report) => done.push(report),
            Err(error) => {
                // What is done is told first.
                tell(&done, json)?;
                return Err(error);
            }
        }
    }
    tell(&done, json)?;
    if left > 0 {
        eprintln!("presence: {left} more were not tried, since a host does not answer: run this again");
    }
    let complete = left == 0 && done.iter().all(|report| report.outcome.is_success());
    Ok(if complete { 0 } else { EXIT_UNAVAILABLE })
}

/// As many requests as it takes, up to the newest letter that is there now: one that fails again gets a newer number.
/// Returns how many were not tried.
async fn choose_all(
    admin: &AdminClient,
    filter: &LetterFilter,
    verb: LetterVerb,
    done: &mut Vec<LetterReport>,
) -> anyhow::Result<usize> {
    let newest = listed(admin, filter, 1).await?;
    let Some(newest) = newest.dead_letters.last().map(|letter| letter.number) else { return Ok(0) };
    let (method, path) = match verb {
        LetterVerb::Replay => (Method::POST, "/v1/dead-letters/replay"),
        LetterVerb::Drop => (Method::DELETE, "/v1/dead-letters"),
    };
    let mut after = String::new();
    loop {
        let path = format!("{path}?all=true&up_to={newest}{after}{}", query(filter));
        let answer: LetterReportsDocument = admin.send(method.clone(), &path, None).await?;
        let last = answer.reports.last().map(|report| (report.number, report.outcome));
        let unanswered =
            answer.reports.iter().any(|report| report.outcome == crate::driver::LetterOutcome::Unavailable);
        done.extend(answer.reports);
        match last {
            Some((number, _)) if answer.left > 0 && !unanswered => after = format!("&after={number}"),
            _ => return Ok(answer.left),
        }
    }
}

fn tell(reports: &[LetterReport], json: bool) -> anyhow::Result<()> {
    print(if json {
        format!("{}\n", serde_json::to_string_pretty(&serde_json::json!({ "reports": reports }))?)
    } else if reports.is_empty() {
        "no dead letters\n".to_owned()
    } else {
        report_table(reports)
    })
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
                letter.number.to_string(),
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
    table(&["NUMBER", "AT", "PLUGIN", "HOOK", "USER", "ATTEMPTS", "EVENT", "ERROR"], &rows)
}

/// Everything about a letter, a line for each field, and the event as JSON.
fn as_text(letter: &DeadLetterDocument) -> anyhow::Result<String> {
    let (number, attempts) = (letter.number.to_string(), letter.attempts.to_string());
    let fields: [(&str, &str); 9] = [
        ("number", &*number),
        ("given up", &letter.at),
        ("plugin", &letter.plugin),
        ("digest", &letter.digest),
        ("hook", &letter.hook),
        ("user", letter.user.as_deref().unwrap_or("-")),
        ("event id", &letter.event_id),
        ("attempts", &*attempts),
        ("error", &letter.error),
    ];
    let mut text: String =
        fields.into_iter().map(|(name, value)| format!("{name:<9} {}\n", printable(value))).collect();
    for line in serde_json::to_string_pretty(&letter.event)?.lines() {
        text.push_str(&printable(line));
        text.push('\n');
    }
    Ok(text)
}

fn report_table(reports: &[LetterReport]) -> String {
    let or_dash = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), printable);
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            let outcome = serde_json::to_value(report.outcome).ok();
            let outcome = outcome.as_ref().and_then(serde_json::Value::as_str).unwrap_or("?");
            vec![
                report.number.to_string(),
                or_dash(&report.plugin),
                or_dash(&report.hook),
                or_dash(&report.user),
                outcome.replace('_', " "),
                printable(&report.host),
                report.detail.as_deref().map(printable).unwrap_or_default(),
            ]
        })
        .collect();
    table(&["NUMBER", "PLUGIN", "HOOK", "USER", "OUTCOME", "HOST", ""], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::LetterOutcome;

    fn letter() -> DeadLetterDocument {
        DeadLetterDocument {
            number: 12,
            plugin: "webhook".into(),
            digest: "ab".into(),
            hook: "cleanup".into(),
            user: None,
            event_id: "e".into(),
            event: serde_json::json!({"cause": "test\u{202e}"}),
            error: format!("\u{1b}[31m{}", "ë".repeat(200)),
            attempts: 5,
            at: "2025-11-24T16:00:00.123Z".into(),
        }
    }

    #[test]
    fn errors_are_shortened_and_harmless() {
        let text = as_table(&[letter()]);
        assert!(text.contains("webhook  cleanup  -     5         e      ·[31më"), "{text}");
        assert!(text.trim_end().ends_with("ë…"), "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("12 ")), "{text}");
    }

    #[test]
    fn a_letter_is_shown_whole_and_harmless() {
        let text = as_text(&letter()).unwrap();
        for line in ["number    12", "user      -", "attempts  5", "  \"cause\": \"test·\""] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.contains(&"ë".repeat(200)) && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_report_is_one_line_with_the_host() {
        let report = LetterReport {
            number: 7,
            outcome: LetterOutcome::NotWanted,
            host: "host-2".into(),
            plugin: Some("webhook".into()),
            hook: Some("user-online".into()),
            user: Some("bob".into()),
            detail: None,
        };
        let expected = "NUMBER  PLUGIN   HOOK         USER  OUTCOME     HOST\n\
                        7       webhook  user-online  bob   not wanted  host-2\n";
        assert_eq!(report_table(&[report]), expected);
    }

    #[test]
    fn filters_are_encoded() {
        let filter = LetterFilter { plugin: Some("a".into()), hook: None, user: Some("b/c&d".into()) };
        assert_eq!(query(&filter), "&plugin=a&user=b%2Fc%26d");
    }
}
