//! What can happen to a running store: the server hangs, dies, is full, loses its streams, holds nonsense.

use presence_host::store::Noticed;

use super::*;

#[tokio::test]
async fn a_full_stream_refuses_and_loses_nothing() {
    let bench = Bench::new().await;
    let stream = bench.stream("sessions");
    let limit = async |bytes: i64| {
        let mut config = bench.api(&format!("STREAM.INFO.{stream}"), Value::Null).await["config"].clone();
        config["max_bytes"] = json!(bytes);
        let answer = bench.api(&format!("STREAM.UPDATE.{stream}"), config).await;
        assert!(answer.get("error").is_none(), "{answer}");
    };
    limit(20_000).await;
    let mut kept = Vec::new();
    let refusal = loop {
        let key = user_key(1, &format!("user {}", kept.len()));
        match bench.store.put(unconditional(&key, record(1))).await {
            Ok(sequence) => kept.push((key, sequence)),
            Err(error) => break error,
        }
        assert!(kept.len() < 1_000, "it is never full");
    };
    assert!(matches!(&refusal, StoreError::Refused(why) if why.contains("maximum bytes")), "{refusal:?}");
    let owner = Key::Owner(PartitionId(1));
    let (written, error) = bench
        .store
        .put_fenced(
            (owner, Sequence(0)),
            (0..50).map(|n| (user_key(1, &format!("more {n}")), record(1))).collect(),
        )
        .await;
    assert_eq!(written, []);
    assert!(matches!(error, Some(StoreError::Refused(_))), "{error:?}");

    limit(-1).await;
    let key = user_key(1, "afterwards");
    kept.push((key.clone(), write(&bench.store, &key, record(1)).await));
    for (key, sequence) in kept {
        assert_eq!(bench.store.get(key).await, Ok(Some((sequence, record(1)))));
    }
}

#[tokio::test]
async fn a_document_that_is_too_large_is_refused_and_what_follows_it() {
    let bench = Bench::new().await;
    let large = |name: &str| {
        let attributes = presence_core::events::Attributes::new(vec![("a".into(), "x".repeat(2 << 20))]);
        let entry = presence_core::documents::SessionEntry {
            id: presence_core::ids::SessionId::Hosted(1),
            status: Status::Online,
            connected_at: Timestamp(1),
            attributes,
            ended: None,
            listed: Default::default(),
        };
        let document = SessionDocument { sessions: vec![entry], drained_until: None };
        (sessions_key(1, name, 7), Document::Sessions(Arc::new(document)))
    };
    let (key, document) = large("alice");
    let refused = bench.store.put(unconditional(&key, document)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    let owner = Key::Owner(PartitionId(1));
    let documents = vec![(user_key(1, "a"), record(1)), large("b"), (user_key(1, "c"), record(1))];
    let (written, error) = bench.store.put_fenced((owner, Sequence(0)), documents).await;
    assert_eq!(written.len(), 1);
    assert!(matches!(error, Some(StoreError::Refused(_))), "{error:?}");
    assert_eq!(bench.store.get(user_key(1, "c")).await, Ok(None));
}

#[tokio::test]
async fn nonsense_in_the_streams_is_counted_and_passed_over() {
    let bench = Bench::new().await;
    let mut follower = bench.store.follow(partitions(&every_partition()), Sequence(0)).await.unwrap();
    bench.plant("s.nonsense", "{}").await;
    bench.plant("u.1.2.alice", "no JSON").await;
    bench.plant("u.1.2.a=2e", "{}").await;
    bench.plant("o.3", "{\"instance\":5}").await;
    let key = user_key(3, "bob");
    let sequence = write(&bench.store, &key, record(1)).await;
    let expected = Update { key: key.clone(), sequence, change: Change::Put(record(1)) };
    assert_eq!(next_update(&mut follower).await, expected);
    let counted = bench.store.corrupt();
    assert!(counted >= 4, "{counted}");
    let snapshot = bench.store.snapshot(partitions(&every_partition()), sequence).await.unwrap();
    assert_eq!(snapshot.documents, [(key, sequence, record(1))]);
    let alice = Key::User(PartitionId(1), presence_core::ids::LeafId(2), user("alice"));
    assert_eq!(bench.store.get(alice.clone()).await, Ok(None));
    assert!(bench.store.corrupt() > counted);
    // What can't be read can be replaced.
    write(&bench.store, &alice, record(2)).await;
    assert_eq!(next_update(&mut follower).await.key, alice);
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_and_nothing_is_missed() {
    let mut bench = Bench::new().await;
    let mut notices = bench.store.notices();
    let mut follower = bench.store.follow(partitions(&[1]), Sequence(0)).await.unwrap();
    let (alice, bob) = (user_key(1, "alice"), user_key(1, "bob"));
    let first = write(&bench.store, &alice, record(1)).await;
    assert_eq!(next_update(&mut follower).await.sequence, first);
    bench.server.kill();
    let started = std::time::Instant::now();
    presence_tests::until("the store says that there is no connection", async || {
        match bench.store.put(unconditional(&bob, record(1))).await {
            Err(StoreError::Unavailable(_)) => Some(()),
            Err(StoreError::Unknown(_)) => None,
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10));
    bench.server.restart().await;
    let second = presence_tests::until("writing works again", async || {
        bench.store.put(unconditional(&bob, record(1))).await.ok()
    })
    .await;
    assert_eq!(next_update(&mut follower).await.sequence, second);
    bench.store.delete(alice.clone(), Expect::Any).await.unwrap();
    let gone = next_update(&mut follower).await;
    assert_eq!((gone.key, gone.change), (alice, Change::Deleted));
    let missed = tokio::time::timeout(WAIT, notices.next()).await.expect("a word on the outage");
    assert_eq!(missed, Noticed::Missed);
}

#[tokio::test]
async fn a_server_that_hangs_leaves_it_unclear_and_then_goes_on() {
    let bench = Bench::new().await;
    let mut follower = bench.store.follow(partitions(&[1]), Sequence(0)).await.unwrap();
    let key = user_key(1, "alice");
    bench.server.suspend();
    let started = std::time::Instant::now();
    let unclear = bench.store.put(unconditional(&key, record(1))).await;
    assert!(matches!(unclear, Err(StoreError::Unknown(_))), "{unclear:?}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    bench.server.resume();
    let last = presence_tests::until("writing works again", async || {
        bench.store.put(unconditional(&key, record(2))).await.ok()
    })
    .await;
    while next_update(&mut follower).await.sequence < last {}
    let (_, document) = bench.store.get(key).await.unwrap().expect("a document");
    assert_eq!(document, record(2));
}

#[tokio::test]
async fn streams_that_are_taken_away_are_made_anew_and_followers_told() {
    let bench = Bench::new().await;
    let mut sessions = bench.store.follow(partitions(&[1]), Sequence(0)).await.unwrap();
    let mut instances = bench.store.follow(Coverage::Instances, Sequence(0)).await.unwrap();
    let key = user_key(1, "alice");
    let before = write(&bench.store, &key, record(1)).await;
    assert_eq!(next_update(&mut sessions).await.sequence, before);
    for which in ["sessions", "instances", "dead_letters"] {
        bench.api(&format!("STREAM.DELETE.{}", bench.stream(which)), Value::Null).await;
    }
    let deleted = std::time::Instant::now();
    let gone = bench.store.put(unconditional(&key, record(2))).await;
    assert!(matches!(gone, Err(StoreError::Unavailable(_))), "{gone:?}");
    presence_tests::until("the streams are back", async || {
        bench.store.put(unconditional(&key, record(3))).await.ok()
    })
    .await;
    // "No stream" may mean that there is no leader: one lease is waited.
    assert!(deleted.elapsed() >= bench.settings.instance_ttl, "after {:?}", deleted.elapsed());
    for follower in [&mut sessions, &mut instances] {
        let lost = next(follower).await;
        assert!(matches!(&lost, Followed::Lost(why) if why.contains("recreated")), "{lost:?}");
    }
    assert_eq!(bench.store.get(key).await.unwrap().expect("a document").1, record(3));
    connect(&bench.settings).await;
}

/// Recreated within no time by somebody else: sequences start anew, and nobody notices by an error alone.
#[tokio::test]
async fn a_stream_that_was_replaced_is_noticed() {
    let bench = Bench::new().await;
    let key = user_key(1, "alice");
    let mut last = Sequence(0);
    for revision in 1..=5 {
        last = write(&bench.store, &key, record(revision)).await;
    }
    let mut follower = bench.store.follow(partitions(&[1]), last).await.unwrap();
    let stream = bench.stream("sessions");
    let mut config = bench.api(&format!("STREAM.INFO.{stream}"), Value::Null).await["config"].clone();
    config.as_object_mut().expect("a configuration").remove("first_seq");
    bench.api(&format!("STREAM.DELETE.{stream}"), Value::Null).await;
    let answer = bench.api(&format!("STREAM.CREATE.{stream}"), config).await;
    assert!(answer.get("error").is_none(), "{answer}");
    let lost = next(&mut follower).await;
    assert!(matches!(&lost, Followed::Lost(why) if why.contains("recreated")), "{lost:?}");
    let mut late = bench.store.follow(partitions(&[1]), last).await.unwrap();
    let lost = next(&mut late).await;
    let expected = format!("the store was recreated: it is at sequence 0, not yet at {}", last.0);
    assert_eq!(lost, Followed::Lost(expected));
    let early = bench.store.snapshot(partitions(&[1]), last).await.unwrap_err();
    let expected = format!("before the {}", last.0);
    assert!(matches!(&early, StoreError::Unavailable(why) if why.contains(&expected)), "{early:?}");
}

#[tokio::test]
async fn a_cluster_goes_on_without_one_of_three() {
    let mut cluster = NatsCluster::start(3).await;
    let settings = NatsSettings { replicas: 3, ..settings(cluster.urls()) };
    let store = connect(&settings).await;
    let mut follower = store.follow(partitions(&[1]), Sequence(0)).await.unwrap();
    let key = user_key(1, "alice");
    let mut expected = Vec::new();
    for round in 0..3 {
        let started = std::time::Instant::now();
        let sequence = presence_tests::until("a write with one server less", async || {
            store.put(unconditional(&key, record(round))).await.ok()
        })
        .await;
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        expected.push(sequence);
        while next_update(&mut follower).await.sequence < sequence {}
        let server = &mut cluster.servers[usize::try_from(round).unwrap()];
        server.kill();
        presence_tests::until("a write without it", async || {
            store.put(unconditional(&key, record(round + 10))).await.ok()
        })
        .await;
        server.restart().await;
        cluster.until_led().await;
    }
    let last = write(&store, &key, record(99)).await;
    while next_update(&mut follower).await.sequence < last {}
    let snapshot = store.snapshot(partitions(&[1]), last).await.unwrap();
    assert_eq!(snapshot.documents, [(key, last, record(99))]);
}

/// Writers, a follower and readers while the leader changes again and again and one server hangs for a while: what was
/// acknowledged is there, in order, and the follower knows all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_while_leaders_change() {
    const WRITERS: u64 = 6;
    let cluster = NatsCluster::start(3).await;
    let settings = NatsSettings { replicas: 3, ..settings(cluster.urls()) };
    let store = Arc::new(connect(&settings).await);
    let mut follower = store.follow(partitions(&[1]), Sequence(0)).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers = (0..WRITERS).map(|writer| {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let key = user_key(1, &format!("user {writer}"));
            let (mut last, mut revision, mut acknowledged) = (Sequence(0), 0, 0);
            while !stop.load(Ordering::Relaxed) {
                revision += 1;
                let put = Put { expect: Expect::Last(last), ..unconditional(&key, record(revision)) };
                match store.put(put).await {
                    Ok(sequence) => {
                        assert!(sequence > last);
                        (last, acknowledged) = (sequence, revision);
                    }
                    // An unclear one has arrived after all.
                    Err(StoreError::Conflict { .. }) => {
                        if let Ok(Some((sequence, Document::User(found)))) = store.get(key.clone()).await {
                            assert!(found.revision >= acknowledged, "{found:?} after {acknowledged}");
                            (last, revision, acknowledged) = (sequence, found.revision, found.revision);
                        }
                    }
                    Err(StoreError::Unknown(_) | StoreError::Unavailable(_)) => {
                        revision -= 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (key, last)
        })
    });
    let writers: Vec<_> = writers.collect();
    let client = async_nats::connect(cluster.urls()).await.unwrap();
    let stream = format!("{}_sessions", settings.prefix);
    for round in 0..8 {
        let _ = client.request(format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"), "".into()).await;
        if round == 4 {
            cluster.servers[0].suspend();
            tokio::time::sleep(Duration::from_secs(6)).await;
            cluster.servers[0].resume();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut newest = std::collections::BTreeMap::new();
    for writer in writers {
        let (key, last) = tokio::time::timeout(WAIT, writer).await.expect("the writer ends").unwrap();
        newest.insert(key, last);
    }
    let last = *newest.values().max().unwrap();
    let mut told = std::collections::BTreeMap::new();
    let mut before = Sequence(0);
    while before < last {
        let update = next_update(&mut follower).await;
        assert!(update.sequence > before, "{update:?} after {before:?}");
        before = update.sequence;
        told.insert(update.key, (update.sequence, update.change));
    }
    let snapshot =
        presence_tests::until("a snapshot", async || store.snapshot(partitions(&[1]), last).await.ok()).await;
    for (key, sequence, document) in snapshot.documents {
        assert!(sequence >= newest[&key], "{key:?} at {sequence:?}, acknowledged {:?}", newest[&key]);
        if sequence <= last {
            assert_eq!(told[&key], (sequence, Change::Put(document)), "{key:?}");
        }
    }
    assert_eq!(newest.len() as u64, WRITERS);
}
