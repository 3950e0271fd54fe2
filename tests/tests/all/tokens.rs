//! `auth.mode = "jwt"`: whose session it is, the token says, and how long it lasts.

use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use presence_tests::{Client, Config, Daemon, Folder, Issuer, Mood, until};
use serde_json::{Value, json};

const SECRET: &str = "a secret of at least thirty-two bytes";

fn key() -> String {
    format!("[[auth.key]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"")
}

fn with_tokens() -> Config {
    Daemon::with(format!("[auth]\nmode = \"jwt\"\naudience = \"presence\"\n{}", key()))
}

/// Clocks that agree, so that a session ends when its token says so.
fn without_leeway() -> Config {
    Daemon::with(format!("[auth]\nmode = \"jwt\"\nleeway = \"0s\"\n{}", key()))
        .presence("offline_grace = \"0s\"")
}

fn now() -> u64 {
    Issuer::now()
}

fn token(claims: Value, secret: &str) -> String {
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn until_then(user: &str, expires: u64) -> String {
    token(json!({"sub": user, "exp": expires}), SECRET)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys").join(name)
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

    let log = daemon.log();
    let signature = valid.rsplit('.').next().unwrap();
    assert!(!log.contains(signature) && !log.contains(SECRET), "{log}");
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

#[tokio::test]
async fn every_algorithm_has_keys_of_its_own() {
    let key = |id: &str, algorithm: &str, file: &str| {
        let path = fixture(file);
        format!(
            "[[auth.key]]\nid = \"{id}\"\nalgorithm = \"{algorithm}\"\npublic_key_file = '{}'\n",
            path.display()
        )
    };
    let keys = [
        key("r", "RS256", "rsa-public.pem"),
        key("p", "ES256", "p256-public.pem"),
        key("e", "EdDSA", "ed25519-public.pem"),
    ];
    let daemon = Daemon::with(format!("[auth]\nmode = \"jwt\"\n{}", keys.concat())).start().await;
    let read = |file: &str| std::fs::read(fixture(file)).unwrap();
    let signers = [
        ("r", Algorithm::RS256, EncodingKey::from_rsa_pem(&read("rsa-private.pem")).unwrap()),
        ("p", Algorithm::ES256, EncodingKey::from_ec_pem(&read("p256-private.pem")).unwrap()),
        ("e", Algorithm::EdDSA, EncodingKey::from_ed_pem(&read("ed25519-private.pem")).unwrap()),
    ];
    let claims = json!({"sub": "alice", "exp": now() + 600});
    for (id, algorithm, key) in signers {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(algorithm) };
        let token = encode(&header, &claims, &key).unwrap();
        daemon.client_with_token("alice", &token).await.unwrap().close().await;
    }
    // What everybody may read is nobody's secret.
    let public = EncodingKey::from_secret(&read("rsa-public.pem"));
    let header = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::HS256) };
    let forged = encode(&header, &claims, &public).unwrap();
    let refusal = daemon.client_with_token("alice", &forged).await.map(drop).expect_err("a forged token");
    assert!(refusal.status == 401 && refusal.body.contains("its key does not allow"), "{refusal:?}");
}

#[tokio::test]
async fn the_session_ends_with_its_token() {
    let daemon = without_leeway().start().await;
    let alice = daemon.client_with_token("alice", &until_then("alice", now() + 5)).await.unwrap();
    daemon.until_status("alice", "online").await;
    let told = alice.until_closed().await;
    let end: Vec<&Value> = told.iter().rev().take(2).rev().collect();
    assert_eq!(
        end,
        [&json!({"type": "goodbye", "reason": "expired"}), &json!({"type": "close", "code": 4001})],
        "{told:#?}"
    );
    daemon.until_status("alice", "offline").await;
}

#[tokio::test]
async fn a_fresh_token_keeps_the_session() {
    let daemon = without_leeway().start().await;
    let ends = now() + 5;
    let mut alice = daemon.client_with_token("alice", &until_then("alice", ends)).await.unwrap();
    let mut bob = daemon.client_with_token("bob", &until_then("bob", ends)).await.unwrap();
    let witness = daemon.client_with_token("carol", &until_then("carol", ends)).await.unwrap();

    let fresh = until_then("alice", now() + 600);
    let id = alice.request(json!({"type": "token", "token": fresh})).await;
    alice.expect(json!({"type": "ok", "id": id})).await;
    // Nobody goes on with somebody else's, or with one that is over.
    for token in [fresh, until_then("bob", now() - 600), "nonsense".to_owned()] {
        let id = bob.request(json!({"type": "token", "token": token})).await;
        bob.expect(json!({"type": "error", "code": "invalid_token", "id": id})).await;
    }
    for ended in [witness, bob] {
        let told = ended.until_closed().await;
        assert_eq!(told.last(), Some(&json!({"type": "close", "code": 4001})), "{told:#?}");
    }
    daemon.until_status("bob", "offline").await;
    alice.ping().await;
    assert_eq!(daemon.status("alice").await, "online");
}

#[tokio::test]
async fn a_fresh_token_says_anew_whom_one_may_watch() {
    let config = Daemon::with(format!("[auth]\nmode = \"jwt\"\nwatch = \"claims\"\n{}", key()));
    let daemon = config.presence("offline_grace = \"0s\"").start().await;
    let watching =
        |watch: Value| token(json!({"sub": "alice", "exp": now() + 600, "presence_watch": watch}), SECRET);
    let first = watching(json!(["bob", {"prefix": "team-7/"}]));
    let mut alice = daemon.client_with_token("alice", &first).await.unwrap();
    let id = alice.request(json!({"type": "watch", "users": ["bob", "carol"]})).await;
    alice.expect(json!({"type": "error", "code": "forbidden", "id": id})).await;
    alice.watch(&["bob", "team-7/zoë"]).await;
    let id = alice.request(json!({"type": "token", "token": watching(json!(["carol"]))})).await;
    alice.expect(json!({"type": "ok", "id": id})).await;
    alice.watch(&["carol"]).await;
    alice.expect(json!({"type": "presence", "user": "carol", "status": "offline"})).await;

    // Of two who come, only one is told of.
    for user in ["bob", "carol"] {
        let session = daemon.client_with_token(user, &until_then(user, now() + 600)).await.unwrap();
        daemon.until_status(user, "online").await;
        session.close().await;
    }
    alice.expect_next(json!({"type": "presence", "user": "carol", "status": "online"})).await;
    let id = alice.request(json!({"type": "watch", "users": ["bob"]})).await;
    alice.expect(json!({"type": "error", "code": "forbidden", "id": id})).await;
}

/// A daemon that takes the tokens of this issuer, with the shortest pause.
fn taking(issuer: &Issuer) -> Config {
    Daemon::with(format!("[auth]\nmode = \"jwt\"\n{}", issuer.section("refresh = \"1h\"\npause = \"100ms\"")))
}

/// Waits until a connection with this token is answered so: 101, or the status of the refusal.
async fn until_answered(daemon: &Daemon, token: &str, status: u16) {
    until(format!("a connection is answered with {status}"), async || {
        match daemon.client_with_token("alice", token).await {
            Ok(client) => {
                client.close().await;
                (status == 101).then_some(())
            }
            Err(refusal) => (refusal.status == status).then_some(()),
        }
    })
    .await;
}

#[tokio::test]
async fn keys_of_a_set_rotate_while_sessions_go_on() {
    let issuer = Issuer::start(&["spring", "summer", "autumn"]).await;
    issuer.publish(&["spring"]);
    let daemon = taking(&issuer).start().await;
    let token = |id: &str| issuer.token(id, &json!({"sub": "alice", "exp": now() + 600}));
    // The first token waits for the first reading, if it has to.
    let mut alice = daemon.client_with_token("alice", &token("spring")).await.unwrap();

    issuer.publish(&["spring", "summer"]);
    until_answered(&daemon, &token("summer"), 101).await;
    issuer.publish(&["summer"]);
    until("an unknown id has made the host look, and spring is over", async || {
        let unknown = daemon.client_with_token("alice", &token("autumn")).await.map(drop);
        assert_eq!(unknown.expect_err("an unknown id").status, 401);
        let over = daemon.client_with_token("alice", &token("spring")).await.err()?;
        (over.status == 401).then_some(())
    })
    .await;
    alice.ping().await;
    let id = alice.request(json!({"type": "token", "token": token("summer")})).await;
    alice.expect(json!({"type": "ok", "id": id})).await;

    issuer.answer(Mood::Status(500));
    until_answered(&daemon, &token("autumn"), 503).await;
    until_answered(&daemon, &token("summer"), 101).await;
    let id = alice.request(json!({"type": "token", "token": token("autumn")})).await;
    alice.expect(json!({"type": "error", "code": "unavailable", "id": id})).await;
    daemon.until_logged(&["the key set can't be read", "500"]).await;
    issuer.publish(&["autumn"]);
    until_answered(&daemon, &token("autumn"), 101).await;
    let metrics = daemon.get("/metrics").await.body;
    assert!(metrics.contains("presence_gateway_key_readings_total{result=\"read\"}"), "{metrics}");
    alice.ping().await;
}

#[tokio::test]
async fn a_set_that_hangs_or_floods_holds_nobody_up() {
    let issuer = Issuer::start(&["a", "b"]).await;
    issuer.publish(&["a"]);
    let daemon = taking(&issuer).start().await;
    let token = |id: &str| issuer.token(id, &json!({"sub": "alice", "exp": now() + 600}));
    until_answered(&daemon, &token("a"), 101).await;
    for mood in [Mood::Flood(1 << 30), Mood::Redirect("http://127.0.0.1:9/".into()), Mood::Drip] {
        issuer.answer(mood);
        until_answered(&daemon, &token("b"), 503).await;
        until_answered(&daemon, &token("a"), 101).await;
        issuer.publish(&["a"]);
        until_answered(&daemon, &token("b"), 401).await;
    }
    issuer.publish(&["b"]);
    until_answered(&daemon, &token("b"), 101).await;
}

#[tokio::test]
async fn a_key_set_may_be_a_file() {
    let issuer = Issuer::start(&["a", "b"]).await;
    let folder = Folder::new();
    let path = folder.file("jwks.json", issuer.document(&["a"]));
    let section = format!("[auth.jwks]\nfile = '{}'\npause = \"100ms\"", path.display());
    let daemon = Daemon::with(format!("[auth]\nmode = \"jwt\"\n{section}")).start().await;
    let token = |id: &str| issuer.token(id, &json!({"sub": "alice", "exp": now() + 600}));
    until_answered(&daemon, &token("a"), 101).await;
    folder.file("jwks.json", issuer.document(&["b"]));
    until_answered(&daemon, &token("b"), 101).await;
    until_answered(&daemon, &token("a"), 401).await;
    assert_eq!(issuer.asked(), 0);
}

#[tokio::test]
async fn pages_that_are_not_listed_do_not_get_in() {
    let lines = format!("[auth]\nmode = \"jwt\"\norigins = [\"https://app.example\"]\n{}", key());
    let daemon = Daemon::with(lines).start().await;
    let offered = format!("presence.v1, bearer.{}", until_then("alice", now() + 600));
    let from = async |origin: &str| {
        let headers = [("sec-websocket-protocol", offered.as_str()), ("origin", origin)];
        Client::open(daemon.clients(), "alice", "/v1/connect", &headers).await
    };
    from("https://app.example").await.unwrap().close().await;
    for origin in ["https://evil.example", "null", "http://app.example"] {
        let refusal = from(origin).await.map(drop).expect_err(origin);
        assert!(refusal.status == 403 && refusal.body.contains("auth.origins"), "{refusal:?}");
    }
    daemon.client_with_token("alice", &until_then("alice", now() + 600)).await.unwrap().close().await;
}
