//! What was seen during a run, with times since its start: hosts that lived and died, sessions as clients know them,
//! what watchers were told. Judges nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One process of a host.
#[derive(Clone, Debug)]
pub struct Life {
    /// The number of the host.
    pub host: usize,
    /// When it was started.
    pub started: Duration,
    /// When `/readyz` first said yes.
    pub ready: Option<Duration>,
    /// When and how it ended.
    pub ended: Option<(Duration, Fate)>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// `kill -9`, or a signal of its own making.
    Killed,
    /// With this exit code.
    Exited(i32),
}

/// A time in which a host could not do its work.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// Which host.
    pub host: usize,
    /// Suspended, cut off, or without NATS from then
    pub from: Duration,
    /// to then; none: still.
    pub to: Option<Duration>,
}

/// A session as its client knows it.
#[derive(Clone, Debug)]
pub struct SessionNote {
    /// Its id, from `welcome`.
    pub session: String,
    /// Whose.
    pub user: String,
    /// The instance, from `welcome`.
    pub instance: String,
    /// The host the client is connected to.
    pub host: usize,
    /// When `welcome` came.
    pub welcomed: Duration,
    /// True for the second `welcome` of a connection.
    pub again: bool,
    /// When and how it ended for the client.
    pub ended: Option<(Duration, &'static str)>,
}

/// One call that the receiver answered with 200.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When.
    pub at: Duration,
    /// The host that called.
    pub host: usize,
    /// What it said.
    pub event: Value,
}

impl Heard {
    /// A text anywhere in the event, by the way to it; empty if it is not there.
    pub fn text(&self, pointer: &str) -> &str {
        self.event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number in it; 0 if it is not there.
    pub fn number(&self, pointer: &str) -> u64 {
        self.event.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }
}

/// What a watcher was told of a revision, and a second watcher differently.
#[derive(Clone, Debug)]
pub struct Contradiction {
    /// Whose.
    pub user: String,
    /// Of which revision.
    pub revision: u64,
    /// The two statuses.
    pub statuses: [String; 2],
}

/// All of it, growing.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    kept: Mutex<Kept>,
}

/// The content of a ledger.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Processes, in the order of their start.
    pub lives: Vec<Life>,
    /// Suspensions, cuts and the absence of NATS.
    pub pauses: Vec<Pause>,
    /// Sessions, in the order of their welcome.
    pub sessions: Vec<SessionNote>,
    /// Under which id a host ran: the host, and when that was first known.
    pub instances: BTreeMap<String, (usize, Duration)>,
    /// What watchers were told, by user and revision.
    pub told: BTreeMap<(String, u64), String>,
    /// Revisions that were told in two ways.
    pub contradictions: Vec<Contradiction>,
    /// What no host or client may do: in words.
    pub problems: Vec<String>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger { began: Instant::now(), kept: Mutex::default() }
    }
}

impl Ledger {
    /// The time since the start.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What was seen so far.
    pub fn copy(&self) -> Kept {
        self.lock().clone()
    }

    /// For adding to it.
    pub fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every change is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process was started; returns its number.
    pub fn born(&self, host: usize) -> usize {
        let started = self.now();
        let mut kept = self.lock();
        kept.lives.push(Life { host, started, ready: None, ended: None });
        kept.lives.len() - 1
    }

    /// A process has ended.
    pub fn died(&self, life: usize, fate: Fate) {
        let at = self.now();
        if let Some(life) = self.lock().lives.get_mut(life) {
            life.ended.get_or_insert((at, fate));
        }
    }

    /// A host can't do its work from now on.
    pub fn paused(&self, host: usize) {
        let from = self.now();
        self.lock().pauses.push(Pause { host, from, to: None });
    }

    /// It can again: the last pause of that host ends.
    pub fn resumed(&self, host: usize) {
        let at = self.now();
        let mut kept = self.lock();
        if let Some(pause) = kept.pauses.iter_mut().rfind(|pause| pause.host == host && pause.to.is_none()) {
            pause.to = Some(at);
        }
    }

    /// A host said at that time, or later, that it is this instance.
    pub fn instance(&self, host: usize, instance: &str, at: Duration) {
        let mut kept = self.lock();
        if !kept.instances.contains_key(instance) {
            kept.instances.insert(instance.to_owned(), (host, at));
        }
    }

    /// A session begins; returns its number.
    pub fn welcomed(&self, note: SessionNote) -> usize {
        self.instance(note.host, &note.instance, note.welcomed);
        let mut kept = self.lock();
        kept.sessions.push(note);
        kept.sessions.len() - 1
    }

    /// A session has ended for its client.
    pub fn ended(&self, session: usize, how: &'static str) {
        let at = self.now();
        if let Some(note) = self.lock().sessions.get_mut(session) {
            note.ended.get_or_insert((at, how));
        }
    }

    /// A watcher was told.
    pub fn told(&self, user: &str, revision: u64, status: &str) {
        let mut kept = self.lock();
        let known = kept.told.entry((user.to_owned(), revision)).or_insert_with(|| status.to_owned());
        if known != status && revision > 0 {
            let statuses = [known.clone(), status.to_owned()];
            kept.contradictions.push(Contradiction { user: user.to_owned(), revision, statuses });
        }
    }

    /// Something that must not be, and belongs to no invariant.
    pub fn problem(&self, what: String) {
        let at = self.now().as_secs_f64();
        self.lock().problems.push(format!("{at:.3} s: {what}"));
    }

    /// One more fault.
    pub fn fault(&self, kind: &'static str) {
        *self.lock().faults.entry(kind).or_default() += 1;
    }
}
