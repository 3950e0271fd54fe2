//! Cases on leases: they end, not too early, for every document that was given one.
//!
//! Time is what these cases are about, so they wait for it; everything else waits for updates.

use std::time::Duration;

use presence_core::documents::{Change, Expect, Key, Update};
use presence_core::ids::Sequence;
use tokio::time::Instant;

use super::*;
use crate::store::MIN_LEASE;

async fn lease(store: &SharedStore, key: &Key, renewal: u64, expect: Expect, lease: Duration) -> Sequence {
    let put = Put { key: key.clone(), document: instance(renewal), expect, lease: Some(lease) };
    store.put(put).await.expect("a lease")
}

/// The next update, which must say that this lease ended; its sequence.
async fn end_of(follower: &mut Follower, key: &Key, after: Sequence) -> Sequence {
    let update = next(follower).await;
    assert_eq!((&update.key, &update.change), (key, &Change::Expired));
    assert!(update.sequence > after, "{update:?} is not after {after:?}");
    update.sequence
}

async fn watch(store: &SharedStore) -> Follower {
    let from = point(store, Coverage::Instances).await;
    follow(store, Coverage::Instances, from).await
}

/// A leased document disappears, not before its time, and followers hear of it; others stay.
pub async fn a_lease_ends(store: SharedStore) {
    let mut follower = watch(&store).await;
    let (leased, lasting) = (instance_key(1), instance_key(2));
    let kept = write(&store, &lasting, instance(1)).await;
    let sent = Instant::now();
    let given = lease(&store, &leased, 2, Expect::Last(Sequence(0)), MIN_LEASE).await;
    assert_eq!(
        next_of(&mut follower, 2).await,
        [was_put(&lasting, kept, instance(1)), was_put(&leased, given, instance(2))]
    );
    assert_eq!(get(&store, &leased).await, Some((given, instance(2))));
    let ended = end_of(&mut follower, &leased, given).await;
    assert!(sent.elapsed() >= MIN_LEASE, "ended after {:?}", sent.elapsed());
    assert_eq!(get(&store, &leased).await, None);
    let snapshot = store.snapshot(Coverage::Instances, ended).await.expect("a snapshot");
    assert_eq!(snapshot.documents, [(lasting, kept, instance(1))]);
}

/// Renewed in time, a document outlives its first lease, and then ends a whole lease after the last renewal.
pub async fn renewal_prolongs(store: SharedStore) {
    let key = instance_key(1);
    let whole = MIN_LEASE * 3;
    let mut last = lease(&store, &key, 0, Expect::Last(Sequence(0)), whole).await;
    let mut sent = Instant::now();
    for renewal in 1..=5 {
        tokio::time::sleep_until(sent + MIN_LEASE).await;
        sent = Instant::now();
        last = lease(&store, &key, renewal, Expect::Last(last), whole).await;
    }
    assert_eq!(get(&store, &key).await, Some((last, instance(5))));
    let mut follower = follow(&store, Coverage::Instances, last).await;
    end_of(&mut follower, &key, last).await;
    assert!(sent.elapsed() >= whole, "ended {:?} after the last renewal", sent.elapsed());
    assert_eq!(get(&store, &key).await, None);
}

/// Whoever is late finds out; of those who expect the same end, one wins.
pub async fn renewal_after_the_end_fails(store: SharedStore) {
    let mut follower = watch(&store).await;
    let key = instance_key(1);
    let given = lease(&store, &key, 1, Expect::Last(Sequence(0)), MIN_LEASE).await;
    assert_eq!(next(&mut follower).await, was_put(&key, given, instance(1)));
    let ended = end_of(&mut follower, &key, given).await;

    let put = |renewal, expect| Put {
        key: key.clone(),
        document: instance(renewal),
        expect,
        lease: Some(MIN_LEASE),
    };
    let late = store.put(put(2, Expect::Last(given))).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    assert_eq!(get(&store, &key).await, None);
    let judge = store.put(put(3, Expect::Last(ended)));
    let returning = store.put(put(4, Expect::Last(ended)));
    let (winner, renewal) = match (judge.await, returning.await) {
        (Ok(winner), Err(StoreError::Conflict { last })) if last == winner => (winner, 3),
        (Err(StoreError::Conflict { last }), Ok(winner)) if last == winner => (winner, 4),
        both => panic!("exactly one must win: {both:?}"),
    };
    assert_eq!(next(&mut follower).await, was_put(&key, winner, instance(renewal)));
}

/// A lease over what was deleted, over what expired and over a document without one ends like any other.
pub async fn no_lease_is_immortal(store: SharedStore) {
    let keys = [instance_key(1), instance_key(2), instance_key(3)];
    for key in &keys[..2] {
        write(&store, key, instance(1)).await;
        delete(&store, key).await;
    }
    let unleased = write(&store, &keys[2], instance(1)).await;
    let mut follower = watch(&store).await;
    let mut given = Vec::new();
    for (key, expect) in keys.iter().zip([Expect::Last(Sequence(0)), Expect::Any, Expect::Last(unleased)]) {
        given.push(lease(&store, key, 2, expect, MIN_LEASE).await);
    }
    let seen = next_of(&mut follower, 6).await;
    let puts: Vec<Update> =
        keys.iter().zip(&given).map(|(key, sequence)| was_put(key, *sequence, instance(2))).collect();
    assert_eq!(seen[..3], puts[..]);
    let mut ended: Vec<(&Key, &Change)> =
        seen[3..].iter().map(|update| (&update.key, &update.change)).collect();
    ended.sort_by_key(|(key, _)| *key);
    assert_eq!(ended, keys.iter().map(|key| (key, &Change::Expired)).collect::<Vec<_>>());

    let again = lease(&store, &keys[0], 3, Expect::Last(Sequence(0)), MIN_LEASE).await;
    assert_eq!(next(&mut follower).await, was_put(&keys[0], again, instance(3)));
    end_of(&mut follower, &keys[0], again).await;
}

/// A put without a lease and a deletion end the lease before them: nothing happens at its time.
pub async fn a_write_ends_the_lease_before_it(store: SharedStore) {
    let (kept, deleted, other) = (instance_key(1), instance_key(2), instance_key(3));
    lease(&store, &kept, 1, Expect::Any, MIN_LEASE).await;
    let given = lease(&store, &deleted, 1, Expect::Any, MIN_LEASE).await;
    let mut follower = follow(&store, Coverage::Instances, given).await;
    let lasting = write(&store, &kept, instance(2)).await;
    delete(&store, &deleted).await;
    let last = lease(&store, &other, 1, Expect::Any, MIN_LEASE * 2).await;

    let seen = next_of(&mut follower, 3).await;
    assert_eq!(seen[0], was_put(&kept, lasting, instance(2)));
    assert_eq!((&seen[1].key, &seen[1].change), (&deleted, &Change::Deleted));
    assert_eq!(seen[2], was_put(&other, last, instance(1)));
    let ended = end_of(&mut follower, &other, last).await;
    let snapshot = store.snapshot(Coverage::Instances, ended).await.expect("a snapshot");
    assert_eq!(snapshot.documents, [(kept, lasting, instance(2))]);
}

/// Custom messages lie beside the records of users: the newest write counts, also over a marker, and ends with its lease;
/// the record stays.
pub async fn a_message_ends_like_a_lease(store: SharedStore) {
    let (key, beside) = (message_key(2, "al.ice"), user_key(2, "al.ice"));
    let partition = || Coverage::Partitions([PartitionId(2)].into());
    let from = point(&store, partition()).await;
    let mut follower = follow(&store, partition(), from).await;
    let kept = write(&store, &beside, record(1)).await;
    let set = |text: &'static str| Put {
        key: key.clone(),
        document: message(text),
        expect: Expect::Any,
        lease: Some(MIN_LEASE),
    };
    let first = store.put(set("first")).await.expect("a message");
    store.delete(key.clone(), Expect::Any).await.expect("deleted");
    assert_eq!(get(&store, &key).await, None);
    let sent = Instant::now();
    let second = store.put(set("second")).await.expect("a message over a marker");
    assert!(second > first);
    assert_eq!(get(&store, &key).await, Some((second, message("second"))));
    let snapshot = store.snapshot(partition(), second).await.expect("a snapshot");
    let mut expected = [(beside.clone(), kept, record(1)), (key.clone(), second, message("second"))];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(snapshot.documents, expected);
    loop {
        let update = next(&mut follower).await;
        if update.change == Change::Expired {
            assert_eq!(update.key, key);
            break;
        }
    }
    assert!(sent.elapsed() >= MIN_LEASE, "ended after {:?}", sent.elapsed());
    assert_eq!(get(&store, &key).await, None);
    assert_eq!(get(&store, &beside).await, Some((kept, record(1))));
}
