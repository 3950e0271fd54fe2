//! What plugins may ask about users: the recorded statuses, wherever their owner is. Knows neither WebAssembly nor grants.

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use presence_core::documents::{Document, Key, Layout, StatusRecord};
use presence_core::ids::UserId;

use crate::store::SharedStore;

pub mod host;

/// So many users are asked for in one call.
pub const MAX_USERS: usize = 256;
/// So many of them are asked of the store at once.
const AT_ONCE: usize = 32;

/// Why there is no answer: it may work later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StatusesUnavailable(pub String);

/// Records in the order of the question; none for a user nobody knows.
pub type Records = Result<Vec<Option<StatusRecord>>, StatusesUnavailable>;

/// Who knows the statuses.
pub trait Statuses: Send + Sync + 'static {
    /// What is recorded of these users, at most [`MAX_USERS`].
    fn lookup(&self, users: Vec<UserId>) -> BoxFuture<'_, Records>;
}

/// The records in the store: of every partition, whoever owns it.
pub struct StoreStatuses {
    store: SharedStore,
    layout: Layout,
}

impl StoreStatuses {
    /// In this store. `layout` is the deployment's.
    pub fn new(store: SharedStore, layout: Layout) -> StoreStatuses {
        StoreStatuses { store, layout }
    }
}

impl Statuses for StoreStatuses {
    fn lookup(&self, users: Vec<UserId>) -> BoxFuture<'_, Records> {
        let read = |user: UserId| {
            let (partition, leaf) = self.layout.place(&user);
            let reading = self.store.get(Key::User(partition, leaf, user));
            async move {
                match reading.await {
                    Ok(Some((_, Document::User(record)))) => Ok(Some(record)),
                    Ok(_) => Ok(None),
                    Err(error) => Err(StatusesUnavailable(error.to_string())),
                }
            }
        };
        Box::pin(stream::iter(users).map(read).buffered(AT_ONCE).try_collect())
    }
}

/// Knows nobody: where there is no deployment.
pub struct NoStatuses;

impl Statuses for NoStatuses {
    fn lookup(&self, users: Vec<UserId>) -> BoxFuture<'_, Records> {
        Box::pin(std::future::ready(Ok(vec![None; users.len()])))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use presence_core::documents::Expect;
    use presence_core::events::Status;
    use presence_core::time::Timestamp;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Put, Store};

    #[tokio::test]
    async fn records_of_all_partitions_come_in_the_order_of_the_question() {
        let layout = Layout { partitions: 64, leaves: 16 };
        let store = Arc::new(MemoryStore::new());
        let users: Vec<UserId> = (0..100).map(|number| UserId::new(&format!("u{number}")).unwrap()).collect();
        for (revision, user) in (1..).zip(&users) {
            let (partition, leaf) = layout.place(user);
            let record = StatusRecord {
                status: Status::Idle,
                since: Timestamp(1),
                revision,
                last_seen: None,
                sessions: 1,
                generation: 1,
                previous: None,
                trail: Default::default(),
            };
            let key = Key::User(partition, leaf, user.clone());
            let put = Put { key, document: Document::User(record), expect: Expect::Any, lease: None };
            store.put(put).await.unwrap();
        }
        let nobody = UserId::new("nobody").unwrap();
        let asked = [&users[..], &[nobody]].concat();
        let found = StoreStatuses::new(store, layout).lookup(asked).await.unwrap();
        let revisions: Vec<u64> =
            found.iter().map(|record| record.map_or(0, |record| record.revision)).collect();
        assert_eq!(revisions, (1..=100).chain([0]).collect::<Vec<_>>());
    }
}
