//! I6: connected precedes disconnected, one of each, for every session of a host that lives or stopped in good order.

use std::collections::{BTreeMap, BTreeSet};

use super::cleanups::{End, Instances};
use super::{Evidence, Violation, seconds, story_of_user, violation};

/// What was heard of one session.
#[derive(Default)]
struct Pair<'a> {
    user: &'a str,
    connected: BTreeSet<&'a str>,
    disconnected: BTreeSet<&'a str>,
    /// Disconnected was heard before connected.
    reversed: bool,
}

fn pairs(evidence: &Evidence) -> BTreeMap<&str, Pair<'_>> {
    let mut pairs: BTreeMap<&str, Pair<'_>> = BTreeMap::new();
    for heard in &evidence.heard {
        match heard.text("/type") {
            "session-connected" => {
                let pair = pairs.entry(heard.text("/data/id")).or_default();
                pair.user = heard.text("/data/user");
                pair.connected.insert(heard.text("/id"));
            }
            "session-disconnected" => {
                let pair = pairs.entry(heard.text("/data/session/id")).or_default();
                pair.user = heard.text("/data/session/user");
                pair.reversed |= pair.connected.is_empty();
                pair.disconnected.insert(heard.text("/id"));
            }
            _ => {}
        }
    }
    pairs
}

/// Order, and repeats under one event id.
pub(super) fn i6_pairs(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for (session, pair) in pairs(evidence) {
        let mut object = |what: &str| {
            let story = story_of_user(evidence, pair.user);
            found.push(violation("I6", format!("session {session} of {}: {what}\n{story}", pair.user)));
        };
        if pair.reversed {
            object("disconnected was heard before connected");
        }
        if pair.connected.len() > 1 || pair.disconnected.len() > 1 {
            object("one event was heard under several ids");
        }
    }
    found
}

/// Whatever a client was welcomed with is heard of, unless its instance died.
pub(super) fn i6_completeness(evidence: &Evidence) -> Vec<Violation> {
    let instances = Instances::of(&evidence.kept);
    let pairs = pairs(evidence);
    let nothing = Pair::default();
    let mut found = Vec::new();
    for note in &evidence.kept.sessions {
        let end = instances.end(&note.instance);
        if !matches!(end, End::Alive | End::Left) {
            continue;
        }
        let pair = pairs.get(note.session.as_str()).unwrap_or(&nothing);
        // `replaced` means that the instance was; a client that was lost may have been so to a host that hangs.
        let should_have_ended = end == End::Left || note.ended.is_some();
        let wrong = match (pair.connected.is_empty(), pair.disconnected.is_empty()) {
            (true, _) => "was never heard to connect",
            (false, true) if should_have_ended => "was never heard to disconnect",
            (false, false) if !should_have_ended => "was heard to disconnect, and is there",
            _ => continue,
        };
        let story = story_of_user(evidence, &note.user);
        found.push(violation(
            "I6",
            format!(
                "session {} of {}, welcomed at {} on host-{}, {wrong} (its instance: {end:?})\n{story}",
                note.session,
                note.user,
                seconds(note.welcomed),
                note.host
            ),
        ));
    }
    found
}
