//! Tells what it hears: POSTs each event to `url`, or appends it to the list under its user in the bucket `bucket`, or
//! both. Where the tests look when they want to know what a plugin was told.
//!
//! A document is `{"hook", "event_id", "attempt", "event"}`. In the bucket, the key is the user (for a cleanup:
//! `cleanup`) and the value a JSON array of the newest documents, at most [`KEPT`] of them.

use presence_plugin::http::Request;
use presence_plugin::keyvalue::Bucket;
use presence_plugin::{Cleanup, Context, HookError, HookResult, Session, SessionDisconnected, StatusChange};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How many documents a key of the bucket holds at most.
pub const KEPT: usize = 100;

/// `config` in presence.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to POST.
    pub url: Option<String>,
    /// Where to append.
    pub bucket: Option<String>,
}

/// The recorder.
pub struct Recorder {
    config: Config,
}

#[presence_plugin::plugin]
impl Recorder {
    fn configure(config: Config) -> Result<Self, String> {
        Ok(Recorder { config })
    }

    fn session_connected(&self, ctx: &Context, event: &Session) -> HookResult {
        self.record("session-connected", &event.user, ctx, event)
    }

    fn session_disconnected(&self, ctx: &Context, event: &SessionDisconnected) -> HookResult {
        self.record("session-disconnected", &event.session.user, ctx, event)
    }

    fn cleanup(&self, ctx: &Context, event: &Cleanup) -> HookResult {
        self.record("cleanup", "cleanup", ctx, event)
    }

    fn user_online(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.record("user-online", &event.user, ctx, event)
    }

    fn user_idle(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.record("user-idle", &event.user, ctx, event)
    }

    fn user_offline(&self, ctx: &Context, event: &StatusChange) -> HookResult {
        self.record("user-offline", &event.user, ctx, event)
    }
}

impl Recorder {
    fn record(&self, hook: &str, key: &str, ctx: &Context, event: &impl Serialize) -> HookResult {
        let document =
            json!({ "hook": hook, "event_id": ctx.event_id, "attempt": ctx.attempt, "event": event });
        if let Some(bucket) = &self.config.bucket {
            append(&Bucket::new(bucket), key, &document)?;
        }
        match &self.config.url {
            Some(url) => Request::post(url).json(&document).idempotent(ctx).deliver(),
            None => Ok(()),
        }
    }
}

fn append(bucket: &Bucket, key: &str, document: &Value) -> Result<(), HookError> {
    loop {
        let entry = bucket.get(key)?;
        let mut documents: Vec<Value> = match &entry {
            Some(entry) => serde_json::from_slice(&entry.value)
                .map_err(|error| HookError::reject(format!("the value of {key}: {error}")))?,
            None => Vec::new(),
        };
        documents.push(document.clone());
        let surplus = documents.len().saturating_sub(KEPT);
        documents.drain(..surplus);
        let value = Value::Array(documents).to_string();
        if bucket.compare_and_set(key, entry.map(|entry| entry.version), value)?.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use presence_plugin::testing;

    #[test]
    fn appends_and_posts() {
        testing::reset();
        let config = Config { url: Some("http://x/".to_string()), bucket: Some("heard".to_string()) };
        let recorder = Recorder::configure(config).unwrap();
        let scope = presence_plugin::Scope::Everything;
        let event = Cleanup { cause: "fresh-start".to_string(), scope, chunk: 0, last: true };
        for _ in 0..KEPT + 1 {
            recorder.cleanup(&Context::default(), &event).unwrap();
        }
        assert_eq!(testing::requests().len(), KEPT + 1);
        let entry = Bucket::new("heard").get("cleanup").unwrap().unwrap();
        let documents: Vec<Value> = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!(documents.len(), KEPT);
        assert_eq!(documents[0]["event"]["scope"], "everything");
    }
}
