//! This instance's life in the deployment: its lease, the fresh start, the partitions it owns.
//!
//! ```text
//!  Loading ──▶ Joining ──▶ (Cleaning: `everything` runs) ──▶ Opening ──▶ Claiming ──▶ Ready ──▶ Draining ──▶ Left
//!     meta by compare-and-set      boot by compare-and-set        o.<p> by compare-and-set
//! ```
//!
//! A single host goes the same way as a cluster. Conditions and claims are the store's; this only asks and waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::assignment::desired_owner;
use crate::documents::{
    BootPhase, BootRecord, Change, Claim, Document, Expect, InstanceRecord, InstanceState, Key, MetaRecord,
    Update,
};
use crate::ids::{InstanceId, PartitionId, Sequence};
use crate::time::{Now, Tick, Timestamp};

mod words;
pub use words::{FORMAT, MembershipConfig, MembershipEffect, MembershipError, NotWritten};

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
    Draining,
    Leaving,
    Left,
    Failed,
}

/// The lease under the own key.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    /// The own key's last sequence; 0 before the first write.
    sequence: Sequence,
    renewals: u64,
    /// When the write in flight was sent.
    sent: Option<Tick>,
    /// When the last acknowledged one was sent.
    acknowledged: Option<Tick>,
    next: Option<Tick>,
}

/// One instance's membership.
pub struct Membership {
    config: MembershipConfig,
    phase: Phase,
    state: InstanceState,
    started_at: Timestamp,
    lease: Lease,
    epoch: u64,
    boot: Option<(Sequence, BootRecord)>,
    others: BTreeMap<InstanceId, InstanceRecord>,
    boot_due: Option<Tick>,
    claiming: BTreeSet<PartitionId>,
    loading: BTreeSet<PartitionId>,
    owned: BTreeMap<PartitionId, Sequence>,
    effects: VecDeque<MembershipEffect>,
}

impl Membership {
    /// An instance that has not begun; call [`Membership::handle_start`].
    pub fn new(config: MembershipConfig) -> Membership {
        Membership {
            epoch: config.epoch,
            config,
            phase: Phase::New,
            state: InstanceState::Joining,
            started_at: Timestamp(0),
            lease: Lease::default(),
            boot: None,
            others: BTreeMap::new(),
            boot_due: None,
            claiming: BTreeSet::new(),
            loading: BTreeSet::new(),
            owned: BTreeMap::new(),
            effects: VecDeque::new(),
        }
    }

    /// Begins.
    pub fn handle_start(&mut self, now: Now) {
        if self.phase == Phase::New {
            self.started_at = now.wall;
            self.phase = Phase::Loading;
            self.effects.push_back(MembershipEffect::Load(Sequence(0)));
        }
    }

    /// The snapshot of the instances.
    pub fn handle_loaded(&mut self, now: Now, documents: &[(Key, Sequence, Document)]) {
        self.others.clear();
        let mut meta = None;
        for (key, sequence, document) in documents {
            match document {
                Document::Meta(record) => meta = Some(*record),
                _ => self.take(key, *sequence, document),
            }
        }
        match self.phase {
            Phase::Loading => match meta {
                None => {
                    self.phase = Phase::CreatingMeta;
                    let record =
                        MetaRecord { format: FORMAT, layout: self.config.layout, epoch: self.config.epoch };
                    self.write(Key::Meta, Document::Meta(record), Expect::Last(Sequence(0)), None);
                }
                Some(meta) => self.join(now, meta),
            },
            Phase::Surveying => self.survey(now),
            _ => {}
        }
    }

    /// An update of the instances.
    pub fn handle_update(&mut self, now: Now, update: &Update) {
        match &update.change {
            Change::Put(document) => self.take(&update.key, update.sequence, document),
            Change::Deleted | Change::Expired => {
                if let Key::Instance(instance) = update.key {
                    self.others.remove(&instance);
                }
            }
        }
        if self.phase == Phase::WaitingForBoot {
            self.survey(now);
        }
    }

    /// What became of a write.
    pub fn handle_written(&mut self, now: Now, key: &Key, result: Result<Sequence, NotWritten>) {
        match (key, result) {
            (Key::Meta, Ok(_)) => {
                let meta =
                    MetaRecord { format: FORMAT, layout: self.config.layout, epoch: self.config.epoch };
                self.join(now, meta);
            }
            (Key::Meta | Key::Boot, Err(_)) => {
                // Somebody else was first: look what he wrote.
                self.phase =
                    if self.phase == Phase::CreatingMeta { Phase::Loading } else { Phase::Surveying };
                self.boot_due = None;
                self.effects.push_back(MembershipEffect::Load(Sequence(0)));
            }
            (Key::Boot, Ok(sequence)) => self.boot_written(now, sequence),
            (Key::Instance(_), result) => self.lease_written(now, result),
            (Key::Owner(partition), Ok(sequence)) => {
                self.claiming.remove(partition);
                self.loading.insert(*partition);
                self.owned.insert(*partition, sequence);
                self.effects.push_back(MembershipEffect::Own(*partition, sequence));
            }
            (Key::Owner(partition), Err(_)) if self.claiming.contains(partition) => {
                self.effects.push_back(MembershipEffect::ReadOwner(*partition));
            }
            _ => {}
        }
    }

    /// The owner of a partition that this instance wants.
    pub fn handle_owner(&mut self, partition: PartitionId, owner: Option<(Sequence, Claim)>) {
        if !self.claiming.contains(&partition) {
            return;
        }
        let last = owner.map_or(Sequence(0), |(sequence, _)| sequence);
        let claim = Claim { instance: Some(self.config.instance), nonce: self.config.nonce };
        self.write(Key::Owner(partition), Document::Owner(claim), Expect::Last(last), None);
    }

    /// The hook `cleanup` with `everything` is settled for every plugin.
    pub fn handle_everything_settled(&mut self) {
        if self.phase == Phase::Cleaning {
            self.open();
        }
    }

    /// The snapshot of an owned partition is complete.
    pub fn handle_partition_loaded(&mut self, partition: PartitionId) {
        self.loading.remove(&partition);
        self.become_ready();
    }

    /// The host was told to stop: it takes no more clients; [`Membership::handle_leave`] comes when it is done.
    pub fn handle_drain(&mut self, now: Now) {
        if matches!(self.phase, Phase::Leaving | Phase::Left | Phase::Failed | Phase::Draining) {
            return;
        }
        self.phase = Phase::Draining;
        self.state = InstanceState::Draining;
        self.boot_due = None;
        if self.lease.sequence != Sequence(0) || self.lease.sent.is_some() {
            self.renew(now);
        }
    }

    /// Everything is settled: releases the partitions and gives up the lease.
    pub fn handle_leave(&mut self) {
        if matches!(self.phase, Phase::Leaving | Phase::Left) {
            return;
        }
        self.phase = Phase::Leaving;
        for (partition, claim) in std::mem::take(&mut self.owned) {
            let released = Claim { instance: None, nonce: self.config.nonce };
            self.write(Key::Owner(partition), Document::Owner(released), Expect::Last(claim), None);
        }
        self.lease.next = None;
        if self.lease.sent.is_none() {
            self.leave();
        }
    }

    /// Timers: call at or after [`Membership::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        if self.boot_due.is_some_and(|due| due <= now.tick) && self.phase == Phase::Cleaning {
            self.effects.push_back(MembershipEffect::BootTimedOut);
            self.open();
        }
        if self.lease.next.is_some_and(|next| next <= now.tick) {
            self.renew(now);
        }
    }

    /// When [`Membership::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Tick> {
        let boot = self.boot_due.filter(|_| self.phase == Phase::Cleaning);
        boot.into_iter().chain(self.lease.next).min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<MembershipEffect> {
        self.effects.pop_front()
    }

    /// True while clients may come.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// True once the own key is gone.
    pub fn has_left(&self) -> bool {
        self.phase == Phase::Left
    }

    /// True if no other instance is ready, joining or draining: who has no session here has none.
    pub fn is_last(&self) -> bool {
        self.others.values().all(|other| other.state == InstanceState::Dead)
    }

    /// The boot generation; 0 before the boot.
    pub fn generation(&self) -> u64 {
        self.boot.map_or(0, |(_, boot)| boot.generation)
    }

    /// The epoch of the store.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The partitions owned, with their fencing tokens.
    pub fn owned(&self) -> &BTreeMap<PartitionId, Sequence> {
        &self.owned
    }

    /// A word for people.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::New | Phase::Loading | Phase::CreatingMeta => "reading the deployment",
            Phase::Joining | Phase::Surveying => "joining",
            Phase::Cleaning | Phase::Opening => "running the cleanup of a fresh start",
            Phase::WaitingForBoot => "waiting for another host's fresh start",
            Phase::Claiming => "claiming partitions",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Leaving | Phase::Left => "leaving",
            Phase::Failed => "failed",
        }
    }

    fn write(&mut self, key: Key, document: Document, expect: Expect, lease: Option<Duration>) {
        self.effects.push_back(MembershipEffect::Write { key, document, expect, lease });
    }

    fn take(&mut self, key: &Key, sequence: Sequence, document: &Document) {
        match (key, document) {
            (Key::Instance(instance), Document::Instance(record)) if *instance != self.config.instance => {
                self.others.insert(*instance, record.clone());
            }
            (Key::Boot, Document::Boot(record)) if self.boot.is_none_or(|(known, _)| known < sequence) => {
                self.boot = Some((sequence, *record));
            }
            _ => {}
        }
    }

    fn join(&mut self, now: Now, meta: MetaRecord) {
        let error = if meta.format != FORMAT {
            Some(MembershipError::Format { found: meta.format })
        } else if meta.layout != self.config.layout {
            Some(MembershipError::Layout { found: meta.layout, wanted: self.config.layout })
        } else {
            None
        };
        if let Some(error) = error {
            self.phase = Phase::Failed;
            self.effects.push_back(MembershipEffect::Fail(error));
            return;
        }
        self.epoch = meta.epoch;
        self.phase = Phase::Joining;
        self.renew(now);
    }

    fn renew(&mut self, now: Now) {
        if self.lease.sent.is_some() {
            // The answer decides; the state goes out with the next renewal.
            return;
        }
        self.lease.sent = Some(now.tick);
        self.lease.renewals += 1;
        let record = InstanceRecord {
            host: self.config.host.clone(),
            state: self.state,
            started_at: self.started_at,
            renewal: self.lease.renewals,
            plugins: 0,
            cleanup: None,
        };
        let key = Key::Instance(self.config.instance);
        let expect = Expect::Last(self.lease.sequence);
        self.write(key, Document::Instance(record), expect, Some(self.config.instance_ttl));
    }

    fn lease_written(&mut self, now: Now, result: Result<Sequence, NotWritten>) {
        let sent = self.lease.sent.take();
        match result {
            Ok(sequence) => {
                self.lease.sequence = sequence;
                self.lease.acknowledged = sent;
                self.lease.next = Some(now.tick + self.config.instance_ttl / 3);
            }
            Err(NotWritten::Conflict(last)) => {
                // The lease ran out while this host was suspended. Nobody but a judge writes this key, and a
                // judge's record says `dead`: then this expectation fails as well.
                self.lease.sequence = last;
                self.lease.next = Some(now.tick);
            }
            Err(NotWritten::Refused) => self.lease.next = Some(now.tick + self.config.instance_ttl / 6),
        }
        match self.phase {
            Phase::Joining if result.is_ok() => {
                self.phase = Phase::Surveying;
                self.effects.push_back(MembershipEffect::Load(self.lease.sequence));
            }
            Phase::Leaving => self.leave(),
            _ => {}
        }
    }

    fn leave(&mut self) {
        self.phase = Phase::Left;
        self.lease.next = None;
        if self.lease.sequence != Sequence(0) {
            self.effects.push_back(MembershipEffect::Leave(self.lease.sequence));
        }
    }

    /// Looks who is there: is this a fresh start?
    fn survey(&mut self, now: Now) {
        let open = self.boot.is_some_and(|(_, boot)| boot.phase == BootPhase::Open);
        let settled =
            |other: &InstanceRecord| matches!(other.state, InstanceState::Ready | InstanceState::Draining);
        let cleaner_lives = self
            .boot
            .is_some_and(|(_, boot)| boot.phase == BootPhase::Cleaning && self.others.contains_key(&boot.by));
        if open && self.others.values().any(settled) {
            self.claim(now);
        } else if cleaner_lives {
            self.phase = Phase::WaitingForBoot;
        } else if open && self.phase == Phase::WaitingForBoot {
            self.claim(now);
        } else {
            self.phase = Phase::Opening;
            let last = self.boot.map_or(Sequence(0), |(sequence, _)| sequence);
            let boot = BootRecord {
                generation: self.generation() + 1,
                phase: BootPhase::Cleaning,
                by: self.config.instance,
            };
            self.write(Key::Boot, Document::Boot(boot), Expect::Last(last), None);
            self.boot_due = Some(now.tick + self.config.boot_timeout);
            // Remembered with the sequence that it gets.
            self.boot = Some((last, boot));
        }
    }

    fn boot_written(&mut self, now: Now, sequence: Sequence) {
        let Some((_, boot)) = self.boot else { return };
        self.boot = Some((sequence, boot));
        match boot.phase {
            BootPhase::Cleaning => {
                self.phase = Phase::Cleaning;
                let run = format!("{:x}-{}-0", self.epoch, boot.generation);
                self.effects.push_back(MembershipEffect::Everything(run.into()));
            }
            BootPhase::Open => self.claim(now),
            BootPhase::Closed => {}
        }
    }

    fn open(&mut self) {
        let Some((sequence, boot)) = self.boot else {
            return;
        };
        self.phase = Phase::Opening;
        self.boot_due = None;
        let open = BootRecord { phase: BootPhase::Open, ..boot };
        self.boot = Some((sequence, open));
        self.write(Key::Boot, Document::Boot(open), Expect::Last(sequence), None);
    }

    fn claim(&mut self, now: Now) {
        self.phase = Phase::Claiming;
        self.state = InstanceState::Ready;
        self.renew(now);
        let ready = self.others.iter().filter(|(_, other)| other.state == InstanceState::Ready);
        let ready: Vec<InstanceId> = ready.map(|(id, _)| *id).chain([self.config.instance]).collect();
        for partition in (0..self.config.layout.partitions).map(PartitionId) {
            if desired_owner(partition, &ready) == Some(self.config.instance) {
                self.claiming.insert(partition);
                self.effects.push_back(MembershipEffect::ReadOwner(partition));
            }
        }
        self.become_ready();
    }

    fn become_ready(&mut self) {
        if self.phase == Phase::Claiming && self.claiming.is_empty() && self.loading.is_empty() {
            self.phase = Phase::Ready;
            self.effects.push_back(MembershipEffect::Ready);
        }
    }
}

#[cfg(test)]
mod tests;
