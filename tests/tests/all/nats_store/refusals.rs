//! What is wrong at the start is said in words, within a bounded time.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;

pub(super) async fn error(settings: &NatsSettings) -> NatsError {
    let started = std::time::Instant::now();
    let Err(error) = NatsStore::connect(settings, LAYOUT).await else { panic!("connected") };
    assert!(started.elapsed() < Duration::from_secs(20), "{error}");
    error
}

#[track_caller]
pub(super) fn says(error: &NatsError, configuration: bool, texts: &[&str]) {
    assert_eq!(error.is_configuration(), configuration, "{error}");
    for text in texts {
        assert!(error.to_string().contains(text), "`{text}` is not in: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", free.local_addr().unwrap());
    drop(free);
    let found = error(&settings(vec![url.clone()])).await;
    says(&found, false, &[&url, "not reachable", "refused"]);
}

/// A server that speaks the protocol and nothing newer.
#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_its_version() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let info = json!({
                "server_id": "OLD", "server_name": "old", "version": "2.9.25", "go": "go1.20", "host": "127.0.0.1",
                "port": 4222, "headers": true, "max_payload": 1_048_576, "proto": 1, "jetstream": true,
            });
            write.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
            let mut lines = BufReader::new(read).lines();
            tokio::spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.starts_with("PING") && write.write_all(b"PONG\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    says(&error(&settings(vec![url.clone()])).await, false, &[&url, "2.9.25", "2.12"]);
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused() {
    let server = NatsServer::without_jetstream().await;
    says(&error(&settings(vec![server.url()])).await, false, &[&server.url(), "JetStream is not enabled"]);
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_right_ones_are_not() {
    let server = NatsServer::with("authorization { user: presence, password: right }").await;
    let user = |password: &str| NatsAuth::User { user: "presence".into(), password: password.into() };
    let with = |auth| NatsSettings { auth, ..settings(vec![server.url()]) };
    for auth in [user("wrong"), NatsAuth::None, NatsAuth::Token("right".into())] {
        let found = error(&with(auth)).await;
        says(&found, false, &[&server.url(), "refuses the credentials"]);
        assert!(!found.to_string().contains("wrong"), "{found}");
    }
    connect(&with(user("right"))).await;
}

#[tokio::test]
async fn a_token_and_an_nkey_are_accepted() {
    /// Nobody's: made of the bytes 0 to 31.
    const SEED: &str = "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y";
    const PUBLIC: &str = "UAB2CB576PHBBPQ5ODORRZ2LYCMWPZGWGCN2KDK7DXOIMZASKUY3RLKK";
    let server = NatsServer::with("authorization { token: secret }").await;
    let with = |auth| NatsSettings { auth, ..settings(vec![server.url()]) };
    connect(&with(NatsAuth::Token("secret".into()))).await;
    let missing = with(NatsAuth::Nkey("/nowhere/presence.nk".into()));
    says(&error(&missing).await, true, &["/nowhere/presence.nk"]);

    let server = NatsServer::with(&format!("authorization {{ users: [ {{ nkey: {PUBLIC} }} ] }}")).await;
    let folder = presence_tests::Folder::new();
    let auth = NatsAuth::Nkey(folder.file("presence.nk", format!("{SEED}\n")));
    connect(&NatsSettings { auth, ..settings(vec![server.url()]) }).await;
}

#[tokio::test]
async fn a_stream_of_another_shape_is_named_and_left_alone() {
    let bench = Bench::new().await;
    let stream = bench.stream("instances");
    let before = bench.api(&format!("STREAM.INFO.{stream}"), Value::Null).await["config"].clone();
    let mut changed = before.clone();
    changed["allow_direct"] = json!(false);
    changed["subject_delete_marker_ttl"] = json!(90_000_000_000_u64);
    changed["max_msgs_per_subject"] = json!(2);
    let answer = bench.api(&format!("STREAM.UPDATE.{stream}"), changed).await;
    assert!(answer.get("error").is_none(), "{answer}");
    let after = bench.api(&format!("STREAM.INFO.{stream}"), Value::Null).await["config"].clone();
    let expected = [
        stream.as_str(),
        "allow_direct is false, not true",
        "max_msgs_per_subject is 2, not 1",
        "subject_delete_marker_ttl is 90000000000, not 120000000000",
    ];
    says(&error(&bench.settings).await, true, &expected);
    assert_eq!(bench.api(&format!("STREAM.INFO.{stream}"), Value::Null).await["config"], after);

    let more = NatsSettings { replicas: 3, prefix: "other".into(), ..bench.settings.clone() };
    let found = error(&more).await;
    assert!(found.to_string().contains("other_sessions"), "{found}");
}

#[tokio::test]
async fn a_forbidden_subject_is_refused_at_once_and_others_are_not() {
    let permissions = "authorization { users: [ { user: a, password: a, permissions: { \
                       publish: { deny: [\"*.u.3.>\"] } } } ] }";
    let server = NatsServer::with(permissions).await;
    let auth = NatsAuth::User { user: "a".into(), password: "a".into() };
    let store = connect(&NatsSettings { auth, ..settings(vec![server.url()]) }).await;
    let started = std::time::Instant::now();
    let refused = store.put(unconditional(&user_key(3, "alice"), record(1))).await;
    assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains("ermissions")), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(3), "only after {:?}", started.elapsed());
    write(&store, &user_key(2, "alice"), record(1)).await;
}

#[tokio::test]
async fn answers_that_may_not_be_heard_are_explained() {
    let permissions = "authorization { users: [ { user: a, password: a, permissions: { \
                       subscribe: { deny: [\"_INBOX.>\"] } } } ] }";
    let server = NatsServer::with(permissions).await;
    let auth = NatsAuth::User { user: "a".into(), password: "a".into() };
    let found = error(&NatsSettings { auth, ..settings(vec![server.url()]) }).await;
    says(&found, false, &[&server.url(), "Permissions Violation for Subscription", "_INBOX."]);
}
