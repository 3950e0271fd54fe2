//! Stands in for the network in a scenario: answers as the file says, and remembers what it was asked in vain.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::scenario::{Body, Exchange};
use super::verdict::matches;
use crate::plugins::local::tape::text_of;
use crate::plugins::local::web::{Asked, Fault, Reply, Web};

/// The exchanges of one scenario.
pub(super) struct Script {
    exchanges: Vec<Exchange>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How often each was used.
    used: Vec<u32>,
    strays: Vec<Stray>,
}

/// A request that the scenario does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stray {
    /// `POST https://…`
    pub(super) request: String,
    /// What the nearest exchange wanted instead, and what it got.
    pub(super) instead: Option<(String, String)>,
}

impl Script {
    pub(super) fn new(exchanges: Vec<Exchange>) -> Script {
        let script = Script { exchanges, state: Mutex::default() };
        script.begin();
        script
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what it was asked: a guest that was brought to life for trial has asked it.
    pub(super) fn begin(&self) {
        *self.state() = State { used: vec![0; self.exchanges.len()], strays: Vec::new() };
    }

    /// Takes the requests that nothing answered.
    pub(super) fn strays(&self) -> Vec<Stray> {
        std::mem::take(&mut self.state().strays)
    }

    /// Exchanges that were used less often than they say.
    pub(super) fn unused(&self) -> Vec<(Exchange, u32)> {
        let used = self.state().used.clone();
        let pairs = self.exchanges.iter().cloned().zip(used);
        pairs.filter(|(exchange, used)| *used < exchange.times).collect()
    }
}

impl Web for Script {
    fn reply(&self, asked: &Asked) -> Reply {
        let mut state = self.state();
        let mut instead = None;
        for (at, exchange) in self.exchanges.iter().enumerate() {
            if state.used[at] >= exchange.times || !names(exchange, asked) {
                continue;
            }
            match difference(exchange, asked) {
                None => {
                    state.used[at] += 1;
                    return exchange.reply.clone();
                }
                found => _ = instead.get_or_insert(found),
            }
        }
        let request = format!("{} {}", asked.method, asked.url);
        state.strays.push(Stray { request, instead: instead.flatten() });
        Reply::Failure(Fault::Unreachable, Duration::ZERO)
    }
}

fn names(exchange: &Exchange, asked: &Asked) -> bool {
    exchange.method == asked.method && matches(&exchange.url, &asked.url)
}

/// What the request should have, and what it has.
fn difference(exchange: &Exchange, asked: &Asked) -> Option<(String, String)> {
    for (name, wanted) in &exchange.headers {
        let found = asked.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value);
        if !found.is_some_and(|found| matches(wanted, found)) {
            let found = found.map_or("no such header".to_owned(), |found| format!("{name}: {found}"));
            return Some((format!("{name}: {wanted}"), found));
        }
    }
    let found = text_of(&asked.body);
    match &exchange.body {
        Body::Any => None,
        Body::Text(wanted) => (!matches(wanted, &found)).then(|| (wanted.clone(), found)),
        Body::Json(wanted) => match serde_json::from_str::<serde_json::Value>(&found) {
            Ok(json) if json == *wanted => None,
            Ok(json) => Some((wanted.to_string(), json.to_string())),
            Err(_) => Some((wanted.to_string(), found)),
        },
    }
}
