//! This instance's life in the deployment: its lease, the fresh start, the partitions it owns, the death of others.
//!
//! ```text
//!  Loading ──▶ Joining ──▶ Surveying ──▶ (Cleaning: `everything` runs) ──▶ Opening ──▶ Claiming ──▶ Ready ──▶ Draining ──▶ Left
//!     meta by compare-and-set   └─▶ WaitingForBoot ──────────────────────────────────────▲
//!                                       own key found dead: Reborn ──▶ Joining, as another instance
//! ```
//!
//! A single host goes the same way as a cluster. Conditions, claims and leases are the store's; this only asks and waits.
//! Holders are instances as well, and take part in nothing: they are judged and cleaned up after, and that is all.
//! The parts: [`lease`] (the own key), [`peers`] (the others), [`start`] (the fresh start), [`ownership`] (partitions), [`cleanups`]
//! (after the dead).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::assignment::desired_cleaner;
use crate::documents::{
    BootPhase, BootRecord, Change, Claim, Cleanup, CleanupPhase, Document, Expect, InstanceRecord,
    InstanceState, Key, MetaRecord, Update,
};
use crate::events::Session;
use crate::ids::{InstanceId, PartitionId, Sequence};
use crate::time::{Now, Tick, Timestamp};

mod cleanups;
mod holders;
mod lease;
mod owed;
mod ownership;
mod peers;
mod start;
mod words;
pub use cleanups::CLEANUP_CHUNK;
pub use words::{
    FORMAT, HolderView, InstanceView, MembershipConfig, MembershipCounters, MembershipEffect,
    MembershipError, NotWritten,
};

use cleanups::{Chore, Cleanups};
use lease::Lease;
use ownership::{Ownership, Wish};
use peers::{News, Peers};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Loading,
    CreatingMeta,
    Joining,
    Surveying,
    Cleaning,
    Opening,
    WaitingForBoot,
    Claiming,
    Ready,
    /// Declared dead; the driver has been asked for another id.
    Reborn,
    Draining,
    Leaving,
    Left,
    Failed,
}

/// One instance's membership.
pub struct Membership {
    config: MembershipConfig,
    instance: InstanceId,
    phase: Phase,
    state: InstanceState,
    started_at: Timestamp,
    epoch: u64,
    /// How often this process found the store recreated.
    wipes: u64,
    boot: Option<(Sequence, BootRecord)>,
    /// A write of `boot` is on its way.
    boot_writing: bool,
    /// One was refused: what is known of `boot` is not what is there. It is being read, unless the watch shows it first.
    boot_stale: bool,
    /// When the write of `boot` was asked for that lets this instance in, while it is on its way.
    asked_in: Option<Tick>,
    /// When the last of them was asked for that was written.
    let_in: Option<Tick>,
    /// A renewal waits for it.
    wants_in: bool,
    /// The store was recreated, and has not been read since: it has no meta record yet.
    unread: bool,
    /// The generation that this instance belongs to; 0 before it has joined one.
    joined: u64,
    /// The fresh start that it belongs to.
    start: u64,
    /// The generation that it met when it came.
    met: u64,
    /// Holders that are to outlive the fresh start: whose records are being written, and whose are.
    sparing: BTreeSet<InstanceId>,
    /// The fresh start before the one that this instance declares: who does not bear it is none of those that live.
    previous: u64,
    /// When the declaration was sent.
    declared: Tick,
    spared: Vec<InstanceId>,
    /// The plugins have cleaned up everything; the documents of all sessions are gone.
    everything: (bool, bool),
    /// The `everything` that this instance runs, or has run.
    run: Option<Arc<str>>,
    /// The boot was opened before it was settled.
    owing: bool,
    /// It was settled since, and every present user was decided anew.
    paid: bool,
    /// When an open boot record was last seen written again: somebody has come in and may not have been able to say so yet.
    came_in: Option<Tick>,
    /// The epoch in which the `everything` of its fresh start ran last.
    started_in: u64,
    /// The last fresh start that this process has declared or joined, in whichever life, and the epoch in which it did.
    belongs: Option<(u64, u64)>,
    /// In a recreated store it met a fresh start (this one) that is not its own and was written back: those who belong to it may
    /// know nothing of the `everything` of its own, after which they must tell of everybody again.
    estranged: Option<u64>,
    /// What the boot record said last of an `everything` that is owed.
    owed: Option<u32>,
    /// And whether every present user is to be told of once more.
    anew: bool,
    /// When the last renewal was sent that was shown in a store whose boot record is of its own fresh start.
    assured: Option<Tick>,
    boot_due: Option<Tick>,
    lease: Lease,
    peers: Peers,
    ownership: Ownership,
    cleanups: Cleanups,
    clean_leave: bool,
    /// Whether this machine's clock is right; none: not known yet.
    clock_right: Option<bool>,
    /// Who should own or clean up what is to be looked at again.
    unsettled: bool,
    /// Instances that a person was told of: same name, other plugins.
    told: BTreeSet<InstanceId>,
    counters: MembershipCounters,
    effects: VecDeque<MembershipEffect>,
}

impl Membership {
    /// An instance that has not begun; call [`Membership::handle_start`].
    pub fn new(config: MembershipConfig) -> Membership {
        Membership {
            instance: config.instance,
            phase: Phase::New,
            state: InstanceState::Joining,
            started_at: Timestamp(0),
            epoch: config.epoch,
            wipes: 0,
            boot: None,
            boot_writing: false,
            boot_stale: false,
            asked_in: None,
            let_in: None,
            wants_in: false,
            unread: false,
            joined: 0,
            start: 0,
            met: 0,
            sparing: BTreeSet::new(),
            previous: 0,
            declared: Tick(0),
            spared: Vec::new(),
            everything: (false, false),
            run: None,
            owing: false,
            paid: false,
            came_in: None,
            started_in: 0,
            belongs: None,
            estranged: None,
            owed: None,
            anew: false,
            assured: None,
            boot_due: None,
            lease: Lease::new(config.instance_ttl),
            peers: Peers::default(),
            ownership: Ownership::new(config.layout.partitions, config.nonce),
            cleanups: Cleanups::new(config.cleanup_plugins.clone()),
            clean_leave: true,
            clock_right: None,
            unsettled: false,
            told: BTreeSet::new(),
            counters: MembershipCounters::default(),
            effects: VecDeque::new(),
            config,
        }
    }

    /// Begins.
    pub fn handle_start(&mut self, now: Now) {
        if self.phase == Phase::New {
            self.started_at = now.wall;
            self.phase = Phase::Loading;
            self.effects.push_back(MembershipEffect::Load);
        }
    }

    /// The snapshot of the instances; they are followed from there.
    pub fn handle_loaded(&mut self, now: Now, documents: &[(Key, Sequence, Document)]) {
        let meta = documents.iter().find_map(|(_, _, document)| match document {
            Document::Meta(meta) => Some(*meta),
            _ => None,
        });
        let Some(meta) = meta else {
            if self.phase != Phase::Loading {
                // What the watch shows of it before it is read gives no lease.
                self.unread = true;
                self.lease.vanished(now.tick);
                self.effects.push_back(MembershipEffect::Permit(Tick(0)));
            }
            return self.create_meta();
        };
        if let Some(error) = self.unfit(&meta) {
            self.phase = Phase::Failed;
            self.effects.push_back(MembershipEffect::Fail(error));
            return;
        }
        let begins = matches!(self.phase, Phase::Loading | Phase::CreatingMeta);
        if (begins || self.boot_stale) && !documents.iter().any(|(key, _, _)| *key == Key::Boot) {
            // What was seen of it is of a store that is gone.
            self.boot = None;
        }
        (self.boot_stale, self.unread) = (false, false);
        if begins {
            self.epoch = meta.epoch;
        }
        let mut begun_here = false;
        if !begins && meta.epoch != self.epoch {
            begun_here = self.begun_in(documents);
            self.wiped(now, meta.epoch);
        }
        let me = Key::Instance(self.instance);
        let named: BTreeSet<InstanceId> = documents
            .iter()
            .filter_map(|(key, _, _)| if let Key::Instance(id) = key { Some(*id) } else { None })
            .collect();
        self.peers.absent(|id| named.contains(&id));
        if self.lease.last() > Sequence(0) && !documents.iter().any(|(key, _, _)| *key == me) {
            self.lease.vanished(now.tick);
            self.effects.push_back(MembershipEffect::Permit(Tick(0)));
        }
        for (key, sequence, document) in documents {
            self.take(now, key, *sequence, document);
        }
        if let Some((sequence, boot)) = self.boot.filter(|_| begun_here) {
            self.belongs = Some((boot.start, self.epoch));
            self.write_boot(sequence, BootRecord { epoch: self.epoch, ..boot });
        }
        if self.boot.is_none() && self.joined > 0 && !self.boot_writing {
            // The store was recreated under a running deployment: that is no fresh start.
            let boot = BootRecord {
                generation: self.joined,
                phase: BootPhase::Open,
                by: self.instance,
                start: self.start,
                epoch: self.started_in,
                owed: self.owed_again(),
                anew: self.is_to_be_told_anew(now),
            };
            self.asked_in = Some(now.tick);
            self.write_boot(Sequence(0), boot);
        }
        if begins {
            self.phase = Phase::Joining;
            self.effects.push_back(MembershipEffect::LoadClaims);
            self.renew(now);
        }
        self.unsettled = true;
        self.settle(now);
    }

    /// An update of the instances.
    pub fn handle_update(&mut self, now: Now, update: &Update) {
        match (&update.key, &update.change) {
            (key, Change::Put(document)) => self.take(now, key, update.sequence, document),
            (Key::Instance(id), _) if *id == self.instance => self.ran_out(now, update.sequence),
            (Key::Instance(id), change) => {
                let news = self.peers.gone(*id, update.sequence, *change == Change::Expired);
                self.heard(*id, news);
            }
            (Key::Meta | Key::Boot, _) => self.effects.push_back(MembershipEffect::Load),
            _ => {}
        }
        self.settle(now);
    }

    /// All claims; they are followed from there.
    pub fn handle_claims(&mut self, now: Now, claims: &[(PartitionId, Sequence, Claim)]) {
        self.ownership.handle_claims(claims, self.instance);
        self.look_at_owners(now);
        self.unsettled = true;
        self.settle(now);
    }

    /// A claim was followed, or read after a write was refused by its fence.
    pub fn handle_claim(&mut self, now: Now, partition: PartitionId, sequence: Sequence, claim: Claim) {
        self.ownership.handle_claim(partition, sequence, claim, self.instance);
        if let Some(owner) = claim.instance.filter(|owner| *owner != self.instance) {
            self.peers.seen(now.tick, owner, true);
        }
        self.unsettled = true;
        self.settle(now);
    }

    /// What became of a renewal; `None`: nobody knows.
    pub fn handle_renewed(&mut self, now: Now, renewal: u64, result: Option<Result<Sequence, NotWritten>>) {
        let soon = now.tick + self.lease.interval() / 4;
        match result {
            Some(Ok(sequence)) => self.lease.written(renewal, sequence),
            Some(Err(NotWritten::Conflict(last))) => {
                self.lease.failed(renewal, soon);
                // A marker, an earlier renewal without an answer, or a judge was first.
                let instance = self.instance;
                self.effects.push_back(MembershipEffect::ReadInstance { instance, last });
            }
            Some(Err(NotWritten::Refused)) | None => self.lease.failed(renewal, soon),
        }
        if self.phase == Phase::Leaving && !self.lease.is_in_flight() {
            self.leave();
        }
        self.settle(now);
    }

    /// An instance's record as whoever decides has it; `last` is the sequence that a refusal told of its key.
    pub fn handle_instance_read(
        &mut self,
        now: Now,
        instance: InstanceId,
        last: Sequence,
        found: Option<(Sequence, InstanceRecord)>,
    ) {
        self.cleanups.handle_read(instance);
        self.unsettled = true;
        match found {
            Some((sequence, record)) if instance == self.instance => {
                // That the key is there gives no lease: only the watch shows what else has happened.
                self.lease.found(sequence, stands(record.state), now.tick);
                if record.state == InstanceState::Dead {
                    self.take(now, &Key::Instance(instance), sequence, &Document::Instance(record));
                }
            }
            None if instance == self.instance => self.lease.found(last, false, now.tick),
            Some((sequence, record)) => {
                let news = self.peers.take(now.tick, instance, sequence, &record);
                self.heard(instance, news);
            }
            None => {
                // Whoever was heard of since it was asked for is there.
                if let Some(peer) = self.peers.get_mut(instance).filter(|peer| peer.judging) {
                    peer.judging = false;
                    if last > Sequence(0) {
                        peer.sequence = last;
                    }
                    peer.suspect = peer.is_alive();
                }
                self.peers.doubt_death(instance, last);
            }
        }
        self.settle(now);
    }

    /// What became of a write.
    pub fn handle_written(
        &mut self,
        now: Now,
        key: &Key,
        document: &Document,
        result: Result<Sequence, NotWritten>,
    ) {
        match (key, document, result) {
            (Key::Meta, _, _) => self.effects.push_back(MembershipEffect::Load),
            (Key::Boot, Document::Boot(boot), result) => self.boot_written(now, *boot, result),
            (Key::Instance(id), Document::Instance(record), Ok(sequence)) => {
                let start = record.holder.as_ref().map(|holder| holder.start);
                self.holder_spared(*id, start == self.boot.map(|(_, boot)| boot.start));
                let news = self.peers.take(now.tick, *id, sequence, record);
                self.heard(*id, news);
                if self.cleanups.owns(*id) {
                    self.cleanups.handle_written(*id, sequence, record);
                }
            }
            (Key::Instance(id), _, Err(error)) => {
                self.holder_spared(*id, false);
                self.cleanups.handle_refused(*id);
                let last = match error {
                    NotWritten::Conflict(last) => last,
                    NotWritten::Refused => Sequence(0),
                };
                self.effects.push_back(MembershipEffect::ReadInstance { instance: *id, last });
            }
            (Key::Owner(partition), Document::Owner(claim), Ok(sequence)) => {
                if claim.instance.is_none() {
                    self.ownership.handle_released(*partition, sequence);
                } else if self.ownership.holds(*partition) || claim.instance != Some(self.instance) {
                    // Claimed once more; or by an earlier life.
                    self.ownership.handle_claim(*partition, sequence, *claim, self.instance);
                } else {
                    self.counters.claims += 1;
                    self.ownership.handle_claimed(*partition, sequence, self.instance);
                }
            }
            (Key::Owner(partition), Document::Owner(claim), Err(_)) => {
                if claim.instance == Some(self.instance) {
                    self.ownership.handle_refused(*partition);
                }
                self.effects.push_back(MembershipEffect::ReadOwner(*partition));
            }
            _ => {}
        }
        self.unsettled = true;
        self.settle(now);
    }

    /// The owner of a partition, as whoever decides has it.
    pub fn handle_owner(&mut self, now: Now, partition: PartitionId, owner: Option<(Sequence, Claim)>) {
        let still_mine = owner.is_some_and(|(_, claim)| claim.instance == Some(self.instance));
        if let Some((sequence, claim)) =
            owner.filter(|_| self.ownership.is_releasing(partition) && still_mine)
        {
            self.ownership.handle_claim(partition, sequence, claim, self.instance);
            self.ownership.handle_release_failed(partition);
        } else if owner.is_none() && self.ownership.holds(partition) {
            self.ownership.handle_vanished(partition);
            self.effects.push_back(MembershipEffect::Load);
        } else {
            self.ownership.handle_owner(partition, owner, self.instance);
            if !still_mine {
                self.ownership.handle_lost(partition);
            }
        }
        if let Some(other) = owner.and_then(|(_, claim)| claim.instance).filter(|id| *id != self.instance) {
            self.peers.seen(now.tick, other, true);
        }
        self.unsettled = true;
        self.settle(now);
    }

    /// A write of an owned partition was refused by its fence: looks who owns it.
    pub fn handle_fenced(&mut self, partition: PartitionId) {
        self.counters.fenced += 1;
        if self.ownership.holds(partition) {
            self.effects.push_back(MembershipEffect::ReadOwner(partition));
        }
    }

    /// A fenced write of an owned partition is without an answer: no write of the partition is repeated before
    /// [`MembershipEffect::Adopt`] brings another token.
    pub fn handle_unclear(&mut self, now: Now, partition: PartitionId) {
        self.ownership.handle_unclear(partition, self.instance);
        self.settle(now);
    }

    /// A document of this instance was seen. The two buckets have no order between them: it counts, until an own
    /// renewal that was sent afterwards has come back and the instance is still unknown.
    pub fn handle_seen(&mut self, now: Now, instance: InstanceId) {
        if instance != self.instance {
            self.peers.seen(now.tick, instance, false);
        }
    }

    /// The documents of all sessions are gone.
    pub fn handle_all_purged(&mut self) {
        self.everything.1 = true;
        self.open();
    }

    /// The sessions of a dead instance.
    pub fn handle_sessions(&mut self, now: Now, instance: InstanceId, round: u32, sessions: Vec<Session>) {
        self.cleanups.handle_sessions(instance, round, sessions);
        self.settle(now);
    }

    /// A plugin has settled a part of the cleanup of a dead instance; `run` is that of its [`Sweep`].
    pub fn handle_cleanup_settled(
        &mut self,
        now: Now,
        plugin: &Arc<str>,
        instance: InstanceId,
        run: &str,
        chunk: u32,
    ) {
        self.cleanups.handle_settled(plugin, instance, run, chunk);
        self.settle(now);
    }

    /// This host has other plugins than it had: their fingerprint, and those that export `cleanup`. Other instances are
    /// compared with it anew.
    pub fn handle_plugins(&mut self, now: Now, plugins: u64, cleanup_plugins: Vec<Arc<str>>) {
        if self.config.plugins != plugins {
            self.told.clear();
        }
        self.config.plugins = plugins;
        self.config.cleanup_plugins = cleanup_plugins.clone();
        self.cleanups.handle_plugins(cleanup_plugins);
        self.settle(now);
    }

    /// The documents of a dead instance are gone.
    pub fn handle_purged(&mut self, now: Now, instance: InstanceId) {
        self.cleanups.handle_purged(instance);
        self.settle(now);
    }

    /// The snapshot of an owned partition is complete, and it is followed.
    pub fn handle_partition_loaded(&mut self, now: Now, partition: PartitionId) {
        self.ownership.handle_loaded(partition);
        self.unsettled = true;
        self.settle(now);
    }

    /// No hook of the partition runs any more and its checkpoint is written.
    pub fn handle_surrendered(&mut self, now: Now, partition: PartitionId) {
        self.ownership.handle_surrendered(partition);
        self.settle(now);
    }

    /// Another life, after [`MembershipEffect::Reborn`].
    pub fn handle_reborn(&mut self, now: Now, instance: InstanceId, nonce: u64) {
        if self.phase != Phase::Reborn {
            return;
        }
        self.counters.rebirths += 1;
        self.instance = instance;
        self.config.nonce = nonce;
        self.ownership.lose_all(nonce);
        self.lease = Lease::new(self.config.instance_ttl);
        self.state = InstanceState::Joining;
        self.started_at = now.wall;
        self.joined = 0;
        // Nobody waits for what the old life has asked.
        self.boot_writing = false;
        self.peers.forget_judgements();
        self.stay_out();
        self.phase = Phase::Joining;
        self.renew(now);
        self.settle(now);
    }

    /// The host was told to stop: it takes no more clients; [`Membership::handle_leave`] comes when it is done.
    pub fn handle_drain(&mut self, now: Now) {
        match self.phase {
            Phase::Leaving | Phase::Left | Phase::Failed | Phase::Draining => return,
            Phase::Claiming | Phase::Ready => self.state = InstanceState::Draining,
            // It has taken part in nothing, and does not begin to: to the others it stays somebody who joins.
            phase => {
                if matches!(phase, Phase::Cleaning | Phase::Opening) {
                    self.abandon_start(Phase::Draining);
                }
                self.joined = 0;
            }
        }
        self.phase = Phase::Draining;
        self.boot_due = None;
        if self.lease.last() != Sequence(0) || self.lease.is_in_flight() {
            self.lease.renew_at(now.tick);
        }
        self.unsettled = true;
        self.settle(now);
        self.handle_timeout(now);
    }

    /// Everything is over: releases the partitions and gives up the lease. If something is not `settled`, the lease runs
    /// out instead, and others clean up after this instance as after a dead one.
    pub fn handle_leave(&mut self, now: Now, settled: bool) {
        if matches!(self.phase, Phase::Leaving | Phase::Left) {
            return;
        }
        self.phase = Phase::Leaving;
        self.clean_leave = settled;
        self.ownership.release_all();
        self.settle(now);
        self.lease.stop();
        if !self.lease.is_in_flight() {
            self.leave();
        }
    }

    /// This machine's clock was compared with the store's. An instance whose clock is wrong, or was not compared yet, keeps
    /// joining: its decisions would bear wrong times. One that takes part already goes on.
    pub fn handle_clock(&mut self, now: Now, right: bool) {
        if self.clock_right.replace(right) != Some(right) {
            self.settle(now);
        }
    }

    /// Timers: call at or after [`Membership::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        if self.boot_due.is_some_and(|due| due <= now.tick) && self.phase == Phase::Cleaning {
            if !self.lease.is_valid(now.tick) {
                // Without the lease no hook may run: the time for it begins when it is back.
                self.boot_due = Some(now.tick + self.config.boot_timeout);
                return self.handle_timeout(now);
            }
            self.boot_due = None;
            if !self.everything.0 {
                self.effects.push_back(MembershipEffect::BootTimedOut);
                self.everything.0 = true;
                self.owing = true;
            }
            self.open();
        }
        if self.lease.next().is_some_and(|next| next <= now.tick) && !self.is_over() {
            self.renew(now);
        }
        self.ownership.handle_timeout(now.tick);
        if self.ownership.poll_timeout(self.takes_part()).is_some_and(|due| due <= now.tick) {
            self.unsettled = true;
        }
        self.settle(now);
    }

    /// When [`Membership::handle_timeout`] has something to do.
    pub fn poll_timeout(&self, now: Now) -> Option<Tick> {
        let boot = self.boot_due.filter(|_| self.phase == Phase::Cleaning);
        let waits = matches!(self.phase, Phase::Surveying | Phase::WaitingForBoot)
            || self.has_to_judge()
            || self.has_to_tell_anew();
        let judges = self.lease.judges_from(now.tick).filter(|_| waits);
        let half =
            judges.map(|from| Tick(from.0.saturating_sub(self.config.instance_ttl.as_millis() as u64 / 2)));
        let [judges, half] = [judges, half].map(|tick| tick.filter(|tick| *tick > now.tick));
        let lease = self.lease.next().filter(|_| !self.is_over());
        [boot, judges, half, lease, self.ownership.poll_timeout(self.takes_part())]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<MembershipEffect> {
        self.effects.pop_front()
    }

    /// This incarnation.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// True while clients may come.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// True while this instance holds its lease: without it no status is decided and no status hook starts.
    pub fn may_act(&self, now: Now) -> bool {
        self.lease.is_valid(now.tick)
    }

    /// True once nothing is left to be done: the record that says so may still be on its way.
    pub fn has_left(&self) -> bool {
        self.phase == Phase::Left && self.effects.is_empty()
    }

    /// True if no other instance is ready, joining or draining: who has no session here has none.
    pub fn is_last(&self) -> bool {
        !self.peers.iter().any(|(_, peer)| peer.is_live_host())
    }

    /// True if nothing is owned any more.
    pub fn owns_nothing(&self) -> bool {
        self.ownership.count() == 0
    }

    /// True unless the instance was declared dead: only then its documents count.
    pub fn counts(&self, instance: InstanceId) -> bool {
        !self.peers.is_dead(instance)
    }

    /// True if documents of this instance are leftovers: nobody will clean them up.
    pub fn is_leftover(&self, instance: InstanceId) -> bool {
        self.peers.is_purged(instance)
    }

    /// True if documents of this instance may be deleted: it writes none any more, and nobody needs them to tell of its
    /// sessions.
    pub fn may_be_swept(&self, instance: InstanceId) -> bool {
        instance != self.instance && self.peers.is_settled(instance)
    }

    /// The boot generation; 0 before the boot.
    pub fn generation(&self) -> u64 {
        self.boot.map_or(self.joined, |(_, boot)| boot.generation)
    }

    /// The epoch of the store.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The partitions owned, with their fencing tokens.
    pub fn owned(&self) -> impl Iterator<Item = (PartitionId, Sequence)> {
        self.ownership.held()
    }

    /// True if this instance owns it, perhaps not loaded yet, perhaps being handed over.
    pub fn owns(&self, partition: PartitionId) -> bool {
        self.ownership.holds(partition)
    }

    /// Every known claim: who owns what.
    pub fn owners(&self) -> impl Iterator<Item = (PartitionId, Option<InstanceId>)> {
        self.ownership.claims().iter().map(|(partition, (_, claim))| (*partition, claim.instance))
    }

    /// All known instances, this one included.
    pub fn instances(&self, now: Now) -> Vec<InstanceView> {
        let own = InstanceView {
            id: self.instance,
            host: self.config.host.clone(),
            state: self.state,
            suspect: !self.may_act(now),
            started_at: self.started_at,
            renewed_ago: now.tick.since(self.lease.confirmed().unwrap_or(now.tick)),
            cleanup: None,
            own: true,
            holder: None,
        };
        let others = self.peers.iter().filter(|(_, peer)| !peer.is_name()).map(|(id, peer)| InstanceView {
            id,
            host: peer.record.host.clone(),
            state: peer.record.state,
            suspect: peer.suspect,
            started_at: peer.record.started_at,
            renewed_ago: now.tick.since(peer.heard),
            cleanup: peer.record.cleanup.as_ref().map(|cleanup| cleanup.phase),
            own: false,
            holder: peer.holder().cloned(),
        });
        std::iter::once(own).chain(others).collect()
    }

    /// Totals, and how things are now.
    pub fn counters(&self) -> MembershipCounters {
        let suspects = self.peers.suspects() as u64;
        let other_plugins = self.peers.with_other_plugins(self.config.plugins) as u64;
        let cleaning = self.cleanups.running() as u64;
        let holders = self.peers.live_holders().count() as u64;
        MembershipCounters { suspects, other_plugins, cleaning, holders, ..self.counters }
    }

    /// A word for people.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::New | Phase::Loading | Phase::CreatingMeta => "reading the deployment",
            Phase::Joining => "joining",
            Phase::Surveying => "looking whether anybody else is there",
            Phase::Cleaning | Phase::Opening => "running the cleanup of a fresh start",
            Phase::WaitingForBoot => "waiting for another host's fresh start",
            Phase::Claiming => "claiming partitions",
            Phase::Reborn => "declared dead, coming back",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Leaving | Phase::Left => "leaving",
            Phase::Failed => "failed",
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Leaving | Phase::Left | Phase::Failed | Phase::Reborn | Phase::New)
    }

    /// True from the time at which the boot is open for this instance: sessions may be told of.
    pub fn takes_part(&self) -> bool {
        matches!(self.phase, Phase::Claiming | Phase::Ready)
            || (self.phase == Phase::Draining && self.state == InstanceState::Draining)
    }

    fn write(&mut self, key: Key, document: Document, expect: Expect, lease: Option<Duration>) {
        self.effects.push_back(MembershipEffect::Write { key, document, expect, lease });
    }

    fn unfit(&self, meta: &MetaRecord) -> Option<MembershipError> {
        if meta.format != FORMAT {
            Some(MembershipError::Format { found: meta.format })
        } else if meta.layout != self.config.layout {
            Some(MembershipError::Layout { found: meta.layout, wanted: self.config.layout })
        } else {
            None
        }
    }

    /// There is no `meta`: a new store, or one that was recreated. Whoever is first picks the epoch.
    fn create_meta(&mut self) {
        if self.phase == Phase::Loading {
            self.phase = Phase::CreatingMeta;
        }
        let epoch = self.config.epoch.wrapping_add(self.wipes);
        self.wipes += 1;
        let record = MetaRecord { format: FORMAT, layout: self.config.layout, epoch };
        self.write(Key::Meta, Document::Meta(record), Expect::Last(Sequence(0)), None);
    }

    /// The store was recreated. Everything that was in it is told again from memory.
    fn wiped(&mut self, now: Now, epoch: u64) {
        self.epoch = epoch;
        self.counters.wipes += 1;
        self.boot = None;
        self.boot_writing = false;
        self.stay_out();
        self.lease.vanished(now.tick);
        self.peers.forget_sequences();
        self.ownership.handle_wiped(now.tick + self.lease.interval());
        self.cleanups.abandon();
        self.effects.push_back(MembershipEffect::Permit(Tick(0)));
        self.effects.push_back(MembershipEffect::Wiped);
        match self.phase {
            Phase::Cleaning | Phase::Opening => self.abandon_start(Phase::Surveying),
            Phase::WaitingForBoot => self.phase = Phase::Surveying,
            _ => {}
        }
    }

    /// The fresh start is another instance's now, or nobody's: its `everything` runs no more, or it would have receivers
    /// forget who has come since.
    fn abandon_start(&mut self, next: Phase) {
        self.phase = next;
        self.boot_due = None;
        self.run = None;
        self.owing = false;
        self.effects.push_back(MembershipEffect::Abandon);
    }

    fn take(&mut self, now: Now, key: &Key, sequence: Sequence, document: &Document) {
        match (key, document) {
            (Key::Instance(id), Document::Instance(record)) if *id == self.instance => {
                if record.state == InstanceState::Dead {
                    let (id, record) = (*id, record.clone());
                    self.peers.take(now.tick, id, sequence, &record);
                    self.die();
                } else if !self.unread && self.lease.shown(record.renewal, sequence, stands(record.state)) {
                    self.renewal_shown(now);
                }
            }
            (Key::Instance(id), Document::Instance(record)) => {
                let namesake = record.holder.is_none()
                    && record.host == self.config.host
                    && self.phase == Phase::Ready
                    && self.peers.get(*id).is_some_and(|peer| peer.record.renewal < record.renewal)
                    && record.state != InstanceState::Dead;
                let others = record.plugins != 0 && record.plugins != self.config.plugins;
                if (namesake || others) && self.told.insert(*id) {
                    let (instance, host) = (*id, record.host.clone());
                    self.effects.push_back(if namesake {
                        MembershipEffect::Namesake { instance, host }
                    } else {
                        MembershipEffect::OtherPlugins { instance, host }
                    });
                }
                let news = self.peers.take(now.tick, *id, sequence, record);
                self.heard(*id, news);
            }
            (Key::Boot, Document::Boot(record)) if self.boot.is_none_or(|(known, _)| known < sequence) => {
                if self.boot.is_some() && record.phase == BootPhase::Open {
                    self.came_in = Some(now.tick);
                }
                self.boot = Some((sequence, *record));
                self.boot_stale = false;
                self.unsettled = true;
                self.boot_seen(*record);
            }
            (Key::Meta, Document::Meta(meta)) if meta.epoch != self.epoch && !self.is_over() => {
                self.effects.push_back(MembershipEffect::Load);
            }
            _ => {}
        }
    }

    fn boot_seen(&mut self, boot: BootRecord) {
        if self.joined > 0 && boot.start != self.start {
            // A fresh start was declared while this instance was taken for gone, perhaps in a store that was recreated.
            self.die();
        }
        if self.belongs.is_some_and(|(start, epoch)| start != boot.start && epoch != self.epoch)
            && boot.epoch != self.epoch
        {
            // One whose `everything` ran in this store came after its own, and has had everybody told of since.
            self.estranged = Some(boot.start);
        }
        if boot.owed.is_some() {
            // Whoever else is estranged has seen to it: after that everybody is told of again.
            self.estranged = None;
        }
        if matches!(self.phase, Phase::Cleaning | Phase::Opening) && boot.by != self.instance {
            self.abandon_start(Phase::WaitingForBoot);
        }
    }

    /// The own lease is over.
    fn ran_out(&mut self, now: Now, marker: Sequence) {
        // Also of one that leaves: what it has asked for before is still answered.
        self.counters.lapses += u64::from(!matches!(self.phase, Phase::Leaving | Phase::Left));
        self.lease.ran_out(marker, now.tick);
        self.effects.push_back(MembershipEffect::Permit(Tick(0)));
    }

    fn heard(&mut self, instance: InstanceId, news: News) {
        match news {
            News::None => return,
            News::Changed => {
                let suspect = self.peers.get(instance).is_some_and(|peer| peer.suspect);
                self.counters.suspected += u64::from(suspect);
            }
            News::Died(heard) => {
                self.effects.push_back(MembershipEffect::InstanceLost { instance, heard });
            }
        }
        self.unsettled = true;
    }

    fn renewal_shown(&mut self, now: Now) {
        self.counters.renewals += 1;
        if let Some(until) = self.lease.valid_until() {
            self.effects.push_back(MembershipEffect::Permit(until));
        }
        if let Some(sent) = self.lease.confirmed()
            && self.peers.has_unknown()
            && self.peers.settle_unknown(sent)
        {
            self.unsettled = true;
        }
        if self.joined > 0 && self.boot.is_some_and(|(_, boot)| boot.start == self.start) {
            self.assured = self.lease.confirmed();
        }
        if self.phase == Phase::Joining {
            self.phase = Phase::Surveying;
            self.met = self.generation();
        }
        self.unsettled |= !self.ownership.is_settled(self.instance, &self.peers);
        let _ = now;
    }

    fn look_at_owners(&mut self, now: Now) {
        let owners: Vec<InstanceId> = self.ownership.owners().filter(|id| *id != self.instance).collect();
        for owner in owners {
            self.peers.seen(now.tick, owner, true);
        }
    }

    fn die(&mut self) {
        // In whichever phase: the dead have no lease, whatever the watch has shown before.
        self.lease.end();
        self.effects.push_back(MembershipEffect::Permit(Tick(0)));
        match self.phase {
            Phase::Draining | Phase::Leaving => {
                // Others clean up after it; there is nothing left to give back.
                self.ownership.lose_all(self.config.nonce);
                self.phase = Phase::Left;
            }
            Phase::Left | Phase::Failed | Phase::Reborn => {}
            _ => {
                if matches!(self.phase, Phase::Cleaning | Phase::Opening) {
                    self.abandon_start(Phase::Reborn);
                }
                self.give_up_run();
                self.phase = Phase::Reborn;
                self.boot_due = None;
                self.cleanups.abandon();
                self.ownership.lose_all(self.config.nonce);
                self.effects.push_back(MembershipEffect::Reborn);
            }
        }
    }

    fn renew(&mut self, now: Now) {
        if self.must_come_in(now) {
            self.wants_in = true;
            self.lease.wait(now.tick + self.lease.interval() / 4);
            return self.come_in(now);
        }
        let expect = self.lease.last();
        let renewal = self.lease.send(now.tick);
        let record = InstanceRecord {
            host: self.config.host.clone(),
            state: self.state,
            started_at: self.started_at,
            renewal,
            plugins: self.config.plugins,
            cleanup: None,
            holder: None,
        };
        self.effects.push_back(MembershipEffect::Renew {
            instance: self.instance,
            renewal,
            record,
            expect,
            ttl: self.config.instance_ttl,
        });
    }

    fn leave(&mut self) {
        self.phase = Phase::Left;
        if self.lease.last() == Sequence(0) || !self.clean_leave {
            return;
        }
        let last = self.lease.last();
        if self.is_last()
            && let Some((sequence, boot)) = self.boot.filter(|_| self.joined > 0)
        {
            let closed = BootRecord { phase: BootPhase::Closed, owed: None, ..boot };
            self.write(Key::Boot, Document::Boot(closed), Expect::Last(sequence), None);
        }
        // A record and not nothing: a judgement that is late would meet its expectation there.
        let record = InstanceRecord {
            host: self.config.host.clone(),
            state: InstanceState::Left,
            started_at: self.started_at,
            renewal: u64::MAX,
            plugins: self.config.plugins,
            cleanup: None,
            holder: None,
        };
        let kept = self.config.drain_grace + self.config.instance_ttl * 2;
        self.effects.push_back(MembershipEffect::Leave { last, record, kept });
    }

    /// Decides whatever follows from what has become known.
    fn settle(&mut self, now: Now) {
        self.survey(now);
        self.judge(now);
        self.come_in(now);
        self.settle_owed(now);
        if std::mem::take(&mut self.unsettled) && self.takes_part() {
            if let Some((_, boot)) = self.boot.filter(|(_, boot)| boot.phase == BootPhase::Open) {
                self.peers.doubt_holders(boot.start);
            }
            let own = Some((self.instance, self.state));
            let candidates = self.peers.candidates(own);
            // In a store that was recreated the boot comes before the claims, and so before any record: records of a
            // deployment without one would pass for those of the next fresh start.
            let active = self.lease.is_valid(now.tick) && self.boot.is_some();
            let timeout = self.config.handover_timeout;
            self.ownership.decide(now.tick, self.instance, &candidates, active, &self.peers, timeout);
            self.cleanups.decide(self.instance, &candidates, &self.peers);
        }
        for wish in std::mem::take(&mut self.ownership.wishes) {
            self.carry_out(wish);
        }
        while let Some(chore) = self.cleanups.chores.pop_front() {
            self.do_chore(chore);
        }
        if self.phase == Phase::Claiming
            && self.lease.is_valid(now.tick)
            && self.ownership.is_settled(self.instance, &self.peers)
        {
            self.phase = Phase::Ready;
            self.effects.push_back(MembershipEffect::Ready);
        }
    }

    fn carry_out(&mut self, wish: Wish) {
        match wish {
            Wish::Claim(partition, last, claim) | Wish::Release(partition, last, claim) => {
                self.write(Key::Owner(partition), Document::Owner(claim), Expect::Last(last), None);
            }
            Wish::Own(partition, claim) => {
                self.effects.push_back(MembershipEffect::Own(partition, claim));
            }
            Wish::Adopt(partition, claim) => {
                self.effects.push_back(MembershipEffect::Adopt(partition, claim));
            }
            Wish::Surrender(partition) => {
                self.counters.handovers += 1;
                self.effects.push_back(MembershipEffect::Surrender(partition));
            }
            Wish::Cut(partition) => self.effects.push_back(MembershipEffect::CutHooks(partition)),
            Wish::Lose(partition) => self.effects.push_back(MembershipEffect::Lose(partition)),
        }
    }

    fn do_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Write(instance, record, sequence, lease) => {
                let document = Document::Instance(record);
                self.write(Key::Instance(instance), document, Expect::Last(sequence), lease);
            }
            Chore::Sessions(instance, round) => {
                self.effects.push_back(MembershipEffect::ReadSessions { instance, round });
            }
            Chore::Tell(plugin, sweep) => self.effects.push_back(MembershipEffect::Tell { plugin, sweep }),
            Chore::Purge(instance) => self.effects.push_back(MembershipEffect::Purge(instance)),
            Chore::Done(instance) => {
                self.counters.cleaned += 1;
                self.effects.push_back(MembershipEffect::CleanedUp(instance));
            }
        }
    }

    fn has_to_judge(&self) -> bool {
        let surveys = matches!(self.phase, Phase::Surveying | Phase::WaitingForBoot);
        (self.takes_part() || surveys) && self.peers.iter().any(|(_, peer)| peer.suspect && !peer.judging)
    }

    /// Declares suspects dead, once everybody has had the time to come back. One judge's write takes effect.
    fn judge(&mut self, now: Now) {
        if !self.has_to_judge() || self.lease.judges_from(now.tick).is_none_or(|from| from > now.tick) {
            return;
        }
        let owners: BTreeSet<InstanceId> = self.ownership.owners().collect();
        self.peers.forget_disowned(|id| owners.contains(&id));
        let candidates = self.peers.candidates(Some((self.instance, self.state)));
        let suspects = self.peers.iter().filter(|(_, peer)| peer.suspect && !peer.judging);
        let takes_part = self.takes_part();
        let suspects: Vec<InstanceId> = suspects.map(|(id, _)| id).collect();
        for instance in suspects {
            let Some(peer) = self.peers.get_mut(instance) else { continue };
            if peer.holder().is_some() && !takes_part {
                continue;
            }
            // One of another fresh start does not come back.
            let may_come_back = peer.holder().filter(|holder| holder.start == self.start);
            let patience =
                may_come_back.map(|holder| Duration::from_millis(holder.lease_ms).min(holders::PATIENCE));
            let unbroken = self.lease.unbroken_since(now.tick).unwrap_or(now.tick);
            if patience.is_some_and(|patience| now.tick < unbroken + patience) {
                continue;
            }
            peer.judging = true;
            let record = if peer.is_dead() {
                peer.record.clone()
            } else {
                let cleanup = Cleanup {
                    phase: CleanupPhase::Telling,
                    by: desired_cleaner(instance, &candidates),
                    declared_at: now.wall,
                    round: 0,
                    settled: Default::default(),
                };
                InstanceRecord { state: InstanceState::Dead, cleanup: Some(cleanup), ..peer.record.clone() }
            };
            let (sequence, lease) = (peer.sequence, cleanups::lease_of(&record));
            self.counters.judged += 1;
            self.effects.push_back(MembershipEffect::Judge { instance, record, expect: sequence, lease });
        }
    }
}

/// Whether a record in this state says that its instance takes part, and holds up a fresh start.
fn stands(state: InstanceState) -> bool {
    matches!(state, InstanceState::Ready | InstanceState::Draining)
}

#[cfg(test)]
mod tests;
