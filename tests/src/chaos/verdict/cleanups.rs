//! I5: every dead instance is cleaned up with all its sessions, none that lives is, and `everything` comes only on a
//! fresh start. Instances are known from welcomes and from the API of their hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Evidence, Violation, seconds, story_of_hosts, violation};
use crate::chaos::ledger::{Fate, Heard, Kept, Life};
use crate::chaos::plan::TTL;

/// What became of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It runs, and no newer one of its process is known.
    Alive,
    /// Its process ended with exit code 0.
    Left,
    /// It was killed, or a newer one has taken its place.
    Died {
        /// It lived when it was first seen.
        after: Duration,
        /// It is dead then at the latest.
        at: Duration,
    },
    /// Not to be told: nobody has seen it, or its process ended with an error.
    Unknown,
}

/// The instances that were seen.
pub(super) struct Instances<'a> {
    ends: BTreeMap<&'a str, End>,
}

impl Instances<'_> {
    pub(super) fn of(kept: &Kept) -> Instances<'_> {
        // By process, with the time when it was first known.
        let mut known: BTreeMap<usize, BTreeMap<Duration, &str>> = BTreeMap::new();
        for (instance, (host, at)) in &kept.instances {
            let process = kept.lives.iter().rposition(|life| life.host == *host && life.started <= *at);
            if let Some(process) = process {
                known.entry(process).or_default().insert(*at, instance);
            }
        }
        let mut ends = BTreeMap::new();
        for (process, instances) in known {
            let mut next: Option<Duration> = None;
            for (welcomed, instance) in instances.iter().rev() {
                let end = match next {
                    Some(replaced) => End::Died { after: *welcomed, at: replaced },
                    None => end_of_process(kept, &kept.lives[process], *welcomed),
                };
                ends.insert(*instance, end);
                next = Some(*welcomed);
            }
        }
        Instances { ends }
    }

    pub(super) fn end(&self, instance: &str) -> End {
        self.ends.get(instance).copied().unwrap_or(End::Unknown)
    }
}

fn end_of_process(kept: &Kept, life: &Life, welcomed: Duration) -> End {
    match life.ended {
        None => End::Alive,
        Some((at, Fate::Killed)) => End::Died { after: welcomed, at },
        // It may have been replaced by one that nobody saw.
        Some((_, Fate::Exited(0))) if paused_after(kept, life, welcomed) => End::Unknown,
        Some((_, Fate::Exited(0))) => End::Left,
        Some((_, Fate::Exited(_))) => End::Unknown,
    }
}

fn paused_after(kept: &Kept, life: &Life, welcomed: Duration) -> bool {
    let end = life.ended.map_or(Duration::MAX, |(at, _)| at);
    kept.pauses
        .iter()
        .any(|pause| pause.host == life.host && pause.from < end && pause.to.is_none_or(|to| to > welcomed))
}

fn is_everything(heard: &Heard) -> bool {
    heard.text("/type") == "cleanup" && heard.text("/data/scope") == "everything"
}

/// The sessions that each cleanup named, by instance.
fn named(heard: &[Heard]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for heard in heard.iter().filter(|heard| heard.text("/type") == "cleanup" && !is_everything(heard)) {
        let sessions = heard.event.pointer("/data/scope/lost/sessions").and_then(|all| all.as_array());
        let ids = sessions.into_iter().flatten().filter_map(|session| session["id"].as_str());
        named.entry(heard.text("/data/scope/lost/instance")).or_default().extend(ids);
    }
    named
}

/// Sessions that the receiver has heard to connect and not to disconnect, by instance.
fn open(heard: &[Heard]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut open: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for heard in heard {
        match heard.text("/type") {
            "session-connected" => {
                open.entry(heard.text("/data/instance")).or_default().insert(heard.text("/data/id"));
            }
            "session-disconnected" => {
                let instance = open.entry(heard.text("/data/session/instance")).or_default();
                instance.remove(heard.text("/data/session/id"));
            }
            _ => {}
        }
    }
    open
}

/// Dead instances are cleaned up, and only they.
pub(super) fn i5_cleanup(evidence: &Evidence) -> Vec<Violation> {
    let instances = Instances::of(&evidence.kept);
    let (named, open) = (named(&evidence.heard), open(&evidence.heard));
    let last_everything = evidence.heard.iter().rfind(|heard| is_everything(heard)).map(|heard| heard.at);
    let nothing = BTreeSet::new();
    let mut found = Vec::new();
    for (instance, end) in &instances.ends {
        let cleaned = named.get(instance);
        match end {
            // A fresh start cleans up whoever died before it, and it may have died at any time.
            End::Died { after, at } if last_everything.is_none_or(|everything| everything < *after) => {
                let open = open.get(instance).unwrap_or(&nothing);
                let missing: Vec<&&str> = open.difference(cleaned.unwrap_or(&nothing)).collect();
                if cleaned.is_none() || !missing.is_empty() {
                    let what = if cleaned.is_none() { "has no cleanup" } else { "was cleaned up in part" };
                    found.push(violation(
                        "I5",
                        format!(
                            "{instance}, dead at {} at the latest, {what}; sessions not named: {missing:?}\n{}",
                            seconds(*at),
                            story_of_hosts(evidence)
                        ),
                    ));
                }
            }
            End::Alive | End::Left if cleaned.is_some() => {
                found.push(violation(
                    "I5",
                    format!(
                        "{instance} was never dead ({end:?}) and was cleaned up\n{}",
                        story_of_hosts(evidence)
                    ),
                ));
            }
            _ => {}
        }
    }
    found
}

/// Between two fresh starts there was a moment when no host was up.
pub(super) fn i5_everything(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut generations = BTreeSet::new();
    let mut previous = None;
    for heard in evidence.heard.iter().filter(|heard| is_everything(heard)) {
        if !generations.insert(generation(heard.text("/id"))) {
            continue;
        }
        if let Some(previous) = previous.filter(|from| !all_down_between(&evidence.kept, *from, heard.at)) {
            found.push(violation(
                "I5",
                format!(
                    "`everything` at {} ({}), and there was always a host since {}\n{}",
                    seconds(heard.at),
                    heard.text("/id"),
                    seconds(previous),
                    story_of_hosts(evidence)
                ),
            ));
        }
        previous = Some(heard.at);
    }
    if generations.is_empty() {
        found.push(violation("I5", "the first start of all was no fresh start".to_owned()));
    }
    found
}

/// `<plugin>:cleanup:everything:<epoch>-<generation>-<replay>:<chunk>`: without replay and chunk.
fn generation(id: &str) -> &str {
    let run = id.rsplit_once(':').map_or(id, |(before, _)| before);
    run.rsplit_once('-').map_or(run, |(before, _)| before)
}

/// Whether there came a moment without a host that was ready, alive and not away for longer than its lease.
fn all_down_between(kept: &Kept, from: Duration, to: Duration) -> bool {
    // The set of hosts that are up changes only at these moments.
    let ends = kept.lives.iter().filter_map(|life| life.ended.map(|(at, _)| at));
    let moments = ends.chain(kept.pauses.iter().map(|pause| pause.from + TTL));
    let mut moments = moments.filter(|moment| from < *moment && *moment <= to);
    moments.any(|moment| !kept.lives.iter().any(|life| is_up(kept, life, moment)))
}

fn is_up(kept: &Kept, life: &Life, moment: Duration) -> bool {
    let away = kept.pauses.iter().any(|pause| {
        pause.host == life.host && pause.from + TTL <= moment && pause.to.is_none_or(|to| moment < to)
    });
    let ready = life.ready.is_some_and(|ready| ready <= moment);
    let ended = life.ended.is_some_and(|(at, _)| at <= moment);
    ready && !ended && !away
}
