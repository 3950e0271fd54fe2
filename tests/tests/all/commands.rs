//! The command line against a running host.

use presence_tests::{Daemon, Plugin, ProfileService, Program};

#[tokio::test]
async fn connect_is_a_client_in_the_terminal() {
    let profiles = ProfileService::start().await;
    let config = Daemon::with(Plugin::profile_updater(&profiles)).presence("offline_grace = \"0s\"");
    let daemon = config.start().await;
    let mut bob = daemon.client("bob").await;
    bob.idle().await;
    daemon.until_status("bob", "idle").await;
    let url = format!("ws://{}", daemon.clients());
    let mut terminal = Program::presence(&["connect", "--user", "alice", "--url", &url]).start();
    terminal.until_printed(&["alice", "online"]).await;
    terminal.types("i").await;
    profiles.until_heard("alice", &["online", "idle"]).await;
    terminal.types("w bob").await;
    terminal.until_printed(&["bob", "idle"]).await;
    bob.online().await;
    terminal.until_printed(&["bob", "online"]).await;
    terminal.types("o").await;
    profiles.until_heard("alice", &["online", "idle", "online"]).await;
    terminal.types("q").await;
    profiles.until_heard("alice", &["online", "idle", "online", "offline"]).await;
    assert_eq!(terminal.until_ended().await, Some(0));
}

#[tokio::test]
async fn connect_says_when_nobody_listens() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("ws://{free}");
    Program::presence(&["connect", "--user", "alice", "--url", &url]).run().await.with_code(69).says(&[&url]);
}

#[tokio::test]
async fn users_are_printed() {
    let daemon = Daemon::with("").start().await;
    let _alice = daemon.client("alice").await;
    daemon.until_status("alice", "online").await;
    let admin = format!("http://{}", daemon.admin());
    let ended = Program::presence(&["users", "--admin", &admin, "alice", "bob"]).run().await.with_code(0);
    let line =
        |user: &str| ended.stdout.lines().find(|line| line.contains(user)).unwrap_or_default().to_owned();
    assert!(line("alice").contains("online"), "{}", ended.output());
    assert!(line("bob").contains("offline"), "{}", ended.output());
}

#[tokio::test]
async fn dead_letters_are_listed() {
    let rejecting = Plugin::hostile("hook = \"user-online\", act = \"reject\"");
    let daemon = Daemon::with(rejecting).start().await;
    let _alice = daemon.client("alice").await;
    daemon.until_logged(&["hostile", "user-online", "alice"]).await;
    let admin = format!("http://{}", daemon.admin());
    let listed = async || {
        let list = Program::presence(&["plugin", "dead-letters", "--admin", &admin]).run().await.with_code(0);
        list.stdout.contains("alice").then_some(list)
    };
    presence_tests::until("a dead letter of alice", listed).await.says(&["hostile", "user-online", "alice"]);
}

#[tokio::test]
async fn plugins_are_listed() {
    let plugin = Plugin::hostile("user = \"mallory\", act = \"trap\"").limits("deadline = \"500ms\"");
    let daemon = Daemon::with(plugin).start().await;
    let _mallory = daemon.client("mallory").await;
    let admin = format!("http://{}", daemon.admin());
    let listed = async || {
        let list =
            Program::presence(&["plugin", "list", "--admin", &admin, "--json"]).run().await.with_code(0);
        let list: serde_json::Value = serde_json::from_str(&list.stdout).unwrap();
        let plugin = list["plugins"][0].clone();
        (plugin["dead_letters"].as_u64() >= Some(1)).then_some(plugin)
    };
    let plugin = presence_tests::until("the plugin has given up an event", listed).await;
    assert_eq!((&plugin["name"], &plugin["state"]), (&"hostile".into(), &"running".into()), "{plugin}");
    assert!(plugin["memory_peak_bytes"].as_u64() > Some(0) && plugin["hooks"].as_array().unwrap().len() == 6);
    let digest = plugin["digest"].as_str().unwrap();
    let table = Program::presence(&["plugin", "list", "--admin", &admin]).run().await.with_code(0);
    table.says(&["PLUGIN", "STATE", "hostile", "running", &digest[..12], "user-online"]);
}
