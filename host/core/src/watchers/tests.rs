//! Whole effects of watching, and I9 against a naive model.

use proptest::prelude::*;

use super::*;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn record(status: Status, revision: u64) -> StatusRecord {
    StatusRecord {
        status,
        since: Timestamp(revision),
        revision,
        last_seen: None,
        sessions: 1,
        generation: 1,
        previous: None,
        trail: crate::trail::Trail::default(),
    }
}

fn tell(watcher: u64, name: &str, status: Status, revision: u64) -> WatchEffect {
    let (watcher, since) = (Watcher(watcher), Timestamp(revision));
    WatchEffect::Tell { watcher, user: user(name), status, since, revision, shown: None }
}

fn done(watcher: u64, request: &str) -> WatchEffect {
    WatchEffect::Done { watcher: Watcher(watcher), request: Some(request.into()) }
}

fn effects(watchers: &mut Watchers) -> Vec<WatchEffect> {
    let notices = |effect: &WatchEffect| matches!(effect, WatchEffect::Watch(_) | WatchEffect::Unwatch(_));
    std::iter::from_fn(|| watchers.poll_effect()).filter(|effect| !notices(effect)).collect()
}

#[test]
fn notices_are_wanted_while_anyone_watches() {
    let mut watchers = Watchers::new(1);
    let all = |watchers: &mut Watchers| std::iter::from_fn(|| watchers.poll_effect()).collect::<Vec<_>>();
    watchers.handle_watch(Watcher(1), vec![user("a")], With::default(), None);
    assert_eq!(all(&mut watchers), [WatchEffect::Watch(user("a")), WatchEffect::Read(user("a"))]);
    watchers.handle_watch(Watcher(2), vec![user("a")], With::default(), None);
    watchers.handle_closed(Watcher(1));
    assert_eq!(all(&mut watchers), []);
    watchers.handle_unwatch(Watcher(2), &[user("a")]);
    let over = WatchEffect::Done { watcher: Watcher(2), request: None };
    assert_eq!(all(&mut watchers), [WatchEffect::Unwatch(user("a")), over]);
}

#[test]
fn a_record_that_went_with_the_store_is_told_as_unknown() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a")], With::default(), Some("r1".into()));
    watchers.handle_record(&user("a"), Some(record(Status::Online, 5)));
    effects(&mut watchers);
    watchers.handle_record(&user("a"), None);
    assert_eq!(effects(&mut watchers), [], "an answer that is older than what is known");
    watchers.handle_recreated();
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(user("a"))]);
    watchers.handle_record(&user("a"), None);
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Offline, 0)]);
    watchers.handle_record(&user("a"), None);
    assert_eq!(effects(&mut watchers), []);
}

#[test]
fn a_watch_is_answered_when_every_user_was_told() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a"), user("b")], With::default(), Some("r1".into()));
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(user("a")), WatchEffect::Read(user("b"))]);
    watchers.handle_record(&user("b"), None);
    assert_eq!(effects(&mut watchers), [tell(1, "b", Status::Offline, 0)]);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 5)));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Idle, 5), done(1, "r1")]);
    watchers.handle_watch(Watcher(2), vec![user("a")], With::default(), Some("r2".into()));
    assert_eq!(effects(&mut watchers), [tell(2, "a", Status::Idle, 5), done(2, "r2")]);
}

#[test]
fn older_revisions_are_dropped() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a")], With::default(), None);
    watchers.handle_record(&user("a"), Some(record(Status::Online, 7)));
    effects(&mut watchers);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 6)));
    watchers.handle_record(&user("a"), Some(record(Status::Online, 7)));
    watchers.handle_record(&user("a"), None);
    assert_eq!(effects(&mut watchers), []);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 8)));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Idle, 8)]);
}

#[test]
fn nobody_hears_of_users_watched_no_more_and_they_are_forgotten() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a"), user("b")], With::default(), None);
    watchers.handle_watch(Watcher(2), vec![user("b")], With::default(), Some("r".into()));
    effects(&mut watchers);
    watchers.handle_unwatch(Watcher(1), &[user("a"), user("c")]);
    watchers.handle_closed(Watcher(2));
    assert_eq!(watchers.watched(), 1);
    watchers.handle_record(&user("a"), Some(record(Status::Online, 1)));
    watchers.handle_record(&user("b"), Some(record(Status::Online, 1)));
    let expected =
        [tell(1, "b", Status::Online, 1), WatchEffect::Done { watcher: Watcher(1), request: None }];
    assert_eq!(effects(&mut watchers), expected);
    watchers.handle_unwatch(Watcher(1), &[user("b")]);
    assert_eq!((watchers.watched(), watchers.watchers.len()), (0, 0));
}

#[test]
fn missed_news_are_read_again() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a")], With::default(), None);
    watchers.handle_record(&user("a"), Some(record(Status::Online, 1)));
    effects(&mut watchers);
    watchers.handle_missed();
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(user("a"))]);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 3)));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Idle, 3)]);
}

#[test]
fn a_user_named_twice_is_told_once_and_a_repeated_watch_is_answered_again() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a"), user("a")], With::default(), Some("r1".into()));
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(user("a"))]);
    watchers.handle_record(&user("a"), Some(record(Status::Online, 1)));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Online, 1), done(1, "r1")]);
    watchers.handle_watch(Watcher(1), vec![user("a"), user("a")], With::default(), Some("r2".into()));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Online, 1), done(1, "r2")]);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 2)));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Idle, 2)]);
}

#[test]
fn answers_keep_the_order_of_the_messages() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a")], With::default(), Some("r1".into()));
    watchers.handle_watch(Watcher(1), vec![user("b")], With::default(), Some("r2".into()));
    watchers.handle_watch(Watcher(1), vec![], With::default(), Some("r3".into()));
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(user("a")), WatchEffect::Read(user("b"))]);
    watchers.handle_record(&user("b"), None);
    assert_eq!(effects(&mut watchers), [tell(1, "b", Status::Offline, 0)]);
    watchers.handle_unwatch(Watcher(1), &[user("a")]);
    assert_eq!(effects(&mut watchers), [done(1, "r1"), done(1, "r2"), done(1, "r3")]);
}

#[test]
fn a_watch_of_nobody_is_answered_and_leaves_nothing() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![], With::default(), Some("r".into()));
    assert_eq!(effects(&mut watchers), [done(1, "r")]);
    assert_eq!((watchers.watched(), watchers.watchers.len()), (0, 0));
}

#[test]
fn a_change_reaches_all_of_ten_thousand_watchers_once() {
    let mut watchers = Watchers::new(1);
    for watcher in 0..10_000 {
        watchers.handle_watch(Watcher(watcher), vec![user("a")], With::default(), None);
    }
    watchers.handle_record(&user("a"), Some(record(Status::Online, 1)));
    effects(&mut watchers);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 2)));
    let expected: Vec<_> = (0..10_000).map(|watcher| tell(watcher, "a", Status::Idle, 2)).collect();
    assert_eq!(effects(&mut watchers), expected);
}

#[derive(Clone, Debug)]
enum Step {
    Watch {
        watcher: u64,
        users: Vec<usize>,
    },
    Unwatch {
        watcher: u64,
        user: usize,
    },
    Close {
        watcher: u64,
    },
    /// The user's status changes; the notice may get lost.
    Change {
        user: usize,
        lost: bool,
    },
    /// A notice comes again, late.
    Notice {
        user: usize,
        lag: usize,
    },
    Missed,
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u64, proptest::collection::vec(0..4_usize, 1..4))
            .prop_map(|(watcher, users)| Step::Watch { watcher, users }),
        (0..3_u64, 0..4_usize).prop_map(|(watcher, user)| Step::Unwatch { watcher, user }),
        (0..3_u64).prop_map(|watcher| Step::Close { watcher }),
        (0..4_usize, prop::bool::weighted(0.2)).prop_map(|(user, lost)| Step::Change { user, lost }),
        (0..4_usize, 0..3_usize).prop_map(|(user, lag)| Step::Notice { user, lag }),
        Just(Step::Missed),
        Just(Step::Answer),
    ]
}

/// The naive model: histories of four users, who watches whom, what each last heard.
struct Model {
    watchers: Watchers,
    names: Vec<UserId>,
    history: Vec<Vec<StatusRecord>>,
    watching: BTreeSet<(u64, usize)>,
    heard: BTreeMap<(u64, UserId), (Status, u64)>,
    /// Asked for by a message since it was last heard: the same revision may be told again, once.
    fresh: BTreeSet<(u64, UserId)>,
    reads: VecDeque<UserId>,
    unanswered: BTreeMap<u64, u64>,
    missed: bool,
}

impl Model {
    fn new() -> Model {
        Model {
            watchers: Watchers::new(9),
            names: (0..4).map(|at| user(&format!("u{at}"))).collect(),
            history: vec![Vec::new(); 4],
            watching: BTreeSet::new(),
            heard: BTreeMap::new(),
            fresh: BTreeSet::new(),
            reads: VecDeque::new(),
            unanswered: BTreeMap::new(),
            missed: false,
        }
    }

    fn run(&mut self) {
        while let Some(effect) = self.watchers.poll_effect() {
            match effect {
                WatchEffect::Read(user) => self.reads.push_back(user),
                WatchEffect::Tell { watcher, user, status, revision, .. } => {
                    let fresh = self.fresh.remove(&(watcher.0, user.clone()));
                    let before = self.heard.insert((watcher.0, user), (status, revision));
                    let newer = before.is_none_or(|(_, before)| before < revision);
                    assert!(newer || fresh && before == Some((status, revision)), "I9: once, in order");
                }
                WatchEffect::Watch(_) | WatchEffect::Unwatch(_) => {}
                WatchEffect::Done { watcher, .. } => *self.unanswered.get_mut(&watcher.0).unwrap() -= 1,
                other => panic!("nobody has asked for it: {other:?}"),
            }
        }
    }

    fn answer(&mut self) {
        if let Some(user) = self.reads.pop_front() {
            let at = self.names.iter().position(|name| *name == user).unwrap();
            self.watchers.handle_record(&user, self.history[at].last().copied());
        }
        self.run();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Watch { watcher, users } => {
                *self.unanswered.entry(watcher).or_default() += 1;
                self.watching.extend(users.iter().map(|user| (watcher, *user)));
                let users: Vec<UserId> = users.iter().map(|user| self.names[*user].clone()).collect();
                self.fresh.extend(users.iter().map(|user| (watcher, user.clone())));
                self.watchers.handle_watch(Watcher(watcher), users, With::default(), None);
            }
            Step::Unwatch { watcher, user } => {
                self.watching.remove(&(watcher, user));
                let name = self.names[user].clone();
                self.watchers.handle_unwatch(Watcher(watcher), std::slice::from_ref(&name));
                self.run();
                self.heard.remove(&(watcher, name));
            }
            Step::Close { watcher } => {
                self.watchers.handle_closed(Watcher(watcher));
                self.run();
                self.unanswered.remove(&watcher);
                self.watching.retain(|(other, _)| *other != watcher);
                self.heard.retain(|(other, _), _| *other != watcher);
            }
            Step::Change { user, lost } => {
                let revision = self.history[user].len() as u64 + 1;
                let status = if revision.is_multiple_of(2) { Status::Idle } else { Status::Online };
                let news = record(status, revision);
                self.history[user].push(news);
                if lost {
                    self.missed = true;
                } else {
                    self.watchers.handle_record(&self.names[user], Some(news));
                }
            }
            Step::Notice { user, lag } => {
                if let Some(old) = self.history[user].iter().rev().nth(lag) {
                    self.watchers.handle_record(&self.names[user], Some(*old));
                }
            }
            Step::Missed => self.missed(),
            Step::Answer => self.answer(),
        }
        self.run();
    }

    fn missed(&mut self) {
        self.missed = false;
        self.watchers.handle_missed();
        self.run();
    }
}

proptest! {
    /// I9: at rest, what each watcher last heard of a user it watches is the user's status; a revision is told once
    /// for each time it was asked for, and never after a newer one; every `watch` is answered once. I8: nothing is
    /// kept of who watches nobody, nor of who is not watched.
    #[test]
    fn i9_what_a_watcher_last_heard_is_the_status(steps in proptest::collection::vec(step(), 1..100)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
        }
        if model.missed {
            model.missed();
        }
        while !model.reads.is_empty() {
            model.answer();
        }
        for (watcher, at) in &model.watching {
            let last = model.history[*at].last();
            let expected = last.map_or((Status::Offline, 0), |last| (last.status, last.revision));
            prop_assert_eq!(model.heard.get(&(*watcher, model.names[*at].clone())), Some(&expected), "I9");
        }
        prop_assert!(model.unanswered.values().all(|open| *open == 0), "every watch is answered");
        let watched: BTreeSet<usize> = model.watching.iter().map(|(_, user)| *user).collect();
        prop_assert_eq!(model.watchers.watched(), watched.len());
        let watching: BTreeSet<u64> = model.watching.iter().map(|(watcher, _)| *watcher).collect();
        prop_assert!(model.watchers.watchers.keys().map(|watcher| watcher.0).eq(watching), "I8");
    }
}
