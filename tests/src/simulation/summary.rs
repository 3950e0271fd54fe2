//! Many runs together: how often each fault and each rare path occurred. What never occurs is not tested, and says so.

use std::collections::BTreeMap;

use super::faults::Fault;
use super::history::Report;

/// Paths that only occur when things go wrong, and must.
const RARE: [&str; 16] = [
    "takeover",
    "handover",
    "death",
    "another life",
    "session announced again",
    "session hooks of another life dropped",
    "refused by a fence",
    "cleanup resumed by another",
    "fresh start",
    "fresh start taken over",
    "store recreated",
    "renewal wiped by the marker behind it",
    "request that arrived late",
    "call that arrived late",
    "call cut",
    "follower lost",
];

/// The sum of many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many runs.
    pub runs: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        for (what, times) in &report.counts {
            *self.counts.entry(what).or_default() += times;
        }
    }

    /// Adds other runs.
    pub fn merge(&mut self, other: &Summary) {
        self.runs += other.runs;
        for (what, times) in &other.counts {
            *self.counts.entry(what).or_default() += times;
        }
    }

    /// Faults and rare paths that never occurred.
    pub fn missing(&self) -> Vec<&'static str> {
        expected().filter(|what| !self.counts.contains_key(what)).collect()
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for what in expected() {
            writeln!(f, "{:>9} {what}", self.counts.get(what).copied().unwrap_or(0))?;
        }
        for (what, times) in self.counts.iter().filter(|(what, _)| !expected().any(|one| one == **what)) {
            writeln!(f, "{times:>9} {what}")?;
        }
        Ok(())
    }
}

fn expected() -> impl Iterator<Item = &'static str> {
    Fault::ALL.iter().map(|fault| fault.name()).chain(RARE)
}
