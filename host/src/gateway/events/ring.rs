//! The newest transitions of the deployment, kept once for all readers of a host: each reader has a place in them, and one
//! who is too slow falls out. It knows neither sockets nor stores.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use presence_core::events::Status;
use presence_core::ids::{Sequence, UserId};

/// What readers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A user's status changed.
    Transition(UserId, Status),
    /// Something was missed: whatever readers know may be out of date.
    Reset,
}

/// Something to be told, and how it is written.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// Where it stands in the store.
    pub(super) sequence: Sequence,
    pub(super) what: What,
    pub(super) frame: Bytes,
}

/// Places count what was ever pushed.
pub(super) type Place = u64;

/// The newest of what was told.
pub(super) struct Ring {
    limit: usize,
    /// The place of the first that is kept.
    first: Place,
    kept: VecDeque<Arc<Told>>,
    /// From this place on everything after this sequence is here.
    base: (Place, Sequence),
    /// How far the store was followed.
    last: Sequence,
}

/// A reader is too far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overtaken;

impl Ring {
    /// Everything after `from` will be pushed.
    pub(super) fn new(limit: usize, from: Sequence) -> Ring {
        Ring { limit: limit.max(1), first: 0, kept: VecDeque::new(), base: (0, from), last: from }
    }

    /// Pushes what comes next.
    pub(super) fn push(&mut self, told: Told) {
        if told.what == What::Reset {
            self.base = (self.end() + 1, told.sequence);
        }
        self.last = told.sequence;
        self.kept.push_back(Arc::new(told));
        while self.kept.len() > self.limit {
            if let Some(gone) = self.kept.pop_front() {
                self.first += 1;
                if self.base.0 < self.first {
                    self.base = (self.first, gone.sequence);
                }
            }
        }
    }

    /// The place of what is pushed next.
    pub(super) fn end(&self) -> Place {
        self.first + self.kept.len() as u64
    }

    /// The sequence of what was pushed last, or the one it began after.
    pub(super) fn last(&self) -> Sequence {
        self.last
    }

    /// The place of what comes after this sequence; none if some of that is not here.
    pub(super) fn after(&self, sequence: Sequence) -> Option<Place> {
        if sequence < self.base.1 {
            return None;
        }
        let from = (self.base.0 - self.first) as usize;
        let since = self.kept.range(from..);
        Some(self.base.0 + since.take_while(|told| told.sequence <= sequence).count() as u64)
    }

    /// At most `most` from this place on.
    pub(super) fn read(&self, place: Place, most: usize) -> Result<Vec<Arc<Told>>, Overtaken> {
        let from = place.checked_sub(self.first).ok_or(Overtaken)?;
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.kept.len());
        Ok(self.kept.range(from..).take(most).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sequence: u64) -> Told {
        let what = What::Transition(UserId::new("alice").unwrap(), Status::Online);
        Told { sequence: Sequence(sequence), what, frame: Bytes::new() }
    }

    fn reset(sequence: u64) -> Told {
        Told { what: What::Reset, ..told(sequence) }
    }

    fn sequences(ring: &Ring, place: Place, most: usize) -> Result<Vec<u64>, Overtaken> {
        Ok(ring.read(place, most)?.iter().map(|told| told.sequence.0).collect())
    }

    #[test]
    fn readers_go_on_where_they_were() {
        let mut ring = Ring::new(10, Sequence(5));
        assert_eq!((ring.end(), ring.last(), ring.after(Sequence(5))), (0, Sequence(5), Some(0)));
        [7, 9, 12].into_iter().for_each(|sequence| ring.push(told(sequence)));
        assert_eq!(sequences(&ring, 0, 2), Ok(vec![7, 9]));
        assert_eq!(sequences(&ring, 2, 2), Ok(vec![12]));
        assert_eq!(sequences(&ring, 3, 2), Ok(vec![]));
        let places = [4, 5, 7, 8, 12, 20].map(|sequence| ring.after(Sequence(sequence)));
        assert_eq!(places, [None, Some(0), Some(1), Some(1), Some(3), Some(3)]);
    }

    #[test]
    fn only_the_newest_are_kept_and_who_is_behind_is_told_i8() {
        let mut ring = Ring::new(2, Sequence(0));
        (1..=4).for_each(|sequence| ring.push(told(sequence)));
        assert_eq!(ring.kept.len(), 2);
        assert_eq!((sequences(&ring, 1, 9), sequences(&ring, 2, 9)), (Err(Overtaken), Ok(vec![3, 4])));
        assert_eq!([1, 2, 3].map(|sequence| ring.after(Sequence(sequence))), [None, Some(2), Some(3)]);
    }

    #[test]
    fn nothing_of_before_a_reset_is_counted_on() {
        let mut ring = Ring::new(10, Sequence(100));
        ring.push(told(150));
        ring.push(reset(3));
        ring.push(told(4));
        assert_eq!(sequences(&ring, 0, 9), Ok(vec![150, 3, 4]), "who was reading is told of the reset");
        assert_eq!([2, 3, 4].map(|sequence| ring.after(Sequence(sequence))), [None, Some(2), Some(3)]);
    }
}
