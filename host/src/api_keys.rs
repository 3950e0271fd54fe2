//! Keys of the HTTP API: random texts that services send, known here by digest only, each with what it may do. Knows no
//! request and no file.
//!
//! A key is 256 random bits, so its SHA-256 tells nothing that helps to find it, and no slow or salted hash is needed:
//! those make up for passwords that can be guessed. NIST SP 800-63B (5.1.2.2) draws the line at 112 bits.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// What every key begins with: people and scanners for leaked secrets know it by that.
pub const KEY_PREFIX: &str = "pk_";

/// What a digest begins with in presence.toml.
const DIGEST_PREFIX: &str = "sha256:";

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Ask for statuses, plugins, metrics and whatever else changes nothing.
    Read,
    /// Report the sessions that a holder has, and the messages of users.
    Sessions,
    /// Change plugins and dead letters; and everything that the others may.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 3] = [Scope::Read, Scope::Sessions, Scope::Admin];

    /// As in presence.toml.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Sessions => "sessions",
            Scope::Admin => "admin",
        }
    }
}

/// No scope is called so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be \"read\", \"sessions\" or \"admin\"")]
pub struct NoScope;

impl FromStr for Scope {
    type Err = NoScope;

    fn from_str(text: &str) -> Result<Scope, NoScope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(NoScope)
    }
}

/// Some scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Whether what is for `scope` is allowed. `admin` allows everything: who may put in plugins, which hear of everybody,
    /// can't be kept from reading.
    pub fn allow(&self, scope: Scope) -> bool {
        self.0.contains(&scope) || self.0.contains(&Scope::Admin)
    }

    /// Their names, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|scope| scope.as_str()).collect()
    }

    /// Without any, a key is good for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Scopes(scopes)
    }
}

/// The SHA-256 of a key, `pk_` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of this key.
    pub fn of(key: &str) -> KeyDigest {
        KeyDigest(Sha256::digest(key.as_bytes()).into())
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(DIGEST_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a text is no digest. Tells nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDigest {
    /// It would let in whoever reads the file.
    #[error(
        "is a key, and only its hash belongs here: take the line that `presence keys new` prints, and make a new key, \
         since this one has been seen"
    )]
    Key,
    /// Anything else.
    #[error("must be \"sha256:\" and 64 hexadecimal digits, as `presence keys new` prints it")]
    Digest,
}

impl FromStr for KeyDigest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<KeyDigest, BadDigest> {
        if text.starts_with(KEY_PREFIX) {
            return Err(BadDigest::Key);
        }
        let digits = text.strip_prefix(DIGEST_PREFIX).ok_or(BadDigest::Digest)?.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(BadDigest::Digest);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16).ok_or(BadDigest::Digest)?;
                *byte = *byte << 4 | value as u8;
            }
        }
        Ok(KeyDigest(bytes))
    }
}

/// `[[api.key]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Whose; for people and logs.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// How it is known.
    pub digest: KeyDigest,
}

/// All keys that are let in; none: there are no keys, and nobody needs one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiKeys(pub Vec<ApiKey>);

impl ApiKeys {
    /// Without any key nobody is asked for one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who sends this. Takes as long whether it is known or not, and whichever it is.
    pub fn find(&self, sent: &str) -> Option<&ApiKey> {
        let sent = KeyDigest::of(sent);
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.digest.0.ct_eq(&sent.0)) {
                found = Some(key);
            }
        }
        found
    }
}

/// The operating system gives no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoRandomness;

/// A key that nobody has had before: `pk_` and 43 characters of base64url.
pub fn new_key() -> Result<String, NoRandomness> {
    let mut bytes = [0; 32];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, sent: &str, scopes: &[Scope]) -> ApiKey {
        let scopes = scopes.iter().copied().collect();
        ApiKey { name: name.to_owned(), scopes, digest: KeyDigest::of(sent) }
    }

    #[test]
    fn a_key_is_known_by_its_digest() {
        let (one, other) = (new_key().unwrap(), new_key().unwrap());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one[..3]), (46, "pk_"));
        let keys = ApiKeys(vec![key("a", &one, &[Scope::Read]), key("b", &other, &[Scope::Admin])]);
        assert_eq!(keys.find(&one).unwrap().name, "a");
        assert_eq!(keys.find(&other).unwrap().name, "b");
        let digest = KeyDigest::of(&one).to_string();
        for sent in ["", "pk_", &one[3..], &one[..45], &digest, &format!("{one}="), &one.to_uppercase()] {
            assert_eq!(keys.find(sent), None, "{sent}");
        }
        assert_eq!(ApiKeys::default().find(&one), None);
    }

    #[test]
    fn digests_are_written_and_read() {
        let digest = KeyDigest::of("abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text, "the example of FIPS 180-2");
        assert_eq!(text.parse(), Ok(digest));
        let upper = text[7..].to_uppercase();
        assert_eq!(format!("sha256:{upper}").parse(), Ok(digest));
        let long = format!("{text}0");
        for bad in ["", &text[7..], &text[..70], &long, &text.replace('b', "g"), &text.replace('b', "é")] {
            assert_eq!(bad.parse::<KeyDigest>(), Err(BadDigest::Digest), "{bad}");
        }
        assert_eq!(new_key().unwrap().parse::<KeyDigest>(), Err(BadDigest::Key));
    }

    #[test]
    fn admin_may_everything_and_the_others_what_they_say() {
        let allowed = |scopes: &[Scope]| {
            let scopes: Scopes = scopes.iter().copied().collect();
            Scope::ALL.map(|scope| scopes.allow(scope))
        };
        assert_eq!(allowed(&[]), [false; 3]);
        assert_eq!(allowed(&[Scope::Read]), [true, false, false]);
        assert_eq!(allowed(&[Scope::Sessions]), [false, true, false]);
        assert_eq!(allowed(&[Scope::Sessions, Scope::Read]), [true, true, false]);
        assert_eq!(allowed(&[Scope::Admin]), [true; 3]);
        let twice: Scopes = [Scope::Sessions, Scope::Read, Scope::Sessions].into_iter().collect();
        assert_eq!(twice.names(), ["read", "sessions"]);
        assert_eq!("write".parse::<Scope>(), Err(NoScope));
    }
}
