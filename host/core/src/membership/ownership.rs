//! Which partitions this instance owns, claims and hands over.
//!
//! Rules (DESIGN section 4): rendezvous hashing over the ready instances names the desired owner; who sees its own claim on
//! a partition is the owner and acts or releases; a live owner hands over by itself; the claim of one that is dead, gone
//! or has left is free. The claim's sequence is the fencing token. It is acted under by who was told that the claim was
//! written, once: a claim of its own that it finds is claimed once more, since what it wrote under that token before may
//! still be on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::assignment::desired_owner;
use crate::documents::Claim;
use crate::ids::{InstanceId, PartitionId, Sequence};
use crate::time::Tick;

use super::peers::Peers;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its snapshot is being read.
    Loading,
    Active,
    /// Being handed over: until then running hooks may go on; none: they were cut.
    Surrendering(Option<Tick>),
    /// The release is on its way.
    Releasing,
}

/// How far an own claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claiming {
    /// Its answer is to come.
    Sent,
    /// It was not written: the owner is being read.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    claim: Sequence,
    stage: Stage,
    /// It is being claimed once more, for a token under which no earlier write can take effect.
    doubtful: bool,
}

/// What ownership wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Claim it, expecting this sequence.
    Claim(PartitionId, Sequence, Claim),
    /// It is owned now, with this token.
    Own(PartitionId, Sequence),
    /// It is still owned, with another token.
    Adopt(PartitionId, Sequence),
    /// Let its hooks end and write its checkpoint.
    Surrender(PartitionId),
    /// The hooks took too long.
    Cut(PartitionId),
    /// Write that nobody owns it, expecting this sequence.
    Release(PartitionId, Sequence, Claim),
    /// It is owned no more.
    Lose(PartitionId),
}

#[derive(Debug)]
pub(super) struct Ownership {
    partitions: u16,
    nonce: u64,
    /// Every claim that is known.
    claims: BTreeMap<PartitionId, (Sequence, Claim)>,
    held: BTreeMap<PartitionId, Held>,
    /// Claims that are not answered, or refused and not explained yet.
    claiming: BTreeMap<PartitionId, Claiming>,
    /// Owned before the store was recreated: claimed again whoever should have them, since the records are here.
    former: BTreeSet<PartitionId>,
    /// After the store was recreated former owners go first, until then.
    patience: Option<Tick>,
    wanted: BTreeSet<PartitionId>,
    pub(super) wishes: Vec<Wish>,
    /// Claims that were read, or followed from a known point.
    loaded: bool,
}

impl Ownership {
    pub(super) fn new(partitions: u16, nonce: u64) -> Ownership {
        Ownership {
            partitions,
            nonce,
            claims: BTreeMap::new(),
            held: BTreeMap::new(),
            claiming: BTreeMap::new(),
            former: BTreeSet::new(),
            patience: None,
            wanted: BTreeSet::new(),
            wishes: Vec::new(),
            loaded: false,
        }
    }

    /// The partitions that are this instance's, with their fencing tokens.
    pub(super) fn held(&self) -> impl Iterator<Item = (PartitionId, Sequence)> {
        self.held.iter().map(|(partition, held)| (*partition, held.claim))
    }

    pub(super) fn holds(&self, partition: PartitionId) -> bool {
        self.held.contains_key(&partition)
    }

    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    /// Every claim that is known.
    pub(super) fn claims(&self) -> &BTreeMap<PartitionId, (Sequence, Claim)> {
        &self.claims
    }

    /// The claims were read.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Nothing is being claimed, loaded, or free for the taking.
    pub(super) fn is_settled(&self, me: InstanceId, peers: &Peers) -> bool {
        self.loaded
            && self.claiming.is_empty()
            && self.held.values().all(|held| held.stage != Stage::Loading)
            && self.claims.keys().all(|id| self.held.contains_key(id) || !self.is_mine(*id, me))
            && self
                .wanted
                .iter()
                .all(|partition| self.held.contains_key(partition) || !self.is_free(me, peers, *partition))
    }

    /// All claims were read.
    pub(super) fn handle_claims(&mut self, claims: &[(PartitionId, Sequence, Claim)], me: InstanceId) {
        self.loaded = true;
        for (partition, sequence, claim) in claims {
            self.handle_claim(*partition, *sequence, *claim, me);
        }
    }

    /// A claim was read or followed.
    pub(super) fn handle_claim(
        &mut self,
        partition: PartitionId,
        sequence: Sequence,
        claim: Claim,
        me: InstanceId,
    ) {
        if self.claims.get(&partition).is_some_and(|(known, _)| *known >= sequence) {
            return;
        }
        self.claims.insert(partition, (sequence, claim));
        let mine = claim.instance == Some(me);
        match self.held.get_mut(&partition) {
            Some(held) if sequence <= held.claim => {}
            Some(held) if mine => {
                // An own claim whose answer was lost has landed late.
                held.claim = sequence;
                held.doubtful = false;
                self.wishes.push(Wish::Adopt(partition, sequence));
            }
            Some(held) if held.stage == Stage::Releasing && claim.instance.is_none() => {
                self.held.remove(&partition);
                self.wishes.push(Wish::Lose(partition));
            }
            Some(_) => {
                self.held.remove(&partition);
                self.wishes.push(Wish::Lose(partition));
            }
            // One of its own that it was never told of is claimed once more, see `decide`.
            None => {}
        }
    }

    /// True if the claim that is known is this instance's.
    fn is_mine(&self, partition: PartitionId, me: InstanceId) -> bool {
        self.claims.get(&partition).is_some_and(|(_, claim)| claim.instance == Some(me))
    }

    /// A claim was written.
    pub(super) fn handle_claimed(&mut self, partition: PartitionId, sequence: Sequence, me: InstanceId) {
        if self.claiming.remove(&partition).is_none() {
            return;
        }
        let former = self.former.remove(&partition);
        match self.claims.get(&partition) {
            Some((known, claim))
                if *known > sequence || (*known == sequence && claim.instance != Some(me)) =>
            {
                if former {
                    self.wishes.push(Wish::Lose(partition));
                }
            }
            _ => {
                self.claims.insert(partition, (sequence, Claim { instance: Some(me), nonce: self.nonce }));
                self.own(partition, sequence);
            }
        }
    }

    /// A claim of this instance was not written: somebody else was first, or an own one whose answer was lost. The owner
    /// is being read.
    pub(super) fn handle_refused(&mut self, partition: PartitionId) {
        if let Some(claiming) = self.claiming.get_mut(&partition) {
            *claiming = Claiming::Refused;
        }
    }

    /// The owner was read.
    pub(super) fn handle_owner(
        &mut self,
        partition: PartitionId,
        owner: Option<(Sequence, Claim)>,
        me: InstanceId,
    ) {
        if self.claiming.get(&partition) == Some(&Claiming::Sent) {
            // It was read for an earlier write's sake, perhaps before the claim that is on its way: that one's answer
            // tells what became of it.
            if let Some((sequence, claim)) = owner {
                self.handle_claim(partition, sequence, claim, me);
            }
            return;
        }
        self.claiming.remove(&partition);
        match owner {
            Some((sequence, claim)) => {
                self.handle_claim(partition, sequence, claim, me);
                if let Some(held) = self.held.get_mut(&partition)
                    && held.doubtful
                    && held.claim == sequence
                {
                    // The store refused to have it claimed once more.
                    held.doubtful = false;
                    self.handle_unclear(partition, me);
                }
            }
            None => {
                self.claims.remove(&partition);
            }
        }
        // What is its own all the same is claimed once more, and what was there is written back.
        if !self.is_mine(partition, me)
            && self.former.remove(&partition)
            && !self.held.contains_key(&partition)
        {
            self.wishes.push(Wish::Lose(partition));
        }
    }

    /// A fenced write is without an answer and may take effect late. The partition is claimed once more: under the new
    /// token no copy of that write ever does.
    pub(super) fn handle_unclear(&mut self, partition: PartitionId, me: InstanceId) {
        if let Some(held) = self.held.get_mut(&partition)
            && held.stage != Stage::Releasing
            && !held.doubtful
        {
            held.doubtful = true;
            let claim = Claim { instance: Some(me), nonce: self.nonce };
            self.wishes.push(Wish::Claim(partition, held.claim, claim));
        }
    }

    /// The claim on an owned partition is gone, and nobody else's is there: the store was recreated, or has lost it. It is
    /// claimed again, and its records are written back.
    pub(super) fn handle_vanished(&mut self, partition: PartitionId) {
        if self.held.remove(&partition).is_some() {
            self.claims.remove(&partition);
            self.former.insert(partition);
        }
    }

    /// A release was written.
    pub(super) fn handle_released(&mut self, partition: PartitionId, sequence: Sequence) {
        if self.held.get(&partition).is_some_and(|held| held.stage == Stage::Releasing) {
            self.claims.insert(partition, (sequence, Claim { instance: None, nonce: self.nonce }));
            self.held.remove(&partition);
            self.wishes.push(Wish::Lose(partition));
        }
    }

    /// True if a write of this partition's claim is a release.
    pub(super) fn is_releasing(&self, partition: PartitionId) -> bool {
        self.held.get(&partition).is_some_and(|held| held.stage == Stage::Releasing)
    }

    /// Somebody else owns it.
    pub(super) fn handle_lost(&mut self, partition: PartitionId) {
        if self.held.remove(&partition).is_some() {
            self.wishes.push(Wish::Lose(partition));
        }
    }

    /// The snapshot of an owned partition is complete and it is followed.
    pub(super) fn handle_loaded(&mut self, partition: PartitionId) {
        if let Some(held) = self.held.get_mut(&partition)
            && held.stage == Stage::Loading
        {
            held.stage = Stage::Active;
        }
    }

    /// Hooks have ended and the checkpoint is written: the partition may go.
    pub(super) fn handle_surrendered(&mut self, partition: PartitionId) {
        if let Some(held) = self.held.get_mut(&partition)
            && matches!(held.stage, Stage::Surrendering(_))
        {
            held.stage = Stage::Releasing;
            let claim = Claim { instance: None, nonce: self.nonce };
            self.wishes.push(Wish::Release(partition, held.claim, claim));
        }
    }

    /// The release was refused for another reason than its condition: once more.
    pub(super) fn handle_release_failed(&mut self, partition: PartitionId) {
        if let Some(held) = self.held.get(&partition)
            && held.stage == Stage::Releasing
        {
            let claim = Claim { instance: None, nonce: self.nonce };
            self.wishes.push(Wish::Release(partition, held.claim, claim));
        }
    }

    /// Gives everything up at once: the instance leaves, and all is settled.
    pub(super) fn release_all(&mut self) {
        for (partition, held) in &mut self.held {
            if held.stage != Stage::Releasing {
                held.stage = Stage::Releasing;
                let claim = Claim { instance: None, nonce: self.nonce };
                self.wishes.push(Wish::Release(*partition, held.claim, claim));
            }
        }
    }

    /// This instance was declared dead: nothing is its any more.
    pub(super) fn lose_all(&mut self, nonce: u64) {
        self.nonce = nonce;
        for partition in std::mem::take(&mut self.held).into_keys() {
            self.wishes.push(Wish::Lose(partition));
        }
        self.claiming.clear();
        self.wishes.extend(std::mem::take(&mut self.former).into_iter().map(Wish::Lose));
        self.wanted.clear();
    }

    /// The store was recreated: every claim is gone. Who owned a partition claims it again, to write its records back.
    pub(super) fn handle_wiped(&mut self, patience: Tick) {
        self.former.extend(self.held.keys().copied());
        self.held.clear();
        self.claims.clear();
        self.claiming.clear();
        self.patience = Some(patience);
    }

    /// Who should own what has changed, or a claim has: claims, hands over. `candidates` is sorted; `active` is false
    /// while this instance must not claim: it has no lease.
    pub(super) fn decide(
        &mut self,
        now: Tick,
        me: InstanceId,
        candidates: &[InstanceId],
        active: bool,
        peers: &Peers,
        handover_timeout: Duration,
    ) {
        if !self.loaded {
            return;
        }
        if self.patience.is_some_and(|until| until <= now) {
            self.patience = None;
            // What is being claimed stays one until the claim is answered: refused, or nobody's any more, it is given up
            // then.
            let mut given_up = self.former.clone();
            given_up.retain(|id| !self.claiming.contains_key(id) && !self.is_mine(*id, me));
            self.former.retain(|id| !given_up.contains(id));
            self.wishes.extend(given_up.into_iter().map(Wish::Lose));
        }
        self.wanted.clear();
        for partition in (0..self.partitions).map(PartitionId) {
            let wanted = desired_owner(partition, candidates) == Some(me);
            if wanted {
                self.wanted.insert(partition);
            }
            let former = self.former.contains(&partition);
            let free = self.is_free(me, peers, partition);
            let mine = self.is_mine(partition, me);
            match self.held.get_mut(&partition) {
                Some(held) => {
                    let keeps = wanted || candidates.is_empty();
                    if !keeps && held.stage == Stage::Active {
                        held.stage = Stage::Surrendering(Some(now + handover_timeout));
                        self.wishes.push(Wish::Surrender(partition));
                    }
                }
                None if !active || self.claiming.contains_key(&partition) => {}
                None if (wanted && self.patience.is_none() || former || mine) && free => {
                    self.claiming.insert(partition, Claiming::Sent);
                    let last = self.claims.get(&partition).map_or(Sequence(0), |(sequence, _)| *sequence);
                    let claim = Claim { instance: Some(me), nonce: self.nonce };
                    self.wishes.push(Wish::Claim(partition, last, claim));
                }
                None => {}
            }
        }
    }

    /// Timers.
    pub(super) fn handle_timeout(&mut self, now: Tick) {
        for (partition, held) in &mut self.held {
            if let Stage::Surrendering(Some(until)) = held.stage
                && until <= now
            {
                held.stage = Stage::Surrendering(None);
                self.wishes.push(Wish::Cut(*partition));
            }
        }
    }

    /// `decides`: whether [`Ownership::decide`] would be called.
    pub(super) fn poll_timeout(&self, decides: bool) -> Option<Tick> {
        let patience = self.patience.filter(|_| decides && self.loaded);
        let surrenders = self.held.values().filter_map(|held| match held.stage {
            Stage::Surrendering(until) => until,
            _ => None,
        });
        surrenders.chain(patience).min()
    }

    /// True if nobody alive owns the partition.
    fn is_free(&self, me: InstanceId, peers: &Peers, partition: PartitionId) -> bool {
        let Some((_, claim)) = self.claims.get(&partition) else {
            return true;
        };
        match claim.instance {
            None => true,
            Some(owner) if owner == me => true,
            Some(owner) => peers.is_over(owner),
        }
    }

    /// Owners that are no known instance.
    pub(super) fn owners(&self) -> impl Iterator<Item = InstanceId> {
        self.claims.values().filter_map(|(_, claim)| claim.instance)
    }

    fn own(&mut self, partition: PartitionId, claim: Sequence) {
        self.former.remove(&partition);
        self.held.insert(partition, Held { claim, stage: Stage::Loading, doubtful: false });
        self.wishes.push(Wish::Own(partition, claim));
    }
}
