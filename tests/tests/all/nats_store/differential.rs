//! The same random operations on the store in memory and on the one over NATS must have the same results. The seed is
//! printed; `PRESENCE_TEST_SEED` repeats a run.

use std::collections::BTreeMap;

use fastrand::Rng;
use presence_core::documents::{CheckpointDocument, Claim};
use presence_host::store::memory::MemoryStore;

use super::*;

const SEED: &str = "PRESENCE_TEST_SEED";
const STEPS: usize = 600;

/// Sequences of the two stores differ, so they are named by when they came about.
#[derive(Default)]
struct Names {
    /// Pairs of sequences that one operation made: memory, NATS.
    pairs: Vec<(Sequence, Sequence)>,
}

impl Names {
    fn note(&mut self, memory: Sequence, nats: Sequence) {
        self.pairs.push((memory, nats));
    }

    fn any(&self, rng: &mut Rng) -> (Sequence, Sequence) {
        match rng.u8(0..4) {
            0 => (Sequence(0), Sequence(0)),
            1 => self.pairs.last().copied().unwrap_or_default(),
            _ => rng.choice(&self.pairs).copied().unwrap_or_default(),
        }
    }
}

fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    for partition in [0, 1] {
        keys.extend([Key::Owner(PartitionId(partition)), Key::Checkpoint(PartitionId(partition))]);
        for name in ["alice", "b.o b"] {
            keys.push(user_key(partition, name));
            keys.extend([7, 8].map(|instance| sessions_key(partition, name, instance)));
        }
    }
    keys
}

fn document(key: &Key, nonce: u64) -> Document {
    match key {
        Key::Sessions(..) => sessions(nonce),
        Key::Owner(_) => Document::Owner(Claim { instance: None, nonce }),
        Key::User(..) => record(nonce),
        _ => Document::Checkpoint(Arc::new(CheckpointDocument { epoch: nonce, ..Default::default() })),
    }
}

/// A condition as each of the two sees it.
fn condition(
    rng: &mut Rng,
    (key, keys): (&Key, &[Key]),
    held: &BTreeMap<Key, (Sequence, Sequence)>,
    names: &Names,
) -> [Expect; 2] {
    let fence = rng.choice(keys).expect("keys").clone();
    let key_of = |rng: &mut Rng, key: &Key| match held.get(key) {
        Some(current) if rng.bool() => *current,
        _ => names.any(rng),
    };
    match rng.u8(0..6) {
        0 | 1 => [Expect::Any, Expect::Any],
        2..=4 => {
            let (memory, nats) = key_of(rng, key);
            [Expect::Last(memory), Expect::Last(nats)]
        }
        _ => {
            let (memory, nats) = key_of(rng, &fence);
            [Expect::Fence(fence.clone(), memory), Expect::Fence(fence, nats)]
        }
    }
}

/// What both must say alike; sequences of conflicts are checked by what they lead to.
fn kind<T>(outcome: &Result<T, StoreError>) -> &'static str {
    match outcome {
        Ok(_) => "done",
        Err(StoreError::Conflict { .. }) => "conflict",
        Err(StoreError::Refused(_)) => "refused",
        Err(StoreError::Unknown(_)) => "unknown",
        Err(StoreError::Unavailable(_)) => "unavailable",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stores_answer_alike() {
    let seed = std::env::var(SEED).map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("{SEED}={seed}");
    let bench = Bench::new().await;
    let (memory, nats) = (MemoryStore::new(), &bench.store);
    let mut rng = Rng::with_seed(seed);
    let (keys, mut names) = (keys(), Names::default());
    let mut held: BTreeMap<Key, (Sequence, Sequence)> = BTreeMap::new();
    let mut followers = [
        memory.follow(partitions(&[0, 1]), Sequence(0)).await.unwrap(),
        nats.follow(partitions(&[0, 1]), Sequence(0)).await.unwrap(),
    ];
    let mut told: [BTreeMap<Key, Change>; 2] = Default::default();
    for step in 0..STEPS {
        let nonce = step as u64;
        let key = rng.choice(&keys).expect("keys").clone();
        let [of_memory, of_nats] = condition(&mut rng, (&key, &keys), &held, &names);
        let what = format!("step {step}: {key:?} {of_memory:?} {of_nats:?}");
        match rng.u8(0..10) {
            0..=4 => {
                let put =
                    |expect| Put { key: key.clone(), document: document(&key, nonce), expect, lease: None };
                let (a, b) = (memory.put(put(of_memory)).await, nats.put(put(of_nats)).await);
                assert_eq!(kind(&a), kind(&b), "{what}: {a:?} {b:?}");
                if let (Ok(a), Ok(b)) = (a, b) {
                    held.insert(key, (a, b));
                    names.note(a, b);
                }
            }
            5 | 6 => {
                let (a, b) =
                    (memory.delete(key.clone(), of_memory).await, nats.delete(key.clone(), of_nats).await);
                assert_eq!(kind(&a), kind(&b), "{what}: {a:?} {b:?}");
                if a.is_ok() {
                    held.remove(&key);
                }
            }
            7 | 8 => {
                let fence = rng.choice(&keys).expect("keys").clone();
                let (claim_a, claim_b) = held.get(&fence).copied().unwrap_or_default();
                let (claim_a, claim_b) =
                    if rng.u8(0..4) == 0 { names.any(&mut rng) } else { (claim_a, claim_b) };
                let count = rng.usize(0..6);
                // The fence itself is not written: it would end the batch, each store at its own place.
                let chosen: Vec<Key> = (0..count)
                    .map(|_| rng.choice(&keys).expect("keys").clone())
                    .filter(|key| *key != fence)
                    .collect();
                let batch: Vec<(Key, Document)> = chosen
                    .iter()
                    .zip(0..)
                    .map(|(key, n)| (key.clone(), document(key, nonce * 10 + n)))
                    .collect();
                let (written_a, error_a) = memory.put_fenced((fence.clone(), claim_a), batch.clone()).await;
                let (written_b, error_b) = nats.put_fenced((fence, claim_b), batch).await;
                let kinds = [error_a.map_or(Ok(()), Err), error_b.map_or(Ok(()), Err)];
                assert_eq!((written_a.len(), kind(&kinds[0])), (written_b.len(), kind(&kinds[1])), "{what}");
                for ((key, a), b) in chosen.into_iter().zip(written_a).zip(written_b) {
                    held.insert(key, (a, b));
                    names.note(a, b);
                }
            }
            _ if rng.u8(0..5) == 0 => {
                let instance = InstanceId(u128::from(rng.u8(7..9)));
                assert_eq!(
                    memory.purge_sessions(Some(instance)).await,
                    nats.purge_sessions(Some(instance)).await,
                    "{what}"
                );
                held.retain(|key, _| !matches!(key, Key::Sessions(.., of) if *of == instance));
                // Nobody is told of a purge.
                for told in &mut told {
                    told.retain(|key, _| !matches!(key, Key::Sessions(.., of) if *of == instance));
                }
            }
            _ => {
                let (a, b) = (memory.get(key.clone()).await.unwrap(), nats.get(key.clone()).await.unwrap());
                let strip =
                    |found: &Option<(Sequence, Document)>| found.as_ref().map(|found| found.1.clone());
                assert_eq!(strip(&a), strip(&b), "{what}");
                assert_eq!(held.get(&key).copied(), a.zip(b).map(|((a, _), (b, _))| (a, b)), "{what}");
            }
        }
        if step % 100 == 99 {
            compare(&memory, nats, &held, &what).await;
        }
    }
    let last = (
        write(&memory, &keys[0], document(&keys[0], 1)).await,
        write(nats, &keys[0], document(&keys[0], 1)).await,
    );
    for ((follower, told), last) in followers.iter_mut().zip(&mut told).zip([last.0, last.1]) {
        loop {
            let update = next_update(follower).await;
            told.insert(update.key, update.change);
            if update.sequence == last {
                break;
            }
        }
    }
    // Whoever followed knows what there is, but for what was purged.
    held.insert(keys[0].clone(), last);
    for (key, (sequence, _)) in &held {
        let document = memory.get(key.clone()).await.unwrap().expect("held").1;
        for told in &told {
            assert_eq!(told.get(key), Some(&Change::Put(document.clone())), "{key:?} of {sequence:?}");
        }
    }
}

/// Snapshots and sessions of both, and what is held.
async fn compare(
    memory: &MemoryStore,
    nats: &NatsStore,
    held: &BTreeMap<Key, (Sequence, Sequence)>,
    what: &str,
) {
    let strip = |snapshot: presence_host::store::Snapshot| -> BTreeMap<Key, (Sequence, Document)> {
        snapshot.documents.into_iter().map(|(key, sequence, document)| (key, (sequence, document))).collect()
    };
    let coverage = partitions(&[0, 1]);
    let a = strip(memory.snapshot(coverage.clone(), Sequence(0)).await.unwrap());
    let b = strip(nats.snapshot(coverage, Sequence(0)).await.unwrap());
    let documents = |of: &BTreeMap<Key, (Sequence, Document)>| {
        of.iter().map(|(k, v)| (k.clone(), v.1.clone())).collect::<Vec<_>>()
    };
    assert_eq!(documents(&a), documents(&b), "{what}");
    let pairs: BTreeMap<Key, (Sequence, Sequence)> =
        a.iter().map(|(key, found)| (key.clone(), (found.0, b[key].0))).collect();
    assert_eq!(&pairs, held, "{what}");
    for instance in [7, 8].map(InstanceId) {
        assert_eq!(memory.sessions_of(instance).await, nats.sessions_of(instance).await, "{what}");
    }
}
