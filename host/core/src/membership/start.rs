//! The way in: who is there, whether this is a fresh start, who declares it, and when clients may come.

use std::time::Duration;

use super::{Membership, MembershipEffect, NotWritten, Phase, owed, peers};
use crate::documents::{BootPhase, BootRecord, Document, Expect, InstanceState, Key};
use crate::ids::Sequence;
use crate::time::{Now, Tick};

impl Membership {
    /// Looks who is there: is this a fresh start?
    pub(super) fn survey(&mut self, now: Now) {
        if !matches!(self.phase, Phase::Surveying | Phase::WaitingForBoot)
            || !self.lease.is_valid(now.tick)
            || self.boot_writing
            || self.boot_stale
            || (self.config.shared && self.clock_right != Some(true))
        {
            return;
        }
        let boot = self.boot.map(|(_, boot)| boot);
        let phase = boot.map(|boot| boot.phase);
        let settled = self.peers.iter().any(|(_, peer)| {
            !peer.suspect && (peer.is(InstanceState::Ready) || peer.is(InstanceState::Draining))
        });
        if settled {
            if phase == Some(BootPhase::Open) {
                self.enter(now);
            }
            // Else the store was recreated and its boot is about to be written again.
            return;
        }
        let starter_lives = boot
            .is_some_and(|boot| self.peers.get(boot.by).is_some_and(|peer| peer.is_alive() && !peer.suspect));
        if let Some((_, own)) = self.boot.filter(|(_, boot)| boot.by == self.instance)
            && phase == Some(BootPhase::Cleaning)
        {
            // The answer was lost, or came when the lease had been: once more, since somebody may have taken over.
            self.declare(now, own);
        } else if starter_lives && phase == Some(BootPhase::Cleaning) {
            self.phase = Phase::WaitingForBoot;
        } else if phase == Some(BootPhase::Open) && (starter_lives || self.phase == Phase::WaitingForBoot) {
            // Who has opened it may not know yet, and still be joining.
            self.enter(now);
        } else if phase == Some(BootPhase::Open) && boot.is_some_and(|boot| boot.by == self.instance) {
            // The answer was lost, and the write that was repeated was refused.
            self.claim(now);
        } else if self.ownership.is_loaded() && self.may_begin(now, phase) {
            // With the claims it is known up to where documents are of the time before.
            let generation = boot.map_or(0, |boot| boot.generation) + 1;
            self.previous = boot.map_or(0, |boot| boot.start);
            let boot = BootRecord {
                generation,
                phase: BootPhase::Cleaning,
                by: self.instance,
                start: self.config.nonce.wrapping_add(generation),
                epoch: self.epoch,
                owed: None,
                anew: false,
            };
            self.declare(now, boot);
        }
    }

    /// Declares the fresh start, for the first time or once more.
    fn declare(&mut self, now: Now, boot: BootRecord) {
        let last = self.boot.map_or(Sequence(0), |(sequence, _)| sequence);
        self.phase = Phase::Opening;
        self.declared = now.tick;
        self.write_boot(last, BootRecord { epoch: self.epoch, ..boot });
    }

    /// Whether nobody else can be there: at once where the last host has closed the deployment, in an empty store after
    /// the time in which the hosts of one that was recreated would have come back, else after a whole lease.
    fn may_begin(&self, now: Now, phase: Option<BootPhase>) -> bool {
        let unbroken =
            |before: Duration| self.lease.judges_from(now.tick).is_some_and(|from| from <= now.tick + before);
        // Whoever may still come back is declared dead first: one of the two writes takes effect.
        // (`everything` is for holders as well whose lease has run out, and no host takes renewals before it is done.)
        let may_come_back = |peer: &peers::Peer| peer.suspect && peer.holder().is_none();
        let waits_for_nobody = || !self.peers.iter().any(|(_, peer)| may_come_back(peer));
        match phase {
            Some(BootPhase::Closed) => true,
            None => !self.config.shared || unbroken(self.config.instance_ttl / 2) && waits_for_nobody(),
            Some(_) => {
                let came_in = self.came_in.is_some_and(|at| now.tick < at + self.config.instance_ttl);
                !came_in && unbroken(Duration::ZERO) && waits_for_nobody()
            }
        }
    }

    pub(super) fn write_boot(&mut self, last: Sequence, boot: BootRecord) {
        self.boot_writing = true;
        if boot.phase == BootPhase::Cleaning {
            self.effects.push_back(MembershipEffect::Declare { boot, expect: last });
        } else {
            self.write(Key::Boot, Document::Boot(boot), Expect::Last(last), None);
        }
    }

    pub(super) fn boot_written(&mut self, now: Now, boot: BootRecord, result: Result<Sequence, NotWritten>) {
        self.boot_writing = false;
        let Ok(sequence) = result else {
            self.asked_in = None;
            // Somebody else was first, or the store was recreated: look what is there.
            self.boot_stale = true;
            if self.phase == Phase::Opening {
                self.abandon_start(Phase::Surveying);
            }
            if !self.is_over() {
                self.effects.push_back(MembershipEffect::Load);
            }
            return;
        };
        if self.boot.is_none_or(|(known, _)| known <= sequence) {
            self.boot = Some((sequence, boot));
        }
        self.let_in = self.asked_in.take().or(self.let_in);
        if matches!(self.phase, Phase::Surveying | Phase::WaitingForBoot) && boot.phase == BootPhase::Open {
            // Without the lease it looks again who is there.
            if self.lease.is_valid(now.tick) {
                self.claim(now);
            }
            return;
        }
        if self.phase != Phase::Opening || boot.by != self.instance {
            return;
        }
        match boot.phase {
            BootPhase::Cleaning if self.lease.is_unbroken(self.declared, now.tick) => self.begin(now, boot),
            // It was away too long to know whose store said this, or what became of it: the survey of its next lease tells.
            BootPhase::Cleaning => self.abandon_start(Phase::Surveying),
            BootPhase::Open => self.claim(now),
            BootPhase::Closed => {}
        }
    }

    /// True if this instance has declared its fresh start in the very store that these documents are of, which got its meta
    /// record only after that. Whoever else writes the record back names itself.
    pub(super) fn begun_in(&self, documents: &[(Key, Sequence, Document)]) -> bool {
        let own = |boot: &BootRecord| {
            boot.by == self.instance
                && boot.phase == BootPhase::Open
                && boot.start == self.start
                && boot.epoch == self.epoch
        };
        let mut boots = documents.iter().filter_map(|(_, _, document)| match document {
            Document::Boot(boot) => Some(boot),
            _ => None,
        });
        self.joined > 0 && boots.any(own)
    }

    /// This instance has declared the fresh start.
    pub(super) fn begin(&mut self, now: Now, boot: BootRecord) {
        self.phase = Phase::Cleaning;
        self.everything = (false, false);
        self.belongs = Some((boot.start, self.epoch));
        // Before others are let in, who would begin to clean up after them: `everything` is for all of them. Who dies later,
        // while it runs, is not covered by it.
        self.cleanups.close_all(self.instance, &self.peers);
        self.boot_due = Some(now.tick + self.config.boot_timeout);
        self.counters.fresh_starts += 1;
        let run = owed::run_of(self.epoch, &boot);
        self.run = Some(run.clone());
        (self.owing, self.paid) = (false, false);
        self.effects.push_back(MembershipEffect::Everything(run));
        self.spare_holders(boot.start);
    }

    pub(super) fn open(&mut self) {
        if self.phase != Phase::Cleaning || self.everything != (true, true) {
            return;
        }
        let Some((sequence, boot)) = self.boot else { return };
        self.phase = Phase::Opening;
        self.boot_due = None;
        let owed = self.owing.then_some(0);
        // It was declared, perhaps, when it was not yet known that the store is another one.
        self.write_boot(sequence, BootRecord { phase: BootPhase::Open, owed, epoch: self.epoch, ..boot });
    }

    /// The boot is open: the record is written once more as it is, and then this instance is in. A last host that closes
    /// it before it has seen that somebody came is refused, or this one is, which looks again.
    pub(super) fn enter(&mut self, now: Now) {
        match self.boot {
            Some((sequence, boot)) if self.config.shared => {
                self.asked_in = Some(now.tick);
                self.write_boot(sequence, boot);
            }
            _ => self.claim(now),
        }
    }

    /// Whether a renewal would be the first that says in this store, or since the key was gone, that this instance takes part:
    /// who declares a fresh start may know nothing of it. It writes the boot record once more first, as whoever joins does,
    /// and the declaration is refused, or it is, and learns of it.
    pub(super) fn must_come_in(&self, now: Now) -> bool {
        // Whoever sees the record written again waits for a whole lease.
        let lately = |at: Tick| now.tick < at + self.config.instance_ttl / 2;
        self.config.shared
            && self.joined > 0
            && self.state != InstanceState::Joining
            && !self.lease.stands()
            && !self.let_in.is_some_and(lately)
    }

    /// Goes on with that.
    pub(super) fn come_in(&mut self, now: Now) {
        if !self.wants_in || self.boot_writing || self.boot_stale || self.unread || self.is_over() {
            return;
        }
        if !self.must_come_in(now) {
            self.wants_in = false;
            return self.renew(now);
        }
        if let Some((sequence, boot)) = self.boot.filter(|(_, boot)| boot.start == self.start) {
            self.asked_in = Some(now.tick);
            self.write_boot(sequence, BootRecord { phase: BootPhase::Open, ..boot });
        }
    }

    /// Nothing that was asked for before lets it in.
    pub(super) fn stay_out(&mut self) {
        (self.asked_in, self.let_in, self.wants_in) = (None, None, false);
    }

    pub(super) fn claim(&mut self, now: Now) {
        self.phase = Phase::Claiming;
        self.state = InstanceState::Ready;
        self.joined = self.generation();
        self.start = self.boot.map_or(0, |(_, boot)| boot.start);
        self.started_in = self.boot.map_or(0, |(_, boot)| boot.epoch);
        self.belongs = Some((self.start, self.epoch));
        self.assured = self.lease.confirmed();
        if self.joined > self.met {
            // A fresh start while this instance waited: `everything` covers whoever has no key.
            self.peers.forgive();
        }
        self.unsettled = true;
        if self.lease.is_in_flight() {
            self.lease.renew_at(now.tick + self.lease.interval() / 4);
        } else {
            self.renew(now);
        }
    }
}
