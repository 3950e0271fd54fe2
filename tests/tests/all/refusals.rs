//! What is wrong is said at once, completely, and before anything is bound: exit codes 64, 69, 78.

use std::path::{Path, PathBuf};

use presence_tests::{Config, Daemon, Folder, Plugin, ProfileService, Program};

/// WebAssembly of a text in tests/fixtures.
fn fixture(folder: &Folder, name: &str) -> PathBuf {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let wasm = wat::parse_file(&text).unwrap_or_else(|error| panic!("`{}`: {error}", text.display()));
    folder.file(&format!("{name}.wasm"), wasm)
}

#[tokio::test]
async fn a_file_that_is_no_plugin_is_refused() {
    let folder = Folder::new();
    let text = folder.file("text.wasm", "hello");
    let empty = folder.file("empty.wasm", "");
    let broken =
        folder.file("broken.wasm", &std::fs::read(presence_tests::guest("guest-noop")).unwrap()[..2000]);
    let cases = [
        (folder.path().join("missing.wasm"), "can't be read"),
        (empty, "empty"),
        (text, "not a WebAssembly file"),
        (broken, "not a valid component"),
        (fixture(&folder, "core-module.wat"), "core module"),
        (fixture(&folder, "no-hooks.wat"), "exports no hook"),
        (fixture(&folder, "other-version.wat"), "presence:plugin/user-online@0.2.0"),
        (fixture(&folder, "unknown-hook.wat"), "presence:plugin/user-sleepy"),
        (fixture(&folder, "wrong-type.wat"), "user-online"),
        (fixture(&folder, "unknown-import.wat"), "example:elsewhere/thing"),
    ];
    let mut all = Config::default();
    for (number, (path, reason)) in cases.iter().enumerate() {
        let name = format!("broken-{number}");
        let config = Daemon::with(Plugin::at(&name, path));
        config.clone().refused().await.with_code(78).says(&[&name, reason, path.to_str().unwrap()]);
        config.check().await.with_code(78).says(&[&name, reason]);
        all = all.section(Plugin::at(&name, path));
    }
    // All of them in one go.
    let names: Vec<String> = (0..cases.len()).map(|number| format!("broken-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    all.refused().await.with_code(78).says(&names);
}

#[tokio::test]
async fn a_plugin_that_refuses_its_configuration_is_refused() {
    let cases = [
        ("reject", "refuses its configuration"),
        ("panic", "`configure` failed"),
        ("loop", "limits.deadline"),
    ];
    for (act, reason) in cases {
        let plugin = Plugin::hostile("act = \"nothing\"").config(&format!("{{ configure = \"{act}\" }}"));
        Daemon::with(plugin).refused().await.with_code(78).says(&["hostile", reason]);
    }
}

#[tokio::test]
async fn every_mistake_in_the_configuration_is_named_at_once() {
    let config = Config::default()
        .host("drain_timeout = \"soon\"\nlisten_on = \"x\"")
        .presence("heartbeat = 25")
        .section("[auth]\nmode = \"password\"")
        .section("[[plugin]]\nname = \"nameless\"");
    let expected = ["presence.toml", "drain_timeout", "soon", "listen_on", "heartbeat", "auth.mode", "path"];
    config.clone().refused().await.with_code(78).says(&expected);
    config.check().await.with_code(78).says(&expected);
}

#[tokio::test]
async fn a_configuration_that_is_missing_or_no_toml_is_refused() {
    let folder = Folder::new();
    let missing = folder.path().join("none.toml");
    let missing = missing.to_str().unwrap();
    Program::presence(&["serve", "--config", missing]).run().await.with_code(78).says(&["none.toml"]);
    let broken = folder.file("broken.toml", "[host\nlisten = 1\n");
    let broken = broken.to_str().unwrap();
    Program::presence(&["serve", "--config", broken]).run().await.with_code(78).says(&["broken.toml", "1"]);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    Config::default().listen(&address).refused().await.with_code(69).says(&[&address, "listen"]);
}

#[tokio::test]
async fn without_authentication_only_loopback_is_served() {
    Config::default().listen("0.0.0.0:0").refused().await.with_code(78).says(&["auth.mode", "0.0.0.0:0"]);
}

#[tokio::test]
async fn mistakes_on_the_command_line_are_usage() {
    let cases: [&[&str]; 4] = [&[], &["dance"], &["serve", "--colour"], &["connect"]];
    for arguments in cases {
        Program::presence(arguments).run().await.with_code(64).says(&["Usage"]);
    }
    Program::presence(&["serve", "--log", "=,="]).run().await.with_code(64).says(&["=,="]);
    Program::presence(&["--help"]).run().await.with_code(0).says(&["serve", "check", "connect", "Example"]);
}

#[tokio::test]
async fn a_check_shows_what_a_plugin_is_and_may() {
    let profiles = ProfileService::start().await;
    let origin = profiles.origin();
    let checked = Daemon::with(Plugin::profile_updater(&profiles)).check().await.with_code(0);
    checked.says(&[
        "profile-updater",
        "cleanup",
        "user-online",
        "user-idle",
        "user-offline",
        &origin,
        "32 MiB",
    ]);
}

#[tokio::test]
async fn the_example_of_the_readme_is_a_configuration() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let folder = Folder::new();
    let path = folder.file("presence.toml", example.expect("README.md shows a configuration"));
    let check = Program::presence(&["check", "--config", path.to_str().unwrap()]);
    let checked = check.env("PRESENCE_JWT_SECRET", "a secret of at least thirty-two bytes").run().await;
    // Its plugin is the reader's to write; nothing else is wrong.
    let checked = checked.with_code(78).says(&["greeter.wasm", "can't be read"]);
    assert_eq!(checked.output().lines().count(), 1, "{}", checked.output());
}
