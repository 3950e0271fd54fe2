//! Tells the operator what a plugin was denied and which line of presence.toml would allow it. Knows no grant.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::local::tape::{Entry, Tape};
use super::redact::Redactor;

/// The same denial is told again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// So many different denials are told apart; a plugin can think of any number.
const MAX_KINDS: usize = 64;

/// The denials of one plugin.
pub struct Denials {
    plugin: Arc<str>,
    redactor: Arc<Redactor>,
    told: Mutex<BTreeMap<String, Instant>>,
    /// In local runs, instead of the log.
    tape: Option<Arc<Tape>>,
}

impl Denials {
    /// Nothing denied yet.
    pub fn new(plugin: Arc<str>) -> Denials {
        Denials { plugin, redactor: Arc::default(), told: Mutex::default(), tape: None }
    }

    /// For a local run: all denials are written there.
    pub(super) fn with_tape(mut self, tape: Option<Arc<Tape>>) -> Denials {
        self.tape = tape;
        self
    }

    /// What is denied is named by the plugin, and may be a secret.
    pub(super) fn without_secrets(self, redactor: Arc<Redactor>) -> Denials {
        Denials { redactor, ..self }
    }

    /// Logs a denial, unless the same one was logged a moment ago.
    pub fn tell(&self, what: &str, line: &str) {
        let (what, line) = (&*self.redactor.text(what), &*self.redactor.text(line));
        if let Some(tape) = &self.tape {
            tape.push(Entry::Denied { what: what.to_owned(), line: line.to_owned() });
            return;
        }
        if self.is_new(what, Instant::now()) {
            tracing::warn!(
                plugin = %self.plugin,
                denied = what,
                line,
                "plugin `{}` was denied {what}: to allow it, write `{line}` under [plugin.grants] of plugin `{}` in \
                 presence.toml",
                self.plugin,
                self.plugin
            );
        }
    }

    fn is_new(&self, what: &str, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(what).is_some_and(|last| now.duration_since(*last) < AGAIN_AFTER) {
            return false;
        }
        if told.len() >= MAX_KINDS {
            told.retain(|_, last| now.duration_since(*last) < AGAIN_AFTER);
        }
        if told.len() >= MAX_KINDS {
            return false;
        }
        told.insert(what.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_told_once_a_minute_and_kinds_are_bounded() {
        let denials = Denials::new("p".into());
        let now = Instant::now();
        assert!(denials.is_new("a", now));
        assert!(!denials.is_new("a", now + AGAIN_AFTER / 2));
        assert!(denials.is_new("a", now + AGAIN_AFTER));
        for kind in 1..MAX_KINDS {
            assert!(denials.is_new(&kind.to_string(), now + AGAIN_AFTER));
        }
        assert!(!denials.is_new("one more", now + AGAIN_AFTER));
        assert!(denials.is_new("one more", now + AGAIN_AFTER * 3));
    }
}
