//! Requests to JetStream and its answers, as far as keyvalue needs them. It knows subjects and bytes, no keys.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::{Client, HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::plugins::keyvalue::KeyValueError;

/// Of one attempt: a hook has a deadline of seconds, and reads and conditional writes are attempted again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Of a count or a listing, which take the server some milliseconds for 10,000 keys.
const LISTING_TIMEOUT: Duration = Duration::from_secs(5);
/// Says whose write a message is.
const WRITE: &str = "Presence-Write";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

const WRONG_LAST_SEQUENCE: [u64; 2] = [10_071, 10_164];
const NO_MESSAGE_FOUND: u64 = 10_037;
const STREAM_NOT_FOUND: u64 = 10_059;
const STREAM_NAME_IN_USE: u64 = 10_058;
/// The stream, the account or the server is full.
const FULL: [u64; 5] = [10_077, 10_023, 10_028, 10_047, 10_052];

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The last write of the subject was another one than expected.
    Conflict,
    /// There is nothing.
    Nothing,
    /// There is no stream, or nobody leads it.
    NoStream(String),
    /// A stream of that name, made otherwise.
    Exists(String),
    /// It may have had an effect.
    Unclear(String),
    /// No effect.
    Full(String),
    /// No effect.
    Other(String),
}

impl From<Failure> for KeyValueError {
    fn from(failure: Failure) -> KeyValueError {
        match failure {
            Failure::Full(why) => KeyValueError::TooLarge(format!("keyvalue is full: {why}")),
            Failure::Conflict => KeyValueError::Unavailable("another writer was first".to_owned()),
            Failure::Nothing => KeyValueError::Unavailable("there is no such message".to_owned()),
            Failure::NoStream(why) | Failure::Exists(why) | Failure::Unclear(why) | Failure::Other(why) => {
                KeyValueError::Unavailable(why)
            }
        }
    }
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        let text = format!("{} (JetStream error {})", error.description, error.err_code);
        match error.err_code {
            code if WRONG_LAST_SEQUENCE.contains(&code) => Failure::Conflict,
            NO_MESSAGE_FOUND => Failure::Nothing,
            STREAM_NOT_FOUND => Failure::NoStream(text),
            STREAM_NAME_IN_USE => Failure::Exists(text),
            code if FULL.contains(&code) => Failure::Full(text),
            _ => Failure::Other(text),
        }
    }
}

/// A message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) sequence: u64,
    pub(super) value: Vec<u8>,
    /// The number of its write.
    pub(super) write: Option<String>,
}

/// What is known of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Info {
    pub(super) config: Value,
    state: InfoState,
    #[serde(default)]
    total: u64,
}

#[derive(Debug, Deserialize)]
struct InfoState {
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

/// One stream, asked through its leader.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    stream: String,
}

impl Api {
    pub(super) fn new(client: Client, stream: String) -> Api {
        Api { client, stream }
    }

    async fn request<T: DeserializeOwned>(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Vec<u8>,
        timeout: Duration,
    ) -> Result<T, Failure> {
        if self.client.connection_state() != State::Connected {
            // What waits for a connection might be sent long after the call that wanted it.
            return Err(Failure::Other("the connection to NATS is down".to_owned()));
        }
        let request = Request::new().payload(payload.into()).headers(headers).timeout(Some(timeout));
        let message =
            self.client.send_request(subject, request).await.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => Failure::NoStream("nobody leads the stream now".to_owned()),
                RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                    Failure::Other(error.to_string())
                }
                _ => Failure::Unclear(format!("NATS does not answer: {error}")),
            })?;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(Failure::NoStream("nobody leads the stream now".to_owned()));
        }
        let unknown =
            |error: serde_json::Error| Failure::Unclear(format!("NATS answers unheard of: {error}"));
        let mut answer: Value = serde_json::from_slice(&message.payload).map_err(unknown)?;
        match answer.get_mut("error").map(Value::take) {
            Some(error) => Err(serde_json::from_value::<ApiError>(error).map_err(unknown)?.into()),
            None => serde_json::from_value(answer).map_err(unknown),
        }
    }

    async fn call<T: DeserializeOwned>(&self, verb: &str, body: Value) -> Result<T, Failure> {
        let subject = format!("$JS.API.{verb}.{}", self.stream);
        let timeout = if verb == "STREAM.INFO" { LISTING_TIMEOUT } else { ANSWER_TIMEOUT };
        self.request(subject, HeaderMap::new(), body.to_string().into_bytes(), timeout).await
    }

    /// Writes a message; returns its sequence. `expected` is the sequence of the last one of the subject, 0 for none.
    pub(super) async fn publish(
        &self,
        subject: &str,
        expected: Option<u64>,
        write: &str,
        value: &[u8],
    ) -> Result<u64, Failure> {
        #[derive(Deserialize)]
        struct Ack {
            seq: u64,
        }
        let mut headers = HeaderMap::new();
        headers.insert(WRITE, write);
        if let Some(expected) = expected {
            headers.insert(EXPECTED, expected.to_string().as_str());
        }
        let ack: Ack = self.request(subject.to_owned(), headers, value.to_vec(), ANSWER_TIMEOUT).await?;
        Ok(ack.seq)
    }

    /// The last message of a subject.
    pub(super) async fn last(&self, subject: &str) -> Result<Message, Failure> {
        #[derive(Deserialize)]
        struct Got {
            message: Stored,
        }
        #[derive(Deserialize)]
        struct Stored {
            seq: u64,
            #[serde(default)]
            hdrs: String,
            #[serde(default)]
            data: String,
        }
        let Got { message } = self.call("STREAM.MSG.GET", json!({ "last_by_subj": subject })).await?;
        let damaged = || Failure::Other("NATS gave a message that is not base64".to_owned());
        let value = STANDARD.decode(message.data).map_err(|_| damaged())?;
        let headers = STANDARD.decode(message.hdrs).map_err(|_| damaged())?;
        let write = String::from_utf8_lossy(&headers).lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == WRITE).then(|| value.trim().to_owned())
        });
        Ok(Message { sequence: message.seq, value, write })
    }

    /// Removes all messages of a subject.
    pub(super) async fn purge(&self, subject: &str) -> Result<(), Failure> {
        self.call::<Value>("STREAM.PURGE", json!({ "filter": subject })).await.map(drop)
    }

    /// What is known of the stream.
    pub(super) async fn info(&self) -> Result<Info, Failure> {
        self.call("STREAM.INFO", json!({})).await
    }

    /// Creates the stream.
    pub(super) async fn create(&self, config: &Value) -> Result<Info, Failure> {
        self.call("STREAM.CREATE", config.clone()).await
    }

    /// How many subjects match.
    pub(super) async fn count(&self, filter: &str) -> Result<usize, Failure> {
        // No page is so far away: the answer has the total alone.
        let body = json!({ "subjects_filter": filter, "offset": 1_u32 << 30 });
        let info: Info = self.call("STREAM.INFO", body).await?;
        Ok(usize::try_from(info.total).unwrap_or(usize::MAX))
    }

    /// The subjects that match, in no order; at most `limit` and a page.
    pub(super) async fn subjects(&self, filter: &str, limit: usize) -> Result<Vec<String>, Failure> {
        let mut subjects = Vec::new();
        loop {
            let body = json!({ "subjects_filter": filter, "offset": subjects.len() });
            let info: Info = self.call("STREAM.INFO", body).await?;
            let page = info.state.subjects.unwrap_or_default();
            let done = page.is_empty();
            subjects.extend(page.into_keys());
            if done || subjects.len() as u64 >= info.total || subjects.len() >= limit {
                return Ok(subjects);
            }
        }
    }
}
