//! What a run found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::held::Held;
use super::session::{Heard, Note};
use crate::table::{printable, table};

/// How long something took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Latency {
    /// Of nothing, nothing.
    pub(super) fn of(mut values: Vec<Duration>) -> Option<Latency> {
        values.sort_unstable();
        let at = |share: f64| {
            let place = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
            values.get(place).map(|value| value.as_secs_f64() * 1e3)
        };
        Some(Latency { p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: at(1.0)? })
    }
}

/// Everything that a run found. A figure that was not measured is null.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    urls: Vec<String>,
    sessions: usize,
    pub(super) opened: usize,
    pub(super) opens_a_second: f64,
    pub(super) open: Option<Latency>,
    /// Sessions that were not let in, by what the host said.
    pub(super) refused: BTreeMap<String, usize>,
    /// Resident bytes of the host for each session; needs `--admin` and a host that nobody else uses.
    pub(super) bytes_a_session: Option<u64>,
    pub(super) changes_a_second: f64,
    /// From when `set_status` was due to its `ok`.
    pub(super) changes: Option<Latency>,
    pub(super) changes_refused: usize,
    pub(super) changes_unanswered: usize,
    /// From `set_status` to what a session of the same user is told at the next address.
    pub(super) hearing: Option<Latency>,
    pub(super) watchers: usize,
    /// From `set_status` to what each watcher is told.
    pub(super) fan_out: Option<Latency>,
    /// These sessions may watch only themselves: there was no fan-out.
    pub(super) fan_out_forbidden: bool,
    pub(super) slow: usize,
    /// The same beside sessions that do not read.
    pub(super) fan_out_beside_slow: Option<Latency>,
    /// Transitions that somebody waited for and was not told.
    pub(super) unheard: usize,
    /// Sessions that ended though nobody asked for it.
    pub(super) lost: usize,
    pub(super) closed_ms: f64,
    /// Sessions that a backend holds.
    pub(super) held: Option<Held>,
}

impl Report {
    pub(super) fn new(urls: &[String], sessions: usize) -> Report {
        Report {
            urls: urls.to_vec(),
            sessions,
            opened: 0,
            opens_a_second: 0.0,
            open: None,
            refused: BTreeMap::new(),
            bytes_a_session: None,
            changes_a_second: 0.0,
            changes: None,
            changes_refused: 0,
            changes_unanswered: 0,
            hearing: None,
            watchers: 0,
            fan_out: None,
            fan_out_forbidden: false,
            slow: 0,
            fan_out_beside_slow: None,
            unheard: 0,
            lost: 0,
            closed_ms: 0.0,
            held: None,
        }
    }

    /// Takes an answer to a change.
    pub(super) fn take(
        &mut self,
        note: &Note,
        pending: &mut BTreeMap<u64, Instant>,
        latencies: &mut Vec<Duration>,
    ) {
        match note.heard {
            Heard::Done(number) => {
                if let Some(due) = pending.remove(&number) {
                    latencies.push(note.at.saturating_duration_since(due));
                }
            }
            Heard::Refused(Some(number), _) => {
                self.changes_refused += usize::from(pending.remove(&number).is_some());
            }
            _ => {}
        }
    }

    /// Everything that was asked was done.
    pub(super) fn is_clean(&self) -> bool {
        self.refused.is_empty()
            && self.held.as_ref().is_none_or(|held| held.refused == 0)
            && self.changes_refused + self.changes_unanswered + self.unheard + self.lost == 0
    }

    /// The reasons of refusals in one line.
    pub(super) fn why(&self) -> String {
        let reasons = self.refused.iter().map(|(why, count)| format!("{count} × {}", printable(why)));
        reasons.collect::<Vec<_>>().join("; ")
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |what: String, latency: Option<Latency>, figure: String| {
            let cell = |of: fn(&Latency) -> f64| {
                latency.as_ref().map_or("-".into(), |it| format!("{:.2} ms", of(it)))
            };
            rows.push(vec![what, cell(|it| it.p50_ms), cell(|it| it.p99_ms), cell(|it| it.max_ms), figure]);
        };
        row(
            format!("open {} sessions", self.opened),
            self.open,
            format!("{:.0} a second", self.opens_a_second),
        );
        if let Some(bytes) = self.bytes_a_session {
            row("memory of the host".into(), None, format!("{bytes} bytes a session"));
        }
        row("set_status to ok".into(), self.changes, format!("{:.0} a second", self.changes_a_second));
        row("set_status, heard at the next address".into(), self.hearing, String::new());
        match self.fan_out_forbidden {
            true => {
                row("fan-out".into(), None, "not measured: sessions may watch only themselves here".into())
            }
            false => {
                row(format!("one transition to {} watchers", self.watchers), self.fan_out, String::new())
            }
        }
        if self.slow > 0 {
            row(
                format!("the same beside {} that do not read", self.slow),
                self.fan_out_beside_slow,
                String::new(),
            );
        }
        row("close all".into(), None, format!("{:.0} ms", self.closed_ms));
        if let Some(held) = &self.held {
            let a_second = |rate: f64| format!("{rate:.0} a second");
            row(
                format!("open {} held sessions, in bulks", held.sessions),
                held.open,
                a_second(held.opens_a_second),
            );
            if let Some(bytes) = held.bytes_a_session {
                row("memory of the host".into(), None, format!("{bytes} bytes a held session"));
            }
            row("change them all".into(), held.change, a_second(held.changes_a_second));
            row("close them all".into(), held.close, a_second(held.closes_a_second));
        }
        let mut text = format!("{}\n", self.urls.join(", "));
        text.push_str(&table(&["LOAD", "P50", "P99", "MAX", ""], &rows));
        for (what, count) in [
            ("status changes refused", self.changes_refused),
            ("status changes without an answer", self.changes_unanswered),
            ("transitions that a watcher was not told", self.unheard),
            ("sessions that ended by themselves", self.lost),
        ] {
            if count > 0 {
                // Writing to a String can't fail.
                let _ = writeln!(text, "{what}: {count}");
            }
        }
        if let Some(held) = self.held.as_ref().filter(|held| held.refused > 0) {
            let why = held.why.as_deref().map(printable).unwrap_or_default();
            let _ =
                writeln!(text, "operations on held sessions that were not done: {} ({why})", held.refused);
        }
        if !self.refused.is_empty() {
            let _ = writeln!(text, "not let in: {}", self.why());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_percentiles_of_all_values() {
        let values = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(Latency::of(values), Some(Latency { p50_ms: 101.0, p99_ms: 199.0, max_ms: 200.0 }));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn a_report_is_clean_only_if_everything_was_done() {
        let clean = Report::new(&["ws://h".into()], 2);
        assert!(clean.is_clean());
        let spoil: [fn(&mut Report); 6] = [
            |report| report.held = Some(Held { refused: 1, ..Held::default() }),
            |report| report.changes_refused = 1,
            |report| report.changes_unanswered = 1,
            |report| report.unheard = 1,
            |report| report.lost = 1,
            |report| *report.refused.entry("401".into()).or_default() += 3,
        ];
        for spoil in spoil {
            let mut report = clean.clone();
            spoil(&mut report);
            assert!(!report.is_clean());
        }
    }

    #[test]
    fn the_text_says_what_was_not_measured_and_what_failed() {
        let mut report = Report::new(&["ws://a:1".into(), "ws://b:1".into()], 10);
        report.fan_out_forbidden = true;
        report.lost = 3;
        report.held = Some(Held { refused: 2, why: Some("too late".into()), ..Held::default() });
        report.refused.insert("429: too many".into(), 4);
        let text = report.text();
        for part in [
            "ws://a:1, ws://b:1",
            "only themselves",
            "ended by themselves: 3",
            "not done: 2 (too late)",
            "not let in: 4 × 429: too many",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
