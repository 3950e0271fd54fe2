//! The outside world behind the plugins: it records every call with its start and its end, and keeps what a receiver
//! would keep. It decides how calls end; it knows no host but by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use presence_core::delivery::{Payload, Verdict};
use presence_core::events::{Hook, Scope, SessionChange, SessionEvent, Status};
use presence_core::ids::{InstanceId, SessionId, UserId};
use tokio::time::Instant;

use super::journal::millis;
use super::plan::DEADLINE;
use super::truth::{Origin, session, short};
use super::world::World;

/// How the receiver of a plugin is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    /// It takes nearly everything.
    #[default]
    Well,
    /// It asks for another attempt.
    Failing,
    /// The plugin crashes.
    Trapping,
    /// Calls hang.
    Hanging,
    /// It refuses much.
    Refusing,
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A call began.
    Started,
    /// The receiver took it.
    Taken,
    /// It is a dead letter.
    Dead,
}

/// What one plugin's receiver heard of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionHeard {
    pub(super) user: Option<UserId>,
    pub(super) instance: Option<InstanceId>,
    pub(super) origin: Option<Origin>,
    pub(super) connected: Counts,
    pub(super) disconnected: Counts,
    /// When the first call of it began.
    pub(super) first: Option<Instant>,
    /// How often each of the two events was submitted.
    pub(super) issued: [u32; 2],
}

/// How often.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) started: u32,
    pub(super) taken: u32,
    pub(super) dead: u32,
}

/// What one plugin's receiver knows.
#[derive(Default)]
pub(super) struct Heard {
    /// By user: the newest revision taken, and its status.
    pub(super) statuses: BTreeMap<UserId, (u64, Status)>,
    /// The highest revision of which a call began, by user and caller, and under which of the caller's claims.
    pub(super) begun: BTreeMap<(UserId, Origin), (u64, u64)>,
    pub(super) dead_revisions: BTreeSet<(UserId, u64)>,
    pub(super) sessions: BTreeMap<SessionId, SessionHeard>,
    /// Sessions named in cleanups, by instance, and when the last chunk of it was settled.
    pub(super) cleaned: BTreeMap<InstanceId, BTreeSet<SessionId>>,
    pub(super) cleaned_last: BTreeMap<InstanceId, u32>,
    /// When `everything` was settled the last time.
    pub(super) everything: Option<Instant>,
}

/// All receivers.
#[derive(Default)]
pub(super) struct Receiver {
    pub(super) heard: BTreeMap<&'static str, Heard>,
    pub(super) moods: BTreeMap<&'static str, Mood>,
    /// Who submitted `everything`, and when.
    pub(super) everything_by: Vec<(Origin, Instant)>,
}

impl Receiver {
    /// How a call will go: how long it is on its way, how long it takes, how it ends.
    pub(super) fn decide(
        &self,
        plugin: &'static str,
        random: &mut fastrand::Rng,
    ) -> (Duration, Duration, Verdict) {
        let mood = self.moods.get(plugin).copied().unwrap_or_default();
        let before = millis(random, 0..=3);
        let quick = millis(random, 0..=40);
        let retry = |after| Verdict::Retry { message: "simulated".into(), after };
        let (takes, verdict) = match (mood, random.u8(..)) {
            (Mood::Well, 0..4) => (quick, retry(None)),
            (Mood::Well, 4) => (quick, Verdict::Trapped("simulated".into())),
            (Mood::Failing, 0..200) => (quick, retry(None)),
            (Mood::Failing, 200..220) => (quick, retry(Some(Duration::from_millis(700)))),
            (Mood::Trapping, 0..200) => (quick, Verdict::Trapped("simulated".into())),
            (Mood::Hanging, 0..180) => (DEADLINE, Verdict::Stalled("simulated".into())),
            (Mood::Refusing, 0..120) => (quick, Verdict::Reject("simulated".into())),
            (_, 240..) => (millis(random, 40..=900), Verdict::Delivered),
            _ => (quick, Verdict::Delivered),
        };
        (before, takes, verdict)
    }

    /// Something became of an event.
    pub(super) fn hear(
        &mut self,
        world: &World,
        plugin: &'static str,
        origin: Origin,
        payload: &Payload,
        told: Told,
    ) {
        let heard = self.heard.entry(plugin).or_default();
        match payload {
            Payload::Status(transition) => {
                let (user, revision) = (&transition.user, transition.revision);
                match told {
                    Told::Started => {
                        // Over a wipe a new claim may know less than the old one.
                        let claim =
                            super::journal::lock(&world.truth).claim_over_wipes(transition.partition, origin);
                        let (under, begun) = heard.begun.entry((user.clone(), origin)).or_default();
                        if *under < claim {
                            (*under, *begun) = (claim, 0);
                        }
                        if *begun > revision {
                            world.journal.violate(
                                "I2",
                                format!("{origin} calls {plugin} of {user} r{revision} after r{begun}"),
                            );
                        }
                        *begun = (*begun).max(revision);
                    }
                    Told::Taken => {
                        let status = heard.statuses.entry(user.clone()).or_insert((0, Status::Offline));
                        if status.0 <= revision {
                            *status = (revision, transition.current);
                        }
                    }
                    Told::Dead => {
                        heard.dead_revisions.insert((user.clone(), revision));
                    }
                }
            }
            Payload::Session(event) => {
                let entry = heard.sessions.entry(event.session.id.clone()).or_default();
                entry.user = Some(event.session.user.clone());
                entry.instance = Some(event.session.instance);
                entry.origin = Some(origin);
                let ends = matches!(event.change, SessionChange::Disconnected { .. });
                entry.first.get_or_insert_with(Instant::now);
                if ends && told == Told::Started && entry.connected.started + entry.connected.dead == 0 {
                    let id = session(&event.session.id);
                    world.journal.violate(
                        "I6",
                        format!("{origin} tells {plugin} of the end of {id} before its beginning"),
                    );
                }
                let counts = if ends { &mut entry.disconnected } else { &mut entry.connected };
                match told {
                    Told::Started => counts.started += 1,
                    Told::Taken => counts.taken += 1,
                    Told::Dead => counts.dead += 1,
                }
            }
            Payload::Tick(_) => {}
            Payload::Cleanup(sweep) => {
                if told == Told::Started {
                    return;
                }
                match &sweep.scope {
                    Scope::Everything => {
                        heard.everything = Some(Instant::now());
                        heard.statuses.values_mut().for_each(|status| status.1 = Status::Offline);
                    }
                    Scope::Lost { instance, sessions } => {
                        let cleaned = heard.cleaned.entry(*instance).or_default();
                        cleaned.extend(sessions.iter().map(|session| session.id.clone()));
                        if sweep.last {
                            let times = heard.cleaned_last.entry(*instance).or_default();
                            *times += 1;
                            if *times > 1 && told == Told::Taken {
                                world.journal.count("cleanup repeated");
                            }
                        }
                    }
                }
            }
        }
    }

    /// A session hook is given to the plugin's queue: once for each of the two.
    pub(super) fn session_submitted(
        &mut self,
        world: &World,
        plugin: &'static str,
        origin: Origin,
        event: &SessionEvent,
    ) {
        let heard = self.heard.entry(plugin).or_default();
        let entry = heard.sessions.entry(event.session.id.clone()).or_default();
        let issued = &mut entry.issued[usize::from(event.hook() == Hook::SessionDisconnected)];
        *issued += 1;
        // Of a held session an owner repeats what the one before may not have told.
        if *issued > 1 && event.partition.is_none() {
            let (hook, id) = (event.hook(), session(&event.session.id));
            world.journal.violate("I6", format!("{origin} issues {hook} of {id} {issued} times"));
        }
    }

    /// A fresh start runs its hook: nobody else who has started one may have kept its lease since. The key of an earlier
    /// life says nothing of the one that has started it, nor that of one that has closed the deployment and leaves.
    pub(super) fn everything_submitted(&mut self, world: &World, origin: Origin) {
        for (other, at) in &self.everything_by {
            let truth = super::journal::lock(&world.truth);
            let kept = truth.leased().into_iter().any(|(instance, _)| {
                let known = truth.instances.get(&instance);
                known.is_some_and(|known| {
                    !known.held
                        && known.origin == *other
                        && known.leased_since <= *at
                        && known.wipes == truth.wipes
                        && !truth.is_over(instance)
                        && !truth.closed.contains(other)
                })
            });
            if *other != origin && kept {
                world.journal.violate(
                    "I5",
                    format!("{origin} runs everything, though {other} did and has kept its lease since"),
                );
            }
        }
        self.everything_by.push((origin, Instant::now()));
    }
}

/// An event, for people.
pub(super) struct Event<'a>(pub(super) &'a Payload);

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook: Hook = self.0.hook();
        match self.0 {
            Payload::Status(transition) => {
                write!(f, "{hook} {} r{}", transition.user, transition.revision)
            }
            Payload::Session(event) => {
                let (id, instance) = (session(&event.session.id), short(event.session.instance));
                write!(f, "{hook} {} {id} of {instance}", event.session.user)
            }
            Payload::Tick(beat) => write!(f, "{hook} {}", beat.due.0),
            Payload::Cleanup(sweep) => match &sweep.scope {
                Scope::Everything => write!(f, "{hook} everything {}", sweep.run),
                Scope::Lost { instance, sessions } => {
                    write!(f, "{hook} {} chunk {}:", short(*instance), sweep.chunk)?;
                    sessions.iter().try_for_each(|one| write!(f, " {}", session(&one.id)))
                }
            },
        }
    }
}
