//! Buckets in memory that write down what is asked of them. The rules are those of the memory store.

use std::sync::Arc;

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::tape::{Tape, text_of, words};
use crate::plugins::keyvalue::memory::MemoryKeyValue;
use crate::plugins::keyvalue::{Answer, Bucket, Entry, KeyValue, KeyValueError, Page};

/// The buckets of one local run.
pub(super) struct TapedKeyValue {
    inner: Arc<MemoryKeyValue>,
    tape: Arc<Tape>,
}

impl TapedKeyValue {
    pub(super) fn new(inner: Arc<MemoryKeyValue>, tape: Arc<Tape>) -> TapedKeyValue {
        TapedKeyValue { inner, tape }
    }

    /// Writes a call down with its answer, told by `shown`.
    async fn taped<T>(
        &self,
        name: &'static str,
        arguments: &[&str],
        call: Answer<'_, T>,
        shown: impl FnOnce(&T) -> String,
    ) -> Result<T, KeyValueError> {
        let ended = call.await;
        let answer = match &ended {
            Ok(value) => shown(value),
            Err(KeyValueError::Denied(message)) => format!("denied: {message}"),
            Err(KeyValueError::TooLarge(message)) => format!("too-large: {message}"),
            Err(KeyValueError::Unavailable(message)) => format!("unavailable: {message}"),
        };
        let details: Value = json!({ "arguments": arguments, "answer": answer });
        self.tape.call(name, words(arguments.iter().copied()), answer, details);
        ended
    }
}

fn ok<T>(_: &T) -> String {
    "ok".to_owned()
}

impl KeyValue for TapedKeyValue {
    fn get<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, Option<Entry>> {
        let shown = |found: &Option<Entry>| match found {
            Some(entry) => words([text_of(&entry.value).as_str()]),
            None => "nothing".to_owned(),
        };
        async move {
            self.taped("keyvalue get", &[bucket.bucket, key], self.inner.get(bucket, key), shown).await
        }
        .boxed()
    }

    fn set<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, value: Vec<u8>) -> Answer<'a, u64> {
        async move {
            let text = text_of(&value);
            let arguments = [bucket.bucket, key, &text];
            self.taped("keyvalue set", &arguments, self.inner.set(bucket, key, value), ok).await
        }
        .boxed()
    }

    fn compare_and_set<'a>(
        &'a self,
        bucket: Bucket<'a>,
        key: &'a str,
        expected: Option<u64>,
        value: Vec<u8>,
    ) -> Answer<'a, Option<u64>> {
        async move {
            let text = text_of(&value);
            let expectation = expected.map_or("absent".to_owned(), |version| format!("version={version}"));
            let arguments = [bucket.bucket, key, &expectation, &text];
            let call = self.inner.compare_and_set(bucket, key, expected, value);
            let shown = |written: &Option<u64>| if written.is_some() { "ok" } else { "lost" }.to_owned();
            self.taped("keyvalue compare-and-set", &arguments, call, shown).await
        }
        .boxed()
    }

    fn increment<'a>(&'a self, bucket: Bucket<'a>, key: &'a str, delta: i64) -> Answer<'a, i64> {
        async move {
            let by = delta.to_string();
            let call = self.inner.increment(bucket, key, delta);
            self.taped("keyvalue increment", &[bucket.bucket, key, &by], call, i64::to_string).await
        }
        .boxed()
    }

    fn delete<'a>(&'a self, bucket: Bucket<'a>, key: &'a str) -> Answer<'a, ()> {
        async move {
            self.taped("keyvalue delete", &[bucket.bucket, key], self.inner.delete(bucket, key), ok).await
        }
        .boxed()
    }

    fn keys<'a>(&'a self, bucket: Bucket<'a>, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        async move {
            let arguments: Vec<&str> = [bucket.bucket, prefix].into_iter().chain(after).collect();
            let call = self.inner.keys(bucket, prefix, after);
            let shown = |page: &Page| words(page.keys.iter().map(String::as_str));
            self.taped("keyvalue keys", &arguments, call, shown).await
        }
        .boxed()
    }
}
