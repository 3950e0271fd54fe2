//! What a run comes to, in a few lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::plan::Plan;
use super::verdict::{Evidence, Violation};

/// The outcome of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Sessions that were welcomed.
    pub sessions: usize,
    /// Distinct (user, revision) that the receiver heard.
    pub transitions: usize,
    /// Deliveries whose event id was heard before.
    pub repeats: usize,
    /// Status calls that arrived after a newer one.
    pub late: usize,
    /// Instances whose cleanup was heard.
    pub cleanups: usize,
    /// Fresh starts that were heard of.
    pub fresh_starts: usize,
    /// Second welcomes.
    pub announced_again: usize,
    /// How long after the last fault all was right.
    pub settled: Duration,
    /// What is wrong, each with its story.
    pub violations: Vec<Violation>,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        evidence: &Evidence,
        mut violations: Vec<Violation>,
        settled: Duration,
    ) -> Report {
        for problem in &evidence.kept.problems {
            violations.push(Violation { invariant: "problem", story: problem.clone() });
        }
        let mut ids = BTreeSet::new();
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        let (mut transitions, mut lost, mut everything) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut repeats, mut late) = (0, 0);
        for heard in &evidence.heard {
            let repeat = !ids.insert(heard.text("/id"));
            repeats += usize::from(repeat);
            match heard.text("/type") {
                "user-online" | "user-idle" | "user-offline" => {
                    let (user, revision) = (heard.text("/data/user"), heard.number("/data/revision"));
                    transitions.insert((user, revision));
                    let known = newest.entry(user).or_default();
                    late += usize::from(revision < *known);
                    *known = revision.max(*known);
                }
                "cleanup" if heard.text("/data/scope") == "everything" => {
                    everything.insert(heard.text("/id"));
                }
                "cleanup" => {
                    lost.insert(heard.text("/data/scope/lost/instance"));
                }
                _ => {}
            }
        }
        Report {
            seed: plan.seed,
            faults: evidence.kept.faults.clone(),
            sessions: evidence.kept.sessions.len(),
            transitions: transitions.len(),
            repeats,
            late,
            cleanups: lost.len(),
            fresh_starts: everything.len(),
            announced_again: evidence.kept.sessions.iter().filter(|note| note.again).count(),
            settled,
            violations,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed                      {:>10}", self.seed)?;
        for (kind, count) in &self.faults {
            writeln!(f, "{kind:<25} {count:>10}")?;
        }
        for (what, count) in [
            ("sessions", self.sessions),
            ("transitions", self.transitions),
            ("repeats (equal event ids)", self.repeats),
            ("late status calls", self.late),
            ("instances cleaned up", self.cleanups),
            ("fresh starts", self.fresh_starts),
            ("second welcomes", self.announced_again),
        ] {
            writeln!(f, "{what:<25} {count:>10}")?;
        }
        writeln!(f, "{:<25} {:>8.1} s", "right after", self.settled.as_secs_f64())?;
        writeln!(f, "{:<25} {:>10}", "violations", self.violations.len())?;
        for violation in &self.violations {
            writeln!(f, "\n{violation}")?;
        }
        Ok(())
    }
}
