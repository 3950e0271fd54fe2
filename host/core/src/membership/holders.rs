//! Holders, as far as they are instances: who they are, how long their sessions may be announced, and how a fresh start
//! spares them.

use std::time::Duration;

use super::{HolderView, Membership, MembershipEffect, Phase, peers};
use crate::documents::{Document, Expect, InstanceRecord, InstanceState, Key};
use crate::holders::Rejected;
use crate::ids::{HolderName, Incarnation, InstanceId};
use crate::time::Now;

/// After an outage a holder has the time of its lease to come back, but no more than this.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

impl Membership {
    /// The incarnation of a holder, unless it was declared dead.
    pub fn holder(&self, name: &HolderName, incarnation: &Incarnation) -> Option<HolderView> {
        let named = self.peers.get(name.key());
        let named_at = named.map(|peer| peer.sequence);
        let named =
            named.and_then(|peer| peer.record.holder.as_deref()).filter(|holder| holder.name == *name);
        let same = |peer: &peers::Peer| {
            peer.record.holder.as_ref().is_some_and(|holder| holder.incarnation == *incarnation)
        };
        let has_it = named.filter(|holder| holder.incarnation == *incarnation).map(|holder| holder.current);
        let living = || self.peers.of_holder(name).filter(|(_, peer)| same(peer));
        let (instance, peer) =
            living().find(|(instance, _)| has_it == Some(Some(*instance))).or_else(|| living().next())?;
        let mut view = self.view_of(instance, peer);
        view.confirmed = match (named, has_it) {
            (_, Some(current)) => current == Some(instance),
            (Some(_), None) => false,
            // The name may be forgotten while its holder lives; who is renewed was answered before.
            (None, None) => peer.record.renewal > 1,
        };
        view.replaced = named
            .filter(|_| has_it.is_none() && named_at.is_some_and(|at| at > peer.sequence))
            .map(|holder| holder.incarnation.clone());
        Some(view)
    }

    /// The holder that is this instance, unless it was declared dead: whoever asks knows that it has the name.
    pub fn holder_at(&self, instance: InstanceId) -> Option<HolderView> {
        let peer = self.peers.get(instance).filter(|peer| peer.is_alive() && peer.holder().is_some())?;
        Some(HolderView { confirmed: true, ..self.view_of(instance, peer) })
    }

    /// What it means that a session of this holder is not there; `found` is the holder's record, read after that. Its
    /// documents are removed once it is dead, and by a fresh start if its lease was over by then: that start's holders bear
    /// it, so only who bears it, and is told so by a host that belongs to it, lacks this session alone.
    pub fn absence(&self, now: Now, instance: InstanceId, found: Option<&InstanceRecord>) -> Rejected {
        if found.is_some_and(|record| record.state == InstanceState::Dead) {
            return Rejected::Gone;
        }
        if !self.is_ready() || !self.may_act(now) {
            return Rejected::Unsure;
        }
        match self.holder_at(instance) {
            None => Rejected::Gone,
            Some(view) if view.outdated => Rejected::Gone,
            // The watch may not have shown yet that its lease is over.
            Some(view) if view.suspect || found.is_none() => Rejected::Lapsed,
            Some(_) => Rejected::Unknown,
        }
    }

    fn view_of(&self, instance: InstanceId, peer: &peers::Peer) -> HolderView {
        let outdated = peer.holder().is_some_and(|holder| holder.start != self.start);
        HolderView {
            instance,
            sequence: peer.sequence,
            record: peer.record.clone(),
            suspect: peer.suspect,
            outdated,
            confirmed: false,
            replaced: None,
        }
    }

    /// The fresh start that this instance belongs to: holders bear it.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// All instances of a holder, by its name, that nobody has declared dead.
    pub fn holder_instances(&self, name: &HolderName) -> Vec<InstanceId> {
        self.peers.of_holder(name).map(|(instance, _)| instance).collect()
    }

    /// True while sessions of this holder may be announced: it was heard of in the first two thirds of its lease, so
    /// that whatever is in the store by now was there before anybody could declare it dead.
    pub fn announces(&self, now: Now, instance: InstanceId) -> bool {
        self.peers.get(instance).is_some_and(|peer| {
            let lease = peer.holder().map_or(0, |holder| holder.lease_ms);
            peer.is_live_holder() && now.tick < peer.heard + Duration::from_millis(lease / 3 * 2)
        })
    }

    /// Holders that live bear this fresh start from now on, by compare-and-set: who renews one without knowing of it meets
    /// that record. Then everybody else's documents go.
    pub(super) fn spare_holders(&mut self, start: u64) {
        let previous = self.previous;
        let bears = |peer: &peers::Peer| peer.holder().is_some_and(|holder| holder.start == previous);
        let living = self.peers.iter().filter(|(_, peer)| peer.is_live_holder() && bears(peer));
        (self.sparing, self.spared) = (living.map(|(instance, _)| instance).collect(), Vec::new());
        for instance in self.sparing.clone() {
            let Some(peer) = self.peers.get(instance) else { continue };
            let (mut record, sequence) = (peer.record.clone(), peer.sequence);
            record.renewal += 1;
            let Some(holder) = &mut record.holder else { continue };
            holder.start = start;
            let lease = Some(Duration::from_millis(holder.lease_ms));
            self.write(Key::Instance(instance), Document::Instance(record), Expect::Last(sequence), lease);
        }
        self.purge_once_spared();
    }

    /// What became of the record of a holder that is to be spared.
    pub(super) fn holder_spared(&mut self, instance: InstanceId, written: bool) {
        if self.sparing.remove(&instance) {
            self.spared.extend(written.then_some(instance));
            if self.phase == Phase::Cleaning {
                self.purge_once_spared();
            }
        }
    }

    fn purge_once_spared(&mut self) {
        if self.sparing.is_empty() {
            let spared = std::mem::take(&mut self.spared);
            self.effects.push_back(MembershipEffect::PurgeAll(spared));
        }
    }
}
