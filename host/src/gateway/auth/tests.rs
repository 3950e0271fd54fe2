//! Tokens and query users, good and bad.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{HOST, SEC_WEBSOCKET_PROTOCOL};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::jwt::TokenError;
use super::*;
use crate::settings::{AuthKey, KeyAlgorithm};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";
/// The first example key of RFC 8032, section 7.1, as PKCS #8 and SPKI.
const ED_PRIVATE: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
const ED_PUBLIC: &str = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn pem(label: &str, body: &str) -> Vec<u8> {
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn hs256(id: Option<&str>, secret: &[u8]) -> AuthKey {
    AuthKey { id: id.map(str::to_owned), algorithm: KeyAlgorithm::Hs256, material: secret.into() }
}

fn eddsa(id: Option<&str>) -> AuthKey {
    let material = pem("PUBLIC KEY", ED_PUBLIC).into();
    AuthKey { id: id.map(str::to_owned), algorithm: KeyAlgorithm::EdDsa, material }
}

fn authenticator(keys: Vec<AuthKey>, watch: WatchPolicy) -> Authenticator {
    let mode = AuthMode::Jwt { issuer: None, audience: None, keys };
    Authenticator::new(&AuthSettings { mode, watch, query_token: true }).unwrap()
}

fn strict() -> Authenticator {
    let mode = AuthMode::Jwt {
        issuer: Some("https://app.example".into()),
        audience: Some("presence".into()),
        keys: vec![hs256(None, SECRET)],
    };
    Authenticator::new(&AuthSettings { mode, watch: WatchPolicy::Own, query_token: false }).unwrap()
}

fn token(kid: Option<&str>, claims: Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

fn request(uri: &str, headers: &[(http::HeaderName, &str)]) -> Parts {
    let mut request = http::Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn with_token(authenticator: &Authenticator, token: &str) -> Result<Identity, Denied> {
    let bearer = format!("Bearer {token}");
    authenticator.identify(&request("/v1/connect", &[(AUTHORIZATION, &bearer)]), now())
}

fn refusal(authenticator: &Authenticator, token: &str) -> TokenError {
    match with_token(authenticator, token) {
        Err(Denied::Token(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn raw_token(header: Value, claims: Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(&header), part(&claims), URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_token_names_the_user_and_the_end_of_the_session() {
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    let expires = now() + 60;
    let token = token(None, json!({"sub": "a/b 🦀", "exp": expires}));
    let identity = with_token(&keys, &token).unwrap();
    assert_eq!(identity.user.as_str(), "a/b 🦀");
    assert_eq!(identity.expires_at, Some(expires * 1000));
    let protocols = format!("presence.v1, bearer.{token}");
    for request in [
        request("/v1/connect", &[(SEC_WEBSOCKET_PROTOCOL, &protocols)]),
        request(&format!("/v1/connect?access_token={token}"), &[]),
        request("/v1/connect", &[(AUTHORIZATION, &format!("bearer {token}"))]),
    ] {
        assert_eq!(keys.identify(&request, now()).unwrap(), identity);
    }
}

#[test]
fn a_token_in_the_address_is_looked_at_only_if_configured() {
    let token =
        token(None, json!({"sub": "a", "exp": now() + 60, "iss": "https://app.example", "aud": "presence"}));
    let request = request(&format!("/v1/connect?access_token={token}"), &[]);
    assert_eq!(strict().identify(&request, now()), Err(Denied::NoToken));
}

#[test]
fn ed25519_tokens_verify() {
    let keys = authenticator(vec![eddsa(Some("ed")), hs256(Some("hs"), SECRET)], WatchPolicy::Own);
    let header = Header { kid: Some("ed".into()), ..Header::new(Algorithm::EdDSA) };
    let key = EncodingKey::from_ed_pem(&pem("PRIVATE KEY", ED_PRIVATE)).unwrap();
    let token = jsonwebtoken::encode(&header, &json!({"sub": "alice", "exp": now() + 60}), &key).unwrap();
    assert_eq!(with_token(&keys, &token).unwrap().user.as_str(), "alice");
}

#[test]
fn the_algorithm_is_the_keys_not_the_tokens() {
    let keys = authenticator(vec![eddsa(None)], WatchPolicy::Own);
    // The classic confusion: the public key, which everybody knows, used as an HMAC secret.
    for secret in [pem("PUBLIC KEY", ED_PUBLIC), STANDARD.decode(ED_PUBLIC).unwrap()] {
        let claims = json!({"sub": "mallory", "exp": now() + 60});
        let forged =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&secret))
                .unwrap();
        assert_eq!(refusal(&keys, &forged), TokenError::Algorithm);
    }
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    let claims = json!({"sub": "mallory", "exp": now() + 60});
    let other =
        jsonwebtoken::encode(&Header::new(Algorithm::HS384), &claims, &EncodingKey::from_secret(SECRET))
            .unwrap();
    assert_eq!(refusal(&keys, &other), TokenError::Algorithm);
}

#[test]
fn unsigned_tokens_are_refused() {
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    let claims = json!({"sub": "mallory", "exp": now() + 60});
    for algorithm in ["none", "None", "NONE", ""] {
        let unsigned = raw_token(json!({"alg": algorithm, "typ": "JWT"}), claims.clone(), b"");
        assert_eq!(refusal(&keys, &unsigned), TokenError::Algorithm, "{algorithm}");
    }
    let unsigned = raw_token(json!({"alg": "HS256"}), claims.clone(), b"");
    assert_eq!(refusal(&keys, &unsigned), TokenError::Signature);
    let header = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
    assert_eq!(refusal(&keys, &raw_token(header, claims, b"x")), TokenError::Critical);
}

#[test]
fn tampered_and_broken_tokens_are_refused() {
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    let claims = json!({"sub": "mallory", "exp": now() + 60});
    let foreign =
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(OTHER))
            .unwrap();
    assert_eq!(refusal(&keys, &foreign), TokenError::Signature);
    for broken in ["x", "a.b", "a.b.c", "..", "a.b.c.d"] {
        assert_eq!(refusal(&keys, broken), TokenError::Malformed, "{broken}");
    }
    assert_eq!(refusal(&keys, &"x".repeat(MAX_TOKEN_BYTES + 1)), TokenError::TooLong);
}

#[test]
fn time_is_checked_with_a_leeway() {
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    let at = now();
    let late = token(None, json!({"sub": "a", "exp": at - LEEWAY - 5}));
    assert_eq!(refusal(&keys, &late), TokenError::Expired);
    let just = token(None, json!({"sub": "a", "exp": at - 5}));
    assert_eq!(with_token(&keys, &just).unwrap().expires_at, Some((at - 5 + LEEWAY) * 1000));
    let early = token(None, json!({"sub": "a", "exp": at + 600, "nbf": at + LEEWAY + 20}));
    assert_eq!(refusal(&keys, &early), TokenError::NotYetValid);
    let fraction = token(None, json!({"sub": "a", "exp": (at + 60) as f64 + 0.5}));
    assert_eq!(with_token(&keys, &fraction).unwrap().expires_at, Some((at + 60) * 1000));
}

#[test]
fn expiry_and_subject_are_required() {
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    let missing = |claim: &str| TokenError::Missing(claim.to_owned());
    assert_eq!(refusal(&keys, &token(None, json!({"sub": "a"}))), missing("exp"));
    assert_eq!(refusal(&keys, &token(None, json!({"sub": "a", "exp": "tomorrow"}))), missing("exp"));
    assert_eq!(refusal(&keys, &token(None, json!({"exp": now() + 60}))), missing("sub"));
    assert_eq!(refusal(&keys, &token(None, json!({"exp": now() + 60, "sub": 7}))), missing("sub"));
    for bad in ["", "..", "a\u{7}"] {
        let error = refusal(&keys, &token(None, json!({"exp": now() + 60, "sub": bad})));
        assert!(matches!(error, TokenError::Subject(_)), "{error:?}");
    }
}

#[test]
fn issuer_and_audience_are_required_when_configured() {
    let claims = |change: Value| {
        let mut claims =
            json!({"sub": "a", "exp": now() + 60, "iss": "https://app.example", "aud": ["x", "presence"]});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        token(None, claims)
    };
    assert!(with_token(&strict(), &claims(json!({}))).is_ok());
    assert_eq!(refusal(&strict(), &claims(json!({"iss": "https://evil.example"}))), TokenError::Issuer);
    assert_eq!(refusal(&strict(), &claims(json!({"iss": null}))), TokenError::Missing("iss".into()));
    assert_eq!(refusal(&strict(), &claims(json!({"aud": "billing"}))), TokenError::Audience);
    assert_eq!(refusal(&strict(), &claims(json!({"aud": []}))), TokenError::Audience);
    assert_eq!(refusal(&strict(), &claims(json!({"aud": null}))), TokenError::Missing("aud".into()));
    let lax = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    assert!(with_token(&lax, &claims(json!({"aud": "billing", "iss": "anyone"}))).is_ok());
}

#[test]
fn the_key_id_selects_the_key() {
    let two = authenticator(vec![hs256(Some("old"), OTHER), hs256(Some("new"), SECRET)], WatchPolicy::Own);
    let claims = json!({"sub": "a", "exp": now() + 60});
    assert!(with_token(&two, &token(Some("new"), claims.clone())).is_ok());
    assert_eq!(refusal(&two, &token(Some("old"), claims.clone())), TokenError::Signature);
    assert_eq!(refusal(&two, &token(Some("lost"), claims.clone())), TokenError::UnknownKey);
    assert_eq!(refusal(&two, &token(None, claims.clone())), TokenError::UnknownKey);
    let one = authenticator(vec![hs256(Some("new"), SECRET)], WatchPolicy::Own);
    assert!(with_token(&one, &token(None, claims.clone())).is_ok());
    assert_eq!(refusal(&one, &token(Some("lost"), claims)), TokenError::UnknownKey);
}

#[test]
fn the_token_says_whom_one_may_watch() {
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Claims);
    let identity =
        with_token(&keys, &token(None, json!({"sub": "a", "exp": now() + 60, "watch": ["c", "b"]}))).unwrap();
    let may = |user: &str| identity.watching.allows(&identity.user, &UserId::new(user).unwrap());
    assert_eq!(["a", "b", "c", "d"].map(may), [true, true, true, false]);
    let bad = token(None, json!({"sub": "a", "exp": now() + 60, "watch": "everyone"}));
    assert_eq!(refusal(&keys, &bad), TokenError::BadClaim("watch"));
    let none = with_token(&keys, &token(None, json!({"sub": "a", "exp": now() + 60}))).unwrap();
    assert!(!none.watching.allows(&none.user, &UserId::new("b").unwrap()));
}

#[test]
fn doubtful_headers_are_refused() {
    let keys = authenticator(vec![hs256(None, SECRET)], WatchPolicy::Own);
    let token = token(None, json!({"sub": "a", "exp": now() + 60}));
    let bearer = format!("Bearer {token}");
    let identify = |request: Parts| keys.identify(&request, now());
    assert_eq!(identify(request("/v1/connect", &[])), Err(Denied::NoToken));
    assert_eq!(
        identify(request("/v1/connect", &[(AUTHORIZATION, "Basic YTpi")])),
        Err(Denied::Authorization)
    );
    assert_eq!(identify(request("/v1/connect", &[(AUTHORIZATION, &token)])), Err(Denied::Authorization));
    let twice = [(AUTHORIZATION, bearer.as_str()), (AUTHORIZATION, bearer.as_str())];
    assert_eq!(identify(request("/v1/connect", &twice)), Err(Denied::Authorization));
    let both = format!("bearer.{token}, bearer.x");
    assert_eq!(
        identify(request("/v1/connect", &[(SEC_WEBSOCKET_PROTOCOL, &both)])),
        Err(Denied::SeveralTokens)
    );
}

#[test]
fn without_authentication_the_address_names_the_user() {
    let settings = AuthSettings { mode: AuthMode::None, watch: WatchPolicy::Anyone, query_token: false };
    let open = Authenticator::new(&settings).unwrap();
    let identify = |uri: &str| open.identify(&request(uri, &[(HOST, "localhost:7070")]), now());
    let user = |uri: &str| identify(uri).unwrap().user.as_str().to_owned();
    assert_eq!(user("/v1/connect?user=alice"), "alice");
    assert_eq!(user("/v1/connect?user=a.b%2Fc%2Cd*%3E%20%F0%9F%A6%80+"), "a.b/c,d*> 🦀+");
    assert_eq!(identify("/v1/connect"), Err(Denied::NoUser));
    assert_eq!(identify("/v1/connect?user="), Err(Denied::User(InvalidUserId::Empty)));
    assert_eq!(identify("/v1/connect?user=.."), Err(Denied::User(InvalidUserId::Dots)));
    assert_eq!(identify("/v1/connect?user=%2E%2e"), Err(Denied::User(InvalidUserId::Dots)));
    assert_eq!(identify("/v1/connect?user=a%0Ab"), Err(Denied::User(InvalidUserId::ControlCharacter)));
    let long = format!("/v1/connect?user={}", "x".repeat(257));
    assert_eq!(identify(&long), Err(Denied::User(InvalidUserId::TooLong)));
    let elsewhere = request("/v1/connect?user=alice", &[(HOST, "example.org")]);
    assert_eq!(open.identify(&elsewhere, now()), Err(Denied::Foreign(Foreign::Host)));
}

#[test]
fn unusable_keys_are_found_when_they_are_read() {
    let make = |key: AuthKey| {
        let mode = AuthMode::Jwt { issuer: None, audience: None, keys: vec![key] };
        Authenticator::new(&AuthSettings { mode, watch: WatchPolicy::Own, query_token: false })
    };
    assert!(make(hs256(Some("short"), b"secret")).unwrap_err().to_string().starts_with("auth.key short: "));
    for material in [b"nonsense".to_vec(), pem("PRIVATE KEY", ED_PRIVATE)] {
        let key = AuthKey { id: None, algorithm: KeyAlgorithm::EdDsa, material: material.into() };
        let error = make(key).unwrap_err().to_string();
        assert_eq!(error, "auth.key without an id: public_key_file holds no Ed25519 public key in PEM");
    }
}
