//! Users page by page: in the order of partition, leaf and id, read from the store a leaf at a time. A cursor is the place
//! where the next page begins. It knows no HTTP.
//!
//! A page costs one leaf after the other until it is full: with a million users in 64 partitions of 16 leaves that is a
//! thousand records each. Where few users are, a whole partition is read at once. Nothing of it goes through the driver.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use presence_core::documents::{Document, Key, MetaRecord, StatusRecord};
use presence_core::events::Status;
use presence_core::ids::{LeafId, MAX_USER_ID_BYTES, PartitionId, Sequence, UserId};
use sha2::{Digest, Sha256};

use crate::store::{Coverage, SharedStore, StoreError};

/// A page that is not full by then ends there.
const LONGEST: Duration = Duration::from_secs(1);

/// A leaf with more records than that stands for a deployment that is read leaf by leaf.
const FEW: usize = 64;

const VERSION: u8 = 1;

/// Version, statuses, partition, leaf; then the user; then the check.
const HEAD_BYTES: usize = 6;
const CHECK_BYTES: usize = 8;

/// Some statuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statuses(u8);

impl Statuses {
    pub(super) fn insert(&mut self, status: Status) {
        self.0 |= 1 << status as u8;
    }

    fn contains(self, status: Status) -> bool {
        self.0 & 1 << status as u8 != 0
    }
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    statuses: Statuses,
    partition: PartitionId,
    leaf: LeafId,
    /// The last user that was looked at in this leaf.
    after: Option<UserId>,
}

/// A text that is no cursor of this deployment, or not for this question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadCursor {
    #[error("the cursor is none that this deployment has given out: begin without one")]
    Foreign,
    #[error("the cursor was given out for other values of `status`: repeat those, or begin without one")]
    OtherStatuses,
}

impl Cursor {
    /// The first page.
    pub(super) fn start(statuses: Statuses) -> Cursor {
        Cursor { statuses, partition: PartitionId(0), leaf: LeafId(0), after: None }
    }

    /// As clients get it: opaque, and only good for this deployment.
    pub(super) fn encode(&self, meta: &MetaRecord) -> String {
        let mut bytes = vec![VERSION, self.statuses.0];
        bytes.extend(self.partition.0.to_be_bytes());
        bytes.extend(self.leaf.0.to_be_bytes());
        bytes.extend(self.after.iter().flat_map(|user| user.as_str().bytes()));
        let check = check(&bytes, meta);
        bytes.extend(check);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn decode(text: &str, meta: &MetaRecord, statuses: Statuses) -> Result<Cursor, BadCursor> {
        let most = HEAD_BYTES + MAX_USER_ID_BYTES + CHECK_BYTES;
        if text.len() > most * 4 / 3 + 1 {
            return Err(BadCursor::Foreign);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor::Foreign)?;
        let (body, found) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(BadCursor::Foreign)?;
        let (head, user) = body.split_first_chunk::<HEAD_BYTES>().ok_or(BadCursor::Foreign)?;
        if *found != check(body, meta) || head[0] != VERSION {
            return Err(BadCursor::Foreign);
        }
        if head[1] != statuses.0 {
            return Err(BadCursor::OtherStatuses);
        }
        let partition = PartitionId(u16::from_be_bytes([head[2], head[3]]));
        let leaf = LeafId(u16::from_be_bytes([head[4], head[5]]));
        let after = match std::str::from_utf8(user).map_err(|_| BadCursor::Foreign)? {
            "" => None,
            user => Some(UserId::new(user).map_err(|_| BadCursor::Foreign)?),
        };
        let exists = partition.0 < meta.layout.partitions && leaf.0 < meta.layout.leaves;
        let belongs = after.as_ref().is_none_or(|user| meta.layout.place(user) == (partition, leaf));
        if !exists || !belongs {
            return Err(BadCursor::Foreign);
        }
        Ok(Cursor { statuses, partition, leaf, after })
    }

    /// Whether a user comes after it.
    fn is_before(&self, leaf: LeafId, user: &UserId) -> bool {
        match leaf.cmp(&self.leaf) {
            std::cmp::Ordering::Equal => self.after.as_ref().is_none_or(|after| user > after),
            order => order.is_gt(),
        }
    }

    /// Behind everything of the leaf, or of the partition; none behind the last.
    fn past(&self, whole_partition: bool, meta: &MetaRecord) -> Option<Cursor> {
        let next_leaf = LeafId(self.leaf.0 + 1);
        if !whole_partition && next_leaf.0 < meta.layout.leaves {
            return Some(Cursor { leaf: next_leaf, after: None, ..*self });
        }
        let partition = PartitionId(self.partition.0 + 1);
        (partition.0 < meta.layout.partitions).then_some(Cursor {
            partition,
            leaf: LeafId(0),
            after: None,
            statuses: self.statuses,
        })
    }
}

/// Tells cursors of this deployment from all others, not from those of somebody who wants to deceive: all that could be gained
/// is another place to begin at.
fn check(body: &[u8], meta: &MetaRecord) -> [u8; CHECK_BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(b"presence users cursor");
    hasher.update(meta.epoch.to_be_bytes());
    hasher.update(body);
    let digest = hasher.finalize();
    std::array::from_fn(|at| digest[at])
}

/// A page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) users: Vec<(UserId, StatusRecord)>,
    pub(super) next: Option<Cursor>,
}

/// Reads the next page, of at most `limit` users.
pub(super) async fn page(
    store: &SharedStore,
    meta: &MetaRecord,
    from: Cursor,
    limit: usize,
) -> Result<Page, StoreError> {
    let began = Instant::now();
    let mut users = Vec::new();
    let (mut at, mut whole_partition) = (from, false);
    loop {
        let leaf = (!whole_partition).then_some(at.leaf);
        let snapshot = store.snapshot(Coverage::Records(at.partition, leaf), Sequence(0)).await?;
        let read = snapshot.documents.len();
        for (key, _, document) in snapshot.documents {
            let (Key::User(_, leaf, user), Document::User(record)) = (key, document) else { continue };
            if !at.is_before(leaf, &user) || !at.statuses.contains(record.status) {
                continue;
            }
            if users.len() == limit {
                // There is somebody for the next page.
                let last = users.last().map(|(user, _): &(UserId, _)| user.clone());
                let place = last.as_ref().map(|user| meta.layout.place(user));
                let next = place.map(|(partition, leaf)| Cursor { partition, leaf, after: last, ..at });
                return Ok(Page { users, next });
            }
            users.push((user, record));
        }
        let Some(next) = at.past(whole_partition, meta) else { return Ok(Page { users, next: None }) };
        // A leaf tells what the others are like.
        whole_partition = match leaf {
            Some(_) => read <= FEW,
            None => read <= FEW * usize::from(meta.layout.leaves),
        };
        at = next;
        if began.elapsed() > LONGEST {
            return Ok(Page { users, next: Some(at) });
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use presence_core::documents::{Expect, Layout, Trail};
    use presence_core::time::Timestamp;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Put, Store};

    const META: MetaRecord = MetaRecord { format: 1, layout: Layout { partitions: 4, leaves: 3 }, epoch: 7 };

    fn of(statuses: &[Status]) -> Statuses {
        let mut all = Statuses::default();
        statuses.iter().for_each(|status| all.insert(*status));
        all
    }

    async fn store_with(users: usize) -> SharedStore {
        let store = MemoryStore::new();
        for number in 0..users {
            let user = UserId::new(&format!("user {number}")).unwrap();
            let (partition, leaf) = META.layout.place(&user);
            let status = [Status::Online, Status::Idle, Status::Offline][number % 3];
            let record = StatusRecord {
                status,
                since: Timestamp(1),
                revision: 1,
                last_seen: None,
                sessions: 1,
                generation: 1,
                previous: None,
                trail: Trail::default(),
            };
            let (key, document) = (Key::User(partition, leaf, user), Document::User(record));
            store.put(Put { key, document, expect: Expect::Any, lease: None }).await.unwrap();
        }
        Arc::new(store)
    }

    async fn all(store: &SharedStore, statuses: Statuses, limit: usize) -> Vec<UserId> {
        let (mut found, mut cursor) = (Vec::new(), Some(Cursor::start(statuses)));
        while let Some(from) = cursor {
            let page = page(store, &META, from, limit).await.unwrap();
            assert!(page.users.len() <= limit, "i8");
            assert!(page.users.iter().all(|(_, record)| statuses.contains(record.status)));
            found.extend(page.users.into_iter().map(|(user, _)| user));
            // Through the text, as clients do it.
            cursor = page.next.map(|next| Cursor::decode(&next.encode(&META), &META, statuses).unwrap());
        }
        found
    }

    #[tokio::test]
    async fn every_user_of_the_statuses_is_on_one_page_whatever_its_size() {
        for users in [0, 1, 30, 2000] {
            let store = store_with(users).await;
            for (statuses, per_three) in
                [(of(&[Status::Online]), 1), (of(&[Status::Idle, Status::Online, Status::Offline]), 3)]
            {
                let whole = all(&store, statuses, 5000).await;
                assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), whole.len(), "nobody twice");
                assert!(whole.len().abs_diff(users * per_three / 3) <= 1);
                for limit in [1, 7, 100] {
                    assert_eq!(all(&store, statuses, limit).await, whole, "{users} by {limit}");
                }
            }
        }
    }

    #[test]
    fn cursors_from_elsewhere_are_told_apart() {
        let online = of(&[Status::Online]);
        let user = UserId::new("zoë 🦀").unwrap();
        let (partition, leaf) = META.layout.place(&user);
        let cursor = Cursor { statuses: online, partition, leaf, after: Some(user) };
        let text = cursor.encode(&META);
        assert_eq!(Cursor::decode(&text, &META, online), Ok(cursor.clone()));
        assert_eq!(Cursor::decode(&text, &META, of(&[Status::Idle])), Err(BadCursor::OtherStatuses));
        let recreated = MetaRecord { epoch: 8, ..META };
        assert_eq!(Cursor::decode(&text, &recreated, online), Err(BadCursor::Foreign));
        let mut chars: Vec<char> = text.chars().collect();
        for at in 0..chars.len() {
            let other = if chars[at] == 'A' { 'B' } else { 'A' };
            let kept = std::mem::replace(&mut chars[at], other);
            let changed: String = chars.iter().collect();
            assert!(Cursor::decode(&changed, &META, online).is_err(), "{changed}");
            chars[at] = kept;
        }
        let misplaced = Cursor { leaf: LeafId((leaf.0 + 1) % 3), ..cursor };
        for text in ["", "A", "!", &"A".repeat(10_000), &misplaced.encode(&META), &text[1..]] {
            assert_eq!(Cursor::decode(text, &META, online), Err(BadCursor::Foreign));
        }
    }
}
