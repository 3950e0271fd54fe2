//! What every store must pass: one function per case, each on a fresh and empty store of the layout [`LAYOUT`], each
//! panicking where the store does not do as it must. Tests of stores call [`run_all`]. It knows no particular store.
//!
//! Cases allow what the rules in [`super`] allow: sequences start anywhere and may have gaps, a follower may keep only
//! the newest update of a key, leases may end late (by [`PATIENCE`] at most).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use presence_core::documents::{
    Change, Claim, Document, Expect, InstanceRecord, InstanceState, Key, SessionDocument, SessionEntry,
    StatusRecord, Trail, Update,
};
use presence_core::events::{Attributes, Status};
use presence_core::ids::{InstanceId, Layout, PartitionId, Sequence, SessionId, UserId};
use presence_core::message::CustomMessage;
use presence_core::time::Timestamp;

use super::{Coverage, Followed, Follower, Purge, Put, SharedStore, StoreError};

pub mod following;
pub mod leases;
pub mod letters;
pub mod reading;
pub mod writes;

/// The layout that the cases use: a store may be created with this one or a larger one.
pub const LAYOUT: Layout = Layout { partitions: 8, leaves: 4 };

/// So long may a store take for anything it does by itself: telling followers, ending a lease that is over.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One case.
pub type Case = fn(SharedStore) -> BoxFuture<'static, ()>;

/// All cases and their names.
pub const CASES: &[(&str, Case)] = &[
    ("compare_and_set", |store| Box::pin(writes::compare_and_set(store))),
    ("deletion", |store| Box::pin(writes::deletion(store))),
    ("fences", |store| Box::pin(writes::fences(store))),
    ("batches", |store| Box::pin(writes::batches(store))),
    ("a_lost_fence_stops_a_batch", |store| Box::pin(writes::a_lost_fence_stops_a_batch(store))),
    ("nonsense_is_refused", |store| Box::pin(writes::nonsense_is_refused(store))),
    ("any_user_id", |store| Box::pin(writes::any_user_id(store))),
    ("several_writers_of_one_document", |store| Box::pin(writes::several_writers_of_one_document(store))),
    ("a_lease_ends", |store| Box::pin(leases::a_lease_ends(store))),
    ("renewal_prolongs", |store| Box::pin(leases::renewal_prolongs(store))),
    ("renewal_after_the_end_fails", |store| Box::pin(leases::renewal_after_the_end_fails(store))),
    ("no_lease_is_immortal", |store| Box::pin(leases::no_lease_is_immortal(store))),
    ("a_write_ends_the_lease_before_it", |store| Box::pin(leases::a_write_ends_the_lease_before_it(store))),
    ("a_message_ends_like_a_lease", |store| Box::pin(leases::a_message_ends_like_a_lease(store))),
    ("a_coverage_and_nothing_else", |store| Box::pin(reading::a_coverage_and_nothing_else(store))),
    ("records_and_a_users_sessions", |store| Box::pin(reading::records_and_a_users_sessions(store))),
    ("snapshot_and_updates_miss_nothing", |store| {
        Box::pin(reading::snapshot_and_updates_miss_nothing(store))
    }),
    ("sessions_of_an_instance", |store| Box::pin(reading::sessions_of_an_instance(store))),
    ("purge_and_late_writes", |store| Box::pin(reading::purge_and_late_writes(store))),
    ("a_purge_up_to_a_point", |store| Box::pin(reading::a_purge_up_to_a_point(store))),
    ("a_purge_spares_some", |store| Box::pin(reading::a_purge_spares_some(store))),
    ("buckets_are_independent", |store| Box::pin(reading::buckets_are_independent(store))),
    ("updates_after_a_snapshot", |store| Box::pin(following::updates_after_a_snapshot(store))),
    ("live_updates_of_some_partitions", |store| Box::pin(following::live_updates_of_some_partitions(store))),
    ("following_again", |store| Box::pin(following::following_again(store))),
    ("followers_of_instances", |store| Box::pin(following::followers_of_instances(store))),
    ("what_was_before_has_an_end", |store| Box::pin(following::what_was_before_has_an_end(store))),
    ("a_lagging_follower", |store| Box::pin(following::a_lagging_follower(store))),
    ("notices_reach_all_readers", |store| Box::pin(letters::notices_reach_all_readers(store))),
    ("notices_of_details", |store| Box::pin(letters::notices_of_details(store))),
    ("a_slow_reader_of_notices", |store| Box::pin(letters::a_slow_reader_of_notices(store))),
    ("a_dead_letter_is_removed_once", |store| Box::pin(letters::a_dead_letter_is_removed_once(store))),
    ("a_question_is_answered_by_whom_it_concerns", |store| {
        Box::pin(letters::a_question_is_answered_by_whom_it_concerns(store))
    }),
    ("dead_letters_are_bounded", |store| Box::pin(letters::dead_letters_are_bounded(store))),
];

/// Runs every case on a store of its own.
pub async fn run_all(make: impl AsyncFn() -> SharedStore) {
    for (name, case) in CASES {
        // Test harnesses show this when the case panics.
        println!("store conformance: {name}");
        case(make().await).await;
    }
}

/// Waits for something that must come, at most [`PATIENCE`].
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {PATIENCE:?}"),
    }
}

fn user(text: &str) -> UserId {
    UserId::new(text).expect("a user id")
}

fn sessions_key(partition: u16, of: &str, instance: u128) -> Key {
    let of = user(of);
    Key::Sessions(PartitionId(partition), LAYOUT.place(&of).1, of, InstanceId(instance))
}

fn user_key(partition: u16, of: &str) -> Key {
    let of = user(of);
    Key::User(PartitionId(partition), LAYOUT.place(&of).1, of)
}

fn message_key(partition: u16, of: &str) -> Key {
    let of = user(of);
    Key::Message(PartitionId(partition), LAYOUT.place(&of).1, of)
}

fn message(text: &str) -> Document {
    Document::Message(CustomMessage { text: text.into(), until: Timestamp(3_000) })
}

fn owner_key(partition: u16) -> Key {
    Key::Owner(PartitionId(partition))
}

fn instance_key(instance: u128) -> Key {
    Key::Instance(InstanceId(instance))
}

/// A document of one session for each number.
fn sessions(numbers: &[u128]) -> Document {
    let entry = |number: &u128| SessionEntry {
        id: SessionId::Hosted(*number),
        status: Status::Online,
        connected_at: Timestamp(1_000),
        attributes: Attributes::new(vec![("user-agent".into(), "conformance".into())]),
        ended: None,
        listed: Default::default(),
    };
    let sessions = numbers.iter().map(entry).collect();
    Document::Sessions(Arc::new(SessionDocument { sessions, drained_until: None }))
}

fn record(revision: u64) -> Document {
    Document::User(status(revision))
}

fn status(revision: u64) -> StatusRecord {
    StatusRecord {
        status: Status::Idle,
        since: Timestamp(2_000),
        revision,
        last_seen: None,
        sessions: 1,
        generation: 1,
        previous: None,
        trail: Trail::default(),
    }
}

fn claim(nonce: u64) -> Document {
    Document::Owner(Claim { instance: Some(InstanceId(1)), nonce })
}

fn instance(renewal: u64) -> Document {
    Document::Instance(InstanceRecord {
        host: "conformance".into(),
        state: InstanceState::Ready,
        started_at: Timestamp(3_000),
        renewal,
        plugins: 0,
        cleanup: None,
        holder: None,
    })
}

fn partitions(partitions: &[u16]) -> Coverage {
    Coverage::Partitions(partitions.iter().copied().map(PartitionId).collect())
}

async fn put(
    store: &SharedStore,
    key: &Key,
    document: Document,
    expect: Expect,
) -> Result<Sequence, StoreError> {
    store.put(Put { key: key.clone(), document, expect, lease: None }).await
}

/// Writes without a condition.
async fn write(store: &SharedStore, key: &Key, document: Document) -> Sequence {
    put(store, key, document, Expect::Any).await.expect("a write without a condition")
}

async fn get(store: &SharedStore, key: &Key) -> Option<(Sequence, Document)> {
    store.get(key.clone()).await.expect("a read")
}

async fn delete(store: &SharedStore, key: &Key) {
    store.delete(key.clone(), Expect::Any).await.expect("a deletion without a condition");
}

/// The point that an empty coverage is at.
async fn point(store: &SharedStore, coverage: Coverage) -> Sequence {
    store.snapshot(coverage, Sequence(0)).await.expect("a snapshot").up_to
}

async fn follow(store: &SharedStore, coverage: Coverage, from: Sequence) -> Follower {
    store.follow(coverage, from).await.expect("a follower")
}

fn conflict(last: Sequence) -> Result<Sequence, StoreError> {
    Err(StoreError::Conflict { last })
}

fn was_put(key: &Key, sequence: Sequence, document: Document) -> Update {
    Update { key: key.clone(), sequence, change: Change::Put(document) }
}

async fn next(follower: &mut Follower) -> Update {
    match within("the next update", follower.next()).await {
        Followed::Update(update) => update,
        Followed::Lost(why) => panic!("the follower was lost: {why}"),
    }
}

/// The next updates of a follower, for cases in which no key is written again before that is read.
async fn next_of(follower: &mut Follower, count: usize) -> Vec<Update> {
    let mut updates = Vec::with_capacity(count);
    while updates.len() < count {
        updates.push(next(follower).await);
    }
    updates
}

/// All updates up to this one of the coverage, which must be the last of its key. Checks their order.
async fn updates_to(follower: &mut Follower, from: Sequence, to: Sequence) -> Vec<Update> {
    let mut updates: Vec<Update> = Vec::new();
    let mut last = from;
    while last < to {
        for followed in within("a batch of updates", follower.next_batch()).await {
            let Followed::Update(update) = followed else { panic!("the follower ended: {followed:?}") };
            assert!(update.sequence > last, "{update:?} came after sequence {last:?}");
            last = update.sequence;
            updates.push(update);
        }
    }
    updates
}
