//! The figures themselves: a row of integers that can be added. Knows no events and no keys.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// What is counted, for a user or a day; what each means is in the crate's documentation. As something to add, a
/// figure may be negative: a session that was taken for lost and then ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Sessions heard of.
    pub sessions_started: i64,
    /// Sessions that ended.
    pub sessions_ended: i64,
    /// Sessions that died with their host.
    pub sessions_lost: i64,
    /// How long the ended ones lasted, in milliseconds.
    pub session_ms: i64,
    /// Changes to online.
    pub became_online: i64,
    /// Changes to idle.
    pub became_idle: i64,
    /// Changes to offline.
    pub became_offline: i64,
    /// Time online, in milliseconds.
    pub online_ms: i64,
    /// Time idle, in milliseconds.
    pub idle_ms: i64,
    /// Time offline, in milliseconds.
    pub offline_ms: i64,
    /// Time in a status that is not known, in milliseconds.
    pub unknown_ms: i64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, more: Figures) {
        self.sessions_started += more.sessions_started;
        self.sessions_ended += more.sessions_ended;
        self.sessions_lost += more.sessions_lost;
        self.session_ms += more.session_ms;
        self.became_online += more.became_online;
        self.became_idle += more.became_idle;
        self.became_offline += more.became_offline;
        self.online_ms += more.online_ms;
        self.idle_ms += more.idle_ms;
        self.offline_ms += more.offline_ms;
        self.unknown_ms += more.unknown_ms;
    }
}
