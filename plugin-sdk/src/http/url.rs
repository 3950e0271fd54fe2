//! Just as much of a URL as a request needs. Resolves nothing and knows no grants: what may be called is the host's
//! decision.

use super::Error;

/// The parts of a URL, as `wasi:http` wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// True for `https`.
    pub secure: bool,
    /// Host and port.
    pub authority: &'a str,
    /// May be empty or begin with `?`: the root, then.
    pub path_and_query: &'a str,
}

impl<'a> Target<'a> {
    /// Takes an absolute URL apart.
    pub(crate) fn parse(url: &'a str) -> Result<Target<'a>, Error> {
        let invalid = |why: &str| Error::Invalid(format!("the URL {why}"));
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("holds characters that must be percent-encoded"));
        }
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("is not absolute"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(invalid("is neither http nor https")),
        };
        let (authority, path_and_query) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.is_empty() || authority.starts_with(':') {
            return Err(invalid("names no host"));
        }
        if authority.contains('@') {
            return Err(invalid("holds user info: send an `authorization` header instead"));
        }
        if path_and_query.contains('#') {
            return Err(invalid("has a fragment (`#…`), which is never sent"));
        }
        Ok(Target { secure, authority, path_and_query })
    }
}

/// Whether this is a URL that a request can be sent to. Fails with [`Error::Invalid`], which says why not.
pub fn check_url(url: &str) -> Result<(), Error> {
    Target::parse(url).map(|_| ())
}

/// Percent-encodes text as one segment of a path: everything but letters, digits, `-`, `.`, `_` and `~`.
pub fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
