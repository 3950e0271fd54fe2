//! What became of events, gathered over all plugins for the driver. Knows no guest and no queue.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use presence_core::delivery::{LetterNumber, Payload};
use presence_core::events::{Hook, Scope};
use presence_core::ids::{InstanceId, PartitionId, SessionId, UserId};
use tokio::sync::Notify;

use super::{Outcome, ReplayEnd};

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
    /// Events that more than one plugin was given, or may be.
    shared: BTreeMap<Shared, Left>,
    /// Partitions that are being withdrawn, and the plugins that have not done so.
    withdrawals: BTreeMap<PartitionId, usize>,
}

/// An event whose outcome comes when all plugins have settled it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    Session(SessionId, Hook),
    Held(PartitionId, InstanceId, UserId, SessionId, Hook),
    Everything(Arc<str>),
}

struct Left {
    plugins: usize,
    /// How often the driver submitted the event: it is told as often.
    submitted: usize,
    /// Whose session it is.
    instance: Option<InstanceId>,
}

impl Shared {
    fn of(payload: &Payload) -> Option<Shared> {
        match payload {
            Payload::Session(event) => {
                let (session, hook) = (&event.session, event.hook());
                Some(match event.partition {
                    None => Shared::Session(session.id.clone(), hook),
                    Some(partition) => {
                        let (user, id) = (session.user.clone(), session.id.clone());
                        Shared::Held(partition, session.instance, user, id, hook)
                    }
                })
            }
            Payload::Cleanup(sweep) if sweep.scope == Scope::Everything => {
                Some(Shared::Everything(sweep.run.clone()))
            }
            Payload::Cleanup(_) | Payload::Status(_) | Payload::Tick(_) => None,
        }
    }

    fn instance(payload: &Payload) -> Option<InstanceId> {
        match payload {
            Payload::Session(event) => Some(event.session.instance),
            Payload::Cleanup(_) | Payload::Status(_) | Payload::Tick(_) => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Shared::Session(session, hook) => Outcome::Session { session: session.clone(), hook: *hook },
            Shared::Held(partition, instance, user, session, hook) => Outcome::Held {
                partition: *partition,
                instance: *instance,
                user: user.clone(),
                session: session.clone(),
                hook: *hook,
            },
            Shared::Everything(run) => Outcome::Everything(run.clone()),
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
            // A session's event is not given to one plugin while others still have it.
            1 if matches!(shared, Shared::Session(..) | Shared::Held(..)) => {}
            plugins => {
                let mut state = self.lock();
                let instance = Shared::instance(payload);
                let left = state.shared.entry(shared).or_insert(Left { plugins: 0, submitted: 0, instance });
                left.plugins += plugins;
                left.submitted += 1;
            }
        }
    }

    /// An event is for a plugin that does not want it, or that is not there.
    pub(super) fn refuse(&self, plugin: &str, payload: &Payload) {
        match Shared::of(payload) {
            Some(_) => self.expect(payload, 0),
            None => self.settle(&plugin.into(), std::iter::once(payload.clone())),
        }
    }

    /// These sessions' events may have been dropped: nobody waits for the plugins that have not settled them.
    pub(super) fn forget_sessions(&self, instance: InstanceId) {
        self.lock().shared.retain(|_, left| left.instance != Some(instance));
    }

    /// Cleanups of everything may have been dropped: nobody waits for the plugins that have not settled them.
    pub(super) fn forget_everything(&self) {
        self.lock().shared.retain(|shared, _| !matches!(shared, Shared::Everything(_)));
    }

    /// So many plugins are about to withdraw a partition, and will say when they have.
    pub(super) fn expect_withdrawal(&self, partition: PartitionId, plugins: usize) {
        let mut state = self.lock();
        *state.withdrawals.entry(partition).or_default() += plugins;
        state.withdrawn(partition, 0);
        drop(state);
        self.filled.notify_one();
    }

    /// One plugin has withdrawn it.
    pub(super) fn withdrawn(&self, partition: PartitionId) {
        self.lock().withdrawn(partition, 1);
        self.filled.notify_one();
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

    /// A dead letter's event is settled once more.
    pub(super) fn replayed(&self, letter: LetterNumber, end: ReplayEnd) {
        self.lock().ready.push(Outcome::Replayed(letter, end));
        self.filled.notify_one();
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
    fn withdrawn(&mut self, partition: PartitionId, plugins: usize) {
        if let Entry::Occupied(mut left) = self.withdrawals.entry(partition) {
            *left.get_mut() -= plugins;
            if *left.get() == 0 {
                left.remove();
                // What plugins have dropped of it they will not settle.
                self.shared.retain(|shared, _| !matches!(shared, Shared::Held(id, ..) if *id == partition));
                self.ready.push(Outcome::Withdrawn(partition));
            }
        }
    }

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
            let run = sweep.run.clone();
            self.ready.push(Outcome::Lost { plugin: plugin.clone(), instance, run, chunk: sweep.chunk });
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

    use presence_core::events::Sweep;

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

    fn sweep(scope: Scope) -> Payload {
        let (cause, run) = ("test".into(), "1-1-0".into());
        Payload::Cleanup(Sweep { cause, scope, chunk: 2, last: true, run }.into())
    }

    #[test]
    fn everything_is_settled_once_for_each_time_it_was_submitted() {
        let outcomes = Outcomes::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let everything = || std::iter::once(sweep(Scope::Everything));
        let outcome = || Outcome::Everything("1-1-0".into());
        outcomes.expect(&sweep(Scope::Everything), 2);
        outcomes.settle(&a, everything());
        outcomes.expect(&sweep(Scope::Everything), 1);
        outcomes.settle(&a, everything());
        assert_eq!(taken(&outcomes), []);
        outcomes.settle(&b, everything());
        assert_eq!(taken(&outcomes), [outcome(), outcome()]);
        outcomes.expect(&sweep(Scope::Everything), 1);
        outcomes.settle(&a, everything());
        assert_eq!(taken(&outcomes), [outcome()]);
        assert!(outcomes.lock().shared.is_empty());
    }

    #[test]
    fn a_plugin_that_is_not_there_has_settled_what_it_is_given() {
        let outcomes = Outcomes::default();
        let instance = InstanceId(9);
        outcomes.refuse("gone", &sweep(Scope::Lost { instance, sessions: Arc::default() }));
        outcomes.refuse("gone", &sweep(Scope::Everything));
        let run = "1-1-0".into();
        let lost = Outcome::Lost { plugin: "gone".into(), instance, run, chunk: 2 };
        assert_eq!(taken(&outcomes), [lost, Outcome::Everything("1-1-0".into())]);
    }

    #[test]
    fn nobody_waits_for_the_sessions_of_a_dead_instance() {
        let outcomes = Outcomes::default();
        let event = Payload::Session(session_event("alice", 1).into());
        outcomes.expect(&event, 2);
        outcomes.forget_sessions(InstanceId(9));
        assert_eq!(outcomes.lock().shared.len(), 1);
        outcomes.forget_sessions(InstanceId(1));
        assert_eq!(outcomes.lock().shared.len(), 0);
        assert_eq!(taken(&outcomes), []);
    }

    #[test]
    fn a_partition_is_withdrawn_once_however_often_that_was_asked() {
        let outcomes = Outcomes::default();
        let partition = PartitionId(3);
        outcomes.expect_withdrawal(partition, 0);
        assert_eq!(taken(&outcomes), [Outcome::Withdrawn(partition)], "without plugins at once");
        outcomes.expect_withdrawal(partition, 2);
        outcomes.withdrawn(partition);
        outcomes.expect_withdrawal(partition, 2);
        outcomes.withdrawn(partition);
        outcomes.withdrawn(partition);
        assert_eq!(taken(&outcomes), []);
        outcomes.withdrawn(partition);
        assert_eq!(taken(&outcomes), [Outcome::Withdrawn(partition)]);
        assert!(outcomes.lock().withdrawals.is_empty());
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
