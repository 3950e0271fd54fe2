//! JSON Web Tokens (RFC 7519): which key one is checked with, and what it says.
//!
//! ```text
//!  token ─▶ three parts ─▶ header ─▶ key by `kid` ─▶ the key's algorithm? ─▶ signature ─▶ claims ─▶ Bearer
//! ```
//!
//! Nothing in a token decides how it is checked: the algorithm is the key's, and keys that a token brings along or
//! points to are not looked at. Pure: no socket, no file, no clock; `now` is an argument.

use presence_core::ids::{InvalidUserId, UserId};
use serde_json::Value;

use crate::settings::TokenRules;

mod circle;
mod claims;
mod jwks;
mod key;
mod object;
mod ring;

pub use circle::Circle;
pub use jwks::{BadSet, KeySet, MAX_SET_BYTES, NotTaken, SetKey};
pub use key::{Algorithm, BadKey, Key, MIN_SECRET_BYTES};
pub use ring::KeyRing;

/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What is wrong with a token. Says nothing that its holder can't know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than any token we take.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Not three parts, not base64url, not JSON.
    #[error("the token is not a JSON Web Token")]
    Malformed,
    /// Header or claims name something twice.
    #[error("the token is ambiguous: a name comes twice in its header or its claims")]
    Ambiguous,
    /// Extensions that must be understood, and are not.
    #[error("the token's header demands an extension (`crit`) that this host does not know")]
    Critical,
    /// No key of that id.
    #[error("the token's key id (`kid`) is not known here")]
    UnknownKey,
    /// No id and several keys, or none.
    #[error("the token names no key (`kid`), and this host does not have exactly one")]
    NoKeyId,
    /// Not the algorithm of the key; also `none`.
    #[error("the token is signed with an algorithm that its key does not allow")]
    Algorithm,
    /// Changed, or signed with another key.
    #[error("the token's signature is not valid")]
    Signature,
    /// Past `exp`.
    #[error("the token has expired: get a new one")]
    Expired,
    /// Before `nbf`.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// A claim that must be there.
    #[error("the token lacks a usable claim `{0}`")]
    Missing(&'static str),
    /// A claim of the wrong kind.
    #[error("the token's claim `{0}` is not what it should be")]
    BadClaim(String),
    /// Not `auth.issuer`.
    #[error("the token's issuer (`iss`) is not accepted here")]
    Issuer,
    /// Not `auth.audience`.
    #[error("the token is meant for another audience (`aud`)")]
    Audience,
    /// There is no `auth.audience`.
    #[error("the token is meant for an audience (`aud`), and this host is none: auth.audience is not set")]
    NoAudience,
    /// `sub` is no user id.
    #[error("the token's claim `sub` is no user id: {0}")]
    Subject(InvalidUserId),
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// `sub`
    pub user: UserId,
    /// When the session ends, milliseconds since 1970.
    pub expires_at: u64,
    /// Whom the claim for that lets the user watch; nobody, if the rules name no such claim.
    pub circle: Circle,
}

/// Checks everything about a token. `now` is in seconds since 1970.
pub fn verify(token: &str, ring: &KeyRing, rules: &TokenRules, now: u64) -> Result<Bearer, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
    if payload.contains('.') {
        return Err(TokenError::Malformed);
    }
    let header = Header::read(header)?;
    let key = ring.find(header.key_id.as_deref())?;
    if key.algorithm() != header.algorithm {
        return Err(TokenError::Algorithm);
    }
    match key.has_signed(message, signature) {
        Some(true) => claims::check(&object::read(payload)?, rules, now),
        Some(false) => Err(TokenError::Signature),
        None => Err(TokenError::Malformed),
    }
}

/// The two members of a token's header that are looked at. `jwk`, `jku`, `x5c`, `x5u` and all others are not.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl Header {
    fn read(part: &str) -> Result<Header, TokenError> {
        let mut members = object::read(part)?;
        if members.contains_key("crit") {
            return Err(TokenError::Critical);
        }
        let algorithm = match members.get("alg") {
            Some(Value::String(name)) => Algorithm::named(name).ok_or(TokenError::Algorithm)?,
            _ => return Err(TokenError::Malformed),
        };
        let key_id = match members.remove("kid") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id),
            Some(_) => return Err(TokenError::Malformed),
        };
        Ok(Header { algorithm, key_id })
    }
}

#[cfg(test)]
pub(crate) mod tests;
