//! Lasting state: named buckets of keys and values, private to the plugin, shared by all its guests on all hosts.
//!
//! Guests run side by side and may be thrown away between any two calls, so a change that depends on what was there
//! belongs into [`Bucket::compare_and_set`] (or [`Bucket::increment`]), never into a `get` and a `set`. And since
//! every event may come again, a step must be harmless when it is done twice: keep the mark that it was done in the
//! same value as what it did.
//!
//! Each bucket needs a grant in presence.toml: `[plugin.grants] keyvalue = ["name"]`.

use crate::event::HookError;

/// The longest value, in bytes.
pub const MAX_VALUE: usize = 64 * 1024;

/// A value and the version to name in [`Bucket::compare_and_set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// At most [`MAX_VALUE`] bytes.
    pub value: Vec<u8>,
    /// Another one after every write of the key.
    pub version: u64,
}

/// Why a step was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The plugin has no grant for the bucket: presence.toml has to change.
    #[error("keyvalue denied: {0} (the host's log names the line to add to presence.toml)")]
    Denied(String),
    /// The key or the value is longer than the host takes, or the plugin has no room left.
    #[error("keyvalue limit: {0}")]
    TooLarge(String),
    /// The store cannot be reached, or another writer won every time. Whether the step was done is not known.
    #[error("keyvalue unavailable: {0}")]
    Unavailable(String),
}

/// As an answer of a hook. What is denied is tried again, like what is unavailable: the configuration is at fault and
/// not the event, which must not be lost for it. What is too large stays so: rejected.
impl From<Error> for HookError {
    fn from(error: Error) -> HookError {
        match error {
            Error::Denied(_) | Error::Unavailable(_) => HookError::retry(error.to_string()),
            Error::TooLarge(_) => HookError::reject(error.to_string()),
        }
    }
}

/// One bucket. Cheap: holds its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    name: String,
}

impl Bucket {
    /// The bucket of this name. Whether there is a grant shows at the first use.
    pub fn new(name: impl Into<String>) -> Bucket {
        Bucket { name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of a key, if it has one.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        backend::get(&self.name, key)
    }

    /// Writes a value whatever was there. Returns the new version.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<u64, Error> {
        backend::set(&self.name, key, value.as_ref())
    }

    /// Writes a value if the key still has the version `expected` (none: if it has no value). Returns the new version,
    /// or none when another writer won.
    pub fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: impl AsRef<[u8]>,
    ) -> Result<Option<u64>, Error> {
        backend::compare_and_set(&self.name, key, expected, value.as_ref())
    }

    /// Adds to a counter, which is kept as decimal text and is 0 at first. Returns the sum. Done again, it adds again.
    pub fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        backend::increment(&self.name, key, delta)
    }

    /// Deletes a key, if it is there.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        backend::delete(&self.name, key)
    }

    /// All keys that start with `prefix`, sorted, read page by page. A key that is written or deleted meanwhile may
    /// be missing or listed.
    pub fn keys(&self, prefix: impl Into<String>) -> Keys<'_> {
        Keys { bucket: self, prefix: prefix.into(), page: Vec::new().into_iter(), next: None, done: false }
    }

    /// The same, of the keys that come after `after` only: to go on where an earlier call stopped.
    pub fn keys_after(&self, prefix: impl Into<String>, after: impl Into<String>) -> Keys<'_> {
        Keys { next: Some(after.into()), ..self.keys(prefix) }
    }
}

/// The keys of a bucket; see [`Bucket::keys`]. Ends after the first error.
#[derive(Debug)]
pub struct Keys<'a> {
    bucket: &'a Bucket,
    prefix: String,
    page: std::vec::IntoIter<String>,
    next: Option<String>,
    done: bool,
}

impl Iterator for Keys<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Result<String, Error>> {
        loop {
            if let Some(key) = self.page.next() {
                return Some(Ok(key));
            }
            if self.done {
                return None;
            }
            match backend::keys(&self.bucket.name, &self.prefix, self.next.as_deref()) {
                Ok((keys, next)) => {
                    self.page = keys.into_iter();
                    self.done = next.is_none();
                    self.next = next;
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(not(target_family = "wasm"))]
use crate::testing::keyvalue as backend;

#[cfg(target_family = "wasm")]
mod backend {
    use super::{Entry, Error};
    use crate::guest::keyvalue as host;

    fn plain(error: host::Error) -> Error {
        match error {
            host::Error::Denied(text) => Error::Denied(text),
            host::Error::TooLarge(text) => Error::TooLarge(text),
            host::Error::Unavailable(text) => Error::Unavailable(text),
        }
    }

    pub(super) fn get(bucket: &str, key: &str) -> Result<Option<Entry>, Error> {
        let entry = host::get(bucket, key).map_err(plain)?;
        Ok(entry.map(|entry| Entry { value: entry.value, version: entry.version }))
    }

    pub(super) fn set(bucket: &str, key: &str, value: &[u8]) -> Result<u64, Error> {
        host::set(bucket, key, value).map_err(plain)
    }

    pub(super) fn compare_and_set(
        bucket: &str,
        key: &str,
        expected: Option<u64>,
        value: &[u8],
    ) -> Result<Option<u64>, Error> {
        host::compare_and_set(bucket, key, expected, value).map_err(plain)
    }

    pub(super) fn increment(bucket: &str, key: &str, delta: i64) -> Result<i64, Error> {
        host::increment(bucket, key, delta).map_err(plain)
    }

    pub(super) fn delete(bucket: &str, key: &str) -> Result<(), Error> {
        host::delete(bucket, key).map_err(plain)
    }

    pub(super) fn keys(
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let page = host::keys(bucket, prefix, after).map_err(plain)?;
        Ok((page.keys, page.next))
    }
}
