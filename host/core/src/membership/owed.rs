//! `everything` that some plugin could not take before the boot was opened without it: it is owed. Others may have told that
//! plugin's receivers of users meanwhile, who are forgotten once it succeeds: then every present user is decided anew.
//!
//! The boot record says that it is owed and who sees to it. Whoever takes over from one that is gone, or writes the record
//! into a store that was recreated, runs it again under another run, for every plugin. So does an instance that finds, in a
//! recreated store, another fresh start than its own that was written back: its own may have had receivers forget whom the
//! others told of. Who writes it back and was away for so long that another one may have come in between, of which nobody
//! is left, has every present user told of once more (`anew`).

use std::sync::Arc;

use crate::assignment::desired_cleaner;
use crate::documents::{BootPhase, BootRecord};
use crate::ids::Sequence;
use crate::time::{Now, Tick};

use super::{Membership, MembershipEffect, Phase};

impl Membership {
    /// The hook `cleanup` with `everything` is settled for every plugin, for this run.
    pub fn handle_everything_settled(&mut self, run: &str) {
        if self.run.as_deref() != Some(run) {
            return;
        }
        let early = self.phase == Phase::Cleaning && !self.owing;
        self.everything.0 = true;
        self.owing = false;
        if early {
            self.open();
        } else {
            self.effects.push_back(MembershipEffect::DecideAnew(run.into()));
        }
    }

    /// After [`MembershipEffect::DecideAnew`]: every present user's status is told once more.
    pub fn handle_decided_anew(&mut self, now: Now, run: &str) {
        if self.run.as_deref() == Some(run) {
            self.paid = true;
            self.settle(now);
        }
    }

    /// What the boot record of a store that was recreated says: who writes it begins again.
    pub(super) fn owed_again(&self) -> Option<u32> {
        self.owed.map(|taken| taken + 1)
    }

    /// Goes on with what is owed, if it is this instance's to do so.
    pub(super) fn settle_owed(&mut self, now: Now) {
        let Some((sequence, boot)) = self.boot.filter(|(_, boot)| boot.phase == BootPhase::Open) else {
            return;
        };
        (self.owed, self.anew) = (boot.owed, boot.anew);
        if !matches!(self.phase, Phase::Claiming | Phase::Ready)
            || self.boot_writing
            || self.boot_stale
            || !self.lease.is_valid(now.tick)
        {
            return;
        }
        // Unless another one has seen to it in this store.
        let estranged = self.estranged == Some(boot.start) && boot.epoch != self.epoch;
        let Some(taken) = boot.owed else {
            if estranged {
                self.write_boot(sequence, BootRecord { by: self.instance, owed: Some(1), ..boot });
            } else {
                self.settle_anew(now, sequence, boot);
            }
            return;
        };
        self.estranged = None;
        if boot.by != self.instance {
            self.give_up_run();
            if self.inherits(&boot) {
                let boot = BootRecord { by: self.instance, owed: Some(taken + 1), ..boot };
                self.write_boot(sequence, boot);
            }
            return;
        }
        let run = run_of(self.epoch, &boot);
        if self.run.as_deref() != Some(&*run) {
            self.give_up_run();
            self.run = Some(run.clone());
            self.owing = true;
            self.paid = false;
            self.effects.push_back(MembershipEffect::Everything(run));
        } else if self.paid {
            self.write_boot(sequence, BootRecord { owed: None, epoch: self.epoch, ..boot });
        }
    }

    /// Whether it is this instance's to go on with what one that is gone has begun.
    fn inherits(&self, boot: &BootRecord) -> bool {
        let candidates = self.peers.candidates(Some((self.instance, self.state)));
        self.peers.is_over(boot.by) && desired_cleaner(boot.by, &candidates) == Some(self.instance)
    }

    /// Whether who writes the boot record into a store that was recreated can't vouch that no fresh start came in between: a
    /// host that did not see this instance may have declared one, half a lease after its own had begun
    /// ([`may_begin`](Membership::may_begin)), and may be gone with its store.
    pub(super) fn is_to_be_told_anew(&self, now: Now) -> bool {
        let lately = |at: Tick| now.tick <= at + self.config.instance_ttl / 2;
        self.anew || !self.assured.is_some_and(lately)
    }

    /// True while it waits for the time to do so.
    pub(super) fn has_to_tell_anew(&self) -> bool {
        self.boot.is_some_and(|(_, boot)| boot.anew && boot.by == self.instance) && self.takes_part()
    }

    /// Has every present user told of once more, for a receiver may have forgotten them; not before a whole lease, as
    /// long as the hooks of another fresh start may go on at most after its store was lost.
    fn settle_anew(&mut self, now: Now, sequence: Sequence, boot: BootRecord) {
        if !boot.anew {
            return;
        }
        if boot.by != self.instance {
            if self.inherits(&boot) {
                self.write_boot(sequence, BootRecord { by: self.instance, ..boot });
            }
            return;
        }
        if self.lease.judges_from(now.tick).is_none_or(|from| from > now.tick) {
            return;
        }
        let run = format!("{}-anew", run_of(self.epoch, &boot));
        if self.run.as_deref() != Some(&*run) {
            self.give_up_run();
            let run: Arc<str> = run.into();
            self.run = Some(run.clone());
            self.paid = false;
            self.effects.push_back(MembershipEffect::DecideAnew(run));
        } else if self.paid {
            self.write_boot(sequence, BootRecord { anew: false, ..boot });
        }
    }

    /// Another instance sees to it now, or this one does so under another run.
    pub(super) fn give_up_run(&mut self) {
        if self.run.take().is_some() && std::mem::take(&mut self.owing) {
            self.effects.push_back(MembershipEffect::Abandon);
        }
    }
}

/// Part of the event id of `everything`: the same for every attempt, another one whenever it begins again.
pub(super) fn run_of(epoch: u64, boot: &BootRecord) -> Arc<str> {
    let generation = boot.generation;
    match boot.owed {
        None | Some(0) => format!("{epoch:x}-{generation}-0").into(),
        Some(taken) => format!("{epoch:x}-{generation}.{taken}-0").into(),
    }
}
