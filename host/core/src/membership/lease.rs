//! The own key in the store: renewed by compare-and-set, believed only when the own watch has shown it.
//!
//! Rules (DESIGN section 4): a renewal counts from before it was sent; it counts when the watch shows it and no marker
//! after it, since an acknowledged renewal near the end of the old lease may be wiped by the marker right behind it; one
//! without an answer is given up after an interval. The next one then carries the same expectation, so that at most one
//! of them takes effect.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::Sequence;
use crate::time::Tick;

/// So many renewals are remembered until the watch shows them.
const MAX_UNSEEN: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Lease {
    ttl: Duration,
    /// The own key's last sequence, of a document or of the marker after it; 0 before the first write.
    last: Sequence,
    /// That is of a document which says that the instance takes part: it was shown or read.
    stands: bool,
    /// The number of the newest renewal.
    renewals: u64,
    /// The renewal that waits for its answer.
    in_flight: Option<(u64, Tick)>,
    /// Renewals that the watch has not shown yet, and when each was sent.
    unseen: VecDeque<(u64, Tick)>,
    /// When the last renewal that the watch has shown was sent; none while there is no lease.
    confirmed: Option<Tick>,
    /// Since when renewals were confirmed without a gap.
    unbroken: Option<Tick>,
    next: Option<Tick>,
}

impl Lease {
    pub(super) fn new(ttl: Duration) -> Lease {
        Lease {
            ttl,
            last: Sequence(0),
            stands: false,
            renewals: 0,
            in_flight: None,
            unseen: VecDeque::new(),
            confirmed: None,
            unbroken: None,
            next: None,
        }
    }

    pub(super) fn last(&self) -> Sequence {
        self.last
    }

    /// True if the own key was last seen to say that the instance takes part.
    pub(super) fn stands(&self) -> bool {
        self.stands
    }

    /// How often the lease is renewed.
    pub(super) fn interval(&self) -> Duration {
        self.ttl / 3
    }

    /// Begins a renewal: its number. The caller sends it with the expectation [`Lease::last`].
    pub(super) fn send(&mut self, now: Tick) -> u64 {
        self.renewals += 1;
        self.in_flight = Some((self.renewals, now));
        if self.unseen.len() == MAX_UNSEEN {
            self.unseen.pop_front();
        }
        self.unseen.push_back((self.renewals, now));
        self.next = Some(now + self.interval());
        self.renewals
    }

    /// True while a renewal waits for its answer and is not given up.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// A renewal was written.
    pub(super) fn written(&mut self, renewal: u64, sequence: Sequence) {
        self.last = self.last.max(sequence);
        self.answered(renewal);
    }

    /// A renewal was certainly not written, or nobody knows: it is repeated at `again`, as another one.
    pub(super) fn failed(&mut self, renewal: u64, again: Tick) {
        if self.answered(renewal) {
            self.next = Some(self.next.map_or(again, |next| next.min(again)));
        }
    }

    fn answered(&mut self, renewal: u64) -> bool {
        let waited = self.in_flight.is_some_and(|(number, _)| number == renewal);
        if waited {
            self.in_flight = None;
        }
        waited
    }

    /// What the store was found to hold under the own key: the last sequence, and whether it is of a document that says that
    /// the instance takes part.
    pub(super) fn found(&mut self, last: Sequence, stands: bool, now: Tick) {
        (self.last, self.stands) = (last, stands);
        self.in_flight = None;
        self.next = Some(now);
    }

    /// The watch shows a renewal, and whether it says that the instance takes part. True if that gives or prolongs the lease.
    pub(super) fn shown(&mut self, renewal: u64, sequence: Sequence, stands: bool) -> bool {
        if sequence < self.last && self.confirmed.is_none() {
            // A marker behind it is known already.
            return false;
        }
        if sequence >= self.last {
            (self.last, self.stands) = (sequence, stands);
        }
        let Some(at) = self.unseen.iter().position(|(number, _)| *number == renewal) else {
            return false;
        };
        let (_, sent) = self.unseen[at];
        self.unseen.drain(..=at);
        let gap = self.confirmed.map(|before| sent.since(before));
        if gap.is_none_or(|gap| gap > self.interval() * 3 / 2) {
            self.unbroken = Some(sent);
        }
        self.confirmed = Some(sent);
        true
    }

    /// The watch shows that the lease has run out.
    pub(super) fn ran_out(&mut self, marker: Sequence, now: Tick) {
        if marker < self.last {
            return;
        }
        (self.last, self.stands) = (marker, false);
        self.in_flight = None;
        self.unseen.clear();
        self.confirmed = None;
        self.unbroken = None;
        self.next = Some(now);
    }

    /// A snapshot has nothing under the own key, or the store was recreated.
    pub(super) fn vanished(&mut self, now: Tick) {
        (self.last, self.stands) = (Sequence(0), false);
        self.in_flight = None;
        self.unseen.clear();
        self.confirmed = None;
        self.unbroken = None;
        self.next = Some(now);
    }

    /// The instance was declared dead: nothing that is shown yet gives a lease.
    pub(super) fn end(&mut self) {
        self.in_flight = None;
        self.unseen.clear();
        (self.confirmed, self.unbroken, self.next) = (None, None, None);
    }

    /// Until when this instance may act on its lease; none without one.
    pub(super) fn valid_until(&self) -> Option<Tick> {
        self.confirmed.map(|sent| sent + self.ttl)
    }

    pub(super) fn is_valid(&self, now: Tick) -> bool {
        self.valid_until().is_some_and(|until| now < until)
    }

    /// When the newest confirmed renewal was sent.
    pub(super) fn confirmed(&self) -> Option<Tick> {
        self.confirmed
    }

    /// From when on this instance may judge others, if nothing breaks the lease before: after a whole lease without a
    /// gap, so that after an outage everybody has had the time to come back.
    pub(super) fn judges_from(&self, now: Tick) -> Option<Tick> {
        let confirmed = self.confirmed?;
        if now.since(confirmed) > self.interval() * 3 / 2 {
            return None;
        }
        self.unbroken.map(|since| since + self.ttl)
    }

    /// True if there has been a lease from then on.
    pub(super) fn is_unbroken(&self, from: Tick, now: Tick) -> bool {
        self.is_valid(now) && self.unbroken.is_some_and(|since| since <= from)
    }

    /// Since when the lease is unbroken, as far as [`Lease::judges_from`] says anything.
    pub(super) fn unbroken_since(&self, now: Tick) -> Option<Tick> {
        self.judges_from(now).and(self.unbroken)
    }

    /// When the next renewal is due; an unanswered one is given up then.
    pub(super) fn next(&self) -> Option<Tick> {
        self.next
    }

    pub(super) fn renew_at(&mut self, at: Tick) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Nothing is to be sent before this time.
    pub(super) fn wait(&mut self, until: Tick) {
        self.next = Some(until);
    }

    pub(super) fn stop(&mut self) {
        self.next = None;
    }
}
