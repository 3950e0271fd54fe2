//! One random script is played on three stores: the one in memory, the simulated one, and the one over NATS on a real
//! server. Each gives a transcript, in which sequences go by the name of the operation that made them; the transcripts
//! must be the same. The seed is printed; `PRESENCE_TEST_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use presence_core::documents::{CheckpointDocument, Claim};
use presence_host::store::memory::MemoryStore;

use super::*;

const SEED: &str = "PRESENCE_TEST_SEED";
const STEPS: usize = 600;
/// Every so many steps all documents are read.
const SURVEY: usize = 100;
/// So many instances have leases at the end.
const LEASES: u128 = 6;
const INSTANCES: [InstanceId; 2] = [InstanceId(7), InstanceId(8)];

fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    for partition in [0, 1] {
        keys.extend([Key::Owner(PartitionId(partition)), Key::Checkpoint(PartitionId(partition))]);
        for name in ["alice", "b.o b"] {
            keys.push(user_key(partition, name));
            keys.extend(INSTANCES.map(|instance| sessions_key(partition, name, instance.0)));
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

/// How it ended; a conflict's sequence is checked by what it leads to.
fn kind<T>(outcome: &Result<T, StoreError>) -> &'static str {
    match outcome {
        Ok(_) => "done",
        Err(StoreError::Conflict { .. }) => "conflict",
        Err(StoreError::Refused(_)) => "refused",
        Err(StoreError::Unknown(_)) => "unknown",
        Err(StoreError::Unavailable(_)) => "unavailable",
    }
}

/// Plays the script on one store. What it does next depends on the seed and on what it was answered before, never on
/// which store answers.
struct Player<'a> {
    store: &'a dyn Store,
    rng: Rng,
    keys: Vec<Key>,
    /// Every sequence that was made, by the name of the operation that made it.
    made: Vec<(String, Sequence)>,
    /// What is there, as writes, deletions and purges were answered.
    held: BTreeMap<Key, Sequence>,
    /// Removed without a word to followers, and not written since.
    purged: BTreeSet<Key>,
    lines: Vec<String>,
}

impl<'a> Player<'a> {
    fn new(store: &'a dyn Store, seed: u64) -> Player<'a> {
        Player {
            store,
            rng: Rng::with_seed(seed),
            keys: keys(),
            made: Vec::new(),
            held: BTreeMap::new(),
            purged: BTreeSet::new(),
            lines: Vec::new(),
        }
    }

    /// The name of a sequence.
    fn name(&self, sequence: Sequence) -> String {
        if sequence == Sequence(0) {
            return "nothing".into();
        }
        let found = self.made.iter().rev().find(|(_, known)| *known == sequence);
        found.map_or_else(|| "a sequence that no operation made".into(), |(name, _)| name.clone())
    }

    fn any_key(&mut self) -> Key {
        let at = self.rng.usize(..self.keys.len());
        self.keys[at].clone()
    }

    /// A sequence to be expected of this key: often the right one.
    fn guess(&mut self, key: &Key) -> Sequence {
        if let Some(current) = self.held.get(key)
            && self.rng.bool()
        {
            return *current;
        }
        let newest = self.made.last().map_or(Sequence(0), |(_, sequence)| *sequence);
        match self.rng.u8(0..4) {
            0 => Sequence(0),
            1 => newest,
            _ => self.rng.choice(&self.made).map_or(Sequence(0), |(_, sequence)| *sequence),
        }
    }

    fn condition(&mut self, key: &Key) -> Expect {
        match self.rng.u8(0..6) {
            0 | 1 => Expect::Any,
            2..=4 => Expect::Last(self.guess(key)),
            _ => {
                let fence = self.any_key();
                let sequence = self.guess(&fence);
                Expect::Fence(fence, sequence)
            }
        }
    }

    fn shown(&self, expect: &Expect) -> String {
        match expect {
            Expect::Any => "whatever".into(),
            Expect::Last(last) => format!("after {}", self.name(*last)),
            Expect::Fence(fence, last) => format!("under {fence:?} of {}", self.name(*last)),
        }
    }

    fn note_written(&mut self, name: String, key: Key, sequence: Sequence) {
        self.made.push((name, sequence));
        self.purged.remove(&key);
        self.held.insert(key, sequence);
    }

    async fn step(&mut self, step: usize) {
        let nonce = step as u64;
        let line = match self.rng.u8(0..10) {
            0..=4 => self.put(nonce).await,
            5 | 6 => self.delete().await,
            7 | 8 => self.put_fenced(nonce).await,
            _ if self.rng.u8(0..5) == 0 => self.purge().await,
            _ => self.get().await,
        };
        self.lines.push(format!("step {step}: {line}"));
        if step % SURVEY == SURVEY - 1 {
            self.survey().await;
        }
    }

    async fn put(&mut self, nonce: u64) -> String {
        let key = self.any_key();
        let expect = self.condition(&key);
        let shown = format!("put {key:?} {}", self.shown(&expect));
        let put = Put { key: key.clone(), document: document(&key, nonce), expect, lease: None };
        let outcome = self.store.put(put).await;
        if let Ok(sequence) = &outcome {
            self.note_written(format!("put {nonce}"), key, *sequence);
        }
        format!("{shown}: {}", kind(&outcome))
    }

    async fn delete(&mut self) -> String {
        let key = self.any_key();
        let expect = self.condition(&key);
        let shown = format!("delete {key:?} {}", self.shown(&expect));
        let outcome = self.store.delete(key.clone(), expect).await;
        if outcome.is_ok() && self.held.remove(&key).is_some() {
            self.purged.remove(&key);
        }
        format!("{shown}: {}", kind(&outcome))
    }

    async fn put_fenced(&mut self, nonce: u64) -> String {
        let fence = self.any_key();
        let mut claim = self.held.get(&fence).copied().unwrap_or_default();
        if self.rng.u8(0..4) == 0 {
            claim = self.guess(&fence);
        }
        // The fence itself is not written: it would end the batch, each store at its own place.
        let count = self.rng.usize(0..6);
        let chosen: Vec<Key> = (0..count).map(|_| self.any_key()).filter(|key| *key != fence).collect();
        let batch =
            chosen.iter().zip(0..).map(|(key, n)| (key.clone(), document(key, nonce * 10 + n))).collect();
        let shown = format!("put {chosen:?} under {fence:?} of {}", self.name(claim));
        let (written, error) = self.store.put_fenced((fence, claim), batch).await;
        let line = format!("{shown}: {} {}", written.len(), kind(&error.map_or(Ok(()), Err)));
        for (at, (key, sequence)) in chosen.into_iter().zip(written).enumerate() {
            self.note_written(format!("batch {nonce} at {at}"), key, sequence);
        }
        line
    }

    async fn purge(&mut self) -> String {
        let instance = INSTANCES[self.rng.usize(..INSTANCES.len())];
        let outcome = self.store.purge_sessions(Purge::Of(instance)).await;
        let of_instance = |key: &Key| matches!(key, Key::Sessions(.., of) if *of == instance);
        self.purged.extend(self.held.keys().filter(|key| of_instance(key)).cloned());
        self.held.retain(|key, _| !of_instance(key));
        format!("purge {instance}: {outcome:?}")
    }

    async fn get(&mut self) -> String {
        let key = self.any_key();
        let found = self.store.get(key.clone()).await;
        let found = found.map(|found| found.map(|(sequence, found)| (self.name(sequence), found)));
        format!("get {key:?}: {found:?}")
    }

    /// Everything that is there, read in the two ways there are; it must be what was acknowledged.
    async fn survey(&mut self) {
        let snapshot = self.store.snapshot(partitions(&[0, 1]), Sequence(0)).await.expect("a snapshot");
        let found: BTreeMap<Key, Sequence> =
            snapshot.documents.iter().map(|(key, sequence, _)| (key.clone(), *sequence)).collect();
        assert_eq!(found, self.held, "{:#?}", self.lines);
        for (key, sequence, document) in snapshot.documents {
            self.lines.push(format!("there is {key:?} of {}: {document:?}", self.name(sequence)));
        }
        for instance in INSTANCES {
            let sessions = self.store.sessions_of(instance).await;
            self.lines.push(format!("sessions of {instance}: {sessions:?}"));
        }
    }

    /// The last that a follower from the beginning is told of each key. What it is told of a purge, and of the deletion of
    /// what was not there, is each store's own business.
    async fn hear(&mut self, mut follower: Follower) {
        let key = self.keys[0].clone();
        let last = write(self.store, &key, document(&key, 1)).await;
        self.note_written("the last".into(), key, last);
        let mut told = BTreeMap::new();
        loop {
            let update = next_update(&mut follower).await;
            let sequence = update.sequence;
            told.insert(update.key, (sequence, update.change));
            if sequence == last {
                break;
            }
        }
        for key in self.keys.iter().filter(|key| !self.purged.contains(key)) {
            let heard = match told.get(key) {
                Some((sequence, Change::Put(document))) => {
                    format!("{document:?} of {}", self.name(*sequence))
                }
                Some((_, Change::Deleted)) | None => "nothing".into(),
                Some((_, Change::Expired)) => "a lease that nobody gave".into(),
            };
            self.lines.push(format!("followers heard of {key:?}: {heard}"));
        }
    }

    /// Leases: some are renewed, some end, and what can be written over those that have ended.
    async fn leases(&mut self) {
        let mut follower = self.store.follow(Coverage::Instances, Sequence(0)).await.expect("a follower");
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(600));
        let mut ending = BTreeSet::new();
        let mut first = BTreeMap::new();
        for number in 0..LEASES {
            let key = Key::Instance(InstanceId(number));
            let first_of = self.lease(&key, 1, Expect::Last(Sequence(0)), short).await.expect("a lease");
            first.insert(key.clone(), first_of);
            // Renewed for longer, renewed rightly and then wrongly, or left alone.
            let renewal = match self.rng.u8(0..3) {
                0 => self.lease(&key, 2, Expect::Last(first_of), long).await.map(|_| false),
                1 => self.lease(&key, 2, Expect::Last(Sequence(0)), long).await.map(|_| false),
                _ => Ok(true),
            };
            if renewal != Ok(false) {
                ending.insert(key.clone());
            }
            self.lines.push(format!("lease of {number}: {}", kind(&renewal)));
        }
        let mut ended = BTreeSet::new();
        while ended.len() < ending.len() {
            let update = next_update(&mut follower).await;
            if update.change == Change::Expired {
                assert!(ended.insert(update.key.clone()), "{:?} has ended twice", update.key);
            }
        }
        assert_eq!(ended, ending);
        for (key, first) in first {
            let found = self.store.get(key.clone()).await.map(|found| found.map(|(_, document)| document));
            let late = self.lease(&key, 3, Expect::Last(first), long).await;
            let anew = self.lease(&key, 4, Expect::Last(Sequence(0)), long).await;
            let line = format!("{key:?}: {found:?}; late {}; anew {}", kind(&late), kind(&anew));
            self.lines.push(line);
        }
    }

    async fn lease(
        &self,
        key: &Key,
        renewal: u64,
        expect: Expect,
        lease: Duration,
    ) -> Result<Sequence, StoreError> {
        let document = instance(renewal);
        self.store.put(Put { key: key.clone(), document, expect, lease: Some(lease) }).await
    }
}

/// What happened on this store.
async fn transcript(store: &dyn Store, seed: u64) -> Vec<String> {
    let follower = store.follow(partitions(&[0, 1]), Sequence(0)).await.expect("a follower");
    let mut player = Player::new(store, seed);
    for step in 0..STEPS {
        player.step(step).await;
    }
    player.hear(follower).await;
    player.survey().await;
    player.leases().await;
    player.lines
}

fn assert_alike(name: &str, found: &[String], expected: &[String]) {
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "line {at}: {name} and memory differ");
    }
    assert_eq!(found.len(), expected.len(), "{name} and memory have transcripts of different lengths");
}

#[test]
fn three_stores_answer_alike() {
    let seed = std::env::var(SEED).map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a number"));
    println!("{SEED}={seed}");
    let in_virtual_time = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().expect("a runtime with nothing but timers")
    };
    let memory = in_virtual_time().block_on(async { transcript(&MemoryStore::new(), seed).await });
    let simulated =
        in_virtual_time().block_on(async { transcript(&presence_tests::simulation::store(), seed).await });
    let real = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let nats = real.expect("a runtime").block_on(async {
        let bench = Bench::new().await;
        transcript(&bench.store, seed).await
    });
    assert!(memory.iter().filter(|line| line.ends_with("done")).count() > STEPS / 4, "{memory:#?}");
    assert_alike("the simulated store", &simulated, &memory);
    assert_alike("NATS", &nats, &memory);
}
