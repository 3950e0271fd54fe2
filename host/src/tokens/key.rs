//! One key and the one algorithm that it is for. What can't be a key, or is too weak to be one, is found here, before
//! any token is checked with it. Knows no file and no token.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm as Library, DecodingKey};

/// HMAC with SHA-256 wants a secret at least as long as its output (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// RSA keys of fewer bits are too weak (RFC 7518, section 3.3).
const MIN_RSA_BITS: usize = 2048;

/// Signatures by RSA keys of more bits cost too much time to check.
const MAX_RSA_BITS: usize = 4096;

/// The largest exponent of an RSA key.
const MAX_RSA_EXPONENT: u64 = (1 << 33) - 1;

/// Bytes of a coordinate on P-256, and of an Ed25519 key.
const CURVE_BYTES: usize = 32;

/// How tokens are signed. A key has one, whatever a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256; the secret has at least 32 bytes.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256; 2,048 to 4,096 bits.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 4] = [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

    /// Its name in presence.toml and in most tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name. What RFC 9864 calls `Ed25519` is `EdDSA` with the only curve that is known here.
    pub fn named(name: &str) -> Option<Algorithm> {
        if name == "Ed25519" {
            return Some(Algorithm::EdDsa);
        }
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// What a key of it is called.
    fn key_name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "secret",
            Algorithm::Rs256 => "RSA public key",
            Algorithm::Es256 => "P-256 public key",
            Algorithm::EdDsa => "Ed25519 public key",
        }
    }

    fn library(self) -> Library {
        match self {
            Algorithm::Hs256 => Library::HS256,
            Algorithm::Rs256 => Library::RS256,
            Algorithm::Es256 => Library::ES256,
            Algorithm::EdDsa => Library::EdDSA,
        }
    }
}

/// Why something is no key. Tells nothing of a secret but its length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Can be guessed.
    #[error("has {0} bytes; \"HS256\" needs at least {MIN_SECRET_BYTES} that nobody can guess")]
    ShortSecret(usize),
    /// Another kind of file, or of key.
    #[error("holds no {} in PEM form (`-----BEGIN PUBLIC KEY-----`)", .0.key_name())]
    NotPem(Algorithm),
    /// Too weak, or too slow.
    #[error("is an RSA key of {0} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken")]
    RsaBits(usize),
    /// Not the numbers, the point, of a key.
    #[error("is no {}", .0.key_name())]
    Unsound(Algorithm),
}

/// A key to check signatures with.
#[derive(Clone)]
pub struct Key {
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Key {
    /// For HS256.
    pub fn from_secret(secret: &[u8]) -> Result<Key, BadKey> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(BadKey::ShortSecret(secret.len()));
        }
        Ok(Key { algorithm: Algorithm::Hs256, decoding: DecodingKey::from_secret(secret) })
    }

    /// A public key in PEM, for the other algorithms.
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Key, BadKey> {
        let no_key = BadKey::NotPem(algorithm);
        let decoding = match algorithm {
            Algorithm::Hs256 => return Err(no_key),
            Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem),
            Algorithm::Es256 => DecodingKey::from_ec_pem(pem),
            Algorithm::EdDsa => DecodingKey::from_ed_pem(pem),
        };
        let decoding = decoding.map_err(|_| no_key.clone())?;
        if algorithm == Algorithm::Rs256 {
            let (modulus, exponent) = rsa_numbers(&decoding).ok_or(no_key)?;
            return Key::from_rsa(&modulus, &exponent);
        }
        Key::on_a_curve(algorithm, decoding).map_err(|_| no_key)
    }

    /// For RS256, from the two numbers of a public key, the most significant byte first.
    pub(super) fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Key, BadKey> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            return Err(BadKey::RsaBits(bits));
        }
        let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        let value = exponent.iter().take(8).fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let is_sound = is_odd(modulus) && is_odd(exponent) && exponent.len() <= 8;
        if !is_sound || !(3..=MAX_RSA_EXPONENT).contains(&value) {
            return Err(BadKey::Unsound(Algorithm::Rs256));
        }
        let decoding = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Ok(Key { algorithm: Algorithm::Rs256, decoding })
    }

    /// For ES256, from the two coordinates of a public key.
    pub(super) fn from_p256(x: &[u8], y: &[u8]) -> Result<Key, BadKey> {
        if x.len() != CURVE_BYTES || y.len() != CURVE_BYTES {
            return Err(BadKey::Unsound(Algorithm::Es256));
        }
        // 4: both coordinates follow.
        let point = [&[4_u8][..], x, y].concat();
        Key::on_a_curve(Algorithm::Es256, DecodingKey::from_ec_der(&point))
    }

    /// For EdDSA, from the bytes of a public key.
    pub(super) fn from_ed25519(bytes: &[u8]) -> Result<Key, BadKey> {
        Key::on_a_curve(Algorithm::EdDsa, DecodingKey::from_ed_der(bytes))
    }

    /// Only points that lie on the curve are keys. The library takes more bytes than an Ed25519 key has, and fewer end
    /// in a panic.
    fn on_a_curve(algorithm: Algorithm, decoding: DecodingKey) -> Result<Key, BadKey> {
        let unsound = BadKey::Unsound(algorithm);
        let bytes = decoding.try_get_as_bytes().map_err(|_| unsound.clone())?;
        if algorithm == Algorithm::EdDsa && bytes.len() != CURVE_BYTES {
            return Err(unsound);
        }
        (DEFAULT_PROVIDER.verifier_factory)(&algorithm.library(), &decoding).map_err(|_| unsound)?;
        Ok(Key { algorithm, decoding })
    }

    /// The only one it is for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the signature, in base64url, is this key's under these bytes; none: it is not base64url.
    pub(super) fn has_signed(&self, message: &str, signature: &str) -> Option<bool> {
        let verified = jsonwebtoken::crypto::verify(
            signature,
            message.as_bytes(),
            &self.decoding,
            self.algorithm.library(),
        );
        verified.ok()
    }
}

/// Modulus and exponent of what was found in a PEM file; none if they are not there.
fn rsa_numbers(decoding: &DecodingKey) -> Option<(Vec<u8>, Vec<u8>)> {
    let jwk = Jwk::from_decoding_key(decoding, None).ok()?;
    match jwk.algorithm {
        AlgorithmParameters::RSA(numbers) => {
            Some((URL_SAFE_NO_PAD.decode(numbers.n).ok()?, URL_SAFE_NO_PAD.decode(numbers.e).ok()?))
        }
        _ => None,
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
