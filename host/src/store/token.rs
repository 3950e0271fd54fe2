//! Keys and documents as stores of subjects and bytes need them: a user id as one token, a key as a subject, a
//! document as JSON. All of it is part of the storage format. It knows no connection.
//!
//! ```text
//! s.<partition>.<leaf>.<user>.<instance>   o.<partition>   u.<partition>.<leaf>.<user>   d.<partition>
//! i.<instance>                             boot            meta
//! u.<partition>.<leaf>.<user>.message
//! ```
//!
//! The custom message lies below the user's record because streams that are there are never changed: theirs take
//! everything below `u`. A version that does not know of it logs that it passes it over.

use std::fmt::{Display, Write as _};
use std::str::FromStr;

use presence_core::documents::{Document, Key};
use presence_core::ids::{InstanceId, InvalidUserId, LeafId, MAX_USER_ID_BYTES, PartitionId, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::traces::{SpanContext, Traceparent};

/// The last token of a custom message's subject.
const MESSAGE: &str = "message";

/// The longest token of a user id, in characters.
pub const MAX_TOKEN: usize = MAX_USER_ID_BYTES * 3;

/// Why a text is no token that [`encode_user`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// More than [`MAX_TOKEN`].
    #[error("a user's token has at most {MAX_TOKEN} characters")]
    TooLong,
    /// A character that is always written as `=XX`.
    #[error("`{}` at byte {at} of a user's token should be written as `={byte:02X}`", byte.escape_ascii())]
    Unescaped {
        /// The byte.
        byte: u8,
        /// Where it is.
        at: usize,
    },
    /// `=` without two digits of 0-9 and A-F, or before a character that needs no escape.
    #[error("the `=` at byte {at} of a user's token is not followed by two digits that need to be there")]
    Escape {
        /// Where it is.
        at: usize,
    },
    /// The bytes are no UTF-8.
    #[error("a user's token does not stand for UTF-8")]
    NotUtf8,
    /// The text is no user id.
    #[error("a user's token does not stand for a user id")]
    User(#[source] InvalidUserId),
}

/// A subject that stands for no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// It belongs to something else.
    #[error("the subject `{subject}` does not start with `{prefix}.`")]
    Prefix {
        /// The whole subject.
        subject: String,
        /// What was expected.
        prefix: String,
    },
    /// No key is written like this.
    #[error("the subject `{subject}` is none that Presence writes")]
    Shape {
        /// The whole subject.
        subject: String,
    },
    /// The shape is right, the token of the user is not.
    #[error("the subject `{subject}` names no user")]
    User {
        /// The whole subject.
        subject: String,
        /// Why.
        #[source]
        source: InvalidToken,
    },
}

/// A document that can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// A key holds documents of one kind only.
    #[error("the document is not of the kind that `{subject}` holds")]
    Kind {
        /// The key.
        subject: String,
    },
    /// JSON, or what it says, is not as expected.
    #[error("the document under `{subject}` is not one that this version of Presence knows")]
    Json {
        /// The key.
        subject: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// A user id as one subject token: letters, digits, `_` and `-` stay, every other byte becomes `=XX`. At most
/// [`MAX_TOKEN`] characters, and no two ids share one.
pub fn encode_user(user: &UserId) -> String {
    let text = user.as_str();
    let mut token = String::with_capacity(text.len() + 16);
    push_user(&mut token, text);
    token
}

fn push_user(token: &mut String, user: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in user.bytes() {
        if is_plain(byte) {
            token.push(char::from(byte));
        } else {
            token.push('=');
            token.push(char::from(DIGITS[usize::from(byte >> 4)]));
            token.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// The user id of a token. Only what [`encode_user`] makes is accepted, so that no user has two tokens either.
pub fn decode_user(token: &str) -> Result<UserId, InvalidToken> {
    if token.len() > MAX_TOKEN {
        return Err(InvalidToken::TooLong);
    }
    let token = token.as_bytes();
    let mut text = Vec::with_capacity(token.len());
    let mut at = 0;
    while let Some(&byte) = token.get(at) {
        if is_plain(byte) {
            text.push(byte);
            at += 1;
        } else if byte == b'=' {
            let digits = token.get(at + 1..at + 3).ok_or(InvalidToken::Escape { at })?;
            let value = hex(digits[0]).zip(hex(digits[1])).map(|(high, low)| high << 4 | low);
            text.push(value.filter(|value| !is_plain(*value)).ok_or(InvalidToken::Escape { at })?);
            at += 3;
        } else {
            return Err(InvalidToken::Unescaped { byte, at });
        }
    }
    let text = String::from_utf8(text).map_err(|_| InvalidToken::NotUtf8)?;
    UserId::new(&text).map_err(InvalidToken::User)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The subject of a key: after the prefix and a dot, or alone when the prefix is empty.
pub fn subject(key: &Key, prefix: &str) -> String {
    let mut subject = String::with_capacity(prefix.len() + 80);
    subject.push_str(prefix);
    if !prefix.is_empty() {
        subject.push('.');
    }
    let numbers = |subject: &mut String, kind: char, partition: &PartitionId, leaf: &LeafId| {
        let _ = write!(subject, "{kind}.{}.{}.", partition.0, leaf.0);
    };
    // Writing into a string can't fail.
    let _ = match key {
        Key::Sessions(partition, leaf, user, instance) => {
            numbers(&mut subject, 's', partition, leaf);
            push_user(&mut subject, user.as_str());
            write!(subject, ".{instance}")
        }
        Key::User(partition, leaf, user) => {
            numbers(&mut subject, 'u', partition, leaf);
            push_user(&mut subject, user.as_str());
            Ok(())
        }
        Key::Message(partition, leaf, user) => {
            numbers(&mut subject, 'u', partition, leaf);
            push_user(&mut subject, user.as_str());
            write!(subject, ".{MESSAGE}")
        }
        Key::Owner(partition) => write!(subject, "o.{partition}"),
        Key::Checkpoint(partition) => write!(subject, "d.{partition}"),
        Key::Instance(instance) => write!(subject, "i.{instance}"),
        Key::Boot => write!(subject, "boot"),
        Key::Meta => write!(subject, "meta"),
    };
    subject
}

/// The key of a subject. Only what [`subject`] makes is accepted.
pub fn parse_subject(subject: &str, prefix: &str) -> Result<Key, InvalidSubject> {
    let rest = if prefix.is_empty() {
        Some(subject)
    } else {
        subject.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'))
    };
    let Some(rest) = rest else {
        return Err(InvalidSubject::Prefix { subject: subject.into(), prefix: prefix.into() });
    };
    let shape = || InvalidSubject::Shape { subject: subject.into() };
    let user = |token: &str| {
        decode_user(token).map_err(|source| InvalidSubject::User { subject: subject.into(), source })
    };
    let partition = |text: &str| exact(text).map(PartitionId).ok_or_else(shape);
    let leaf = |text: &str| exact(text).map(LeafId).ok_or_else(shape);
    let instance = |text: &str| exact::<InstanceId>(text).ok_or_else(shape);

    // No key has more than five tokens: a longer subject need not be split to its end.
    let tokens: Vec<&str> = rest.splitn(6, '.').collect();
    match tokens[..] {
        ["s", p, l, u, i] => Ok(Key::Sessions(partition(p)?, leaf(l)?, user(u)?, instance(i)?)),
        ["u", p, l, u] => Ok(Key::User(partition(p)?, leaf(l)?, user(u)?)),
        ["u", p, l, u, MESSAGE] => Ok(Key::Message(partition(p)?, leaf(l)?, user(u)?)),
        ["o", p] => Ok(Key::Owner(partition(p)?)),
        ["d", p] => Ok(Key::Checkpoint(partition(p)?)),
        ["i", i] => Ok(Key::Instance(instance(i)?)),
        ["boot"] => Ok(Key::Boot),
        ["meta"] => Ok(Key::Meta),
        _ => Err(shape()),
    }
}

/// Parses what is written in the one usual way: no leading zero, plus sign or capital digit.
fn exact<T: FromStr + Display>(text: &str) -> Option<T> {
    text.parse::<T>().ok().filter(|value| value.to_string() == text)
}

/// True when the document is of the kind that the key holds.
pub fn fits(key: &Key, document: &Document) -> bool {
    matches!(
        (key, document),
        (Key::Sessions(..), Document::Sessions(_))
            | (Key::Owner(_), Document::Owner(_))
            | (Key::User(..), Document::User(_))
            | (Key::Message(..), Document::Message(_))
            | (Key::Checkpoint(_), Document::Checkpoint(_))
            | (Key::Instance(_), Document::Instance(_))
            | (Key::Boot, Document::Boot(_))
            | (Key::Meta, Document::Meta(_))
    )
}

/// A document as the JSON bytes that go under its key.
pub fn encode_document(key: &Key, document: &Document) -> Result<Vec<u8>, InvalidDocument> {
    fn write(key: &Key, document: &impl Serialize) -> Result<Vec<u8>, InvalidDocument> {
        serde_json::to_vec(document)
            .map_err(|source| InvalidDocument::Json { subject: subject(key, ""), source })
    }
    match (key, document) {
        (Key::Sessions(..), Document::Sessions(document)) => write(key, document),
        (Key::Owner(_), Document::Owner(document)) => write(key, document),
        (Key::User(..), Document::User(document)) => write(key, document),
        (Key::Message(..), Document::Message(document)) => write(key, document),
        (Key::Checkpoint(_), Document::Checkpoint(document)) => write(key, document),
        (Key::Instance(_), Document::Instance(document)) => write(key, document),
        (Key::Boot, Document::Boot(document)) => write(key, document),
        (Key::Meta, Document::Meta(document)) => write(key, document),
        _ => Err(InvalidDocument::Kind { subject: subject(key, "") }),
    }
}

/// The document that these bytes say under this key. Fields that a newer version added are ignored.
pub fn decode_document(key: &Key, bytes: &[u8]) -> Result<Document, InvalidDocument> {
    fn read<T: DeserializeOwned>(key: &Key, bytes: &[u8]) -> Result<T, InvalidDocument> {
        serde_json::from_slice(bytes)
            .map_err(|source| InvalidDocument::Json { subject: subject(key, ""), source })
    }
    Ok(match key {
        Key::Sessions(..) => Document::Sessions(read(key, bytes)?),
        Key::Owner(_) => Document::Owner(read(key, bytes)?),
        Key::User(..) => Document::User(read(key, bytes)?),
        Key::Message(..) => Document::Message(read(key, bytes)?),
        Key::Checkpoint(_) => Document::Checkpoint(read(key, bytes)?),
        Key::Instance(_) => Document::Instance(read(key, bytes)?),
        Key::Boot => Document::Boot(read(key, bytes)?),
        Key::Meta => Document::Meta(read(key, bytes)?),
    })
}

/// What is between a document and the `traceparent` that it carries.
const TRACEPARENT: &[u8] = b",\"traceparent\":\"";
/// What is behind that.
const END: &[u8] = b"\"}";
/// The bytes of a `traceparent`.
const TRACEPARENT_BYTES: usize = 55;

/// Adds the trace that a session document goes on with to its bytes: a last field, which readers that know of none
/// ignore.
pub fn add_traceparent(document: &mut Vec<u8>, context: SpanContext) {
    if document.pop().is_some() {
        document.extend_from_slice(TRACEPARENT);
        document.extend_from_slice(context.to_string().as_bytes());
        document.extend_from_slice(END);
    }
}

/// The trace in a session document that [`add_traceparent`] has added. Without one no document ends like that.
pub fn traceparent(document: &[u8]) -> Option<SpanContext> {
    let rest = document.strip_suffix(END)?;
    let (rest, text) = rest.split_at_checked(rest.len().checked_sub(TRACEPARENT_BYTES)?)?;
    let text = std::str::from_utf8(text).ok().filter(|_| rest.ends_with(TRACEPARENT))?;
    Traceparent::parse(text).map(|sent| sent.context)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::error::Error as _;
    use std::sync::Arc;

    use presence_core::documents::{
        BootPhase, BootRecord, CheckpointDocument, Claim, Cleanup, CleanupPhase, Ended, InstanceRecord,
        InstanceState, MetaRecord, Moment, Past, PluginCheckpoint, Reason, SessionDocument, SessionEntry,
        StatusRecord, Trail,
    };
    use presence_core::events::{Attributes, Status};
    use presence_core::ids::{Layout, Sequence, SessionId};
    use presence_core::message::CustomMessage;
    use presence_core::metadata::Metadata;
    use presence_core::time::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const INSTANCE: InstanceId = InstanceId(0x0192_f0c0_0000_7000_8000_0000_0000_00ab);

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    #[test]
    fn a_trace_in_a_document_is_found_and_changes_nothing_of_it() {
        let key = Key::Sessions(PartitionId(0), LeafId(0), user("alice"), INSTANCE);
        let attributes = Attributes::new(vec![("x".into(), ",\"traceparent\":\"00-1-1-01\"}".into())]);
        let entry = SessionEntry {
            id: SessionId::Hosted(1),
            status: Status::Idle,
            connected_at: Timestamp(1),
            attributes,
            ended: None,
            listed: Default::default(),
        };
        let context = SpanContext { trace: 7, span: 9 };
        for drained_until in [None, Some(Timestamp(5))] {
            let document = SessionDocument { sessions: vec![entry.clone()], drained_until };
            let document = Document::Sessions(Arc::new(document));
            let mut bytes = encode_document(&key, &document).unwrap();
            assert_eq!(traceparent(&bytes), None);
            add_traceparent(&mut bytes, context);
            assert_eq!(traceparent(&bytes), Some(context));
            assert_eq!(decode_document(&key, &bytes).unwrap(), document, "other versions read it as it was");
        }
        assert_eq!((traceparent(b""), traceparent(b"{}"), traceparent(b"\"}")), (None, None, None));
    }

    fn user_ids() -> impl Strategy<Value = UserId> {
        prop_oneof![
            proptest::collection::vec(any::<char>(), 1..64).prop_map(String::from_iter),
            "[a-zA-Z0-9._=*> -]{1,40}",
            "[=0-9A-F]{1,8}",
        ]
        .prop_filter_map("no user id", |text| UserId::new(&text).ok())
    }

    #[test]
    fn tokens_look_like_this() {
        for (id, token) in [
            ("alice", "alice"),
            ("Alice_B-7", "Alice_B-7"),
            ("a.b*c>d e", "a=2Eb=2Ac=3Ed=20e"),
            ("=2E", "=3D2E"),
            ("née", "n=C3=A9e"),
            ("🦀", "=F0=9F=A6=80"),
            ("...", "=2E=2E=2E"),
        ] {
            assert_eq!(encode_user(&user(id)), token);
            assert_eq!(decode_user(token), Ok(user(id)));
        }
    }

    #[test]
    fn the_longest_id_fits() {
        let longest = user(&"🦀".repeat(64));
        let token = encode_user(&longest);
        assert_eq!(token.len(), MAX_TOKEN);
        assert_eq!(decode_user(&token), Ok(longest));
        assert_eq!(decode_user(&format!("{token}a")), Err(InvalidToken::TooLong));
        assert_eq!(decode_user(&"a".repeat(257)), Err(InvalidToken::User(InvalidUserId::TooLong)));
    }

    #[test]
    fn tokens_that_encoding_does_not_make_are_refused() {
        for (token, error) in [
            ("", InvalidToken::User(InvalidUserId::Empty)),
            ("=2E", InvalidToken::User(InvalidUserId::Dots)),
            ("a=00", InvalidToken::User(InvalidUserId::ControlCharacter)),
            ("a.b", InvalidToken::Unescaped { byte: b'.', at: 1 }),
            ("a*", InvalidToken::Unescaped { byte: b'*', at: 1 }),
            ("é", InvalidToken::Unescaped { byte: 0xc3, at: 0 }),
            ("a=2e", InvalidToken::Escape { at: 1 }),
            ("a=61", InvalidToken::Escape { at: 1 }),
            ("a=2", InvalidToken::Escape { at: 1 }),
            ("a=", InvalidToken::Escape { at: 1 }),
            ("=+1", InvalidToken::Escape { at: 0 }),
            ("=FF", InvalidToken::NotUtf8),
        ] {
            assert_eq!(decode_user(token), Err(error), "{token}");
        }
    }

    proptest! {
        #[test]
        fn every_user_has_one_token(id in user_ids()) {
            let token = encode_user(&id);
            prop_assert!(token.bytes().all(|byte| is_plain(byte) || byte == b'='));
            prop_assert!(!token.is_empty() && token.len() <= MAX_TOKEN);
            prop_assert_eq!(decode_user(&token), Ok(id));
        }

        #[test]
        fn every_token_has_one_user(token in prop_oneof!["[a-zA=0-9A-F]{0,24}", "\\PC{0,24}", "(=[0-9A-F]{2}){1,4}"]) {
            if let Ok(id) = decode_user(&token) {
                prop_assert_eq!(encode_user(&id), token);
            }
        }

        #[test]
        fn every_key_has_one_subject(
            id in user_ids(), p in any::<u16>(), l in any::<u16>(), i in any::<u128>(), prefix in "([a-z]{1,5}(\\.[a-z]{1,5})?)?",
        ) {
            for key in keys(id, p, l, i) {
                let text = subject(&key, &prefix);
                prop_assert_eq!(parse_subject(&text, &prefix), Ok(key));
            }
        }

        #[test]
        fn every_subject_has_one_key(text in "([siuod]|boot|meta)(\\.(0|[0-9]{1,5}|[a-z=0-9]{1,4})){0,4}") {
            if let Ok(key) = parse_subject(&text, "") {
                prop_assert_eq!(subject(&key, ""), text);
            }
        }
    }

    fn keys(user: UserId, p: u16, l: u16, i: u128) -> Vec<Key> {
        let (partition, leaf, instance) = (PartitionId(p), LeafId(l), InstanceId(i));
        vec![
            Key::Sessions(partition, leaf, user.clone(), instance),
            Key::Owner(partition),
            Key::User(partition, leaf, user.clone()),
            Key::Message(partition, leaf, user),
            Key::Checkpoint(partition),
            Key::Instance(instance),
            Key::Boot,
            Key::Meta,
        ]
    }

    #[test]
    fn subjects_look_like_this() {
        let subjects: Vec<String> =
            keys(user("a.b"), 7, 15, INSTANCE.0).iter().map(|key| subject(key, "presence")).collect();
        assert_eq!(
            subjects,
            [
                "presence.s.7.15.a=2Eb.0192f0c0-0000-7000-8000-0000000000ab",
                "presence.o.7",
                "presence.u.7.15.a=2Eb",
                "presence.u.7.15.a=2Eb.message",
                "presence.d.7",
                "presence.i.0192f0c0-0000-7000-8000-0000000000ab",
                "presence.boot",
                "presence.meta",
            ]
        );
        assert_eq!(subject(&Key::Boot, ""), "boot");
    }

    #[test]
    fn subjects_of_others_are_refused() {
        for text in [
            "",
            "s",
            "x.1",
            "o.",
            "o.07",
            "o.+7",
            "o.65536",
            "o.7.1",
            "boot.1",
            "s.1.2.alice",
            "u.1.2.alice.messages",
            "u.1.2.alice.message.more",
            "meta.",
            "s.1.2.alice.0192F0C0-0000-7000-8000-0000000000ab",
            "s.1.2.alice.0192f0c0-0000-7000-8000-0000000000ab.more",
        ] {
            assert_eq!(
                parse_subject(text, ""),
                Err(InvalidSubject::Shape { subject: text.into() }),
                "{text}"
            );
        }
        assert_eq!(
            parse_subject("presence2.boot", "presence").unwrap_err().to_string(),
            "the subject `presence2.boot` does not start with `presence.`"
        );
        let error = parse_subject("u.1.2.a=2e", "").unwrap_err();
        assert_eq!(error.to_string(), "the subject `u.1.2.a=2e` names no user");
        assert_eq!(
            error.source().unwrap().to_string(),
            "the `=` at byte 1 of a user's token is not followed by two digits that need to be there"
        );
    }

    fn moment(at: u64) -> Moment {
        let (since, revision) = (Timestamp(at), Some(at));
        Moment { status: Status::Online, since, revision, reason: Reason::Connected }
    }

    fn documents() -> Vec<Document> {
        let entry = SessionEntry {
            id: SessionId::Hosted(INSTANCE.0),
            status: Status::Idle,
            connected_at: Timestamp(5),
            attributes: Attributes::new(vec![("user-agent".into(), "ünït \"test\"".into())]),
            ended: Some(Ended { at: Timestamp(9), reason: "closed".into() }),
            listed: Default::default(),
        };
        let held = SessionEntry { id: SessionId::Held("chat/1".into()), ended: None, ..entry.clone() };
        let sessions =
            SessionDocument { sessions: vec![entry, held], drained_until: Some(Timestamp(u64::MAX)) };
        let status = StatusRecord {
            status: Status::Offline,
            since: Timestamp(1),
            revision: u64::MAX,
            last_seen: Some(Timestamp(2)),
            sessions: 0,
            generation: 3,
            previous: Some(Status::Idle),
            trail: Trail { reason: Reason::Timeout, past: Past::NONE.and(moment(3)).and(moment(4)) },
        };
        let webhook = PluginCheckpoint {
            up_to: Sequence(8),
            except: vec![user("a b")],
            absent_since: Some(Timestamp(4)),
        };
        let plugins =
            BTreeMap::from([("webhook".to_owned(), webhook), ("other".to_owned(), Default::default())]);
        let cleanup = Cleanup {
            phase: CleanupPhase::Telling,
            by: Some(INSTANCE),
            declared_at: Timestamp(6),
            round: 2,
            settled: BTreeMap::from([("webhook".to_owned(), 3)]),
        };
        let instance = InstanceRecord {
            host: "host-1".into(),
            state: InstanceState::Ready,
            started_at: Timestamp(4),
            renewal: 6,
            plugins: u64::MAX,
            cleanup: Some(cleanup),
            holder: None,
        };
        let layout = Layout { partitions: 64, leaves: 16 };
        vec![
            Document::Sessions(Arc::new(sessions)),
            Document::Owner(Claim { instance: Some(INSTANCE), nonce: u64::MAX }),
            Document::User(status),
            Document::Message(CustomMessage { text: "in a \"meeting\" 🦀".into(), until: Timestamp(7) }),
            Document::Checkpoint(Arc::new(CheckpointDocument { epoch: 1, plugins, held: None })),
            Document::Instance(instance),
            Document::Boot(BootRecord {
                epoch: 12,
                generation: 1,
                phase: BootPhase::Open,
                by: INSTANCE,
                start: u64::MAX,
                owed: Some(u32::MAX),
                anew: true,
            }),
            Document::Meta(MetaRecord { format: 1, layout, epoch: 2 }),
        ]
    }

    #[test]
    fn every_document_comes_back_from_its_bytes() {
        let keys = keys(user("alice"), 1, 2, 3);
        for (place, key) in keys.iter().enumerate() {
            for (kind, document) in documents().iter().enumerate() {
                assert_eq!(fits(key, document), place == kind);
                match encode_document(key, document) {
                    Ok(bytes) => assert_eq!(decode_document(key, &bytes).unwrap(), *document),
                    Err(error) => {
                        assert_ne!(place, kind);
                        let subject = subject(key, "");
                        let expected = format!("the document is not of the kind that `{subject}` holds");
                        assert_eq!(error.to_string(), expected);
                    }
                }
            }
        }
    }

    /// Metadata is nothing new in a document: hosts of before read it as they read any attribute.
    #[test]
    fn attributes_are_a_list_of_pairs_and_metadata_is_among_them() {
        let device = [("device".to_owned(), "phone".to_owned())];
        let attributes = Attributes::new(vec![("user-agent".into(), "x".into())])
            .with_metadata(&Metadata::new(device).unwrap());
        let text = r#"[["user-agent","x"],["meta.device","phone"]]"#;
        assert_eq!(serde_json::to_string(&attributes).unwrap(), text);
        let read: Attributes = serde_json::from_str(text).unwrap();
        assert!(read.has_metadata());
        assert_eq!(read, attributes);
        for nothing in ["null", "[]"] {
            assert_eq!(serde_json::from_str::<Attributes>(nothing).unwrap(), Attributes::default());
        }
        let said: Metadata = serde_json::from_str(r#"{"device":"phone"}"#).unwrap();
        assert_eq!(said, Metadata::of(&attributes));
        assert_eq!(serde_json::to_string(&said).unwrap(), r#"{"device":"phone"}"#);
        for wrong in [r#"{"Bad":"1"}"#, r#"{"a":1}"#, r#"["a"]"#, r#"{"a":"\u0000"}"#] {
            assert!(serde_json::from_str::<Metadata>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_record_is_read_without_its_trail_and_with_words_of_other_versions() {
        let key = Key::User(PartitionId(1), LeafId(2), user("alice"));
        let old = r#"{"status":"idle","since":6,"revision":6,"sessions":1,"generation":1}"#;
        let Ok(Document::User(record)) = decode_document(&key, old.as_bytes()) else { panic!("unreadable") };
        assert_eq!(record.trail, Trail::default());
        assert_eq!(encode_document(&key, &Document::User(record)).unwrap(), old.as_bytes());
        let new = old
            .replace("}", r#","trail":{"reason":"teleported","past":[["idle",5,null,"beamed"]],"more":1}}"#);
        let Ok(Document::User(record)) = decode_document(&key, new.as_bytes()) else { panic!("unreadable") };
        let past: Vec<Moment> = record.trail.past.moments().collect();
        assert_eq!(record.trail.reason, Reason::Unknown);
        assert_eq!(
            past,
            [Moment { status: Status::Idle, revision: None, reason: Reason::Unknown, ..moment(5) }]
        );
        let written = encode_document(&key, &documents()[2]).unwrap();
        let trail =
            r#""trail":{"reason":"timeout","past":[["online",4,4,"connected"],["online",3,3,"connected"]]}"#;
        assert!(String::from_utf8(written).unwrap().contains(trail));
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn the_smallest_documents_are_small_and_newer_fields_are_ignored() {
        let key = Key::Owner(PartitionId(1));
        let claim = Document::Owner(Claim { instance: None, nonce: 1 });
        assert_eq!(encode_document(&key, &claim).unwrap(), br#"{"instance":null,"nonce":1}"#);
        assert_eq!(decode_document(&key, br#"{"instance":null,"nonce":1,"since":7}"#).unwrap(), claim);
    }

    #[test]
    fn unreadable_documents_say_where() {
        let error = decode_document(&Key::Owner(PartitionId(4)), b"{\"instance\":1}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the document under `o.4` is not one that this version of Presence knows"
        );
        assert!(error.source().unwrap().to_string().contains("line 1 column"), "{:?}", error.source());
        for bytes in [&b""[..], b"null", b"{}", b"{\"generation\":1,\"phase\":\"shut\",\"by\":\"x\"}"] {
            assert!(decode_document(&Key::Boot, bytes).is_err());
        }
    }
}
