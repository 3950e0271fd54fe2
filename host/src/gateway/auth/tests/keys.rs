//! Keys that come, go and are away: a real server on loopback, and files.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use http::{Response, header::LOCATION};
use tokio::task::JoinHandle;

use super::super::source::{NotRead, Source};
use super::*;
use crate::gateway::tests::soon;
use crate::plugins::testing::Folder;
use crate::settings::{KeySetSettings, KeySetSource};
use crate::tokens::tests::jwk;
use crate::tokens::{BadSet, MAX_SET_BYTES};

/// An issuer's server.
struct Server {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    answer: Mutex<Answer>,
    asked: AtomicUsize,
}

#[derive(Clone)]
enum Answer {
    Status(u16, String),
    Redirect,
    /// Nothing, ever.
    Hang,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    async fn start(document: String) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Mutex::new(Answer::Status(200, document));
        let shared = Arc::new(Shared { answer, asked: AtomicUsize::new(0) });
        let router = Router::new().fallback(answer_with).with_state(shared.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Server { address, shared, serving }
    }

    fn answers(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    fn publishes(&self, document: String) {
        self.answers(Answer::Status(200, document));
    }

    fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    fn source(&self) -> KeySetSource {
        let address = format!("http://{}/.well-known/jwks.json?tenant=7", self.address);
        KeySetSource::Url(address.parse().unwrap())
    }

    async fn read(&self) -> Result<crate::tokens::KeySet, NotRead> {
        Source::new(&self.source()).unwrap().read().await
    }
}

async fn answer_with(State(shared): State<Arc<Shared>>) -> Response<Body> {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let answer = shared.answer.lock().unwrap().clone();
    let response = Response::builder();
    match answer {
        Answer::Status(status, body) => response.status(status).body(body.into()).unwrap(),
        Answer::Redirect => response.status(302).header(LOCATION, "/elsewhere").body(Body::empty()).unwrap(),
        Answer::Hang => std::future::pending().await,
    }
}

fn set(ids: &[&str]) -> String {
    let keys: Vec<Value> = ids.iter().map(|id| jwk(Algorithm::EdDsa, id)).collect();
    json!({"keys": keys}).to_string()
}

fn alices(id: &str) -> String {
    token(Algorithm::EdDsa, Some(id), &json!({"sub": "alice", "exp": NOW + 60}))
}

/// A host with a key set, and the task that keeps it; one secret, `own`, is in its configuration.
struct Host {
    authenticator: Arc<Authenticator>,
    traffic: Arc<Traffic>,
    keeping: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Host {
    fn start(source: KeySetSource, pause: Duration) -> Host {
        let mut settings = jwt();
        settings.keys[0].id = Some("own".to_owned());
        settings.key_set = Some(KeySetSettings { source, refresh: Duration::from_secs(3600), pause });
        let authenticator = Arc::new(authenticator(WatchPolicy::Own, false, settings));
        let traffic = Arc::<Traffic>::default();
        let (kept, counted) = (authenticator.clone(), traffic.clone());
        let keeping = tokio::spawn(async move { kept.keep_keys(&counted, &CancellationToken::new()).await });
        Host { authenticator, traffic, keeping }
    }

    async fn told(&self, token: &str) -> Result<(), Denied> {
        soon(with_token(&self.authenticator, token)).await.map(|_| ())
    }

    /// Asks until this is the answer: a pause may have to pass first.
    async fn until_told(&self, token: &str, expected: Result<(), Denied>) {
        soon(async {
            while self.told(token).await != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(3600);

fn unknown() -> Result<(), Denied> {
    Err(Denied::Token(NotVerified::Bad(TokenError::UnknownKey)))
}

fn away() -> Result<(), Denied> {
    Err(Denied::Token(NotVerified::KeysAway))
}

#[tokio::test]
async fn a_new_key_is_found_when_its_first_token_comes_and_an_old_one_goes() {
    let server = Server::start(set(&["a"])).await;
    let host = Host::start(server.source(), SHORT);
    assert_eq!(host.told(&alices("a")).await, Ok(()), "the first reading is waited for");
    server.publishes(set(&["b", "c"]));
    host.until_told(&alices("b"), Ok(())).await;
    assert_eq!(host.told(&alices("c")).await, Ok(()));
    assert_eq!(server.asked(), 2, "known ids are not looked for");
    host.until_told(&alices("a"), unknown()).await;
    let own = token(Algorithm::Hs256, Some("own"), &json!({"sub": "alice", "exp": NOW + 60}));
    assert_eq!(host.told(&own).await, Ok(()), "a configured key stays");
    let [read, failed] = host.traffic.key_readings();
    assert_eq!((read as usize, failed), (server.asked(), 0));
}

#[tokio::test]
async fn a_flood_of_unknown_ids_causes_one_reading_i8() {
    let server = Server::start(set(&["a"])).await;
    let host = Host::start(server.source(), LONG);
    let flood = (0..200).map(|number| {
        let token = alices(&format!("no-{number}"));
        let host = &host;
        async move { host.told(&token).await }
    });
    for told in futures_util::future::join_all(flood).await {
        assert_eq!(told, unknown());
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn while_the_set_is_away_the_keys_stay_and_unknown_ones_can_come_back() {
    let server = Server::start(set(&["a"])).await;
    let host = Host::start(server.source(), SHORT);
    assert_eq!(host.told(&alices("a")).await, Ok(()));
    for broken in [
        Answer::Status(500, String::new()),
        Answer::Status(200, "<html>".into()),
        Answer::Status(200, set(&[])),
        Answer::Status(200, "x".repeat(MAX_SET_BYTES + 1)),
        Answer::Redirect,
    ] {
        server.answers(broken);
        host.until_told(&alices("b"), away()).await;
        assert_eq!(host.told(&alices("a")).await, Ok(()), "old keys stay");
        server.publishes(set(&["a"]));
        host.until_told(&alices("b"), unknown()).await;
    }
    server.publishes(set(&["b"]));
    host.until_told(&alices("b"), Ok(())).await;
}

#[tokio::test]
async fn a_host_starts_without_its_set_and_takes_it_when_it_is_there() {
    let server = Server::start(set(&["a"])).await;
    server.answers(Answer::Status(503, String::new()));
    let host = Host::start(server.source(), SHORT);
    assert_eq!(host.told(&alices("a")).await, away());
    let own = token(Algorithm::Hs256, Some("own"), &json!({"sub": "alice", "exp": NOW + 60}));
    assert_eq!(host.told(&own).await, Ok(()));
    server.publishes(set(&["a"]));
    // Nobody has to ask: a failed reading is repeated.
    soon(async {
        while host.traffic.key_readings()[0] == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(host.told(&alices("a")).await, Ok(()));
}

#[tokio::test]
async fn a_file_is_read_again_like_an_address() {
    let folder = Folder::new();
    let path = folder.write("jwks.json", set(&["a"]));
    let host = Host::start(KeySetSource::File(path.clone()), SHORT);
    assert_eq!(host.told(&alices("a")).await, Ok(()));
    folder.write("jwks.json", set(&["b"]));
    host.until_told(&alices("b"), Ok(())).await;
    std::fs::remove_file(path).unwrap();
    host.until_told(&alices("c"), away()).await;
    assert_eq!(host.told(&alices("b")).await, Ok(()));
}

#[tokio::test]
async fn what_an_address_answers_is_bounded_and_never_followed() {
    let server = Server::start(set(&["a"])).await;
    assert_eq!(server.read().await.unwrap().keys.len(), 1);
    server.publishes("x".repeat(10 * MAX_SET_BYTES));
    assert!(matches!(server.read().await, Err(NotRead::Set(BadSet::TooLarge))));
    let asked = server.asked();
    server.answers(Answer::Redirect);
    let error = server.read().await.unwrap_err().to_string();
    assert_eq!(error, "it answers 302 Found: give the address that it leads to");
    assert_eq!(server.asked(), asked + 1);
    // Whoever can ask an address can have its answer, and could sign with a secret in it.
    server.publishes(json!({"keys": [jwk(Algorithm::Hs256, "a")]}).to_string());
    assert!(matches!(server.read().await, Err(NotRead::Set(BadSet::NoKeys(1)))));
    let source = Source::new(&server.source()).unwrap();
    assert_eq!(source.to_string(), format!("http://{}/.well-known/jwks.json", server.address));
    let gone = KeySetSource::Url("http://127.0.0.1:1/".parse().unwrap());
    let error = Source::new(&gone).unwrap().read().await.unwrap_err();
    assert!(matches!(error, NotRead::Request(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    let server = Server::start(String::new()).await;
    server.answers(Answer::Hang);
    let error = server.read().await.unwrap_err();
    assert!(matches!(error, NotRead::Late), "{error}");
}
