//! Cases on conditions: compare-and-set, fences, deletion, several writers.

use presence_core::documents::{Document, Expect, Key};
use presence_core::ids::{PartitionId, Sequence, SessionId};

use super::*;
use crate::store::MIN_LEASE;

/// Create, update, and what a conflict tells.
pub async fn compare_and_set(store: SharedStore) {
    let key = user_key(3, "alice");
    let never = Expect::Last(Sequence(u64::MAX >> 12));
    assert_eq!(put(&store, &key, record(1), never).await, conflict(Sequence(0)));
    assert_eq!(get(&store, &key).await, None);

    let first = put(&store, &key, record(1), Expect::Last(Sequence(0))).await.expect("created");
    assert!(first > Sequence(0));
    assert_eq!(put(&store, &key, record(2), Expect::Last(Sequence(0))).await, conflict(first));
    assert_eq!(get(&store, &key).await, Some((first, record(1))));

    write(&store, &user_key(3, "bob"), record(7)).await;
    let second = put(&store, &key, record(3), Expect::Last(first)).await.expect("updated");
    assert!(second > first);
    assert_eq!(put(&store, &key, record(4), Expect::Last(first)).await, conflict(second));
    assert_eq!(get(&store, &key).await, Some((second, record(3))));

    let third = write(&store, &key, record(5)).await;
    assert!(third > second);
    assert_eq!(get(&store, &key).await, Some((third, record(5))));
}

/// What deleting needs, and what can be written afterwards.
pub async fn deletion(store: SharedStore) {
    let (key, owner) = (user_key(3, "alice"), owner_key(3));
    delete(&store, &key).await;

    let first = write(&store, &key, record(1)).await;
    let refused = store.delete(key.clone(), Expect::Last(Sequence(0))).await;
    assert_eq!(refused, Err(StoreError::Conflict { last: first }));
    let claimed = write(&store, &owner, claim(1)).await;
    let refused = store.delete(key.clone(), Expect::Fence(owner.clone(), first)).await;
    assert_eq!(refused, Err(StoreError::Conflict { last: claimed }));
    assert_eq!(get(&store, &key).await, Some((first, record(1))));

    store.delete(key.clone(), Expect::Last(first)).await.expect("the condition holds");
    assert_eq!(get(&store, &key).await, None);
    let Err(StoreError::Conflict { last }) = put(&store, &key, record(2), Expect::Last(first)).await else {
        panic!("the document is gone, its sequence must not be expected");
    };
    let second =
        put(&store, &key, record(3), Expect::Last(last)).await.expect("a conflict tells what to expect");

    store.delete(key.clone(), Expect::Fence(owner.clone(), claimed)).await.expect("the fence holds");
    let third =
        put(&store, &key, record(4), Expect::Last(Sequence(0))).await.expect("0 stands for no document");
    assert!(first < second && second < third);
    assert_eq!(get(&store, &key).await, Some((third, record(4))));
}

/// A write under a fence needs the last sequence of another key, whatever its own key's is.
pub async fn fences(store: SharedStore) {
    let (key, owner) = (user_key(3, "alice"), owner_key(3));
    let fence = |sequence| Expect::Fence(owner.clone(), sequence);
    let never = Sequence(u64::MAX >> 12);
    assert_eq!(put(&store, &key, record(1), fence(never)).await, conflict(Sequence(0)));

    let old = write(&store, &owner, claim(1)).await;
    let first = put(&store, &key, record(1), fence(old)).await.expect("fenced");
    let second = put(&store, &key, record(2), fence(old)).await.expect("fenced again");
    assert!(old < first && first < second);

    let new = put(&store, &owner, claim(2), Expect::Last(old)).await.expect("claimed");
    assert_eq!(put(&store, &key, record(3), fence(old)).await, conflict(new));
    assert_eq!(put(&store, &user_key(3, "bob"), record(1), fence(old)).await, conflict(new));
    assert_eq!(get(&store, &user_key(3, "bob")).await, None);
    assert_eq!(get(&store, &key).await, Some((second, record(2))));
    let third = put(&store, &key, record(4), fence(new)).await.expect("fenced anew");
    assert_eq!(get(&store, &key).await, Some((third, record(4))));

    delete(&store, &owner).await;
    assert!(matches!(put(&store, &key, record(5), fence(new)).await, Err(StoreError::Conflict { .. })));
    assert_eq!(get(&store, &key).await, Some((third, record(4))));
}

/// Batches are written in order, or not at all when the fence is lost from the start.
pub async fn batches(store: SharedStore) {
    let owner = owner_key(3);
    let old = write(&store, &owner, claim(1)).await;
    let keys: Vec<Key> = (0..100).map(|n| user_key(3, &format!("user {n}"))).collect();
    let batch = |revision| keys.iter().map(|key| (key.clone(), record(revision))).collect::<Vec<_>>();

    let (written, error) = store.put_fenced((owner.clone(), old), batch(1)).await;
    assert_eq!((written.len(), error), (keys.len(), None));
    assert!(written[0] > old && written.is_sorted_by(|a, b| a < b), "{written:?}");
    for (key, sequence) in keys.iter().zip(&written) {
        assert_eq!(get(&store, key).await, Some((*sequence, record(1))));
    }

    let twice =
        vec![(keys[0].clone(), record(2)), (keys[1].clone(), record(2)), (keys[0].clone(), record(3))];
    let (again, error) = store.put_fenced((owner.clone(), old), twice).await;
    assert_eq!((again.len(), error), (3, None));
    assert_eq!(get(&store, &keys[0]).await, Some((again[2], record(3))));
    assert_eq!(get(&store, &keys[1]).await, Some((again[1], record(2))));

    let new = write(&store, &owner, claim(2)).await;
    let lost = store.put_fenced((owner.clone(), old), batch(4)).await;
    assert_eq!(lost, (vec![], Some(StoreError::Conflict { last: new })));
    assert_eq!(get(&store, &keys[0]).await, Some((again[2], record(3))));
    assert_eq!(get(&store, &keys[99]).await, Some((written[99], record(1))));

    assert_eq!(store.put_fenced((owner, new), vec![]).await, (vec![], None));
}

/// Somebody claims while batches are written: nothing is accepted after that, and what was is a prefix (I4).
pub async fn a_lost_fence_stops_a_batch(store: SharedStore) {
    const BATCH: u64 = 20;
    let owner = owner_key(3);
    let old = write(&store, &owner, claim(1)).await;
    let (wrote_some, seen_some) = tokio::sync::oneshot::channel();
    let writer = tokio::spawn({
        let (store, owner) = (store.clone(), owner.clone());
        async move {
            let mut written: Vec<(Key, Sequence, Document)> = Vec::new();
            let mut wrote_some = Some(wrote_some);
            for revision in 0.. {
                let batch: Vec<(Key, Document)> =
                    (0..BATCH).map(|n| (user_key(3, &format!("{revision}-{n}")), record(revision))).collect();
                let (sequences, error) = store.put_fenced((owner.clone(), old), batch.clone()).await;
                let prefix = batch.into_iter().zip(&sequences);
                written.extend(prefix.map(|((key, document), sequence)| (key, *sequence, document)));
                if let Some(error) = error {
                    return (written, error);
                }
                assert_eq!(sequences.len() as u64, BATCH);
                if revision == 3
                    && let Some(wrote_some) = wrote_some.take()
                {
                    let _ = wrote_some.send(());
                }
                // Stores whose answers are always ready would let nobody else in.
                tokio::task::yield_now().await;
            }
            unreachable!("there is always a next revision")
        }
    });
    within("the fourth batch", seen_some).await.expect("the writer lives");
    let new = put(&store, &owner, claim(2), Expect::Last(old)).await.expect("claimed");
    let (mut written, error) = within("the end of the batches", writer).await.expect("the writer's word");
    assert_eq!(error, StoreError::Conflict { last: new });
    assert!(written.iter().all(|(_, sequence, _)| *sequence < new), "written after the claim {new:?}");
    assert!(written.is_sorted_by(|a, b| a.1 < b.1));

    let snapshot = store.snapshot(partitions(&[3]), new).await.expect("a snapshot");
    written.push((owner, new, claim(2)));
    written.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(snapshot.documents, written);
}

/// What can't be meant leaves no trace.
pub async fn nonsense_is_refused(store: SharedStore) {
    let key = user_key(3, "alice");
    let refused = |outcome: Result<Sequence, StoreError>| {
        assert!(matches!(outcome, Err(StoreError::Refused(_))), "{outcome:?}");
    };
    refused(put(&store, &key, claim(1), Expect::Any).await);
    refused(put(&store, &Key::Checkpoint(PartitionId(3)), claim(1), Expect::Any).await);
    let boot = Expect::Fence(Key::Boot, Sequence(0));
    refused(put(&store, &key, record(1), boot.clone()).await);
    let lease = Some(MIN_LEASE / 2);
    refused(store.put(Put { key: key.clone(), document: record(1), expect: Expect::Any, lease }).await);
    assert!(matches!(store.delete(key.clone(), boot).await, Err(StoreError::Refused(_))));
    assert_eq!(get(&store, &key).await, None);

    let owner = owner_key(3);
    let claimed = write(&store, &owner, claim(1)).await;
    let mixed = vec![(key.clone(), record(1)), (key.clone(), claim(2)), (key.clone(), record(3))];
    let (written, error) = store.put_fenced((owner, claimed), mixed).await;
    assert!(matches!(error, Some(StoreError::Refused(_))), "{error:?}");
    assert!(written.len() <= 1, "what follows the refused document was written");
    assert_eq!(get(&store, &key).await, written.first().map(|sequence| (*sequence, record(1))));
}

/// User ids hold any text; no two of them share a document.
pub async fn any_user_id(store: SharedStore) {
    let longest = "🦀".repeat(64);
    let ids = [
        "a.b", "a/b", "a b", "a,b", "a*b", "a>b", "*", ">", "...", "a..b", ".a", "a.", "=", "=2E", "a=2Eb",
        "a%2Eb", "A", "a", "é", "e\u{301}", "🦀", "\u{200b}", "\"{}\\", "$JS.API", "s.1.2.a", " ", "-", "_",
        &longest,
    ];
    let mut expected = Vec::new();
    for (revision, id) in (1..).zip(ids) {
        let (records, held) = (user_key(3, id), sessions_key(3, id, 7));
        let sequence =
            put(&store, &records, record(revision), Expect::Last(Sequence(0))).await.expect("a new user");
        expected.push((records, sequence, record(revision)));
        let document = sessions(&[u128::from(revision)]);
        let sequence =
            put(&store, &held, document.clone(), Expect::Last(Sequence(0))).await.expect("a new user");
        expected.push((held, sequence, document));
    }
    let last = expected.last().expect("some").1;
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let snapshot = store.snapshot(partitions(&[3]), last).await.expect("a snapshot");
    assert_eq!(snapshot.documents, expected);
    for (key, sequence, document) in &expected {
        assert_eq!(get(&store, key).await, Some((*sequence, document.clone())));
    }
}

/// Two writers add sessions to one document by compare-and-set and lose none (room for holders).
pub async fn several_writers_of_one_document(store: SharedStore) {
    const EACH: u128 = 20;
    let key = sessions_key(3, "alice", 7);
    let add = |number: u128| {
        let (store, key) = (store.clone(), key.clone());
        async move {
            loop {
                let (last, mut numbers) = match get(&store, &key).await {
                    Some((last, document)) => (last, session_numbers(&document)),
                    None => (Sequence(0), Vec::new()),
                };
                numbers.push(number);
                match put(&store, &key, sessions(&numbers), Expect::Last(last)).await {
                    Ok(_) => return,
                    Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let (mut even, mut odd) = (Vec::new(), Vec::new());
    for number in 0..EACH {
        even.push(add(number * 2));
        odd.push(add(number * 2 + 1));
    }
    let all = futures_util::future::join_all(even.into_iter().chain(odd));
    within("the end of the writers", all).await;

    let (last, document) = get(&store, &key).await.expect("a document");
    let mut numbers = session_numbers(&document);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..EACH * 2).collect::<Vec<u128>>());
    let stale = store.delete(key.clone(), Expect::Last(Sequence(last.0 - 1))).await;
    assert_eq!(stale, Err(StoreError::Conflict { last }));
    store.delete(key.clone(), Expect::Last(last)).await.expect("nobody wrote since");
    assert_eq!(get(&store, &key).await, None);
}

fn session_numbers(document: &Document) -> Vec<u128> {
    let Document::Sessions(document) = document else { panic!("no session document: {document:?}") };
    let number = |id: &SessionId| match id {
        SessionId::Hosted(number) => *number,
        SessionId::Held(text) => panic!("unexpected session {text}"),
    };
    document.sessions.iter().map(|entry| number(&entry.id)).collect()
}
