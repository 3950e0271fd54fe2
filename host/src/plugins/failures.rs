//! Tells of failed attempts without drowning the log: a receiver that is down fails thousands of times.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use presence_core::delivery::Payload;

/// So many warnings of one plugin in one window; the others are told at level debug and counted in the next one.
const MAX_WARNINGS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// The failures of one plugin.
pub(super) struct Failures {
    plugin: Arc<str>,
    window: Mutex<Window>,
}

struct Window {
    began: Instant,
    warnings: u32,
    suppressed: u64,
}

impl Failures {
    pub(super) fn new(plugin: Arc<str>) -> Failures {
        let window = Window { began: Instant::now(), warnings: 0, suppressed: 0 };
        Failures { plugin, window: Mutex::new(window) }
    }

    /// An attempt failed and will be repeated.
    pub(super) fn tell(&self, payload: &Payload, event_id: &str, attempt: u32, cause: &str) {
        let plugin = &*self.plugin;
        let hook = payload.hook().as_str();
        let user = payload.user().map(|user| user.as_str());
        let admitted = self.window.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        match admitted {
            Some(0) => tracing::warn!(plugin, hook, user, event_id, attempt, cause, "a hook failed"),
            Some(suppressed) => {
                tracing::warn!(plugin, hook, user, event_id, attempt, cause, suppressed, "a hook failed");
            }
            None => tracing::debug!(plugin, hook, user, event_id, attempt, cause, "a hook failed"),
        }
    }
}

impl Window {
    /// How many were suppressed since the last warning, if there may be one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.began) >= WINDOW {
            self.began = now;
            self.warnings = 0;
        }
        if self.warnings >= MAX_WARNINGS {
            self.suppressed += 1;
            return None;
        }
        self.warnings += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_few_and_say_how_many_there_were() {
        let now = Instant::now();
        let mut window = Window { began: now, warnings: 0, suppressed: 0 };
        let admitted = (0..100).filter(|_| window.admit(now).is_some()).count();
        assert_eq!(admitted, MAX_WARNINGS as usize);
        assert_eq!(window.admit(now + WINDOW), Some(90));
        assert_eq!(window.admit(now + WINDOW), Some(0));
    }
}
