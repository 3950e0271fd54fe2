//! `presence connect`: a client in the terminal. Speaks `presence.v1` like any other client and knows nothing of the
//! host's inside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use futures_util::{SinkExt, StreamExt};
use presence_core::events::Status;
use presence_core::ids::UserId;
use presence_core::time::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::cli::ConnectArguments;
use crate::gateway::protocol::{HostMessage, MAX_USERS_PER_MESSAGE, goodbyes, rfc3339};
use crate::table::printable;

mod command;
mod target;

use command::Command;
pub(crate) use target::{Target, connector};

/// The first pause before a new attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause before a new attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long answers are waited for after the input has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Commands typed ahead.
const TYPED_AHEAD: usize = 64;

const HELP: &str = "i: idle, o: online, w NAME: watch, u NAME: unwatch, q: quit";

/// A client's end of a connection.
pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Reads commands from standard input until `q` or its end. Answers the exit code.
pub async fn run(arguments: ConnectArguments) -> anyhow::Result<u8> {
    let target = Target::new(&arguments.url, arguments.user.as_deref(), arguments.token.as_deref())?;
    let target = target.over(connector(&arguments.url, arguments.ca_file.as_deref())?);
    let (typed, commands) = mpsc::channel(TYPED_AHEAD);
    // A thread of its own that nobody waits for: reading from a terminal can't be interrupted.
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if typed.blocking_send(line).is_err() {
                break;
            }
        }
    })?;
    Client::new(target, commands, std::io::stdout()).run().await?;
    Ok(0)
}

/// Why one connection is over.
enum Over {
    /// The person has left.
    Left,
    /// Connect again after so long.
    Again(Duration),
}

struct Client<W> {
    target: Target,
    commands: mpsc::Receiver<String>,
    output: W,
    /// Told again after a reconnect.
    watched: BTreeSet<UserId>,
    /// Told again after a reconnect.
    idle: bool,
    /// What to say when the answer with this id comes.
    expected: BTreeMap<String, String>,
    sent: u64,
    /// The `welcome` of the present connection has come; before it, typed lines wait.
    welcomed: bool,
    /// Set when the input has ended: until then answers are waited for.
    leaving: Option<Instant>,
}

impl<W: Write> Client<W> {
    fn new(target: Target, commands: mpsc::Receiver<String>, output: W) -> Client<W> {
        Client {
            target,
            commands,
            output,
            watched: BTreeSet::new(),
            idle: false,
            expected: BTreeMap::new(),
            sent: 0,
            welcomed: false,
            leaving: None,
        }
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let mut socket = self.target.connect().await?;
        loop {
            let pause = match self.talk(socket).await? {
                Over::Left => return Ok(()),
                Over::Again(pause) => pause,
            };
            match self.come_back(pause).await? {
                Some(again) => socket = again,
                None => return Ok(()),
            }
        }
    }

    fn say(&mut self, sentence: &str) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = rfc3339(Timestamp(now.as_millis() as u64));
        writeln!(self.output, "{}  {}", &now[11..19], printable(sentence))?;
        Ok(self.output.flush()?)
    }

    /// One connection from its `welcome` to its end.
    async fn talk(&mut self, mut socket: Socket) -> anyhow::Result<Over> {
        self.expected.clear();
        self.welcomed = false;
        loop {
            let deadline = self.leaving.unwrap_or_else(Instant::now);
            tokio::select! {
                frame = socket.next() => match frame {
                    Some(Ok(Message::Text(text))) => {
                        if let Some(over) = self.hear(&text, &mut socket).await? {
                            return Ok(over);
                        }
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => {
                        self.say("the connection broke; trying again")?;
                        return Ok(Over::Again(FIRST_PAUSE));
                    }
                },
                // What is typed before the welcome waits: the welcome restores what was asked before a reconnect.
                line = self.commands.recv(), if self.leaving.is_none() && self.welcomed => match line {
                    Some(line) => {
                        if self.obey(&line, &mut socket).await? {
                            return self.leave(socket).await;
                        }
                    }
                    None => self.leaving = Some(Instant::now() + LAST_ANSWERS),
                },
                () = sleep_until(deadline), if self.leaving.is_some() => return self.leave(socket).await,
            }
            if self.leaving.is_some() && self.welcomed && self.expected.is_empty() {
                return self.leave(socket).await;
            }
        }
    }

    async fn leave(&mut self, mut socket: Socket) -> anyhow::Result<Over> {
        // The host sees the end of the connection either way.
        let _ = socket.close(None).await;
        let closed = async { while let Some(Ok(_)) = socket.next().await {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), closed).await;
        Ok(Over::Left)
    }

    /// Waits, and tries until it is let in; none if the person has left meanwhile.
    async fn come_back(&mut self, mut pause: Duration) -> anyhow::Result<Option<Socket>> {
        let mut next = FIRST_PAUSE;
        loop {
            let waited = sleep(pause);
            tokio::pin!(waited);
            loop {
                tokio::select! {
                    () = &mut waited => break,
                    line = self.commands.recv(), if self.leaving.is_none() => match line.as_deref().map(Command::parse) {
                        None | Some(Ok(Some(Command::Quit))) => return Ok(None),
                        Some(_) => self.say("not connected; wait, or q: quit")?,
                    },
                }
            }
            if self.leaving.is_some() {
                return Ok(None);
            }
            match self.target.connect().await {
                Ok(socket) => return Ok(Some(socket)),
                Err(unreachable) if unreachable.may_pass() => {
                    pause = next;
                    next = (next * 2).min(LONGEST_PAUSE);
                    self.say(&format!("{unreachable}; trying again in {:.1} s", pause.as_secs_f64()))?;
                }
                Err(unreachable) => return Err(unreachable.into()),
            }
        }
    }

    /// Carries out a typed line; true to leave.
    async fn obey(&mut self, line: &str, socket: &mut Socket) -> anyhow::Result<bool> {
        match Command::parse(line) {
            Ok(None) => {}
            Ok(Some(Command::Quit)) => return Ok(true),
            Ok(Some(Command::Status(status))) => {
                self.idle = status == Status::Idle;
                self.ask(
                    socket,
                    &format!("you are {status}"),
                    |id| serde_json::json!({"type": "set_status", "status": status, "id": id}),
                )
                .await?;
            }
            Ok(Some(Command::Watch(user))) => {
                self.ask(
                    socket,
                    &format!("watching {user}"),
                    |id| serde_json::json!({"type": "watch", "users": [user], "id": id}),
                )
                .await?;
                self.watched.insert(user);
            }
            Ok(Some(Command::Unwatch(user))) => {
                self.watched.remove(&user);
                self.ask(
                    socket,
                    &format!("no longer watching {user}"),
                    |id| serde_json::json!({"type": "unwatch", "users": [user], "id": id}),
                )
                .await?;
            }
            Err(mistake) => self.say(&format!("{mistake}. {HELP}"))?,
        }
        Ok(false)
    }

    /// A message that fails to be sent is not told here: the next read says that the connection broke.
    async fn ask(
        &mut self,
        socket: &mut Socket,
        when_done: &str,
        message: impl FnOnce(&str) -> serde_json::Value,
    ) -> anyhow::Result<()> {
        self.sent += 1;
        let id = self.sent.to_string();
        let text = message(&id).to_string();
        self.expected.insert(id, when_done.to_owned());
        let _ = socket.send(Message::text(text)).await;
        Ok(())
    }

    async fn hear(&mut self, text: &str, socket: &mut Socket) -> anyhow::Result<Option<Over>> {
        let Ok(message) = serde_json::from_str::<HostMessage<'_>>(text) else {
            // A later host may have more to say.
            self.say(&format!("not understood: {text}"))?;
            return Ok(None);
        };
        match message {
            HostMessage::Welcome { user, status, session, .. } => {
                self.welcomed = true;
                self.say(&format!("connected as {user}, {status}, session {session}"))?;
                self.say(HELP)?;
                self.restore(socket).await?;
            }
            HostMessage::Presence { user, status, since: Some(since), .. } => {
                self.say(&format!("{user} is {status} since {since}"))?;
            }
            HostMessage::Presence { user, status, since: None, .. } => {
                self.say(&format!("{user} is {status}, never seen"))?;
            }
            HostMessage::Ok { id } => {
                if let Some(done) = id.and_then(|id| self.expected.remove(&*id)) {
                    self.say(&done)?;
                }
            }
            HostMessage::Error { message, id, .. } => {
                if let Some(id) = id {
                    self.expected.remove(&*id);
                }
                self.say(&format!("refused: {message}"))?;
            }
            HostMessage::Pong { .. } => {}
            HostMessage::Goodbye { reason, retry_after_ms } => {
                return self.farewell(&reason, retry_after_ms).map(Some);
            }
        }
        Ok(None)
    }

    fn farewell(&mut self, reason: &str, retry_after_ms: Option<u64>) -> anyhow::Result<Over> {
        let pause = retry_after_ms.map_or(FIRST_PAUSE, Duration::from_millis);
        match reason {
            goodbyes::EXPIRED => bail!("the token has expired: connect again with a new one"),
            goodbyes::ABUSE | goodbyes::TOO_LARGE | goodbyes::PROTOCOL_ERROR => {
                bail!("the host sent this client away: {}", printable(reason))
            }
            goodbyes::DRAINING => {
                self.say(&format!("the host stops; connecting again in {:.1} s", pause.as_secs_f64()))?
            }
            other => {
                self.say(&format!("goodbye: {other}; connecting again in {:.1} s", pause.as_secs_f64()))?;
            }
        }
        Ok(Over::Again(pause))
    }

    /// A new session knows nothing of the one before.
    async fn restore(&mut self, socket: &mut Socket) -> anyhow::Result<()> {
        if self.idle {
            self.ask(
                socket,
                "you are idle",
                |id| serde_json::json!({"type": "set_status", "status": "idle", "id": id}),
            )
            .await?;
        }
        let watched: Vec<UserId> = self.watched.iter().cloned().collect();
        for users in watched.chunks(MAX_USERS_PER_MESSAGE) {
            self.ask(
                socket,
                &format!("watching {} users", users.len()),
                |id| serde_json::json!({"type": "watch", "users": users, "id": id}),
            )
            .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
