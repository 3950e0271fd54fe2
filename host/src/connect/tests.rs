//! The terminal client against real listeners.

use std::sync::{Arc, Mutex};

use super::*;
use crate::driver::{Outgoing, Refused};
use crate::gateway::tests::{Gateway, open_to_all, soon, with_tokens};

/// An output that a test can read.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    async fn shows(&self, part: &str) {
        soon(async {
            while !self.text().contains(part) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

struct Person {
    typed: mpsc::Sender<String>,
    screen: Screen,
    client: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Person {
    fn sits_down(gateway: &Gateway, user: Option<&str>, token: Option<&str>) -> Person {
        let target = Target::new(&format!("ws://{}", gateway.clients), user, token).unwrap();
        let (typed, commands) = mpsc::channel(TYPED_AHEAD);
        let screen = Screen::default();
        let mut client = Client::new(target, commands, screen.clone());
        Person { typed, screen, client: tokio::spawn(async move { client.run().await }) }
    }

    async fn types(&self, line: &str) {
        self.typed.send(line.to_owned()).await.unwrap();
    }

    async fn outcome(self) -> (anyhow::Result<()>, String) {
        (soon(self.client).await.unwrap(), self.screen.text())
    }
}

#[tokio::test]
async fn commands_are_carried_out_and_news_are_told() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let person = Person::sits_down(&gateway, Some("zoë 🦀"), None);
    person.screen.shows("connected as zoë 🦀, online").await;
    for (line, shown) in [
        ("i", "you are idle"),
        ("o", "you are online"),
        ("w carol", "carol is online, never seen"),
        ("u carol", "no longer watching carol"),
        ("w", "whom? a user id must not be empty"),
        ("dance", "`dance` is no command"),
    ] {
        person.types(line).await;
        person.screen.shows(shown).await;
    }
    person.types("q").await;
    let (outcome, _) = person.outcome().await;
    outcome.unwrap();
    assert_eq!(gateway.driver.closed().await, "closed");
}

#[tokio::test]
async fn piped_commands_are_answered_before_the_end_of_the_input_ends_it() {
    let gateway = Gateway::start(open_to_all()).await;
    let person = Person::sits_down(&gateway, Some("alice"), None);
    person.types("i").await;
    person.types("w bob").await;
    let Person { typed, screen, client } = person;
    drop(typed);
    soon(client).await.unwrap().unwrap();
    assert!(screen.text().contains("you are idle"), "{}", screen.text());
    assert!(screen.text().contains("watching bob"), "{}", screen.text());
}

#[tokio::test]
async fn no_input_at_all_comes_and_goes() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let Person { typed, screen, client } = Person::sits_down(&gateway, Some("alice"), None);
    drop(typed);
    soon(client).await.unwrap().unwrap();
    assert!(screen.text().contains("connected as alice"), "{}", screen.text());
    assert_eq!(gateway.driver.closed().await, "closed");
}

#[tokio::test]
async fn a_draining_host_is_left_and_found_again() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let person = Person::sits_down(&gateway, Some("alice"), None);
    let (first, _) = gateway.driver.opened().await;
    for line in ["i", "w bob"] {
        person.types(line).await;
    }
    person.screen.shows("watching bob").await;
    gateway.driver.mood.lock().unwrap().refuse = Some(Refused::Starting);
    let goodbye = Outgoing::Goodbye { reason: "draining", retry_after_ms: Some(10), code: 1001 };
    gateway.driver.push(first, goodbye);
    person.screen.shows("the host stops; connecting again in 0.0 s").await;
    person.screen.shows("503 Service Unavailable: this host is still starting; trying again").await;
    gateway.driver.mood.lock().unwrap().refuse = None;
    gateway.driver.opened().await;
    // What the first session was told, the second is told as well.
    person.screen.shows("watching 1 users").await;
    assert_eq!(person.screen.text().matches("you are idle").count(), 2);
    person.types("q").await;
    person.outcome().await.0.unwrap();
}

#[tokio::test]
async fn refusals_are_told_with_their_reason() {
    let gateway = Gateway::start(with_tokens()).await;
    let person = Person::sits_down(&gateway, None, Some("nonsense"));
    let error = person.outcome().await.0.unwrap_err().to_string();
    assert!(error.ends_with("401 Unauthorized: the token is not a JSON Web Token"), "{error}");
    gateway.stop().await;

    let gateway = Gateway::start(open_to_all()).await;
    gateway.driver.mood.lock().unwrap().refuse = Some(Refused::Draining);
    let error = Person::sits_down(&gateway, Some("alice"), None).outcome().await.0.unwrap_err().to_string();
    assert!(error.ends_with("503 Service Unavailable: this host is draining"), "{error}");

    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Target::new(&format!("ws://{free}"), Some("a"), None).unwrap().connect().await.unwrap_err();
    assert!(error.to_string().contains("is `presence serve` running"), "{error}");
}

#[tokio::test]
async fn an_expired_token_ends_it() {
    let mut gateway = Gateway::start(open_to_all()).await;
    let person = Person::sits_down(&gateway, Some("alice"), None);
    let (connection, _) = gateway.driver.opened().await;
    let goodbye = Outgoing::Goodbye { reason: "expired", retry_after_ms: None, code: 4001 };
    gateway.driver.push(connection, goodbye);
    let error = person.outcome().await.0.unwrap_err().to_string();
    assert!(error.contains("the token has expired"), "{error}");
}
