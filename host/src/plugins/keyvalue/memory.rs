//! Buckets in this process's memory: gone when it ends.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::ready;

use super::{
    Answer, Bucket, Entry, KeyValue, KeyValueError, MAX_BUCKET_BYTES, MAX_KEYS, PAGE_KEYS, Page, add,
    bucket_full,
};

/// All buckets of all plugins.
#[derive(Default)]
pub struct MemoryKeyValue {
    buckets: Mutex<BTreeMap<String, BTreeMap<String, Contents>>>,
}

#[derive(Default)]
struct Contents {
    keys: BTreeMap<String, Entry>,
    bytes: usize,
    /// Of the newest write; also counts what was deleted since.
    version: u64,
}

impl Contents {
    fn write(&mut self, key: &str, value: Vec<u8>) -> Result<u64, KeyValueError> {
        let old = self.keys.get(key).map(|entry| key.len() + entry.value.len());
        if old.is_none() && self.keys.len() >= MAX_KEYS {
            return Err(bucket_full(MAX_KEYS as u64, "keys"));
        }
        let bytes = self.bytes - old.unwrap_or(0) + key.len() + value.len();
        if bytes > MAX_BUCKET_BYTES {
            return Err(bucket_full(MAX_BUCKET_BYTES as u64, "bytes"));
        }
        self.bytes = bytes;
        self.version += 1;
        self.keys.insert(key.to_owned(), Entry { value, version: self.version });
        Ok(self.version)
    }

    fn add(&mut self, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let sum = add(key, self.keys.get(key).map(|entry| entry.value.as_slice()), delta)?;
        self.write(key, sum.to_string().into_bytes())?;
        Ok(sum)
    }

    fn page(&self, prefix: &str, after: Option<&str>) -> Page {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut keys: Vec<String> = self
            .keys
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .take(PAGE_KEYS + 1)
            .cloned()
            .collect();
        let more = keys.len() > PAGE_KEYS;
        keys.truncate(PAGE_KEYS);
        let next = if more { keys.last().cloned() } else { None };
        Page { keys, next }
    }
}

impl MemoryKeyValue {
    fn with<T>(&self, bucket: Bucket<'_>, act: impl FnOnce(&mut Contents) -> T) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let of_plugin = buckets.entry(bucket.plugin.to_owned()).or_default();
        act(of_plugin.entry(bucket.bucket.to_owned()).or_default())
    }
}

impl KeyValue for MemoryKeyValue {
    fn get<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, Option<Entry>> {
        ready(Ok(self.with(bucket, |contents| contents.keys.get(key).cloned()))).boxed()
    }

    fn set<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, value: Vec<u8>) -> Answer<'a, u64> {
        ready(self.with(bucket, |contents| contents.write(key, value))).boxed()
    }

    fn compare_and_set<'a>(
        &'a self,
        bucket: Bucket<'a>,
        key: &'a str,
        expected: Option<u64>,
        value: Vec<u8>,
    ) -> Answer<'a, Option<u64>> {
        let result = self.with(bucket, |contents| {
            let present = contents.keys.get(key).map(|entry| entry.version);
            if present == expected { contents.write(key, value).map(Some) } else { Ok(None) }
        });
        ready(result).boxed()
    }

    fn increment<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, delta: i64) -> Answer<'a, i64> {
        ready(self.with(bucket, |contents| contents.add(key, delta))).boxed()
    }

    fn delete<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, ()> {
        self.with(bucket, |contents| {
            if let Some(entry) = contents.keys.remove(key) {
                contents.bytes -= key.len() + entry.value.len();
            }
        });
        ready(Ok(())).boxed()
    }

    fn keys<'a>(&'a self, bucket: Bucket<'a>, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        ready(Ok(self.with(bucket, |contents| contents.page(prefix, after)))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugins::keyvalue::conformance::{self, SharedKeyValue};

    const BUCKET: Bucket<'static> = Bucket { plugin: "p", bucket: "b" };

    #[tokio::test]
    async fn it_passes_the_conformance_suite() {
        conformance::run_all(async || Arc::new(MemoryKeyValue::default()) as SharedKeyValue).await;
    }

    #[tokio::test]
    async fn a_bucket_is_bounded_in_keys_and_bytes() {
        let store = MemoryKeyValue::default();
        store.with(BUCKET, |contents| contents.bytes = MAX_BUCKET_BYTES - 10);
        assert!(store.set(BUCKET, "k", vec![0; 9]).await.is_ok());
        assert!(matches!(store.set(BUCKET, "l", vec![0; 9]).await, Err(KeyValueError::TooLarge(_))));
        let other = Bucket { plugin: "p", bucket: "many" };
        for number in 0..MAX_KEYS {
            store.set(other, &number.to_string(), Vec::new()).await.unwrap();
        }
        assert!(matches!(store.set(other, "one more", Vec::new()).await, Err(KeyValueError::TooLarge(_))));
        assert!(store.set(other, "0", b"overwriting is fine".to_vec()).await.is_ok());
    }
}
