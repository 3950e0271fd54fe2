//! What happened in one run: lines with virtual time, counts, broken invariants. Knows nothing of what the lines say.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// So many lines are kept, the newest.
const MAX_LINES: usize = 20_000;

/// So many broken invariants are kept, the first.
const MAX_VIOLATIONS: usize = 16;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Virtual milliseconds since the start.
    pub at: u64,
    /// `I1` to `I9`.
    pub invariant: &'static str,
    /// What was expected and what was seen.
    pub details: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken at {:.3} s: {}", self.invariant, self.at as f64 / 1e3, self.details)
    }
}

/// The record of a run. Lines are only kept, and hashed, where somebody wants them.
pub struct History {
    keep: bool,
    lines: VecDeque<String>,
    dropped: u64,
    hash: u64,
    counts: BTreeMap<&'static str, u64>,
    violations: Vec<Violation>,
}

impl History {
    pub(super) fn new(keep: bool) -> History {
        History {
            keep,
            lines: VecDeque::new(),
            dropped: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            counts: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, at: u64, what: fmt::Arguments<'_>) {
        if !self.keep {
            return;
        }
        let line = format!("{:>9.3} {what}", at as f64 / 1e3);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn violate(&mut self, at: u64, invariant: &'static str, details: String) {
        let violation = Violation { at, invariant, details };
        self.note(at, format_args!("!!!! {violation}"));
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    /// What is left of it when the run is over.
    pub(super) fn into_report(self, seed: u64) -> Report {
        Report {
            seed,
            hash: self.hash,
            counts: self.counts,
            violations: self.violations,
            lines: self.lines.into(),
            dropped: self.dropped,
        }
    }
}

/// The outcome of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Everything came from it.
    pub seed: u64,
    /// Of all lines: two runs of one seed have the same. Only with the history kept.
    pub hash: u64,
    /// How often each fault and each rare path occurred.
    pub counts: BTreeMap<&'static str, u64>,
    /// Empty if all is well.
    pub violations: Vec<Violation>,
    /// The history, if it was kept: the newest lines.
    pub lines: Vec<String>,
    /// So many older lines are not there.
    pub dropped: u64,
}
