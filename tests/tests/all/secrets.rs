//! Secrets: a plugin is told its own, and nobody hears of them through the host, whatever the plugin does.

use presence_tests::{Collector, Config, Daemon, Folder, Plugin, guest, until};

/// Something of everything: a quote for JSON, a slash for URLs, a second line that could be a host name.
const SECRET: &str = "tell \"nusquam\" a/b+c\nhush-hush-zephyr";

/// No part of this may be found anywhere, in whatever form.
const TRACES: [&str; 6] = ["nusquam", "hush-hush", "zephyr", "a/b+c", "a%2Fb%2Bc", "a%2fb"];

/// The plugin and the folder with its secret.
fn leaky(folder: &Folder) -> Plugin {
    let file = folder.file("token", format!("{SECRET}\n"));
    Plugin::at("leaky", guest("guest-leaky"))
        .secrets(&format!("{{ token = \"file:{}\" }}", file.display()))
        .delivery("attempts = 2\nbackoff = \"1ms\"\nmax_backoff = \"2ms\"")
}

fn assert_silent(what: &str, text: &str) {
    for trace in TRACES {
        assert!(!text.contains(trace), "{what} tells {trace}:\n{text}");
    }
}

#[tokio::test]
async fn a_secret_is_told_nowhere() {
    let (folder, collector) = (Folder::new(), Collector::start().await);
    let daemon = Daemon::with(leaky(&folder)).section(collector.section("sample = 1")).start().await;
    let ways = [
        "retry", "reject", "panic", "message", "field", "json", "url", "stdout", "stderr", "pieces",
        "bucket", "origin",
    ];
    for way in ways {
        daemon.client(way).await.close().await;
    }
    for told in [
        "the token is [redacted]",
        "a field token=[redacted]",
        "as JSON: ",
        "https://x/?token=[redacted]",
        "stdout: [redacted]",
        "stderr: [redacted]",
        "[redacted] (in pieces)",
        "I can't stand [redacted]",
        "was denied the keyvalue bucket",
        "was denied a request to http://[redacted].example",
        "not with [redacted]",
        "never with [redacted]",
    ] {
        daemon.until_logged(&[told]).await;
    }
    let letters = until("three dead letters of each of two hooks", async || {
        let answer = daemon.get("/v1/dead-letters?limit=100").await;
        let count = answer.json()["dead_letters"].as_array().map_or(0, Vec::len);
        (count >= 6).then_some(answer.body)
    })
    .await;
    assert_silent("a dead letter", &letters);
    assert!(letters.contains("never with [redacted]"), "{letters}");
    assert_silent("/metrics", &daemon.get("/metrics").await.body);
    let ended = daemon.stop().await;
    assert_silent("the log", &ended.output());
    let of_hooks = collector.spans().into_iter().filter(|span| span.name.starts_with("hook leaky "));
    assert!(of_hooks.count() >= ways.len(), "hooks are traced");
    collector.requests().iter().for_each(|request| assert_silent("a trace", &request.body));
    assert!(ended.output().contains("everybody on this machine may read"), "{}", ended.output());
}

#[tokio::test]
async fn a_refused_configuration_tells_no_secret() {
    let folder = Folder::new();
    let config = Daemon::with(leaky(&folder).config("{ refuse = true }"));
    for ended in [config.clone().check().await, config.refused().await] {
        let ended = ended.with_code(78).says(&["it refuses its configuration: [redacted] is no good"]);
        assert_silent("the refusal", &ended.output());
    }
}

#[tokio::test]
async fn a_secret_that_is_missing_is_told_with_everything_else() {
    let plugin = Plugin::at("leaky", guest("guest-leaky")).secrets("{ token = \"file:/nowhere/token\" }");
    let config = Config::default().host("listen_on = \"x\"").section(plugin);
    let expected = ["plugin.secrets.token: /nowhere/token can't be read", "host.listen_on"];
    config.clone().refused().await.with_code(78).says(&expected);
    config.check().await.with_code(78).says(&expected);
}

#[tokio::test]
async fn another_file_than_the_pinned_one_is_refused() {
    let plugin = |digest: &str| Plugin::at("noop", guest("guest-noop")).pinned(digest);
    let wrong = "0".repeat(64);
    let refused = Daemon::with(plugin(&wrong)).check().await.with_code(78).says(&["plugin `noop`", &wrong]);
    let output = refused.output();
    let found = output.split("write sha256 = \"").nth(1).and_then(|rest| rest.split('"').next());
    let digest = found.unwrap_or_else(|| panic!("no remedy in {output}")).to_uppercase();
    Daemon::with(plugin(&digest)).check().await.with_code(0);
    Daemon::with(plugin(&wrong)).refused().await.with_code(78).says(&[&wrong, &digest.to_lowercase()]);
}
