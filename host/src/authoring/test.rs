//! `presence plugin test`: plays a project's scenarios against its component and says what is not as expected.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use presence_core::time::Timestamp;

use super::command::{TestArguments, cache_folder};
use super::project::Project;
use super::scenario::{Scenario, Step};
use super::script::Script;
use super::verdict::{Mismatch, compare, judge};
use crate::commands::{EXIT_CONFIGURATION, EXIT_USAGE};
use crate::config;
use crate::plugins::local::tape::text_of;
use crate::plugins::local::{LocalPlugin, LocalRuns, World};
use crate::plugins::{CompileMode, Draft, Problem, event_from};

/// A scenario failed.
const EXIT_FAILED: u8 = 1;

pub(super) async fn run(arguments: &TestArguments, compile: CompileMode) -> u8 {
    let component = match component_of(arguments) {
        Ok(component) => component,
        Err(message) => {
            eprintln!("presence: {message}");
            return EXIT_USAGE;
        }
    };
    let files = scenario_files(&arguments.folder.join("scenarios"));
    if files.is_empty() {
        eprintln!("presence: there are no scenarios: `{}/scenarios/*.toml`", arguments.folder.display());
        return EXIT_USAGE;
    }
    let runs = match LocalRuns::new(&cache_folder(), compile) {
        Ok(runs) => runs,
        Err(problem) => {
            eprintln!("presence: {problem}");
            return EXIT_CONFIGURATION;
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (title, faults) = match config::scenario(&file, &component) {
            Ok(scenario) => (scenario.title.clone(), play(&runs, &scenario).await),
            Err(errors) => (String::new(), Err(errors.to_string())),
        };
        let label = if title.is_empty() { name } else { format!("{name}: {title}") };
        let text = match faults {
            Ok(mismatches) => mismatches.iter().map(report).collect(),
            Err(message) => indented(&message),
        };
        print!("{} {label}\n{text}", if text.is_empty() { "ok  " } else { "FAIL" });
        if text.is_empty() { passed += 1 } else { failed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { 0 } else { EXIT_FAILED }
}

fn component_of(arguments: &TestArguments) -> Result<PathBuf, String> {
    let component = match &arguments.component {
        Some(component) => component.clone(),
        None => Project::find(&arguments.folder).map_err(|error| error.to_string())?.component(),
    };
    if component.is_file() {
        return Ok(component);
    }
    let build = format!("presence plugin build {}", arguments.folder.display());
    Err(format!("`{}` is not there: `{build}` makes it", component.display()))
}

/// By name.
fn scenario_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let files = entries.map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|kind| kind == "toml")).collect();
    files.sort();
    files
}

/// Everything that is not as expected; an error when the plugin can't be used at all.
async fn play(runs: &LocalRuns, scenario: &Scenario) -> Result<Vec<Mismatch>, String> {
    let script = Arc::new(Script::new(scenario.exchanges.clone()));
    let world = World {
        web: script.clone(),
        keyvalue: scenario.keyvalue.clone(),
        users: scenario.users.clone(),
        now: scenario.now,
    };
    let loaded = runs.load(&scenario.settings, world).await;
    if let Some(refused) = &scenario.refused {
        return Ok(judge_refusal(refused, loaded.err().map(|error| error.problems)));
    }
    let mut plugin = loaded.map_err(|error| error.to_string())?;
    script.begin();
    let mut mismatches = Vec::new();
    for (number, step) in scenario.steps.iter().enumerate() {
        mismatches.extend(play_step(&mut plugin, scenario, number, step).await?);
        mismatches.extend(script.strays().into_iter().map(|stray| {
            let what = format!("line {}, {}: a request that no [[http]] answers", step.line, step.hook);
            let (expected, found) = stray.instead.unwrap_or_default();
            let found = [stray.request, found].into_iter().filter(|line| !line.is_empty()).collect();
            let expected = Some(expected).into_iter().filter(|line| !line.is_empty()).collect();
            Mismatch { place: what, expected, found }
        }));
    }
    mismatches.extend(script.unused().into_iter().map(|(exchange, used)| Mismatch {
        place: format!("line {}, [[http]]: {} {}", exchange.line, exchange.method, exchange.url),
        expected: vec![format!("{} times", exchange.times)],
        found: vec![format!("{used} times")],
    }));
    for (bucket, entries) in &scenario.keyvalue_after {
        let line = |(key, value): (&str, &str)| format!("{key} = {value}");
        let expected: Vec<String> = entries.iter().map(|(key, value)| line((key, value))).collect();
        let found = plugin.bucket(bucket).await;
        let found = found.iter().map(|(key, value)| line((key, &text_of(value)))).collect();
        mismatches.extend(compare(format!("[after.keyvalue.{bucket}]"), Some(&expected), found));
    }
    Ok(mismatches)
}

async fn play_step(
    plugin: &mut LocalPlugin,
    scenario: &Scenario,
    number: usize,
    step: &Step,
) -> Result<Vec<Mismatch>, String> {
    let hooks = &plugin.description().hooks;
    if !hooks.contains(&step.hook) {
        let has: Vec<&str> = hooks.iter().map(|hook| hook.as_str()).collect();
        return Err(format!(
            "line {}: the plugin has no hook {}; it has {}",
            step.line,
            step.hook,
            has.join(", ")
        ));
    }
    let now = scenario.now.or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok());
    let draft = Draft {
        hook: step.hook,
        user: step.user.as_deref(),
        fields: step.event.as_ref(),
        now: Timestamp(millis(now.unwrap_or_default())),
        revision: number as u64 + 1,
    };
    let event = event_from(&draft).map_err(|error| format!("line {}: {error}", step.line))?;
    let ran = plugin.call(event, step.event_id.as_deref(), step.attempt).await;
    Ok(judge(step, &ran))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn judge_refusal(refused: &str, problems: Option<Vec<Problem>>) -> Vec<Mismatch> {
    let said = match problems.as_deref() {
        None => "it takes the configuration".to_owned(),
        Some([Problem::Configure(reason)]) if reason.contains(refused) => return Vec::new(),
        Some(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    vec![Mismatch {
        place: "refused".to_owned(),
        expected: vec![format!("it refuses its configuration: …{refused}…")],
        found: vec![said],
    }]
}

fn report(mismatch: &Mismatch) -> String {
    let mut text = format!("     {}\n", mismatch.place);
    for (name, lines) in [("expected", &mismatch.expected), ("found", &mismatch.found)] {
        let nothing = vec!["(nothing)".to_owned()];
        for (at, line) in (if lines.is_empty() { &nothing } else { lines }).iter().enumerate() {
            text.push_str(&format!("       {:<9} {line}\n", if at == 0 { name } else { "" }));
        }
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("     {line}\n")).collect()
}
