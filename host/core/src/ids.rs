//! The names of things: users, sessions, instances, partitions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest user id, in bytes of UTF-8.
pub const MAX_USER_ID_BYTES: usize = 256;

/// An application's user: 1 to 256 bytes of UTF-8, no control characters, not `.` or `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

/// Why a text is no user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserId {
    /// No text at all.
    #[error("a user id must not be empty")]
    Empty,
    /// More than [`MAX_USER_ID_BYTES`].
    #[error("a user id has at most 256 bytes")]
    TooLong,
    /// A character that Unicode calls a control character.
    #[error("a user id must not hold control characters")]
    ControlCharacter,
    /// `.` and `..` mean something else in paths.
    #[error("`.` and `..` are not user ids")]
    Dots,
}

impl UserId {
    /// Checks the rules above.
    pub fn new(text: &str) -> Result<UserId, InvalidUserId> {
        if text.is_empty() {
            Err(InvalidUserId::Empty)
        } else if text.len() > MAX_USER_ID_BYTES {
            Err(InvalidUserId::TooLong)
        } else if text == "." || text == ".." {
            Err(InvalidUserId::Dots)
        } else if text.chars().any(char::is_control) {
            Err(InvalidUserId::ControlCharacter)
        } else {
            Ok(UserId(text.into()))
        }
    }

    /// The id as the application wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Nobody's: it comes before every user's.
    pub(crate) fn least() -> UserId {
        UserId("".into())
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UserId, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        UserId::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A text that is no UUID in its usual form (8-4-4-4-12 hexadecimal digits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID such as 0192f0c0-0000-7000-8000-000000000000")]
pub struct InvalidUuid;

fn format_uuid(value: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        value >> 96,
        (value >> 80) & 0xffff,
        (value >> 64) & 0xffff,
        (value >> 48) & 0xffff,
        value & 0xffff_ffff_ffff
    )
}

fn parse_uuid(text: &str) -> Result<u128, InvalidUuid> {
    let dashes = [8, 13, 18, 23];
    if text.len() != 36 || !text.is_ascii() {
        return Err(InvalidUuid);
    }
    let mut value = 0_u128;
    for (at, byte) in text.bytes().enumerate() {
        if dashes.contains(&at) {
            if byte != b'-' {
                return Err(InvalidUuid);
            }
            continue;
        }
        let digit = char::from(byte).to_digit(16).ok_or(InvalidUuid)?;
        value = value << 4 | u128::from(digit);
    }
    Ok(value)
}

/// One incarnation of a host or of a holder: a UUID, new at every start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u128);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_uuid(self.0, f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_uuid(self.0, f)
    }
}

impl FromStr for InstanceId {
    type Err = InvalidUuid;
    fn from_str(text: &str) -> Result<InstanceId, InvalidUuid> {
        parse_uuid(text).map(InstanceId)
    }
}

/// One session: a UUIDv7 of the host, or `<holder>/<its id>` of a holder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionId {
    /// Made by a host.
    Hosted(u128),
    /// Made by a holder: the whole text.
    Held(Arc<str>),
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionId::Hosted(value) => format_uuid(*value, f),
            SessionId::Held(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = InvalidUuid;
    fn from_str(text: &str) -> Result<SessionId, InvalidUuid> {
        if text.contains('/') {
            Ok(SessionId::Held(text.into()))
        } else {
            parse_uuid(text).map(SessionId::Hosted)
        }
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(InstanceId, SessionId);

/// The longest name or incarnation of a holder, in bytes.
pub const MAX_HOLDER_NAME_BYTES: usize = 64;

/// The longest id that a holder gives a session, in bytes.
pub const MAX_HELD_ID_BYTES: usize = 128;

/// A text that can't stand for a holder, its incarnation or a session of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHolderText {
    /// Of a name or an incarnation.
    #[error("1 to 64 of `A-Z a-z 0-9 . _ -` are allowed, and not `.` or `..`")]
    Name,
    /// Of a session's id.
    #[error("1 to 128 visible ASCII characters without `/` are allowed, and not `.` or `..`")]
    Session,
}

fn is_holder_text(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_HOLDER_NAME_BYTES).contains(&text.len())
        && text.bytes().all(plain)
        && !matches!(text, "." | "..")
}

/// A holder's name, chosen by the application: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HolderName(Arc<str>);

/// Which life of a holder, chosen by it: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation(Arc<str>);

macro_rules! holder_text {
    ($($name:ident),*) => {$(
        impl $name {
            /// As the application wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidHolderText;
            fn from_str(text: &str) -> Result<$name, InvalidHolderText> {
                if is_holder_text(text) { Ok($name(text.into())) } else { Err(InvalidHolderText::Name) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
holder_text!(HolderName, Incarnation);
serde_as_text!(HolderName, Incarnation);

impl HolderName {
    /// Where the record of the name is, among the instances: a UUIDv8 made of the name, so that it meets no instance's.
    /// Part of the storage format.
    pub fn key(&self) -> InstanceId {
        let half = |salt: &str| u128::from(stable_hash(format!("holder {salt} {}", self.0).as_bytes()));
        let bits = half("one") << 64 | half("two");
        InstanceId(bits & !(0xf << 76) & !(0b11 << 62) | 0x8 << 76 | 0b10 << 62)
    }

    /// The id of a session of this holder: `<holder>/<its id>`.
    pub fn session(&self, id: &str) -> Result<SessionId, InvalidHolderText> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        let fits = (1..=MAX_HELD_ID_BYTES).contains(&id.len()) && !matches!(id, "." | "..");
        if fits && id.bytes().all(plain) {
            Ok(SessionId::Held(format!("{}/{id}", self.0).into()))
        } else {
            Err(InvalidHolderText::Session)
        }
    }
}

/// A fixed slice of the users. Below the deployment's number of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A slice of a partition, small enough to be read in one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeafId(pub u16);

/// How a deployment slices its users; fixed when the deployment is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// How many partitions there are, at least 1.
    pub partitions: u16,
    /// How many leaves each partition has, at least 1.
    pub leaves: u16,
}

impl Layout {
    /// Where a user's documents live. Stable for ever: the hash (FNV-1a, 64 bits, with the finaliser of
    /// SplitMix64) is part of the storage format.
    pub fn place(&self, user: &UserId) -> (PartitionId, LeafId) {
        let hash = stable_hash(user.as_str().as_bytes());
        let partition = (hash & 0xffff_ffff) % u64::from(self.partitions);
        let leaf = (hash >> 32) % u64::from(self.leaves);
        (PartitionId(partition as u16), LeafId(leaf as u16))
    }

    /// The partition of a user.
    pub fn partition(&self, user: &UserId) -> PartitionId {
        self.place(user).0
    }
}

/// FNV-1a over the bytes, then the finaliser of SplitMix64 so that all bits are usable.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A point in a store's order of writes; 0 stands for "never written".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);
