//! Takes a plugin's secrets out of whatever the plugin says, before it is logged or kept. Knows the secrets of one
//! plugin and nothing of where its texts go.
//!
//! What is found is the secret as it is, in JSON, and in a URL; each line of one with several lines counts, too. A
//! plugin that disguises what it gives away (turned round, say) is not found out: it may call its own receiver anyway.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// Shorter texts, in bytes, are no secrets: they would be found everywhere.
pub(super) const MIN_BYTES: usize = 4;

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// The secrets of one plugin. Without any it does nothing and costs nothing.
#[derive(Default)]
pub(super) struct Redactor {
    finder: Finder,
    longest: usize,
}

#[derive(Default)]
enum Finder {
    #[default]
    Nothing,
    Secrets(AhoCorasick),
    /// There is more to find than can be looked for: nothing may be said.
    Everything,
}

impl Redactor {
    /// Knows these values; those shorter than four bytes are left out.
    pub(super) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Redactor {
        let forms: BTreeSet<String> = values.into_iter().flat_map(parts).flat_map(forms).collect();
        if forms.is_empty() {
            return Redactor::default();
        }
        let longest = forms.iter().map(String::len).max().unwrap_or(0);
        let finder = AhoCorasick::builder()
            // A secret that begins another one must not leave the rest of it.
            .match_kind(MatchKind::LeftmostLongest)
            // Other kinds take hundreds of bytes for each byte of a secret.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&forms);
        Redactor { finder: finder.map_or(Finder::Everything, Finder::Secrets), longest }
    }

    /// Of the longest secret, in bytes; 0 without any.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The text without secrets.
    pub(super) fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match &self.finder {
            Finder::Secrets(finder) if finder.is_match(text) => {
                let mut clean = String::with_capacity(text.len());
                finder.replace_all_with(text, &mut clean, |_, _, clean| {
                    clean.push_str(REDACTED);
                    true
                });
                Cow::Owned(clean)
            }
            Finder::Everything => Cow::Borrowed(REDACTED),
            Finder::Nothing | Finder::Secrets(_) => Cow::Borrowed(text),
        }
    }

    /// Takes secrets out of a piece of output, and returns how much of its end may be the beginning of one.
    pub(super) fn bytes(&self, bytes: &mut Vec<u8>) -> usize {
        match &self.finder {
            Finder::Nothing => 0,
            Finder::Everything => {
                *bytes = REDACTED.as_bytes().to_vec();
                0
            }
            Finder::Secrets(finder) => {
                if finder.is_match(&*bytes) {
                    let mut clean = Vec::with_capacity(bytes.len());
                    finder.replace_all_with_bytes(bytes, &mut clean, |_, _, clean| {
                        clean.extend_from_slice(REDACTED.as_bytes());
                        true
                    });
                    *bytes = clean;
                }
                self.longest.saturating_sub(1)
            }
        }
    }
}

/// The value, and its lines if there are several: what is printed comes by in lines.
fn parts(value: &str) -> impl Iterator<Item = &str> {
    let lines = value.lines().map(str::trim).filter(move |line| *line != value);
    std::iter::once(value).chain(lines).filter(|part| part.len() >= MIN_BYTES)
}

/// How a text is commonly written.
fn forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_owned()];
    if let Ok(json) = serde_json::to_string(text) {
        forms.push(json[1..json.len() - 1].to_owned());
    }
    forms.push(format!("{text:?}").trim_matches('"').to_owned());
    // What a URL leaves as it is depends on who writes it.
    for plain in ["", "-_.~", "-_.*", "-_.!~*'()", "-_.~:/?#[]@!$&'()*+,;="] {
        for upper in [true, false] {
            let encoded = in_url(text, plain, upper);
            forms.push(encoded.replace("%20", "+"));
            forms.push(encoded);
        }
    }
    forms.retain(|form| form.len() >= MIN_BYTES);
    forms
}

fn in_url(text: &str, plain: &str, upper: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        // Writing to a text can't fail.
        _ = match char::from(byte) {
            byte if byte.is_ascii_alphanumeric() || plain.contains(byte) => encoded.write_char(byte),
            byte if upper => write!(encoded, "%{:02X}", u32::from(byte)),
            byte => write!(encoded, "%{:02x}", u32::from(byte)),
        };
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_as_it_is_in_json_and_in_a_url() {
        let redactor = Redactor::new(["s3cret\"\\ /ü+&\n~"]);
        for text in [
            "s3cret\"\\ /ü+&\n~",
            r#"s3cret\"\\ /ü+&\n~"#,
            "s3cret%22%5C%20%2F%C3%BC%2B%26%0A~",
            "s3cret%22%5c%20%2f%c3%bc%2b%26%0a%7e",
            "s3cret%22%5C+%2F%C3%BC%2B%26%0A%7E",
            "s3cret%22%5C%20/%C3%BC+&%0A~",
        ] {
            assert_eq!(redactor.text(&format!("a{text}b")), "a[redacted]b", "{text}");
        }
        assert_eq!(redactor.text("s3cre and nothing else"), "s3cre and nothing else");
    }

    #[test]
    fn lines_of_a_secret_are_secrets_and_short_ones_are_not() {
        let redactor = Redactor::new(["first line\n  second line\nab\n", "abc", "", "four"]);
        assert_eq!(redactor.text("a second line, and the first line"), "a [redacted], and the [redacted]");
        assert_eq!(redactor.text("abc ab"), "abc ab");
        assert_eq!(redactor.text("fourfour"), "[redacted][redacted]");
    }

    #[test]
    fn a_secret_that_begins_another_leaves_nothing_of_it() {
        let redactor = Redactor::new(["token", "token-of-the-king"]);
        assert_eq!(redactor.text("token-of-the-king token"), "[redacted] [redacted]");
    }

    #[test]
    fn bytes_that_are_no_text_are_searched_as_well() {
        let redactor = Redactor::new(["secret"]);
        let mut bytes = b"\xff secret \xfe".to_vec();
        assert_eq!(redactor.bytes(&mut bytes), 5);
        assert_eq!(bytes, b"\xff [redacted] \xfe");
    }

    #[test]
    fn without_secrets_nothing_is_looked_for() {
        let redactor = Redactor::new(["abc"]);
        assert!(matches!(redactor.finder, Finder::Nothing));
        assert!(matches!(redactor.text("abc"), Cow::Borrowed("abc")));
        assert_eq!(redactor.bytes(&mut b"abc".to_vec()), 0);
    }
}
