//! An HTTP server that records what it is sent, in order, and misbehaves when told to.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::waiting::within;

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// `PUT`.
    pub method: String,
    /// The path, still percent-encoded.
    pub path: String,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: String,
}

impl Request {
    /// The body as JSON. Panics if it is something else.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The header's text, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// How a receiver answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mood {
    /// With this status; only requests that are answered with 2xx are recorded.
    Status(u16),
    /// Never.
    Hang,
    /// With 200 and a byte a second, for ever.
    Drip,
    /// With 200 and so many bytes, as fast as they are taken.
    Flood(u64),
    /// With 302, to this address.
    Redirect(String),
    /// With 200 and this text.
    Document(String),
}

/// The server; ends with this value.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Shared {
    mood: Mutex<Mood>,
    /// Grows; watched by whoever waits.
    requests: watch::Sender<Vec<Request>>,
    /// Requests in any mood, those that were not recorded too.
    attempts: watch::Sender<u64>,
}

#[derive(Debug)]
enum State {
    Up(JoinHandle<()>),
    /// The port stays bound, so that nobody else gets it; whoever connects is refused.
    Down(TcpSocket),
    Changing,
}

impl Receiver {
    /// Listens on a free port of loopback and answers 204.
    pub async fn start() -> Receiver {
        let shared = Arc::new(Shared {
            mood: Mutex::new(Mood::Status(204)),
            requests: watch::Sender::new(Vec::new()),
            attempts: watch::Sender::new(0),
        });
        let socket = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("it is bound");
        let state = Mutex::new(State::Up(serve(socket, shared.clone())));
        Receiver { shared, address, state }
    }

    /// `http://127.0.0.1:40123`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers like this from now on.
    pub fn answer(&self, mood: Mood) {
        *lock(&self.shared.mood) = mood;
    }

    /// Closes every connection and refuses new ones.
    pub async fn take_down(&self) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Changing);
        let State::Up(server) = before else { panic!("the receiver is down already") };
        server.abort();
        // Cancelled, which is what was asked for; the listener is closed then.
        let _ = server.await;
        *lock(&self.state) = State::Down(bound(self.address));
    }

    /// Listens again, on the same port.
    pub async fn bring_back(&self) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Changing);
        let State::Down(socket) = before else { panic!("the receiver is up already") };
        *lock(&self.state) = State::Up(serve(socket, self.shared.clone()));
    }

    /// What was recorded so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    /// How many requests came, answered well or not.
    pub fn attempts(&self) -> u64 {
        *self.shared.attempts.borrow()
    }

    /// Waits until so many requests came, answered well or not.
    pub async fn until_attempts(&self, count: u64) {
        let mut attempts = self.shared.attempts.subscribe();
        let enough = attempts.wait_for(|seen| *seen >= count);
        within(format!("{count} requests at {}", self.origin()), enough).await.expect("the receiver lives");
    }

    /// Waits until `found` is content with what was recorded; panics with `what` and `shown` if it never is.
    pub async fn until(
        &self,
        what: impl std::fmt::Display,
        shown: impl Fn(&[Request]) -> String,
        mut found: impl FnMut(&[Request]) -> bool,
    ) {
        let mut requests = self.shared.requests.subscribe();
        let waiting = requests.wait_for(|requests| found(requests));
        if tokio::time::timeout(crate::WAIT, waiting).await.is_err() {
            panic!("after {:?} still not: {what}\nheard so far: {}", crate::WAIT, shown(&self.requests()));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let State::Up(server) = &*lock(&self.state) {
            server.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

/// A socket that has the port and does not listen yet.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an ordinary option");
    socket.bind(address).unwrap_or_else(|error| panic!("can't bind {address}: {error}"));
    socket
}

fn serve(socket: TcpSocket, shared: Arc<Shared>) -> JoinHandle<()> {
    let listener = socket.listen(1024).expect("a bound socket listens");
    tokio::spawn(accept(listener, shared))
}

/// Connections end with this future.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = shared.clone();
        let service = service_fn(move |request| record(shared.clone(), request));
        let serving =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            // A client that goes away is its own business.
            let _ = serving.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn nothing() -> Body {
    Empty::new().boxed_unsync()
}

fn drip() -> Body {
    let clock = tokio::time::interval(Duration::from_secs(1));
    let drops = futures_util::stream::unfold(clock, |mut clock| async move {
        clock.tick().await;
        Some((Ok(Frame::data(Bytes::from_static(b"."))), clock))
    });
    BodyExt::boxed_unsync(StreamBody::new(drops))
}

fn flood(bytes: u64) -> Body {
    const PIECE: &[u8] = &[b'x'; 64 << 10];
    let pieces = (0..bytes.div_ceil(PIECE.len() as u64)).map(|_| Ok(Frame::data(Bytes::from_static(PIECE))));
    BodyExt::boxed_unsync(StreamBody::new(futures_util::stream::iter(pieces)))
}

async fn record(
    shared: Arc<Shared>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mood = lock(&shared.mood).clone();
    shared.attempts.send_modify(|attempts| *attempts += 1);
    let status = match mood {
        Mood::Status(status) => status,
        Mood::Hang => return std::future::pending().await,
        Mood::Drip => return Ok(http::Response::new(drip())),
        Mood::Flood(bytes) => return Ok(http::Response::new(flood(bytes))),
        Mood::Redirect(location) => {
            let response = http::Response::builder().status(302).header("location", location);
            return Ok(response.body(nothing()).expect("tests redirect to valid addresses"));
        }
        Mood::Document(text) => return Ok(http::Response::new(Full::<Bytes>::from(text).boxed_unsync())),
    };
    if (200..300).contains(&status) {
        let request = Request {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        shared.requests.send_modify(|requests| requests.push(request));
    }
    let mut response = http::Response::new(nothing());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("tests answer with valid codes");
    Ok(response)
}
