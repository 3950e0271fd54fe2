//! What JetStream says: answers, errors and the headers of messages, as this store understands them. Pure.

use async_nats::header::{self, HeaderMap};
use async_nats::{Message, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use presence_core::documents::Change;
use presence_core::ids::Sequence;
use serde::{Deserialize, Serialize};

use super::link::LinkError;
use crate::store::StoreError;

/// `KV-Operation`: tools that read key-value buckets know a deletion by it.
pub(super) const KV_OPERATION: &str = "KV-Operation";

const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// The same, while another write of the subject is under way: it doesn't tell the sequence.
const WRONG_LAST_SEQUENCE_CONSTANT: u64 = 10_164;
const NO_MESSAGE_FOUND: u64 = 10_037;
/// What a removal by sequence is told when somebody else was first, or nothing ever was there.
const SEQUENCE_NOT_FOUND: u64 = 10_043;
const DELETE_FAILED: u64 = 10_057;
pub(super) const STREAM_NOT_FOUND: u64 = 10_059;
/// Full: the text says how.
const STORE_FAILED: u64 = 10_077;
/// Full: what the account or the server may hold.
const RESOURCES: [u64; 4] = [10_023, 10_028, 10_047, 10_052];

/// An error of JetStream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    pub(super) code: u64,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// Why a request was not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The expected sequence was not the last one; that, if it was told.
    Conflict(Option<Sequence>),
    /// There is no such stream, or nobody who leads it.
    NoStream(String),
    /// Anything else.
    Other(StoreError),
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Failure {
        match error {
            LinkError::NoResponders(_) => Failure::NoStream(error.to_string()),
            error => Failure::Other(error.into()),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Conflict(last) => StoreError::Conflict { last: last.unwrap_or_default() },
            Failure::NoStream(why) => StoreError::Unavailable(why),
            Failure::Other(error) => error,
        }
    }
}

impl ApiError {
    /// What it means. Whatever JetStream answers with an error had no effect.
    pub(super) fn failure(self) -> Failure {
        let text = format!("{} (JetStream error {})", self.description, self.err_code);
        match self.err_code {
            WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_CONSTANT => {
                let last = self.description.rsplit(' ').next().and_then(|last| last.parse().ok());
                Failure::Conflict(last.map(Sequence))
            }
            STREAM_NOT_FOUND => Failure::NoStream(text),
            STORE_FAILED => Failure::Other(StoreError::Refused(text)),
            code if RESOURCES.contains(&code) => Failure::Other(StoreError::Refused(text)),
            _ if matches!(self.code, 408 | 429 | 500..=599) => Failure::Other(StoreError::Unavailable(text)),
            _ => Failure::Other(StoreError::Refused(text)),
        }
    }
}

#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    error: Option<ApiError>,
}

/// The sequence of an acknowledged message.
pub(super) fn acknowledged(answer: Result<Message, LinkError>) -> Result<Sequence, Failure> {
    let message = answer?;
    match serde_json::from_slice(&message.payload) {
        Ok(Acknowledgement { error: Some(error), .. }) => Err(error.failure()),
        Ok(Acknowledgement { seq, error: None }) if seq > 0 => Ok(Sequence(seq)),
        Ok(_) | Err(_) => Err(unreadable(&message)),
    }
}

/// The body of an answer of the JetStream API.
pub(super) fn body<T: for<'a> Deserialize<'a>>(message: &Message) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Option<ApiError>,
    }
    let refusal: Refusal = serde_json::from_slice(&message.payload).map_err(|_| unreadable(message))?;
    if let Some(error) = refusal.error {
        return Err(error.failure());
    }
    serde_json::from_slice(&message.payload).map_err(|_| unreadable(message))
}

fn unreadable(message: &Message) -> Failure {
    let text = String::from_utf8_lossy(&message.payload[..message.payload.len().min(200)]).into_owned();
    Failure::Other(StoreError::Unknown(format!("an answer that is not understood: {text}")))
}

/// `STREAM.INFO`, and what `STREAM.CREATE` answers.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StreamInfo {
    /// As stored; see `streams.rs`.
    pub(super) config: serde_json::Map<String, serde_json::Value>,
    /// Tells a recreated stream from the old one.
    pub(super) created: String,
    pub(super) state: StreamState,
    /// The server's clock.
    #[serde(default)]
    pub(super) ts: String,
}

/// Part of a [`StreamInfo`].
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StreamState {
    pub(super) messages: u64,
    pub(super) last_seq: u64,
    /// By subject, if they were asked for.
    #[serde(default)]
    pub(super) subjects: Option<std::collections::BTreeMap<String, u64>>,
}

/// `CONSUMER.INFO`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ConsumerInfo {
    #[serde(default)]
    pub(super) num_pending: u64,
}

/// How a consumer is to be made.
#[derive(Debug, Serialize)]
pub(super) struct ConsumerConfig<'a> {
    pub(super) name: &'a str,
    pub(super) deliver_subject: &'a str,
    pub(super) deliver_policy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) opt_start_seq: Option<u64>,
    pub(super) ack_policy: &'a str,
    pub(super) max_deliver: i64,
    pub(super) mem_storage: bool,
    pub(super) num_replicas: u32,
    /// Nanoseconds, as below.
    pub(super) inactive_threshold: u64,
    pub(super) idle_heartbeat: u64,
    pub(super) flow_control: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(super) filter_subjects: &'a [String],
}

/// A message that was asked for by itself.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) sequence: Sequence,
    pub(super) headers: String,
    pub(super) payload: Vec<u8>,
}

/// `STREAM.MSG.GET`: none if there is no message.
pub(super) fn stored(message: &Message) -> Result<Option<Stored>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<ApiError>,
        message: Option<Raw>,
    }
    #[derive(Deserialize)]
    struct Raw {
        seq: u64,
        #[serde(default)]
        data: String,
        #[serde(default)]
        hdrs: String,
    }
    let answer: Answer = serde_json::from_slice(&message.payload).map_err(|_| unreadable(message))?;
    match (answer.error, answer.message) {
        (Some(error), _) if error.err_code == NO_MESSAGE_FOUND => Ok(None),
        (Some(error), _) => Err(error.failure()),
        (None, Some(raw)) => {
            let decode = |text: &str| BASE64.decode(text).map_err(|_| unreadable(message));
            let headers = String::from_utf8_lossy(&decode(&raw.hdrs)?).into_owned();
            Ok(Some(Stored { sequence: Sequence(raw.seq), headers, payload: decode(&raw.data)? }))
        }
        (None, None) => Err(unreadable(message)),
    }
}

/// `STREAM.MSG.DELETE`: whether this request removed the message; false if there was none.
pub(super) fn removed(message: &Message) -> Result<bool, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<ApiError>,
        #[serde(default)]
        success: bool,
    }
    let answer: Answer = serde_json::from_slice(&message.payload).map_err(|_| unreadable(message))?;
    match answer.error {
        None => Ok(answer.success),
        Some(error) if matches!(error.err_code, NO_MESSAGE_FOUND | SEQUENCE_NOT_FOUND) => Ok(false),
        // The server says the rest in words alone.
        Some(error)
            if error.err_code == DELETE_FAILED
                && ["not found", "no message", "EOF"].iter().any(|part| error.description.contains(part)) =>
        {
            Ok(false)
        }
        Some(error) => Err(error.failure()),
    }
}

impl Stored {
    /// How the document went, if this says that it is gone.
    pub(super) fn removal(&self) -> Option<Change> {
        let value = |wanted: &str| {
            let mut lines = self.headers.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        removal(value("Nats-Marker-Reason"), value(KV_OPERATION))
    }
}

fn removal(reason: Option<&str>, operation: Option<&str>) -> Option<Change> {
    match (reason, operation) {
        (Some("MaxAge"), _) => Some(Change::Expired),
        (Some(_), _) | (None, Some("DEL" | "PURGE")) => Some(Change::Deleted),
        (None, _) => None,
    }
}

/// How the document went, if a message with these headers says that it is gone.
pub(super) fn removal_of(headers: Option<&HeaderMap>) -> Option<Change> {
    let headers = headers?;
    let reason = headers.get(header::NATS_MARKER_REASON).map(|value| value.as_str());
    removal(reason, headers.get(KV_OPERATION).map(|value| value.as_str()))
}

/// A number in a header.
pub(super) fn number(message: &Message, name: header::HeaderName) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}

/// A status without its text.
pub(super) fn status(message: &Message) -> Option<u16> {
    message.status.as_ref().map(StatusCode::as_u16)
}

/// Where a message of a consumer stands, from its reply subject:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<of the consumer>.<time>.<pending>`, or with a domain and an
/// account before the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) sequence: Sequence,
    /// Counts what this consumer delivered, from 1, without gaps.
    pub(super) count: u64,
    pub(super) pending: u64,
}

/// See [`Delivery`]; none for what no consumer delivered.
pub(super) fn delivery(reply: &str) -> Option<Delivery> {
    let mut tokens = reply.split('.');
    if (tokens.next()?, tokens.next()?) != ("$JS", "ACK") {
        return None;
    }
    let rest = tokens.clone().count();
    let before = match rest {
        7 => 3,
        9.. => 5,
        _ => return None,
    };
    let mut numbers = tokens.skip(before);
    let sequence = Sequence(numbers.next()?.parse().ok()?);
    let count = numbers.next()?.parse().ok()?;
    let pending = numbers.nth(1)?.parse().ok()?;
    Some(Delivery { sequence, count, pending })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u64, err_code: u64, description: &str) -> Failure {
        ApiError { code, err_code, description: description.into() }.failure()
    }

    #[test]
    fn errors_are_told_apart() {
        assert_eq!(failure(400, 10_071, "wrong last sequence: 17"), Failure::Conflict(Some(Sequence(17))));
        assert_eq!(failure(400, 10_164, "wrong last sequence"), Failure::Conflict(None));
        assert!(matches!(failure(404, 10_059, "stream not found"), Failure::NoStream(_)));
        let full = failure(503, 10_077, "maximum bytes exceeded");
        assert!(matches!(full, Failure::Other(StoreError::Refused(_))), "{full:?}");
        let busy = failure(503, 10_008, "JetStream system temporarily unavailable");
        assert!(matches!(busy, Failure::Other(StoreError::Unavailable(_))), "{busy:?}");
        let large = failure(400, 10_054, "message size exceeds maximum allowed");
        assert!(matches!(large, Failure::Other(StoreError::Refused(_))), "{large:?}");
    }

    #[test]
    fn places_are_read_from_both_kinds_of_reply_subjects() {
        let expected = Some(Delivery { sequence: Sequence(1112), count: 1111, pending: 1 });
        assert_eq!(delivery("$JS.ACK.T.cx.1.1112.1111.1795576064102903669.1"), expected);
        assert_eq!(delivery("$JS.ACK._.ACC.T.cx.1.1112.1111.1795576064102903669.1"), expected);
        assert_eq!(delivery("$JS.ACK._.ACC.T.cx.1.1112.1111.1795576064102903669.1.random"), expected);
        for other in ["", "_INBOX.a.b", "$JS.FC.T.cx.abc", "$JS.ACK.T.cx.1.2", "$JS.ACK.T.cx.1.x.1.1.1"] {
            assert_eq!(delivery(other), None, "{other}");
        }
    }

    #[test]
    fn removals_are_known_by_their_headers() {
        let stored = |headers: &str| Stored {
            sequence: Sequence(1),
            headers: format!("NATS/1.0\r\n{headers}\r\n\r\n"),
            payload: Vec::new(),
        };
        assert_eq!(stored("Nats-Marker-Reason: MaxAge\r\nNats-TTL: 2m0s").removal(), Some(Change::Expired));
        assert_eq!(stored("Nats-Marker-Reason: Remove").removal(), Some(Change::Deleted));
        assert_eq!(stored("KV-Operation: DEL").removal(), Some(Change::Deleted));
        assert_eq!(stored("Nats-TTL: 6s").removal(), None);
    }
}
