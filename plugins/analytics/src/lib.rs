//! Counts sessions, the time they lasted, changes of status and the time spent in each status, per user and per day; and,
//! once an interval, who is there now.
//!
//! # What it keeps
//! All in one bucket of keyvalue (`config.bucket`, by default `analytics`; it needs a grant under `keyvalue`), as JSON
//! documents. Figures are integers; those that end in `_ms` are milliseconds:
//!
//! | figure | counts |
//! |---|---|
//! | `sessions_started` | sessions, each once, by whatever event it was first heard of |
//! | `sessions_ended`, `session_ms` | sessions that ended, and how long those lasted |
//! | `sessions_lost` | sessions that died with their host, or before a fresh start; how long they lasted is not known |
//! | `became_online`, `became_idle`, `became_offline` | changes to this status that were delivered |
//! | `online_ms`, `idle_ms`, `offline_ms` | time in this status, up to the change that ended it |
//! | `unknown_ms` | time between two changes that do not follow on each other: a fresh start, or one that never came |
//!
//! - `rollup/<day>/<shard>`: `figures` of one UTC day (`2026-11-25`), spread over 16 shards (`0` to `f`): **add up the
//!   documents under `rollup/<day>/` for a day, those under `rollup/` for all time.** A session counts on the day it
//!   was opened, a change of status and the time before it on the day of the change. (`applied` is for the plugin.)
//! - `user/<user>`: `figures` of one user for all time, and the `status` it has had since `since` (milliseconds since
//!   1970): the time since then is in no figure yet. (The rest is for the plugin.)
//! - `hour/<hour>` (`2026-11-25T17`) and `day/<day>`: who was there, as counted by the ticks of that UTC hour or day:
//!   `at`, when it was counted last, `now`, what was counted then, and `peak`, the greatest of each number; the numbers
//!   are `users` (known), `online`, `idle` and `sessions` (open). The newest 744 hours (31 days) and 400 days are kept.
//! - `round`: how far the present count has come.
//! - `open/<session>`: a session that has not ended, with its `user` and `connected_at`.
//!
//! # Ticks
//! Each tick (`interval` in presence.toml, by default a minute) goes through the users' documents, as far as it comes
//! within its deadline; the next one goes on from there, and when all are seen, the count is written. On the way, users who
//! have been offline without a session for `config.forget_after_days` (90; 0: never) are forgotten: their documents go,
//! what they added to the days stays. Who comes back later begins anew.
//!
//! # Why the figures are right
//! Events come more than once, side by side, and a guest may be thrown away between any two steps. Each event is
//! folded into its user's document by compare-and-set, together with what makes a repeat of it recognisable: the
//! revision of a status, the id of a session. What it adds to the day's roll-up waits in the same document until it
//! is there, and is marked there, so it gets there once: see `ledger.rs`. The user's sessions that ended are
//! remembered for an hour, and the newest 32 for ever; a repeat that comes later than that counts again. A session
//! beyond the first 700 or so that one user has open at once is counted when it ends. Forgetting is not guarded: what a
//! user does in the very moment in which it is forgotten, after all that time, may be counted nowhere.

mod figures;
mod ledger;
mod record;
mod rounds;

use presence_plugin::{
    Cleanup, Context, HookError, HookResult, Scope, Session, SessionDisconnected, StatusChange, Tick, log,
    time,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub use figures::Figures;
use ledger::Ledger;
use record::Fate;

/// `config` in presence.toml.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The bucket that holds the figures.
    pub bucket: String,
    /// Users who have been offline for so long are forgotten; 0: nobody is.
    pub forget_after_days: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config { bucket: "analytics".to_string(), forget_after_days: 90 }
    }
}

/// The plugin.
pub struct Analytics {
    ledger: Ledger,
    /// In milliseconds; none: nobody is forgotten.
    forget_after: Option<u64>,
}

/// What is left of a call when a long cleanup stops and asks to be called again, or a tick leaves the rest to the next.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// Under `open/<session>`: what closing the session takes.
#[derive(Serialize, Deserialize)]
struct Open {
    user: String,
    connected_at: u64,
}

#[presence_plugin::plugin]
impl Analytics {
    fn configure(config: Config) -> Result<Self, String> {
        if config.bucket.is_empty() {
            return Err("config.bucket: it is empty; leave it out for `analytics`".to_string());
        }
        let days = u64::from(config.forget_after_days);
        let forget_after = (days > 0).then_some(days * 24 * 60 * 60 * 1000);
        Ok(Analytics { ledger: Ledger::new(&config.bucket), forget_after })
    }

    fn session_connected(&self, _: &Context, event: &Session) -> HookResult {
        let open = Open { user: event.user.clone(), connected_at: event.connected_at };
        let open = serde_json::to_vec(&open).map_err(|error| HookError::reject(error.to_string()))?;
        // Before the count: a fresh start finds open sessions by these keys, and must not miss one that is counted.
        self.ledger.bucket().set(&open_key(&event.id), open)?;
        let record = self.ledger.session(&event.user, &event.id, event.connected_at, Fate::Open)?;
        if record.is_closed(&event.id) {
            log::debug!(session = event.id, "a repeat of what has ended since");
            self.ledger.bucket().delete(&open_key(&event.id))?;
        }
        Ok(())
    }

    fn session_disconnected(&self, _: &Context, event: &SessionDisconnected) -> HookResult {
        let fate = Fate::Ended { duration_ms: event.duration_ms };
        self.close(&event.session.id, &event.session.user, event.session.connected_at, fate)
    }

    fn cleanup(&self, _: &Context, event: &Cleanup) -> HookResult {
        match &event.scope {
            Scope::Everything => self.lose_everything(),
            Scope::Lost { sessions, .. } => self.lose(sessions),
        }
    }

    fn user_online(&self, _: &Context, event: &StatusChange) -> HookResult {
        Ok(self.ledger.status(event)?)
    }

    fn user_idle(&self, _: &Context, event: &StatusChange) -> HookResult {
        Ok(self.ledger.status(event)?)
    }

    fn user_offline(&self, _: &Context, event: &StatusChange) -> HookResult {
        Ok(self.ledger.status(event)?)
    }

    fn tick(&self, _: &Context, event: &Tick) -> HookResult {
        let out_of_time = || time::remaining().is_some_and(|left| left < LAST_MOMENT);
        Ok(rounds::go_on(&self.ledger, event.due, self.forget_after, out_of_time)?)
    }
}

impl Analytics {
    fn close(&self, session: &str, user: &str, connected_at: u64, fate: Fate) -> HookResult {
        self.ledger.session(user, session, connected_at, fate)?;
        Ok(self.ledger.bucket().delete(&open_key(session))?)
    }

    fn lose(&self, sessions: &[Session]) -> HookResult {
        for (done, session) in sessions.iter().enumerate() {
            check_time(done)?;
            self.close(&session.id, &session.user, session.connected_at, Fate::Lost)?;
        }
        Ok(())
    }

    /// What was closed has lost its key, so another attempt goes on where this one stopped.
    fn lose_everything(&self) -> HookResult {
        for (done, key) in self.ledger.bucket().keys(OPEN).enumerate() {
            check_time(done)?;
            let key = key?;
            let Some(entry) = self.ledger.bucket().get(&key)? else {
                continue;
            };
            let Ok(open) = serde_json::from_slice::<Open>(&entry.value) else {
                log::error!(key, "not a document of this plugin: left alone");
                continue;
            };
            self.close(&key[OPEN.len()..], &open.user, open.connected_at, Fate::Lost)?;
        }
        Ok(())
    }
}

const OPEN: &str = "open/";

fn open_key(session: &str) -> String {
    format!("{OPEN}{session}")
}

fn check_time(done: usize) -> HookResult {
    match time::remaining() {
        Some(left) if left < LAST_MOMENT => {
            let message = format!("out of time after {done} sessions: another call goes on from there");
            Err(HookError::retry_after(message, Duration::ZERO))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
