//! One user's document, and how events change it: plain functions of the document, the event and the time. Applying
//! an event twice is applying it once. Knows nothing of keyvalue.

use presence_plugin::{Status, StatusChange};
use serde::{Deserialize, Serialize};

use crate::figures::Figures;

/// Ended sessions are remembered so long, in milliseconds, …
const REMEMBER_MS: u64 = 60 * 60 * 1000;
/// … and the newest of them for ever.
const REMEMBER: usize = 32;
/// How many bytes of JSON the list of open sessions may take, and that of ended ones: together with the rest they
/// stay below the 64 KiB of a value.
const LIST_BYTES: usize = 28 * 1024;

/// What became of a session, in an order that never goes back: open, lost, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was opened.
    Open,
    /// It died with its host.
    Lost,
    /// It ended.
    Ended {
        /// How long it lasted.
        duration_ms: u64,
    },
}

/// What an event adds, and the time (in milliseconds since 1970) whose day it counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub at_ms: u64,
    pub delta: Figures,
}

/// The document under `user/<user>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserRecord {
    /// For all time.
    pub figures: Figures,
    /// The last one heard of; none: no news yet.
    pub status: Option<Status>,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// Of the last change: what is not newer is a repeat.
    pub revision: u64,
    /// Ids of open sessions.
    open: Vec<String>,
    /// Sessions that ended lately, the newest last.
    closed: Vec<Closed>,
    /// Counts the additions to roll-ups.
    pub sequence: u64,
    /// The addition that may not have arrived in its roll-up yet.
    pub pending: Option<Pending>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Closed {
    id: String,
    lost: bool,
    /// When this was heard of, in milliseconds since 1970.
    at: u64,
}

/// What is to be added to a roll-up, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The record's `sequence` at that time.
    pub sequence: u64,
    /// The roll-up's key.
    pub rollup: String,
    pub delta: Figures,
}

impl UserRecord {
    /// Whether this session is known to have ended or to be lost.
    pub fn is_closed(&self, session: &str) -> bool {
        self.closed.iter().any(|closed| closed.id == session)
    }

    /// Sessions that have not ended.
    pub fn open_sessions(&self) -> u64 {
        self.open.len() as u64
    }

    /// Since when nothing can be expected of this user, in milliseconds since 1970; none: there is a session, or a
    /// status other than offline, or something on its way.
    pub fn gone_since(&self) -> Option<u64> {
        if !self.open.is_empty()
            || self.pending.is_some()
            || !matches!(self.status, None | Some(Status::Offline))
        {
            return None;
        }
        Some(self.closed.last().map_or(0, |closed| closed.at).max(self.since))
    }

    /// Takes in what became of a session. None: nothing new.
    pub fn session(&mut self, session: &str, connected_at: u64, fate: Fate, now_ms: u64) -> Option<Step> {
        let open = self.open.iter().position(|id| id == session);
        let closed = self.closed.iter().position(|closed| closed.id == session);
        let mut delta = Figures::default();
        match closed.map(|at| self.closed[at].lost) {
            Some(true) if matches!(fate, Fate::Ended { .. }) => delta.sessions_lost -= 1,
            Some(_) => return None,
            None if open.is_none() => delta.sessions_started += 1,
            None => {}
        }
        match fate {
            Fate::Open if open.is_some() || !self.has_room(session) => return None,
            Fate::Open => self.open.push(session.to_string()),
            Fate::Lost => delta.sessions_lost += 1,
            Fate::Ended { duration_ms } => {
                delta.sessions_ended += 1;
                delta.session_ms += to_i64(duration_ms);
            }
        }
        if fate != Fate::Open {
            open.map(|at| self.open.swap_remove(at));
            closed.map(|at| self.closed.remove(at));
            self.closed.push(Closed { id: session.to_string(), lost: fate == Fate::Lost, at: now_ms });
            self.forget(now_ms);
        }
        Some(Step { at_ms: connected_at, delta })
    }

    /// Takes in a change of status. None: a repeat, or older than what is known.
    pub fn status(&mut self, change: &StatusChange) -> Option<Step> {
        if change.revision <= self.revision {
            return None;
        }
        let mut delta = Figures::default();
        if let Some(status) = self.status {
            let elapsed = to_i64(change.since.saturating_sub(self.since));
            // Whoever was offline before a fresh start was offline until now: that is what offline means.
            let follows =
                change.previous == Some(status) || (status == Status::Offline && change.previous.is_none());
            *match (follows, status) {
                (false, _) => &mut delta.unknown_ms,
                (true, Status::Online) => &mut delta.online_ms,
                (true, Status::Idle) => &mut delta.idle_ms,
                (true, Status::Offline) => &mut delta.offline_ms,
            } += elapsed;
        }
        // The same status again, under a new revision, is news (after a replay) but no change.
        let missed = change.previous.is_some_and(|previous| previous != change.current);
        if missed || self.status != Some(change.current) {
            *match change.current {
                Status::Online => &mut delta.became_online,
                Status::Idle => &mut delta.became_idle,
                Status::Offline => &mut delta.became_offline,
            } += 1;
        }
        (self.status, self.since, self.revision) = (Some(change.current), change.since, change.revision);
        Some(Step { at_ms: change.since, delta })
    }

    fn has_room(&self, session: &str) -> bool {
        self.open.iter().map(|id| json_bytes(id)).sum::<usize>() + json_bytes(session) <= LIST_BYTES
    }

    fn forget(&mut self, now_ms: u64) {
        // Each entry has words and a time around its id.
        let mut bytes: usize = self.closed.iter().map(|closed| json_bytes(&closed.id) + 48).sum();
        let mut surplus = 0;
        for closed in &self.closed {
            let old =
                closed.at.saturating_add(REMEMBER_MS) < now_ms && self.closed.len() - surplus > REMEMBER;
            if !old && bytes <= LIST_BYTES {
                break;
            }
            bytes -= json_bytes(&closed.id) + 48;
            surplus += 1;
        }
        self.closed.drain(..surplus);
    }
}

/// A text in a JSON list: quotes, a comma, and whatever has to be escaped (control characters are not in ids).
fn json_bytes(text: &str) -> usize {
    text.len() + text.matches(['"', '\\']).count() + 3
}

fn to_i64(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
