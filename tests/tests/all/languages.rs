//! Plugins in JavaScript and Python, in the daemon; and the authors' verbs, as one types them. `cargo xtask test` builds
//! the plugins with their languages' tools: where it can't, these tests fail.

use presence_tests::{
    Config, Daemon, Folder, Plugin, Program, Receiver, guest, languages, shipped_plugin, until,
};
use serde_json::json;

/// Code that was compiled when the plugin was built: some 6 s on both processors of a small machine.
fn warm(plugin: Plugin) -> Config {
    Daemon::with(plugin).data_dir(&languages().join("cache/presence"))
}

#[tokio::test]
async fn a_plugin_in_javascript_tells_a_chat() {
    let chat = Receiver::start().await;
    let plugin = Plugin::at("chat-notifier", shipped_plugin("chat-notifier"))
        .config(&format!("{{ url = \"{}/hook\", text = \"{{user}} is here\" }}", chat.origin()))
        .may_reach(chat.origin())
        .limits("deadline = \"10s\"")
        .delivery("concurrency = 1");
    let daemon = warm(plugin).start().await;
    let _alice = daemon.client("alice").await;
    let message = until("a message to the chat", async || chat.requests().first().cloned()).await;
    assert_eq!((message.method.as_str(), message.path.as_str()), ("POST", "/hook"));
    assert_eq!(message.json(), json!({ "text": "alice is here" }));
    assert!(message.header("idempotency-key").starts_with("chat-notifier:user-online:alice:"));
}

#[tokio::test]
async fn a_plugin_in_python_counts_the_users_of_a_day() {
    let plugin = Plugin::at("daily-active", shipped_plugin("daily-active"))
        .grants("keyvalue = [\"days\"]")
        .interval("1s")
        .limits("deadline = \"10s\"")
        .delivery("concurrency = 1");
    let daemon = warm(plugin).start().await;
    let _alice = daemon.client("alice").await;
    let settled = async || {
        let metrics = daemon.get("/metrics").await.body;
        let delivered = |hook: &str| {
            metrics
                .lines()
                .any(|line| line.contains("delivered") && line.contains(hook) && !line.ends_with(" 0"))
        };
        (delivered("user-online") && delivered("tick")).then_some(())
    };
    until("user-online and tick are delivered", settled).await;
}

#[tokio::test]
async fn a_project_without_its_tools_is_told_how_to_get_them() {
    let folder = Folder::new();
    let project = folder.path().join("greeter");
    let place = project.to_str().unwrap();
    for (language, tool) in [("rust", "rustup"), ("js", "node"), ("python", "python3")] {
        let new = ["plugin", "new", "greeter", "--lang", language, "--dir", place];
        Program::presence(&new).run().await.with_code(0).says(&["presence plugin build"]);
        Program::presence(&new).run().await.with_code(64).says(&["is there already"]);
        let bare = Program::presence(&["plugin", "build", place]).env("PATH", "/nonexistent");
        bare.run().await.with_code(69).says(&["is missing", "To get it", tool]);
        std::fs::remove_dir_all(&project).unwrap();
    }
}

#[tokio::test]
async fn a_plugin_is_inspected() {
    let webhook = shipped_plugin("webhook");
    let webhook = webhook.to_str().unwrap();
    let ended = Program::presence(&["plugin", "inspect", webhook]).run().await.with_code(0);
    ended.says(&["sha256", "0.1.0", "session-connected", "user-offline", "wasi:http/outgoing-handler"]);
    let ended = Program::presence(&["plugin", "inspect", "--json", webhook]).run().await.with_code(0);
    let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&found["contract"], &found["problems"]), (&json!(["0.1.0"]), &json!([])));
    let folder = Folder::new();
    let broken = folder.file("broken.wasm", "no wasm");
    let broken = Program::presence(&["plugin", "inspect", broken.to_str().unwrap()]);
    broken.run().await.with_code(78).says(&["A host refuses it", "not a WebAssembly file"]);
}

#[tokio::test]
async fn a_hook_is_run_with_what_presence_toml_says() {
    let receiver = Receiver::start().await;
    let plugin = Plugin::at("profiles", shipped_plugin("profile-updater"))
        .config(&format!("{{ url = \"{}/p\" }}", receiver.origin()))
        .may_reach(receiver.origin());
    let folder = Folder::new();
    let config = folder.file("presence.toml", Config::default().section(plugin).render());
    let (file, config) = (shipped_plugin("profile-updater"), config.to_str().unwrap());
    let words = ["plugin", "run", file.to_str().unwrap(), "--hook", "user-idle", "--user", "alice"];
    let ended = Program::presence(&[&words[..], &["--config", config]].concat()).run().await.with_code(0);
    ended.says(&["profiles:user-idle:alice:", "http PUT", "/p/alice -> 204", "result  ok", "memory"]);
    assert_eq!(receiver.requests()[0].json()["status"], "idle");
    // The config alone grants nothing.
    let plain = folder.file("config.json", format!("{{ \"url\": \"{}/p\" }}", receiver.origin()));
    let denied = [&words[..], &["--json", "--config", plain.to_str().unwrap()]].concat();
    let ended = Program::presence(&denied).run().await.with_code(1);
    let ran: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(ran["result"]["kind"], "retry", "{ran:#}");
    assert!(
        ran.to_string().contains(&receiver.origin()) && ran.to_string().contains("\"denied\""),
        "{ran:#}"
    );
    assert_eq!(receiver.requests().len(), 1);
    Program::presence(&words).run().await.with_code(78).says(&["refuses its configuration"]);
    let misspelt = ["plugin", "run", words[2], "--hook", "user-idel", "--user", "alice"];
    Program::presence(&misspelt).run().await.with_code(64).says(&["user-idel", "user-idle"]);
}

#[tokio::test]
async fn scenarios_show_what_is_expected_beside_what_is_found() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("scenarios")).unwrap();
    let head = "config = { url = \"http://profiles/p\" }\n[grants]\nhttp = [\"http://profiles\"]\n";
    folder.file(
        "scenarios/a-passes.toml",
        format!(
            "title = \"idle is put\"\n{head}[[http]]\nmethod = \"PUT\"\nurl = \"http://profiles/p/alice\"\n\
             json = {{ user = \"alice\", status = \"idle\", since = \"2026-11-25T08:30:00.000Z\", revision = 1 }}\n\
             [[event]]\nhook = \"user-idle\"\nuser = \"alice\"\nevent = {{ since = 1795595400000 }}\n\
             calls = [\"http PUT http://profiles/p/alice -> 200\"]\n"
        ),
    );
    folder.file(
        "scenarios/b-fails.toml",
        format!(
            "{head}[[http]]\nmethod = \"PUT\"\nurl = \"http://profiles/p/bob\"\n\
                 [[event]]\nhook = \"user-idle\"\nuser = \"alice\"\n"
        ),
    );
    folder.file("scenarios/c-misspelt.toml", "[[event]]\nhoop = \"user-idle\"\n");
    let component = shipped_plugin("profile-updater");
    let words =
        ["plugin", "test", folder.path().to_str().unwrap(), "--component", component.to_str().unwrap()];
    let ended = Program::presence(&words).run().await.with_code(1);
    ended.says(&[
        "ok   a-passes.toml: idle is put",
        "FAIL b-fails.toml",
        "a request that no [[http]] answers",
        "PUT http://profiles/p/alice",
        "expected  ok",
        "found     retry: ",
        "c-misspelt.toml:2: event.hoop: is not a key",
        "1 passed, 2 failed",
    ]);
}

#[tokio::test]
async fn messages_lookups_and_ticks_are_scenarios_as_well() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("scenarios")).unwrap();
    folder.file("scenarios/courier.toml", include_str!("languages/courier.toml"));
    let component = guest("guest-courier");
    let words =
        ["plugin", "test", folder.path().to_str().unwrap(), "--component", component.to_str().unwrap()];
    Program::presence(&words).run().await.with_code(0).says(&["1 passed, 0 failed"]);
}
