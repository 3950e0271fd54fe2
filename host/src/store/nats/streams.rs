//! The three streams of a deployment: what they are called and made like, creating what is missing, checking what is
//! there, and making them anew when they were taken away. It knows no documents.
//!
//! | stream | subjects below `<prefix>.` | what |
//! |---|---|---|
//! | `<prefix>_sessions` | `s.>` `o.*` `u.>` `d.*` | the bucket of sessions, claims, records, checkpoints |
//! | `<prefix>_instances` | `i.*` `boot` `meta` | the bucket of instances |
//! | `<prefix>_dead_letters` | `dead` | the newest dead letters |

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use presence_core::documents::Bucket;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::api::{self, Failure, StreamInfo};
use super::link::{Lane, Link, Outgoing};
use crate::clock::Clock;
use crate::store::MAX_DEAD_LETTERS;

/// How long a removal is remembered.
pub(super) const MARKER_LIFE: Duration = Duration::from_secs(120);

/// How often a healthy stream is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// And one that seems to be missing.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Bucket(Bucket),
    DeadLetters,
}

/// All of them.
pub(super) const ALL: [Which; 3] =
    [Which::Bucket(Bucket::Sessions), Which::Bucket(Bucket::Instances), Which::DeadLetters];

/// Names below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) prefix: String,
    sessions: String,
    instances: String,
    dead_letters: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Names {
        Names {
            prefix: prefix.to_owned(),
            sessions: format!("{prefix}_sessions"),
            instances: format!("{prefix}_instances"),
            dead_letters: format!("{prefix}_dead_letters"),
        }
    }

    /// The stream's name.
    pub(super) fn stream(&self, which: Which) -> &str {
        match which {
            Which::Bucket(Bucket::Sessions) => &self.sessions,
            Which::Bucket(Bucket::Instances) => &self.instances,
            Which::DeadLetters => &self.dead_letters,
        }
    }

    /// Where dead letters go.
    pub(super) fn dead_letter(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    fn subjects(&self, which: Which) -> Vec<String> {
        let below: &[&str] = match which {
            Which::Bucket(Bucket::Sessions) => &["s.>", "o.*", "u.>", "d.*"],
            Which::Bucket(Bucket::Instances) => &["i.*", "boot", "meta"],
            Which::DeadLetters => &["dead"],
        };
        below.iter().map(|subject| format!("{}.{subject}", self.prefix)).collect()
    }

    /// What the stream must be like, and how it is created.
    fn config(&self, which: Which, replicas: u8) -> Map<String, Value> {
        let common = json!({
            "name": self.stream(which),
            "subjects": self.subjects(which),
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "max_age": 0,
            "allow_direct": true,
        });
        let own = match which {
            Which::Bucket(_) => json!({
                "max_msgs_per_subject": 1,
                "discard": "new",
                "allow_rollup_hdrs": true,
                "allow_msg_ttl": true,
                "subject_delete_marker_ttl": u64::try_from(MARKER_LIFE.as_nanos()).unwrap_or(u64::MAX),
                "allow_atomic": true,
            }),
            Which::DeadLetters => json!({ "max_msgs": MAX_DEAD_LETTERS, "discard": "old" }),
        };
        let fields = [common, own].into_iter().filter_map(|part| match part {
            Value::Object(fields) => Some(fields),
            _ => None,
        });
        fields.flatten().collect()
    }
}

/// A stream that is there is made otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, not {wanted}")]
pub struct Mismatch {
    /// Of the stream's configuration.
    pub field: String,
    /// As JSON.
    pub found: String,
    /// As JSON.
    pub wanted: String,
}

/// What differs between what is there and what is needed. Limits that an operator has set (`max_bytes`, `max_msgs` of a
/// bucket) are the operator's.
fn mismatches(found: &Map<String, Value>, wanted: &Map<String, Value>) -> Vec<Mismatch> {
    let sorted = |value: &Value| match value {
        Value::Array(items) => {
            let mut texts: Vec<String> = items.iter().map(Value::to_string).collect();
            texts.sort_unstable();
            Value::from(texts)
        }
        other => other.clone(),
    };
    let mut differing = Vec::new();
    for (field, wanted) in wanted {
        // Servers leave out what is false or zero.
        let absent = if wanted.is_boolean() { Value::Bool(false) } else { Value::from(0) };
        let found = found.get(field).unwrap_or(&absent);
        if sorted(found) != sorted(wanted) {
            differing.push(Mismatch {
                field: field.clone(),
                found: found.to_string(),
                wanted: wanted.to_string(),
            });
        }
    }
    for field in ["sealed", "deny_delete", "deny_purge"] {
        if found.get(field) == Some(&Value::Bool(true)) {
            differing.push(Mismatch { field: field.into(), found: "true".into(), wanted: "false".into() });
        }
    }
    differing
}

/// Why a stream can't be used.
#[derive(Debug)]
pub(super) enum Unusable {
    Mismatch(Vec<Mismatch>),
    Failed(Failure),
}

impl From<Failure> for Unusable {
    fn from(failure: Failure) -> Unusable {
        Unusable::Failed(failure)
    }
}

/// The streams, seen from one host.
pub(super) struct Streams {
    pub(super) names: Names,
    pub(super) replicas: u8,
    link: Link,
    /// How long a stream must be missing before it is made anew.
    patience: Duration,
    missing: tokio::sync::Notify,
    created: Mutex<[String; 3]>,
}

impl Streams {
    pub(super) fn new(names: Names, replicas: u8, link: Link, patience: Duration) -> Streams {
        Streams {
            names,
            replicas,
            link,
            patience,
            missing: tokio::sync::Notify::new(),
            created: Mutex::default(),
        }
    }

    /// What the leader says of a stream.
    pub(super) async fn info(&self, which: Which) -> Result<StreamInfo, Failure> {
        self.info_with(which, None).await
    }

    /// The same, with its subjects below this one.
    pub(super) async fn info_with(
        &self,
        which: Which,
        subjects: Option<&str>,
    ) -> Result<StreamInfo, Failure> {
        let body = subjects.map(|filter| json!({ "subjects_filter": filter }).to_string());
        let answer = self.call("STREAM.INFO", self.names.stream(which), body.unwrap_or_default()).await;
        self.noted(answer.and_then(|message| api::body(&message)))
    }

    /// Some of a stream's subjects that match, from this place on; none: there are no more.
    pub(super) async fn subjects_from(
        &self,
        which: Which,
        filter: &str,
        offset: usize,
    ) -> Result<Vec<String>, Failure> {
        let body = json!({ "subjects_filter": filter, "offset": offset }).to_string();
        let answer = self.call("STREAM.INFO", self.names.stream(which), body).await;
        let info: StreamInfo = self.noted(answer.and_then(|message| api::body(&message)))?;
        Ok(info.state.subjects.unwrap_or_default().into_keys().collect())
    }

    /// A request of the JetStream API on a stream.
    pub(super) async fn call(
        &self,
        verb: &str,
        stream: &str,
        body: String,
    ) -> Result<async_nats::Message, Failure> {
        let message = Outgoing {
            subject: format!("$JS.API.{verb}.{stream}").into(),
            headers: async_nats::HeaderMap::new(),
            payload: body.into(),
        };
        Ok(self.link.request(Lane::Urgent, message).await?)
    }

    /// Passes an answer on; if it says that a stream is missing, somebody looks whether it is.
    pub(super) fn noted<T>(&self, answer: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(Failure::NoStream(_)) = &answer {
            self.missing.notify_one();
        }
        answer
    }

    /// Creates the stream if it is missing, and checks what is there.
    pub(super) async fn ensure(&self, which: Which) -> Result<StreamInfo, Unusable> {
        let wanted = self.names.config(which, self.replicas);
        let info = match self.info(which).await {
            Err(Failure::NoStream(_)) => self.create(which, &wanted).await?,
            info => info?,
        };
        let differing = mismatches(&info.config, &wanted);
        if !differing.is_empty() {
            return Err(Unusable::Mismatch(differing));
        }
        self.note_created(which, &info.created);
        Ok(info)
    }

    async fn create(&self, which: Which, wanted: &Map<String, Value>) -> Result<StreamInfo, Failure> {
        let name = self.names.stream(which);
        let mut config = wanted.clone();
        // Sequences never come back, also when a lost stream is made anew: an old expectation can't hold by accident.
        let microseconds = Clock::machine().wall().0.saturating_mul(1000);
        config.insert("first_seq".to_owned(), json!(microseconds));
        let body = Value::Object(config).to_string();
        match self.call("STREAM.CREATE", name, body).await.and_then(|message| api::body(&message)) {
            Ok(info) => {
                tracing::info!(stream = name, replicas = self.replicas, "a stream was created");
                Ok(info)
            }
            // Somebody else may have been first with another shape: that is then the answer.
            Err(error) => self.info(which).await.map_err(|_| error),
        }
    }

    /// Remembers when a stream was created; true if it is another one than before.
    fn note_created(&self, which: Which, created: &str) -> bool {
        let place = ALL.iter().position(|one| *one == which).unwrap_or_default();
        let mut all = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let another = !all[place].is_empty() && all[place] != created;
        all[place] = created.to_owned();
        another
    }

    /// Looks after the streams for ever: makes one anew that was missing without interruption for a whole lease.
    pub(super) async fn tend(self: Arc<Streams>) {
        let mut missing_since: [Option<Instant>; 3] = [None; 3];
        loop {
            let pause = if missing_since.iter().any(Option::is_some) { LOOK_AGAIN } else { LOOK };
            tokio::select! {
                () = self.missing.notified() => tokio::time::sleep(LOOK_AGAIN).await,
                () = tokio::time::sleep(pause) => {}
            }
            for (which, since) in ALL.into_iter().zip(&mut missing_since) {
                *since = self.look(which, *since).await;
            }
        }
    }

    /// Since when the stream is known to be missing.
    async fn look(&self, which: Which, since: Option<Instant>) -> Option<Instant> {
        let name = self.names.stream(which);
        let asked = Instant::now();
        // Not `info`: that would ask to look again.
        let answer = self.call("STREAM.INFO", name, String::new()).await;
        match answer.and_then(|message| api::body::<StreamInfo>(&message)) {
            Ok(info) => {
                if self.note_created(which, &info.created) {
                    tracing::warn!(stream = name, "the stream was recreated by somebody");
                }
                None
            }
            Err(Failure::NoStream(why)) => {
                let since = since.unwrap_or(asked);
                if asked.duration_since(since) < self.patience {
                    tracing::warn!(stream = name, why, "the stream has no leader, or is gone");
                    return Some(since);
                }
                tracing::error!(
                    stream = name,
                    "the stream is gone: it is created anew, and everything asserted again"
                );
                match self.ensure(which).await {
                    Ok(_) => None,
                    Err(error) => {
                        tracing::error!(stream = name, ?error, "the stream could not be created");
                        Some(since)
                    }
                }
            }
            // Nothing is known about it.
            Err(error) => {
                tracing::debug!(stream = name, ?error, "the stream could not be looked at");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSIONS: Which = Which::Bucket(Bucket::Sessions);

    #[test]
    fn a_stream_as_the_server_tells_it_matches() {
        let wanted = Names::new("presence").config(SESSIONS, 1);
        let mut found = wanted.clone();
        found.insert("max_bytes".into(), json!(1_000_000));
        found.insert("metadata".into(), json!({ "_nats.ver": "2.15.1" }));
        found.insert(
            "subjects".into(),
            json!(["presence.u.>", "presence.s.>", "presence.d.*", "presence.o.*"]),
        );
        found.remove("max_age");
        assert_eq!(mismatches(&found, &wanted), []);
    }

    #[test]
    fn every_difference_is_named() {
        let wanted = Names::new("presence").config(SESSIONS, 3);
        let mut found = wanted.clone();
        found.insert("storage".into(), json!("memory"));
        found.insert("num_replicas".into(), json!(1));
        found.insert("deny_purge".into(), json!(true));
        found.remove("allow_atomic");
        let texts: Vec<String> = mismatches(&found, &wanted).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "allow_atomic is false, not true",
                "num_replicas is 1, not 3",
                "storage is \"memory\", not \"file\"",
                "deny_purge is true, not false"
            ]
        );
    }
}
