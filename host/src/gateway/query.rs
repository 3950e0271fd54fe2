//! Query strings: `name=value` pairs, percent-decoded. A plus sign is a plus sign, as in user ids.

use percent_encoding::percent_decode_str;

/// Why a query string can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Bytes that are no text after decoding, or a `%` without two hexadecimal digits.
    #[error("the query parameter `{0}` is not percent-encoded UTF-8")]
    Encoding(String),
    /// Only one is taken.
    #[error("the query parameter `{0}` is given more than once")]
    Repeated(&'static str),
}

/// Decodes one component of an address; none if it is not percent-encoded UTF-8.
pub fn decoded(text: &str) -> Option<String> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let digits = rest.get(at + 1..at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

/// All pairs in their order. Names are compared as written: ours need no encoding.
pub fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, Result<String, QueryError>)> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name, decoded(value).ok_or_else(|| QueryError::Encoding(name.chars().take(40).collect())))
    })
}

/// The value of a parameter that may be given once.
pub fn single(query: Option<&str>, wanted: &'static str) -> Result<Option<String>, QueryError> {
    let mut found = None;
    for (name, value) in pairs(query) {
        if name == wanted && found.replace(value?).is_some() {
            return Err(QueryError::Repeated(wanted));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_percent_decoded_and_nothing_else() {
        assert_eq!(single(Some("user=a%2Fb+c%20%F0%9F%A6%80"), "user"), Ok(Some("a/b+c 🦀".into())));
        assert_eq!(single(Some("a=1&&user="), "user"), Ok(Some(String::new())));
        assert_eq!(single(Some("user"), "user"), Ok(Some(String::new())));
        assert_eq!(single(None, "user"), Ok(None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in ["user=%", "user=%4", "user=%zz", "user=%ff", "user=a%2"] {
            assert_eq!(single(Some(text), "user"), Err(QueryError::Encoding("user".into())), "{text}");
        }
        assert_eq!(single(Some("user=a&user=b"), "user"), Err(QueryError::Repeated("user")));
    }
}
