//! A client of `GET /v1/events`.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::waiting::within;

/// One event.
#[derive(Clone, Debug)]
pub struct StreamEvent {
    /// `transition` or `reset`.
    pub event: String,
    /// What it tells.
    pub data: Value,
}

/// An open stream.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    connection: JoinHandle<hyper::Result<()>>,
    text: String,
    id: Option<String>,
}

impl EventStream {
    /// Opens one, such as `/v1/events?user=alice`. Panics if it is refused.
    pub async fn open(admin: SocketAddr, path: &str, last_event_id: Option<&str>) -> EventStream {
        within(format!("the answer to {path}"), EventStream::ask(admin, path, last_event_id)).await
    }

    async fn ask(admin: SocketAddr, path: &str, last_event_id: Option<&str>) -> EventStream {
        let stream = TcpStream::connect(admin).await.expect("somebody listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        let connection = tokio::spawn(connection);
        let request = http::Request::builder().uri(path).header("host", admin.to_string());
        let request = match last_event_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        let request = request.body(Empty::<Bytes>::new()).expect("tests ask for valid paths");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        EventStream { body: response.into_body(), connection, text: String::new(), id: None }
    }

    /// The last id that came; one comes at once.
    pub async fn id(&mut self) -> String {
        while self.id.is_none() {
            assert!(self.block().await.is_none(), "an event without an id");
        }
        self.id.clone().expect("it was just there")
    }

    /// The next event.
    pub async fn next(&mut self) -> StreamEvent {
        loop {
            if let Some(event) = self.block().await {
                return event;
            }
        }
    }

    /// The next event is a transition: its user and status.
    pub async fn transition(&mut self) -> (String, String) {
        let StreamEvent { event, data } = self.next().await;
        assert_eq!(event, "transition", "{data}");
        let field = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        (field("user"), field("status"))
    }

    /// True once the stream has ended.
    pub async fn ends(mut self) -> bool {
        within("the end of the stream", async { while let Some(Ok(_)) = self.body.frame().await {} }).await;
        true
    }

    async fn block(&mut self) -> Option<StreamEvent> {
        while !self.text.contains("\n\n") {
            let frame = within("the next event", self.body.frame()).await.expect("the stream has ended");
            let data = frame.expect("the stream is whole").into_data().unwrap_or_default();
            self.text.push_str(std::str::from_utf8(&data).expect("chunks hold whole events"));
        }
        let (block, rest) = self.text.split_once("\n\n").expect("it was just there");
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let (id, event, data) = (field("id: "), field("event: "), field("data: "));
        self.text = rest.to_owned();
        self.id = id.or(self.id.take());
        let data = data.map(|data| serde_json::from_str(&data).expect("data is JSON"));
        Some(StreamEvent { event: event?, data: data? })
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
