//! The driver's side of membership and ownership: claims, snapshots, updates, status records, checkpoints.

use std::collections::BTreeSet;

use futures_util::FutureExt;
use presence_core::checkpoint::Checkpoints;
use presence_core::documents::{Change, Document, Expect, Key, Update};
use presence_core::events::{Scope, Sweep, Transition, labels};
use presence_core::ids::{PartitionId, Sequence};
use presence_core::membership::MembershipEffect;
use presence_core::time::Now;
use presence_core::tracker::{StatusBatch, Tracker, TrackerConfig};

use super::engine::{Driver, Ending, Partition};
use super::io::{Completion, REFUSED_PAUSE, definite, read, write_statuses};
use crate::plugins;
use crate::store::{Coverage, Followed, Notice, Put, StoreError};

/// So many users are forgotten at once.
const FORGET_BATCH: usize = 1000;

impl Driver {
    pub(super) fn handle_completion(&mut self, now: Now, completion: Completion) {
        match completion {
            Completion::Membership(key, result) => self.membership.handle_written(now, &key, result),
            Completion::Instances(snapshot, follower) => {
                self.instances_follower = Some(follower);
                self.membership.handle_loaded(now, &snapshot.documents);
            }
            Completion::Owner(partition, owner) => self.membership.handle_owner(partition, owner),
            Completion::Loaded(partition, snapshot) => self.load(now, partition, snapshot),
            Completion::Following(partitions, from, follower) => {
                self.following = false;
                self.follower = Some(follower);
                self.followed = partitions;
                self.position = from;
                for partition in self.followed.clone() {
                    self.membership.handle_partition_loaded(partition);
                }
                self.follow_owned();
            }
            Completion::Document(user, Ok(())) => self.sessions.handle_document_acked(now, &user),
            Completion::Document(user, Err(error)) => {
                tracing::error!(%user, %error, "a session document was refused; it is written again");
                self.sessions.handle_document_failed(now, &user);
            }
            Completion::Statuses(partition, claim, sequences, error) => {
                self.handle_statuses(partition, claim, &sequences, error);
            }
            Completion::Record(user, record) => self.watchers.handle_record(&user, record),
            Completion::Nothing => {}
        }
    }

    pub(super) fn stop(&mut self, error: Option<String>) {
        let undelivered_list =
            if self.undelivered > 0 { self.plugins.unsettled_list(100) } else { Vec::new() };
        self.stopped = Some(Ending { error, undelivered: self.undelivered, undelivered_list });
    }

    pub(super) fn handle_instance_updates(&mut self, now: Now, updates: Vec<Followed>) {
        for followed in updates {
            match followed {
                Followed::Update(update) => self.membership.handle_update(now, &update),
                Followed::Lost(reason) => {
                    tracing::warn!(reason, "updates of the instances were missed: reading them again");
                    self.instances_follower = None;
                    self.load_instances(Sequence(0));
                }
            }
        }
    }

    /// Returns true when there was nothing to do.
    pub(super) fn carry_out_membership(&mut self) -> bool {
        let mut quiet = true;
        while let Some(effect) = self.membership.poll_effect() {
            quiet = false;
            match effect {
                MembershipEffect::Load(at_least) => self.load_instances(at_least),
                MembershipEffect::Write { key, document, expect, lease } => {
                    self.write(Put { key, document, expect, lease });
                }
                MembershipEffect::ReadOwner(partition) => self.read_owner(partition),
                MembershipEffect::Everything(run) => {
                    tracing::info!(run = &*run, "fresh start: plugins clean up everything");
                    let sweep = Sweep {
                        cause: labels::FRESH_START.into(),
                        scope: Scope::Everything,
                        chunk: 0,
                        last: true,
                        run,
                    };
                    self.plugins.submit(plugins::Event::Cleanup(sweep.into()));
                }
                MembershipEffect::Own(partition, claim) => self.own(partition, claim),
                MembershipEffect::Ready => {
                    tracing::info!(
                        instance = %self.config.instance,
                        partitions = self.partitions.len(),
                        generation = self.membership.generation(),
                        "ready"
                    );
                }
                MembershipEffect::Leave(last) => self.give_up_lease(last),
                MembershipEffect::BootTimedOut => {
                    tracing::error!(
                        timeout = ?self.config.presence.boot_timeout,
                        plugins = ?self.plugins.unsettled_list(10),
                        "cleanup of everything is not done within presence.boot_timeout: the host opens without \
                         it; the plugins named hear of nothing else before it succeeds"
                    );
                }
                MembershipEffect::Fail(error) => self.stop(Some(error.to_string())),
            }
        }
        quiet
    }

    fn own(&mut self, id: PartitionId, claim: Sequence) {
        let users = self.config.presence.max_users / u64::from(self.config.layout.partitions);
        let config = TrackerConfig {
            offline_grace: self.config.presence.offline_grace,
            offline_retention: self.config.presence.offline_retention,
            max_users: usize::try_from(users.max(1)).unwrap_or(usize::MAX),
            generation: self.membership.generation(),
            seed: self.config.seed,
        };
        let tracker = Tracker::new(id, claim, config);
        let checkpoints = Checkpoints::new(self.membership.epoch());
        self.partitions.insert(id, Partition { tracker, checkpoints, loaded: None });
        self.load_partition(id, claim);
    }

    fn load(&mut self, now: Now, id: PartitionId, snapshot: crate::store::Snapshot) {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        for (key, _, document) in &snapshot.documents {
            match (key, document) {
                (Key::User(_, _, user), Document::User(record)) => {
                    partition.tracker.handle_record(user, record)
                }
                (Key::Checkpoint(_), Document::Checkpoint(checkpoint)) => {
                    partition.checkpoints.handle_loaded(checkpoint);
                }
                _ => {}
            }
        }
        for (key, _, document) in &snapshot.documents {
            if let (Key::Sessions(_, _, user, instance), Document::Sessions(document)) = (key, document) {
                partition.tracker.handle_document(now, user, *instance, Some(document));
            }
        }
        partition.tracker.handle_loaded(now);
        partition.loaded = Some(snapshot.up_to);
        self.touched.insert(id);
        self.follow_owned();
    }

    /// Follows all loaded partitions with one follower, once nothing is being loaded.
    fn follow_owned(&mut self) {
        let loading = self.partitions.values().any(|partition| partition.loaded.is_none());
        let wanted: BTreeSet<PartitionId> = self.partitions.keys().copied().collect();
        if self.following
            || loading
            || wanted.is_empty()
            || (wanted == self.followed && self.follower.is_some())
        {
            return;
        }
        self.following = true;
        // New partitions go on from their snapshots, the others from where they were read.
        let new = self.partitions.iter().filter(|(id, _)| !self.followed.contains(id));
        let from = new.filter_map(|(_, partition)| partition.loaded);
        let from = from.chain((!self.followed.is_empty()).then_some(self.position)).min().unwrap_or_default();
        for (id, partition) in &mut self.partitions {
            if self.followed.contains(id) {
                partition.loaded = partition.loaded.max(Some(self.position));
            }
        }
        self.follower = None;
        let store = self.store.clone();
        let operation = async move {
            let coverage = Coverage::Partitions(wanted.clone());
            Completion::Following(wanted, from, read(|| store.follow(coverage.clone(), from)).await)
        };
        self.start(operation.boxed());
    }

    pub(super) fn handle_updates(&mut self, now: Now, updates: Vec<Followed>) {
        for followed in updates {
            match followed {
                Followed::Update(update) => self.handle_update(now, &update),
                Followed::Lost(reason) => {
                    tracing::warn!(reason, "updates were missed: reading the owned partitions again");
                    self.follower = None;
                    self.followed.clear();
                    let owned = self.membership.owned().clone();
                    for (id, claim) in owned {
                        self.own_again(id, claim);
                    }
                    return;
                }
            }
        }
    }

    /// Reads a partition anew; what its tracker has decided stays.
    fn own_again(&mut self, id: PartitionId, claim: Sequence) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.loaded = None;
            partition.tracker.handle_reload();
        }
        self.load_partition(id, claim.max(self.position));
    }

    fn handle_update(&mut self, now: Now, update: &Update) {
        self.position = self.position.max(update.sequence);
        let Some(id) = update.key.partition() else {
            return;
        };
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        if partition.loaded.is_some_and(|loaded| update.sequence <= loaded) {
            return;
        }
        match (&update.key, &update.change) {
            (Key::Sessions(_, _, user, instance), change) => {
                let document = match change {
                    Change::Put(Document::Sessions(document)) => Some(&**document),
                    _ => None,
                };
                partition.tracker.handle_document(now, user, *instance, document);
                self.touched.insert(id);
            }
            (Key::Owner(_), Change::Put(Document::Owner(claim))) => {
                let other = claim.instance.is_some_and(|instance| instance != self.config.instance);
                if other && update.sequence > partition.tracker.claim() {
                    tracing::warn!(partition = %id, "another instance has claimed a partition of this one");
                    if let Some(partition) = self.partitions.remove(&id) {
                        self.give_up(&partition);
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns true when there was nothing to do.
    pub(super) fn carry_out_partitions(&mut self) -> bool {
        let mut quiet = true;
        while let Some(id) = self.touched.pop_first() {
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            if let Some(batch) = partition.tracker.poll_write() {
                quiet = false;
                self.write_batch(id, batch);
            }
            while let Some(transition) =
                self.partitions.get_mut(&id).and_then(|partition| partition.tracker.poll_transition())
            {
                quiet = false;
                self.tell(transition);
            }
        }
        quiet
    }

    fn write_batch(&mut self, id: PartitionId, batch: StatusBatch) {
        let layout = self.config.layout;
        let document = |(user, record)| {
            let (partition, leaf) = layout.place(&user);
            (Key::User(partition, leaf, user), Document::User(record))
        };
        let documents = batch.records.into_iter().map(document).collect();
        self.start(write_statuses(self.store.clone(), id, batch.claim, documents).boxed());
    }

    fn handle_statuses(
        &mut self,
        id: PartitionId,
        claim: Sequence,
        sequences: &[Sequence],
        error: Option<StoreError>,
    ) {
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        if partition.tracker.claim() != claim {
            return;
        }
        partition.tracker.handle_written(sequences);
        match error {
            Some(StoreError::Conflict { .. }) => {
                tracing::warn!(partition = %id, "a newer claim fences this owner off: it gives the partition up");
                let Some(mut partition) = self.partitions.remove(&id) else {
                    return;
                };
                self.give_up(&partition);
                while let Some(transition) = partition.tracker.poll_transition() {
                    self.tell(transition);
                }
            }
            Some(error) => {
                tracing::error!(partition = %id, %error, "status records were refused; they are written again");
                self.touched.insert(id);
            }
            None => {
                self.touched.insert(id);
            }
        }
    }

    /// Keeps the counts of a partition that is this host's no more.
    fn give_up(&mut self, partition: &Partition) {
        for (before, decided) in self.transitions_before.iter_mut().zip(partition.tracker.decided()) {
            *before += decided;
        }
    }

    /// A transition is recorded: now plugins and watchers may hear of it.
    fn tell(&mut self, transition: Transition) {
        tracing::debug!(user = %transition.user, status = %transition.current, revision = transition.revision, "transition");
        let record = presence_core::documents::StatusRecord {
            status: transition.current,
            since: transition.since,
            revision: transition.revision,
            last_seen: transition.last_seen,
            sessions: transition.sessions,
            generation: self.membership.generation(),
            previous: transition.previous,
        };
        self.store.notify(Notice { user: transition.user.clone(), record });
        let Some(plugins) = self.status_plugins.get(&transition.hook()) else {
            return;
        };
        if let Some(partition) = self.partitions.get_mut(&transition.partition) {
            for plugin in plugins {
                partition.checkpoints.handle_issued(plugin, &transition.user, transition.sequence);
            }
        }
        *self.unsettled.entry(transition.user.clone()).or_default() += plugins.len() as u32;
        self.plugins.submit(plugins::Event::Status(transition.into()));
    }

    /// Writes the session documents that changed. Returns true when there was nothing to do.
    pub(super) fn write_documents(&mut self) -> bool {
        let mut quiet = true;
        while let Some(write) = self.sessions.poll_document() {
            quiet = false;
            let (partition, leaf) = self.config.layout.place(&write.user);
            let key = Key::Sessions(partition, leaf, write.user.clone(), self.sessions.instance());
            let store = self.store.clone();
            let operation = async move {
                let result = match write.document {
                    Some(document) => {
                        let document = Document::Sessions(document);
                        let put = Put { key, document, expect: Expect::Any, lease: None };
                        definite(|| store.put(put.clone())).await.map(|_| ())
                    }
                    None => definite(|| store.delete(key.clone(), Expect::Any)).await,
                };
                if result.is_err() {
                    // What is refused now may be accepted later, not at once.
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                Completion::Document(write.user, result)
            };
            self.start(operation.boxed());
        }
        quiet
    }

    pub(super) fn write_checkpoints(&mut self, now: Now) {
        let mut due = Vec::new();
        for (id, partition) in &mut self.partitions {
            if let Some(document) = partition.checkpoints.poll_document(now.tick) {
                due.push((*id, partition.tracker.claim(), document));
            }
        }
        for (id, claim, document) in due {
            self.write_checkpoint(id, claim, document);
        }
    }

    pub(super) fn write_last_checkpoints(&mut self) {
        let mut due = Vec::new();
        for (id, partition) in &mut self.partitions {
            due.push((*id, partition.tracker.claim(), partition.checkpoints.document_now()));
        }
        for (id, claim, document) in due {
            self.write_checkpoint(id, claim, document);
        }
    }

    fn write_checkpoint(
        &mut self,
        id: PartitionId,
        claim: Sequence,
        document: presence_core::documents::CheckpointDocument,
    ) {
        let store = self.store.clone();
        let put = Put {
            key: Key::Checkpoint(id),
            document: Document::Checkpoint(document.into()),
            expect: Expect::Fence(Key::Owner(id), claim),
            lease: None,
        };
        let operation = async move {
            if let Err(error) = store.put(put).await {
                // The next one says more; a newer owner reads an older one and repeats what it lacks.
                tracing::debug!(partition = %id, %error, "a checkpoint was not written");
            }
            Completion::Nothing
        };
        self.start(operation.boxed());
    }

    /// Forgets users who were offline for too long.
    pub(super) fn forget(&mut self, now: Now) {
        let unsettled = &self.unsettled;
        let mut forgotten = Vec::new();
        for (id, partition) in &mut self.partitions {
            let claim = partition.tracker.claim();
            while forgotten.len() < FORGET_BATCH
                && let Some(user) =
                    partition.tracker.poll_forgotten(now, |user| !unsettled.contains_key(user))
            {
                forgotten.push((*id, claim, user));
            }
        }
        for (id, claim, user) in forgotten {
            let (partition, leaf) = self.config.layout.place(&user);
            let (store, key) = (self.store.clone(), Key::User(partition, leaf, user));
            let fence = Expect::Fence(Key::Owner(id), claim);
            let operation = async move {
                if let Err(error) = store.delete(key.clone(), fence).await {
                    tracing::debug!(?key, %error, "a record outlives its retention");
                }
                Completion::Nothing
            };
            self.start(operation.boxed());
        }
    }
}
