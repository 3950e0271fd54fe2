//! Keyvalue of a single host: in a file that survives the host, and belongs to one.

use presence_host::plugins::keyvalue::file::FileKeyValue;
use presence_host::plugins::keyvalue::{Bucket, KeyValue};
use presence_tests::{Config, Daemon, Folder, Plugin, guest, until};
use serde_json::Value;

const HEARD: Bucket<'static> = Bucket { plugin: "recorder", bucket: "heard" };

/// A host whose plugin keeps what it hears.
fn recorder(data_dir: &Folder) -> Config {
    let plugin = Plugin::at("recorder", guest("guest-recorder"))
        .config("{ bucket = \"heard\" }")
        .grants("keyvalue = [\"heard\"]");
    Daemon::with(plugin).presence("offline_grace = \"0s\"").data_dir(data_dir.path())
}

/// Waits until the plugin has been told of so many users who came online.
async fn until_delivered(daemon: &Daemon, count: u64) {
    let wanted = format!("presence_hook_delivered_total{{plugin=\"recorder\",hook=\"user-online\"}} {count}");
    until(wanted.clone(), async || daemon.get("/metrics").await.body.contains(&wanted).then_some(())).await;
}

#[tokio::test]
async fn what_a_plugin_keeps_survives_the_end_of_its_host() {
    let data_dir = Folder::new();
    let daemon = recorder(&data_dir).start().await;
    let _alice = daemon.client("alice").await;
    until_delivered(&daemon, 1).await;
    // At once, with nothing flushed or closed.
    daemon.kill().await;
    let daemon = recorder(&data_dir).start().await;
    let _again = daemon.client("alice").await;
    until_delivered(&daemon, 1).await;
    daemon.kill().await;

    let kept = FileKeyValue::new(data_dir.path()).unwrap();
    let entry = kept.get(HEARD, "alice").await.unwrap().expect("it was told of alice");
    let documents: Value = serde_json::from_slice(&entry.value).unwrap();
    let documents = documents.as_array().unwrap();
    let online = documents.iter().filter(|document| document["hook"] == "user-online").count();
    assert_eq!(online, 2, "one of each life: {documents:?}");
}

#[tokio::test]
async fn a_second_host_on_the_same_file_is_refused() {
    let data_dir = Folder::new();
    let daemon = recorder(&data_dir).start().await;
    let file = data_dir.path().join("keyvalue.redb").display().to_string();
    recorder(&data_dir).refused().await.with_code(69).says(&[&file, "another process uses", "host.data_dir"]);
    // A check asks for nothing that the host has.
    recorder(&data_dir).check().await.with_code(0);
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn a_check_makes_no_file_and_a_damaged_one_is_refused() {
    let data_dir = Folder::new();
    recorder(&data_dir).check().await.with_code(0);
    assert!(!data_dir.path().join("keyvalue.redb").exists());
    let file = data_dir.file("keyvalue.redb", "no keys").display().to_string();
    recorder(&data_dir).refused().await.with_code(78).says(&[&file, "no whole file of keys", "move it away"]);
}
