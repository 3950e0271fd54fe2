//! The other instances, as the store's bucket of instances shows them, and those that only their documents tell of.

use std::collections::BTreeMap;

use crate::documents::{CleanupPhase, HolderRecord, InstanceRecord, InstanceState};
use crate::ids::{HolderName, InstanceId, Sequence};
use crate::time::Tick;

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) record: InstanceRecord,
    /// Of the record, or of the marker that took its place.
    pub(super) sequence: Sequence,
    /// When the last renewal was seen.
    pub(super) heard: Tick,
    /// Its lease has run out and nobody has judged it yet.
    pub(super) suspect: bool,
    /// A judgement of this instance is on its way.
    pub(super) judging: bool,
    /// It has no key: only documents tell of it. Its lease is over for certain.
    pub(super) ghost: bool,
    /// Of a ghost: only a claim tells of it, no document.
    pub(super) claim_only: bool,
}

impl Peer {
    /// True while it is in this state. A suspect stays what it was until it is judged.
    pub(super) fn is(&self, state: InstanceState) -> bool {
        self.record.state == state
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.record.state, InstanceState::Joining | InstanceState::Ready | InstanceState::Draining)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.record.state == InstanceState::Dead
    }

    /// What its record says of a holder, if it is the incarnation of one.
    pub(super) fn holder(&self) -> Option<&HolderRecord> {
        self.record.holder.as_deref().filter(|holder| holder.current.is_none())
    }

    /// True of the record of a holder's name, which is nobody.
    pub(super) fn is_name(&self) -> bool {
        self.record.holder.as_ref().is_some_and(|holder| holder.current.is_some())
    }

    /// True if a host may be behind it that lives, or comes back.
    pub(super) fn is_live_host(&self) -> bool {
        self.is_alive() && !self.ghost && self.record.holder.is_none()
    }

    /// True if it is a holder whose lease was not seen to run out.
    pub(super) fn is_live_holder(&self) -> bool {
        self.holder().is_some() && self.is_alive() && !self.suspect
    }

    fn clean_up_again(&mut self) {
        if let Some(cleanup) = &mut self.record.cleanup {
            (cleanup.phase, cleanup.by) = (CleanupPhase::Telling, None);
            cleanup.round += 1;
            cleanup.settled.clear();
        }
    }
}

/// What became known of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that matters to ownership.
    None,
    /// It came, went, or is in another state.
    Changed,
    /// It was declared dead: its documents stop counting, grace counts from this time.
    Died(Tick),
}

/// An instance without a key.
#[derive(Clone, Copy, Debug)]
struct Unknown {
    /// When it was first seen.
    seen: Tick,
    /// In claims alone.
    claim_only: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<InstanceId, Peer>,
    /// Seen in documents or claims, not among the instances: since when.
    unknown: BTreeMap<InstanceId, Unknown>,
}

impl Peers {
    pub(super) fn get(&self, instance: InstanceId) -> Option<&Peer> {
        self.known.get(&instance)
    }

    pub(super) fn get_mut(&mut self, instance: InstanceId) -> Option<&mut Peer> {
        self.known.get_mut(&instance)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (InstanceId, &Peer)> {
        self.known.iter().map(|(id, peer)| (*id, peer))
    }

    /// The instances of a holder that nobody has declared dead yet, by its name.
    pub(super) fn of_holder(&self, name: &HolderName) -> impl Iterator<Item = (InstanceId, &Peer)> {
        let is =
            move |peer: &Peer| peer.is_alive() && peer.holder().is_some_and(|holder| holder.name == *name);
        self.iter().filter(move |(_, peer)| is(peer))
    }

    /// Holders that bear another fresh start than this one are suspects.
    pub(super) fn doubt_holders(&mut self, start: u64) {
        for peer in self.known.values_mut() {
            let outdated = peer.is_live_holder() && peer.holder().is_some_and(|holder| holder.start != start);
            peer.suspect |= outdated;
        }
    }

    /// Holders whose lease was not seen to run out.
    pub(super) fn live_holders(&self) -> impl Iterator<Item = InstanceId> {
        self.iter().filter(|(_, peer)| peer.is_live_holder()).map(|(id, _)| id)
    }

    pub(super) fn suspects(&self) -> usize {
        self.known.values().filter(|peer| peer.suspect).count()
    }

    /// How many living instances run other plugins than these. Who has not said which it runs is not counted.
    pub(super) fn with_other_plugins(&self, plugins: u64) -> usize {
        let others = |peer: &&Peer| ![0, plugins].contains(&peer.record.plugins);
        self.known.values().filter(|peer| peer.is_alive() && !peer.suspect).filter(others).count()
    }

    /// A record was read or changed.
    pub(super) fn take(
        &mut self,
        now: Tick,
        instance: InstanceId,
        sequence: Sequence,
        record: &InstanceRecord,
    ) -> News {
        self.unknown.remove(&instance);
        let Some(peer) = self.known.get_mut(&instance) else {
            let died = record.state == InstanceState::Dead;
            let peer = Peer {
                record: record.clone(),
                sequence,
                heard: now,
                suspect: false,
                judging: false,
                ghost: false,
                claim_only: false,
            };
            self.known.insert(instance, peer);
            return if died { News::Died(now) } else { News::Changed };
        };
        if sequence < peer.sequence {
            return News::None;
        }
        let (before, renewal, was_suspect) = (peer.record.state, peer.record.renewal, peer.suspect);
        peer.sequence = sequence;
        if before == InstanceState::Dead && record.state != InstanceState::Dead {
            // The store was recreated and with it went the record of its death, which it has not heard of: once dead,
            // always dead; what it has done since is to be cleaned up as well.
            peer.clean_up_again();
            (peer.suspect, peer.judging) = (true, false);
            return News::Changed;
        }
        // A holder that is renewed for another fresh start than before is to be looked at.
        let start = |record: &InstanceRecord| record.holder.as_ref().map(|holder| holder.start);
        let moved = start(&peer.record) != start(record);
        peer.record = record.clone();
        peer.suspect = false;
        peer.judging = false;
        peer.ghost = false;
        if record.state == InstanceState::Dead {
            let heard = peer.heard;
            return if before == InstanceState::Dead { News::Changed } else { News::Died(heard) };
        }
        if renewal != record.renewal {
            peer.heard = now;
        }
        if before == record.state && !was_suspect && !moved { News::None } else { News::Changed }
    }

    /// A record is gone: its lease ran out, or it was deleted.
    pub(super) fn gone(&mut self, instance: InstanceId, sequence: Sequence, expired: bool) -> News {
        let Some(peer) = self.known.get_mut(&instance) else {
            return News::None;
        };
        if sequence < peer.sequence {
            return News::None;
        }
        if expired && peer.is_alive() {
            peer.sequence = sequence;
            peer.suspect = true;
            return News::Changed;
        }
        self.known.remove(&instance);
        News::Changed
    }

    /// A new snapshot: what it does not name is gone. Who was alive is a suspect, whose last sequence nobody knows.
    pub(super) fn absent(&mut self, named: impl Fn(InstanceId) -> bool) {
        self.known.retain(|id, peer| {
            if named(*id) {
                return true;
            }
            if !peer.is_alive() {
                return peer.suspect;
            }
            if !peer.suspect && !peer.ghost {
                peer.suspect = true;
                peer.sequence = Sequence(0);
            }
            true
        });
    }

    /// Nobody waits for the answers of judgements that are on their way.
    pub(super) fn forget_judgements(&mut self) {
        self.known.values_mut().for_each(|peer| peer.judging = false);
    }

    /// The record of its death is not there any more, though it was not cleaned up after: it went with the store.
    pub(super) fn doubt_death(&mut self, instance: InstanceId, last: Sequence) {
        if self.is_purged(instance) {
            return;
        }
        if let Some(peer) = self.known.get_mut(&instance).filter(|peer| peer.is_dead() && !peer.suspect) {
            (peer.sequence, peer.suspect, peer.judging) = (last, true, false);
            peer.clean_up_again();
        }
    }

    /// The store was recreated: sequences begin anew.
    pub(super) fn forget_sequences(&mut self) {
        self.forget_judgements();
        for peer in self.known.values_mut() {
            peer.sequence = Sequence(0);
            // Who is dead is to be declared so again, and cleaned up after: without having heard of it he may have gone on in
            // the new store.
            if peer.is_dead() {
                peer.suspect = true;
                peer.clean_up_again();
            }
        }
    }

    /// A claim, or (not `claim_only`) a document names this instance.
    pub(super) fn seen(&mut self, now: Tick, instance: InstanceId, claim_only: bool) {
        match self.known.get_mut(&instance) {
            Some(peer) => peer.claim_only &= claim_only,
            None => {
                let unknown = self.unknown.entry(instance).or_insert(Unknown { seen: now, claim_only });
                unknown.claim_only &= claim_only;
            }
        }
    }

    /// An own renewal, sent then, has come back: who was seen before and is still unknown has no key. It becomes a
    /// suspect. True if there was any.
    pub(super) fn settle_unknown(&mut self, sent: Tick) -> bool {
        let settled: Vec<(InstanceId, Unknown)> = self
            .unknown
            .iter()
            .filter(|(_, unknown)| unknown.seen < sent)
            .map(|(id, unknown)| (*id, *unknown))
            .collect();
        for (instance, Unknown { seen, claim_only }) in &settled {
            self.unknown.remove(instance);
            let record = InstanceRecord {
                host: String::new(),
                // No candidate for anything, and it does not hold up a fresh start.
                state: InstanceState::Joining,
                started_at: Default::default(),
                renewal: 0,
                plugins: 0,
                cleanup: None,
                holder: None,
            };
            let peer = Peer {
                record,
                sequence: Sequence(0),
                heard: *seen,
                suspect: true,
                judging: false,
                ghost: true,
                claim_only: *claim_only,
            };
            self.known.insert(*instance, peer);
        }
        !settled.is_empty()
    }

    /// Forgets ghosts that only claims told of which have gone to others since.
    pub(super) fn forget_disowned(&mut self, owns: impl Fn(InstanceId) -> bool) {
        self.known.retain(|id, peer| !(peer.ghost && peer.claim_only) || owns(*id));
    }

    pub(super) fn has_unknown(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// A fresh start: whoever has no key is none of anybody's business any more. If it comes back, it finds a newer
    /// generation.
    pub(super) fn forgive(&mut self) {
        self.unknown.clear();
        self.known.retain(|_, peer| !(peer.ghost || peer.suspect && peer.is_alive()));
    }

    /// True if nobody can act as this instance: it is dead, has left, or has no key.
    pub(super) fn is_over(&self, instance: InstanceId) -> bool {
        match self.known.get(&instance) {
            Some(peer) => peer.ghost || !peer.is_alive(),
            None => !self.unknown.contains_key(&instance),
        }
    }

    /// True if nobody needs its documents: it was cleaned up after, has left, or is nowhere. A ghost is yet to be judged.
    pub(super) fn is_settled(&self, instance: InstanceId) -> bool {
        match self.known.get(&instance) {
            Some(peer) if peer.is_dead() => self.is_purged(instance),
            Some(peer) => !peer.ghost && !peer.is_alive(),
            None => !self.unknown.contains_key(&instance),
        }
    }

    /// Documents of a dead instance never count.
    pub(super) fn is_dead(&self, instance: InstanceId) -> bool {
        self.known.get(&instance).is_some_and(Peer::is_dead)
    }

    /// Its documents were purged: what still comes is a late write.
    pub(super) fn is_purged(&self, instance: InstanceId) -> bool {
        self.known.get(&instance).is_some_and(|peer| {
            peer.record.cleanup.as_ref().is_some_and(|cleanup| cleanup.phase == CleanupPhase::Purged)
        })
    }

    /// Ready instances; without one, the draining one that leaves last.
    pub(super) fn candidates(&self, own: Option<(InstanceId, InstanceState)>) -> Vec<InstanceId> {
        let all = || {
            let peers = self.known.iter().map(|(id, peer)| (*id, peer.record.state));
            peers.chain(own)
        };
        let in_state = |wanted| move |(id, state)| (state == wanted).then_some(id);
        let mut ready: Vec<InstanceId> = all().filter_map(in_state(InstanceState::Ready)).collect();
        if ready.is_empty() {
            ready.extend(all().filter_map(in_state(InstanceState::Draining)).max());
        }
        ready.sort_unstable();
        ready
    }
}
