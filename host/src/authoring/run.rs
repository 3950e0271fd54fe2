//! `presence plugin run`: one hook, here and now, and everything that happened.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use presence_core::events::Hook;
use presence_core::time::Timestamp;
use serde_json::{Value, json};

use super::command::{RunArguments, cache_folder};
use crate::commands::{EXIT_CONFIGURATION, EXIT_USAGE};
use crate::config;
use crate::plugins::local::tape::Entry;
use crate::plugins::local::{Ended, LocalRuns, Ran, World};
use crate::plugins::{CompileMode, Draft, Event, event_from};
use crate::settings::PluginSettings;

/// Nothing was run: what to print, and the exit code.
struct Refusal(u8, String);

fn configuration(error: impl ToString) -> Refusal {
    Refusal(EXIT_CONFIGURATION, error.to_string())
}

fn usage(error: impl ToString) -> Refusal {
    Refusal(EXIT_USAGE, format!("presence: {}", error.to_string()))
}

pub(super) async fn run(arguments: &RunArguments, compile: CompileMode) -> u8 {
    match try_run(arguments, compile).await {
        Ok((event, settings, ran)) => {
            if arguments.json {
                println!("{:#}", as_json(&event, &ran));
            } else {
                print!("{}", as_text(&event, &settings, &ran));
            }
            u8::from(ran.ended != Ended::Delivered)
        }
        Err(Refusal(code, message)) => {
            eprintln!("{message}");
            code
        }
    }
}

async fn try_run(
    arguments: &RunArguments,
    compile: CompileMode,
) -> Result<(Event, PluginSettings, Ran), Refusal> {
    let event = event_of(arguments)?;
    let settings = settings_of(arguments)?;
    let runs = LocalRuns::new(&cache_folder(), compile).map_err(configuration)?;
    let mut plugin = runs.load(&settings, World::online()).await.map_err(configuration)?;
    let hooks = &plugin.description().hooks;
    if !hooks.contains(&event.hook()) {
        let has: Vec<&str> = hooks.iter().map(|hook| hook.as_str()).collect();
        return Err(usage(format!("the plugin has no hook {}; it has {}", event.hook(), has.join(", "))));
    }
    let ran = plugin.call(event.clone(), None, 1).await;
    Ok((event, settings, ran))
}

fn event_of(arguments: &RunArguments) -> Result<Event, Refusal> {
    let hook = Hook::ALL.into_iter().find(|hook| hook.as_str() == arguments.hook).ok_or_else(|| {
        let known = Hook::ALL.map(Hook::as_str).join(", ");
        usage(format!("--hook {}: there are {known}", arguments.hook))
    })?;
    let fields: Option<Value> = match &arguments.event {
        None => None,
        Some(path) => {
            let text = read(path, "--event")?;
            Some(serde_json::from_str(&text).map_err(|error| usage(format!("{}: {error}", path.display())))?)
        }
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let user = arguments.user.as_deref();
    if user.is_none() && arguments.event.is_none() && !matches!(hook, Hook::Cleanup | Hook::Tick) {
        return Err(usage(format!("{hook} is about a user: name one with --user")));
    }
    let draft = Draft { hook, user, fields: fields.as_ref(), now: Timestamp(now), revision: now };
    event_from(&draft).map_err(usage)
}

fn read(path: &Path, option: &str) -> Result<String, Refusal> {
    std::fs::read_to_string(path)
        .map_err(|error| usage(format!("{option} {}: it can't be read ({error})", path.display())))
}

/// From nothing, from a file that holds the config alone, or from an entry of presence.toml.
fn settings_of(arguments: &RunArguments) -> Result<PluginSettings, Refusal> {
    let Some(path) = &arguments.config else {
        return Ok(config::plain_plugin(&arguments.file, "{}".to_owned()));
    };
    let env = |name: &str| std::env::var(name).ok();
    let text = read(path, "--config")?;
    if text.trim_start().starts_with('{') {
        let parsed: Value = serde_json::from_str(&text)
            .map_err(|error| configuration(format!("{}: {error}", path.display())))?;
        return Ok(config::plain_plugin(&arguments.file, parsed.to_string()));
    }
    if !is_host_configuration(&text) {
        let config = config::plugin_config(&text, path, &env).map_err(configuration)?;
        return Ok(config::plain_plugin(&arguments.file, config));
    }
    let settings = config::load(path, &env).map_err(configuration)?;
    let names: Vec<&str> = settings.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    let wanted = |plugin: &&PluginSettings| match &arguments.plugin {
        Some(name) => plugin.name == *name,
        None => same_file(&plugin.path, &arguments.file),
    };
    let Some(entry) = settings.plugins.iter().find(wanted) else {
        let what = match &arguments.plugin {
            Some(name) => format!("no plugin is called \"{name}\""),
            None => {
                format!("no [[plugin]] has the path {}; name one with --plugin", arguments.file.display())
            }
        };
        return Err(usage(format!("{}: {what}; there are {}", path.display(), names.join(", "))));
    };
    Ok(PluginSettings { path: arguments.file.clone(), ..entry.clone() })
}

/// Whether a TOML file is a presence.toml: it has `[[plugin]]`.
fn is_host_configuration(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| table.get("plugin").is_some_and(toml::Value::is_array))
}

fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| -> Option<PathBuf> { std::fs::canonicalize(path).ok() };
    real(one).is_some_and(|one| Some(one) == real(other))
}

fn as_json(event: &Event, ran: &Ran) -> Value {
    let millis = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let result = match &ran.ended {
        Ended::Delivered => json!({ "kind": "ok" }),
        Ended::Retry { message, after } => {
            json!({ "kind": "retry", "message": message, "after_ms": after.map(millis) })
        }
        Ended::Rejected(message) => json!({ "kind": "reject", "message": message }),
        Ended::Failed(message) => json!({ "kind": "fail", "message": message }),
    };
    let entries: Vec<Value> = ran.entries.iter().map(Entry::to_json).collect();
    json!({
        "hook": event.hook().as_str(), "event_id": ran.event_id, "result": result, "happened": entries,
        "took_us": u64::try_from(ran.took.as_micros()).unwrap_or(u64::MAX), "memory_bytes": ran.memory,
        "log_bytes_cut": ran.log_cut,
    })
}

fn as_text(event: &Event, settings: &PluginSettings, ran: &Ran) -> String {
    let mut text = format!("{} {}\n", event.hook(), ran.event_id);
    for entry in &ran.entries {
        match entry {
            Entry::Log { level, text: line } => text.push_str(&format!("  log     {level} {line}\n")),
            Entry::Call(call) => text.push_str(&format!("  call    {}\n", call.line())),
            Entry::Denied { what, line } => {
                text.push_str(&format!(
                    "  denied  {what}: to allow it, write `{line}` under [plugin.grants]\n"
                ));
            }
        }
    }
    let result = describe(&ran.ended);
    let took = ran.took.as_secs_f64() * 1000.0;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    text.push_str(&format!("result  {result}\ntime    {took:.2} ms\n"));
    text.push_str(&format!(
        "memory  {:.1} MiB of {:.0} MiB\n",
        mebibytes(ran.memory),
        mebibytes(settings.limits.memory)
    ));
    if ran.log_cut > 0 {
        text.push_str(&format!("log     {} bytes beyond limits.log were cut\n", ran.log_cut));
    }
    text
}

/// In words.
pub(super) fn describe(ended: &Ended) -> String {
    match ended {
        Ended::Delivered => "ok".to_owned(),
        Ended::Retry { message, after: None } => format!("retry: {message}"),
        Ended::Retry { message, after: Some(after) } => {
            format!("retry after {}: {message}", humantime::format_duration(*after))
        }
        Ended::Rejected(message) => format!("reject: {message}"),
        Ended::Failed(message) => format!("fail: {message}"),
    }
}
