//! How well hosts reach the store at the moment. Faults change it; the simulated stores look.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::journal::millis;

#[derive(Debug, Default)]
pub(super) struct Links {
    /// No server answers anybody until then.
    pub(super) away_until: Option<Instant>,
    /// Servers answer that there is no store, until then.
    pub(super) unavailable_until: Option<Instant>,
    /// Hosts without a connection, until then.
    pub(super) cut_until: BTreeMap<u32, Instant>,
    /// Requests and answers are lost, or late, until then.
    pub(super) lossy_until: Option<Instant>,
    /// Everything takes long until then.
    pub(super) slow_until: Option<Instant>,
}

/// What becomes of one request.
pub(super) struct Way {
    /// It arrives then.
    pub(super) lands: Instant,
    pub(super) request_lost: bool,
    /// A second copy arrives then: the first one was thought lost and sent again on the way.
    pub(super) stray: Option<Instant>,
    /// The answer needs so long.
    pub(super) back: std::time::Duration,
    pub(super) answer_lost: bool,
}

fn lies_ahead(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until > Instant::now())
}

impl Links {
    /// When this host reaches the store again; none: it does now.
    pub(super) fn unreachable_until(&self, host: u32) -> Option<Instant> {
        let until = self.cut_until.get(&host).copied().max(self.away_until);
        until.filter(|until| *until > Instant::now())
    }

    pub(super) fn unavailable(&self) -> bool {
        lies_ahead(self.unavailable_until)
    }

    pub(super) fn is_lossy(&self) -> bool {
        lies_ahead(self.lossy_until)
    }

    /// Everything is well again.
    pub(super) fn heal(&mut self) {
        *self = Links { unavailable_until: self.unavailable_until, ..Links::default() };
    }

    /// How long one step takes.
    pub(super) fn delay(&self, random: &mut fastrand::Rng) -> std::time::Duration {
        let slow = lies_ahead(self.slow_until);
        match random.u8(..) {
            0..3 => millis(random, 20..=200),
            _ if slow => millis(random, 50..=900),
            _ => millis(random, 0..=4),
        }
    }

    pub(super) fn way(&self, random: &mut fastrand::Rng) -> Way {
        let present = Instant::now();
        let lossy = self.is_lossy();
        let mut way = Way {
            lands: present + self.delay(random),
            request_lost: lossy && random.u8(..) < 16,
            stray: None,
            back: self.delay(random),
            answer_lost: lossy && random.u8(..) < 20,
        };
        if lossy && random.u8(..) < 12 {
            // It happens late, when nobody waits any more: even after later writes.
            way.stray = Some(present + millis(random, 3_000..=9_000));
            way.request_lost |= random.bool();
            way.answer_lost = true;
        }
        way
    }
}
