//! What a scenario file says, checked: the world a plugin finds, the events it is told, what is expected of it.
//! `config/scenario.rs` makes these from a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use presence_core::documents::StatusRecord;
use presence_core::events::Hook;
use serde_json::Value;

use crate::plugins::local::web::Reply;
use crate::settings::PluginSettings;

/// One file.
pub struct Scenario {
    /// The file.
    pub path: PathBuf,
    /// What it shows, in a line; perhaps empty.
    pub title: String,
    /// Config, grants and limits; path and name are the component's.
    pub settings: PluginSettings,
    /// `configure` is to refuse the configuration with this in its message. Then there are no events.
    pub refused: Option<String>,
    /// Where the guest's wall clock stands, since 1970.
    pub now: Option<Duration>,
    /// What the buckets hold before: bucket, key, value.
    pub keyvalue: Vec<(String, String, Vec<u8>)>,
    /// The users that the import `presence` knows.
    pub users: BTreeMap<String, StatusRecord>,
    /// What these buckets hold after, all of it, by key.
    pub keyvalue_after: Vec<(String, Vec<(String, String)>)>,
    /// Requests, and what is answered.
    pub exchanges: Vec<Exchange>,
    /// Events, in order.
    pub steps: Vec<Step>,
}

/// A request that is to come, and what is answered to it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Where it stands in the file.
    pub line: usize,
    /// In capitals.
    pub method: String,
    /// Absolute; `*` stands for anything.
    pub url: String,
    /// Headers that it must have: name in lower case, value (`*` stands for anything).
    pub headers: Vec<(String, String)>,
    /// What its body must be.
    pub body: Body,
    /// What comes of it.
    pub reply: Reply,
    /// So often.
    pub times: u32,
}

/// What a request's body must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Anything.
    Any,
    /// This text; `*` stands for anything.
    Text(String),
    /// This document.
    Json(Value),
}

/// An event, and what is expected of the plugin.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it stands in the file.
    pub line: usize,
    /// Which hook is called.
    pub hook: Hook,
    /// Whose event.
    pub user: Option<String>,
    /// What differs from the usual event.
    pub event: Option<Value>,
    /// Instead of the id that the daemon would make.
    pub event_id: Option<String>,
    /// From 1.
    pub attempt: u32,
    /// How the call is to end.
    pub result: Expected,
    /// The host calls, in order, each one line; `*` stands for anything. None: any.
    pub calls: Option<Vec<String>>,
    /// The lines of the log, in order; `*` stands for anything. None: any.
    pub logs: Option<Vec<String>>,
}

/// How a call is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// In which way.
    pub kind: Kind,
    /// Is part of the message.
    pub message: Option<String>,
    /// The pause that `retry` asks for.
    pub after: Option<Duration>,
}

/// The ways in which a call can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Taken.
    Ok,
    /// Again.
    Retry,
    /// Never again.
    Reject,
    /// A trap or a deadline.
    Fail,
}

impl Kind {
    /// All, with their names.
    pub const ALL: [(&'static str, Kind); 4] =
        [("ok", Kind::Ok), ("retry", Kind::Retry), ("reject", Kind::Reject), ("fail", Kind::Fail)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Kind::ALL.into_iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}
