//! Several memberships over a model of the store: every effect is carried out at once, time moves by the test's hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::*;
use crate::ids::{Layout, SessionId, UserId};

pub(super) const TTL: u64 = 6000;
pub(super) const PARTITIONS: u16 = 8;

/// What the store holds under a key.
#[derive(Clone, Debug)]
struct Entry {
    sequence: Sequence,
    document: Option<Document>,
    until: Option<u64>,
}

/// A host of the world.
pub(super) struct Host {
    pub(super) membership: Membership,
    /// Neither time nor updates reach it.
    pub(super) paused: bool,
    updates: VecDeque<Update>,
    pub(super) owns: BTreeMap<PartitionId, Sequence>,
    pub(super) log: Vec<String>,
    pub(super) ready: bool,
    dead: bool,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) now: u64,
    entries: BTreeMap<Key, Entry>,
    last: u64,
    pub(super) hosts: BTreeMap<u128, Host>,
    pub(super) sessions: BTreeMap<InstanceId, Vec<Session>>,
    /// Every sweep that a plugin was told, and by whom.
    pub(super) told: Vec<(u128, InstanceId, usize)>,
    pub(super) everything: Vec<(u128, String)>,
    /// Answers of these kinds of writes are lost: the write has happened, nobody knows.
    pub(super) purged: BTreeSet<InstanceId>,
    born: u128,
    /// No plugin takes `everything` before [`World::everything_settles`].
    pub(super) slow: bool,
    /// Whether the clocks of hosts that start are right.
    pub(super) clocks_right: bool,
    /// Whether several hosts may share the store.
    pub(super) shared: bool,
    /// The judgements of this host get lost on their way.
    pub(super) unheard: Option<u128>,
}

impl World {
    pub(super) fn new() -> World {
        World { now: 1000, shared: true, clocks_right: true, ..World::default() }
    }

    pub(super) fn now(&self) -> Now {
        Now::at(self.now)
    }

    /// Starts a host with this number; its instance is the number too.
    pub(super) fn start(&mut self, number: u128) {
        let config = MembershipConfig {
            instance: InstanceId(number),
            host: format!("host-{number}"),
            layout: Layout { partitions: PARTITIONS, leaves: 2 },
            epoch: number as u64 * 1000,
            nonce: number as u64,
            instance_ttl: Duration::from_millis(TTL),
            boot_timeout: Duration::from_secs(30),
            handover_timeout: Duration::from_secs(10),
            drain_grace: Duration::from_secs(30),
            shared: self.shared,
            plugins: 1,
            cleanup_plugins: vec!["webhook".into()],
        };
        let mut membership = Membership::new(config);
        membership.handle_start(self.now());
        membership.handle_clock(self.now(), self.clocks_right);
        let host = Host {
            membership,
            paused: false,
            updates: VecDeque::new(),
            owns: BTreeMap::new(),
            log: Vec::new(),
            ready: false,
            dead: false,
        };
        self.hosts.insert(number, host);
        self.settle();
    }

    /// The plugins of a host take the latest `everything` after all.
    pub(super) fn everything_settles(&mut self) {
        let (number, run) = self.everything.last().cloned().expect("one was run");
        self.member(number).handle_everything_settled(&run);
        self.settle();
    }

    /// What the boot record says.
    pub(super) fn boot(&self) -> BootRecord {
        match self.get(&Key::Boot) {
            Some((_, Document::Boot(boot))) => boot,
            other => panic!("no boot record: {other:?}"),
        }
    }

    /// A host ends without a word.
    pub(super) fn kill(&mut self, number: u128) {
        self.hosts.remove(&number);
    }

    pub(super) fn host(&self, number: u128) -> &Host {
        &self.hosts[&number]
    }

    pub(super) fn member(&mut self, number: u128) -> &mut Membership {
        &mut self.hosts.get_mut(&number).expect("a running host").membership
    }

    /// Lets time pass, in steps of 100 ms.
    pub(super) fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            let before = self.now();
            self.now += 100;
            let due: Vec<Key> = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.until.is_some_and(|until| until <= self.now))
                .map(|(key, _)| key.clone())
                .collect();
            for key in due {
                self.remove(&key, Change::Expired);
            }
            let now = self.now();
            for host in self.hosts.values_mut().filter(|host| !host.paused && !host.dead) {
                if host.membership.poll_timeout(before).is_some_and(|due| due <= now.tick) {
                    host.membership.handle_timeout(now);
                }
            }
            self.settle();
        }
    }

    /// Carries out everything that every host wants, and hands out updates, until all is quiet.
    pub(super) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the hosts never come to rest");
            let mut quiet = true;
            let numbers: Vec<u128> = self.hosts.keys().copied().collect();
            for number in numbers {
                loop {
                    let host = self.hosts.get_mut(&number).expect("listed");
                    if host.paused || host.dead {
                        break;
                    }
                    if let Some(effect) = host.membership.poll_effect() {
                        quiet = false;
                        self.carry_out(number, effect);
                    } else if let Some(update) = host.updates.pop_front() {
                        quiet = false;
                        let now = Now::at(self.now);
                        match (&update.key, &update.change) {
                            (Key::Owner(partition), Change::Put(Document::Owner(claim))) => {
                                host.membership.handle_claim(now, *partition, update.sequence, *claim);
                            }
                            _ => host.membership.handle_update(now, &update),
                        }
                    } else {
                        break;
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Everything is gone, as if the store had never been.
    pub(super) fn wipe(&mut self) {
        self.entries.clear();
        self.last = 0;
        let now = self.now();
        for host in self.hosts.values_mut() {
            host.updates.clear();
            host.membership.handle_loaded(now, &[]);
        }
        self.settle();
    }

    pub(super) fn put(
        &mut self,
        key: Key,
        document: Document,
        expect: &Expect,
        lease: Option<Duration>,
    ) -> Result<Sequence, NotWritten> {
        if let Document::Owner(Claim { instance: Some(_), .. }) = &document {
            assert!(self.get(&Key::Boot).is_some(), "a claim in a store without a boot record");
        }
        let held = match expect {
            Expect::Any => None,
            Expect::Last(sequence) => Some((&key, *sequence)),
            Expect::Fence(fence, sequence) => Some((fence, *sequence)),
        };
        if let Some((key, wanted)) = held {
            let entry = self.entries.get(key);
            let last = entry.map_or(Sequence(0), |entry| entry.sequence);
            let absent = entry.is_none_or(|entry| entry.document.is_none());
            if last != wanted && !(absent && wanted == Sequence(0)) {
                return Err(NotWritten::Conflict(last));
            }
        }
        self.last += 1;
        let until = lease.map(|lease| self.now + lease.as_millis() as u64);
        let sequence = Sequence(self.last);
        self.entries.insert(key.clone(), Entry { sequence, document: Some(document.clone()), until });
        self.publish(Update { key, sequence, change: Change::Put(document) });
        Ok(sequence)
    }

    pub(super) fn get(&self, key: &Key) -> Option<(Sequence, Document)> {
        let entry = self.entries.get(key)?;
        Some((entry.sequence, entry.document.clone()?))
    }

    fn remove(&mut self, key: &Key, change: Change) {
        self.last += 1;
        let sequence = Sequence(self.last);
        self.entries.insert(key.clone(), Entry { sequence, document: None, until: None });
        self.publish(Update { key: key.clone(), sequence, change });
    }

    fn publish(&mut self, update: Update) {
        for host in self.hosts.values_mut() {
            host.updates.push_back(update.clone());
        }
    }

    fn claims(&self) -> Vec<(PartitionId, Sequence, Claim)> {
        let claim = |(key, entry): (&Key, &Entry)| match (key, &entry.document) {
            (Key::Owner(partition), Some(Document::Owner(claim))) => {
                Some((*partition, entry.sequence, *claim))
            }
            _ => None,
        };
        self.entries.iter().filter_map(claim).collect()
    }

    fn instances(&self) -> Vec<(Key, Sequence, Document)> {
        let in_bucket = |key: &&Key| matches!(key, Key::Instance(_) | Key::Boot | Key::Meta);
        let keys = self.entries.keys().filter(in_bucket);
        keys.filter_map(|key| self.get(key).map(|(sequence, document)| (key.clone(), sequence, document)))
            .collect()
    }

    fn carry_out(&mut self, number: u128, effect: MembershipEffect) {
        let now = self.now();
        match effect {
            MembershipEffect::Load => {
                let documents = self.instances();
                self.member(number).handle_loaded(now, &documents);
            }
            MembershipEffect::LoadClaims => {
                let claims = self.claims();
                self.member(number).handle_claims(now, &claims);
            }
            MembershipEffect::Renew { instance, renewal, record, expect, ttl } => {
                let key = Key::Instance(instance);
                let result = self.put(key, Document::Instance(record), &Expect::Last(expect), Some(ttl));
                if self.member(number).instance() == instance {
                    self.member(number).handle_renewed(now, renewal, Some(result));
                }
            }
            MembershipEffect::ReadInstance { instance, last } => {
                let found = match self.get(&Key::Instance(instance)) {
                    Some((sequence, Document::Instance(record))) => Some((sequence, record)),
                    _ => None,
                };
                self.member(number).handle_instance_read(now, instance, last, found);
            }
            MembershipEffect::Write { key, document, expect, lease } => {
                let result = self.put(key.clone(), document.clone(), &expect, lease);
                self.member(number).handle_written(now, &key, &document, result);
            }
            MembershipEffect::Declare { boot, expect } => {
                let document = Document::Boot(boot);
                let result = self.put(Key::Boot, document.clone(), &Expect::Last(expect), None);
                self.member(number).handle_written(now, &Key::Boot, &document, result);
            }
            MembershipEffect::Judge { .. } if self.unheard == Some(number) => {}
            MembershipEffect::Judge { instance, record, expect, lease } => {
                let (key, document) = (Key::Instance(instance), Document::Instance(record));
                let result = self.put(key.clone(), document.clone(), &Expect::Last(expect), lease);
                self.member(number).handle_written(now, &key, &document, result);
            }
            MembershipEffect::ReadOwner(partition) => {
                let owner = match self.get(&Key::Owner(partition)) {
                    Some((sequence, Document::Owner(claim))) => Some((sequence, claim)),
                    _ => None,
                };
                self.member(number).handle_owner(now, partition, owner);
            }
            MembershipEffect::Everything(run) => {
                self.everything.push((number, run.to_string()));
                if !self.slow {
                    self.member(number).handle_everything_settled(&run);
                }
            }
            MembershipEffect::DecideAnew(run) => {
                self.host_mut(number).log.push(format!("anew {run}"));
                self.member(number).handle_decided_anew(now, &run);
            }
            MembershipEffect::PurgeAll(spared) => {
                self.sessions.retain(|id, _| spared.contains(id));
                self.member(number).handle_all_purged();
            }
            MembershipEffect::Own(partition, claim) => {
                self.host_mut(number).owns.insert(partition, claim);
                self.member(number).handle_partition_loaded(now, partition);
            }
            MembershipEffect::Adopt(partition, claim) => {
                self.host_mut(number).owns.insert(partition, claim);
            }
            MembershipEffect::Surrender(partition) => {
                self.host_mut(number).log.push(format!("surrender {partition}"));
                self.member(number).handle_surrendered(now, partition);
            }
            MembershipEffect::CutHooks(_) => {}
            MembershipEffect::Lose(partition) => {
                self.host_mut(number).owns.remove(&partition);
            }
            MembershipEffect::InstanceLost { instance, .. } => {
                self.host_mut(number).log.push(format!("lost {instance}"));
            }
            MembershipEffect::ReadSessions { instance, round } => {
                let sessions = self.sessions.get(&instance).cloned().unwrap_or_default();
                self.member(number).handle_sessions(now, instance, round, sessions);
            }
            MembershipEffect::Tell { plugin, sweep } => {
                let crate::events::Scope::Lost { instance, sessions } = &sweep.scope else { return };
                self.told.push((number, *instance, sessions.len()));
                self.member(number).handle_cleanup_settled(now, &plugin, *instance, &sweep.run, sweep.chunk);
            }
            MembershipEffect::Purge(instance) => {
                self.sessions.remove(&instance);
                self.purged.insert(instance);
                self.member(number).handle_purged(now, instance);
            }
            MembershipEffect::CleanedUp(instance) => {
                self.host_mut(number).log.push(format!("cleaned {instance}"));
            }
            MembershipEffect::Permit(_) => {}
            MembershipEffect::Ready => self.host_mut(number).ready = true,
            MembershipEffect::Reborn => {
                self.born += 1;
                let id = InstanceId(1000 + self.born);
                self.host_mut(number).log.push("reborn".into());
                self.member(number).handle_reborn(now, id, 7);
            }
            MembershipEffect::Wiped => {
                self.host_mut(number).log.push("wiped".into());
                let claims = self.claims();
                self.member(number).handle_claims(now, &claims);
                let documents = self.instances();
                self.member(number).handle_loaded(now, &documents);
            }
            MembershipEffect::Leave { last, record, kept } => {
                let key = Key::Instance(self.member(number).instance());
                let left = self.put(key, Document::Instance(record), &Expect::Last(last), Some(kept));
                assert!(left.is_ok());
            }
            MembershipEffect::Fail(error) => panic!("{error}"),
            other => self.host_mut(number).log.push(format!("{other:?}")),
        }
    }

    fn host_mut(&mut self, number: u128) -> &mut Host {
        self.hosts.get_mut(&number).expect("a running host")
    }

    /// Every partition has one owner, which knows it, and the store agrees.
    pub(super) fn assert_owned(&self) {
        for partition in (0..PARTITIONS).map(PartitionId) {
            let owners: Vec<u128> = self
                .hosts
                .iter()
                .filter(|(_, host)| !host.paused && host.owns.contains_key(&partition))
                .map(|(number, _)| *number)
                .collect();
            assert_eq!(owners.len(), 1, "partition {partition} is owned by {owners:?}");
            let host = self.host(owners[0]);
            let Some((sequence, Document::Owner(claim))) = self.get(&Key::Owner(partition)) else {
                panic!("partition {partition} has no claim");
            };
            assert_eq!(claim.instance, Some(host.membership.instance()));
            assert_eq!(host.owns[&partition], sequence, "the fencing token of {partition}");
        }
    }

    pub(super) fn instance_state(&self, instance: u128) -> Option<InstanceRecord> {
        match self.get(&Key::Instance(InstanceId(instance))) {
            Some((_, Document::Instance(record))) => Some(record),
            _ => None,
        }
    }
}

pub(super) fn session(id: u128, instance: u128) -> Session {
    Session {
        id: SessionId::Hosted(id),
        user: UserId::new("alice").expect("a user id"),
        instance: InstanceId(instance),
        status: crate::events::Status::Online,
        connected_at: Timestamp(1),
        attributes: Default::default(),
    }
}
