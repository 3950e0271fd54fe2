//! Coverages with more documents than the server puts into one answer.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::*;

async fn fill(store: &NatsStore, keys: &[Key]) -> BTreeMap<Key, Sequence> {
    stream::iter(keys.iter().enumerate())
        .map(|(number, key)| {
            let number = number as u64 + 1;
            let document = if matches!(key, Key::User(..)) { record(number) } else { sessions(number) };
            let written = store.put(unconditional(key, document));
            async move { written.await.map(|sequence| (key.clone(), sequence)) }
        })
        .buffer_unordered(256)
        .try_collect()
        .await
        .expect("writes without a condition")
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("user {number}"))
}

/// Divided by leaf, by kind, and, when one leaf holds too many of one kind, read through a consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_thousands_is_whole() {
    let bench = Bench::new().await;
    let leaf = presence_core::ids::LeafId(1);
    let by_leaf = names(1_500).map(|name| user_key(1, &name));
    let by_kind = names(800).flat_map(|name| [sessions_key(2, &name, 7), sessions_key(2, &name, 8)]);
    let of_one_leaf = names(1_200).map(|name| Key::User(PartitionId(3), leaf, user(&name)));
    let keys: Vec<Key> = by_leaf.chain(by_kind).chain(of_one_leaf).collect();
    let written = fill(&bench.store, &keys).await;
    let gone = &keys[keys.len() - 1];
    bench.store.delete(gone.clone(), Expect::Any).await.unwrap();
    let at_least = *written.values().max().unwrap();
    let snapshot = bench.store.snapshot(partitions(&[1, 2, 3]), at_least).await.unwrap();
    assert!(snapshot.up_to >= at_least);
    assert!(snapshot.documents.is_sorted_by(|a, b| a.0 < b.0));
    let found: BTreeMap<Key, Sequence> =
        snapshot.documents.into_iter().map(|(key, sequence, _)| (key, sequence)).collect();
    let expected: BTreeMap<Key, Sequence> = written.into_iter().filter(|(key, _)| key != gone).collect();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sessions_of_one_instance_are_found_and_purged() {
    let bench = Bench::new().await;
    let name = |number: usize| format!("user {number}");
    let mut keys: Vec<Key> = Vec::new();
    for number in 0..3_000 {
        let partition = LAYOUT.place(&user(&name(number))).0.0;
        keys.push(sessions_key(partition, &name(number), if number % 3 == 0 { 8 } else { 7 }));
    }
    fill(&bench.store, &keys).await;
    let of = |instance: u128| {
        let mut of: Vec<&Key> =
            keys.iter().filter(|key| matches!(key, Key::Sessions(.., id) if id.0 == instance)).collect();
        of.sort();
        of
    };
    let found = bench.store.sessions_of(InstanceId(7)).await.unwrap();
    assert_eq!(found.iter().map(|(key, _)| key).collect::<Vec<_>>(), of(7));
    // A marker is no document.
    bench.store.delete(of(7)[0].clone(), Expect::Any).await.unwrap();
    assert_eq!(bench.store.purge_sessions(Some(InstanceId(7))).await, Ok(1_999));
    assert_eq!(bench.store.purge_sessions(Some(InstanceId(7))).await, Ok(0));
    assert_eq!(bench.store.sessions_of(InstanceId(7)).await, Ok(vec![]));
    let found = bench.store.sessions_of(InstanceId(8)).await.unwrap();
    assert_eq!(found.iter().map(|(key, _)| key).collect::<Vec<_>>(), of(8));
}

/// More than a thousand watched users share one subscription, and less than half of that have their own again.
#[tokio::test]
async fn any_number_of_users_can_be_watched() {
    let bench = Bench::new().await;
    let other = connect(&bench.settings).await;
    let mut heard = other.notices();
    let watched: Vec<UserId> = names(1_500).map(|name| user(&name)).collect();
    let tell = async |who: &UserId, revision: u64| {
        other.get(Key::Boot).await.unwrap();
        other.get(Key::Owner(PartitionId(1))).await.unwrap();
        let Document::User(record) = record(revision) else { unreachable!("it is a record") };
        bench.store.notify(presence_host::store::Notice { user: who.clone(), record });
    };
    let mut expect = async |who: &UserId, revision: u64| match tokio::time::timeout(WAIT, heard.next()).await
    {
        Ok(presence_host::store::Noticed::Notice(notice)) => {
            assert_eq!((&notice.user, notice.record.revision), (who, revision));
        }
        other => panic!("{other:?} instead of {who:?}"),
    };
    for (revision, count) in (1..).zip([10, 1_024, 1_500]) {
        let already = [0, 10, 1_024][revision - 1];
        watched[already..count].iter().for_each(|user| other.watch(user));
        for who in [&watched[0], &watched[count - 1]] {
            tell(who, revision as u64).await;
            expect(who, revision as u64).await;
        }
    }
    watched[400..].iter().for_each(|user| other.unwatch(user));
    tell(&watched[400], 7).await;
    tell(&watched[399], 8).await;
    expect(&watched[399], 8).await;
}
