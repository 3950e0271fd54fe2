//! The driver's side of membership: the lease, the instances, claims, the fresh start, cleanups, another life.

use std::time::Duration;

use futures_util::FutureExt;
use presence_core::documents::{Document, Expect, Key};
use presence_core::events::{Scope, Status, Sweep, labels};
use presence_core::ids::{InstanceId, Sequence};
use presence_core::membership::MembershipEffect;
use presence_core::time::{Now, Tick};

use super::Outgoing;
use super::engine::{Driver, Ending};
use super::io::{Completion, DocumentWritten, REFUSED_PAUSE, definite, definite_or_unclear};
use super::letters::Because;
use crate::plugins;
use crate::store::{Followed, Put, StoreError};

/// Clocks may differ by so much, in milliseconds.
const MAX_CLOCK_OFFSET: i64 = 1000;

/// A clock that is wrong is compared again after so long.
const WRONG_CLOCK_PAUSE: Duration = Duration::from_secs(1);

/// A document whose write was without an answer is written again after so long.
const DOUBTS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

/// So many leftover documents wait to be deleted; more are found again when their partition is next read.
const MAX_LEFTOVERS: usize = 65_536;

impl Driver {
    pub(super) fn handle_completion(&mut self, now: Now, completion: Completion) {
        match completion {
            Completion::Membership(key, document, result) => {
                self.membership.handle_written(now, &key, &document, result);
            }
            Completion::Renewed(instance, renewal, result) => {
                if instance == self.membership.instance() {
                    self.membership.handle_renewed(now, renewal, result);
                }
            }
            Completion::Instance(instance, last, found) => {
                self.membership.handle_instance_read(now, instance, last, found);
            }
            Completion::Instances(snapshot, follower) => {
                self.instances_follower = Some(follower);
                self.membership.handle_loaded(now, &snapshot.documents);
            }
            Completion::Claims(snapshot) => {
                let claim = |(key, sequence, document): &(Key, Sequence, Document)| match (key, document) {
                    (Key::Owner(partition), Document::Owner(claim)) => Some((*partition, *sequence, *claim)),
                    _ => None,
                };
                let claims: Vec<_> = snapshot.documents.iter().filter_map(claim).collect();
                self.claims_from = Some(snapshot.up_to);
                self.membership.handle_claims(now, &claims);
                self.follow_owned();
            }
            Completion::Sessions(instance, round, sessions) => {
                self.membership.handle_sessions(now, instance, round, sessions);
            }
            Completion::Purged(Some(instance)) => self.membership.handle_purged(now, instance),
            Completion::Purged(None) => self.membership.handle_all_purged(),
            Completion::Owner(partition, owner) => {
                self.membership.handle_owner(now, partition, owner);
                // Without the claim it stays as it is until it is claimed again.
                if self.membership.owns(partition)
                    && let Some(owned) = self.partitions.get_mut(&partition)
                {
                    owned.fenced = false;
                }
                self.touched.insert(partition);
            }
            Completion::Loaded(partition, load, snapshot) => self.load(now, partition, load, snapshot),
            Completion::ReadForNewcomers(partition, reading, snapshot) => {
                self.catch_up(now, partition, reading, &snapshot);
            }
            Completion::Following(partitions, from, follower) => {
                self.followed_from(now, partitions, from, follower)
            }
            Completion::Doubt(user) => self.doubt(now, &user),
            Completion::Document(written) => self.document_written(now, written),
            Completion::Statuses(written) => self.handle_statuses(now, written),
            Completion::Checkpointed(partition, claim) => self.checkpointed(now, partition, claim),
            Completion::Unclear(id, claim) => {
                if let Some(partition) = self.partitions.get_mut(&id)
                    && partition.tracker.claim() == claim
                {
                    partition.fenced = true;
                    self.membership.handle_unclear(now, id);
                }
            }
            Completion::Record(user, record) => {
                self.reads_in_flight -= 1;
                self.watchers.handle_record(&user, record);
                self.read_records();
            }
            Completion::Unread(user) => {
                self.reads_in_flight -= 1;
                self.reads.push_back(user);
                self.read_records();
            }
            Completion::Details(found) => self.details_read(now, found),
            Completion::DetailsUnread(user) => self.details_unread(now, user),
            Completion::MessageSet(user, setter, written) => self.message_set(&user, setter, written),
            Completion::Clock(offset) => self.handle_clock(now, offset),
            Completion::LetterFound(order, partition, answer) => self.letter_found(order, partition, answer),
            Completion::LetterRead(order, asker, read) => self.letter_read(order, asker, read),
            Completion::LetterRemoved(letter) => self.letter_removed(letter),
            Completion::LetterDropped(letter, asker, report) => self.letter_dropped(letter, asker, report),
            Completion::Holder(facts, result, reply) => self.holder_served(now, facts, result, reply),
            Completion::HolderFound(found, order, reply) => self.holder_found(now, found, order, reply),
            Completion::HolderLookedAt(facts, done) => self.holder_looked_at(now, facts, done),
            Completion::HeldRead(id, found) => {
                self.holders.withdraw(&id);
                self.holders.documents.handle_read(id, found);
            }
            Completion::HeldWritten(id, result) => {
                self.holders.withdraw(&id);
                self.holders.documents.handle_written(id, result);
            }
            Completion::DecidedAnew(because) => self.decided_anew(now, because),
            Completion::Nothing => {}
        }
    }

    pub(super) fn stop(&mut self, error: Option<String>) {
        let undelivered_list = std::mem::take(&mut self.undelivered_list);
        self.stopped = Some(Ending { error, undelivered: self.undelivered, undelivered_list });
    }

    pub(super) fn handle_instance_updates(&mut self, now: Now, updates: Vec<Followed>) {
        for followed in updates {
            match followed {
                Followed::Update(update) => self.membership.handle_update(now, &update),
                Followed::Lost(reason) => {
                    tracing::warn!(reason, "updates of the instances were missed: reading them again");
                    self.gaps += 1;
                    self.instances_follower = None;
                    self.load_instances();
                }
            }
        }
    }

    /// Returns true when there was nothing to do.
    pub(super) fn carry_out_membership(&mut self, now: Now) -> bool {
        let mut quiet = true;
        while let Some(effect) = self.membership.poll_effect() {
            quiet = false;
            self.carry_out_effect(now, effect);
        }
        quiet
    }

    fn carry_out_effect(&mut self, now: Now, effect: MembershipEffect) {
        match effect {
            MembershipEffect::Load => self.load_instances(),
            MembershipEffect::LoadClaims => self.load_claims(),
            MembershipEffect::Renew { instance, renewal, record, expect, ttl } => {
                let (key, document) = (Key::Instance(instance), Document::Instance(record));
                self.renew(
                    instance,
                    renewal,
                    Put { key, document, expect: Expect::Last(expect), lease: Some(ttl) },
                );
            }
            MembershipEffect::ReadInstance { instance, last } => self.read_instance(instance, last),
            // Repeated it might give another store the epoch of one that is gone.
            MembershipEffect::Write { key: key @ Key::Meta, document, expect, lease } => {
                self.write_once(Put { key, document, expect, lease });
            }
            MembershipEffect::Write { key, document, expect, lease } => {
                self.write(Put { key, document, expect, lease });
            }
            MembershipEffect::Judge { instance, record, expect, lease } => {
                let (key, document) = (Key::Instance(instance), Document::Instance(record));
                self.write_once(Put { key, document, expect: Expect::Last(expect), lease });
            }
            MembershipEffect::Declare { boot, expect } => {
                // Whatever was written until now is of a time before the fresh start, if it is one.
                self.begun_at = self.position.max(self.claims_from.unwrap_or_default());
                let (key, document) = (Key::Boot, Document::Boot(boot));
                self.write_once(Put { key, document, expect: Expect::Last(expect), lease: None });
            }
            MembershipEffect::ReadOwner(partition) => self.read_owner(partition),
            MembershipEffect::Everything(run) => {
                tracing::info!(run = &*run, "fresh start: plugins clean up everything");
                let (cause, scope) = (labels::FRESH_START.into(), Scope::Everything);
                let sweep = Sweep { cause, scope, chunk: 0, last: true, run };
                self.plugins.submit(plugins::Event::Cleanup(sweep.into()));
            }
            MembershipEffect::DecideAnew(run) => {
                tracing::info!(
                    run = &*run,
                    "cleanup of everything is done after all: who is present is told once more"
                );
                self.ask_all_to_decide_anew(Because::Run(run));
            }
            MembershipEffect::Abandon => self.plugins.abandon_everything(),
            MembershipEffect::PurgeAll(spared) => self.purge_all(spared),
            MembershipEffect::Own(partition, claim) => self.own(now, partition, claim),
            MembershipEffect::Adopt(id, claim) => {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition.tracker.handle_adopted(claim);
                    partition.fenced = false;
                }
                self.touched.insert(id);
            }
            MembershipEffect::Surrender(partition) => self.surrender(now, partition),
            MembershipEffect::CutHooks(partition) => {
                tracing::warn!(%partition, timeout = ?self.config.handover_timeout, "hooks took longer than cluster.handover_timeout: they are cut off");
                self.plugins.withdraw(partition, true);
            }
            MembershipEffect::Lose(partition) => self.lose(partition),
            MembershipEffect::InstanceLost { instance, heard } => self.instance_lost(now, instance, heard),
            MembershipEffect::ReadSessions { instance, round } => {
                self.cleanups_begun.insert(instance, now.tick);
                self.read_sessions(instance, round);
            }
            MembershipEffect::Tell { plugin, sweep } => {
                self.plugins.submit_to(&plugin, plugins::Event::Cleanup(sweep.into()));
            }
            MembershipEffect::Purge(instance) => self.purge(instance),
            MembershipEffect::CleanedUp(instance) => {
                let took = self.cleanups_begun.remove(&instance).map(|begun| now.tick.since(begun));
                tracing::info!(%instance, ?took, "cleaned up after a dead instance");
                self.cleanup_time += took.unwrap_or_default();
            }
            MembershipEffect::Permit(until) => {
                if self.config.shared {
                    self.plugins.permit(until);
                }
            }
            MembershipEffect::Ready => {
                tracing::info!(
                    instance = %self.membership.instance(),
                    partitions = self.partitions.len(),
                    generation = self.membership.generation(),
                    "ready"
                );
            }
            MembershipEffect::Reborn => self.reborn(now),
            MembershipEffect::Wiped => self.wiped(now),
            MembershipEffect::Leave { last, record, kept } => self.give_up_lease(last, record, kept),
            MembershipEffect::BootTimedOut => {
                tracing::error!(
                    timeout = ?self.config.presence.boot_timeout,
                    plugins = ?self.plugins.unsettled_list(10),
                    "cleanup of everything is not done within presence.boot_timeout: the host opens without \
                     it; the plugins named hear of nothing else before it succeeds"
                );
            }
            MembershipEffect::Fail(error) => self.stop(Some(error.to_string())),
            MembershipEffect::Namesake { instance, host } => {
                tracing::warn!(%instance, host, "another live host has this one's name: give each its own host.name");
            }
            MembershipEffect::OtherPlugins { instance, host } => {
                tracing::warn!(%instance, host, "another host runs other plugins: hooks depend on which host owns a user");
            }
        }
    }

    fn instance_lost(&mut self, now: Now, instance: InstanceId, heard: Tick) {
        tracing::warn!(%instance, silent = ?now.tick.since(heard), "an instance was declared dead: its sessions are over");
        for (id, partition) in &mut self.partitions {
            partition.tracker.handle_instance_lost(now, instance, heard);
            self.touched.insert(*id);
        }
        self.holder_lost(instance);
        self.watchers.handle_instance_lost(instance);
    }

    /// This host was declared dead: it goes on as another instance, its clients stay connected.
    fn reborn(&mut self, now: Now) {
        let old = self.membership.instance();
        let instance = self.new_instance_id(now);
        tracing::warn!(%old, new = %instance, sessions = self.connections.len(), "this instance was declared dead while it was away: it comes back as another one");
        self.plugins.drop_sessions(old);
        self.doubt_revisions(now);
        // Whatever was asked on behalf of the old instance is of no interest any more.
        self.life = std::sync::Arc::new(());
        self.begin_era();
        self.cleanups_begun.clear();
        self.metadata_dropped.clear();
        self.held_acks.clear();
        self.doubts.clear();
        let nonce = self.random.u64(..);
        self.membership.handle_reborn(now, instance, nonce);
        // The claims that are asked for with the old life may be lost on the way.
        if self.claims_from.is_none() {
            self.load_claims();
        }
        let mut ids = std::mem::take(&mut self.random);
        let keys = self.sessions.handle_reborn(instance, || new_session_id(&mut ids, now));
        self.random = ids;
        for key in keys {
            let (Some(view), Some(outbox)) = (self.sessions.session(key), self.connections.get(&key)) else {
                continue;
            };
            let status = if view.status == Status::Idle { Status::Idle } else { Status::Online };
            outbox.push(Outgoing::Welcome(view.id, instance, status));
        }
    }

    /// A UUIDv7, as session ids are.
    pub(super) fn new_instance_id(&mut self, now: Now) -> InstanceId {
        match new_session_id(&mut self.random, now) {
            presence_core::ids::SessionId::Hosted(id) => InstanceId(id),
            presence_core::ids::SessionId::Held(_) => self.membership.instance(),
        }
    }

    /// The store was recreated: what this host knows is told again.
    fn wiped(&mut self, now: Now) {
        tracing::error!("the store was recreated: everything that this host knows is written again");
        self.held_acks.clear();
        for user in self.sessions.handle_reassert() {
            self.doubt(now, &user);
        }
        self.silent = true;
        self.plugins.announce(false);
        self.leftovers.clear();
        self.holders.documents.handle_wiped();
        self.letters.forget();
        self.begin_era();
        self.stop_following();
        self.load_claims();
        for partition in self.partitions.values_mut() {
            // Nothing is read or written before the partition is claimed again.
            partition.life = std::sync::Arc::new(());
            partition.batch += 1;
            partition.fenced = true;
            partition.keep();
        }
        self.instances_follower = None;
        self.doubt_revisions(now);
        self.load_instances();
    }

    /// Records may be gone, or begin anew: watchers are told what is there once the owners have written theirs back.
    fn doubt_revisions(&mut self, now: Now) {
        self.forget_revisions_due = Some(now.tick + self.config.instance_ttl * 2);
    }

    fn handle_clock(&mut self, now: Now, offset: Option<i64>) {
        let off = offset.filter(|offset| offset.abs() > MAX_CLOCK_OFFSET);
        // An answer that says nothing, or none, leaves it at what was known, and holds nobody up.
        let right = off.is_none() && (offset.is_some() || self.clock_off.is_none());
        self.membership.handle_clock(now, right);
        match (self.clock_off, off) {
            (None, Some(offset)) => tracing::error!(
                offset_ms = offset,
                "this machine's clock is not that of the NATS server: this host takes no clients before it is right"
            ),
            (Some(_), None) if offset.is_some() => tracing::info!("this machine's clock is right again"),
            _ => {}
        }
        if let Some(offset) = offset {
            self.clock_offset = offset;
            self.clock_off = off;
            if off.is_some() {
                self.clock_due = self.clock_due.min(now.tick + WRONG_CLOCK_PAUSE);
            }
        }
    }

    /// Notes a document that nobody will clean up.
    pub(super) fn leave_over(&mut self, user: presence_core::ids::UserId, instance: InstanceId) {
        if self.leftovers.len() < MAX_LEFTOVERS {
            self.leftovers.push_back((user, instance));
        }
    }

    /// Deletes documents of instances that are gone.
    pub(super) fn sweep_leftovers(&mut self) {
        for _ in 0..self.leftovers.len().min(1000) {
            let Some((user, instance)) = self.leftovers.pop_front() else { break };
            if !self.membership.may_be_swept(instance) {
                self.leftovers.push_back((user, instance));
                continue;
            }
            let (partition, leaf) = self.config.layout.place(&user);
            let (store, life) = (self.store.clone(), std::sync::Arc::downgrade(&self.life));
            let key = Key::Sessions(partition, leaf, user, instance);
            let operation = async move {
                if let Some(Err(error)) = definite(&life, || store.delete(key.clone(), Expect::Any)).await {
                    tracing::debug!(?key, %error, "a leftover document could not be deleted");
                }
                Completion::Nothing
            };
            self.start(operation.boxed());
        }
    }

    fn document_written(&mut self, now: Now, written: DocumentWritten) {
        let DocumentWritten { instance, user, result, unclear, details } = written;
        if instance != self.sessions.instance() {
            return;
        }
        if unclear {
            self.doubt(now, &user);
        }
        if details && result.is_ok() {
            self.store.notify_details(&user);
        } else if details {
            self.metadata_dropped.insert(user.clone());
        }
        match result {
            // Without the lease this instance may have been declared dead and cleaned up after before the document was
            // written: nobody would tell of the end of a session that is announced now.
            Ok(()) if self.config.shared && !self.membership.may_act(now) => {
                self.held_acks.push(user.clone())
            }
            Ok(()) => self.sessions.handle_document_acked(now, &user),
            Err(error) => {
                tracing::error!(%user, %error, "a session document was refused; it is written again");
                self.sessions.handle_document_failed(now, &user);
            }
        }
    }

    /// Documents that were acknowledged without the lease, once it is back.
    pub(super) fn release_acks(&mut self, now: Now) {
        if self.membership.may_act(now) {
            for user in std::mem::take(&mut self.held_acks) {
                self.sessions.handle_document_acked(now, &user);
            }
        }
    }

    fn doubt(&mut self, now: Now, user: &presence_core::ids::UserId) {
        self.doubts.extend(DOUBTS.map(|after| (now.tick + after, user.clone())));
    }

    /// Writes documents again whose write was without an answer a while ago: a copy of it may have taken effect after
    /// newer ones.
    pub(super) fn settle_doubts(&mut self, now: Now) {
        while let Some((due, user)) = self.doubts.pop_first() {
            if due > now.tick {
                self.doubts.insert((due, user));
                return;
            }
            if self.sessions.handle_doubt(&user) {
                continue;
            }
            let (partition, leaf) = self.config.layout.place(&user);
            let key = Key::Sessions(partition, leaf, user.clone(), self.sessions.instance());
            let (store, life) = (self.store.clone(), std::sync::Arc::downgrade(&self.life));
            let operation = async move {
                // Once: when it is asked again the user may be back.
                match store.delete(key, Expect::Any).await {
                    Err(StoreError::Unknown(_)) if life.strong_count() > 0 => Completion::Doubt(user),
                    _ => Completion::Nothing,
                }
            };
            self.start(operation.boxed());
        }
    }

    /// Writes the session documents that changed. Returns true when there was nothing to do.
    pub(super) fn write_documents(&mut self) -> bool {
        if !self.membership.takes_part() {
            // A host that was declared dead has sessions: they wait for a fresh start as new clients do.
            return true;
        }
        let mut quiet = true;
        while let Some(write) = self.sessions.poll_document() {
            quiet = false;
            let instance = self.sessions.instance();
            let (partition, leaf) = self.config.layout.place(&write.user);
            let key = Key::Sessions(partition, leaf, write.user.clone(), instance);
            let (store, era) = (self.store.clone(), std::sync::Arc::downgrade(&self.era));
            let details = self.shows_details(&write.user, write.document.as_deref());
            let traced = self.traces.begin_put(&write.user, self.config.shared);
            let operation = async move {
                let written = match write.document {
                    Some(document) => {
                        let document = Document::Sessions(document);
                        let put = Put { key, document, expect: Expect::Any, lease: None };
                        let written = definite_or_unclear(&era, || store.put(put.clone())).await;
                        written.map(|(put, unclear)| (put.map(Some), unclear))
                    }
                    None => {
                        let deleted =
                            definite_or_unclear(&era, || store.delete(key.clone(), Expect::Any)).await;
                        deleted.map(|(deleted, unclear)| (deleted.map(|()| None), unclear))
                    }
                };
                if let Some(traced) = traced {
                    traced.end(written.as_ref().and_then(|(result, _)| result.as_ref().ok().copied()));
                }
                let Some((result, unclear)) = written else { return Completion::Nothing };
                if result.is_err() {
                    // What is refused now may be accepted later, not at once.
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                let result = result.map(|_| ());
                Completion::Document(DocumentWritten { instance, user: write.user, result, unclear, details })
            };
            self.start(operation.boxed());
        }
        quiet
    }

    /// True if the store has been away for too long.
    pub(super) fn is_away(&self, now: Now) -> bool {
        self.away_since.is_some_and(|since| now.tick.since(since) > self.config.unready_after)
    }
}

/// A UUIDv7: RFC 9562, section 5.7.
pub(super) fn new_session_id(random: &mut fastrand::Rng, now: Now) -> presence_core::ids::SessionId {
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&random.u128(..).to_le_bytes()[..10]);
    let id = uuid::Builder::from_unix_timestamp_millis(now.wall.0, &bytes).into_uuid();
    presence_core::ids::SessionId::Hosted(id.as_u128())
}
