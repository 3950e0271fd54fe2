//! Keys as subjects and back: part of the storage format. It knows no connection.
//!
//! `<prefix>.k.<plugin>.<bucket>.<key>`: the key is cut at its slashes, so that keys which share a beginning can be
//! asked for. Of each part letters, digits, `_` and `-` stay, every other byte becomes `=XX`; an empty one is `=`.

use crate::plugins::keyvalue::Bucket;

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

fn push_token(subject: &mut String, part: &str) {
    if part.is_empty() {
        subject.push('=');
    }
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            subject.push(char::from(byte));
        } else {
            subject.push('=');
            subject.push(char::from(DIGITS[usize::from(byte >> 4)]));
            subject.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

fn push_parts(subject: &mut String, key: &str) {
    for (number, part) in key.split('/').enumerate() {
        if number > 0 {
            subject.push('.');
        }
        push_token(subject, part);
    }
}

/// What the subjects of all keys of a bucket begin with, the last dot included.
pub(super) fn base(prefix: &str, bucket: Bucket<'_>) -> String {
    let mut base = format!("{prefix}.k.");
    push_token(&mut base, bucket.plugin);
    base.push('.');
    push_token(&mut base, bucket.bucket);
    base.push('.');
    base
}

/// The subject of a key.
pub(super) fn subject(base: &str, key: &str) -> String {
    let mut subject = String::with_capacity(base.len() + key.len() + 16);
    subject.push_str(base);
    push_parts(&mut subject, key);
    subject
}

/// What matches the subjects of all keys with this beginning, and perhaps of others.
pub(super) fn filter(base: &str, beginning: &str) -> String {
    let mut filter = base.to_owned();
    if let Some((whole, _)) = beginning.rsplit_once('/') {
        push_parts(&mut filter, whole);
        filter.push('.');
    }
    filter.push('>');
    filter
}

/// The key of a subject; none if [`subject`] makes no such subject.
pub(super) fn key(base: &str, subject: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(subject.len());
    for (number, token) in subject.strip_prefix(base)?.split('.').enumerate() {
        if number > 0 {
            bytes.push(b'/');
        }
        if token == "=" {
            continue;
        }
        let mut token = token.bytes();
        while let Some(byte) = token.next() {
            bytes.push(match byte {
                b'=' => digit(token.next()?)? << 4 | digit(token.next()?)?,
                plain => plain,
            });
        }
    }
    let key = String::from_utf8(bytes).ok()?;
    (self::subject(base, &key) == subject).then_some(key)
}

fn digit(byte: u8) -> Option<u8> {
    DIGITS.iter().position(|digit| *digit == byte).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUCKET: Bucket<'static> = Bucket { plugin: "my.plugin", bucket: "" };

    #[test]
    fn subjects_look_like_this() {
        let base = base("presence", BUCKET);
        assert_eq!(base, "presence.k.my=2Eplugin.=.");
        for (key, expected) in [
            ("user/alice", "user.alice"),
            ("a.b*>", "a=2Eb=2A=3E"),
            ("/a//", "=.a.=.="),
            ("=", "=3D"),
            ("née", "n=C3=A9e"),
        ] {
            assert_eq!(subject(&base, key), format!("{base}{expected}"));
        }
        assert_eq!(filter(&base, ""), format!("{base}>"));
        assert_eq!(filter(&base, "use"), format!("{base}>"));
        assert_eq!(filter(&base, "user/al"), format!("{base}user.>"));
        for foreign in ["a b", "=2e", "=41", "=4", "a..b", ""] {
            assert_eq!(key(&base, &format!("{base}{foreign}")), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back_and_is_one_subject(text in "[a-zé/=.*> ]{1,12}", other in "[a-zé/=.*> ]{1,12}") {
            let base = base("p", BUCKET);
            let of = subject(&base, &text);
            prop_assert_eq!(key(&base, &of), Some(text.clone()));
            prop_assert_eq!(of == subject(&base, &other), text == other);
            prop_assert!(of.split('.').all(|token| !token.is_empty()), "{}", of);
        }
    }
}
