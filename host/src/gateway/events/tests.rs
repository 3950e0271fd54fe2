//! Event streams against a memory store, without sockets.

use std::time::Duration;

use http_body_util::BodyExt;
use presence_core::documents::{Expect, Layout, MetaRecord, Moment, Past, Reason, StatusRecord, Trail};
use presence_core::ids::Sequence;
use presence_core::time::Timestamp;
use serde_json::Value;

use super::*;
use crate::store::Put;
use crate::store::memory::MemoryStore;

const LAYOUT: Layout = Layout { partitions: 4, leaves: 2 };

/// A store and the streams of a host.
struct Deployment {
    store: SharedStore,
    traffic: Arc<Traffic>,
    closing: CancellationToken,
    revision: u64,
}

impl Deployment {
    async fn new(epoch: u64) -> Deployment {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let document = Document::Meta(MetaRecord { format: 1, layout: LAYOUT, epoch });
        store.put(Put { key: Key::Meta, document, expect: Expect::Any, lease: None }).await.unwrap();
        let (traffic, closing) = (Arc::default(), CancellationToken::new());
        Deployment { store, traffic, closing, revision: 1000 }
    }

    /// A host of it.
    fn host(&self) -> Events {
        Events::new(self.store.clone(), self.traffic.clone(), self.closing.clone())
    }

    async fn record(&mut self, user: &str, status: Status) {
        self.revision += 1;
        let user = UserId::new(user).unwrap();
        let (partition, leaf) = LAYOUT.place(&user);
        let since = Timestamp(self.revision - 1);
        let before =
            Moment { status: Status::Offline, since, revision: Some(since.0), reason: Reason::Closed };
        let record = StatusRecord {
            status,
            since: Timestamp(self.revision),
            revision: self.revision,
            last_seen: None,
            sessions: 1,
            generation: 1,
            previous: Some(Status::Offline),
            trail: Trail { reason: Reason::Connected, past: Past::NONE.and(before) },
        };
        let (key, document) = (Key::User(partition, leaf, user), Document::User(record));
        self.store.put(Put { key, document, expect: Expect::Any, lease: None }).await.unwrap();
    }
}

/// What a client hears.
struct Client {
    body: Body,
    text: String,
    /// The last id that came.
    id: Option<EventId>,
}

impl Client {
    async fn open(host: &Events, filter: Filter, last: Option<EventId>) -> Client {
        let response = host.open(filter, last, CancellationToken::new()).await.unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        let mut client = Client { body: response.into_body(), text: String::new(), id: None };
        // Where it begins is told at once, perhaps behind what it had missed.
        if last.is_none() {
            assert_eq!(client.block().await, None);
            assert!(client.id.is_some());
        }
        client
    }

    /// The next block: an event and its data, or a heartbeat.
    async fn block(&mut self) -> Option<(String, Value)> {
        while !self.text.contains("\n\n") {
            let frame =
                crate::gateway::tests::soon(self.body.frame()).await.expect("the stream goes on").unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        let (block, rest) = self.text.split_once("\n\n").unwrap();
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let (event, data, id) = (field("event: "), field("data: "), field("id: "));
        self.text = rest.to_owned();
        self.id = id.map(|id| id.parse().unwrap()).or(self.id);
        Some((event?, serde_json::from_str(&data?).unwrap()))
    }

    /// The next event.
    async fn event(&mut self) -> (String, Value) {
        loop {
            if let Some(event) = self.block().await {
                return event;
            }
        }
    }

    /// The user and the status of the next transition.
    async fn transition(&mut self) -> String {
        let (event, data) = self.event().await;
        assert_eq!(event, "transition", "{data}");
        format!("{} {}", data["user"].as_str().unwrap(), data["status"].as_str().unwrap())
    }

    /// The reason of the next event, which is a reset.
    async fn reset(&mut self) -> String {
        let (event, data) = self.event().await;
        assert_eq!(event, "reset", "{data}");
        data["reason"].as_str().unwrap().to_owned()
    }
}

fn of(users: &[&str], statuses: &[Status]) -> Filter {
    let users = users.iter().map(|user| UserId::new(user).unwrap()).collect();
    Filter { users, statuses: statuses.to_vec() }
}

#[tokio::test]
async fn transitions_are_told_as_they_are_recorded_to_who_wants_them() {
    let mut deployment = Deployment::new(7).await;
    deployment.record("before", Status::Online).await;
    let host = deployment.host();
    let mut all = Client::open(&host, Filter::default(), None).await;
    let mut bob = Client::open(&host, of(&["bob", "carol"], &[]), None).await;
    let mut idle = Client::open(&host, of(&[], &[Status::Idle, Status::Offline]), None).await;
    deployment.record("alice", Status::Online).await;
    deployment.record("bob", Status::Online).await;
    deployment.record("alice", Status::Idle).await;
    assert_eq!(all.transition().await, "alice online");
    let (_, data) = all.event().await;
    let expected = serde_json::json!({"user": "bob", "status": "online", "previous": "offline", "revision": 1003,
        "previous_revision": 1002, "reason": "connected", "since": "1970-01-01T00:00:01.003Z", "last_seen": null,
        "sessions": 1});
    assert_eq!(data, expected);
    assert_eq!(all.transition().await, "alice idle");
    assert_eq!(bob.transition().await, "bob online");
    assert_eq!(idle.transition().await, "alice idle");
    assert_eq!(deployment.traffic.event_streams(), [3, 0, 0]);
    drop(all);
    deployment.record("carol", Status::Online).await;
    assert_eq!(bob.transition().await, "carol online");
}

#[tokio::test]
async fn who_comes_back_to_the_same_host_or_another_misses_nobody() {
    let mut deployment = Deployment::new(7).await;
    let (host, other) = (deployment.host(), deployment.host());
    let mut first = Client::open(&host, Filter::default(), None).await;
    let begun = first.id;
    deployment.record("alice", Status::Online).await;
    assert_eq!(first.transition().await, "alice online");
    let heard = first.id;
    deployment.record("alice", Status::Idle).await;
    deployment.record("bob", Status::Online).await;
    assert_eq!(first.transition().await, "alice idle");
    assert_eq!(first.transition().await, "bob online");

    // Kept by the host: every transition.
    let mut again = Client::open(&host, Filter::default(), begun).await;
    for expected in ["alice online", "alice idle", "bob online"] {
        assert_eq!(again.transition().await, expected);
    }
    // The other one has kept nothing: the newest of each user.
    let mut elsewhere = Client::open(&other, Filter::default(), begun).await;
    for expected in ["alice idle", "bob online"] {
        assert_eq!(elsewhere.transition().await, expected);
    }
    let mut filtered = Client::open(&other, of(&["bob"], &[]), heard).await;
    assert_eq!(filtered.transition().await, "bob online");
    deployment.record("bob", Status::Offline).await;
    for client in [&mut first, &mut again, &mut elsewhere, &mut filtered] {
        assert_eq!(client.transition().await, "bob offline", "once");
    }
    assert_eq!(deployment.traffic.event_streams()[2], 0);
}

#[tokio::test]
async fn an_id_that_says_nothing_here_is_answered_by_a_reset() {
    let mut deployment = Deployment::new(7).await;
    deployment.record("alice", Status::Online).await;
    let host = deployment.host();
    for (id, reason) in [
        (EventId { epoch: 8, sequence: Sequence(0) }, "other-epoch"),
        (EventId { epoch: 7, sequence: Sequence(1_000_000) }, "ahead"),
    ] {
        let mut client = Client::open(&host, of(&["nobody"], &[]), Some(id)).await;
        assert_eq!(client.reset().await, reason, "whatever it filters");
        assert_eq!(client.id.map(|id| id.epoch), Some(7), "it can be resumed from there");
    }
    // What is deleted is remembered for a while only.
    let wiped: SharedStore = Arc::new(MemoryStore::after(Sequence(500)));
    let document = Document::Meta(MetaRecord { format: 1, layout: LAYOUT, epoch: 7 });
    wiped.put(Put { key: Key::Meta, document, expect: Expect::Any, lease: None }).await.unwrap();
    let host = Events::new(wiped, deployment.traffic.clone(), deployment.closing.clone());
    let old = EventId { epoch: 7, sequence: Sequence(3) };
    let mut client = Client::open(&host, Filter::default(), Some(old)).await;
    assert_eq!(client.reset().await, "too-far-behind");
    assert_eq!(deployment.traffic.event_streams()[2], 3);
}

#[tokio::test]
async fn a_host_that_is_behind_does_not_tell_once_more_what_another_one_told() {
    let mut deployment = Deployment::new(7).await;
    let host = deployment.host();
    let _keeps_it_running = Client::open(&host, Filter::default(), None).await;
    let reached = hub::reached(&deployment.store).await.unwrap();
    // As if the other host had told the next two already: they come here while this client is there.
    for user in ["alice", "bob", "carol"] {
        deployment.record(user, Status::Online).await;
    }
    let last = EventId { epoch: 7, sequence: Sequence(reached.0 + 2) };
    let mut client = Client::open(&host, Filter::default(), Some(last)).await;
    assert_eq!(client.transition().await, "carol online");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_events_says_that_it_lives_and_where_it_is() {
    let mut deployment = Deployment::new(7).await;
    let host = deployment.host();
    let mut client = Client::open(&host, of(&["bob"], &[]), None).await;
    let begun = client.id.unwrap();
    deployment.record("alice", Status::Online).await;
    let before = tokio::time::Instant::now();
    assert_eq!(client.block().await, None);
    assert!(before.elapsed() >= HEARTBEAT);
    assert_eq!(client.id.unwrap().sequence, Sequence(begun.sequence.0 + 1), "though it told nothing");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_cut_off_and_nobody_waits_for_it_i8() {
    let mut deployment = Deployment::new(7).await;
    let host = deployment.host();
    let cut = CancellationToken::new();
    let _unread = host.open(Filter::default(), None, cut.clone()).await.unwrap();
    let mut brisk = Client::open(&host, Filter::default(), None).await;
    for number in 0..2 * CHUNKS * CHUNK {
        deployment.record(&format!("user-{number}"), Status::Online).await;
        assert_eq!(brisk.transition().await, format!("user-{number} online"));
    }
    cut.cancelled().await;
    assert_eq!(deployment.traffic.event_streams()[1], 1);
}

#[tokio::test]
async fn there_are_only_so_many_streams_i8() {
    let deployment = Deployment::new(7).await;
    let host = deployment.host();
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        streams.push(Client::open(&host, Filter::default(), None).await);
    }
    let refused = host.open(Filter::default(), None, CancellationToken::new()).await.unwrap_err();
    assert_eq!(refused.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    deployment.closing.cancel();
    for mut stream in streams {
        assert!(crate::gateway::tests::soon(stream.body.frame()).await.is_none(), "it ends with the host");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_goes_some_time_after_the_last_reader() {
    let mut deployment = Deployment::new(7).await;
    let host = deployment.host();
    let client = Client::open(&host, Filter::default(), None).await;
    let begun = client.id;
    drop(client);
    for status in [Status::Online, Status::Idle] {
        deployment.record("alice", status).await;
        tokio::task::yield_now().await;
    }
    let mut soon = Client::open(&host, Filter::default(), begun).await;
    assert_eq!(soon.transition().await, "alice online", "all of it is there");
    drop(soon);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let mut late = Client::open(&host, Filter::default(), begun).await;
    assert_eq!(late.transition().await, "alice idle", "the store has the newest");
}
