//! The import `keyvalue`: checks grants and limits, then asks the store behind it.

use std::sync::Arc;

use super::{Bucket, KeyValue, KeyValueError, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::plugins::bindings::keyvalue::{self, Entry, Error, Page};
use crate::plugins::denials::Denials;
use crate::plugins::grants::line_with_bucket;
use crate::plugins::guest::GuestState;

/// The buckets that one plugin may use.
#[derive(Clone)]
pub struct GrantedBuckets {
    /// Where they are kept.
    pub store: Arc<dyn KeyValue>,
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Names of granted buckets.
    pub granted: Arc<[String]>,
    /// Where denials are told.
    pub denials: Arc<Denials>,
}

impl GrantedBuckets {
    fn check<'a>(&'a self, bucket: &'a str, key: &str, value: &[u8]) -> Result<Bucket<'a>, Error> {
        if !self.granted.iter().any(|granted| granted == bucket) {
            // A name as long as a guest likes must not fill the log.
            let shown: String = bucket.chars().take(64).collect();
            self.denials
                .tell(&format!("the keyvalue bucket {shown:?}"), &line_with_bucket(&self.granted, &shown));
            return Err(Error::Denied(format!("no grant for the bucket {shown:?}")));
        }
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(Error::TooLarge(format!(
                "a key has 1 to {MAX_KEY_BYTES} bytes, this one {}",
                key.len()
            )));
        }
        if value.len() > MAX_VALUE_BYTES {
            let length = value.len();
            return Err(Error::TooLarge(format!(
                "a value has at most {MAX_VALUE_BYTES} bytes, this one {length}"
            )));
        }
        Ok(Bucket { plugin: &self.plugin, bucket })
    }
}

impl From<KeyValueError> for Error {
    fn from(error: KeyValueError) -> Error {
        match error {
            KeyValueError::Denied(message) => Error::Denied(message),
            KeyValueError::TooLarge(message) => Error::TooLarge(message),
            KeyValueError::Unavailable(message) => Error::Unavailable(message),
        }
    }
}

impl keyvalue::Host for GuestState {
    async fn get(&mut self, bucket: String, key: String) -> Result<Option<Entry>, Error> {
        let place = self.buckets.check(&bucket, &key, &[])?;
        let found = self.buckets.store.get(place, &key).await?;
        Ok(found.map(|entry| Entry { value: entry.value, version: entry.version }))
    }

    async fn set(&mut self, bucket: String, key: String, value: Vec<u8>) -> Result<u64, Error> {
        let place = self.buckets.check(&bucket, &key, &value)?;
        Ok(self.buckets.store.set(place, &key, value).await?)
    }

    async fn compare_and_set(
        &mut self,
        bucket: String,
        key: String,
        expected: Option<u64>,
        value: Vec<u8>,
    ) -> Result<Option<u64>, Error> {
        let place = self.buckets.check(&bucket, &key, &value)?;
        Ok(self.buckets.store.compare_and_set(place, &key, expected, value).await?)
    }

    async fn increment(&mut self, bucket: String, key: String, delta: i64) -> Result<i64, Error> {
        let place = self.buckets.check(&bucket, &key, &[])?;
        Ok(self.buckets.store.increment(place, &key, delta).await?)
    }

    async fn delete(&mut self, bucket: String, key: String) -> Result<(), Error> {
        let place = self.buckets.check(&bucket, &key, &[])?;
        Ok(self.buckets.store.delete(place, &key).await?)
    }

    async fn keys(&mut self, bucket: String, prefix: String, after: Option<String>) -> Result<Page, Error> {
        // Any prefix will do, the empty one too: there is no key to check.
        let place = self.buckets.check(&bucket, "-", &[])?;
        let page = self.buckets.store.keys(place, &prefix, after.as_deref()).await?;
        Ok(Page { keys: page.keys, next: page.next })
    }
}
