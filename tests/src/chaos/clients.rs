//! The crowd: clients as an application's frontend would be one. They come back after a goodbye when it says so and
//! after a broken connection when they like, to another host; and they say again what they are when the host has
//! forgotten it. What each of them knows is in its slot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::hosts::Directory;
use super::ledger::{Ledger, SessionNote};
use super::plan::Plan;

/// An impatient client asks after so much silence, and gives up after as much again.
const SILENCE: Duration = Duration::from_secs(6);
/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(5);
/// How many others each client watches.
const WATCHED: usize = 4;

type Socket = WebSocketStream<TcpStream>;

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Come and go.
    Acting,
    /// Stay as they are.
    Resting,
}

/// What a client knows of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// Whose client.
    pub(super) user: String,
    /// Meant to be connected.
    pub(super) wanted: bool,
    /// The number of its session in the ledger, while it is connected.
    pub(super) session: Option<usize>,
    /// What it wants to be: `online` or `idle`.
    pub(super) status: &'static str,
    /// Whether the host has agreed to that.
    pub(super) agreed: bool,
    /// Whom it watches, with status and revision last told on this connection.
    pub(super) told: BTreeMap<String, (String, u64)>,
}

/// All clients; gone with this value.
pub(super) struct Crowd {
    slots: Vec<Arc<Mutex<Slot>>>,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

impl Crowd {
    /// Starts them; they act at once.
    pub(super) fn start(plan: &Plan, directory: &Arc<Directory>, ledger: &Arc<Ledger>) -> Crowd {
        let mode = watch::Sender::new(Mode::Acting);
        let mut tasks = JoinSet::new();
        let mut slots = Vec::new();
        for number in 0..plan.clients {
            let mut rng =
                fastrand::Rng::with_seed(plan.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
            let user = user(number % plan.users);
            let watched = (0..WATCHED).map(|_| self::user(rng.usize(..plan.users))).collect();
            let slot = Slot { user, wanted: true, status: "online", ..Slot::default() };
            let slot = Arc::new(Mutex::new(slot));
            slots.push(slot.clone());
            let client = Client {
                number,
                host: rng.usize(..super::plan::HOSTS),
                patient: rng.bool(),
                watched,
                pace: plan.pace,
                rng,
                slot,
                mode: mode.subscribe(),
                directory: directory.clone(),
                ledger: ledger.clone(),
            };
            tasks.spawn(client.live());
        }
        Crowd { slots, mode, _tasks: tasks }
    }

    /// Nobody acts any more; who has lost the connection still comes back.
    pub(super) fn rest(&self) {
        self.mode.send_replace(Mode::Resting);
    }

    /// What each of them knows now.
    pub(super) fn slots(&self) -> Vec<Slot> {
        self.slots.iter().map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}

/// The name of a user.
pub(super) fn user(number: usize) -> String {
    format!("user-{number}")
}

struct Client {
    number: usize,
    host: usize,
    /// Waits through any silence.
    patient: bool,
    watched: Vec<String>,
    pace: Duration,
    rng: fastrand::Rng,
    slot: Arc<Mutex<Slot>>,
    mode: watch::Receiver<Mode>,
    directory: Arc<Directory>,
    ledger: Arc<Ledger>,
}

/// How a connection went.
enum Parting {
    /// The client closed it, and stays away for so long.
    Left(Duration),
    /// The host said goodbye: come back after so long.
    Goodbye(Duration),
    /// It broke, or there was none.
    Lost,
}

impl Client {
    async fn live(mut self) {
        sleep(self.between(0, 1_000)).await;
        loop {
            match self.connection().await {
                Parting::Left(away) => {
                    self.slot().wanted = false;
                    self.stay_away(away).await;
                    self.slot().wanted = true;
                    self.host = self.rng.usize(..super::plan::HOSTS);
                }
                Parting::Goodbye(after) => {
                    self.go_elsewhere();
                    sleep(after).await;
                }
                Parting::Lost => {
                    self.go_elsewhere();
                    sleep(self.between(50, 1_500)).await;
                }
            }
        }
    }

    /// For that time; for ever once everybody rests.
    async fn stay_away(&mut self, time: Duration) {
        let mut mode = self.mode.clone();
        let resting = async { mode.wait_for(|mode| *mode == Mode::Resting).await.is_ok() };
        tokio::select! {
            () = sleep(time) => return,
            _ = resting => {}
        }
        std::future::pending().await
    }

    fn go_elsewhere(&mut self) {
        self.host = (self.host + 1 + self.rng.usize(..super::plan::HOSTS - 1)) % super::plan::HOSTS;
    }

    /// One connection, from before its beginning to after its end.
    async fn connection(&mut self) -> Parting {
        let Some(mut socket) = self.connect().await else {
            return Parting::Lost;
        };
        let parting = self.converse(&mut socket).await;
        let how = match &parting {
            Parting::Left(_) => "left",
            Parting::Goodbye(_) => "goodbye",
            Parting::Lost => "lost",
        };
        let session = {
            let mut slot = self.slot();
            slot.agreed = false;
            slot.told.clear();
            slot.session.take()
        };
        if let Some(session) = session {
            self.ledger.ended(session, how);
        }
        parting
    }

    async fn connect(&mut self) -> Option<Socket> {
        let address = self.directory.clients(self.host)?;
        let user = self.slot().user.clone();
        let connecting = async {
            let stream = TcpStream::connect(address).await.ok()?;
            // Only about speed.
            let _ = stream.set_nodelay(true);
            let url = format!("ws://{address}/v1/connect?user={user}");
            tokio_tungstenite::client_async(url, stream).await.ok().map(|(socket, _)| socket)
        };
        timeout(CONNECTING, connecting).await.ok().flatten()
    }

    async fn converse(&mut self, socket: &mut Socket) -> Parting {
        let mut action = Instant::now() + self.pause();
        let mut heard = Instant::now();
        let mut asked = false;
        loop {
            let resting = *self.mode.borrow() == Mode::Resting;
            tokio::select! {
                frame = socket.next() => {
                    let Some(Ok(frame)) = frame else {
                        return Parting::Lost;
                    };
                    (heard, asked) = (Instant::now(), false);
                    match self.handle(socket, frame).await {
                        Ok(None) => {}
                        Ok(Some(parting)) => return parting,
                        Err(()) => return Parting::Lost,
                    }
                }
                () = sleep_until(action), if !resting => {
                    match self.act(socket).await {
                        Ok(None) => {}
                        Ok(Some(parting)) => return parting,
                        Err(()) => return Parting::Lost,
                    }
                    action = Instant::now() + self.pause();
                }
                () = sleep_until(heard + SILENCE), if !self.patient => {
                    if asked || send(socket, json!({"type": "ping"})).await.is_err() {
                        return Parting::Lost;
                    }
                    (heard, asked) = (Instant::now(), true);
                }
            }
        }
    }

    /// Something a person would do.
    async fn act(&mut self, socket: &mut Socket) -> Result<Option<Parting>, ()> {
        if self.slot().session.is_none() {
            return Ok(None);
        }
        match self.rng.u8(..100) {
            0..12 => {
                // A good end waits for the answer, but not for long.
                let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
                Ok(Some(Parting::Left(self.pause())))
            }
            // Gone without a word: the socket is dropped.
            12..20 => Ok(Some(Parting::Left(self.pause()))),
            // A page is reloaded: back at once.
            20..28 => Ok(Some(Parting::Left(self.between(20, 300)))),
            _ => {
                let status = {
                    let mut slot = self.slot();
                    slot.status = if slot.status == "online" { "idle" } else { "online" };
                    slot.agreed = false;
                    slot.status
                };
                self.say_status(socket, status).await?;
                Ok(None)
            }
        }
    }

    async fn say_status(&mut self, socket: &mut Socket, status: &str) -> Result<(), ()> {
        send(socket, json!({"type": "set_status", "status": status, "id": status})).await
    }

    async fn handle(&mut self, socket: &mut Socket, frame: Message) -> Result<Option<Parting>, ()> {
        let Message::Text(text) = frame else {
            return if matches!(frame, Message::Close(_)) { Err(()) } else { Ok(None) };
        };
        let message: Value = serde_json::from_str(&text).map_err(|error| {
            self.ledger.problem(format!("client {} was sent no JSON ({error}): {text}", self.number));
        })?;
        let field = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        match field("type") {
            "welcome" => self.welcomed(socket, &message).await?,
            "ok" => {
                let mut slot = self.slot();
                if field("id") == slot.status {
                    slot.agreed = true;
                }
            }
            "presence" => self.told(&message),
            "goodbye" => {
                let after = message.get("retry_after_ms").and_then(Value::as_u64).unwrap_or(0);
                return Ok(Some(Parting::Goodbye(Duration::from_millis(after))));
            }
            "pong" => {}
            _ => self.ledger.problem(format!("client {} was told {text}", self.number)),
        }
        Ok(None)
    }

    /// A session begins: the first of the connection, or another one because the host has a new instance.
    async fn welcomed(&mut self, socket: &mut Socket, message: &Value) -> Result<(), ()> {
        let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let before = self.slot().session.take();
        if let Some(before) = before {
            self.ledger.ended(before, "replaced");
        }
        let note = SessionNote {
            session: text("session"),
            user: text("user"),
            instance: text("instance"),
            host: self.host,
            welcomed: self.ledger.now(),
            again: before.is_some(),
            ended: None,
        };
        if note.user != self.slot().user {
            self.ledger.problem(format!("client {} was welcomed as {}", self.number, note.user));
        }
        let number = self.ledger.welcomed(note);
        let (status, agreed) = {
            let mut slot = self.slot();
            slot.session = Some(number);
            slot.agreed = message.get("status").and_then(Value::as_str) == Some(slot.status);
            (slot.status, slot.agreed)
        };
        if !agreed {
            self.say_status(socket, status).await?;
        }
        if before.is_none() {
            send(socket, json!({"type": "watch", "users": self.watched, "id": "watch"})).await?;
        }
        Ok(())
    }

    fn told(&mut self, message: &Value) {
        let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (user, status) = (text("user"), text("status"));
        let revision = message.get("revision").and_then(Value::as_u64).unwrap_or(0);
        self.ledger.told(&user, revision, &status);
        let before = self.slot().told.insert(user.clone(), (status, revision));
        if let Some((_, before)) = before.filter(|(_, before)| *before > revision) {
            let number = self.number;
            self.ledger.problem(format!("client {number} was told {user} at {revision} after {before}"));
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Every change is whole.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&mut self) -> Duration {
        let pace = self.pace.as_millis() as u64;
        self.between(pace / 2, pace * 3 / 2)
    }

    fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.u64(from..to))
    }
}

async fn send(socket: &mut Socket, message: Value) -> Result<(), ()> {
    // A host that does not read for so long is as good as gone.
    let sending = socket.send(Message::text(message.to_string()));
    timeout(Duration::from_secs(30), sending).await.map_err(|_| ())?.map_err(|_| ())
}
