//! Key sets (RFC 7517): a JSON document with the public keys of an issuer. Keys that are for something else, or not
//! sound, are left out and named. Knows not where a set comes from.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::key::{Algorithm, BadKey, Key};

/// The largest document, in bytes.
pub const MAX_SET_BYTES: usize = 256 * 1024;

/// The most keys of one set.
pub const MAX_KEYS: usize = 100;

/// The longest id of a key, in bytes.
const MAX_ID_BYTES: usize = 256;

/// The keys of a document.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    /// At least one.
    pub keys: Vec<SetKey>,
    /// Which others there are, and why they are not taken.
    pub left_out: Vec<(Option<String>, NotTaken)>,
}

/// One key of a set.
#[derive(Clone, Debug)]
pub struct SetKey {
    /// `kid`
    pub id: Option<String>,
    /// With the algorithm that it is pinned to.
    pub key: Key,
}

/// Why a whole document is refused: then the keys stay as they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSet {
    /// More than [`MAX_SET_BYTES`].
    #[error("it has more than {MAX_SET_BYTES} bytes")]
    TooLarge,
    /// Another document.
    #[error("it is no key set: no JSON object with a list `keys`")]
    NotASet,
    /// More than [`MAX_KEYS`].
    #[error("it has {0} keys; at most {MAX_KEYS} are taken")]
    TooMany(usize),
    /// Nothing to check a token with.
    #[error("none of its {0} keys can be used")]
    NoKeys(usize),
}

/// Why a key of a set is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// Not an object, or members that are no texts.
    #[error("it is not written as a key")]
    Malformed,
    /// Encryption, say.
    #[error("it is not for signatures")]
    OtherUse,
    /// Another kind, curve or algorithm.
    #[error("it is for none of the algorithms HS256, RS256, ES256 and EdDSA")]
    OtherAlgorithm,
    /// Somebody has put the wrong half there.
    #[error("it holds a private key, which has no place in a key set")]
    Private,
    /// Whoever fetches such a set could sign tokens.
    #[error("it is a secret, which is taken from a file only")]
    Secret,
    /// The first one counts.
    #[error("another key of the set has its id")]
    SameId,
    /// Not a sound key.
    #[error("it {0}")]
    Bad(BadKey),
}

impl From<BadKey> for NotTaken {
    fn from(bad: BadKey) -> NotTaken {
        NotTaken::Bad(bad)
    }
}

impl KeySet {
    /// Reads a document. Secrets are taken where `with_secrets` says so: where nobody else can read it.
    pub fn parse(document: &[u8], with_secrets: bool) -> Result<KeySet, BadSet> {
        if document.len() > MAX_SET_BYTES {
            return Err(BadSet::TooLarge);
        }
        let document: Value = serde_json::from_slice(document).map_err(|_| BadSet::NotASet)?;
        let written = document.get("keys").and_then(Value::as_array).ok_or(BadSet::NotASet)?;
        if written.len() > MAX_KEYS {
            return Err(BadSet::TooMany(written.len()));
        }
        let mut set = KeySet::default();
        let mut ids = BTreeSet::new();
        for key in written {
            let id = key.get("kid").and_then(Value::as_str).map(shortened);
            match read(key, with_secrets) {
                Ok(read) if read.id.as_ref().is_none_or(|id| ids.insert(id.clone())) => set.keys.push(read),
                Ok(_) => set.left_out.push((id, NotTaken::SameId)),
                Err(reason) => set.left_out.push((id, reason)),
            }
        }
        if set.keys.is_empty() { Err(BadSet::NoKeys(written.len())) } else { Ok(set) }
    }
}

/// An id as far as it is told to anybody.
fn shortened(id: &str) -> String {
    id.chars().take(64).collect()
}

fn read(key: &Value, with_secrets: bool) -> Result<SetKey, NotTaken> {
    let members = key.as_object().ok_or(NotTaken::Malformed)?;
    let id = text(members, "kid")?;
    if id.is_some_and(|id| id.len() > MAX_ID_BYTES) {
        return Err(NotTaken::Malformed);
    }
    if text(members, "use")?.is_some_and(|usage| usage != "sig") {
        return Err(NotTaken::OtherUse);
    }
    if let Some(operations) = members.get("key_ops") {
        let operations = operations.as_array().ok_or(NotTaken::Malformed)?;
        if !operations.iter().any(|operation| operation == "verify") {
            return Err(NotTaken::OtherUse);
        }
    }
    let algorithm = algorithm(members)?;
    let key = match algorithm {
        Algorithm::Hs256 if !with_secrets => return Err(NotTaken::Secret),
        Algorithm::Hs256 => Key::from_secret(&bytes(members, "k")?)?,
        _ if members.contains_key("d") => return Err(NotTaken::Private),
        Algorithm::Rs256 => Key::from_rsa(&bytes(members, "n")?, &bytes(members, "e")?)?,
        Algorithm::Es256 => Key::from_p256(&bytes(members, "x")?, &bytes(members, "y")?)?,
        Algorithm::EdDsa => Key::from_ed25519(&bytes(members, "x")?)?,
    };
    Ok(SetKey { id: id.map(str::to_owned), key })
}

/// The one algorithm of a key: that of its kind, and `alg`, if it is there, must say the same.
fn algorithm(members: &Map<String, Value>) -> Result<Algorithm, NotTaken> {
    let of_its_kind = match (text(members, "kty")?, text(members, "crv")?) {
        (Some("oct"), _) => Algorithm::Hs256,
        (Some("RSA"), _) => Algorithm::Rs256,
        (Some("EC"), Some("P-256")) => Algorithm::Es256,
        (Some("OKP"), Some("Ed25519")) => Algorithm::EdDsa,
        _ => return Err(NotTaken::OtherAlgorithm),
    };
    match text(members, "alg")? {
        Some(name) if Algorithm::named(name) != Some(of_its_kind) => Err(NotTaken::OtherAlgorithm),
        _ => Ok(of_its_kind),
    }
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Result<Option<&'m str>, NotTaken> {
    members.get(name).map(|value| value.as_str().ok_or(NotTaken::Malformed)).transpose()
}

fn bytes(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, NotTaken> {
    let text = text(members, name)?.ok_or(NotTaken::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| NotTaken::Malformed)
}
