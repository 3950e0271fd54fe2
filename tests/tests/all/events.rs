//! `GET /v1/events`: of one host, and over two.

use presence_tests::{Config, Daemon, EventStream, NatsServer, OpenApi, until};

#[tokio::test]
async fn transitions_are_told_and_the_stream_ends_with_the_host() {
    let daemon = Daemon::with("").presence("offline_grace = \"0s\"").start().await;
    let mut all = EventStream::open(daemon.admin(), "/v1/events", None).await;
    let mut idle =
        EventStream::open(daemon.admin(), "/v1/events?status=idle&user=alice&user=bob", None).await;
    let begun = all.id().await;
    let mut alice = daemon.client("alice").await;
    let first = all.next().await;
    let api = OpenApi::parse(&daemon.get("/v1/openapi.json").await.body);
    assert_eq!(api.faults(api.schema("TransitionEvent"), &first.data), [] as [&str; 0]);
    assert_eq!((&first.data["user"], &first.data["reason"]), (&"alice".into(), &"connected".into()));
    let heard = all.id().await;
    alice.idle().await;
    alice.close().await;
    let pair = |user: &str, status: &str| (user.to_owned(), status.to_owned());
    assert_eq!(all.transition().await, pair("alice", "idle"));
    assert_eq!(all.transition().await, pair("alice", "offline"));
    assert_eq!(idle.transition().await, pair("alice", "idle"));

    let mut resumed = EventStream::open(daemon.admin(), "/v1/events", Some(&heard)).await;
    assert_eq!(resumed.transition().await, pair("alice", "idle"));
    let mut elsewhere = EventStream::open(daemon.admin(), "/v1/events", Some("0000000000000001-1")).await;
    let reset = elsewhere.next().await;
    assert_eq!((reset.event.as_str(), &reset.data["reason"]), ("reset", &"other-epoch".into()));
    assert_eq!(api.faults(api.schema("ResetEvent"), &reset.data), [] as [&str; 0]);
    assert_ne!(begun, heard);
    let (stopped, ended) = tokio::join!(daemon.stop(), resumed.ends());
    assert!(ended && stopped.code == Some(0), "{}", stopped.output());
}

#[tokio::test]
async fn a_client_goes_on_at_another_host() {
    let nats = NatsServer::start().await;
    let host = async |name: &str| {
        let cluster = format!("[cluster]\nstore = \"nats\"\nurls = [\"{}\"]\npartitions = 8", nats.url());
        let config = Config::default().host(&format!("name = \"{name}\"")).section(cluster);
        config.presence("offline_grace = \"0s\"").start().await
    };
    let (one, two) = tokio::join!(host("host-1"), host("host-2"));
    let mut stream = EventStream::open(one.admin(), "/v1/events", None).await;
    stream.id().await;
    let _alice = two.client("alice").await;
    assert_eq!(stream.transition().await.0, "alice");
    let heard = stream.id().await;
    drop(stream);
    let mut bob = one.client("bob").await;
    bob.idle().await;
    two.until_status("bob", "idle").await;
    let _carol = two.client("carol").await;
    one.until_status("carol", "online").await;

    let mut stream = EventStream::open(two.admin(), "/v1/events", Some(&heard)).await;
    let mut caught_up = [stream.transition().await, stream.transition().await];
    caught_up.sort();
    let pair = |user: &str, status: &str| (user.to_owned(), status.to_owned());
    assert_eq!(caught_up, [pair("bob", "idle"), pair("carol", "online")], "of each the newest");
    bob.online().await;
    assert_eq!(stream.transition().await, pair("bob", "online"));

    // What both count, and the sessions of all hosts, whoever is asked.
    for host in [&one, &two] {
        let counts = until("all partitions are counted", async || {
            let counts = host.get("/v1/counts").await.json();
            (counts["complete"] == true).then_some(counts)
        })
        .await;
        assert_eq!(
            (&counts["users"]["online"], &counts["sessions"]["online"]),
            (&3.into(), &3.into()),
            "{counts}"
        );
        let sessions = host.get("/v1/users/alice/sessions").await.json();
        assert_eq!(sessions["sessions"][0]["host"], "host-2", "{sessions}");
        let page = host.get("/v1/users?status=online").await.json();
        assert_eq!(page["users"].as_array().map(Vec::len), Some(3), "{page}");
    }
}
