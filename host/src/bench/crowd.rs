//! All sessions of a run, and what they hear.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use presence_core::events::Status;
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout_at;

use super::people::People;
use super::session::{Heard, Note, Session, Target};
use crate::connect::Socket;

/// How long something that was asked may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What came of opening the sessions.
pub(super) struct Opened {
    /// From the first packet to the welcome, of each that was let in.
    pub(super) latencies: Vec<Duration>,
    /// From the first to the last.
    pub(super) took: Duration,
    /// Why others were not, and how many for each reason.
    pub(super) refused: BTreeMap<String, usize>,
}

/// The sessions that were let in.
pub(super) struct Crowd {
    sessions: Vec<Session>,
    /// Which of the people each is: they are let in in any order.
    numbers: Vec<usize>,
    idle: Vec<bool>,
    notes: UnboundedReceiver<Note>,
    sender: UnboundedSender<Note>,
    requests: u64,
    /// Sessions that ended though nobody asked for it.
    ended: usize,
}

/// One more session of somebody, with notes of its own.
pub(super) struct Listener {
    session: Session,
    notes: UnboundedReceiver<Note>,
}

impl Crowd {
    /// Opens so many sessions, `at_once` of them at the same time, at each address in turn.
    pub(super) async fn open(
        targets: &[Target],
        people: &People,
        sessions: usize,
        at_once: usize,
    ) -> (Crowd, Opened) {
        let (sender, notes) = mpsc::unbounded_channel();
        let room = Vec::with_capacity(sessions);
        let mut crowd = Crowd {
            sessions: room,
            numbers: Vec::new(),
            idle: Vec::new(),
            notes,
            sender,
            requests: 0,
            ended: 0,
        };
        let mut opened = Opened {
            latencies: Vec::with_capacity(sessions),
            took: Duration::ZERO,
            refused: BTreeMap::new(),
        };
        let began = Instant::now();
        let mut opening = FuturesUnordered::new();
        for number in 0..sessions {
            if opening.len() >= at_once.max(1) {
                crowd.take_in(opening.next().await, &mut opened);
            }
            let target = &targets[number % targets.len()];
            opening.push(async move {
                let person = people.person(number)?;
                let began = Instant::now();
                let socket = target.connect(&person).await?;
                anyhow::Ok((number, person.user, socket, began.elapsed()))
            });
        }
        while !opening.is_empty() {
            crowd.take_in(opening.next().await, &mut opened);
        }
        opened.took = began.elapsed();
        (crowd, opened)
    }

    fn take_in(
        &mut self,
        result: Option<anyhow::Result<(usize, String, Socket, Duration)>>,
        opened: &mut Opened,
    ) {
        match result {
            Some(Ok((person, user, socket, took))) => {
                opened.latencies.push(took);
                let number = self.sessions.len();
                self.sessions.push(Session::start(number, user, socket, self.sender.clone()));
                self.numbers.push(person);
                self.idle.push(false);
            }
            Some(Err(error)) => *opened.refused.entry(format!("{error:#}")).or_default() += 1,
            None => {}
        }
    }

    /// How many were let in.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whose the session with this number is.
    pub(super) fn user(&self, number: usize) -> String {
        self.sessions[number].user.clone()
    }

    /// The next session in turn gets its other status; answers the number of the request.
    pub(super) fn set_status(&mut self, turn: usize) -> u64 {
        let number = turn % self.sessions.len();
        let status = if self.idle[number] { "online" } else { "idle" };
        self.set(number, status)
    }

    /// This session gets this status; answers the number of the request.
    pub(super) fn set(&mut self, number: usize, status: &str) -> u64 {
        self.requests += 1;
        self.idle[number] = status == "idle";
        let id = self.requests.to_string();
        self.sessions[number].send(&json!({"type": "set_status", "status": status, "id": id}));
        self.requests
    }

    /// This session watches these users; answers the number of the request.
    pub(super) fn watch(&mut self, number: usize, users: &[&str]) -> u64 {
        self.requests += 1;
        let id = self.requests.to_string();
        self.sessions[number].send(&json!({"type": "watch", "users": users, "id": id}));
        self.requests
    }

    /// Which of the people the first session belongs to.
    pub(super) fn first(&self) -> usize {
        self.numbers[0]
    }

    /// What is heard next, unless that is too late.
    pub(super) async fn next_until(&mut self, deadline: Instant) -> Option<Note> {
        let note = timeout_at(deadline.into(), self.notes.recv()).await.ok().flatten();
        self.ended += usize::from(note.as_ref().is_some_and(|note| note.heard == Heard::Ended));
        note
    }

    /// Waits for the answer to a request; false if it is a refusal or does not come.
    pub(super) async fn done(&mut self, request: u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while let Some(note) = self.next_until(deadline).await {
            match note.heard {
                Heard::Done(number) if number == request => return true,
                Heard::Refused(Some(number), _) if number == request => return false,
                _ => {}
            }
        }
        false
    }

    /// Another session of the same user, at the address after that of the first.
    pub(super) async fn second_session(
        &self,
        number: usize,
        targets: &[Target],
        people: &People,
    ) -> anyhow::Result<Listener> {
        let person = people.person(self.numbers[number])?;
        let socket = targets[(self.numbers[number] + 1) % targets.len()].connect(&person).await?;
        let (sender, notes) = mpsc::unbounded_channel();
        Ok(Listener { session: Session::start(0, person.user, socket, sender), notes })
    }

    /// Closes all; how many had ended before.
    pub(super) async fn close(mut self) -> usize {
        drop(self.sender);
        let asked = Instant::now();
        self.sessions.iter().for_each(Session::close);
        let (mut lost, mut open) = (self.ended, self.sessions.len() - self.ended);
        let deadline = (asked + PATIENCE).into();
        while open > 0
            && let Some(note) = timeout_at(deadline, self.notes.recv()).await.ok().flatten()
        {
            if note.heard == Heard::Ended {
                lost += usize::from(note.at < asked);
                open -= 1;
            }
        }
        lost
    }
}

impl Listener {
    /// The user's status is that of the other session from now on.
    pub(super) async fn idle_and_watching(&mut self, user: &str) -> anyhow::Result<()> {
        self.session.send(&json!({"type": "set_status", "status": "idle", "id": "1"}));
        self.session.send(&json!({"type": "watch", "users": [user], "id": "2"}));
        let deadline = Instant::now() + PATIENCE;
        while let Some(note) = timeout_at(deadline.into(), self.notes.recv()).await.ok().flatten() {
            match note.heard {
                Heard::Done(2) => {
                    return Ok(());
                }
                Heard::Refused(_, code) => anyhow::bail!("watching oneself is refused: {}", code.as_str()),
                Heard::Ended => anyhow::bail!("the connection ended"),
                _ => {}
            }
        }
        anyhow::bail!("no answer within {} s", PATIENCE.as_secs())
    }

    /// When the user is told to have this status; none if that takes too long.
    pub(super) async fn hears(&mut self, status: &str) -> Option<Instant> {
        let wanted = if status == "idle" { Status::Idle } else { Status::Online };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let note = timeout_at(deadline.into(), self.notes.recv()).await.ok().flatten()?;
            match note.heard {
                Heard::Status(_, status) if status == wanted => return Some(note.at),
                Heard::Ended => return None,
                _ => {}
            }
        }
    }
}
