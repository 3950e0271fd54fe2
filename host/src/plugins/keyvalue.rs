//! The lasting state of plugins: buckets of keys, private to each plugin, the same for all its guests. Knows
//! neither WebAssembly nor grants.

use futures_util::future::BoxFuture;

pub mod conformance;
pub mod file;
pub mod host;
pub mod memory;
pub mod nats;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The largest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 << 10;
/// So many keys a bucket holds.
pub const MAX_KEYS: usize = 100_000;
/// So many bytes of keys and values a bucket holds, where the host itself keeps it.
pub const MAX_BUCKET_BYTES: usize = 64 << 20;
/// So many keys [`KeyValue::keys`] returns at once.
pub const PAGE_KEYS: usize = 1000;

/// Which bucket of which plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket<'a> {
    /// The plugin's name.
    pub plugin: &'a str,
    /// The bucket's name.
    pub bucket: &'a str,
}

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whatever the plugin wrote.
    pub value: Vec<u8>,
    /// Changes with every write of the key, and never comes back, also not after a deletion.
    pub version: u64,
}

/// Some keys, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most [`PAGE_KEYS`].
    pub keys: Vec<String>,
    /// Given when there may be more: the `after` of the next page.
    pub next: Option<String>,
}

/// Why nothing was read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// It will not work the next time either.
    #[error("{0}")]
    Denied(String),
    /// A limit.
    #[error("{0}")]
    TooLarge(String),
    /// It may work later.
    #[error("{0}")]
    Unavailable(String),
}

/// An answer.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, KeyValueError>>;

/// Where buckets are kept. Keys and values are within the limits above: the caller has checked.
pub trait KeyValue: Send + Sync + 'static {
    /// Reads a key.
    fn get<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// Writes a key; returns its new version.
    fn set<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, value: Vec<u8>) -> Answer<'a, u64>;

    /// Writes a key if its version is `expected` (none: if it is absent); returns its new version, or none when
    /// another writer was first.
    fn compare_and_set<'a>(
        &'a self,
        bucket: Bucket<'a>,
        key: &'a str,
        expected: Option<u64>,
        value: Vec<u8>,
    ) -> Answer<'a, Option<u64>>;

    /// Adds to a number kept as decimal text (absent: 0) and returns the sum.
    fn increment<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, delta: i64) -> Answer<'a, i64>;

    /// Deletes a key. Deleting what is not there is a success.
    fn delete<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, ()>;

    /// The keys that begin with `prefix` and come after `after`, in order of their bytes.
    fn keys<'a>(&'a self, bucket: Bucket<'a>, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page>;
}

/// The sum of a number kept as decimal text (none: 0) and `delta`.
fn add(key: &str, kept: Option<&[u8]>, delta: i64) -> Result<i64, KeyValueError> {
    let number = match kept {
        None => 0,
        Some(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<i64>().ok())
            .ok_or_else(|| KeyValueError::Denied(format!("the value of {key:?} is not a decimal number")))?,
    };
    number
        .checked_add(delta)
        .ok_or_else(|| KeyValueError::TooLarge(format!("{number} plus {delta} does not fit into 64 bits")))
}

/// What is said of a bucket that holds as many `keys` or `bytes` as it may.
fn bucket_full(limit: u64, what: &str) -> KeyValueError {
    KeyValueError::TooLarge(format!("the bucket is full: it may hold {limit} {what}; delete some keys"))
}
