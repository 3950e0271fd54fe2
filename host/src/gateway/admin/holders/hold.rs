//! `GET /v1/hold`: a holder's orders over one long-lived WebSocket, pipelined. Each frame with an `id` is answered by a frame
//! with that `id`, not always in order. The connection is no lease: when it breaks, the holder connects again, here or at
//! another host.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use presence_core::holders::{Done, Rejected};
use presence_core::ids::{HolderName, Incarnation};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::words::{self, OperationDocument};
use super::{Desk, MAX_CONNECTIONS, Problem, bad_parameter};
use crate::driver::{Handle, HeldChange, HolderAnswer, HolderOrder, HolderRefused, HolderVerb, Kept};
use crate::gateway::auth::unavailable;
use crate::gateway::handshake::Handshake;
use crate::gateway::protocol::{close_codes, goodbyes};
use crate::gateway::query;
use crate::gateway::strikes::Strikes;

mod frames;
use frames::{Invalid, Reply, Wish, code, read, refused_code};

/// The largest frame, in bytes.
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// So many operations that have come already go to the driver together.
const MAX_TOGETHER: usize = 256;

/// So many operations may be without an answer before the holder is listened to again.
const MAX_UNANSWERED: usize = 8192;

/// For one frame to be written.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// After so long without a frame a Ping is sent, and after as long again the connection is closed.
const SILENCE: Duration = Duration::from_secs(30);

/// What the connection waits before another host is asked.
const RETRY_AFTER_MS: u64 = 1000;

/// Switches to the WebSocket.
pub(super) async fn hold(
    State(desk): State<Desk>,
    uri: Uri,
    mut request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    if let Some((name, _)) = query::pairs(uri.query()).next() {
        return Err(bad_parameter(format!("no query parameter is known here, `{name}` neither")));
    }
    if request.method() != Method::GET {
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is asked for with GET"));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let handshake = Handshake::read(&parts)?;
    let place = desk.holds.clone().try_acquire_owned().map_err(|_| {
        unavailable(format!("{MAX_CONNECTIONS} holders are connected to this host: ask another one"), 5)
    })?;
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let config = WebSocketConfig::default()
            .write_buffer_size(0)
            .max_write_buffer_size(1 << 20)
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let connection = Connection {
            socket,
            handle: desk.handle,
            holder: None,
            answers: FuturesUnordered::new(),
            unanswered: 0,
            strikes: Strikes::default(),
        };
        tokio::select! {
            () = connection.run() => {}
            () = desk.shutdown.cancelled() => {}
        }
        drop(place);
    });
    Ok(handshake.answer())
}

/// How a connection ends.
enum Ending {
    Closed,
    Goodbye(&'static str, u16),
}

impl From<SocketError> for Ending {
    fn from(error: SocketError) -> Ending {
        match error {
            SocketError::Capacity(_) => Ending::Goodbye(goodbyes::TOO_LARGE, close_codes::TOO_LARGE),
            SocketError::Utf8(_) => Ending::Goodbye(goodbyes::PROTOCOL_ERROR, close_codes::NOT_UTF8),
            SocketError::Protocol(_) => {
                Ending::Goodbye(goodbyes::PROTOCOL_ERROR, close_codes::PROTOCOL_ERROR)
            }
            _ => Ending::Closed,
        }
    }
}

/// What was answered to some frames.
enum Answered {
    Changes(Vec<Option<String>>, Result<Vec<Result<Done, Rejected>>, HolderRefused>),
    Renewed(Option<String>, Result<HolderAnswer, HolderRefused>),
}

struct Connection {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    handle: Handle,
    holder: Option<(HolderName, Incarnation, Duration)>,
    answers: FuturesUnordered<futures_util::future::BoxFuture<'static, Answered>>,
    unanswered: usize,
    strikes: Strikes,
}

impl Connection {
    async fn run(mut self) {
        let ending = loop {
            if let Err(ending) = self.turn().await {
                break ending;
            }
        };
        if let Ending::Goodbye(reason, code) = ending {
            let goodbye = Reply::Goodbye { reason, retry_after_ms: RETRY_AFTER_MS };
            if self.send(&goodbye).await.is_ok() {
                let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
                let _ = timeout(WRITE_PATIENCE, self.socket.send(Message::Close(Some(close)))).await;
            }
        }
    }

    /// Sends what is answered, or takes what has come.
    async fn turn(&mut self) -> Result<(), Ending> {
        let listens = self.unanswered < MAX_UNANSWERED;
        tokio::select! {
            Some(answered) = self.answers.next(), if !self.answers.is_empty() => self.tell(answered).await,
            frame = timeout(SILENCE, self.socket.next()), if listens => match frame {
                Ok(frame) => self.hear(frame).await,
                Err(_) => self.wake().await,
            },
        }
    }

    /// Nothing came for a while: is anybody there?
    async fn wake(&mut self) -> Result<(), Ending> {
        self.write(Message::Ping(Default::default())).await?;
        match timeout(SILENCE, self.socket.next()).await {
            Ok(frame) => self.hear(frame).await,
            Err(_) => Err(Ending::Goodbye(goodbyes::TIMEOUT, close_codes::TIMEOUT)),
        }
    }

    /// Takes a frame, and all operations that have come behind it.
    async fn hear(&mut self, first: Option<Result<Message, SocketError>>) -> Result<(), Ending> {
        let (mut ids, mut changes) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(frame) = next.take() {
            let message = match frame {
                None => return Err(Ending::Closed),
                Some(frame) => frame?,
            };
            let wish = match message {
                Message::Text(text) => read(&text),
                Message::Binary(_) => {
                    Err(Invalid { id: None, reason: "frames are JSON in text frames".into() })
                }
                Message::Close(_) => return Err(Ending::Closed),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {
                    next = self.socket.next().now_or_never();
                    continue;
                }
            };
            match wish {
                Ok(Wish::Change(id, operation)) => self.take(id, *operation, &mut ids, &mut changes).await?,
                wish => {
                    // What was said before it is asked before it.
                    self.change(std::mem::take(&mut ids), std::mem::take(&mut changes)).await?;
                    self.obey(wish).await?;
                }
            }
            if changes.len() < MAX_TOGETHER {
                next = self.socket.next().now_or_never();
            }
        }
        self.change(ids, changes).await
    }

    async fn take(
        &mut self,
        id: Option<String>,
        operation: OperationDocument,
        ids: &mut Vec<Option<String>>,
        changes: &mut Vec<HeldChange>,
    ) -> Result<(), Ending> {
        let Some((name, ..)) = &self.holder else {
            return self.complain(id, "not_registered", "register first".into()).await;
        };
        match operation.read(name) {
            Ok(change) => {
                ids.push(id);
                changes.push(change);
                Ok(())
            }
            Err(reason) => self.complain(id, "invalid_message", reason).await,
        }
    }

    async fn obey(&mut self, wish: Result<Wish, Invalid>) -> Result<(), Ending> {
        match wish {
            Err(Invalid { id, reason }) => self.complain(id, "invalid_message", reason).await,
            Ok(Wish::Ping(id)) => self.send(&Reply::Pong { id }).await,
            Ok(Wish::Register(id, name, incarnation, lease)) => {
                self.register(id, name, incarnation, lease).await
            }
            Ok(Wish::Renew(id)) => {
                let Some((name, incarnation, lease)) = self.holder.clone() else {
                    return self.complain(id, "not_registered", "register first".into()).await;
                };
                self.ask_later(HolderOrder { name, incarnation, verb: HolderVerb::Keep(lease) }, id);
                Ok(())
            }
            Ok(Wish::End(id)) => {
                let Some((name, incarnation, _)) = self.holder.take() else {
                    return self.complain(id, "not_registered", "register first".into()).await;
                };
                self.ask_later(HolderOrder { name, incarnation, verb: HolderVerb::End }, id);
                Ok(())
            }
            Ok(Wish::Change(..)) => Ok(()),
        }
    }

    /// The connection is this holder's from now on, and nobody else's.
    async fn register(
        &mut self,
        id: Option<String>,
        name: HolderName,
        incarnation: Incarnation,
        lease: Duration,
    ) -> Result<(), Ending> {
        if self.holder.as_ref().is_some_and(|(other, first, _)| (other, first) != (&name, &incarnation)) {
            let message = "this connection is another holder's, or another incarnation's".to_owned();
            return self.complain(id, "invalid_message", message).await;
        }
        let verb = HolderVerb::Keep(lease);
        let order = HolderOrder { name: name.clone(), incarnation: incarnation.clone(), verb };
        match self.handle.hold(order).await {
            Ok(Ok(HolderAnswer::Kept(kept))) => {
                self.holder = Some((name, incarnation, lease));
                self.registered(id, kept).await
            }
            Ok(Ok(_)) => Ok(()),
            Ok(Err(refused)) => self.refused(vec![id], &refused).await,
            Err(_) => Err(Ending::Goodbye(goodbyes::DRAINING, close_codes::GOING_AWAY)),
        }
    }

    async fn registered(&mut self, id: Option<String>, kept: Kept) -> Result<(), Ending> {
        let Some((name, incarnation, _)) = self.holder.clone() else { return Ok(()) };
        let reply = Reply::Registered {
            id,
            holder: name.as_str(),
            incarnation: incarnation.as_str(),
            instance: kept.instance.to_string(),
            created: kept.created,
            lease_seconds: kept.lease.as_secs(),
        };
        self.send(&reply).await
    }

    fn ask_later(&mut self, order: HolderOrder, id: Option<String>) {
        let handle = self.handle.clone();
        self.unanswered += 1;
        self.answers.push(Box::pin(async move {
            let answer = handle.hold(order).await.unwrap_or(Err(HolderRefused::Draining));
            Answered::Renewed(id, answer)
        }));
    }

    /// Hands operations to the driver, in the order in which they came; their answers are waited for later.
    async fn change(&mut self, ids: Vec<Option<String>>, changes: Vec<HeldChange>) -> Result<(), Ending> {
        let Some((name, incarnation, _)) = self.holder.clone().filter(|_| !changes.is_empty()) else {
            return Ok(());
        };
        let order = HolderOrder { name, incarnation, verb: HolderVerb::Change(changes) };
        let Ok(answer) = self.handle.begin_hold(order).await else {
            return Err(Ending::Goodbye(goodbyes::DRAINING, close_codes::GOING_AWAY));
        };
        self.unanswered += ids.len();
        self.answers.push(Box::pin(async move {
            let results = match answer.await {
                Ok(Ok(HolderAnswer::Changed(results))) => Ok(results),
                Ok(Err(refused)) => Err(refused),
                Ok(Ok(_)) | Err(_) => Err(HolderRefused::Draining),
            };
            Answered::Changes(ids, results)
        }));
        Ok(())
    }

    async fn tell(&mut self, answered: Answered) -> Result<(), Ending> {
        match answered {
            Answered::Renewed(id, result) => {
                self.unanswered -= 1;
                match result {
                    Ok(HolderAnswer::Kept(kept)) if kept.created => self.registered(id, kept).await,
                    Ok(_) => self.send(&Reply::Ok { id, result: None }).await,
                    Err(refused) => self.refused(vec![id], &refused).await,
                }
            }
            Answered::Changes(ids, Err(refused)) => {
                self.unanswered -= ids.len();
                self.refused(ids, &refused).await
            }
            Answered::Changes(ids, Ok(results)) => {
                self.unanswered -= ids.len();
                let mut replies = VecDeque::with_capacity(ids.len());
                for (id, result) in ids.into_iter().zip(results) {
                    replies.push_back(match result {
                        Ok(done) => Reply::Ok { id, result: Some(words::word(done)) },
                        Err(rejected) => {
                            Reply::Error { id, code: code(&rejected), message: rejected.to_string() }
                        }
                    });
                }
                while let Some(reply) = replies.pop_front() {
                    self.send(&reply).await?;
                }
                Ok(())
            }
        }
    }

    async fn refused(&mut self, ids: Vec<Option<String>>, refused: &HolderRefused) -> Result<(), Ending> {
        for id in ids {
            let (code, message) = (refused_code(refused), refused.to_string());
            self.send(&Reply::Error { id, code, message }).await?;
        }
        match refused {
            HolderRefused::Draining => Err(Ending::Goodbye(goodbyes::DRAINING, close_codes::GOING_AWAY)),
            _ => Ok(()),
        }
    }

    async fn complain(
        &mut self,
        id: Option<String>,
        code: &'static str,
        message: String,
    ) -> Result<(), Ending> {
        self.send(&Reply::Error { id, code, message }).await?;
        if self.strikes.strike(Instant::now()) {
            return Err(Ending::Goodbye(goodbyes::ABUSE, close_codes::ABUSE));
        }
        Ok(())
    }

    async fn send(&mut self, reply: &Reply<'_>) -> Result<(), Ending> {
        let text = serde_json::to_string(reply).map_err(|_| Ending::Closed)?;
        self.write(Message::text(text)).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Ending> {
        match timeout(WRITE_PATIENCE, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ending::Closed),
        }
    }
}
