//! Messages of plugins over the store's connection: taken by the server, or told as what became of them.

use futures_util::StreamExt;
use presence_host::plugins::messaging::nats::NatsMessaging;
use presence_host::plugins::messaging::{Message, Messaging, MessagingError};
use presence_tests::until;

use super::*;

fn message(subject: &str, payload: usize) -> Message {
    Message {
        subject: subject.to_owned(),
        headers: vec![("A".into(), "b c".into())],
        payload: vec![b'x'; payload],
    }
}

#[tokio::test]
async fn what_is_done_is_with_the_server_in_order() {
    let bench = Bench::new().await;
    let messaging = NatsMessaging::new(bench.store.publisher());
    let mut heard = bench.server.listener("app.>").await;
    for length in 0..100 {
        assert_eq!(messaging.publish(message("app.x", length)).await, Ok(()), "also if nobody listens");
        assert_eq!(messaging.publish(message("nobody", length)).await, Ok(()));
    }
    for length in 0..100 {
        let message =
            tokio::time::timeout(WAIT, heard.next()).await.expect("a message").expect("a connection");
        assert_eq!((message.payload.len(), message.reply), (length, None), "no answer is wanted");
        let headers = message.headers.expect("headers");
        assert_eq!(headers.get("A").map(|value| value.as_str()), Some("b c"));
    }
}

#[tokio::test]
async fn while_the_server_is_away_nothing_is_sent_then_or_later() {
    let mut bench = Bench::new().await;
    let messaging = NatsMessaging::new(bench.store.publisher());
    bench.server.kill();
    let not_sent = async || {
        let ended = messaging.publish(message("app.early", 1)).await;
        matches!(ended, Err(MessagingError::Unavailable(why)) if why.starts_with("not sent")).then_some(())
    };
    until("the connection is known to be lost", not_sent).await;
    for _ in 0..10 {
        assert!(not_sent().await.is_some());
    }
    bench.server.restart().await;
    let mut heard = bench.server.listener("app.>").await;
    until("the connection is back", async || messaging.publish(message("app.late", 1)).await.ok()).await;
    let first = tokio::time::timeout(WAIT, heard.next()).await.expect("a message").expect("a connection");
    assert_eq!(first.subject.as_str(), "app.late");
}

#[tokio::test]
async fn what_the_server_never_takes_is_told_so() {
    let server = NatsServer::with(
        "max_payload: 2048\nauthorization { users = [ \
         { user: a, password: a, permissions: { publish: { deny: [\"app.closed\"] } } }, { user: b, password: b } ] }",
    )
    .await;
    let auth = NatsAuth::User { user: "a".into(), password: "a".into() };
    let store = connect(&NatsSettings { auth, ..settings(vec![server.url()]) }).await;
    let messaging = NatsMessaging::new(store.publisher());
    assert_eq!(messaging.publish(message("app.open", 1000)).await, Ok(()));
    let large = messaging.publish(message("app.open", 2048)).await;
    assert!(matches!(&large, Err(MessagingError::TooLarge(why)) if why.contains("2048")), "{large:?}");
    let closed = messaging.publish(message("app.closed", 1)).await;
    assert!(matches!(&closed, Err(MessagingError::Denied(why)) if why.contains("app.closed")), "{closed:?}");
    assert_eq!(messaging.publish(message("app.open", 1)).await, Ok(()), "and the next one goes through");
}
