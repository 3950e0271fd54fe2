//! The driver's side of ownership: snapshots, updates, status records, checkpoints, handover.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use presence_core::checkpoint::{Backlog, Checkpoints};
use presence_core::documents::{
    Change, CheckpointDocument, Document, Expect, Key, SessionDocument, StatusRecord, Trail, Update,
};
use presence_core::events::Transition;
use presence_core::holders::{DocumentId, HeldHooks};
use presence_core::ids::{InstanceId, PartitionId, Sequence, UserId};
use presence_core::time::{Now, Tick};
use presence_core::tracker::{StatusBatch, Tracker, TrackerConfig};

use super::engine::Driver;
use super::io::{Completion, StatusesWritten, read, write_statuses};
use super::newcomers::hears;
use super::partition::{Partition, Surrender};
use crate::plugins;
use crate::store::{Coverage, Followed, Follower, Notice, Put, Snapshot, StoreError};

/// So many users are forgotten at once.
const FORGET_BATCH: usize = 1000;

/// How often an owned partition is read again, whatever the follower told; spread over partitions by half of it.
const REREAD_PARTITION: Duration = Duration::from_secs(600);

impl Driver {
    /// The partition is this host's from now on.
    pub(super) fn own(&mut self, now: Now, id: PartitionId, claim: Sequence) {
        self.ticks.handle_owned(now, id);
        if let Some(partition) = self.partitions.get_mut(&id) {
            // The store was recreated: what is known here is written back, and the documents are read twice, since
            // not every host has written its own again yet.
            partition.keep();
            partition.tracker.handle_restore(claim);
            partition.checkpoints.handle_restored(self.membership.epoch(), claim);
            partition.held.handle_restored();
            (partition.fenced, partition.restoring) = (false, true);
            partition.told_to = claim;
            self.load_partition(id, claim);
            self.read_for_newcomers(id);
            return;
        }
        let users = self.config.presence.max_users / u64::from(self.config.layout.partitions);
        let config = TrackerConfig {
            offline_grace: self.config.presence.offline_grace,
            offline_retention: self.config.presence.offline_retention,
            max_users: usize::try_from(users.max(1)).unwrap_or(usize::MAX),
            generation: self.membership.generation(),
            seed: self.config.seed,
        };
        let tracker = Tracker::new(id, claim, config);
        let checkpoints = Checkpoints::new(self.membership.epoch(), self.listeners.clone());
        let held = HeldHooks::new(id, config.generation);
        self.partitions.insert(id, Partition::new(tracker, checkpoints, held));
        self.load_partition(id, claim);
    }

    /// A snapshot of a partition is there.
    pub(super) fn load(&mut self, now: Now, id: PartitionId, load: u64, snapshot: Snapshot) {
        let Some(partition) = self.partitions.get_mut(&id).filter(|partition| partition.load == load) else {
            return;
        };
        if partition.overflowed {
            let at_least = snapshot.up_to.max(self.position);
            self.load_partition(id, at_least);
            return;
        }
        let mut news = HashSet::new();
        for (key, _, document) in &snapshot.documents {
            if let (Key::User(_, _, user), Document::User(record)) = (key, document)
                && partition.tracker.handle_record(user, record)
                && partition.begun
            {
                news.insert(user);
            }
        }
        let backlog = if partition.begun {
            self.backlog(now, id, &snapshot, |user| news.contains(user))
        } else {
            self.take_over(now, id, &snapshot)
        };
        for (key, sequence, document) in &snapshot.documents {
            if let (Key::Sessions(_, _, user, instance), Document::Sessions(document)) = (key, document) {
                self.take_document(now, id, (user, *instance), *sequence, Some(document));
            }
        }
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if partition.held.is_used() {
            let there: BTreeSet<DocumentId> = snapshot.documents.iter().filter_map(document_in).collect();
            partition.held.handle_snapshot(|id| there.contains(id));
        }
        partition.tracker.handle_loaded(now);
        partition.loaded = Some(snapshot.up_to);
        if std::mem::take(&mut partition.restoring) {
            // Not every host has written its documents again yet: what is not there then is gone.
            partition.reread_due = now.tick + self.config.instance_ttl;
        } else if partition.reread_due == Tick(u64::MAX) || partition.reread_due <= now.tick {
            let spread = self.random.u64(..REREAD_PARTITION.as_millis() as u64 / 2);
            partition.reread_due = now.tick + REREAD_PARTITION + Duration::from_millis(spread);
        }
        let buffered = std::mem::take(&mut partition.buffered);
        // While plugins hear nothing of the partition it is only noted.
        let tells = partition.tells();
        for (plugin, transition) in backlog.into_iter().filter(|_| tells) {
            self.plugins.submit_to(&plugin, plugins::Event::Status(transition));
        }
        for update in buffered {
            self.apply(now, id, &update);
        }
        self.touched.insert(id);
        self.tell_again(id);
        self.follow_owned();
    }

    /// Of a partition that was being handed over and stays, plugins hear again what was withdrawn.
    fn tell_again(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let by_hook = &self.status_plugins;
        let again = partition.told_again(|plugin, transition| hears(by_hook, plugin, transition.hook()));
        for (plugin, transition) in again {
            self.plugins.submit_to(&plugin, plugins::Event::Status(transition));
        }
    }

    /// What the earlier owners left: their checkpoint, and what it says that some plugin has not heard.
    fn take_over(
        &mut self,
        now: Now,
        id: PartitionId,
        snapshot: &Snapshot,
    ) -> Vec<(Arc<str>, Arc<Transition>)> {
        let epoch = self.membership.epoch();
        let Some(partition) = self.partitions.get_mut(&id) else { return Vec::new() };
        partition.begun = true;
        partition.told_to = snapshot.up_to;
        if let Some(document) = checkpoint_in(snapshot) {
            partition.checkpoints.handle_loaded(document);
            partition.held.handle_loaded(document.held.filter(|_| document.epoch == epoch));
        }
        let backlog = self.backlog(now, id, snapshot, |_| true);
        let records = snapshot.documents.iter().filter(|(key, ..)| matches!(key, Key::User(..)));
        let newest = records.map(|(_, sequence, _)| *sequence).max().unwrap_or_default();
        if let Some(partition) = self.partitions.get_mut(&id) {
            let newest = newest.max(partition.tracker.claim());
            partition.checkpoints.handle_begun(now.wall, newest);
        }
        backlog
    }

    /// What the snapshot's checkpoint says that some plugin has not heard, of some users. Of a partition that has begun
    /// those are the ones whom another owner has decided since: it had the partition in a recreated store, before this
    /// host came to know that store.
    fn backlog(
        &mut self,
        now: Now,
        id: PartitionId,
        snapshot: &Snapshot,
        of: impl Fn(&UserId) -> bool,
    ) -> Vec<(Arc<str>, Arc<Transition>)> {
        let Some(partition) = self.partitions.get_mut(&id) else { return Vec::new() };
        let document = checkpoint_in(snapshot);
        let (generation, epoch) = (self.membership.generation(), self.membership.epoch());
        let retention = self.config.presence.offline_retention;
        let mut backlog = Vec::new();
        for plugin in &self.listeners {
            let initial = !self.config.silent_plugins.contains(plugin);
            let due = Backlog::of(document, epoch, plugin, initial, retention, now.wall);
            for (key, sequence, document) in &snapshot.documents {
                let (Key::User(_, _, user), Document::User(record)) = (key, document) else { continue };
                if !of(user)
                    || record.generation < generation
                    || !due.includes(user, *sequence, record.status)
                {
                    continue;
                }
                let previous = record.previous.filter(|_| due.tells_previous());
                let transition = transition_of(id, *sequence, user, record, previous);
                if hears(&self.status_plugins, plugin, transition.hook()) {
                    let transition = Arc::new(transition);
                    partition.issued(std::slice::from_ref(plugin), &transition);
                    backlog.push((plugin.clone(), transition));
                }
            }
        }
        backlog
    }

    /// Follows all loaded partitions, and all claims, with one follower, once nothing is being loaded for the first
    /// time.
    pub(super) fn follow_owned(&mut self) {
        let Some(claims_from) = self.claims_from else { return };
        let loading = self.partitions.values().any(|partition| partition.loaded.is_none());
        let wanted: BTreeSet<PartitionId> = self.partitions.keys().copied().collect();
        if self.following || loading || (wanted == self.followed && self.follower.is_some()) {
            return;
        }
        self.following = true;
        // New partitions go on from their snapshots, the others from where they were read.
        let new = self.partitions.iter().filter(|(id, _)| !self.followed.contains(id));
        let from = new.filter_map(|(_, partition)| partition.loaded);
        let before = if self.position > Sequence(0) { self.position } else { claims_from };
        let from = from.chain([before]).min().unwrap_or(before);
        for (id, partition) in &mut self.partitions {
            if self.followed.contains(id) {
                partition.loaded = partition.loaded.max(Some(self.position));
            }
        }
        self.follower = None;
        self.follow = Arc::new(());
        let (store, follow) = (self.store.clone(), Arc::downgrade(&self.follow));
        let operation = async move {
            let coverage = Coverage::PartitionsAndClaims(wanted.clone());
            match read(&follow, || store.follow(coverage.clone(), from)).await {
                Some(follower) => Completion::Following(wanted, from, follower),
                None => Completion::Nothing,
            }
        };
        self.start(operation.boxed());
    }

    pub(super) fn followed_from(
        &mut self,
        now: Now,
        partitions: BTreeSet<PartitionId>,
        from: Sequence,
        follower: Follower,
    ) {
        self.following = false;
        self.follower = Some(follower);
        self.followed = partitions;
        self.position = from;
        for partition in self.followed.clone() {
            self.membership.handle_partition_loaded(now, partition);
        }
        self.follow_owned();
    }

    pub(super) fn handle_updates(&mut self, now: Now, updates: Vec<Followed>) {
        for followed in updates {
            match followed {
                Followed::Update(update) => self.handle_update(now, &update),
                Followed::Lost(reason) => {
                    tracing::warn!(reason, "updates were missed: reading the owned partitions again");
                    self.gaps += 1;
                    self.read_all_again();
                    return;
                }
            }
        }
    }

    /// Reads the claims and all owned partitions anew, then follows them.
    fn read_all_again(&mut self) {
        self.stop_following();
        self.load_claims();
        let owned: Vec<(PartitionId, Sequence)> = self.membership.owned().collect();
        for (id, claim) in owned {
            self.own_again(id, claim);
        }
    }

    /// Follows nothing any more; whoever was about to gives it up.
    pub(super) fn stop_following(&mut self) {
        self.follower = None;
        self.followed.clear();
        self.position = Sequence(0);
        self.claims_from = None;
        self.follow = Arc::new(());
        self.following = false;
    }

    /// Reads a partition anew; what its tracker has decided stays.
    fn own_again(&mut self, id: PartitionId, at_least: Sequence) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            if partition.begun {
                partition.tracker.handle_reload();
            }
            self.load_partition(id, at_least);
        }
    }

    /// Reads partitions again whose turn it is.
    pub(super) fn reread_partitions(&mut self, now: Now) {
        if !self.config.shared || self.following {
            return;
        }
        let due = self.partitions.iter().find(|(_, partition)| {
            partition.reread_due <= now.tick && partition.loaded.is_some() && partition.surrender.is_none()
        });
        if let Some(id) = due.map(|(id, _)| *id) {
            let at_least = self.position;
            self.own_again(id, at_least);
        }
    }

    fn handle_update(&mut self, now: Now, update: &Update) {
        self.position = self.position.max(update.sequence);
        if let (Key::Owner(partition), Change::Put(Document::Owner(claim))) = (&update.key, &update.change) {
            self.membership.handle_claim(now, *partition, update.sequence, *claim);
            return;
        }
        let Some(id) = update.key.partition() else { return };
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        match partition.loaded {
            None => partition.buffer(update),
            Some(_) => self.apply(now, id, update),
        }
    }

    /// An update of an owned partition.
    fn apply(&mut self, now: Now, id: PartitionId, update: &Update) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if partition.loaded.is_some_and(|loaded| update.sequence <= loaded) {
            return;
        }
        if let (Key::Sessions(_, _, user, instance), change) = (&update.key, &update.change) {
            let document = match change {
                Change::Put(Document::Sessions(document)) => Some(document),
                _ => None,
            };
            let traced = self.arriving(id, user, update.sequence);
            self.take_document(now, id, (user, *instance), update.sequence, document);
            self.arrived(id, user, traced);
        }
    }

    /// What a document says, unless its instance is dead.
    fn take_document(
        &mut self,
        now: Now,
        id: PartitionId,
        (user, instance): (&UserId, InstanceId),
        sequence: Sequence,
        document: Option<&Arc<SessionDocument>>,
    ) {
        if let Some(document) = document {
            if !self.membership.counts(instance) {
                if self.membership.is_leftover(instance) {
                    self.leave_over(user.clone(), instance);
                }
                return;
            }
            if !document.sessions.is_empty() {
                self.membership.handle_seen(now, instance);
            } else if document.drained_until.is_some_and(|until| until <= now.wall) {
                self.leave_over(user.clone(), instance);
            }
        }
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition.tracker.handle_document(now, user, instance, document.map(|document| &**document));
            self.touched.insert(id);
        }
        self.take_held(now, id, (user, instance), sequence, document);
    }

    /// Returns true when there was nothing to do.
    pub(super) fn carry_out_partitions(&mut self, now: Now) -> bool {
        if !self.membership.may_act(now) {
            // Nothing is decided without the lease; what is touched stays so.
            return true;
        }
        let mut quiet = true;
        while let Some(id) = self.touched.pop_first() {
            let Some(partition) = self.partitions.get_mut(&id) else {
                continue;
            };
            if !partition.fenced
                && !partition.restoring
                && let Some(batch) = partition.tracker.poll_write()
            {
                quiet = false;
                self.write_batch(id, batch);
            }
            quiet &= !self.tell_transitions(id);
            quiet &= !self.tell_held(now, id);
            while let Some((user, instance)) =
                self.partitions.get_mut(&id).and_then(|partition| partition.tracker.poll_leftover())
            {
                self.leave_over(user, instance);
            }
        }
        quiet
    }

    fn write_batch(&mut self, id: PartitionId, batch: StatusBatch) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        partition.batch += 1;
        let (wanted, number) = (Arc::downgrade(&partition.life), partition.batch);
        let layout = self.config.layout;
        let document = |(user, record)| {
            let (partition, leaf) = layout.place(&user);
            (Key::User(partition, leaf, user), Document::User(record))
        };
        let documents = batch.records.into_iter().map(document).collect();
        let store = self.store.clone();
        self.start(write_statuses(store, wanted, (id, number), batch.claim, documents).boxed());
    }

    pub(super) fn handle_statuses(&mut self, now: Now, written: StatusesWritten) {
        let StatusesWritten { partition: id, batch, claim, sequences, error } = written;
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if partition.batch != batch {
            return;
        }
        partition.tracker.handle_written(&sequences);
        partition.told_to = sequences.into_iter().fold(partition.told_to, Sequence::max);
        self.touched.insert(id);
        match error {
            Some(StoreError::Conflict { .. }) if partition.tracker.claim() == claim => {
                tracing::warn!(partition = %id, "a newer claim refuses a write: looking who owns the partition");
                partition.fenced = true;
                self.membership.handle_fenced(id);
            }
            Some(StoreError::Unknown(reason)) if partition.tracker.claim() == claim => {
                tracing::debug!(partition = %id, reason, "no answer: claiming the partition once more");
                partition.fenced = true;
                self.membership.handle_unclear(now, id);
            }
            Some(StoreError::Refused(reason)) => {
                tracing::error!(partition = %id, reason, "status records were refused; they are written again");
            }
            _ => {}
        }
        self.tell_transitions(id);
        self.answer_decided(id);
        self.go_on_surrendering(id);
    }

    /// Tells what is recorded. True if there was anything.
    fn tell_transitions(&mut self, id: PartitionId) -> bool {
        let mut told = false;
        while let Some(transition) =
            self.partitions.get_mut(&id).and_then(|partition| partition.tracker.poll_transition())
        {
            told = true;
            self.tell(id, transition);
        }
        told
    }

    /// A transition is recorded: now plugins and watchers may hear of it.
    fn tell(&mut self, id: PartitionId, transition: Transition) {
        tracing::debug!(user = %transition.user, status = %transition.current, revision = transition.revision, "transition");
        let record = StatusRecord {
            status: transition.current,
            since: transition.since,
            revision: transition.revision,
            last_seen: transition.last_seen,
            sessions: transition.sessions,
            generation: self.membership.generation(),
            previous: transition.previous,
            trail: Trail::default(),
        };
        self.store.notify(Notice { user: transition.user.clone(), record });
        self.traces.tell(&transition);
        let Some(plugins) = self.status_plugins.get(&transition.hook()).filter(|plugins| !plugins.is_empty())
        else {
            return;
        };
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        if partition.newcomers.is_some() {
            return self.tell_but_newcomers(id, transition);
        }
        let transition = Arc::new(transition);
        partition.issued(plugins, &transition);
        // Once the partition is being handed over, the next owner tells it: the checkpoint says that nobody has.
        if partition.tells() {
            self.plugins.submit(plugins::Event::Status(transition));
        }
    }

    /// Ticks that are due. A host that is about to leave begins none: whoever comes next goes on.
    pub(super) fn tell_ticks(&mut self, now: Now) {
        while let Some((plugin, beat)) = self.ticks.poll_beat(now) {
            let fenced = self.partitions.get(&beat.partition).is_none_or(|partition| partition.fenced);
            if self.drain.is_none() && !fenced {
                self.plugins.submit_to(&plugin, plugins::Event::Tick(beat));
            }
        }
    }

    /// Hands a partition over: first its running hooks end.
    pub(super) fn surrender(&mut self, _now: Now, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        tracing::debug!(partition = %id, "handing over a partition");
        partition.tracker.handle_surrender();
        partition.held.handle_surrender();
        self.ticks.handle_lost(id);
        (partition.surrender, partition.kept) = (Some(Surrender::default()), None);
        self.plugins.withdraw(id, false);
    }

    /// No status hook of the partition waits or runs any more.
    pub(super) fn hooks_ended(&mut self, id: PartitionId) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            if let Some(surrender) = &mut partition.surrender {
                surrender.hooks_ended = true;
            }
            partition.kept = partition.kept.map(|_| true);
        }
        self.go_on_surrendering(id);
        self.tell_again(id);
    }

    /// Once nothing is on its way, the checkpoint is written.
    pub(super) fn go_on_surrendering(&mut self, id: PartitionId) {
        if self.letters.removes_any_of(id) {
            return;
        }
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let Some(surrender) = &mut partition.surrender else { return };
        if !surrender.hooks_ended || surrender.checkpointing || partition.tracker.is_writing() {
            return;
        }
        surrender.checkpointing = true;
        let claim = partition.tracker.claim();
        // Before it has begun there is nothing to add to what the last owner left.
        let document =
            (partition.begun && !partition.restoring).then(|| partition.checkpoints.document_now());
        let (store, wanted) = (self.store.clone(), Arc::downgrade(&partition.life));
        let operation = async move {
            if let Some(document) = document {
                let put = checkpoint_put(id, claim, document);
                if super::io::definite(&wanted, || store.put(put.clone())).await.is_none() {
                    return Completion::Nothing;
                }
            }
            Completion::Checkpointed(id, claim)
        };
        self.start(operation.boxed());
    }

    pub(super) fn checkpointed(&mut self, now: Now, id: PartitionId, claim: Sequence) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let Some(surrender) = &mut partition.surrender else { return };
        if partition.tracker.claim() != claim {
            // Another token since: the checkpoint may have been refused.
            surrender.checkpointing = false;
            self.go_on_surrendering(id);
            return;
        }
        self.membership.handle_surrendered(now, id);
    }

    /// The partition is this host's no more.
    pub(super) fn lose(&mut self, id: PartitionId) {
        let Some(mut partition) = self.partitions.remove(&id) else { return };
        self.ticks.handle_lost(id);
        let surrendered = partition.surrender.is_some_and(|surrender| surrender.checkpointing);
        if !surrendered {
            tracing::debug!(partition = %id, "a partition went to another instance");
        }
        for (before, decided) in self.transitions_before.iter_mut().zip(partition.tracker.decided()) {
            *before += decided;
        }
        // Watchers may hear what is recorded; plugins hear it from the next owner.
        while let Some(transition) = partition.tracker.poll_transition() {
            let record = StatusRecord {
                status: transition.current,
                since: transition.since,
                revision: transition.revision,
                last_seen: transition.last_seen,
                sessions: transition.sessions,
                generation: self.membership.generation(),
                previous: transition.previous,
                trail: Trail::default(),
            };
            self.store.notify(Notice { user: transition.user.clone(), record });
        }
        self.plugins.withdraw(id, true);
        self.follow_owned();
    }

    pub(super) fn write_checkpoints(&mut self, now: Now) {
        let mut due = Vec::new();
        for (id, partition) in &mut self.partitions {
            if !partition.writes_checkpoints() {
                continue;
            }
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
            if partition.begun && !partition.restoring {
                due.push((*id, partition.tracker.claim(), partition.checkpoints.document_now()));
            }
        }
        for (id, claim, document) in due {
            self.write_checkpoint(id, claim, document);
        }
    }

    fn write_checkpoint(&mut self, id: PartitionId, claim: Sequence, document: CheckpointDocument) {
        let store = self.store.clone();
        let operation = async move {
            if let Err(error) = store.put(checkpoint_put(id, claim, document)).await {
                // The next one says more; a newer owner reads an older one and repeats what it lacks.
                tracing::debug!(partition = %id, %error, "a checkpoint was not written");
            }
            Completion::Nothing
        };
        self.start(operation.boxed());
    }

    /// Forgets users who were offline for too long.
    pub(super) fn forget(&mut self, now: Now) {
        let mut forgotten = Vec::new();
        for (id, partition) in &mut self.partitions {
            if partition.loaded.is_none() || partition.fenced || partition.surrender.is_some() {
                continue;
            }
            let claim = partition.tracker.claim();
            let (tracker, settled) = partition.forgetting();
            while forgotten.len() < FORGET_BATCH
                && let Some(user) = tracker.poll_forgotten(now, &settled)
            {
                forgotten.push((*id, claim, user));
            }
        }
        for (id, claim, user) in forgotten {
            let (partition, leaf) = self.config.layout.place(&user);
            let (store, key) = (self.store.clone(), Key::User(partition, leaf, user));
            let fence = Expect::Fence(Key::Owner(id), claim);
            let operation = async move {
                match store.delete(key.clone(), fence).await {
                    Ok(()) => Completion::Nothing,
                    // It may take effect when the user is back.
                    Err(StoreError::Unknown(_)) => Completion::Unclear(id, claim),
                    Err(error) => {
                        tracing::debug!(?key, %error, "a record outlives its retention");
                        Completion::Nothing
                    }
                }
            };
            self.start(operation.boxed());
        }
    }
}

/// Whose document it is, if it is one of sessions.
fn document_in((key, ..): &(Key, Sequence, Document)) -> Option<DocumentId> {
    match key {
        Key::Sessions(_, _, user, instance) => Some(DocumentId { instance: *instance, user: user.clone() }),
        _ => None,
    }
}

fn checkpoint_in(snapshot: &Snapshot) -> Option<&CheckpointDocument> {
    snapshot.documents.iter().find_map(|(_, _, document)| match document {
        Document::Checkpoint(checkpoint) => Some(&**checkpoint),
        _ => None,
    })
}

fn checkpoint_put(id: PartitionId, claim: Sequence, document: CheckpointDocument) -> Put {
    Put {
        key: Key::Checkpoint(id),
        document: Document::Checkpoint(document.into()),
        expect: Expect::Fence(Key::Owner(id), claim),
        lease: None,
    }
}

pub(super) fn transition_of(
    partition: PartitionId,
    sequence: Sequence,
    user: &UserId,
    record: &StatusRecord,
    previous: Option<presence_core::events::Status>,
) -> Transition {
    Transition {
        user: user.clone(),
        previous,
        current: record.status,
        since: record.since,
        revision: record.revision,
        sessions: record.sessions,
        last_seen: record.last_seen,
        partition,
        sequence,
    }
}
