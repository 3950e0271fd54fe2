//! `auth.mode = "jwt"`: whose session it is, the token says.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use presence_tests::{Client, Config, Daemon};
use serde_json::{Value, json};

const SECRET: &str = "a secret of at least thirty-two bytes";

fn with_tokens() -> Config {
    let key = format!("[[auth.key]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"");
    Daemon::with(format!("[auth]\nmode = \"jwt\"\naudience = \"presence\"\n{key}"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(claims: Value, secret: &str) -> String {
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

#[tokio::test]
async fn a_token_opens_a_session_of_its_subject() {
    let daemon = with_tokens().start().await;
    let claims = json!({"sub": "alice", "aud": "presence", "exp": now() + 600});
    let valid = token(claims.clone(), SECRET);
    let mut alice = daemon.client_with_token("alice", &valid).await.unwrap();
    daemon.until_status("alice", "online").await;

    // A browser can't set headers: it offers the token as a subprotocol.
    let offered = format!("presence.v1, bearer.{valid}");
    let headers = [("sec-websocket-protocol", offered.as_str())];
    let browser = Client::open(daemon.clients(), "alice", "/v1/connect", &headers).await;
    browser.unwrap().close().await;

    // With tokens one may watch oneself, unless presence.toml says otherwise.
    let id = alice.request(json!({"type": "watch", "users": ["alice", "bob"]})).await;
    alice.expect(json!({"type": "error", "code": "forbidden", "id": id})).await;
    alice.watch(&["alice"]).await;
    alice.expect(json!({"type": "presence", "user": "alice", "status": "online"})).await;
}

#[tokio::test]
async fn any_other_token_is_refused() {
    let daemon = with_tokens().start().await;
    let valid = json!({"sub": "alice", "aud": "presence", "exp": now() + 600});
    let with = |key: &str, value: Value| {
        let mut claims = valid.clone();
        claims[key] = value;
        token(claims, SECRET)
    };
    let without = |key: &str| {
        let mut claims = valid.clone();
        claims.as_object_mut().unwrap().remove(key);
        token(claims, SECRET)
    };
    let refused = [
        ("another secret", token(valid.clone(), "another secret of thirty-two bytes and more")),
        ("another audience", with("aud", json!("chat"))),
        ("expired", with("exp", json!(now() - 600))),
        ("no expiry", without("exp")),
        ("no subject", without("sub")),
        ("no user id", with("sub", json!(".."))),
        ("nonsense", "a.b.c".to_owned()),
    ];
    for (what, token) in refused {
        let refusal = daemon.client_with_token("alice", &token).await.map(drop).expect_err(what);
        assert_eq!(refusal.status, 401, "{what}: {refusal:?}");
    }
    let refusal = Client::open(daemon.clients(), "alice", "/v1/connect?user=alice", &[]).await.map(drop);
    assert_eq!(refusal.expect_err("no token").status, 401);
}
