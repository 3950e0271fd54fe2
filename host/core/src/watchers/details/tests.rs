//! Whole effects of asking for more than the status.

use proptest::prelude::*;

use super::*;
use crate::documents::{Ended, SessionEntry, StatusRecord};
use crate::ids::SessionId;
use crate::metadata::Metadata;

const HERE: InstanceId = InstanceId(7);
const THERE: InstanceId = InstanceId(8);
const BOTH: With = With { message: true, metadata: true };
const MESSAGE: With = With { message: true, metadata: false };
const METADATA: With = With { message: false, metadata: true };

fn bob() -> UserId {
    UserId::new("bob").unwrap()
}

fn record(status: Status, revision: u64) -> Option<StatusRecord> {
    Some(StatusRecord {
        status,
        since: Timestamp(revision),
        revision,
        last_seen: None,
        sessions: 1,
        generation: 1,
        previous: None,
        trail: crate::trail::Trail::default(),
    })
}

fn entry(id: u128, device: Option<&str>) -> SessionEntry {
    let metadata = Metadata::new(device.map(|device| ("device".to_owned(), device.to_owned()))).unwrap();
    SessionEntry {
        id: SessionId::Hosted(id),
        status: Status::Online,
        connected_at: Timestamp(id as u64),
        attributes: Attributes::default().with_metadata(&metadata),
        ended: None,
        listed: Default::default(),
    }
}

fn document(entries: Vec<SessionEntry>) -> SessionDocument {
    SessionDocument { sessions: entries, drained_until: None }
}

fn message(text: &str, until: u64) -> Option<CustomMessage> {
    Some(CustomMessage { text: text.into(), until: Timestamp(until) })
}

fn details(message: Option<CustomMessage>, devices: &[&str]) -> Details {
    let entries = devices.iter().zip(1..).map(|(device, id)| entry(id, Some(device))).collect();
    Details::of(Now::at(0), message, [(HERE, &document(entries))])
}

fn effects(watchers: &mut Watchers) -> Vec<WatchEffect> {
    std::iter::from_fn(|| watchers.poll_effect()).collect()
}

/// Who is told, of which status, and whether details go with it.
fn told(watchers: &mut Watchers) -> Vec<(u64, Status, Option<Details>)> {
    let told = effects(watchers).into_iter().filter_map(|effect| match effect {
        WatchEffect::Tell { watcher, status, shown, .. } => {
            Some((watcher.0, status, shown.map(|shown| Details::clone(&shown.details))))
        }
        _ => None,
    });
    told.collect()
}

/// Bob is online and watched: by 1, who asks for nothing, and by 2, who asks for this.
fn watched(with: With) -> Watchers {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![bob()], With::default(), None);
    watchers.handle_watch(Watcher(2), vec![bob()], with, None);
    watchers.handle_record(&bob(), record(Status::Online, 1));
    watchers.handle_details(&bob(), Details::default());
    effects(&mut watchers);
    watchers
}

#[test]
fn only_live_sessions_with_metadata_are_shown_the_newest_first_and_not_too_many() {
    let mut ended = entry(3, Some("gone"));
    ended.ended = Some(Ended { at: Timestamp(4), reason: "closed".into() });
    let here = document(vec![entry(1, Some("old")), entry(2, None), ended]);
    let there = document(vec![entry(9, Some("new"))]);
    let found = Details::of(Now::at(0), None, [(HERE, &here), (THERE, &there)]);
    let shown: Vec<_> = found
        .sessions
        .iter()
        .map(|session| (session.instance, session.attributes.metadata().next().unwrap().1))
        .collect();
    assert_eq!(shown, [(THERE, "new"), (HERE, "old")]);

    let many = document((1..=40).map(|id| entry(id, Some("x"))).collect());
    let found = Details::of(Now::at(0), None, [(HERE, &many)]);
    assert_eq!(found.sessions.len(), MAX_SESSIONS_SHOWN, "I8");

    assert_eq!(Details::of(Now::at(5), message("over", 5), []).message, None);
    assert!(Details::of(Now::at(4), message("not yet", 5), []).message.is_some());
}

#[test]
fn what_nobody_asks_for_is_neither_read_nor_told() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![bob()], With::default(), None);
    watchers.handle_record(&bob(), record(Status::Online, 1));
    effects(&mut watchers);
    watchers.handle_details_changed(&bob());
    watchers.handle_details(&bob(), details(message("hi", 99), &["phone"]));
    watchers.handle_instance_lost(HERE);
    assert_eq!(effects(&mut watchers), []);
    assert_eq!(watchers.poll_timeout(Now::at(0)), None);
}

#[test]
fn who_asks_is_told_once_both_are_known_and_answered_then() {
    for status_first in [true, false] {
        let mut watchers = Watchers::new(1);
        watchers.handle_watch(Watcher(2), vec![bob()], BOTH, Some("r".into()));
        assert_eq!(
            effects(&mut watchers),
            [
                WatchEffect::Watch(bob()),
                WatchEffect::Read(bob()),
                WatchEffect::WatchDetails(bob()),
                WatchEffect::ReadDetails(bob())
            ]
        );
        let known = details(message("hi", 99), &["phone"]);
        if status_first {
            watchers.handle_record(&bob(), record(Status::Idle, 5));
            assert_eq!(effects(&mut watchers), []);
            watchers.handle_details(&bob(), known.clone());
        } else {
            watchers.handle_details(&bob(), known.clone());
            assert_eq!(effects(&mut watchers), []);
            watchers.handle_record(&bob(), record(Status::Idle, 5));
        }
        let shown = Some(Shown { with: BOTH, details: Arc::new(known) });
        let (watcher, user, since) = (Watcher(2), bob(), Timestamp(5));
        assert_eq!(
            effects(&mut watchers),
            [
                WatchEffect::Tell { watcher, user, status: Status::Idle, since, revision: 5, shown },
                WatchEffect::Done { watcher, request: Some("r".into()) }
            ]
        );
    }
}

#[test]
fn a_change_is_told_to_those_who_ask_for_that_although_the_status_is_the_same() {
    let mut watchers = watched(MESSAGE);
    watchers.handle_watch(Watcher(3), vec![bob()], METADATA, None);
    effects(&mut watchers);
    watchers.handle_details_changed(&bob());
    assert_eq!(effects(&mut watchers), [WatchEffect::ReadDetails(bob())]);
    let with_message = details(message("hi", 99), &[]);
    watchers.handle_details(&bob(), with_message.clone());
    assert_eq!(told(&mut watchers), [(2, Status::Online, Some(with_message.clone()))]);
    watchers.handle_details(&bob(), with_message);
    assert_eq!(told(&mut watchers), [], "nothing is new");
    let with_phone = details(message("hi", 99), &["phone"]);
    watchers.handle_details(&bob(), with_phone.clone());
    assert_eq!(told(&mut watchers), [(3, Status::Online, Some(with_phone.clone()))]);
    watchers.handle_record(&bob(), record(Status::Offline, 2));
    let all = [
        (1, Status::Offline, None),
        (2, Status::Offline, Some(with_phone.clone())),
        (3, Status::Offline, Some(with_phone)),
    ];
    assert_eq!(told(&mut watchers), all);
    // Of who is offline no session is shown, so there is nothing to tell.
    watchers.handle_details(&bob(), details(message("hi", 99), &[]));
    assert_eq!(told(&mut watchers), []);
}

#[test]
fn one_reading_is_under_way_and_what_changes_meanwhile_is_read_after_it() {
    let mut watchers = watched(BOTH);
    for _ in 0..3 {
        watchers.handle_details_changed(&bob());
    }
    assert_eq!(effects(&mut watchers), [WatchEffect::ReadDetails(bob())]);
    watchers.handle_details(&bob(), Details::default());
    assert_eq!(effects(&mut watchers), [WatchEffect::ReadDetails(bob())], "once for all of them");
    watchers.handle_details(&bob(), Details::default());
    assert_eq!(effects(&mut watchers), []);
    watchers.handle_missed();
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(bob()), WatchEffect::ReadDetails(bob())]);
}

#[test]
fn the_latest_watch_says_what_is_asked_for() {
    let mut watchers = watched(BOTH);
    watchers.handle_watch(Watcher(2), vec![bob()], With::default(), None);
    let (watcher, user, since) = (Watcher(2), bob(), Timestamp(1));
    assert_eq!(
        effects(&mut watchers),
        [
            WatchEffect::UnwatchDetails(bob()),
            WatchEffect::Tell { watcher, user, status: Status::Online, since, revision: 1, shown: None },
            WatchEffect::Done { watcher, request: None }
        ]
    );
    watchers.handle_details(&bob(), details(message("late", 99), &[]));
    assert_eq!(effects(&mut watchers), []);
    watchers.handle_watch(Watcher(1), vec![bob()], MESSAGE, Some("again".into()));
    assert_eq!(
        effects(&mut watchers),
        [WatchEffect::WatchDetails(bob()), WatchEffect::ReadDetails(bob())],
        "it is not answered before it is read anew"
    );
}

#[test]
fn a_message_ends_at_its_time_whether_or_not_anybody_tells_of_it() {
    let mut watchers = watched(BOTH);
    let until = |watchers: &Watchers, now| watchers.poll_timeout(Now::at(now)).map(|tick| tick.0);
    watchers.handle_details(&bob(), details(message("hi", 50), &["phone"]));
    watchers.handle_details(&bob(), details(message("longer", 90), &["phone"]));
    effects(&mut watchers);
    assert_eq!(until(&watchers, 10), Some(90), "the one before is forgotten");
    watchers.handle_timeout(Now::at(89));
    assert_eq!(told(&mut watchers), []);
    watchers.handle_timeout(Now::at(90));
    assert_eq!(told(&mut watchers), [(2, Status::Online, Some(details(None, &["phone"])))]);
    assert_eq!(until(&watchers, 90), None);
}

#[test]
fn the_sessions_of_a_lost_instance_are_shown_no_more() {
    let mut watchers = watched(METADATA);
    let (here, there) = (document(vec![entry(1, Some("phone"))]), document(vec![entry(2, Some("desk"))]));
    watchers.handle_details(&bob(), Details::of(Now::at(0), None, [(HERE, &here), (THERE, &there)]));
    effects(&mut watchers);
    watchers.handle_instance_lost(HERE);
    let left = Details::of(Now::at(0), None, [(THERE, &there)]);
    assert_eq!(told(&mut watchers), [(2, Status::Online, Some(left))]);
}

/// I8: nothing is kept of who is not asked about any more.
#[test]
fn i8_whoever_goes_takes_everything_along() {
    for leave in
        [(|watchers: &mut Watchers| watchers.handle_closed(Watcher(2))) as fn(&mut Watchers), |watchers| {
            watchers.handle_unwatch(Watcher(2), &[bob()])
        }]
    {
        let mut watchers = watched(BOTH);
        watchers.handle_details(&bob(), details(message("hi", 50), &[]));
        effects(&mut watchers);
        leave(&mut watchers);
        assert!(effects(&mut watchers).contains(&WatchEffect::UnwatchDetails(bob())));
        assert!(watchers.expiries.is_empty());
        assert!(watchers.slots.iter().flatten().all(|watched| watched.asked.is_none()));
        watchers.handle_closed(Watcher(1));
        assert_eq!(watchers.watched(), 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Watch {
        watcher: u64,
        with: With,
    },
    Unwatch {
        watcher: u64,
    },
    Close {
        watcher: u64,
    },
    /// The status changes; the notice may get lost.
    Status {
        lost: bool,
    },
    /// The message or the metadata changes; the notice may get lost.
    Details {
        lost: bool,
        devices: usize,
    },
    Answer,
    AnswerDetails,
    Missed,
}

fn step() -> impl Strategy<Value = Step> {
    let with = (any::<bool>(), any::<bool>()).prop_map(|(message, metadata)| With { message, metadata });
    let lost = || prop::bool::weighted(0.2);
    prop_oneof![
        4 => (0..3_u64, with).prop_map(|(watcher, with)| Step::Watch { watcher, with }),
        1 => (0..3_u64).prop_map(|watcher| Step::Unwatch { watcher }),
        1 => (0..3_u64).prop_map(|watcher| Step::Close { watcher }),
        2 => lost().prop_map(|lost| Step::Status { lost }),
        3 => (lost(), 0..3_usize).prop_map(|(lost, devices)| Step::Details { lost, devices }),
        3 => Just(Step::Answer),
        3 => Just(Step::AnswerDetails),
        1 => Just(Step::Missed),
    ]
}

/// One user, three watchers, and what each last heard.
struct Model {
    watchers: Watchers,
    revision: u64,
    details: Details,
    asked: BTreeMap<u64, With>,
    heard: BTreeMap<u64, (u64, Option<Shown>)>,
    unanswered: BTreeMap<u64, u64>,
    reads: usize,
    detail_reads: usize,
    listening: i32,
    missed: bool,
}

impl Model {
    fn run(&mut self) {
        while let Some(effect) = self.watchers.poll_effect() {
            match effect {
                WatchEffect::Watch(_) | WatchEffect::Unwatch(_) => {}
                WatchEffect::Read(_) => self.reads += 1,
                WatchEffect::ReadDetails(_) => self.detail_reads += 1,
                WatchEffect::WatchDetails(_) => self.listening += 1,
                WatchEffect::UnwatchDetails(_) => self.listening -= 1,
                WatchEffect::Tell { watcher, revision, shown, .. } => {
                    self.heard.insert(watcher.0, (revision, shown));
                }
                WatchEffect::Done { watcher, .. } => *self.unanswered.get_mut(&watcher.0).unwrap() -= 1,
            }
        }
    }

    fn record(&self) -> Option<StatusRecord> {
        record(Status::Online, self.revision).filter(|record| record.revision > 0)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Watch { watcher, with } => {
                *self.unanswered.entry(watcher).or_default() += 1;
                self.asked.insert(watcher, with);
                self.watchers.handle_watch(Watcher(watcher), vec![bob()], with, None);
            }
            Step::Unwatch { watcher } => {
                self.asked.remove(&watcher);
                self.watchers.handle_unwatch(Watcher(watcher), &[bob()]);
            }
            Step::Close { watcher } => {
                self.watchers.handle_closed(Watcher(watcher));
                self.run();
                self.asked.remove(&watcher);
                self.unanswered.remove(&watcher);
            }
            Step::Status { lost } => {
                self.revision += 1;
                self.missed |= lost;
                if !lost {
                    self.watchers.handle_record(&bob(), self.record());
                }
            }
            Step::Details { lost, devices } => {
                let text = format!("after {}", self.details.sessions.len());
                self.details = details(message(&text, 99), &["a", "b", "c"][..devices]);
                self.missed |= lost;
                if !lost {
                    self.watchers.handle_details_changed(&bob());
                }
            }
            Step::Answer if self.reads > 0 => {
                self.reads -= 1;
                self.watchers.handle_record(&bob(), self.record());
            }
            Step::AnswerDetails if self.detail_reads > 0 => {
                self.detail_reads -= 1;
                self.watchers.handle_details(&bob(), self.details.clone());
            }
            Step::Missed => {
                self.missed = false;
                self.watchers.handle_missed();
            }
            Step::Answer | Step::AnswerDetails => {}
        }
        self.run();
        assert_eq!(
            self.listening > 0,
            self.asked.values().any(|with| !with.is_nothing()),
            "who asks listens"
        );
    }
}

proptest! {
    /// I9: at rest, what each watcher last heard is the user's status, and what it has asked to see besides is what there
    /// is; who has not asked is shown nothing; every `watch` is answered.
    #[test]
    fn i9_what_a_watcher_was_shown_is_what_there_is(steps in proptest::collection::vec(step(), 1..80)) {
        let mut model = Model {
            watchers: Watchers::new(9),
            revision: 0,
            details: Details::default(),
            asked: BTreeMap::new(),
            heard: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            reads: 0,
            detail_reads: 0,
            listening: 0,
            missed: false,
        };
        for step in steps {
            model.take(step);
        }
        if model.missed {
            model.take(Step::Missed);
        }
        while model.reads + model.detail_reads > 0 {
            model.take(Step::Answer);
            model.take(Step::AnswerDetails);
        }
        for (watcher, with) in &model.asked {
            let (revision, shown) = model.heard.get(watcher).expect("it was told");
            prop_assert_eq!(*revision, model.revision);
            prop_assert_eq!(shown.is_none(), with.is_nothing());
            let Some(shown) = shown else { continue };
            prop_assert_eq!(shown.with, *with);
            prop_assert!(!with.message || shown.details.message == model.details.message);
            let of_nobody = model.revision == 0;
            let same = of_nobody || shown.details.sessions == model.details.sessions;
            prop_assert!(!with.metadata || same);
        }
        prop_assert!(model.unanswered.values().all(|open| *open == 0), "every watch is answered");
    }
}
