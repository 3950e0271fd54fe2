//! Keys of the HTTP API: made, used, taken away, by whole daemons and the command line.

use presence_tests::{Config, Daemon, Folder, Program, ask_with, until};
use serde_json::Value;

/// A new key and its lines for presence.toml.
async fn new_key(name: &str, scopes: &[&str]) -> (String, String) {
    let mut arguments = vec!["keys", "new", "--name", name];
    scopes.iter().for_each(|scope| arguments.extend(["--scope", scope]));
    let made = Program::presence(&arguments).run().await.with_code(0);
    let key = made.stdout.lines().next().unwrap().to_owned();
    let section = made.stdout.find("[[api.key]]").expect("lines for presence.toml");
    (key, made.stdout[section..].to_owned())
}

async fn status(daemon: &Daemon, method: &str, path: &str, key: Option<&str>) -> u16 {
    let bearer = key.map(|key| format!("Bearer {key}")).unwrap_or_default();
    let headers = [("authorization", bearer.as_str())];
    let headers = if key.is_some() { &headers[..] } else { &[] };
    ask_with(method, daemon.admin(), path, headers).await.unwrap().status
}

#[tokio::test]
async fn a_key_opens_what_its_scopes_say_also_from_the_command_line() {
    let ((reader, reads), (admin, changes)) =
        (new_key("reader", &["read"]).await, new_key("operator", &["admin"]).await);
    let daemon = Daemon::with(reads).section(changes).start().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(&daemon, "GET", path, None).await, 200, "{path}");
    }
    for path in ["/v1/users/alice", "/v1/plugins", "/metrics", "/v1/nowhere"] {
        assert_eq!(status(&daemon, "GET", path, None).await, 401, "{path}");
    }
    assert_eq!(status(&daemon, "GET", "/metrics", Some(&reader)).await, 200);
    assert_eq!(status(&daemon, "POST", "/v1/reload", Some(&reader)).await, 403);
    assert_eq!(status(&daemon, "POST", "/v1/reload", Some(&admin)).await, 200);

    let address = format!("http://{}", daemon.admin());
    let users = ["users", "alice", "--admin", &address];
    let command = || Program::presence(&users).env("PRESENCE_API_KEY", "");
    command().run().await.with_code(69).says(&["401", "Authorization: Bearer pk_"]);
    let told = command().env("PRESENCE_API_KEY", &reader).run().await.with_code(0);
    told.says(&["alice", "offline"]);
    let folder = Folder::new();
    let file = folder.file("key", format!("{reader}\n"));
    let with_file = [&users[..], &["--key-file", file.to_str().unwrap()]].concat();
    Program::presence(&with_file).run().await.with_code(0).says(&["alice"]);
    let refused =
        Program::presence(&["reload", "--admin", &address]).env("PRESENCE_API_KEY", &reader).run().await;
    refused.with_code(69).says(&["403", "`admin`"]);
    daemon.until_logged(&["asked with an API key", "operator", "/v1/reload"]).await;
    assert!(!daemon.log().contains(&reader) && !daemon.log().contains(&admin), "{}", daemon.log());
}

#[tokio::test]
async fn keys_come_and_go_while_the_host_runs() {
    let ((old, old_lines), (new, new_lines)) =
        (new_key("old", &["read"]).await, new_key("new", &["read"]).await);
    let daemon = Daemon::with(old_lines).start().await;
    daemon.edit(&Config::default().section(new_lines));
    until("the new key is let in and the old one is not", async || {
        let new = status(&daemon, "GET", "/metrics", Some(&new)).await;
        let old = status(&daemon, "GET", "/metrics", Some(&old)).await;
        (new == 200 && old == 401).then_some(())
    })
    .await;
    // Taking all of them away would open the door: that takes a restart.
    daemon.edit(&Config::default());
    daemon.until_logged(&["need a restart", "api.key"]).await;
    assert_eq!(status(&daemon, "GET", "/metrics", None).await, 401);
    assert_eq!(status(&daemon, "GET", "/metrics", Some(&new)).await, 200);
}

#[tokio::test]
async fn keys_are_made_for_programs_too_and_only_sensible_ones() {
    let arguments = ["keys", "new", "--name", "ci", "--scope", "admin", "--scope", "read", "--json"];
    let made = Program::presence(&arguments).run().await.with_code(0);
    let document: Value = serde_json::from_str(&made.stdout).unwrap();
    assert!(
        document["key"].as_str().unwrap().starts_with("pk_") && document["scopes"][0] == "read",
        "{document}"
    );
    for wrong in [
        &["keys", "new", "--name", "ci"][..],
        &["keys", "new", "--scope", "read"],
        &["keys", "new", "--name", "ci", "--scope", "write"],
        &["keys", "new", "--name", "a b", "--scope", "read"],
    ] {
        Program::presence(wrong).run().await.with_code(64);
    }
}

#[tokio::test]
async fn an_admin_listener_for_others_needs_keys() {
    let secret = "[auth]\nmode = \"jwt\"\n[[auth.key]]\nalgorithm = \"HS256\"\nsecret = \"0123456789abcdef0123456789abcdef\"";
    let folder = Folder::new();
    let file = folder
        .file("presence.toml", format!("[host]\nlisten = \"127.0.0.1:0\"\nadmin = \"0.0.0.0:0\"\n{secret}"));
    let refused = Program::presence(&["serve", "--config", file.to_str().unwrap()]).run().await.with_code(78);
    refused.says(&["host.admin", "0.0.0.0:0", "[[api.key]]", "presence keys new", "loopback"]);
}
