//! Cases on followers: every update of their coverage, in order, from wherever they start.

use std::collections::BTreeMap;

use presence_core::documents::{Change, Document, Key, Update};
use presence_core::ids::Sequence;

use super::*;

/// The next update, which must say that this key was deleted; its sequence.
async fn deletion_of(follower: &mut Follower, key: &Key, after: Sequence) -> Sequence {
    let update = next(follower).await;
    assert_eq!((&update.key, &update.change), (key, &Change::Deleted));
    assert!(update.sequence > after, "{update:?} is not after {after:?}");
    update.sequence
}

/// A follower from a snapshot's point gets what came after it, once, and nothing from before.
pub async fn updates_after_a_snapshot(store: SharedStore) {
    let (alice, bob, carol) = (sessions_key(3, "alice", 1), user_key(3, "bob"), user_key(3, "carol"));
    write(&store, &alice, sessions(&[1])).await;
    let before = write(&store, &bob, record(1)).await;
    let up_to = store.snapshot(partitions(&[3]), before).await.expect("a snapshot").up_to;

    let second = write(&store, &bob, record(2)).await;
    delete(&store, &alice).await;
    let mut follower = follow(&store, partitions(&[3]), up_to).await;
    let third = write(&store, &carol, record(3)).await;
    assert_eq!(next(&mut follower).await, was_put(&bob, second, record(2)));
    let deleted = deletion_of(&mut follower, &alice, second).await;
    assert_eq!(next(&mut follower).await, was_put(&carol, third, record(3)));
    assert!(third > deleted);

    let back = write(&store, &alice, sessions(&[2])).await;
    assert_eq!(next(&mut follower).await, was_put(&alice, back, sessions(&[2])));
    delete(&store, &alice).await;
    deletion_of(&mut follower, &alice, back).await;
    assert_eq!(follower.try_next(), None);
    assert_eq!(follower.try_next_batch(), []);
}

/// Two followers of overlapping partitions get all of theirs, also fenced batches, and one may leave.
pub async fn live_updates_of_some_partitions(store: SharedStore) {
    let from = point(&store, partitions(&[1, 2, 3])).await;
    let mut wide = follow(&store, partitions(&[1, 2]), from).await;
    let mut narrow = follow(&store, partitions(&[2]), from).await;
    let mut first = Vec::new();
    for partition in [1, 3, 2, 0] {
        let owner = owner_key(partition);
        let claimed = write(&store, &owner, claim(1)).await;
        let batch: Vec<(Key, Document)> =
            (0..3).map(|n| (user_key(partition, &format!("user {n}")), record(n))).collect();
        let (written, error) = store.put_fenced((owner.clone(), claimed), batch.clone()).await;
        assert_eq!((written.len(), error), (3, None));
        first.push(was_put(&owner, claimed, claim(1)));
        let puts = batch.into_iter().zip(written);
        first.extend(puts.map(|((key, document), sequence)| was_put(&key, sequence, document)));
    }
    let of = |partitions: &[u16]| -> Vec<Update> {
        let covered = |update: &&Update| update.key.partition().is_some_and(|p| partitions.contains(&p.0));
        first.iter().filter(covered).cloned().collect()
    };
    assert_eq!(next_of(&mut wide, 8).await, of(&[1, 2]));
    assert_eq!(next_of(&mut narrow, 4).await, of(&[2]));

    drop(narrow);
    let key = user_key(2, "user 0");
    let sequence = write(&store, &key, record(9)).await;
    assert_eq!(next(&mut wide).await, was_put(&key, sequence, record(9)));
    assert_eq!(wide.try_next(), None);
}

/// Whoever left comes back with the last sequence it saw, and with another coverage if it likes.
pub async fn following_again(store: SharedStore) {
    let keys: Vec<Key> = (0..4).map(|n| user_key(n % 2, &format!("user {n}"))).collect();
    let from = point(&store, partitions(&[0, 1])).await;
    let mut follower = follow(&store, partitions(&[0, 1]), from).await;
    let mut written = Vec::new();
    for key in &keys {
        written.push(write(&store, key, record(1)).await);
    }
    let seen = next_of(&mut follower, 2).await;
    assert_eq!(seen, [was_put(&keys[0], written[0], record(1)), was_put(&keys[1], written[1], record(1))]);
    drop(follower);

    // Of a key that changed twice in between, at least the newest.
    delete(&store, &keys[2]).await;
    let again = write(&store, &keys[2], record(2)).await;
    delete(&store, &keys[1]).await;
    let last = write(&store, &keys[0], record(2)).await;
    let mut follower = follow(&store, partitions(&[0, 1]), written[1]).await;
    let updates = updates_to(&mut follower, written[1], last).await;
    let newest: BTreeMap<Key, Change> =
        updates.iter().cloned().map(|update| (update.key, update.change)).collect();
    let changes = [Change::Put(record(2)), Change::Deleted, Change::Put(record(2)), Change::Put(record(1))];
    assert_eq!(newest, keys.iter().cloned().zip(changes).collect());
    assert!(updates.contains(&was_put(&keys[2], again, record(2))));

    let mut narrowed = follow(&store, partitions(&[1]), last).await;
    write(&store, &keys[0], record(3)).await;
    let sequence = write(&store, &keys[3], record(3)).await;
    assert_eq!(next(&mut narrowed).await, was_put(&keys[3], sequence, record(3)));
    assert_eq!(narrowed.try_next(), None);
}

/// The other bucket is followed as a whole.
pub async fn followers_of_instances(store: SharedStore) {
    let from = point(&store, Coverage::Instances).await;
    let mut follower = follow(&store, Coverage::Instances, from).await;
    write(&store, &user_key(3, "alice"), record(1)).await;
    let (one, two) = (instance_key(1), instance_key(2));
    let first = write(&store, &one, instance(1)).await;
    let second = write(&store, &two, instance(1)).await;
    delete(&store, &one).await;
    assert_eq!(
        next_of(&mut follower, 2).await,
        [was_put(&one, first, instance(1)), was_put(&two, second, instance(1))]
    );
    deletion_of(&mut follower, &one, second).await;
    assert_eq!(follower.try_next(), None);
}

/// However late a follower reads: what few keys ended up with is there (I8: it never waits for more than that).
pub async fn a_lagging_follower(store: SharedStore) {
    const ROUNDS: u64 = 100;
    let owner = owner_key(3);
    let claimed = write(&store, &owner, claim(1)).await;
    let mut follower = follow(&store, partitions(&[3]), claimed).await;
    let keys: Vec<Key> = (0..50).map(|n| user_key(3, &format!("user {n}"))).collect();
    let mut last = Vec::new();
    for revision in 1..=ROUNDS {
        let batch = keys.iter().map(|key| (key.clone(), record(revision))).collect();
        let (written, error) = store.put_fenced((owner.clone(), claimed), batch).await;
        assert_eq!((written.len(), error), (keys.len(), None));
        last = written;
    }
    let updates = updates_to(&mut follower, claimed, last[49]).await;
    let newest: Vec<Update> =
        keys.iter().zip(&last).map(|(key, sequence)| was_put(key, *sequence, record(ROUNDS))).collect();
    assert_eq!(updates[updates.len() - 50..], newest[..]);
}

/// What was there before a follower was begun is told from what comes later: it has an end.
pub async fn what_was_before_has_an_end(store: SharedStore) {
    let from = write(&store, &user_key(1, "alice"), record(1)).await;
    let mut nothing = follow(&store, Coverage::AllRecords, from).await;
    assert_eq!(within("the end of nothing", nothing.next_batch_of_before()).await, None);

    let mut written = Vec::new();
    for number in 0..20 {
        let key = user_key(number % 4, &format!("user-{number}"));
        write(&store, &sessions_key(number % 4, "somebody", 7), sessions(&[1])).await;
        let sequence = write(&store, &key, record(2)).await;
        written.push(was_put(&key, sequence, record(2)));
    }
    let mut follower = follow(&store, Coverage::AllRecords, from).await;
    let mut told = Vec::new();
    while let Some(batch) = within("what was before", follower.next_batch_of_before()).await {
        for followed in batch {
            let Followed::Update(update) = followed else { panic!("the follower ended: {followed:?}") };
            told.push(update);
        }
    }
    assert_eq!(told, written);
    let later = write(&store, &user_key(1, "alice"), record(3)).await;
    assert_eq!(next(&mut follower).await, was_put(&user_key(1, "alice"), later, record(3)));
}
