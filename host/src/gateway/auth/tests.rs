//! Requests with tokens and with query users, good and bad; fresh tokens of open sessions. What is wrong with a token is
//! tested with `tokens.rs`.

use http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use serde_json::{Value, json};

use super::*;
use crate::gateway::tests::jwt;
use crate::tokens::Algorithm;
use crate::tokens::tests::{NOW, token};

mod keys;

fn authenticator(watch: WatchPolicy, query_token: bool, settings: JwtSettings) -> Authenticator {
    let mode = AuthMode::Jwt(Box::new(settings));
    Authenticator::new(&AuthSettings { mode, watch, query_token }).unwrap()
}

fn secret() -> Authenticator {
    authenticator(WatchPolicy::Own, true, jwt())
}

fn signed(claims: Value) -> String {
    token(Algorithm::Hs256, None, &claims)
}

fn alices() -> String {
    signed(json!({"sub": "alice", "exp": NOW + 60}))
}

fn user(text: &str) -> UserId {
    UserId::new(text).unwrap()
}

fn request(uri: &str, headers: &[(http::HeaderName, &str)]) -> Parts {
    let mut request = http::Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

async fn with_token(authenticator: &Authenticator, token: &str) -> Result<Identity, Denied> {
    let bearer = format!("Bearer {token}");
    authenticator.identify(&request("/v1/connect", &[(AUTHORIZATION, &bearer)]), NOW).await
}

#[tokio::test]
async fn a_token_names_the_user_and_the_end_of_the_session() {
    let token = signed(json!({"sub": "a/b 🦀", "exp": NOW + 60}));
    let identity = with_token(&secret(), &token).await.unwrap();
    assert_eq!(identity.user.as_str(), "a/b 🦀");
    assert_eq!(identity.expires_at, Some((NOW + 60) * 1000));
    let protocols = format!("presence.v1, bearer.{token}");
    for request in [
        request("/v1/connect", &[(SEC_WEBSOCKET_PROTOCOL, &protocols)]),
        request(&format!("/v1/connect?access_token={token}"), &[]),
        request("/v1/connect", &[(AUTHORIZATION, &format!("bearer {token}"))]),
    ] {
        assert_eq!(secret().identify(&request, NOW).await.unwrap(), identity);
    }
}

#[tokio::test]
async fn a_token_in_the_address_is_looked_at_only_if_configured() {
    let request = request(&format!("/v1/connect?access_token={}", alices()), &[]);
    let strict = authenticator(WatchPolicy::Own, false, jwt());
    assert_eq!(strict.identify(&request, NOW).await, Err(Denied::NoToken));
    assert!(secret().identify(&request, NOW).await.is_ok());
}

#[tokio::test]
async fn a_bad_token_is_told_what_is_wrong() {
    let told = async |token: &str| match with_token(&secret(), token).await {
        Err(Denied::Token(NotVerified::Bad(error))) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(told("nonsense").await, TokenError::Malformed);
    assert_eq!(told(&signed(json!({"sub": "alice", "exp": NOW - 60}))).await, TokenError::Expired);
    let dots = told(&signed(json!({"sub": "..", "exp": NOW + 60}))).await;
    assert_eq!(dots, TokenError::Subject(InvalidUserId::Dots));
    let problem = Problem::from(Denied::Token(NotVerified::Bad(TokenError::Expired)));
    assert_eq!(problem.status(), StatusCode::UNAUTHORIZED);
    let problem = Problem::from(Denied::Token(NotVerified::KeysAway));
    assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn whom_one_may_watch_is_a_matter_of_policy() {
    let token = signed(json!({"sub": "a", "exp": NOW + 60, "presence_watch": ["c", {"prefix": "t/"}]}));
    for (policy, expected) in [
        (WatchPolicy::Own, [true, false, false, false]),
        (WatchPolicy::Claims, [true, false, true, true]),
        (WatchPolicy::Anyone, [true, true, true, true]),
    ] {
        let identity = with_token(&authenticator(policy, false, jwt()), &token).await.unwrap();
        let may = |other: &str| identity.watching.allows(&identity.user, &user(other));
        assert_eq!(["a", "b", "c", "t/d"].map(may), expected, "{policy:?}");
    }
    let silent = with_token(&authenticator(WatchPolicy::Claims, false, jwt()), &alices()).await.unwrap();
    assert!(silent.watching.allows(&silent.user, &user("alice")));
    assert!(!silent.watching.allows(&silent.user, &user("bob")));
}

#[tokio::test]
async fn pages_that_are_not_listed_are_refused_whatever_their_token() {
    let origins = Some(vec!["https://app.example".to_owned()]);
    let strict = authenticator(WatchPolicy::Own, false, JwtSettings { origins, ..jwt() });
    let bearer = format!("Bearer {}", alices());
    let told = async |authenticator: &Authenticator, origin: &str| {
        let request = request("/v1/connect", &[(AUTHORIZATION, &bearer), (ORIGIN, origin)]);
        authenticator.identify(&request, NOW).await.map(|_| ())
    };
    assert_eq!(told(&strict, "https://app.example").await, Ok(()));
    for origin in ["https://evil.example", "null"] {
        assert_eq!(told(&strict, origin).await, Err(Denied::Foreign(Foreign::NotListed)));
        assert_eq!(told(&secret(), origin).await, Ok(()), "nothing is listed");
    }
    assert!(with_token(&strict, &alices()).await.is_ok(), "no page at all");
    assert_eq!(Problem::from(Denied::Foreign(Foreign::NotListed)).status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn doubtful_headers_are_refused() {
    let keys = secret();
    let token = alices();
    let bearer = format!("Bearer {token}");
    let identify = async |headers: &[(http::HeaderName, &str)]| {
        keys.identify(&request("/v1/connect", headers), NOW).await
    };
    assert_eq!(identify(&[]).await, Err(Denied::NoToken));
    assert_eq!(identify(&[(AUTHORIZATION, "Basic YTpi")]).await, Err(Denied::Authorization));
    assert_eq!(identify(&[(AUTHORIZATION, &token)]).await, Err(Denied::Authorization));
    let twice = [(AUTHORIZATION, bearer.as_str()), (AUTHORIZATION, bearer.as_str())];
    assert_eq!(identify(&twice).await, Err(Denied::Authorization));
    let both = format!("bearer.{token}, bearer.x");
    assert_eq!(identify(&[(SEC_WEBSOCKET_PROTOCOL, &both)]).await, Err(Denied::SeveralTokens));
}

#[tokio::test]
async fn a_fresh_token_is_that_of_the_same_user() {
    let later = signed(json!({"sub": "alice", "exp": NOW + 600}));
    let renewed = secret().renew(&user("alice"), &later, NOW).await.unwrap();
    assert_eq!((renewed.user.as_str(), renewed.expires_at), ("alice", Some((NOW + 600) * 1000)));
    assert_eq!(secret().renew(&user("bob"), &later, NOW).await, Err(NotRenewed::OtherUser));
    let stale = secret().renew(&user("alice"), &later, NOW + 700).await;
    assert_eq!(stale, Err(NotRenewed::Token(NotVerified::Bad(TokenError::Expired))));
    let settings = AuthSettings { mode: AuthMode::None, watch: WatchPolicy::Anyone, query_token: false };
    let open = Authenticator::new(&settings).unwrap();
    assert_eq!(open.renew(&user("alice"), &later, NOW).await, Err(NotRenewed::NoTokens));
}

#[tokio::test]
async fn without_authentication_the_address_names_the_user() {
    let settings = AuthSettings { mode: AuthMode::None, watch: WatchPolicy::Anyone, query_token: false };
    let open = Authenticator::new(&settings).unwrap();
    let identify = async |uri: &str| open.identify(&request(uri, &[(HOST, "localhost:7070")]), NOW).await;
    let named = async |uri: &str| identify(uri).await.unwrap().user.as_str().to_owned();
    assert_eq!(named("/v1/connect?user=alice").await, "alice");
    assert_eq!(named("/v1/connect?user=a.b%2Fc%2Cd*%3E%20%F0%9F%A6%80+").await, "a.b/c,d*> 🦀+");
    assert_eq!(identify("/v1/connect").await, Err(Denied::NoUser));
    assert_eq!(identify("/v1/connect?user=").await, Err(Denied::User(InvalidUserId::Empty)));
    assert_eq!(identify("/v1/connect?user=..").await, Err(Denied::User(InvalidUserId::Dots)));
    assert_eq!(identify("/v1/connect?user=%2E%2e").await, Err(Denied::User(InvalidUserId::Dots)));
    let control = identify("/v1/connect?user=a%0Ab").await;
    assert_eq!(control, Err(Denied::User(InvalidUserId::ControlCharacter)));
    let long = format!("/v1/connect?user={}", "x".repeat(257));
    assert_eq!(identify(&long).await, Err(Denied::User(InvalidUserId::TooLong)));
    let elsewhere = request("/v1/connect?user=alice", &[(HOST, "example.org")]);
    assert_eq!(open.identify(&elsewhere, NOW).await, Err(Denied::Foreign(Foreign::Host)));
}
