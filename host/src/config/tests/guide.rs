//! docs/plugins.md against the readers of presence.toml and of scenarios: its examples are accepted, and its keys, defaults
//! and ranges are theirs.

use std::collections::BTreeSet;

use super::*;
use crate::authoring::scenario::Kind;
use crate::guide::{LANGUAGES, PLUGINS, Row, blocks, names, tables};
use crate::plugins::local::web::Fault;
use crate::plugins::testing::Folder;
use crate::settings::PluginSettings;

/// Near no key: whoever meets it names all that there are.
const STRANGER: &str = "no_such_key_at_all";

/// The plugin of a part of presence.toml, on a host with NATS where every variable is set.
fn plugin_in(folder: &Folder, text: &str) -> Result<PluginSettings, Vec<String>> {
    let entry = "[[plugin]]\nname = \"p\"\npath = \"p.wasm\"\n";
    let whole = if text.contains("[[plugin]]") { text.to_owned() } else { format!("{entry}{text}") };
    let running = check(NATS).unwrap().cluster;
    let env = |name: &str| Some(format!("the value of {name}"));
    let parsed = parse_beside(&whole, &folder.path().join("presence.toml"), &env, Some(&running));
    parsed.map(|mut settings| settings.plugins.remove(0)).map_err(|errors| errors.lines())
}

fn scenario_errors(folder: &Folder, text: &str) -> Vec<String> {
    let file = folder.write("scenario.toml", text);
    scenario(&file, Path::new("greeter.wasm")).map_or_else(|errors| errors.lines(), |_| Vec::new())
}

/// The keys of a table, such as `plugin.limits.`, told by the reader that met the stranger there.
fn keys(errors: &[String], table: &str) -> BTreeSet<String> {
    let beginning = format!(": {table}{STRANGER}: is not a key; there are ");
    let told = errors.iter().find_map(|line| line.split_once(&beginning));
    let (_, keys) = told.unwrap_or_else(|| panic!("{beginning} is not in {errors:#?}"));
    keys.split(", ").map(str::to_owned).collect()
}

fn row<'t>(table: &'t [Row], key: &str) -> &'t Row {
    table.iter().find(|row| row[0] == format!("`{key}`")).unwrap_or_else(|| panic!("no row of {key}"))
}

/// `key = value` for each row that tells a default as one writes it.
fn defaults(table: &[Row]) -> String {
    let told = table.iter().filter(|row| row[1].starts_with('`'));
    told.map(|row| format!("{} = {}\n", row[0].trim_matches('`'), row[1].trim_matches('`'))).collect()
}

#[test]
fn its_parts_of_presence_toml_are_accepted() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    folder.write("secrets/chat-token", "the token of the chat\n");
    let parts = blocks(PLUGINS, "toml");
    assert!(parts.len() >= 4, "{parts:#?}");
    for part in parts {
        plugin_in(&folder, &part).unwrap_or_else(|errors| panic!("{errors:#?} in\n{part}"));
    }
    assert!(plugin_in(&folder, "[plugin.grants]\nhttps = []").is_err());
}

#[test]
fn its_scenarios_are_accepted() {
    let folder = Folder::new();
    let scenarios = [blocks(PLUGINS, "toml scenario"), blocks(LANGUAGES, "toml")].concat();
    assert_eq!(scenarios.len(), 3);
    for text in scenarios {
        assert_eq!(scenario_errors(&folder, &text), [] as [&str; 0], "{text}");
    }
    assert!(!scenario_errors(&folder, "titel = \"x\"").is_empty());
}

#[test]
fn its_keys_of_an_entry_are_those_that_are_read() {
    let text = format!(
        "{STRANGER} = 1\n[plugin.grants]\nhttp = [{{ origin = \"http://a\", {STRANGER} = 1 }}]\n{STRANGER} = 1\n\
         [plugin.limits]\n{STRANGER} = 1\n[plugin.delivery]\n{STRANGER} = 1\n"
    );
    let errors = plugin_in(&Folder::new(), &text).unwrap_err();
    for (heading, at, table) in [
        ("## The entry", 0, "plugin."),
        ("## Grants", 0, "plugin.grants."),
        ("## Grants", 1, "plugin.grants.http[0]."),
        ("## Limits", 0, "plugin.limits."),
        ("## Delivery", 0, "plugin.delivery."),
    ] {
        assert_eq!(names(&tables(PLUGINS, heading)[at]), keys(&errors, table), "{heading}");
    }
}

#[test]
fn its_keys_of_a_scenario_are_those_that_are_read() {
    let text = format!(
        "{STRANGER} = 1\n[users.bob]\n{STRANGER} = 1\n[[http]]\nurl = \"x\"\n{STRANGER} = 1\n\
         answer = {{ {STRANGER} = 1 }}\n[[event]]\nhook = \"tick\"\n{STRANGER} = 1\n"
    );
    let errors = scenario_errors(&Folder::new(), &text);
    let told = tables(PLUGINS, "### Scenarios");
    for (table, place) in told.iter().zip(["", "users.bob.", "http.", "http.answer.", "event."]) {
        assert_eq!(names(table), keys(&errors, place), "{place}");
    }
    assert_eq!(told.len(), 5);
    for (fault, _) in Fault::ALL {
        assert!(row(&told[3], "error")[2].contains(&format!("`{fault}`")), "{fault}");
    }
    for (kind, _) in Kind::ALL {
        assert!(row(&told[4], "result").concat().contains(&format!("`\"{kind}\"`")), "{kind}");
    }
}

#[test]
fn its_defaults_are_those_of_the_code() {
    let folder = Folder::new();
    let read = |text: &str| plugin_in(&folder, text).unwrap();
    let plain = read("");
    let [limits, delivery] =
        ["## Limits", "## Delivery"].map(|heading| defaults(&tables(PLUGINS, heading)[0]));
    let told = format!("[plugin.limits]\n{limits}\n[plugin.delivery]\n{delivery}");
    assert_eq!(
        blocks(PLUGINS, "toml defaults"),
        std::slice::from_ref(&told),
        "the block and the tables say the same"
    );
    let told = read(&told);
    assert_eq!((&told.limits, &told.delivery), (&plain.limits, &plain.delivery));
    assert_eq!(limits.lines().count() + delivery.lines().count(), 8, "{limits}{delivery}");

    let entry = read(&defaults(&tables(PLUGINS, "## The entry")[0]));
    assert_eq!(entry.interval, Some(plain.interval()));
    assert_eq!(PluginSettings { interval: None, ..entry }, plain);
    let grants = read(&format!("[plugin.grants]\n{}", defaults(&tables(PLUGINS, "## Grants")[0])));
    assert_eq!(grants, plain);
}

#[test]
fn its_ranges_are_those_of_the_code() {
    let folder = Folder::new();
    let range = |text: &str| {
        let errors = plugin_in(&folder, text).unwrap_err();
        let (_, range) = errors[0].split_once("must be ").unwrap_or_else(|| panic!("{errors:?}"));
        range.trim_start_matches("a whole number ").trim_end_matches(", not 0").to_owned()
    };
    for (heading, table, key, value) in [
        ("## Limits", "limits", "memory", "\"1KiB\""),
        ("## Limits", "limits", "deadline", "\"1ms\""),
        ("## Limits", "limits", "log", "\"1GiB\""),
        ("## Delivery", "delivery", "concurrency", "0"),
        ("## Delivery", "delivery", "queue", "0"),
        ("## Delivery", "delivery", "attempts", "0"),
    ] {
        let told = tables(PLUGINS, heading);
        let range = range(&format!("[plugin.{table}]\n{key} = {value}\n"));
        assert_eq!(row(&told[0], key)[2].replace('`', ""), range, "{key}");
    }
    let entry = tables(PLUGINS, "## The entry");
    let interval = range("interval = \"2d\"");
    assert!(row(&entry[0], "interval")[2].replace('`', "").contains(&interval), "{interval}");
    let secret = format!("A file has at most {} KiB", super::super::secrets::MAX_FILE_BYTES >> 10);
    assert!(PLUGINS.contains(&secret), "{secret}");
}
