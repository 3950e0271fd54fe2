//! Cases on reading many documents: snapshots, the sessions of an instance, purging them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use presence_core::documents::{
    BootPhase, BootRecord, Change, CheckpointDocument, Document, Expect, Key, MetaRecord,
};
use presence_core::ids::{InstanceId, LeafId, PartitionId, Sequence};

use super::*;

/// A snapshot holds the documents of its coverage, of every kind, sorted, and nothing else.
pub async fn a_coverage_and_nothing_else(store: SharedStore) {
    let empty = store.snapshot(partitions(&[1, 2, 3]), Sequence(0)).await.expect("a snapshot");
    assert_eq!(empty.documents, []);

    let checkpoint = Document::Checkpoint(Arc::new(CheckpointDocument { epoch: 5, ..Default::default() }));
    let mut written = Vec::new();
    for partition in [3, 1, 2] {
        let documents = [
            (user_key(partition, "bob"), record(1)),
            (user_key(partition, "alice"), record(2)),
            (sessions_key(partition, "alice", 8), sessions(&[1, 2])),
            (sessions_key(partition, "alice", 7), sessions(&[3])),
            (owner_key(partition), claim(1)),
            (Key::Checkpoint(PartitionId(partition)), checkpoint.clone()),
        ];
        for (key, document) in documents {
            let sequence = write(&store, &key, document.clone()).await;
            written.push((key, sequence, document));
        }
    }
    let gone = user_key(1, "carol");
    let last = write(&store, &gone, record(1)).await;
    delete(&store, &gone).await;
    written.sort_by(|a, b| a.0.cmp(&b.0));

    for coverage in [&[1, 2][..], &[3], &[], &[4], &[0, 1, 2, 3, 4, 5, 6, 7]] {
        let snapshot = store.snapshot(partitions(coverage), last).await.expect("a snapshot");
        let of = |key: &Key| key.partition().is_some_and(|partition| coverage.contains(&partition.0));
        let expected: Vec<_> = written.iter().filter(|(key, ..)| of(key)).cloned().collect();
        assert_eq!(snapshot.documents, expected, "partitions {coverage:?}");
        assert!(snapshot.up_to >= last);
    }
}

/// What the HTTP API lists and tells: records of a leaf, of a partition, of all; the sessions of one user.
pub async fn records_and_a_users_sessions(store: SharedStore) {
    let place = |key: &Key| match key {
        Key::User(partition, leaf, _) => (*partition, *leaf),
        _ => unreachable!("records are asked for"),
    };
    let from = point(&store, Coverage::AllRecords).await;
    let mut follower = follow(&store, Coverage::AllRecords, from).await;
    let mut records = Vec::new();
    for (partition, name) in [(1, "bob"), (1, "al.ice"), (1, "carol"), (2, "bob")] {
        write(&store, &sessions_key(partition, name, 7), sessions(&[1])).await;
        let key = user_key(partition, name);
        let sequence = write(&store, &key, record(1)).await;
        write(&store, &sessions_key(partition, name, 8), sessions(&[2])).await;
        records.push((key, sequence, record(1)));
    }
    let told = next_of(&mut follower, records.len()).await;
    let written = records.iter().map(|(key, sequence, document)| was_put(key, *sequence, document.clone()));
    assert_eq!(told, written.collect::<Vec<_>>(), "no session among them");

    records.sort_by(|a, b| a.0.cmp(&b.0));
    let read = async |coverage| store.snapshot(coverage, Sequence(0)).await.expect("a snapshot").documents;
    assert_eq!(read(Coverage::AllRecords).await, records);
    let of = |wanted| records.iter().filter(|(key, ..)| place(key).0 == wanted).cloned().collect::<Vec<_>>();
    for partition in [PartitionId(1), PartitionId(2), PartitionId(3)] {
        assert_eq!(read(Coverage::Records(partition, None)).await, of(partition));
        for leaf in (0..LAYOUT.leaves).map(LeafId) {
            let here = |key: &Key| place(key) == (partition, leaf);
            let expected: Vec<_> = records.iter().filter(|(key, ..)| here(key)).cloned().collect();
            assert_eq!(read(Coverage::Records(partition, Some(leaf))).await, expected);
        }
    }
    let (partition, leaf) = place(&user_key(1, "al.ice"));
    let of = |name| Coverage::SessionsOf(partition, leaf, user(name));
    let keys: Vec<Key> = read(of("al.ice")).await.into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, [sessions_key(1, "al.ice", 7), sessions_key(1, "al.ice", 8)]);
    assert_eq!(read(of("al")).await, []);
}

type Acknowledged = Arc<Mutex<BTreeMap<Key, (Sequence, Document)>>>;

/// Writers of the partitions 0 and 1, each with keys of its own that it writes again and again.
fn spawn_writers(store: &SharedStore, acknowledged: &Acknowledged) -> tokio::task::JoinSet<()> {
    const WRITERS: u64 = 4;
    const KEYS: u64 = 20;
    const ROUNDS: u64 = 30;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        writers.spawn(async move {
            for revision in 1..=ROUNDS {
                for number in 0..KEYS {
                    let key = user_key((number % 2) as u16, &format!("{writer}-{number}"));
                    let sequence = write(&store, &key, record(revision)).await;
                    let mut acknowledged = acknowledged.lock().expect("no panic");
                    acknowledged.insert(key, (sequence, record(revision)));
                }
                // Stores whose answers are always ready would let nobody else in.
                tokio::task::yield_now().await;
            }
        });
    }
    writers
}

/// Whenever it is taken: a snapshot has every acknowledged write at or below its point, and with the updates after
/// it the whole.
pub async fn snapshot_and_updates_miss_nothing(store: SharedStore) {
    let acknowledged: Acknowledged = Arc::default();
    let mut writers = spawn_writers(&store, &acknowledged);
    let mut followed = Vec::new();
    loop {
        let finished = writers.is_empty();
        let known = acknowledged.lock().expect("no panic").clone();
        let at_least = known.values().map(|(sequence, _)| *sequence).max().unwrap_or_default();
        let snapshot = store.snapshot(partitions(&[0, 1]), at_least).await.expect("a snapshot");
        assert!(snapshot.up_to >= at_least);
        assert!(snapshot.documents.is_sorted_by(|a, b| a.0 < b.0));
        let follower = follow(&store, partitions(&[0, 1]), snapshot.up_to).await;
        followed.push((known, snapshot, follower));
        if finished {
            break;
        }
        while let Some(outcome) = writers.try_join_next() {
            outcome.expect("the writer's end");
        }
        tokio::task::yield_now().await;
    }

    let complete = acknowledged.lock().expect("no panic").clone();
    let last = complete.values().map(|(sequence, _)| *sequence).max().expect("some");
    for (known, snapshot, mut follower) in followed {
        let mut view: BTreeMap<Key, (Sequence, Document)> = snapshot
            .documents
            .into_iter()
            .map(|(key, sequence, document)| (key, (sequence, document)))
            .collect();
        let updates = updates_to(&mut follower, snapshot.up_to, last).await;
        for (key, (sequence, _)) in known {
            let there = view.get(&key).is_some_and(|(newer, _)| *newer >= sequence);
            let later = updates.iter().any(|update| update.key == key);
            assert!(there || later, "{key:?} of {sequence:?} is missing at {:?}", snapshot.up_to);
        }
        for update in updates {
            let Change::Put(document) = update.change else { panic!("nobody removes: {update:?}") };
            view.insert(update.key, (update.sequence, document));
        }
        assert_eq!(view, complete);
    }
}

/// All session documents of one instance and of no other.
pub async fn sessions_of_an_instance(store: SharedStore) {
    let instance = InstanceId(7);
    assert_eq!(store.sessions_of(instance).await, Ok(vec![]));
    let mut expected = Vec::new();
    for (partition, name, number) in [(5, "bob", 1), (1, "carol", 2), (1, "al.ice", 3)] {
        let key = sessions_key(partition, name, 7);
        write(&store, &key, sessions(&[number])).await;
        write(&store, &sessions_key(partition, name, 8), sessions(&[number + 100])).await;
        write(&store, &user_key(partition, name), record(1)).await;
        expected.push((key, sessions(&[number])));
    }
    let gone = sessions_key(2, "dave", 7);
    write(&store, &gone, sessions(&[4])).await;
    delete(&store, &gone).await;
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(store.sessions_of(instance).await, Ok(expected));
}

/// A purge up to a point takes the sessions written until then, whosever they are, and nothing else.
pub async fn a_purge_up_to_a_point(store: SharedStore) {
    let before = [sessions_key(1, "alice", 7), sessions_key(2, "bob", 8)];
    for key in &before {
        write(&store, key, sessions(&[1])).await;
    }
    let rewritten = sessions_key(3, "carol", 7);
    write(&store, &rewritten, sessions(&[2])).await;
    let point = write(&store, &user_key(1, "alice"), record(1)).await;
    write(&store, &rewritten, sessions(&[3])).await;
    let after = sessions_key(1, "dave", 7);
    write(&store, &after, sessions(&[4])).await;
    store.purge_sessions(Purge::UpTo(point)).await.expect("purged");
    store.purge_sessions(Purge::UpTo(point)).await.expect("purged again, which does no harm");
    for key in &before {
        assert_eq!(get(&store, key).await, None);
    }
    assert_eq!(get(&store, &rewritten).await.map(|(_, document)| document), Some(sessions(&[3])));
    assert_eq!(get(&store, &after).await.map(|(_, document)| document), Some(sessions(&[4])));
    assert_eq!(get(&store, &user_key(1, "alice")).await, Some((point, record(1))));
}

/// A purge up to a point may spare some instances.
pub async fn a_purge_spares_some(store: SharedStore) {
    let (spared, gone) =
        (sessions_key(1, "alice", 7), [sessions_key(1, "alice", 8), sessions_key(2, "bob", 9)]);
    for key in gone.iter().chain([&spared]) {
        write(&store, key, sessions(&[1])).await;
    }
    let point = write(&store, &user_key(1, "alice"), record(1)).await;
    let after = sessions_key(1, "dave", 8);
    write(&store, &after, sessions(&[4])).await;
    let purge = || Purge::UpToBut(point, [InstanceId(7)].into());
    store.purge_sessions(purge()).await.expect("purged");
    store.purge_sessions(purge()).await.expect("purged again, which does no harm");
    for key in &gone {
        assert_eq!(get(&store, key).await, None);
    }
    for (key, there) in
        [(&spared, sessions(&[1])), (&after, sessions(&[4])), (&user_key(1, "alice"), record(1))]
    {
        assert_eq!(get(&store, key).await.map(|(_, document)| document), Some(there));
    }
}

/// A purge takes one instance's sessions and nothing else; what is written later is there.
pub async fn purge_and_late_writes(store: SharedStore) {
    let (key, other) = (sessions_key(1, "alice", 7), sessions_key(1, "alice", 8));
    write(&store, &key, sessions(&[1])).await;
    write(&store, &sessions_key(2, "b.b", 7), sessions(&[2])).await;
    let kept = write(&store, &other, sessions(&[3])).await;
    let status = write(&store, &user_key(1, "alice"), record(1)).await;

    assert_eq!(store.purge_sessions(Purge::Of(InstanceId(7))).await, Ok(2));
    assert_eq!(store.purge_sessions(Purge::Of(InstanceId(7))).await, Ok(0));
    assert_eq!(store.sessions_of(InstanceId(7)).await, Ok(vec![]));
    let snapshot = store.snapshot(partitions(&[1, 2]), status).await.expect("a snapshot");
    let mut expected = vec![(other.clone(), kept, sessions(&[3])), (user_key(1, "alice"), status, record(1))];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(snapshot.documents, expected);

    let mut follower = follow(&store, partitions(&[1, 2]), status).await;
    let late =
        put(&store, &key, sessions(&[4]), Expect::Last(Sequence(0))).await.expect("there is no document");
    assert!(late > status);
    assert_eq!(get(&store, &key).await, Some((late, sessions(&[4]))));
    assert_eq!(store.sessions_of(InstanceId(7)).await, Ok(vec![(key.clone(), sessions(&[4]))]));
    let updates = updates_to(&mut follower, status, late).await;
    assert_eq!(updates.last(), Some(&was_put(&key, late, sessions(&[4]))));
}

/// Writes to one bucket neither show in the other nor disturb its conditions.
pub async fn buckets_are_independent(store: SharedStore) {
    let boot = Document::Boot(BootRecord {
        epoch: 3,
        generation: 1,
        phase: BootPhase::Open,
        by: InstanceId(1),
        start: 3,
        owed: None,
        anew: false,
    });
    let meta = Document::Meta(MetaRecord { format: 1, layout: LAYOUT, epoch: 9 });
    let owner = owner_key(0);
    let claimed = write(&store, &owner, claim(1)).await;
    let mut of_instances = Vec::new();
    for (key, document) in [(instance_key(1), instance(1)), (Key::Boot, boot), (Key::Meta, meta)] {
        let sequence = write(&store, &key, document.clone()).await;
        of_instances.push((key, sequence, document));
    }
    let again =
        put(&store, &owner, claim(2), Expect::Last(claimed)).await.expect("nobody claimed in between");

    let last = of_instances.iter().map(|(_, sequence, _)| *sequence).max().expect("some");
    let snapshot = store.snapshot(Coverage::Instances, last).await.expect("a snapshot");
    assert_eq!(snapshot.documents, of_instances);
    let all: Vec<u16> = (0..LAYOUT.partitions).collect();
    let snapshot = store.snapshot(partitions(&all), again).await.expect("a snapshot");
    assert_eq!(snapshot.documents, [(owner, again, claim(2))]);
}
