//! The core alone: session events a second on one core, and resident bytes a session with a million users.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use presence_core::documents::Layout;
use presence_core::events::{Attributes, Status};
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use presence_core::sessions::{LocalSessions, SessionEffect, SessionKey, SessionsConfig};
use presence_core::time::Now;
use presence_core::tracker::{Tracker, TrackerConfig};

use crate::memory::resident_bytes;
use crate::report::{count, line};

const USERS: usize = 1_000_000;

/// The whole way of a session event through the core, with a store that answers at once.
struct Core {
    layout: Layout,
    sessions: LocalSessions,
    trackers: BTreeMap<PartitionId, Tracker>,
    sequence: u64,
    transitions: u64,
    hooks: u64,
}

impl Core {
    fn new() -> Core {
        let layout = Layout { partitions: 64, leaves: 16 };
        let config = SessionsConfig {
            idle_after: Some(Duration::from_secs(300)),
            heartbeat: Duration::from_secs(25),
            heartbeat_timeout: Duration::from_secs(10),
            seed: 1,
        };
        let tracker = TrackerConfig {
            offline_grace: Duration::from_secs(5),
            offline_retention: Duration::from_secs(90 * 86_400),
            max_users: USERS,
            generation: 1,
            seed: 1,
        };
        let trackers =
            (0..64).map(PartitionId).map(|id| (id, Tracker::new(id, Sequence(1), tracker))).collect();
        Core {
            layout,
            sessions: LocalSessions::new(config, InstanceId(1)),
            trackers,
            sequence: 1,
            transitions: 0,
            hooks: 0,
        }
    }

    /// Carries out what events caused, to the last transition.
    fn settle(&mut self, now: Now) {
        while let Some(write) = self.sessions.poll_document() {
            self.sessions.handle_document_acked(now, &write.user);
            let partition = self.layout.partition(&write.user);
            let Some(tracker) = self.trackers.get_mut(&partition) else {
                continue;
            };
            tracker.handle_document(now, &write.user, InstanceId(1), write.document.as_deref());
            while let Some(batch) = tracker.poll_write() {
                let first = self.sequence;
                self.sequence += batch.records.len() as u64;
                let sequences: Vec<Sequence> = (first..self.sequence).map(Sequence).collect();
                tracker.handle_written(&sequences);
            }
            while tracker.poll_transition().is_some() {
                self.transitions += 1;
            }
        }
        while let Some(effect) = self.sessions.poll_effect() {
            if let SessionEffect::Hook(event) = effect {
                self.hooks += 1;
                if event.hook() == presence_core::events::Hook::SessionDisconnected {
                    self.sessions.handle_settled(&event.session.id);
                }
            }
        }
    }
}

/// So many events are taken before what they caused is carried out; the driver takes up to 512 under load.
const BATCH: usize = 64;

pub fn run() {
    let mut core = Core::new();
    let mut keys: Vec<SessionKey> = Vec::with_capacity(USERS);
    keys.resize(USERS, SessionKey(0));
    keys.clear();
    let before = resident_bytes();
    let mut now = Now::at(1_700_000_000_000);
    let mut opened = Duration::ZERO;
    for first in (0..USERS).step_by(BATCH) {
        // The ids come from outside: making them is not measured, keeping them is weighed.
        let batch: Vec<UserId> = (first..(first + BATCH).min(USERS))
            .map(|at| UserId::new(&format!("user-{at:019}")).expect("a user id"))
            .collect();
        let started = Instant::now();
        for user in batch {
            let id = SessionId::Hosted((now.wall.0 as u128) << 80 | keys.len() as u128);
            keys.push(core.sessions.handle_open(now, id, user, Attributes::default(), None));
        }
        core.settle(now);
        opened += started.elapsed();
    }
    let held = resident_bytes() - before;
    let mut changes = 0_u64;
    let started = Instant::now();
    for status in [Status::Idle, Status::Online] {
        now = Now::at(now.tick.0 + 10);
        for batch in keys.chunks(BATCH) {
            for key in batch {
                core.sessions.handle_set_status(now, *key, status);
                changes += 1;
            }
            core.settle(now);
        }
    }
    let changed = started.elapsed();
    let started = Instant::now();
    now = Now::at(now.tick.0 + 10);
    for batch in keys.chunks(BATCH) {
        for key in batch {
            core.sessions.handle_close(now, *key, "closed".into());
        }
        core.settle(now);
    }
    let closed = started.elapsed();
    let total = opened + changed + closed;
    let events = USERS as u64 * 2 + changes;
    assert_eq!(core.transitions, USERS as u64 + changes, "every opening and change is a transition");
    assert_eq!(core.hooks, 2 * USERS as u64);
    line(
        "core: session events a second, one core",
        count(events as f64 / total.as_secs_f64()),
        "at least 1,000,000",
    );
    line("  opened a second", count(USERS as f64 / opened.as_secs_f64()), "");
    line("  changed a second (each a transition)", count(changes as f64 / changed.as_secs_f64()), "");
    line("  closed a second", count(USERS as f64 / closed.as_secs_f64()), "");
    let bytes = held as f64 / USERS as f64;
    line("core: resident bytes a session, 1,000,000 users", count(bytes), "at most 400");
}
