//! The loop: waits for the first of everything that can happen, hands it to the core, carries out what the core
//! wants until nothing is left to do, waits again. It decides nothing itself and never blocks on a plugin.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use presence_core::checkpoint::Checkpoints;
use presence_core::documents::Layout;
use presence_core::events::Hook;
use presence_core::ids::{InstanceId, PartitionId, Sequence, UserId};
use presence_core::membership::{Membership, MembershipConfig};
use presence_core::sessions::{LocalSessions, SessionKey, SessionsConfig};
use presence_core::time::{Now, Tick};
use presence_core::tracker::Tracker;
use presence_core::watchers::Watchers;
use tokio::sync::mpsc;

use super::io::Completion;
use super::{Event, Outbox};
use crate::clock::Clock;
use crate::plugins::{Outcome, Plugins};
use crate::settings::PresenceSettings;
use crate::store::{Followed, Follower, Noticed, Notices, SharedStore};

/// So many events are taken at once before the core is asked what it wants.
const EVENT_BATCH: usize = 512;

/// How often users who were offline for too long are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// What a driver is given.
pub struct DriverConfig {
    /// The host's name.
    pub host: String,
    /// This incarnation.
    pub instance: InstanceId,
    /// The slicing of the users.
    pub layout: Layout,
    /// The lease.
    pub instance_ttl: Duration,
    /// `[presence]`
    pub presence: PresenceSettings,
    /// How long stopping may take.
    pub drain_timeout: Duration,
    /// How long the store may be away before the host says that it is not ready.
    pub unready_after: Duration,
    /// How long a partition's running hooks may go on before it is handed over.
    pub handover_timeout: Duration,
    /// Random: for hash tables, nonces, ids, the epoch of a new store, the spread of reconnects.
    pub seed: u64,
}

/// How a driver ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Why it could not go on, if it was not told to stop.
    pub error: Option<String>,
    /// How many events were not settled in time.
    pub undelivered: usize,
    /// Some of them, for the log.
    pub undelivered_list: Vec<String>,
}

/// The event loop of one host.
pub struct Driver {
    pub(super) config: DriverConfig,
    pub(super) clock: Clock,
    pub(super) random: fastrand::Rng,
    pub(super) store: SharedStore,
    pub(super) plugins: Arc<dyn Plugins>,
    /// Plugins that export a status hook, by hook: who is to be checkpointed.
    pub(super) status_plugins: BTreeMap<Hook, Vec<Arc<str>>>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) sessions: LocalSessions,
    pub(super) watchers: Watchers,
    pub(super) membership: Membership,
    pub(super) partitions: BTreeMap<PartitionId, Partition>,
    /// Partitions that may have something to write or to tell.
    pub(super) touched: BTreeSet<PartitionId>,
    /// Transitions that some plugin has not settled yet, by user.
    pub(super) unsettled: HashMap<UserId, u32>,
    pub(super) connections: HashMap<SessionKey, Arc<Outbox>>,
    /// Answers of the store that are on their way.
    pub(super) waiting: FuturesUnordered<BoxFuture<'static, Completion>>,
    /// Answers that came at once.
    pub(super) done: VecDeque<Completion>,
    pub(super) instances_follower: Option<Follower>,
    pub(super) follower: Option<Follower>,
    /// What the follower covers, and how far it was read.
    pub(super) followed: BTreeSet<PartitionId>,
    pub(super) position: Sequence,
    pub(super) following: bool,
    pub(super) notices: Notices,
    pub(super) drain: Option<Drain>,
    pub(super) forget_due: Tick,
    pub(super) undelivered: usize,
    /// Transitions of partitions that are owned no more, by status.
    pub(super) transitions_before: [u64; 3],
    /// Every handle is gone.
    pub(super) abandoned: bool,
    pub(super) stopped: Option<Ending>,
}

/// A partition that this host owns.
pub(super) struct Partition {
    pub(super) tracker: Tracker,
    pub(super) checkpoints: Checkpoints,
    /// The snapshot's point: older updates are in it already.
    pub(super) loaded: Option<Sequence>,
}

/// Stopping.
pub(super) struct Drain {
    pub(super) deadline: Tick,
    /// Everything is settled, or given up: only the store is still to be told.
    pub(super) leaving: bool,
}

impl Driver {
    /// Nothing happens before [`Driver::run`].
    pub fn new(
        config: DriverConfig,
        clock: Clock,
        store: SharedStore,
        plugins: Arc<dyn Plugins>,
        events: mpsc::Receiver<Event>,
    ) -> Driver {
        let sessions_config = SessionsConfig {
            idle_after: config.presence.idle_after,
            heartbeat: config.presence.heartbeat,
            heartbeat_timeout: config.presence.heartbeat_timeout,
            seed: config.seed,
        };
        let membership = Membership::new(MembershipConfig {
            instance: config.instance,
            host: config.host.clone(),
            layout: config.layout,
            epoch: config.seed.rotate_left(17),
            nonce: config.seed.rotate_left(31),
            instance_ttl: config.instance_ttl,
            boot_timeout: config.presence.boot_timeout,
        });
        let mut status_plugins: BTreeMap<Hook, Vec<Arc<str>>> = BTreeMap::new();
        for (plugin, hooks) in plugins.hooks() {
            for hook in hooks {
                status_plugins.entry(hook).or_default().push(plugin.clone());
            }
        }
        let notices = store.notices();
        Driver {
            sessions: LocalSessions::new(sessions_config, config.instance),
            watchers: Watchers::new(config.seed),
            membership,
            random: fastrand::Rng::with_seed(config.seed),
            config,
            clock,
            store,
            plugins,
            status_plugins,
            events,
            partitions: BTreeMap::new(),
            touched: BTreeSet::new(),
            unsettled: HashMap::new(),
            connections: HashMap::new(),
            waiting: FuturesUnordered::new(),
            done: VecDeque::new(),
            instances_follower: None,
            follower: None,
            followed: BTreeSet::new(),
            position: Sequence(0),
            following: false,
            notices,
            drain: None,
            forget_due: Tick(0),
            undelivered: 0,
            transitions_before: [0; 3],
            abandoned: false,
            stopped: None,
        }
    }

    /// Runs until the host has left, or can't go on.
    pub async fn run(mut self) -> Ending {
        self.membership.handle_start(self.clock.now());
        let mut batch = Vec::with_capacity(EVENT_BATCH);
        let plugins = self.plugins.clone();
        loop {
            let now = self.clock.now();
            self.handle_timeout(now);
            self.carry_out(now);
            if let Some(stopped) = self.stopped.take() {
                return stopped;
            }
            let timeout = self.poll_timeout().since(self.clock.now().tick);
            // Which of several things is taken first must not be left to chance: a simulation repeats a run.
            tokio::select! {
                biased;
                Some(completion) = self.waiting.next() => self.done.push_back(completion),
                outcomes = plugins.outcomes() => {
                    for outcome in outcomes {
                        self.handle_outcome(outcome);
                    }
                }
                updates = next_batch(&mut self.instances_follower) => {
                    let now = self.clock.now();
                    self.handle_instance_updates(now, updates);
                }
                updates = next_batch(&mut self.follower) => {
                    let now = self.clock.now();
                    self.handle_updates(now, updates);
                }
                noticed = self.notices.next() => self.handle_notice(noticed),
                count = self.events.recv_many(&mut batch, EVENT_BATCH), if !self.abandoned => {
                    let now = self.clock.now();
                    if count == 0 {
                        // Every handle is gone: nobody can ask for anything any more.
                        self.abandoned = true;
                        self.handle_event(now, Event::Drain);
                    }
                    for event in batch.drain(..) {
                        self.handle_event(now, event);
                    }
                }
                () = tokio::time::sleep(timeout) => {}
            }
            self.take_waiting();
        }
    }

    /// Takes a share of whatever else waits, so that no source starves the others.
    fn take_waiting(&mut self) {
        let now = self.clock.now();
        for _ in 0..EVENT_BATCH {
            match self.waiting.next().now_or_never() {
                Some(Some(completion)) => self.done.push_back(completion),
                _ => break,
            }
        }
        if let Some(updates) = self.instances_follower.as_mut().map(Follower::try_next_batch) {
            self.handle_instance_updates(now, updates);
        }
        for _ in 0..EVENT_BATCH {
            let Some(noticed) = self.notices.try_next() else { break };
            self.handle_notice(noticed);
        }
        for _ in 0..EVENT_BATCH {
            let Ok(event) = self.events.try_recv() else { break };
            self.handle_event(now, event);
        }
    }

    fn handle_notice(&mut self, noticed: Noticed) {
        match noticed {
            Noticed::Notice(notice) => self.watchers.handle_record(&notice.user, Some(notice.record)),
            Noticed::Missed => self.watchers.handle_missed(),
        }
    }

    fn handle_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Session { session, hook } => {
                if hook == Hook::SessionDisconnected {
                    self.sessions.handle_settled(&session);
                }
            }
            Outcome::Status { plugin, user, partition, sequence } => {
                if let Some(count) = self.unsettled.get_mut(&user) {
                    *count -= 1;
                    if *count == 0 {
                        self.unsettled.remove(&user);
                    }
                }
                if let Some(partition) = self.partitions.get_mut(&partition) {
                    partition.checkpoints.handle_settled(&plugin, &user, sequence);
                }
            }
            Outcome::Everything => self.membership.handle_everything_settled(),
            Outcome::Lost { .. } | Outcome::Withdrawn(_) => {}
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.sessions.handle_timeout(now);
        self.membership.handle_timeout(now);
        for (id, partition) in &mut self.partitions {
            if partition.tracker.poll_timeout().is_some_and(|due| due <= now.tick) {
                partition.tracker.handle_timeout(now);
                self.touched.insert(*id);
            }
        }
        self.write_checkpoints(now);
        if self.forget_due <= now.tick {
            self.forget_due = now.tick + FORGET_INTERVAL;
            self.forget(now);
        }
        self.check_drain(now);
    }

    fn poll_timeout(&self) -> Tick {
        let mut due = self.forget_due;
        let drain = self.drain.as_ref().map(|drain| drain.deadline);
        for tick in
            [self.sessions.poll_timeout(), self.membership.poll_timeout(), drain].into_iter().flatten()
        {
            due = due.min(tick);
        }
        for partition in self.partitions.values() {
            for tick in [partition.tracker.poll_timeout(), partition.checkpoints.poll_timeout()] {
                due = tick.map_or(due, |tick| due.min(tick));
            }
        }
        due
    }

    /// Does what the core wants until it wants nothing more. Ends: every effect stems from an input, and an input
    /// has finitely many.
    fn carry_out(&mut self, now: Now) {
        loop {
            let mut quiet = self.write_documents();
            quiet &= self.carry_out_sessions();
            quiet &= self.carry_out_membership();
            quiet &= self.carry_out_partitions();
            quiet &= self.carry_out_watchers();
            while let Some(completion) = self.done.pop_front() {
                quiet = false;
                self.handle_completion(now, completion);
            }
            if let Some(follower) = &mut self.follower {
                let updates = follower.try_next_batch();
                if !updates.is_empty() {
                    quiet = false;
                    self.handle_updates(now, updates);
                }
            }
            if quiet {
                break;
            }
        }
        self.check_drain(now);
    }
}

async fn next_batch(follower: &mut Option<Follower>) -> Vec<Followed> {
    match follower {
        Some(follower) => follower.next_batch().await,
        None => std::future::pending().await,
    }
}
