//! One session of a run: a task that has the socket. What it hears goes into one channel, with the time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use futures_util::{SinkExt, StreamExt};
use presence_core::events::Status;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;
use tokio_tungstenite::Connector;
use tokio_tungstenite::tungstenite::Message;

use super::people::Person;
use crate::connect::{Socket, Target as Address, connector};
use crate::gateway::protocol::{ErrorCode, HostMessage};

/// How long the welcome may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One address where sessions are opened.
pub(super) struct Target {
    url: String,
    tls: Option<Connector>,
}

/// The addresses of `--url`, checked before anything is opened.
pub(super) fn targets(urls: &[String], ca_file: Option<&Path>) -> anyhow::Result<Vec<Target>> {
    let target = |url: &String| {
        Address::new(url, None, None)?;
        Ok(Target { url: url.clone(), tls: connector(url, ca_file)? })
    };
    urls.iter().map(target).collect()
}

/// What a session hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The message with this number was carried out.
    Done(u64),
    /// It was not.
    Refused(Option<u64>, ErrorCode),
    /// A watched user's status.
    Status(String, Status),
    /// Nothing more will come.
    Ended,
}

/// What was heard, by whom and when.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) session: usize,
    pub(super) at: Instant,
    pub(super) heard: Heard,
}

/// A session that was welcomed.
pub(super) struct Session {
    /// Whose it is.
    pub(super) user: String,
    messages: UnboundedSender<Message>,
}

impl Target {
    /// Connects and takes the welcome.
    pub(super) async fn connect(&self, person: &Person) -> anyhow::Result<Socket> {
        let user = person.token.is_none().then_some(person.user.as_str());
        let address = Address::new(&self.url, user, person.token.as_deref())?.over(self.tls.clone());
        let mut socket = address.connect().await?;
        let welcome = timeout(PATIENCE, socket.next()).await;
        let welcome = welcome.map_err(|_| anyhow!("no welcome within {} s", PATIENCE.as_secs()))?;
        let welcome = welcome.context("the connection ended before the welcome")??;
        let text = welcome.to_text().context("the welcome is no text")?;
        match serde_json::from_str(text) {
            Ok(HostMessage::Welcome { .. }) => Ok(socket),
            _ => bail!("instead of a welcome: {text}"),
        }
    }
}

impl Session {
    /// Goes on in a task of its own; it ends when this value is dropped.
    pub(super) fn start(
        number: usize,
        user: String,
        socket: Socket,
        notes: UnboundedSender<Note>,
    ) -> Session {
        let (messages, outbox) = mpsc::unbounded_channel();
        tokio::spawn(carry(number, socket, outbox, notes));
        Session { user, messages }
    }

    /// Sends this. Of one that has ended the note `Ended` tells.
    pub(super) fn send(&self, message: &serde_json::Value) {
        let _ = self.messages.send(Message::text(message.to_string()));
    }

    /// Closes as the protocol wants it.
    pub(super) fn close(&self) {
        let _ = self.messages.send(Message::Close(None));
    }
}

/// Whoever has the notes may be gone: then they have no reader.
async fn carry(
    session: usize,
    mut socket: Socket,
    mut outbox: UnboundedReceiver<Message>,
    notes: UnboundedSender<Note>,
) {
    loop {
        tokio::select! {
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => {
                    let at = Instant::now();
                    if let Some(heard) = hear(&text) {
                        let _ = notes.send(Note { session, at, heard });
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
            message = outbox.recv() => match message {
                Some(message) => {
                    // A socket that takes nothing any more says so when it is read.
                    let _ = socket.send(message).await;
                }
                None => break,
            },
        }
    }
    let _ = notes.send(Note { session, at: Instant::now(), heard: Heard::Ended });
}

fn hear(text: &str) -> Option<Heard> {
    let number = |id: Option<std::borrow::Cow<'_, str>>| id.and_then(|id| id.parse().ok());
    match serde_json::from_str(text).ok()? {
        HostMessage::Ok { id } => number(id).map(Heard::Done),
        HostMessage::Error { id, code, .. } => Some(Heard::Refused(number(id), code)),
        HostMessage::Presence { user, status, .. } => Some(Heard::Status(user.into_owned(), status)),
        _ => None,
    }
}
