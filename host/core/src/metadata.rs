//! What an application says of a session beyond its status: its device, its version, whatever its watchers shall see.
//! Checked here once, kept as attributes `meta.<key>` from then on ([`Attributes::with_metadata`]).
//!
//! It must not know where it came from: the address of a connection, a message, a holder's request.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::events::Attributes;

/// So many keys.
pub const MAX_METADATA_KEYS: usize = 16;

/// The longest key, in bytes.
pub const MAX_METADATA_KEY_BYTES: usize = 32;

/// All keys and values together, in bytes of UTF-8.
pub const MAX_METADATA_BYTES: usize = 1024;

/// What stands before a key where it is an attribute.
pub const METADATA_PREFIX: &str = "meta.";

/// Why something is no metadata: what is wrong, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// A key with other characters, none, or too many.
    #[error("{0} is no key of metadata: 1 to {MAX_METADATA_KEY_BYTES} of a-z, 0-9, `_`, `.` and `-`")]
    Key(Shortened),
    /// A value that would disturb logs and terminals.
    #[error("the value of `{0}` must not hold control characters")]
    ControlCharacter(String),
    /// More than [`MAX_METADATA_KEYS`].
    #[error("metadata has at most {MAX_METADATA_KEYS} keys, not {0}")]
    TooManyKeys(usize),
    /// More than [`MAX_METADATA_BYTES`].
    #[error("keys and values of metadata have at most {MAX_METADATA_BYTES} bytes together, not {0}")]
    TooLong(usize),
    /// The same key twice where each may be given once.
    #[error("the key `{0}` is given more than once")]
    Repeated(String),
}

/// A text that came from outside, as errors show it: quoted, escaped, its beginning at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortened(String);

impl Shortened {
    fn new(text: &str) -> Shortened {
        let mut shown: String = text.chars().take(MAX_METADATA_KEY_BYTES + 8).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Shortened(shown)
    }
}

impl fmt::Display for Shortened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Metadata of one session: at most [`MAX_METADATA_KEYS`] keys and [`MAX_METADATA_BYTES`] in all, in the order of
/// its keys. As JSON it is an object of strings; reading one checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Checks the rules; a key that comes twice is refused.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Metadata, InvalidMetadata> {
        let mut all = BTreeMap::new();
        for (key, value) in pairs {
            if all.contains_key(&key) {
                return Err(InvalidMetadata::Repeated(Shortened::new(&key).0));
            }
            all.insert(key, value);
        }
        checked(all)
    }

    /// This with some keys set to other values, or (none) removed. All of it or nothing.
    pub fn changed(
        &self,
        changes: impl IntoIterator<Item = (String, Option<String>)>,
    ) -> Result<Metadata, InvalidMetadata> {
        let mut all = self.0.clone();
        for (key, value) in changes {
            check_key(&key)?;
            match value {
                Some(value) => all.insert(key, value),
                None => all.remove(&key),
            };
        }
        checked(all)
    }

    /// What these attributes hold of it.
    pub fn of(attributes: &Attributes) -> Metadata {
        let pairs = attributes.metadata().map(|(key, value)| (key.to_owned(), value.to_owned()));
        Metadata(pairs.collect())
    }

    /// Keys and values, in the order of the keys.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// True when nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn check_key(key: &str) -> Result<(), InvalidMetadata> {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
    if key.is_empty() || key.len() > MAX_METADATA_KEY_BYTES || !key.bytes().all(plain) {
        return Err(InvalidMetadata::Key(Shortened::new(key)));
    }
    Ok(())
}

fn checked(all: BTreeMap<String, String>) -> Result<Metadata, InvalidMetadata> {
    let mut bytes = 0;
    for (key, value) in &all {
        check_key(key)?;
        if value.chars().any(char::is_control) {
            return Err(InvalidMetadata::ControlCharacter(key.clone()));
        }
        bytes += key.len() + value.len();
    }
    if all.len() > MAX_METADATA_KEYS {
        return Err(InvalidMetadata::TooManyKeys(all.len()));
    }
    if bytes > MAX_METADATA_BYTES {
        return Err(InvalidMetadata::TooLong(bytes));
    }
    Ok(Metadata(all))
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Metadata, D::Error> {
        checked(BTreeMap::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn metadata(all: &[(&str, &str)]) -> Metadata {
        Metadata::new(pairs(all)).unwrap()
    }

    #[test]
    fn what_is_allowed_is_kept_in_the_order_of_its_keys() {
        let longest = "k".repeat(MAX_METADATA_KEY_BYTES);
        let all =
            metadata(&[("device", "phone"), ("app_version", "4.2 (🦀)"), (&longest, ""), ("a.b-c", "\"")]);
        let found: Vec<_> = all.pairs().collect();
        assert_eq!(
            found,
            [("a.b-c", "\""), ("app_version", "4.2 (🦀)"), ("device", "phone"), (longest.as_str(), "")]
        );
        assert!(Metadata::default().is_empty());
    }

    #[test]
    fn what_is_not_allowed_is_refused_and_says_what_is() {
        for key in ["", "Device", "a b", "é", "a/b", "k\n", &"k".repeat(33)] {
            let error = Metadata::new(pairs(&[(key, "x")])).unwrap_err();
            assert!(error.to_string().contains("1 to 32 of a-z"), "{error}");
        }
        let error = Metadata::new(pairs(&[(&"x".repeat(5000), "")])).unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
        let error = Metadata::new(pairs(&[("a", "b\u{7}")])).unwrap_err();
        assert_eq!(error, InvalidMetadata::ControlCharacter("a".into()));
        let error = Metadata::new(pairs(&[("a", "1"), ("a", "1")])).unwrap_err();
        assert_eq!(error, InvalidMetadata::Repeated("a".into()));
        let many = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new()));
        assert!(Metadata::new(many(16)).is_ok());
        assert_eq!(Metadata::new(many(17)), Err(InvalidMetadata::TooManyKeys(17)));
        let long = |bytes: usize| Metadata::new([("note".to_owned(), "x".repeat(bytes))]);
        assert!(long(1020).is_ok());
        assert_eq!(long(1021), Err(InvalidMetadata::TooLong(1025)));
    }

    #[test]
    fn changes_set_and_remove_keys_and_are_all_or_nothing() {
        let before = metadata(&[("device", "phone"), ("room", "7")]);
        let change = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let after = before.changed([change("room", None), change("app", Some("1")), change("none", None)]);
        assert_eq!(after, Ok(metadata(&[("app", "1"), ("device", "phone")])));
        assert!(before.changed([change("device", None), change("Bad", None)]).is_err());
        // What is removed makes room for what is set.
        let full = Metadata::new((0..16).map(|n| (format!("k{n}"), String::new()))).unwrap();
        assert!(full.changed([change("new", Some("")), change("k0", None)]).is_ok());
        assert_eq!(full.changed([change("new", Some(""))]), Err(InvalidMetadata::TooManyKeys(17)));
    }

    #[test]
    fn as_attributes_it_stands_behind_the_others_and_is_found_again() {
        let others = Attributes::new(pairs(&[("remote-address", "127.0.0.1"), ("user-agent", "curl")]));
        assert!(!others.has_metadata());
        let said = metadata(&[("device", "phone"), ("app_version", "1")]);
        let with = others.with_metadata(&said);
        assert_eq!(
            with.pairs(),
            pairs(&[
                ("remote-address", "127.0.0.1"),
                ("user-agent", "curl"),
                ("meta.app_version", "1"),
                ("meta.device", "phone")
            ])
        );
        assert!(with.has_metadata());
        assert_eq!(Metadata::of(&with), said);
        assert_eq!(with.with_metadata(&Metadata::default()), others);
        assert_eq!(Attributes::default().with_metadata(&Metadata::default()), Attributes::default());
    }
}
