//! The plugins of one simulated host: real delivery queues, and calls that go to the simulated receivers. Everything
//! else keeps to the words of [`Plugins`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use presence_core::delivery::{Delivery, DeliveryConfig, Job, JobId, Payload, Settlement, Verdict};
use presence_core::events::{Hook, Scope};
use presence_core::ids::{InstanceId, PartitionId, SessionId, UserId};
use presence_core::time::Tick;
use presence_host::clock::Clock;
use presence_host::plugins::{LetterNumber, NotWanted, Outcome, Plugins, ReplayEnd, Replayed};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::journal::{lock, millis};
use super::plan::{DEADLINE, rng};
use super::receiver::{Event, Told};
use super::truth::Origin;
use super::world::World;

/// The two plugins of every deployment: one with all hooks, one with some.
pub(super) const PLUGINS: [(&str, &[Hook]); 2] =
    [("profiles", &Hook::ALL), ("mailer", &[Hook::UserOnline, Hook::UserOffline, Hook::Cleanup])];

/// The plugins of one run of a host.
pub(super) struct SimPlugins {
    world: Arc<World>,
    origin: Origin,
    clock: Clock,
    state: Mutex<State>,
    /// There may be a job.
    work: Notify,
    /// There are outcomes.
    filled: Notify,
}

struct State {
    random: fastrand::Rng,
    plugins: Vec<One>,
    ready: Vec<Outcome>,
    /// Events that plugins still have to settle, and how often they were submitted.
    shared: BTreeMap<Shared, (usize, usize)>,
    permit: Option<Tick>,
    withdrawals: BTreeSet<PartitionId>,
    /// Calls to be ended at once.
    cut: BTreeSet<(usize, JobId)>,
}

struct One {
    name: &'static str,
    shared_name: Arc<str>,
    hooks: BTreeSet<Hook>,
    delivery: Delivery,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    Session(InstanceId, SessionId, Hook),
    Held(InstanceId, PartitionId, UserId, SessionId, Hook),
    Everything(Arc<str>),
}

impl Shared {
    fn of(payload: &Payload) -> Option<Shared> {
        match payload {
            Payload::Session(event) => {
                let (session, hook) = (&event.session, event.hook());
                let (instance, id) = (session.instance, session.id.clone());
                Some(match event.partition {
                    None => Shared::Session(instance, id, hook),
                    Some(partition) => Shared::Held(instance, partition, session.user.clone(), id, hook),
                })
            }
            Payload::Cleanup(sweep) if sweep.scope == Scope::Everything => {
                Some(Shared::Everything(sweep.run.clone()))
            }
            Payload::Cleanup(_) | Payload::Status(_) | Payload::Tick(_) => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Shared::Session(_, session, hook) => Outcome::Session { session: session.clone(), hook: *hook },
            Shared::Held(instance, partition, user, session, hook) => Outcome::Held {
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

impl SimPlugins {
    pub(super) fn new(world: Arc<World>, origin: Origin, clock: Clock) -> SimPlugins {
        let mut random = rng(world.seed, &format!("plugins {origin}"));
        let one = |(name, hooks): &(&'static str, &'static [Hook])| {
            let config = DeliveryConfig {
                concurrency: 3,
                queue: 64,
                attempts: 4,
                backoff: Duration::from_millis(50),
                max_backoff: Duration::from_millis(800),
                deadline: DEADLINE,
                seed: random.u64(..),
            };
            let hooks = hooks.iter().copied().collect();
            One { name, shared_name: (*name).into(), hooks, delivery: Delivery::new(config, 1) }
        };
        let plugins = PLUGINS.iter().map(one).collect();
        let state = State {
            random,
            plugins,
            ready: Vec::new(),
            shared: BTreeMap::new(),
            permit: None,
            withdrawals: BTreeSet::new(),
            cut: BTreeSet::new(),
        };
        let state = Mutex::new(state);
        SimPlugins { world, origin, clock, state, work: Notify::new(), filled: Notify::new() }
    }

    /// Makes the calls. Runs as long as the host.
    pub(super) async fn work(self: Arc<SimPlugins>) {
        let mut calls = FuturesUnordered::new();
        loop {
            let due = {
                let now = self.clock.tick();
                let state = &mut *lock(&self.state);
                let mut due: Option<Tick> = None;
                for (at, one) in state.plugins.iter_mut().enumerate() {
                    while let Some(job) = one.delivery.poll_job(now) {
                        calls.push(self.clone().call(at, one.name, job));
                    }
                    due = due.into_iter().chain(one.delivery.poll_timeout()).min();
                }
                self.settle(state);
                due
            };
            let pause = due.map_or(Duration::from_secs(3600), |due| due.since(self.clock.tick()));
            tokio::select! {
                biased;
                Some((at, job, verdict)) = calls.next() => {
                    let state = &mut *lock(&self.state);
                    state.cut.remove(&(at, job));
                    state.plugins[at].delivery.handle_verdict(self.clock.tick(), job, verdict);
                    self.settle(state);
                }
                () = self.work.notified() => {}
                () = sleep(pause.max(Duration::from_millis(1))) => {}
            }
        }
    }

    async fn call(self: Arc<SimPlugins>, at: usize, name: &'static str, job: Job) -> (usize, JobId, Verdict) {
        let (before, takes, verdict) = lock(&self.world.receiver).decide(name, &mut lock(&self.state).random);
        // A host that is suspended in between calls late.
        sleep(before).await;
        let world = &self.world;
        if let Some(cut) = self.cut(at, &job) {
            return cut;
        }
        world.journal.note(format_args!(
            "{} calls {name}: {} (attempt {})",
            self.origin,
            Event(&job.payload),
            job.attempt
        ));
        lock(&world.receiver).hear(world, name, self.origin, &job.payload, Told::Started);
        let mut verdict = verdict;
        if verdict == Verdict::Delivered {
            let late = {
                let random = &mut lock(&self.state).random;
                (random.u8(..) < 4).then(|| takes + millis(random, 0..=3_000))
            };
            match late.filter(|_| !matches!(job.payload, Payload::Cleanup(_))) {
                None => lock(&world.receiver).hear(world, name, self.origin, &job.payload, Told::Taken),
                Some(late) => {
                    // The request hangs somewhere: the plugin gives up on it, and the receiver takes it later.
                    verdict = Verdict::Stalled("simulated: on its way".into());
                    let (world, origin, payload) = (world.clone(), self.origin, job.payload.clone());
                    tokio::spawn(async move {
                        sleep(late).await;
                        world.journal.count("call that arrived late");
                        world.journal.note(format_args!("{name} takes {} late", Event(&payload)));
                        lock(&world.receiver).hear(&world, name, origin, &payload, Told::Taken);
                    });
                }
            }
        }
        let mut left = takes;
        while !left.is_zero() {
            let step = left.min(Duration::from_millis(20));
            sleep(step).await;
            left -= step;
            if let Some(cut) = self.cut(at, &job) {
                world.journal.count("call cut");
                return cut;
            }
        }
        if verdict != Verdict::Delivered {
            world.journal.note(format_args!("{name} answers {verdict:?} to {}", Event(&job.payload)));
        }
        (at, job.id, verdict)
    }

    /// Whether the call ends here by the host's will.
    fn cut(&self, at: usize, job: &Job) -> Option<(usize, JobId, Verdict)> {
        let state = lock(&self.state);
        let over =
            job.payload.needs_permit() && state.permit.is_some_and(|permit| permit <= self.clock.tick());
        (over || state.cut.contains(&(at, job.id))).then_some((at, job.id, Verdict::Cut))
    }

    /// Passes on what is settled.
    fn settle(&self, state: &mut State) {
        for at in 0..state.plugins.len() {
            while let Some(settled) = state.plugins[at].delivery.poll_settled() {
                let (name, shared_name) = (state.plugins[at].name, state.plugins[at].shared_name.clone());
                if let Settlement::DeadLetter { reason, .. } = settled.settlement {
                    self.world.journal.count("dead letter");
                    self.world.journal.note(format_args!(
                        "{} gives up {} for {name}: {reason:?}",
                        self.origin,
                        Event(&settled.payload)
                    ));
                    let world = &self.world;
                    lock(&world.receiver).hear(world, name, self.origin, &settled.payload, Told::Dead);
                }
                match (settled.letter, &settled.settlement) {
                    (None, _) => state.settled(&shared_name, &settled.payload),
                    (Some(letter), settlement) => {
                        state.ready.push(Outcome::Replayed(letter, end_of(settlement)))
                    }
                }
            }
        }
        let State { plugins, withdrawals, ready, shared, .. } = state;
        withdrawals.retain(|partition| {
            let left = plugins.iter().any(|one| one.delivery.withdrawn_jobs(*partition).next().is_some());
            if !left {
                shared.retain(|shared, _| !matches!(shared, Shared::Held(_, of, ..) if of == partition));
                ready.push(Outcome::Withdrawn(*partition));
            }
            left
        });
        if !state.ready.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Gives an event to those plugins, which export its hook.
    fn give(&self, state: &mut State, event: &Payload, plugins: Vec<usize>) {
        if let Some(shared) = Shared::of(event) {
            if plugins.is_empty() {
                state.ready.push(shared.outcome());
            } else {
                let left = state.shared.entry(shared).or_default();
                left.0 += plugins.len();
                left.1 += 1;
            }
        }
        for at in plugins {
            if let Payload::Session(event) = event {
                let (world, name) = (&self.world, state.plugins[at].name);
                lock(&world.receiver).session_submitted(world, name, self.origin, event);
            }
            state.plugins[at].delivery.handle_event(self.clock.tick(), event.clone());
        }
        self.settle(state);
        self.work.notify_one();
    }
}

fn end_of(settlement: &Settlement) -> ReplayEnd {
    match settlement {
        Settlement::Delivered => ReplayEnd::Delivered,
        Settlement::Superseded => ReplayEnd::Superseded,
        Settlement::DeadLetter { .. } => ReplayEnd::GivenUp,
        Settlement::Withdrawn | Settlement::Unwanted => ReplayEnd::Kept,
    }
}

impl State {
    fn settled(&mut self, plugin: &Arc<str>, payload: &Payload) {
        if let Some(shared) = Shared::of(payload) {
            let Some(left) = self.shared.get_mut(&shared) else { return };
            left.0 -= 1;
            if left.0 == 0 {
                let times = left.1;
                self.shared.remove(&shared);
                self.ready.extend((0..times).map(|_| shared.outcome()));
            }
            return;
        }
        self.ready.push(match payload {
            Payload::Status(transition) => Outcome::Status {
                plugin: plugin.clone(),
                user: transition.user.clone(),
                partition: transition.partition,
                sequence: transition.sequence,
            },
            Payload::Cleanup(sweep) => match sweep.scope {
                Scope::Lost { instance, .. } => {
                    let run = sweep.run.clone();
                    Outcome::Lost { plugin: plugin.clone(), instance, run, chunk: sweep.chunk }
                }
                Scope::Everything => return,
            },
            Payload::Session(_) | Payload::Tick(_) => return,
        });
    }
}

impl Plugins for SimPlugins {
    fn hooks(&self) -> Vec<(Arc<str>, BTreeSet<Hook>)> {
        let state = lock(&self.state);
        state.plugins.iter().map(|one| (one.shared_name.clone(), one.hooks.clone())).collect()
    }

    fn intervals(&self) -> Vec<(Arc<str>, Duration)> {
        Vec::new()
    }

    fn submit(&self, event: Payload) {
        if let Payload::Cleanup(sweep) = &event
            && sweep.scope == Scope::Everything
        {
            lock(&self.world.receiver).everything_submitted(&self.world, self.origin);
        }
        let state = &mut *lock(&self.state);
        let hook = event.hook();
        let wanting = state.plugins.iter().enumerate().filter(|(_, one)| one.hooks.contains(&hook));
        let wanting = wanting.map(|(at, _)| at).collect();
        self.give(state, &event, wanting);
    }

    fn submit_to(&self, plugin: &str, event: Payload) {
        let state = &mut *lock(&self.state);
        let hook = event.hook();
        let wanting = state.plugins.iter().position(|one| one.name == plugin && one.hooks.contains(&hook));
        match wanting {
            Some(at) => self.give(state, &event, vec![at]),
            None if Shared::of(&event).is_some() => self.give(state, &event, Vec::new()),
            None => {
                state.settled(&plugin.into(), &event);
                self.filled.notify_one();
            }
        }
    }

    fn replay(
        &self,
        plugin: &str,
        event: Payload,
        letter: LetterNumber,
        newest: u64,
    ) -> Result<Replayed, NotWanted> {
        let state = &mut *lock(&self.state);
        let hook = event.hook();
        let wanting = state.plugins.iter_mut().find(|one| one.name == plugin && one.hooks.contains(&hook));
        let replayed =
            wanting.ok_or(NotWanted)?.delivery.handle_replay(self.clock.tick(), event, letter, newest);
        self.settle(state);
        self.work.notify_one();
        Ok(replayed)
    }

    fn permit(&self, until: Tick) {
        let state = &mut *lock(&self.state);
        state.permit = Some(until);
        for one in &mut state.plugins {
            one.delivery.handle_permit(until);
        }
        self.work.notify_one();
    }

    fn announce(&self, allowed: bool) {
        let state = &mut *lock(&self.state);
        for one in &mut state.plugins {
            one.delivery.handle_announcing(allowed);
        }
        self.work.notify_one();
    }

    fn withdraw(&self, partition: PartitionId, cut: bool) {
        let state = &mut *lock(&self.state);
        for at in 0..state.plugins.len() {
            state.plugins[at].delivery.handle_withdraw(partition);
            if cut {
                let jobs = state.plugins[at].delivery.withdrawn_jobs(partition).collect::<Vec<_>>();
                state.cut.extend(jobs.into_iter().map(|job| (at, job)));
            }
        }
        state.withdrawals.insert(partition);
        self.settle(state);
        self.work.notify_one();
    }

    fn drop_sessions(&self, instance: InstanceId) {
        let state = &mut *lock(&self.state);
        for one in &mut state.plugins {
            if one.delivery.handle_drop_sessions(instance) > 0 {
                self.world.journal.count("session hooks of another life dropped");
            }
        }
        state.shared.retain(
            |shared, _| !matches!(shared, Shared::Session(of, ..) | Shared::Held(of, ..) if *of == instance),
        );
        self.settle(state);
    }

    fn abandon_everything(&self) {
        let state = &mut *lock(&self.state);
        for (at, one) in state.plugins.iter_mut().enumerate() {
            if one.delivery.handle_abandon_everything() > 0 {
                self.world.journal.count("everything abandoned");
            }
            state.cut.extend(one.delivery.abandoned_job().map(|job| (at, job)));
        }
        state.shared.retain(|shared, _| !matches!(shared, Shared::Everything(_)));
        self.settle(state);
        self.work.notify_one();
    }

    fn outcomes(&self) -> BoxFuture<'_, Vec<Outcome>> {
        async {
            loop {
                let ready = std::mem::take(&mut lock(&self.state).ready);
                if !ready.is_empty() {
                    return ready;
                }
                self.filled.notified().await;
            }
        }
        .boxed()
    }

    fn unsettled(&self) -> Vec<(Arc<str>, usize)> {
        let state = lock(&self.state);
        state.plugins.iter().map(|one| (one.shared_name.clone(), one.delivery.unsettled())).collect()
    }

    fn unsettled_list(&self, limit: usize) -> Vec<String> {
        let state = lock(&self.state);
        let lists = state.plugins.iter().flat_map(|one| {
            let list = one.delivery.unsettled_list(limit);
            list.into_iter().map(|(payload, _, why)| format!("{} {}: {why}", one.name, Event(&payload)))
        });
        lists.take(limit).collect()
    }
}
