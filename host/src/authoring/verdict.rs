//! Whether what happened is what a scenario expects. Decides, and does nothing else.

use std::time::Duration;

use super::run::describe;
use super::scenario::{Expected, Kind, Step};
use crate::plugins::local::tape::Entry;
use crate::plugins::local::{Ended, Ran};

/// Something is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    /// Of what, such as `line 12, user-online alice: calls`.
    pub(super) place: String,
    /// What the scenario says, in lines.
    pub(super) expected: Vec<String>,
    /// What there was, in lines.
    pub(super) found: Vec<String>,
}

/// `*` in the pattern stands for any text, all else for itself.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.len() >= last.len() && left.ends_with(last)
}

/// What of a step is not as expected.
pub(super) fn judge(step: &Step, ran: &Ran) -> Vec<Mismatch> {
    let user = step.user.as_deref().map(|user| format!(" {user}")).unwrap_or_default();
    let place = |what: &str| format!("line {}, {}{user}: {what}", step.line, step.hook);
    let mut mismatches = Vec::new();
    if !is_as_expected(&step.result, &ran.ended) {
        mismatches.push(Mismatch {
            place: place("result"),
            expected: vec![shown(&step.result)],
            found: vec![describe(&ran.ended)],
        });
    }
    let calls = ran.entries.iter().filter_map(|entry| match entry {
        Entry::Call(call) => Some(call.line()),
        // What was never asked because it is not granted is a call as well to whoever reads the plugin.
        Entry::Denied { what, line } => Some(format!("denied {what} (missing: {line})")),
        Entry::Log { .. } => None,
    });
    let logs = ran.entries.iter().filter_map(|entry| match entry {
        Entry::Log { level, text } => Some(format!("{level} {text}")),
        _ => None,
    });
    mismatches.extend(compare(place("calls"), step.calls.as_deref(), calls.collect()));
    mismatches.extend(compare(place("logs"), step.logs.as_deref(), logs.collect()));
    mismatches
}

/// Lists, line by line; no expectation fits everything.
pub(super) fn compare(place: String, expected: Option<&[String]>, found: Vec<String>) -> Option<Mismatch> {
    let expected = expected?;
    let same = expected.len() == found.len()
        && expected.iter().zip(&found).all(|(expected, found)| matches(expected, found));
    (!same).then(|| Mismatch { place, expected: expected.to_vec(), found })
}

fn is_as_expected(expected: &Expected, ended: &Ended) -> bool {
    let (kind, message, after) = match ended {
        Ended::Delivered => (Kind::Ok, "", None),
        Ended::Retry { message, after } => (Kind::Retry, message.as_str(), *after),
        Ended::Rejected(message) => (Kind::Reject, message.as_str(), None),
        Ended::Failed(message) => (Kind::Fail, message.as_str(), None),
    };
    expected.kind == kind
        && expected.message.as_deref().is_none_or(|part| message.contains(part))
        && expected.after.is_none_or(|pause| after == Some(pause))
}

fn shown(expected: &Expected) -> String {
    let after = |pause: Duration| format!(" after {}", humantime::format_duration(pause));
    let after = expected.after.map(after).unwrap_or_default();
    let message = expected.message.as_deref().map(|part| format!(": …{part}…")).unwrap_or_default();
    format!("{}{after}{message}", expected.kind.name())
}

#[cfg(test)]
mod tests {
    use presence_core::events::Hook;

    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("*", "", true),
            ("http * -> 204", "http POST http://x/ -> 204", true),
            ("http * -> 204", "http POST http://x/ -> 503", false),
            ("*a*b", "xaxbxb", true),
            ("ab*b", "ab", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    fn step(result: Expected, calls: Option<Vec<String>>) -> Step {
        Step {
            line: 12,
            hook: Hook::UserOnline,
            user: Some("alice".into()),
            event: None,
            event_id: None,
            attempt: 1,
            result,
            calls,
            logs: Some(Vec::new()),
        }
    }

    fn ran(ended: Ended) -> Ran {
        let denied =
            Entry::Denied { what: "the keyvalue bucket \"x\"".into(), line: "keyvalue = [\"x\"]".into() };
        let log = Entry::Log { level: "info", text: "hello".into() };
        Ran {
            ended,
            event_id: "e".into(),
            entries: vec![denied, log],
            took: Duration::ZERO,
            memory: 0,
            log_cut: 0,
        }
    }

    #[test]
    fn expected_and_found_stand_beside_each_other() {
        let ok = Expected { kind: Kind::Ok, message: None, after: None };
        let ended = Ended::Retry { message: "answer 503".into(), after: Some(Duration::from_secs(3)) };
        let found = judge(&step(ok, Some(Vec::new())), &ran(ended.clone()));
        let places: Vec<&str> = found.iter().map(|mismatch| mismatch.place.as_str()).collect();
        assert_eq!(
            places,
            [
                "line 12, user-online alice: result",
                "line 12, user-online alice: calls",
                "line 12, user-online alice: logs"
            ]
        );
        assert_eq!(
            (found[0].expected[0].as_str(), found[0].found[0].as_str()),
            ("ok", "retry after 3s: answer 503")
        );
        assert!(found[1].found[0].contains("missing: keyvalue = [\"x\"]"));
        let retry = |message: &str, seconds| Expected {
            kind: Kind::Retry,
            message: Some(message.into()),
            after: Some(Duration::from_secs(seconds)),
        };
        let results = |expected| {
            let found = judge(&step(expected, None), &ran(ended.clone()));
            found.iter().filter(|mismatch| mismatch.place.ends_with("result")).count()
        };
        assert_eq!((results(retry("503", 3)), results(retry("504", 3)), results(retry("503", 4))), (0, 1, 1));
    }
}
