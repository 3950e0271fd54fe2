//! One task per WebSocket: frames in become events for the driver, what the driver puts in the outbox becomes frames
//! out. Decides nothing about statuses and keeps no timer: heartbeats are the driver's.
//!
//! Most of the time a session waits; then it is a boxed [`Connection`] and a small future. What needs room for a
//! moment (a frame being handled, a goodbye) is boxed for that moment.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use presence_core::events::{Attributes, Status, labels};
use presence_core::ids::UserId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::auth::{Identity, Watching};
use super::lag::Lag;
use super::limits::{Rate, Seat};
use super::listeners::{Gate, Slot};
use super::protocol::{ClientMessage, ErrorCode, HostMessage, MAX_MESSAGE_BYTES, close_codes, goodbyes};
use super::stream::Stream;
use super::strikes::Strikes;
use super::traffic::Cut;
use super::{Handle, NewSession, Outbox, Refused};
use crate::driver::{Connection as ConnectionId, Event, Outgoing, Stopped};
use crate::traces::Traced;

mod metadata;
mod renewal;

/// So many frames are sent in a row before a client is listened to again.
const FRAMES_IN_A_ROW: usize = 256;

/// What is still read and thrown away from a client that was sent away, in bytes: enough for one that has not seen
/// the close yet, so that the close is not lost to a connection reset.
const FAREWELL_BYTES: usize = 1 << 20;

/// An authenticated request for a session, before the upgrade.
pub(super) struct Arrival {
    pub(super) trace: Traced,
    pub(super) identity: Identity,
    pub(super) attributes: Attributes,
    pub(super) upgrade: OnUpgrade,
    pub(super) slot: Arc<Slot>,
    pub(super) seat: Seat,
    pub(super) gate: Arc<Gate>,
    pub(super) handle: Handle,
}

/// Why the driver did not take a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotOpened {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("this host is stopping")]
    Stopped,
}

/// Opens a session, tells the HTTP side by `verdict` whether to switch protocols, and serves the session to its end.
/// A task of its own, so that a client that leaves in between can't leave an opened session behind.
pub(super) async fn session(arrival: Box<Arrival>, verdict: oneshot::Sender<Result<(), NotOpened>>) {
    if let Some(connection) = Box::pin(open(arrival, verdict)).await {
        connection.run().await;
    }
}

async fn open(
    arrival: Box<Arrival>,
    verdict: oneshot::Sender<Result<(), NotOpened>>,
) -> Option<Box<Connection>> {
    let Arrival { trace, identity, attributes, upgrade, slot, seat, gate, handle } = *arrival;
    let outbox = Arc::new(Outbox::default());
    let session = NewSession {
        user: identity.user.clone(),
        attributes: attributes.clone(),
        outbox: outbox.clone(),
        expires_at: identity.expires_at,
        trace,
    };
    let opened = match handle.open(session).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(refused)) => {
            // Before it is told: whoever comes again at once finds it free.
            drop(seat);
            // Nobody to tell is fine: nothing was opened.
            let _ = verdict.send(Err(refused.into()));
            return None;
        }
        Err(Stopped) => {
            let _ = verdict.send(Err(NotOpened::Stopped));
            return None;
        }
    };
    let stream = match verdict.send(Ok(())) {
        Ok(()) => upgrade.await.ok().and_then(|upgraded| upgraded.downcast::<TokioIo<Stream>>().ok()),
        Err(_) => None,
    };
    let Some(parts) = stream else {
        let _ = handle.send(Event::Closed(opened.connection, labels::CLOSED)).await;
        return None;
    };
    let early = parts.read_buf.to_vec();
    let socket = WebSocketStream::from_partially_read(
        parts.io.into_inner(),
        early,
        Role::Server,
        Some(socket_config()),
    )
    .await;
    gate.traffic.count_accepted();
    let connection = Connection {
        id: opened.connection,
        socket,
        outbox,
        handle,
        gate,
        user: identity.user,
        watching: identity.watching,
        attributes,
        watched: HashSet::default(),
        strikes: Strikes::default(),
        rate: Rate::default(),
        lag: Lag::default(),
        welcome: Some(Box::new(Outgoing::Welcome(opened.session, opened.instance, Status::Online))),
        _slot: slot,
        _seat: seat,
    };
    Some(Box::new(connection))
}

/// Small buffers: most sockets are idle. Frames are written as they come, one by one.
fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client said goodbye.
    Closed,
    /// The connection broke; nobody is there to be told.
    Broken,
    /// One frame could not be written within the bound.
    Stuck,
    /// The host sends the client away.
    Goodbye { reason: &'static str, retry_after_ms: Option<u64>, code: u16, label: &'static str },
}

impl Ending {
    const ABUSE: Ending = Ending::sent_away(goodbyes::ABUSE, close_codes::ABUSE);
    const TOO_LARGE: Ending = Ending::sent_away(goodbyes::TOO_LARGE, close_codes::TOO_LARGE);
    const SLOW: Ending = Ending::Goodbye {
        reason: goodbyes::SLOW,
        retry_after_ms: None,
        code: close_codes::SLOW,
        label: labels::TIMEOUT,
    };
    const STOPPED: Ending = Ending::Goodbye {
        reason: goodbyes::INTERNAL,
        retry_after_ms: None,
        code: close_codes::INTERNAL,
        label: labels::CLOSED,
    };

    const fn sent_away(reason: &'static str, code: u16) -> Ending {
        Ending::Goodbye { reason, retry_after_ms: None, code, label: labels::ABUSE }
    }

    /// Under what it is counted, if it is the client's fault.
    fn cut(self) -> Option<Cut> {
        match self {
            Ending::Stuck => Some(Cut::SlowReader),
            Ending::Goodbye { code, .. } => match code {
                close_codes::SLOW => Some(Cut::SlowReader),
                close_codes::ABUSE => Some(Cut::Abuse),
                close_codes::TOO_LARGE => Some(Cut::TooLarge),
                close_codes::PROTOCOL_ERROR | close_codes::NOT_UTF8 => Some(Cut::Protocol),
                _ => None,
            },
            Ending::Closed | Ending::Broken => None,
        }
    }

    /// The reason in `session-disconnected`.
    fn label(self) -> &'static str {
        match self {
            Ending::Closed | Ending::Broken => labels::CLOSED,
            Ending::Stuck => labels::TIMEOUT,
            Ending::Goodbye { label, .. } => label,
        }
    }
}

impl From<Stopped> for Ending {
    fn from(_: Stopped) -> Ending {
        Ending::STOPPED
    }
}

impl From<SocketError> for Ending {
    fn from(error: SocketError) -> Ending {
        match error {
            SocketError::Capacity(_) => Ending::TOO_LARGE,
            SocketError::Utf8(_) => Ending::sent_away(goodbyes::PROTOCOL_ERROR, close_codes::NOT_UTF8),
            SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ending::Broken,
            SocketError::Protocol(_) | SocketError::AttackAttempt => {
                Ending::sent_away(goodbyes::PROTOCOL_ERROR, close_codes::PROTOCOL_ERROR)
            }
            _ => Ending::Broken,
        }
    }
}

/// What woke the task.
enum Step {
    Frame(Option<Result<Message, SocketError>>),
    Filled,
}

struct Connection {
    id: ConnectionId,
    socket: WebSocketStream<Stream>,
    outbox: Arc<Outbox>,
    handle: Handle,
    gate: Arc<Gate>,
    user: UserId,
    watching: Watching,
    /// The driver has the same: changes of metadata are checked here.
    attributes: Attributes,
    /// Only to keep to `limits.watched_users`; the driver knows who watches whom.
    watched: HashSet<UserId, RandomState>,
    strikes: Strikes,
    rate: Rate,
    lag: Lag,
    /// The first frame to send.
    welcome: Option<Box<Outgoing>>,
    _slot: Arc<Slot>,
    _seat: Seat,
}

impl Connection {
    async fn run(mut self: Box<Self>) {
        let ending = loop {
            if let Err(ending) = self.turn().await {
                break ending;
            }
        };
        Box::pin(self.end(ending)).await;
    }

    /// Sends what waits, then waits for a frame or for more to send.
    async fn turn(&mut self) -> Result<(), Ending> {
        if self.welcome.is_some() || !self.outbox.is_empty() {
            Box::pin(self.flush()).await?;
        }
        let waiting = self.outbox.len();
        if waiting > Outbox::MAX_ANSWERS {
            return Ok(());
        }
        let outbox = &self.outbox;
        let step = tokio::select! {
            frame = self.socket.next() => Step::Frame(frame),
            () = async { if waiting == 0 { outbox.filled().await } } => Step::Filled,
        };
        match step {
            Step::Filled => Ok(()),
            Step::Frame(None) => Err(Ending::Broken),
            Step::Frame(Some(Err(error))) => Err(error.into()),
            Step::Frame(Some(Ok(frame))) => Box::pin(self.hear(frame)).await,
        }
    }

    async fn flush(&mut self) -> Result<(), Ending> {
        if let Some(welcome) = self.welcome.take() {
            self.send(*welcome).await?;
        }
        for _ in 0..FRAMES_IN_A_ROW {
            match self.outbox.pop() {
                Some(frame) => {
                    self.send(frame).await?;
                    let (waiting, patience) = (self.outbox.len(), self.gate.bounds.write);
                    if self.lag.is_too_long(waiting, Instant::now(), patience) {
                        return Err(Ending::SLOW);
                    }
                }
                None => break,
            }
        }
        Ok(())
    }

    async fn send(&mut self, frame: Outgoing) -> Result<(), Ending> {
        let message = match &frame {
            Outgoing::Ok(id) => HostMessage::Ok { id: id.as_deref().map(Into::into) },
            Outgoing::Presence(user, status, since, revision) => {
                HostMessage::presence(user, *status, *since, *revision, None)
            }
            Outgoing::Detailed(news) => {
                let (user, status, since, revision, shown) = &**news;
                HostMessage::presence(user, *status, *since, *revision, Some(shown))
            }
            Outgoing::Unavailable(why, id) => {
                self.gate.traffic.count_error(ErrorCode::Unavailable);
                let id = id.as_deref().map(Into::into);
                HostMessage::Error { code: ErrorCode::Unavailable, message: why.into(), id }
            }
            Outgoing::Welcome(session, instance, status) => {
                let (session, instance) = (session.to_string(), instance.to_string());
                HostMessage::Welcome {
                    session: session.into(),
                    user: self.user.as_str().into(),
                    instance: instance.into(),
                    status: *status,
                    heartbeat_ms: self.gate.heartbeat_ms,
                }
            }
            Outgoing::Ping => return self.write(Message::Ping(Default::default())).await,
            Outgoing::Goodbye { reason, retry_after_ms, code } => {
                let (reason, retry_after_ms, code) = (*reason, *retry_after_ms, *code);
                return Err(Ending::Goodbye { reason, retry_after_ms, code, label: reason });
            }
        };
        let text = message.to_text();
        self.write(Message::text(text)).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Ending> {
        match timeout(self.gate.bounds.write, self.socket.send(message)).await {
            Ok(Ok(())) => {
                self.gate.traffic.count_frame_out();
                Ok(())
            }
            Ok(Err(_)) => Err(Ending::Broken),
            Err(_) => Err(Ending::Stuck),
        }
    }

    async fn hear(&mut self, frame: Message) -> Result<(), Ending> {
        self.gate.traffic.count_frame_in();
        if !frame.is_close() && !self.gate.limits.message(&mut self.rate, Instant::now()) {
            return self.put_off(frame).await;
        }
        match frame {
            Message::Text(text) => match ClientMessage::parse(&text) {
                Ok(message) => self.obey(message).await,
                Err(invalid) => {
                    self.handle.send(Event::Frame(self.id)).await?;
                    self.complain(invalid.code, invalid.explanation, invalid.id).await
                }
            },
            Message::Binary(_) => {
                self.handle.send(Event::Frame(self.id)).await?;
                let explanation = "binary frames are not understood: messages are JSON in text frames";
                self.complain(ErrorCode::InvalidMessage, explanation.to_owned(), None).await
            }
            // The library answers a Ping by itself, with the next read or write.
            Message::Ping(_) | Message::Pong(_) => Ok(self.handle.send(Event::Frame(self.id)).await?),
            Message::Close(_) => Err(Ending::Closed),
            Message::Frame(_) => Ok(()),
        }
    }

    /// Too many came in a second: this one is not carried out.
    async fn put_off(&mut self, frame: Message) -> Result<(), Ending> {
        self.handle.send(Event::Frame(self.id)).await?;
        let id = match &frame {
            Message::Text(text) => {
                ClientMessage::parse(text).map_or_else(|invalid| invalid.id, ClientMessage::into_id)
            }
            _ => None,
        };
        let explanation = "more messages than a session may send in a second: send it again later";
        self.complain(ErrorCode::TooFast, explanation.to_owned(), id).await
    }

    async fn obey(&mut self, message: ClientMessage) -> Result<(), Ending> {
        match message {
            ClientMessage::SetStatus { status, id, traceparent } => {
                let trace = self.gate.tracer.root("session.set_status", traceparent);
                Ok(self.handle.send(Event::SetStatus(self.id, status, id, trace)).await?)
            }
            ClientMessage::SetMetadata { changes, id } => self.set_metadata(changes, id).await,
            ClientMessage::SetMessage { wanted, id } => {
                Ok(self.handle.send(Event::SetMessage(self.id, wanted, id)).await?)
            }
            ClientMessage::Watch { users, with, id } => match self.may_watch(&users) {
                Ok(()) => Ok(self.handle.send(Event::Watch(self.id, users, with, id)).await?),
                Err((code, explanation)) => {
                    self.handle.send(Event::Activity(self.id)).await?;
                    self.complain(code, explanation, id).await
                }
            },
            ClientMessage::Unwatch { users, id } => {
                for user in &users {
                    self.watched.remove(user);
                }
                if self.watched.is_empty() {
                    self.watched = HashSet::default();
                }
                Ok(self.handle.send(Event::Unwatch(self.id, users, id)).await?)
            }
            ClientMessage::Token { token, id } => self.renew(token.as_str(), id).await,
            ClientMessage::Ping { id } => {
                self.handle.send(Event::Frame(self.id)).await?;
                let pong = HostMessage::Pong { id: id.map(Into::into) };
                self.write(Message::text(pong.to_text())).await
            }
        }
    }

    /// All or nothing: either every user of the message is noted as watched, or none.
    fn may_watch(&mut self, users: &[UserId]) -> Result<(), (ErrorCode, String)> {
        if let Some(user) = users.iter().find(|user| !self.watching.allows(&self.user, user)) {
            let explanation = format!("this session may not watch {:?}", user.as_str());
            return Err((ErrorCode::Forbidden, explanation));
        }
        let watched = &mut self.watched;
        let new: HashSet<&UserId, RandomState> =
            users.iter().filter(|user| !watched.contains(*user)).collect();
        let most = self.gate.limits.watched_users();
        if watched.len() + new.len() > most {
            let explanation = format!(
                "this session watches {} users; with this message there would be more than {most}",
                watched.len()
            );
            return Err((ErrorCode::TooMany, explanation));
        }
        watched.extend(new.into_iter().cloned());
        Ok(())
    }

    async fn complain(&mut self, code: ErrorCode, message: String, id: Option<String>) -> Result<(), Ending> {
        self.gate.traffic.count_error(code);
        let error = HostMessage::Error { code, message: message.into(), id: id.map(Into::into) };
        self.write(Message::text(error.to_text())).await?;
        if self.strikes.strike(Instant::now()) { Err(Ending::ABUSE) } else { Ok(()) }
    }

    async fn end(mut self: Box<Self>, ending: Ending) {
        tracing::debug!(user = %self.user, connection = self.id.0, ?ending, "a connection ends");
        if let Some(reason) = ending.cut() {
            self.gate.traffic.count_cut(reason);
        }
        let patience = self.gate.bounds.close;
        if let Ending::Goodbye { reason, retry_after_ms, code, .. } = ending {
            // Whether it arrives is the client's affair; the session ends either way.
            let _ = timeout(patience, self.say_goodbye(reason, retry_after_ms, code)).await;
        }
        // A driver that has stopped has ended all sessions.
        let _ = self.handle.send(Event::Closed(self.id, ending.label())).await;
        match ending {
            Ending::Broken | Ending::Stuck => {}
            Ending::Closed => {
                let answered = async { while let Some(Ok(_)) = self.socket.next().await {} };
                let _ = timeout(patience, answered).await;
            }
            Ending::Goodbye { .. } => {
                let _ = timeout(patience, see_off(self.socket.into_inner())).await;
            }
        }
    }

    async fn say_goodbye(
        &mut self,
        reason: &'static str,
        retry_after_ms: Option<u64>,
        code: u16,
    ) -> Result<(), SocketError> {
        let goodbye = HostMessage::Goodbye { reason: reason.into(), retry_after_ms };
        self.socket.send(Message::text(goodbye.to_text())).await?;
        self.gate.traffic.count_frame_out();
        let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.socket.send(Message::Close(Some(close))).await
    }
}

/// Closes our side and reads on until the client closes its own.
async fn see_off(mut stream: Stream) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut thrown_away = vec![0; 4096];
    let mut bytes = 0;
    while bytes < FAREWELL_BYTES {
        match stream.read(&mut thrown_away).await? {
            0 => break,
            read => bytes += read,
        }
    }
    Ok(())
}
