//! A store for the plugin alone, for what must outlive a guest. A bucket needs a grant: `keyvalue = ["name"]`.
//!
//! Keys: at most 512 bytes; values: at most 64 KiB. Every write of a key gives it a new version.

use std::time::Duration;

use crate::HookError;

/// Why an operation had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No grant for this bucket, or the value can't be used so; says what to do.
    Denied(String),
    /// A key, a value or the bucket is too large.
    TooLarge(String),
    /// Works later.
    Unavailable(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Denied(message) => write!(f, "denied: {message}"),
            Error::TooLarge(message) => write!(f, "too large: {message}"),
            Error::Unavailable(message) => write!(f, "unavailable: {message}"),
        }
    }
}

impl std::error::Error for Error {}

/// In a hook, `?` makes another attempt of it: a missing grant is mended in presence.toml, and nothing is lost.
impl From<Error> for HookError {
    fn from(error: Error) -> HookError {
        match error {
            Error::Denied(_) => HookError::retry_after(format!("keyvalue {error}"), Duration::from_secs(5)),
            _ => HookError::retry(format!("keyvalue {error}")),
        }
    }
}

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The bytes.
    pub value: Vec<u8>,
    /// For [`compare_and_set`].
    pub version: u64,
}

/// Reads a key; none if it is absent.
pub fn get(bucket: &str, key: &str) -> Result<Option<Entry>, Error> {
    backend::get(bucket, key)
}

/// Writes a key; returns the new version.
pub fn set(bucket: &str, key: &str, value: &[u8]) -> Result<u64, Error> {
    backend::set(bucket, key, value)
}

/// Writes a key if its version is still `expected` (none: if it is absent). Returns the new version, or none when
/// another writer was first.
pub fn compare_and_set(
    bucket: &str,
    key: &str,
    expected: Option<u64>,
    value: &[u8],
) -> Result<Option<u64>, Error> {
    backend::compare_and_set(bucket, key, expected, value)
}

/// Adds to a counter, whose value is decimal text; an absent one counts from 0. Returns the sum.
pub fn increment(bucket: &str, key: &str, delta: i64) -> Result<i64, Error> {
    backend::increment(bucket, key, delta)
}

/// Removes a key; removing an absent one is a success.
pub fn delete(bucket: &str, key: &str) -> Result<(), Error> {
    backend::delete(bucket, key)
}

/// The keys with this prefix, sorted, read page by page. Keys written meanwhile may be missed.
pub fn keys(bucket: &str, prefix: &str) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let (keys, next) = backend::keys(bucket, prefix, after.as_deref())?;
        all.extend(keys);
        match next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}

/// Reads, changes and writes a key until no other writer was in between. `change` gets the present value and
/// returns the new one, or none to leave it; it may be called more than once.
pub fn update(
    bucket: &str,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
) -> Result<(), Error> {
    loop {
        let entry = get(bucket, key)?;
        let Some(value) = change(entry.as_ref().map(|entry| entry.value.as_slice())) else { return Ok(()) };
        if compare_and_set(bucket, key, entry.map(|entry| entry.version), &value)?.is_some() {
            return Ok(());
        }
    }
}

#[cfg(not(target_family = "wasm"))]
use crate::testing::keyvalue as backend;

#[cfg(target_family = "wasm")]
mod backend {
    use super::{Entry, Error};
    use crate::bindings::contract::presence::plugin::keyvalue as host;

    impl From<host::Error> for Error {
        fn from(error: host::Error) -> Error {
            match error {
                host::Error::Denied(message) => Error::Denied(message),
                host::Error::TooLarge(message) => Error::TooLarge(message),
                host::Error::Unavailable(message) => Error::Unavailable(message),
            }
        }
    }

    pub(super) fn get(bucket: &str, key: &str) -> Result<Option<Entry>, Error> {
        let entry = host::get(bucket, key)?;
        Ok(entry.map(|entry| Entry { value: entry.value, version: entry.version }))
    }

    pub(super) fn set(bucket: &str, key: &str, value: &[u8]) -> Result<u64, Error> {
        Ok(host::set(bucket, key, value)?)
    }

    pub(super) fn compare_and_set(
        bucket: &str,
        key: &str,
        expected: Option<u64>,
        value: &[u8],
    ) -> Result<Option<u64>, Error> {
        Ok(host::compare_and_set(bucket, key, expected, value)?)
    }

    pub(super) fn increment(bucket: &str, key: &str, delta: i64) -> Result<i64, Error> {
        Ok(host::increment(bucket, key, delta)?)
    }

    pub(super) fn delete(bucket: &str, key: &str) -> Result<(), Error> {
        Ok(host::delete(bucket, key)?)
    }

    pub(super) fn keys(
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let page = host::keys(bucket, prefix, after)?;
        Ok((page.keys, page.next))
    }
}
