//! What became of events, gathered over all plugins for the driver. Knows no guest and no queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use presence_core::delivery::Payload;
use presence_core::events::{Hook, Scope};
use presence_core::ids::SessionId;
use tokio::sync::Notify;

use super::Outcome;

/// Outcomes on their way to the driver, and events that several plugins still have to settle. Holds at most one entry
/// for each event that the driver has submitted and not been told of.
#[derive(Default)]
pub(super) struct Outcomes {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    ready: Vec<Outcome>,
    /// Only events that more than one plugin was given.
    shared: BTreeMap<Shared, Left>,
}

/// An event whose outcome comes when all plugins have settled it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    Session(SessionId, Hook),
    Everything(Arc<str>),
}

struct Left {
    plugins: usize,
    /// How often the driver submitted the event: it is told as often.
    submitted: usize,
}

impl Shared {
    fn of(payload: &Payload) -> Option<Shared> {
        match payload {
            Payload::Session(event) => Some(Shared::Session(event.session.id.clone(), event.hook())),
            Payload::Cleanup(sweep) if sweep.scope == Scope::Everything => {
                Some(Shared::Everything(sweep.run.clone()))
            }
            Payload::Cleanup(_) | Payload::Status(_) => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Shared::Session(session, hook) => Outcome::Session { session: session.clone(), hook: *hook },
            Shared::Everything(_) => Outcome::Everything,
        }
    }
}

impl Outcomes {
    /// An event is about to be given to so many plugins.
    pub(super) fn expect(&self, payload: &Payload, plugins: usize) {
        let Some(shared) = Shared::of(payload) else {
            return;
        };
        match plugins {
            0 => {
                self.lock().ready.push(shared.outcome());
                self.filled.notify_one();
            }
            1 => {}
            plugins => {
                let mut state = self.lock();
                let left = state.shared.entry(shared).or_insert(Left { plugins: 0, submitted: 0 });
                left.plugins += plugins;
                left.submitted += 1;
            }
        }
    }

    /// One plugin has settled these events.
    pub(super) fn settle(&self, plugin: &Arc<str>, settled: impl Iterator<Item = Payload>) {
        let mut state = self.lock();
        let before = state.ready.len();
        for payload in settled {
            state.settle(plugin, &payload);
        }
        // Who was told of the first and has not come yet needs no second call.
        let wake = before == 0 && !state.ready.is_empty();
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Everything there is; waits until there is something.
    pub(super) async fn take(&self) -> Vec<Outcome> {
        loop {
            let ready = std::mem::take(&mut self.lock().ready);
            if !ready.is_empty() {
                return ready;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self, plugin: &Arc<str>, payload: &Payload) {
        if let Payload::Status(transition) = payload {
            self.ready.push(Outcome::Status {
                plugin: plugin.clone(),
                user: transition.user.clone(),
                partition: transition.partition,
                sequence: transition.sequence,
            });
            return;
        }
        if let Payload::Cleanup(sweep) = payload
            && let Scope::Lost { instance, .. } = sweep.scope
        {
            self.ready.push(Outcome::Lost { plugin: plugin.clone(), instance, chunk: sweep.chunk });
            return;
        }
        let Some(shared) = Shared::of(payload) else {
            return;
        };
        let Some(left) = self.shared.get_mut(&shared) else {
            self.ready.push(shared.outcome());
            return;
        };
        left.plugins -= 1;
        if left.plugins == 0 {
            let submitted = left.submitted;
            self.shared.remove(&shared);
            self.ready.extend((0..submitted).map(|_| shared.outcome()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::plugins::testing::{session_event, transition};

    fn taken(outcomes: &Outcomes) -> Vec<Outcome> {
        outcomes.take().now_or_never().unwrap_or_default()
    }

    #[test]
    fn a_session_event_is_settled_when_all_plugins_have_settled_it() {
        let outcomes = Outcomes::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = Payload::Session(session_event("alice", 1).into());
        let second = Payload::Session(session_event("alice", 2).into());
        outcomes.expect(&first, 2);
        outcomes.expect(&second, 1);
        outcomes.settle(&a, [first.clone(), second.clone()].into_iter());
        assert_eq!(taken(&outcomes), [Shared::of(&second).unwrap().outcome()]);
        assert_eq!(taken(&outcomes), []);
        outcomes.settle(&b, [first.clone()].into_iter());
        assert_eq!(taken(&outcomes), [Shared::of(&first).unwrap().outcome()]);
        assert!(outcomes.lock().shared.is_empty());
    }

    #[test]
    fn an_event_for_nobody_is_settled_at_once_and_a_status_by_each_plugin() {
        let outcomes = Outcomes::default();
        outcomes.expect(&Payload::Session(session_event("alice", 1).into()), 0);
        assert_eq!(taken(&outcomes).len(), 1);
        let status = Payload::Status(transition("alice", 1).into());
        outcomes.expect(&status, 2);
        outcomes.settle(&"a".into(), [status.clone()].into_iter());
        outcomes.settle(&"b".into(), [status].into_iter());
        let plugins: Vec<_> = taken(&outcomes)
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Status { plugin, .. } => plugin.to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(plugins, ["a", "b"]);
    }
}
