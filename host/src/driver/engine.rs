//! The loop: waits for the first of everything that can happen, hands it to the core, carries out what the core
//! wants until nothing is left to do, waits again. It decides nothing itself and never blocks on a plugin.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use presence_core::documents::Layout;
use presence_core::events::Hook;
use presence_core::holders::DocumentId;
use presence_core::ids::{InstanceId, PartitionId, Sequence, UserId};
use presence_core::membership::{Membership, MembershipConfig};
use presence_core::sessions::{LocalSessions, SessionKey, SessionsConfig};
use presence_core::ticks::Ticks;
use presence_core::time::{Now, Tick};
use presence_core::watchers::Watchers;
use tokio::sync::mpsc;

use super::holders::Holders;
use super::io::Completion;
use super::letters::Letters;
use super::newcomers::{exporting, fingerprint, status_plugins};
use super::partition::Partition;
use super::traces::Traces;
use super::{Event, Outbox};
use crate::clock::Clock;
use crate::plugins::{Outcome, Plugins};
use crate::settings::PresenceSettings;
use crate::store::{Followed, Follower, Noticed, Notices, Questions, SharedStore};

/// So many events are taken at once before the core is asked what it wants.
const EVENT_BATCH: usize = 512;

/// How often users who were offline for too long are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// How often the store's clock is compared with one's own.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

/// How often watched users are read again, whatever notices told.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);

/// How often the instances are read again, whatever the follower told.
const SURVEY_INTERVAL: Duration = Duration::from_secs(30);

/// How often a host that waits for others or for a fresh start looks how far the store has come.
const POINT_INTERVAL: Duration = Duration::from_secs(1);

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
    /// Several hosts may share the store: hooks run under the lease.
    pub shared: bool,
    /// Plugins that do not want to hear of what was before them (`initial = "none"`).
    pub silent_plugins: BTreeSet<Arc<str>>,
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
    /// All of them.
    pub(super) listeners: Vec<Arc<str>>,
    /// When which plugin's tick is due.
    pub(super) ticks: Ticks,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) sessions: LocalSessions,
    pub(super) watchers: Watchers,
    pub(super) traces: Traces,
    pub(super) membership: Membership,
    pub(super) partitions: BTreeMap<PartitionId, Partition>,
    /// Partitions that may have something to write or to tell.
    pub(super) touched: BTreeSet<PartitionId>,
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
    /// The point in the store before the fresh start that this host has declared.
    pub(super) begun_at: Sequence,
    /// Claims were read, and where from they are followed.
    pub(super) claims_from: Option<Sequence>,
    /// Held by everything that is asked on behalf of this incarnation: once it is replaced, nobody asks any more.
    pub(super) life: Arc<()>,
    /// The same for what the membership asks, which means nothing in a store that was recreated.
    pub(super) era: Arc<()>,
    /// The same for reading and following the instances.
    pub(super) reading: Arc<()>,
    /// The same for following the owned partitions and the claims.
    pub(super) follow: Arc<()>,
    /// Which load of a partition is the newest.
    pub(super) loads: u64,
    /// Documents of instances that are gone, to be deleted.
    pub(super) leftovers: VecDeque<(UserId, InstanceId)>,
    /// Users whose document is to be written again, and when.
    pub(super) doubts: BTreeSet<(Tick, UserId)>,
    /// Whose documents were acknowledged while there was no lease. At most one a user.
    pub(super) held_acks: Vec<UserId>,
    /// The store was recreated and lacks documents of sessions that are here: none is announced before they are there.
    pub(super) silent: bool,
    /// Records to be read for watchers, and how many are on their way.
    pub(super) reads: VecDeque<UserId>,
    pub(super) reads_in_flight: usize,
    /// The same of messages and metadata.
    pub(super) detail_reads: VecDeque<UserId>,
    pub(super) detail_reads_in_flight: usize,
    /// Custom messages on their way to the store.
    pub(super) messages_in_flight: usize,
    /// Users with a session here that has no metadata any more, which is still to be told.
    pub(super) metadata_dropped: BTreeSet<UserId>,
    /// Users to be read once more, since notices may not have reached this host yet when they were read first.
    pub(super) second_reads: VecDeque<(Tick, UserId)>,
    pub(super) notices: Notices,
    /// What other hosts ask.
    pub(super) questions: Questions,
    /// Dead letters that are being replayed or dropped.
    pub(super) letters: Letters,
    /// What is done for holders.
    pub(super) holders: Holders,
    pub(super) clock_due: Tick,
    /// When watchers forget the revisions that they know.
    pub(super) forget_revisions_due: Option<Tick>,
    pub(super) reread_due: Tick,
    pub(super) survey_due: Tick,
    pub(super) point_due: Tick,
    /// By how much the own clock differed from the store's when they were last compared.
    pub(super) clock_offset: i64,
    /// The same, if it is too much.
    pub(super) clock_off: Option<i64>,
    /// Since when the lease has been without confirmation.
    pub(super) away_since: Option<Tick>,
    /// A person was told.
    pub(super) away_told: bool,
    /// Followers that had to start over.
    pub(super) gaps: u64,
    /// When each dead instance's cleanup was begun by this one.
    pub(super) cleanups_begun: BTreeMap<InstanceId, Tick>,
    /// How long the cleanups that ended here took together.
    pub(super) cleanup_time: Duration,
    pub(super) drain: Option<Drain>,
    pub(super) forget_due: Tick,
    pub(super) undelivered: usize,
    /// Some of it.
    pub(super) undelivered_list: Vec<String>,
    /// Transitions of partitions that are owned no more, by status.
    pub(super) transitions_before: [u64; 3],
    /// Every handle is gone.
    pub(super) abandoned: bool,
    pub(super) stopped: Option<Ending>,
}

/// Stopping.
pub(super) struct Drain {
    pub(super) deadline: Tick,
    /// No other host is there: what is not decided here is decided nowhere.
    pub(super) last: bool,
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
        let hooks = plugins.hooks();
        let membership = Membership::new(MembershipConfig {
            instance: config.instance,
            host: config.host.clone(),
            layout: config.layout,
            epoch: config.seed.rotate_left(17),
            nonce: config.seed.rotate_left(31),
            instance_ttl: config.instance_ttl,
            boot_timeout: config.presence.boot_timeout,
            handover_timeout: config.handover_timeout,
            drain_grace: config.presence.drain_grace,
            shared: config.shared,
            plugins: fingerprint(&hooks),
            cleanup_plugins: exporting(&hooks, Hook::Cleanup),
        });
        let (status_plugins, listeners) = status_plugins(&hooks);
        let mut ticks = Ticks::new(config.layout);
        ticks.handle_plugins(clock.now(), plugins.intervals());
        let (notices, questions) = (store.notices(), store.questions());
        Driver {
            sessions: LocalSessions::new(sessions_config, config.instance),
            watchers: Watchers::new(config.seed),
            traces: Traces::default(),
            membership,
            random: fastrand::Rng::with_seed(config.seed),
            config,
            clock,
            store,
            plugins,
            status_plugins,
            listeners,
            ticks,
            events,
            partitions: BTreeMap::new(),
            touched: BTreeSet::new(),
            connections: HashMap::new(),
            waiting: FuturesUnordered::new(),
            done: VecDeque::new(),
            instances_follower: None,
            follower: None,
            followed: BTreeSet::new(),
            position: Sequence(0),
            following: false,
            begun_at: Sequence(0),
            claims_from: None,
            life: Arc::new(()),
            era: Arc::new(()),
            reading: Arc::new(()),
            follow: Arc::new(()),
            loads: 0,
            leftovers: VecDeque::new(),
            held_acks: Vec::new(),
            silent: false,
            doubts: BTreeSet::new(),
            reads: VecDeque::new(),
            reads_in_flight: 0,
            detail_reads: VecDeque::new(),
            detail_reads_in_flight: 0,
            messages_in_flight: 0,
            metadata_dropped: BTreeSet::new(),
            second_reads: VecDeque::new(),
            notices,
            questions,
            letters: Letters::default(),
            holders: Holders::new(),
            clock_due: Tick(0),
            forget_revisions_due: None,
            reread_due: Tick(0),
            survey_due: Tick(0),
            point_due: Tick(0),
            clock_offset: 0,
            clock_off: None,
            away_since: None,
            away_told: false,
            gaps: 0,
            cleanups_begun: BTreeMap::new(),
            cleanup_time: Duration::ZERO,
            drain: None,
            forget_due: Tick(0),
            undelivered: 0,
            undelivered_list: Vec::new(),
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
                Some(completion) = self.waiting.next() => self.done.push_back(completion),
                outcomes = plugins.outcomes() => self.handle_outcomes(outcomes),
                updates = next_batch(&mut self.instances_follower) => {
                    let now = self.clock.now();
                    self.handle_instance_updates(now, updates);
                }
                updates = next_batch(&mut self.follower) => {
                    let now = self.clock.now();
                    self.handle_updates(now, updates);
                }
                noticed = self.notices.next() => self.handle_notice(noticed),
                question = self.questions.next() => {
                    let now = self.clock.now();
                    self.handle_question(now, question);
                }
                () = tokio::time::sleep(timeout) => {}
            }
            self.take_waiting(&plugins);
        }
    }

    /// Takes a share of what else waits, so that the gateway's events, which come first, starve nothing.
    fn take_waiting(&mut self, plugins: &Arc<dyn Plugins>) {
        let now = self.clock.now();
        for _ in 0..EVENT_BATCH {
            match self.waiting.next().now_or_never() {
                Some(Some(completion)) => self.done.push_back(completion),
                _ => break,
            }
        }
        if let Some(outcomes) = plugins.outcomes().now_or_never() {
            self.handle_outcomes(outcomes);
        }
        if let Some(updates) = self.instances_follower.as_mut().map(Follower::try_next_batch) {
            self.handle_instance_updates(now, updates);
        }
        for _ in 0..EVENT_BATCH {
            let Some(noticed) = self.notices.try_next() else { break };
            self.handle_notice(noticed);
        }
        while let Some(question) = self.questions.try_next() {
            self.handle_question(now, question);
        }
    }

    pub(super) fn handle_outcomes(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            self.handle_outcome(outcome);
        }
    }

    fn handle_notice(&mut self, noticed: Noticed) {
        match noticed {
            Noticed::Notice(notice) => self.watchers.handle_record(&notice.user, Some(notice.record)),
            Noticed::Details(user) => self.watchers.handle_details_changed(&user),
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
            Outcome::Held { partition, instance, user, session, hook } => {
                self.held_settled(partition, &DocumentId { instance, user }, &session, hook);
            }
            Outcome::Status { plugin, user, partition, sequence } => {
                if let Some(partition) = self.partitions.get_mut(&partition) {
                    partition.settled(&plugin, &user, sequence);
                }
            }
            Outcome::Everything(run) => self.membership.handle_everything_settled(&run),
            Outcome::Lost { plugin, instance, run, chunk } => {
                let now = self.clock.now();
                self.membership.handle_cleanup_settled(now, &plugin, instance, &run, chunk);
            }
            Outcome::Withdrawn(id) => self.hooks_ended(id),
            Outcome::Replayed(letter, end) => self.handle_replayed(letter, end),
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.sessions.handle_timeout(now);
        self.membership.handle_timeout(now);
        self.watchers.handle_timeout(now);
        let acts = self.membership.may_act(now);
        self.note_absence(now, acts);
        if acts {
            for (id, partition) in &mut self.partitions {
                if partition.tracker.poll_timeout().is_some_and(|due| due <= now.tick) {
                    partition.tracker.handle_timeout(now);
                    self.touched.insert(*id);
                }
            }
            self.tell_ticks(now);
            self.write_checkpoints(now);
            self.reread_partitions(now);
        }
        if self.forget_due <= now.tick {
            self.forget_due = now.tick + FORGET_INTERVAL;
            if acts {
                self.forget(now);
                self.sweep_leftovers();
            }
        }
        self.look_again(now);
        self.check_drain(now);
    }

    fn poll_timeout(&self) -> Tick {
        let now = self.clock.now();
        let acts = self.membership.may_act(now);
        let mut due = self.forget_due.min(self.clock_due).min(self.reread_due).min(self.survey_due);
        // Once that is over only the store's answer ends it.
        let drain = self.drain.as_ref().map(|drain| drain.deadline).filter(|deadline| *deadline > now.tick);
        if self.looks_around() {
            due = due.min(self.point_due);
        }
        if let Some((doubt, _)) = self.doubts.first() {
            due = due.min(*doubt);
        }
        if let Some(recreated) = self.forget_revisions_due {
            due = due.min(recreated);
        }
        if let Some((read, _)) = self.second_reads.front() {
            due = due.min(*read);
        }
        for tick in
            [self.sessions.poll_timeout(), self.membership.poll_timeout(now), drain].into_iter().flatten()
        {
            due = due.min(tick);
        }
        if let Some(tick) = self.watchers.poll_timeout(now) {
            due = due.min(tick);
        }
        if let Some(tick) = self.ticks.poll_timeout(now).filter(|_| acts) {
            due = due.min(tick);
        }
        for partition in self.partitions.values().filter(|_| acts) {
            let checkpoint = partition.checkpoints.poll_timeout().filter(|_| partition.writes_checkpoints());
            for tick in [partition.tracker.poll_timeout(), checkpoint] {
                due = tick.map_or(due, |tick| due.min(tick));
            }
        }
        due
    }

    /// Tells when the lease is lost and when it is back.
    fn note_absence(&mut self, now: Now, acts: bool) {
        match (self.away_since, acts) {
            (None, false) => self.away_since = Some(now.tick),
            (Some(since), true) => {
                if self.away_told {
                    tracing::info!(away = ?now.tick.since(since), "the lease is back: statuses are decided again");
                }
                (self.away_since, self.away_told) = (None, false);
            }
            (Some(since), false)
                if !self.away_told
                    && self.membership.is_ready()
                    && now.tick.since(since) >= self.config.instance_ttl / 3 =>
            {
                self.away_told = true;
                tracing::warn!(
                    store = self.store.describe(),
                    "the lease can't be renewed: no status is decided and no status hook starts before it can"
                );
            }
            _ => {}
        }
    }

    /// True while this host has read the claims and takes no part yet.
    fn looks_around(&self) -> bool {
        self.config.shared && self.claims_from.is_some() && !self.membership.takes_part()
    }

    /// What is looked at regularly, whatever was told: the store's clock, the instances, the watched users.
    fn look_again(&mut self, now: Now) {
        if self.clock_due <= now.tick {
            self.clock_due = now.tick + CLOCK_INTERVAL;
            self.read_clock(now);
        }
        if self.survey_due <= now.tick {
            let first = self.survey_due == Tick(0);
            self.survey_due = now.tick + SURVEY_INTERVAL;
            if !first && self.config.shared && self.instances_follower.is_some() {
                self.load_instances();
            }
        }
        self.settle_doubts(now);
        if self.point_due <= now.tick && self.looks_around() {
            self.point_due = now.tick + POINT_INTERVAL;
            self.load_claims();
        }
        if self.reread_due <= now.tick {
            let first = self.reread_due == Tick(0);
            self.reread_due = now.tick + REREAD_INTERVAL;
            if !first && self.config.shared {
                self.watchers.handle_missed();
            }
        }
        if self.forget_revisions_due.is_some_and(|due| due <= now.tick) {
            self.forget_revisions_due = None;
            self.watchers.handle_recreated();
        }
        while let Some((due, _)) = self.second_reads.front()
            && *due <= now.tick
            && let Some((_, user)) = self.second_reads.pop_front()
        {
            // Where nobody asks for them this does nothing.
            self.watchers.handle_details_changed(&user);
            self.reads.push_back(user);
        }
    }

    /// Does what the core wants until it wants nothing more. Ends: every effect stems from an input, and an input
    /// has finitely many.
    fn carry_out(&mut self, now: Now) {
        loop {
            if !self.held_acks.is_empty() {
                self.release_acks(now);
            }
            if self.silent && self.sessions.is_listed() {
                self.silent = false;
                self.plugins.announce(true);
            }
            let mut quiet = self.write_documents();
            quiet &= self.carry_out_sessions();
            quiet &= self.carry_out_membership(now);
            quiet &= self.carry_out_partitions(now);
            quiet &= self.carry_out_holders(now);
            quiet &= self.carry_out_watchers(now);
            while let Some(completion) = self.done.pop_front() {
                quiet = false;
                self.handle_completion(now, completion);
                // It may have been the end of an era, which what waits behind it belongs to.
                self.carry_out_membership(now);
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
