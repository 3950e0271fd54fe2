//! Scenario files: TOML → checked [`Scenario`]. Every error at once, as in presence.toml; unknown keys are errors.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use presence_core::documents::{StatusRecord, Trail};
use presence_core::events::{Hook, Status};
use presence_core::time::Timestamp;

use super::local::{any_host, plugin_of};
use super::plugin::{read_grants, read_limits};
use super::reader::{self, Document, Found, Table};
use super::{ConfigError, ConfigErrors};
use crate::authoring::scenario::{Body, Exchange, Expected, Kind, Scenario, Step};
use crate::plugins::local::web::{Answered, Fault, Reply};

/// Reads a file for a component.
pub fn read(path: &Path, component: &Path) -> Result<Scenario, ConfigErrors> {
    let failed = |errors| ConfigErrors { path: path.to_owned(), errors };
    let text = std::fs::read_to_string(path).map_err(|error| {
        failed(vec![ConfigError { line: 0, key: String::new(), message: format!("can't be read ({error})") }])
    })?;
    // A scenario says everything itself: no variable of the machine reaches it.
    let document = Document::new(&text, &|_| None);
    let scenario = reader::parse(&document, &text).map(|parsed| {
        let mut root = document.root(&parsed);
        read_root(&mut root, path, component)
    });
    let errors = document.into_errors();
    match scenario {
        Some(scenario) if errors.is_empty() => Ok(scenario),
        _ => Err(failed(errors)),
    }
}

fn read_root(root: &mut Table<'_, '_>, path: &Path, component: &Path) -> Scenario {
    let title = root.string("title").map(|found| found.value).unwrap_or_default();
    let config = root.json("config").map_or("{}".to_owned(), |found| found.value.to_string());
    let refused = root.string("refused").map(|found| found.value);
    let now = root.string("now").and_then(|found| match humantime::parse_rfc3339_weak(&found.value) {
        Ok(time) => time.duration_since(std::time::UNIX_EPOCH).ok(),
        Err(_) => {
            root.wrong(&found, "is no time; write for example \"2026-11-25T08:30:00Z\"");
            None
        }
    });
    let grants = read_grants(&mut root.table("grants"), &any_host());
    let limits = read_limits(&mut root.table("limits"), &any_host());
    let keyvalue = read_buckets(&mut root.table("keyvalue"));
    let keyvalue_after = read_buckets(&mut root.table("after").table("keyvalue"));
    let users = read_users(&mut root.table("users"));
    let exchanges =
        root.tables("http").into_iter().filter_map(|mut table| read_exchange(&mut table)).collect();
    let steps: Vec<Step> =
        root.tables("event").into_iter().filter_map(|mut table| read_step(&mut table)).collect();
    if refused.is_some() && !steps.is_empty() {
        root.missing(
            "refused",
            "and [[event]] exclude each other: a plugin that refuses its configuration hears nothing",
        );
    }
    if refused.is_none() && steps.is_empty() && !root.has("event") {
        root.missing("event", "is needed: at least one [[event]], or `refused`");
    }
    let flat = |(bucket, entries): (String, Vec<(String, String)>)| {
        entries.into_iter().map(move |(key, value)| (bucket.clone(), key, value.into_bytes()))
    };
    Scenario {
        path: path.to_owned(),
        title,
        settings: plugin_of(component, config, grants, limits),
        refused,
        now,
        keyvalue: keyvalue.into_iter().flat_map(flat).collect(),
        keyvalue_after,
        users,
        exchanges,
        steps,
    }
}

/// `[keyvalue.bucket]` with `key = "value"`.
fn read_buckets(table: &mut Table<'_, '_>) -> Vec<(String, Vec<(String, String)>)> {
    let buckets = table.names();
    buckets.into_iter().map(|bucket| (bucket.clone(), read_texts(&mut table.table(&bucket)))).collect()
}

/// `[users]` with `alice = "online"`, or a table with more.
fn read_users(table: &mut Table<'_, '_>) -> BTreeMap<String, StatusRecord> {
    const STATUSES: [(&str, Status); 3] =
        [("online", Status::Online), ("idle", Status::Idle), ("offline", Status::Offline)];
    let known = "\"online\", \"idle\", \"offline\"";
    let mut users = BTreeMap::new();
    for user in table.names() {
        let number = |inner: &mut Table<'_, '_>, key: &str, default: i64| {
            inner.integer(key, default, 0..=i64::MAX).unsigned_abs()
        };
        let is_table = table.any(&user).is_some_and(|found| found.value.is_table());
        let (status, since, revision, last_seen) = if is_table {
            let mut inner = table.table(&user);
            let last_seen = inner.has("last_seen").then(|| Timestamp(number(&mut inner, "last_seen", 0)));
            let (since, revision) = (number(&mut inner, "since", 0), number(&mut inner, "revision", 1));
            (one_of(&mut inner, "status", &STATUSES, known), since, revision, last_seen)
        } else {
            (one_of(table, &user, &STATUSES, known), 0, 1, None)
        };
        let status = status.unwrap_or(Status::Offline);
        let sessions = u32::from(status != Status::Offline);
        let since = Timestamp(since);
        let record = StatusRecord {
            status,
            since,
            revision,
            last_seen,
            sessions,
            generation: 1,
            previous: None,
            trail: Trail::default(),
        };
        users.insert(user, record);
    }
    users
}

/// Names and texts, by name.
fn read_texts(table: &mut Table<'_, '_>) -> Vec<(String, String)> {
    let mut names = table.names();
    names.sort();
    names.into_iter().filter_map(|name| Some((name.clone(), table.string(&name)?.value))).collect()
}

fn read_exchange(table: &mut Table<'_, '_>) -> Option<Exchange> {
    let line = table.line();
    let method = table.string("method").map_or("GET".to_owned(), |found| found.value.to_uppercase());
    let url = table.string("url");
    if url.is_none() {
        table.missing("url", "is needed: the request that is answered");
    }
    let mut headers = read_texts(&mut table.table("headers"));
    headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    let body = match (table.json("json"), table.string("body")) {
        (Some(json), None) => Body::Json(json.value),
        (None, Some(text)) => Body::Text(text.value),
        (None, None) => Body::Any,
        (Some(_), Some(text)) => {
            table.wrong(&text, "and `json` exclude each other");
            Body::Any
        }
    };
    let reply = read_answer(&mut table.table("answer"));
    let times = u32::try_from(table.integer("times", 1, 1..=1_000_000)).unwrap_or(1);
    Some(Exchange { line, method, url: url?.value, headers, body, reply, times })
}

fn read_answer(table: &mut Table<'_, '_>) -> Reply {
    let delay = table.duration("delay", Duration::ZERO).value;
    let status = table.integer("status", 200, 100..=599);
    let headers = read_texts(&mut table.table("headers"));
    let mut body = table.string("body").map(|found| found.value).unwrap_or_default();
    if let Some(json) = table.json("json") {
        body = json.value.to_string();
    }
    let known: Vec<String> = Fault::ALL.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    if let Some(fault) = one_of(table, "error", &Fault::ALL, &known.join(", ")) {
        for key in ["status", "body", "json", "headers"] {
            if table.has(key) {
                table.missing(key, "and `error` exclude each other: there is no answer then");
            }
        }
        return Reply::Failure(fault, delay);
    }
    let status = u16::try_from(status).unwrap_or(200);
    Reply::Answer(Answered { status, headers, body: body.into_bytes() }, delay)
}

fn read_step(table: &mut Table<'_, '_>) -> Option<Step> {
    let line = table.line();
    let hooks = Hook::ALL.map(|hook| (hook.as_str(), hook));
    let known: Vec<String> = hooks.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let hook = one_of(table, "hook", &hooks, &known.join(", "));
    if !table.has("hook") {
        table.missing("hook", "is needed: which hook is called");
    }
    let user = table.string("user").map(|found| found.value);
    let event = table.json("event").map(|found| found.value);
    let event_id = table.string("event_id").map(|found| found.value);
    let attempt = u32::try_from(table.integer("attempt", 1, 1..=1_000_000)).unwrap_or(1);
    let kind = one_of(table, "result", &Kind::ALL, "\"ok\", \"retry\", \"reject\", \"fail\"");
    let message = table.string("message");
    let after = table.has("after").then(|| table.duration("after", Duration::ZERO));
    let kind = kind.unwrap_or(Kind::Ok);
    if let Some(message) = message.as_ref().filter(|_| kind == Kind::Ok) {
        table.wrong(message, "needs `result` = \"retry\", \"reject\" or \"fail\": a success has no message");
    }
    if let Some(after) = after.as_ref().filter(|_| kind != Kind::Retry) {
        table.wrong(after, "needs `result` = \"retry\"");
    }
    let calls = lines(table, "calls");
    let logs = lines(table, "logs");
    let result =
        Expected { kind, message: message.map(|found| found.value), after: after.map(|found| found.value) };
    Some(Step { line, hook: hook?, user, event, event_id, attempt, result, calls, logs })
}

fn lines(table: &mut Table<'_, '_>, key: &str) -> Option<Vec<String>> {
    table.has(key).then(|| table.strings(key).into_iter().map(|found| found.value).collect())
}

/// A text that is one of these names.
fn one_of<T: Copy>(table: &mut Table<'_, '_>, key: &str, choices: &[(&str, T)], known: &str) -> Option<T> {
    let found: Found<String> = table.string(key)?;
    let choice = choices.iter().find(|(name, _)| *name == found.value);
    if choice.is_none() {
        table.wrong(&found, &format!("\"{}\" is none of {known}", found.value));
    }
    choice.map(|(_, choice)| *choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Scenario, String> {
        let file = std::env::temp_dir().join(format!("presence-scenario-{:032x}.toml", fastrand::u128(..)));
        std::fs::write(&file, text).unwrap();
        let read = read(&file, Path::new("dist/a_b.wasm")).map_err(|errors| errors.to_string());
        std::fs::remove_file(&file).unwrap();
        read
    }

    #[test]
    fn a_scenario_says_everything() {
        let scenario = read_text(
            r#"
            title = "all keys"
            config = { url = "https://chat.example/hook" }
            now = "2026-11-25T08:30:00Z"
            [grants]
            http = ["https://chat.example"]
            keyvalue = ["seen"]
            [limits]
            deadline = "1s"
            [keyvalue.seen]
            alice = "3"
            [users]
            bob = "idle"
            carol = { status = "offline", last_seen = 5, revision = 3 }
            [after.keyvalue.seen]
            alice = "4"
            [[http]]
            method = "post"
            url = "https://chat.example/hook"
            headers = { Content-Type = "application/json" }
            json = { text = "hello" }
            times = 2
            answer = { status = 503, headers = { retry-after = "3" }, body = "busy", delay = "10ms" }
            [[http]]
            url = "https://chat.example/*"
            answer = { error = "connection-refused" }
            [[event]]
            hook = "user-online"
            user = "alice"
            event = { revision = 7 }
            result = "retry"
            message = "503"
            after = "3s"
            calls = ["http POST * -> 503"]
            logs = []
            [[event]]
            hook = "cleanup"
            "#,
        )
        .unwrap();
        assert_eq!(scenario.settings.name, "a-b");
        assert_eq!(scenario.settings.limits.deadline, Duration::from_secs(1));
        assert_eq!(scenario.keyvalue, [("seen".into(), "alice".into(), b"3".to_vec())]);
        let known = |user: &str| scenario.users[user];
        assert_eq!((known("bob").status, known("carol").last_seen), (Status::Idle, Some(Timestamp(5))));
        assert_eq!(scenario.exchanges[0].method, "POST");
        assert_eq!(scenario.exchanges[0].headers, [("content-type".into(), "application/json".into())]);
        assert_eq!(scenario.exchanges[1].reply, Reply::Failure(Fault::ConnectionRefused, Duration::ZERO));
        assert_eq!(scenario.steps[0].result.after, Some(Duration::from_secs(3)));
        assert_eq!((&scenario.steps[0].logs, &scenario.steps[1].logs), (&Some(Vec::new()), &None));
    }

    #[test]
    fn everything_wrong_is_told_at_once_with_its_line() {
        let text = "titel = \"x\"\n[[http]]\nmethod = \"GET\"\nanswer = { status = 200, error = \"no\" }\n\
                    [[event]]\nhook = \"user-onlin\"\nmessage = \"x\"\ncals = []\n";
        let errors = read_text(text).err().unwrap();
        for expected in [
            ":1: titel: is not a key; did you mean `title`?",
            ":2: http.url: is needed",
            ":4: http.answer.error: \"no\" is none of",
            ":6: event.hook: \"user-onlin\" is none of",
            ":7: event.message: needs `result`",
            ":8: event.cals: is not a key; did you mean `calls`?",
        ] {
            assert!(errors.contains(expected), "{expected}\n{errors}");
        }
    }

    #[test]
    fn a_scenario_needs_something_to_expect() {
        assert!(read_text("title = \"x\"\n").err().unwrap().contains("event: is needed"));
        assert!(read_text("refused = \"x\"\n").is_ok());
    }
}
