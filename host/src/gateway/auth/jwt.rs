//! Signed tokens with static keys: the algorithm is fixed by the key, never by the token.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use presence_core::ids::{InvalidUserId, UserId};
use serde::Deserialize;

use super::MAX_TOKEN_BYTES;
use crate::settings::{AuthKey, KeyAlgorithm};

/// How far the clocks of the issuer and of this host may be apart, in seconds.
pub const LEEWAY: u64 = 30;

/// A key of presence.toml that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("auth.key {}: {what}", name.as_deref().unwrap_or("without an id"))]
pub struct KeyError {
    name: Option<String>,
    what: &'static str,
}

/// What is wrong with a token. Says nothing that its holder can't know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than any token we take.
    #[error("the token is longer than 8192 bytes")]
    TooLong,
    /// Not three parts, not base64url, not JSON.
    #[error("the token is not a JSON Web Token")]
    Malformed,
    /// Extensions that must be understood, and are not.
    #[error("the token's header demands an extension (`crit`) that this host does not know")]
    Critical,
    /// No key of that id, or no id and several keys.
    #[error("the token's key id (`kid`) is not known here")]
    UnknownKey,
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
    Missing(String),
    /// A claim of the wrong kind.
    #[error("the token's claim `{0}` is not what it should be")]
    BadClaim(&'static str),
    /// Not `auth.issuer`.
    #[error("the token's issuer (`iss`) is not accepted here")]
    Issuer,
    /// Not `auth.audience`.
    #[error("the token is meant for another audience (`aud`)")]
    Audience,
    /// `sub` is no user id.
    #[error("the token's claim `sub` is no user id: {0}")]
    Subject(InvalidUserId),
}

/// What a valid token says.
#[derive(Debug)]
pub struct Bearer {
    /// `sub`
    pub user: UserId,
    /// When the session ends, milliseconds since 1970.
    pub expires_at: u64,
    /// The claim `watch`.
    pub watch: Vec<UserId>,
}

/// The keys and the rules.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    decoding: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Everything is optional here: what is missing is told by name afterwards.
#[derive(Deserialize)]
struct Claims {
    sub: Option<serde_json::Value>,
    exp: Option<serde_json::Value>,
    watch: Option<serde_json::Value>,
}

impl Verifier {
    /// Checks the keys.
    pub fn new(issuer: Option<&str>, audience: Option<&str>, keys: &[AuthKey]) -> Result<Verifier, KeyError> {
        let keys = keys.iter().map(|key| {
            let wrong = |what| KeyError { name: key.id.clone(), what };
            let (algorithm, decoding) = match key.algorithm {
                KeyAlgorithm::Hs256 if key.material.len() < 32 => {
                    return Err(wrong("the secret of HS256 needs at least 32 bytes"));
                }
                KeyAlgorithm::Hs256 => (Algorithm::HS256, DecodingKey::from_secret(&key.material)),
                KeyAlgorithm::EdDsa => {
                    let decoding = DecodingKey::from_ed_pem(&key.material)
                        .map_err(|_| wrong("public_key_file holds no Ed25519 public key in PEM"))?;
                    (Algorithm::EdDSA, decoding)
                }
            };
            Ok(Key { id: key.id.clone(), decoding, validation: rules(algorithm, issuer, audience) })
        });
        Ok(Verifier { keys: keys.collect::<Result<_, _>>()? })
    }

    /// Checks everything about a token. `now` is in seconds since 1970.
    pub fn verify(&self, token: &str, now: u64) -> Result<Bearer, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| reason(error.kind()))?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let key = self.key(&header)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation)
            .map_err(|error| reason(error.kind()))?
            .claims;
        let subject =
            claims.sub.as_ref().and_then(|sub| sub.as_str()).ok_or(TokenError::Missing("sub".into()))?;
        let user = UserId::new(subject).map_err(TokenError::Subject)?;
        let expires = claims.exp.as_ref().and_then(seconds).ok_or(TokenError::Missing("exp".into()))?;
        // A token that is only alive thanks to the leeway opens a session that lasts as long as the leeway does.
        let ends = if expires > now { expires } else { expires.saturating_add(LEEWAY) };
        Ok(Bearer { user, expires_at: ends.saturating_mul(1000), watch: watch_list(claims.watch)? })
    }

    fn key(&self, header: &Header) -> Result<&Key, TokenError> {
        let found = match (&header.kid, self.keys.as_slice()) {
            (None, [only]) => Some(only),
            // A single key without an id takes whatever id the issuer has for it.
            (Some(_), [only]) if only.id.is_none() => Some(only),
            (Some(kid), keys) => keys.iter().find(|key| key.id.as_ref() == Some(kid)),
            (None, _) => None,
        };
        found.ok_or(TokenError::UnknownKey)
    }
}

fn rules(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut rules = Validation::new(algorithm);
    let mut required = vec!["exp", "sub"];
    rules.leeway = LEEWAY;
    rules.validate_nbf = true;
    rules.validate_aud = audience.is_some();
    if let Some(issuer) = issuer {
        rules.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = audience {
        rules.set_audience(&[audience]);
        required.push("aud");
    }
    rules.set_required_spec_claims(&required);
    rules
}

/// `NumericDate` may have a fraction.
fn seconds(value: &serde_json::Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

fn watch_list(claim: Option<serde_json::Value>) -> Result<Vec<UserId>, TokenError> {
    match claim {
        None => Ok(Vec::new()),
        Some(list) => serde_json::from_value::<Vec<UserId>>(list).map_err(|_| TokenError::BadClaim("watch")),
    }
}

fn reason(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::Missing(claim.clone()),
        ErrorKind::InvalidClaimFormat(claim) if claim == "nbf" => TokenError::BadClaim("nbf"),
        ErrorKind::InvalidClaimFormat(_) => TokenError::BadClaim("exp"),
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::MissingAlgorithm
        | ErrorKind::InvalidKeyFormat => TokenError::Algorithm,
        ErrorKind::Json(error) => unreadable_header(error),
        _ => TokenError::Malformed,
    }
}

/// A header with an algorithm that the library does not know (`none` among them) is JSON that it can't read.
fn unreadable_header(error: &Arc<serde_json::Error>) -> TokenError {
    if error.is_data() && error.to_string().contains("unknown variant") {
        TokenError::Algorithm
    } else {
        TokenError::Malformed
    }
}
