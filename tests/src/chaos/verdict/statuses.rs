//! I1, I2, I3, I4, I9: what is recorded, told to the receiver and told to watchers of each user.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Evidence, Violation, line_of, seconds, story_of_user, violation};
use crate::chaos::ledger::{Heard, Pause};
use crate::chaos::plan::TTL;

/// A call that a pause held back arrives within so long of its end.
const STRAGGLING: Duration = Duration::from_secs(TTL.as_secs() + 5);

/// The function of the live sessions, for every user that has a client.
fn expected(evidence: &Evidence) -> BTreeMap<&str, &'static str> {
    let mut statuses: BTreeMap<&str, &'static str> = BTreeMap::new();
    for client in &evidence.clients {
        let status = statuses.entry(&client.user).or_insert("offline");
        match client.status.as_deref() {
            Some("online") => *status = "online",
            Some("idle") if *status == "offline" => *status = "idle",
            _ => {}
        }
    }
    statuses
}

fn is_status(heard: &Heard) -> bool {
    matches!(heard.text("/type"), "user-online" | "user-idle" | "user-offline")
}

fn is_everything(heard: &Heard) -> bool {
    heard.text("/type") == "cleanup" && heard.text("/data/scope") == "everything"
}

/// At rest, every host says of each user what its live sessions make it.
pub(super) fn i1_status(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for client in evidence.clients.iter().filter(|client| client.wanted && client.status.is_none()) {
        let story = story_of_user(evidence, &client.user);
        found.push(violation(
            "I1",
            format!("a client of {} wants to be connected and is not\n{story}", client.user),
        ));
    }
    for (user, status) in expected(evidence) {
        for (host, statuses) in evidence.statuses.iter().enumerate() {
            let said = statuses.get(user);
            if said.is_none_or(|(said, _)| said != status) {
                let story = story_of_user(evidence, user);
                found.push(violation(
                    "I1",
                    format!("{user} is {status}, and host-{host} says {said:?}\n{story}"),
                ));
            }
        }
    }
    found
}

/// Revisions that one host tells of a user never go back, but for calls that were held back with their host; and over
/// all hosts only then.
pub(super) fn i2_order(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut newest: BTreeMap<&str, &Heard> = BTreeMap::new();
    for heard in evidence.heard.iter().filter(|heard| is_status(heard)) {
        let newest = newest.entry(heard.text("/data/user")).or_insert(heard);
        if heard.number("/data/revision") >= newest.number("/data/revision") {
            *newest = heard;
            continue;
        }
        if !was_held_back(&evidence.kept.pauses, heard) {
            let story = story_of_user(evidence, heard.text("/data/user"));
            found.push(violation(
                "I2",
                format!(
                    "after `{}` at {} came, at {}, `{}`, and that host was not paused\n{story}",
                    line_of(newest),
                    seconds(newest.at),
                    seconds(heard.at),
                    line_of(heard)
                ),
            ));
        }
    }
    found
}

fn was_held_back(pauses: &[Pause], heard: &Heard) -> bool {
    let of_host = pauses.iter().filter(|pause| pause.host == heard.host && pause.from <= heard.at);
    of_host.into_iter().any(|pause| pause.to.is_none_or(|to| heard.at <= to + STRAGGLING))
}

/// A receiver that drops lower revisions, and takes everybody for offline after `everything`, ends where the users are.
pub(super) fn i3_completeness(evidence: &Evidence) -> Vec<Violation> {
    let mut profiles: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for heard in &evidence.heard {
        if is_everything(heard) {
            profiles.values_mut().for_each(|profile| profile.1 = "offline");
        } else if is_status(heard) {
            let profile = profiles.entry(heard.text("/data/user")).or_default();
            let revision = heard.number("/data/revision");
            if revision >= profile.0 {
                *profile = (revision, heard.text("/data/current"));
            }
        }
    }
    let recorded = evidence.statuses.first();
    let mut found = Vec::new();
    for (user, status) in expected(evidence) {
        let (revision, heard) = profiles.get(user).copied().unwrap_or((0, "offline"));
        let recorded = recorded.and_then(|all| all.get(user)).map_or(0, |(_, revision)| *revision);
        if heard != status {
            let story = story_of_user(evidence, user);
            found.push(violation(
                "I3",
                format!("{user} is {status}, and the receiver ends with {heard}\n{story}"),
            ));
        } else if status != "offline" && revision != recorded {
            let story = story_of_user(evidence, user);
            found.push(violation(
                "I3",
                format!("{user} is recorded at revision {recorded} and heard at {revision}\n{story}"),
            ));
        }
    }
    found
}

/// No two records of a user with one revision: receiver, watchers and API agree on what it says.
pub(super) fn i4_one_record(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut records: BTreeMap<(&str, u64), (&str, u64)> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for heard in evidence.heard.iter().filter(|heard| is_status(heard)) {
        let key = (heard.text("/data/user"), heard.number("/data/revision"));
        let record = (heard.text("/data/current"), heard.number("/data/since"));
        let known = *records.entry(key).or_insert(record);
        if known != record && told.insert(key) {
            let story = story_of_user(evidence, key.0);
            found.push(violation(
                "I4",
                format!("{} at revision {} is {known:?} and {record:?}\n{story}", key.0, key.1),
            ));
        }
    }
    for one in &evidence.kept.contradictions {
        let story = story_of_user(evidence, &one.user);
        found.push(violation(
            "I4",
            format!(
                "watchers were told {} at revision {} as {:?}\n{story}",
                one.user, one.revision, one.statuses
            ),
        ));
    }
    for ((user, revision), (status, _)) in &records {
        let watched = evidence.kept.told.get(&((*user).to_owned(), *revision));
        if let Some(watched) = watched.filter(|watched| watched != status) {
            let story = story_of_user(evidence, user);
            found.push(violation(
                "I4",
                format!(
                    "{user} at revision {revision}: {status} at the receiver, {watched} for watchers\n{story}"
                ),
            ));
        }
    }
    found
}

/// At rest, what each connected watcher last heard is the user's status.
pub(super) fn i9_watchers(evidence: &Evidence) -> Vec<Violation> {
    let expected = expected(evidence);
    let mut found = Vec::new();
    for client in evidence.clients.iter().filter(|client| client.status.is_some()) {
        for (user, (status, revision)) in &client.told {
            if let Some(right) = expected.get(user.as_str()).filter(|right| *right != status) {
                let story = story_of_user(evidence, user);
                found.push(violation(
                    "I9",
                    format!(
                        "{user} is {right}, and a watcher ({}) last heard {status} at revision {revision}\n{story}",
                        client.user
                    ),
                ));
            }
        }
        if client.told.is_empty() {
            found.push(violation("I9", format!("a watcher ({}) was told nothing", client.user)));
        }
    }
    found
}
