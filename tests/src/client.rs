//! A client of a daemon, as an application's frontend would be one.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::waiting::within;

/// Everything but the unreserved characters of a URL becomes `%XX`.
pub(crate) fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A connection that was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The body: a problem document.
    pub body: String,
}

/// One session. What the host sends is read in the background, Pings are answered.
#[derive(Debug)]
pub struct Client {
    user: String,
    /// The first welcome.
    welcome: Value,
    sink: SplitSink<WebSocketStream<TcpStream>, Message>,
    inbox: mpsc::UnboundedReceiver<Value>,
    /// Taken from the inbox while something else was awaited.
    kept: VecDeque<Value>,
    /// Everything, for whoever reads why a test failed.
    seen: Vec<Value>,
    reader: JoinHandle<()>,
    requests: u64,
}

impl Client {
    /// Connects as `user` where `auth.mode` is `none`, and takes the welcome.
    pub(crate) async fn connect(address: SocketAddr, user: &str) -> Client {
        let path = format!("/v1/connect?user={}", percent_encoded(user));
        let connected = Client::open(address, user, &path, &[]).await;
        connected.unwrap_or_else(|refusal| panic!("{user} is refused: {refusal:?}"))
    }

    /// Connects with this path and these headers; takes the welcome.
    pub async fn open(
        address: SocketAddr,
        user: &str,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, Refusal> {
        let mut request =
            format!("ws://{address}{path}").into_client_request().expect("tests use valid paths");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("tests use valid headers"));
        }
        let stream = within(format!("a connection to {address}"), TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|error| panic!("nobody listens on {address}: {error}"));
        let upgrade = tokio_tungstenite::client_async(request, stream);
        let socket = match within(format!("the upgrade for {user}"), upgrade).await {
            Ok((socket, _)) => socket,
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().map(|body| String::from_utf8_lossy(body).into_owned());
                return Err(Refusal { status: response.status().as_u16(), body: body.unwrap_or_default() });
            }
            Err(error) => panic!("{user} can't connect: {error}"),
        };
        let (sink, stream) = socket.split();
        let (sender, inbox) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(stream, sender));
        let (kept, seen) = (VecDeque::new(), Vec::new());
        let (user, welcome) = (user.to_owned(), Value::Null);
        let mut client = Client { user, welcome, sink, inbox, kept, seen, reader, requests: 0 };
        let welcome = json!({"type": "welcome", "user": client.user, "status": "online"});
        client.welcome = client.expect(welcome).await;
        Ok(client)
    }

    /// The id of the session it was first welcomed with.
    pub fn session(&self) -> &str {
        self.welcome["session"].as_str().unwrap_or_default()
    }

    /// The instance it was first welcomed by.
    pub fn instance(&self) -> &str {
        self.welcome["instance"].as_str().unwrap_or_default()
    }

    /// Sets the session idle.
    pub async fn idle(&mut self) {
        self.done(json!({"type": "set_status", "status": "idle"})).await;
    }

    /// Sets the session online.
    pub async fn online(&mut self) {
        self.done(json!({"type": "set_status", "status": "online"})).await;
    }

    /// Watches these users: what is told of them comes before this returns, to be `expect`ed.
    pub async fn watch(&mut self, users: &[&str]) {
        let id = self.request(json!({"type": "watch", "users": users})).await;
        self.await_ok(&id).await;
    }

    /// Watches them no longer.
    pub async fn unwatch(&mut self, users: &[&str]) {
        self.done(json!({"type": "unwatch", "users": users})).await;
    }

    /// Asks for a pong and takes it.
    pub async fn ping(&mut self) {
        self.request(json!({"type": "ping"})).await;
        self.expect(json!({"type": "pong"})).await;
    }

    /// Sends a message with an id of its own, and returns the id.
    pub async fn request(&mut self, mut message: Value) -> String {
        self.requests += 1;
        let id = format!("{}", self.requests);
        message["id"] = json!(id);
        self.send(Message::text(message.to_string())).await;
        id
    }

    /// Sends any frame.
    pub async fn send(&mut self, frame: Message) {
        let sent = within(format!("a frame of {} taken", self.user), self.sink.send(frame)).await;
        sent.unwrap_or_else(|error| panic!("{} can't send: {error}", self.user));
    }

    /// Takes messages up to the first that has everything in `part`, and returns that one. What came before it is
    /// gone, so that expectations come in order.
    pub async fn expect(&mut self, part: Value) -> Value {
        loop {
            let message = self.next(&part).await;
            if holds(&message, &part) {
                return message;
            }
        }
    }

    /// Takes the next message, which must have everything in `part`.
    pub async fn expect_next(&mut self, part: Value) -> Value {
        let message = self.next(&part).await;
        assert!(holds(&message, &part), "{} expected {part} next and was told {message}", self.user);
        message
    }

    /// Closes, and waits for the host's answer.
    pub async fn close(mut self) {
        self.send(Message::Close(None)).await;
        let end = &mut self.reader;
        within("the host's close", end).await.expect("reading does not panic");
    }

    /// Is gone without a word, as a phone in a tunnel.
    pub fn abort(self) {
        drop(self);
    }

    /// Waits until the host has ended the connection; returns what it said before.
    pub async fn until_closed(mut self) -> Vec<Value> {
        within(format!("the end of {}'s connection", self.user), &mut self.reader).await.expect("reading");
        while let Ok(message) = self.inbox.try_recv() {
            self.seen.push(message);
        }
        std::mem::take(&mut self.seen)
    }

    /// The same, however long it takes.
    pub async fn until_ended(mut self) -> Vec<Value> {
        while let Some(message) = self.inbox.recv().await {
            self.seen.push(message);
        }
        std::mem::take(&mut self.seen)
    }

    async fn done(&mut self, message: Value) {
        let id = self.request(message).await;
        self.expect(json!({"type": "ok", "id": id})).await;
    }

    /// Waits for the `ok` and leaves everything before it to be expected.
    async fn await_ok(&mut self, id: &str) {
        let ok = json!({"type": "ok", "id": id});
        let mut kept = VecDeque::new();
        loop {
            let message = self.next(&ok).await;
            if holds(&message, &ok) {
                break;
            }
            kept.push_back(message);
        }
        self.kept = kept;
    }

    async fn next(&mut self, wanted: &Value) -> Value {
        if let Some(message) = self.kept.pop_front() {
            return message;
        }
        match tokio::time::timeout(crate::WAIT, self.inbox.recv()).await {
            Ok(Some(message)) => {
                self.seen.push(message.clone());
                message
            }
            Ok(None) => {
                panic!("{} lost the connection and awaited {wanted}; told {:#?}", self.user, self.seen)
            }
            Err(_) => panic!("{} awaited {wanted} for {:?}; told {:#?}", self.user, crate::WAIT, self.seen),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both halves go, and the socket with them.
        self.reader.abort();
    }
}

/// Hands on every message until the connection ends; a close frame becomes `{"type":"close","code":…}`.
async fn read(mut stream: SplitStream<WebSocketStream<TcpStream>>, sender: mpsc::UnboundedSender<Value>) {
    while let Some(Ok(frame)) = stream.next().await {
        let message = match frame {
            Message::Text(text) => {
                let parsed = serde_json::from_str(&text);
                parsed.unwrap_or_else(|error| panic!("the host sent no JSON ({error}): {text}"))
            }
            Message::Close(reason) => {
                json!({"type": "close", "code": reason.map(|reason| u16::from(reason.code))})
            }
            _ => continue,
        };
        if sender.send(message).is_err() {
            return;
        }
    }
}

/// Whether `message` has every member of `part`, at any depth.
fn holds(message: &Value, part: &Value) -> bool {
    match (message, part) {
        (Value::Object(message), Value::Object(part)) => {
            part.iter().all(|(key, value)| message.get(key).is_some_and(|present| holds(present, value)))
        }
        _ => message == part,
    }
}
