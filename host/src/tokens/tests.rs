//! Good tokens of every algorithm, and what a bad one is told. The attacks have a file of their own.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm as Library, EncodingKey};
use serde_json::{Value, json};

use super::*;
use crate::settings::AuthKey;

mod attacks;
mod keys;

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub(crate) const RSA_PUBLIC: &[u8] = include_bytes!("../../../tests/fixtures/keys/rsa-public.pem");
pub(crate) const P256_PUBLIC: &[u8] = include_bytes!("../../../tests/fixtures/keys/p256-public.pem");
pub(crate) const ED_PUBLIC: &[u8] = include_bytes!("../../../tests/fixtures/keys/ed25519-public.pem");
const RSA_PRIVATE: &[u8] = include_bytes!("../../../tests/fixtures/keys/rsa-private.pem");
const P256_PRIVATE: &[u8] = include_bytes!("../../../tests/fixtures/keys/p256-private.pem");
const ED_PRIVATE: &[u8] = include_bytes!("../../../tests/fixtures/keys/ed25519-private.pem");

/// The half of a key that signs.
pub(crate) fn signer(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::Hs256 => EncodingKey::from_secret(SECRET),
        Algorithm::Rs256 => EncodingKey::from_rsa_pem(RSA_PRIVATE).unwrap(),
        Algorithm::Es256 => EncodingKey::from_ec_pem(P256_PRIVATE).unwrap(),
        Algorithm::EdDsa => EncodingKey::from_ed_pem(ED_PRIVATE).unwrap(),
    }
}

/// The half that checks.
pub(crate) fn key(algorithm: Algorithm) -> Key {
    match algorithm {
        Algorithm::Hs256 => Key::from_secret(SECRET).unwrap(),
        Algorithm::Rs256 => Key::from_pem(algorithm, RSA_PUBLIC).unwrap(),
        Algorithm::Es256 => Key::from_pem(algorithm, P256_PUBLIC).unwrap(),
        Algorithm::EdDsa => Key::from_pem(algorithm, ED_PUBLIC).unwrap(),
    }
}

/// The public half as a key set has it; of a secret, all of it.
pub(crate) fn jwk(algorithm: Algorithm, id: &str) -> Value {
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&signer(algorithm), library(algorithm)).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    jwk["kid"] = json!(id);
    jwk
}

fn library(algorithm: Algorithm) -> Library {
    match algorithm {
        Algorithm::Hs256 => Library::HS256,
        Algorithm::Rs256 => Library::RS256,
        Algorithm::Es256 => Library::ES256,
        Algorithm::EdDsa => Library::EdDSA,
    }
}

/// A ring of these keys, by id.
pub(crate) fn ring(keys: &[(Option<&str>, Algorithm)]) -> KeyRing {
    let keys = keys.iter().map(|(id, algorithm)| AuthKey { id: id.map(str::to_owned), key: key(*algorithm) });
    KeyRing::new(&keys.collect::<Vec<_>>(), None)
}

/// No issuer, no audience, 30 seconds of leeway.
pub(crate) fn rules() -> TokenRules {
    TokenRules { issuer: None, audience: None, leeway: std::time::Duration::from_secs(30), watch_claim: None }
}

/// The two texts as they are, signed.
fn signed_text(header: &str, claims: &str, key: &EncodingKey, algorithm: Library) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A token as an honest issuer makes it.
pub(crate) fn token(algorithm: Algorithm, id: Option<&str>, claims: &Value) -> String {
    let mut header = json!({"alg": algorithm.as_str(), "typ": "JWT"});
    if let Some(id) = id {
        header["kid"] = json!(id);
    }
    signed_text(&header.to_string(), &claims.to_string(), &signer(algorithm), library(algorithm))
}

fn hs256(claims: Value) -> String {
    token(Algorithm::Hs256, None, &claims)
}

fn one_secret() -> KeyRing {
    ring(&[(None, Algorithm::Hs256)])
}

fn alive() -> Value {
    json!({"sub": "alice", "exp": NOW + 60})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = alive();
    claims[name] = value;
    claims
}

/// What a ring of one secret says of these claims.
fn judged(claims: Value, rules: &TokenRules) -> Result<Bearer, TokenError> {
    verify(&hs256(claims), &one_secret(), rules, NOW)
}

#[test]
fn every_algorithm_verifies_with_its_key_and_with_no_other() {
    let all = Algorithm::ALL.map(|algorithm| (Some(algorithm.as_str()), algorithm));
    let ring = ring(&all);
    for (id, algorithm) in all {
        let bearer = verify(&token(algorithm, id, &alive()), &ring, &rules(), NOW).unwrap();
        assert_eq!((bearer.user.as_str(), bearer.expires_at), ("alice", (NOW + 60) * 1000));
        for (other, _) in all.into_iter().filter(|(other, _)| *other != id) {
            let error = verify(&token(algorithm, other, &alive()), &ring, &rules(), NOW).unwrap_err();
            assert_eq!(error, TokenError::Algorithm, "signed with {id:?}, named {other:?}");
        }
    }
}

#[test]
fn ed25519_has_two_names() {
    let ring = ring(&[(None, Algorithm::EdDsa)]);
    let key = signer(Algorithm::EdDsa);
    let token = signed_text(r#"{"alg":"Ed25519"}"#, &alive().to_string(), &key, Library::EdDSA);
    assert!(verify(&token, &ring, &rules(), NOW).is_ok());
}

#[test]
fn the_key_id_selects_the_key() {
    let ids = [(Some("old"), Algorithm::EdDsa), (Some("new"), Algorithm::Hs256)];
    let two = ring(&ids);
    let told = |ring: &KeyRing, id| verify(&token(Algorithm::Hs256, id, &alive()), ring, &rules(), NOW);
    assert!(told(&two, Some("new")).is_ok());
    assert_eq!(told(&two, Some("old")), Err(TokenError::Algorithm));
    assert_eq!(told(&two, Some("lost")), Err(TokenError::UnknownKey));
    assert_eq!(told(&two, None), Err(TokenError::NoKeyId));
    let named = ring(&ids[1..]);
    assert!(told(&named, None).is_ok(), "the only key needs no naming");
    assert_eq!(told(&named, Some("lost")), Err(TokenError::UnknownKey));
    assert!(told(&one_secret(), Some("whatever")).is_ok(), "a key without an id takes every one");
    assert_eq!(two.ids(), ["new", "old"]);
    assert_eq!(told(&KeyRing::default(), None), Err(TokenError::NoKeyId));
}

#[test]
fn a_fetched_key_never_takes_the_place_of_a_configured_one() {
    let set = |id| KeySet { keys: vec![SetKey { id, key: key(Algorithm::EdDsa) }], left_out: Vec::new() };
    let fixed = [AuthKey { id: Some("a".into()), key: key(Algorithm::Hs256) }];
    let ring = KeyRing::new(&fixed, Some(&set(Some("a".into()))));
    assert!(verify(&token(Algorithm::Hs256, Some("a"), &alive()), &ring, &rules(), NOW).is_ok());
    // The only key of a set is for tokens without an id, and for those alone: another id may be that of the next key.
    let alone = KeyRing::new(&[], Some(&set(None)));
    assert!(verify(&token(Algorithm::EdDsa, None, &alive()), &alone, &rules(), NOW).is_ok());
    let named = verify(&token(Algorithm::EdDsa, Some("b"), &alive()), &alone, &rules(), NOW);
    assert_eq!(named, Err(TokenError::UnknownKey));
}

#[test]
fn time_is_checked_with_a_leeway() {
    let ends = |exp: Value| judged(with("exp", exp), &rules()).map(|bearer| bearer.expires_at / 1000);
    assert_eq!(ends(json!(NOW + 60)), Ok(NOW + 60));
    assert_eq!(ends(json!(NOW - 5)), Ok(NOW + 25), "the session lasts as long as the leeway does");
    assert_eq!(ends(json!(NOW - 29)), Ok(NOW + 1));
    assert_eq!(ends(json!(NOW - 30)), Err(TokenError::Expired));
    assert_eq!(ends(json!((NOW + 60) as f64 + 0.5)), Ok(NOW + 60));
    let from = |nbf: u64| judged(with("nbf", json!(nbf)), &rules()).map(|_| ());
    assert_eq!(from(NOW - 1000), Ok(()));
    assert_eq!(from(NOW + 30), Ok(()));
    assert_eq!(from(NOW + 31), Err(TokenError::NotYetValid));
    let strict = TokenRules { leeway: std::time::Duration::ZERO, ..rules() };
    assert_eq!(judged(with("exp", json!(NOW)), &strict), Err(TokenError::Expired));
    assert_eq!(judged(with("nbf", json!(NOW + 1)), &strict), Err(TokenError::NotYetValid));
}

#[test]
fn issuer_and_audience_are_required_when_configured() {
    let strict = TokenRules {
        issuer: Some("https://app.example".into()),
        audience: Some("presence".into()),
        ..rules()
    };
    let told = |change: Value| {
        let mut claims = with("iss", json!("https://app.example"));
        claims["aud"] = json!(["x", "presence"]);
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        judged(claims, &strict).map(|_| ())
    };
    assert_eq!(told(json!({})), Ok(()));
    assert_eq!(told(json!({"aud": "presence"})), Ok(()));
    assert_eq!(told(json!({"iss": null})), Err(TokenError::Missing("iss")));
    assert_eq!(told(json!({"aud": null})), Err(TokenError::Missing("aud")));
    assert_eq!(judged(with("iss", json!("anyone")), &rules()).map(|_| ()), Ok(()));
}

#[test]
fn a_subject_is_a_user_id() {
    let user = |sub: &str| judged(with("sub", json!(sub)), &rules()).map(|bearer| bearer.user.to_string());
    assert_eq!(user("a/b 🦀"), Ok("a/b 🦀".to_owned()));
    for bad in ["", "..", "a\u{7}"] {
        assert!(matches!(user(bad), Err(TokenError::Subject(_))), "{bad}");
    }
}

#[test]
fn the_token_says_whom_one_may_watch_where_it_is_asked() {
    let asked = TokenRules { watch_claim: Some("presence_watch".into()), ..rules() };
    let may = |claims: Value, rules: &TokenRules, user: &str| {
        judged(claims, rules).map(|bearer| bearer.circle.holds(&UserId::new(user).unwrap()))
    };
    let listed = with("presence_watch", json!(["bob", {"prefix": "team-7/"}]));
    assert_eq!(may(listed.clone(), &asked, "bob"), Ok(true));
    assert_eq!(may(listed.clone(), &asked, "team-7/zoë"), Ok(true));
    assert_eq!(may(listed.clone(), &asked, "carol"), Ok(false));
    assert_eq!(may(listed, &rules(), "bob"), Ok(false), "nobody asks for the claim");
    assert_eq!(may(alive(), &asked, "bob"), Ok(false));
    let bad = with("presence_watch", json!("everyone"));
    assert_eq!(may(bad.clone(), &asked, "bob"), Err(TokenError::BadClaim("presence_watch".into())));
    assert_eq!(may(bad, &rules(), "bob"), Ok(false));
}
