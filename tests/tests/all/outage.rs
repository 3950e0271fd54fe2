//! The profile service is away while users come and go; when it is back, every profile ends up right.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use presence_tests::{Daemon, Plugin, ProfileService};

/// So many users come and go.
const USERS: usize = 30;

/// How long the service is away, unless the variable says otherwise: `PRESENCE_TEST_OUTAGE=60` for a minute.
const OUTAGE: Duration = Duration::from_secs(3);
const OUTAGE_VARIABLE: &str = "PRESENCE_TEST_OUTAGE";

fn outage() -> Duration {
    match std::env::var(OUTAGE_VARIABLE) {
        Ok(seconds) => Duration::from_secs(seconds.parse().expect("a number of seconds")),
        Err(_) => OUTAGE,
    }
}

#[tokio::test]
async fn profiles_end_up_right_after_an_outage() {
    let profiles = ProfileService::start().await;
    let config = Daemon::with(Plugin::profile_updater(&profiles)).presence("offline_grace = \"0s\"");
    let daemon = config.start().await;
    let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    let mut before = Vec::new();
    for user in &users {
        before.push(daemon.client(user).await);
    }
    let online = users.iter().map(|user| (user.clone(), "online".to_owned())).collect();
    profiles.until_latest(&online).await;

    profiles.take_down().await;
    for client in before {
        client.close().await;
    }
    let started = Instant::now();
    while started.elapsed() < outage() {
        for user in &users {
            let mut client = daemon.client(user).await;
            client.idle().await;
            client.close().await;
        }
    }
    let mut staying = Vec::new();
    let mut expected = BTreeMap::new();
    for (number, user) in users.iter().enumerate() {
        let status = ["online", "idle", "offline"][number % 3];
        if status != "offline" {
            let mut client = daemon.client(user).await;
            if status == "idle" {
                client.idle().await;
            }
            staying.push(client);
        }
        daemon.until_status(user, status).await;
        expected.insert(user.clone(), status.to_owned());
    }
    profiles.bring_back().await;
    profiles.until_latest(&expected).await;
    daemon.stop().await.with_code(0);
}

#[tokio::test]
async fn profiles_end_up_right_after_errors_and_silence() {
    use presence_tests::Mood;

    let profiles = ProfileService::start().await;
    let daemon =
        Daemon::with(Plugin::profile_updater(&profiles).limits("deadline = \"300ms\"")).start().await;
    for mood in [Mood::Status(503), Mood::Hang] {
        profiles.answer(mood);
        let attempts = profiles.attempts();
        let mut alice = daemon.client("alice").await;
        alice.idle().await;
        // More attempts than session hooks get: status hooks have no last one.
        profiles.until_attempts(attempts + 7).await;
        profiles.answer(Mood::Status(204));
        profiles.until_latest(&[("alice".to_owned(), "idle".to_owned())].into()).await;
        alice.online().await;
        profiles.until_latest(&[("alice".to_owned(), "online".to_owned())].into()).await;
    }
}
