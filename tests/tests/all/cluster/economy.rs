//! How many consumers a deployment has: few for each host, however many users and watchers there are.

use std::collections::BTreeMap;

use super::*;

/// At most so many of each stream for each host.
const OF_A_HOST: u64 = 2;

/// Consumers by stream.
async fn consumers(deployment: &Deployment) -> BTreeMap<String, u64> {
    let client = async_nats::connect(deployment.nats.url()).await.expect("a client");
    let ask = async |verb: String| -> Value {
        let answer = client.request(format!("$JS.API.{verb}"), "".into()).await.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    };
    let names = ask("STREAM.NAMES".into()).await["streams"].as_array().expect("a list").clone();
    let mut counts = BTreeMap::new();
    for name in names.iter().filter_map(Value::as_str) {
        let info = ask(format!("STREAM.INFO.{name}")).await;
        counts.insert(name.to_owned(), info["state"]["consumer_count"].as_u64().expect("a number"));
    }
    counts
}

fn are_few(counts: &BTreeMap<String, u64>, hosts: usize) -> bool {
    counts.values().all(|count| *count <= OF_A_HOST * hosts as u64)
}

#[tokio::test]
async fn a_host_needs_two_consumers_of_a_stream_at_most() {
    let deployment = Deployment::with("offline_grace = \"0s\"").await;
    let mut hosts = Vec::new();
    for name in ["a", "b", "c"] {
        hosts.push(deployment.host(name).await);
    }
    let users: Vec<String> = (0..30).map(|number| format!("user-{number}")).collect();
    let mut clients = Vec::new();
    for (number, user) in users.iter().enumerate() {
        let mut client = hosts[number % 3].client(user).await;
        let watched = &users[number..(number + 5).min(users.len())];
        client.watch(&watched.iter().map(String::as_str).collect::<Vec<_>>()).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.idle().await;
    }
    for user in &users {
        deployment.recorder.until_statuses(user, &["user-online", "user-idle"]).await;
    }
    let counts = consumers(&deployment).await;
    println!("{counts:?}");
    assert!(are_few(&counts, 3), "{counts:?}");
    let stream = |which: &str| counts.get(&format!("presence_{which}")).copied();
    assert!(stream("sessions") >= Some(3) && stream("instances") >= Some(3), "each host follows: {counts:?}");

    drop(clients);
    hosts.remove(0).stop().await.with_code(0);
    hosts.push(deployment.host("a").await);
    for user in &users {
        hosts[2].until_status(user, "offline").await;
    }
    until("consumers are as few as before", async || are_few(&consumers(&deployment).await, 3).then_some(()))
        .await;
}
