//! Whole effects of watching, and I9 against a naive model.

use proptest::prelude::*;

use super::*;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn record(status: Status, revision: u64) -> StatusRecord {
    StatusRecord { status, since: Timestamp(revision), revision, last_seen: None, sessions: 1, generation: 1 }
}

fn tell(watcher: u64, name: &str, status: Status, revision: u64) -> WatchEffect {
    let (watcher, since) = (Watcher(watcher), Timestamp(revision));
    WatchEffect::Tell { watcher, user: user(name), status, since, revision }
}

fn done(watcher: u64, request: &str) -> WatchEffect {
    WatchEffect::Done { watcher: Watcher(watcher), request: Some(request.into()) }
}

fn effects(watchers: &mut Watchers) -> Vec<WatchEffect> {
    std::iter::from_fn(|| watchers.poll_effect()).collect()
}

#[test]
fn a_watch_is_answered_when_every_user_was_told() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a"), user("b")], Some("r1".into()));
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(user("a")), WatchEffect::Read(user("b"))]);
    watchers.handle_record(&user("b"), None);
    assert_eq!(effects(&mut watchers), [tell(1, "b", Status::Offline, 0)]);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 5)));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Idle, 5), done(1, "r1")]);
    watchers.handle_watch(Watcher(2), vec![user("a")], Some("r2".into()));
    assert_eq!(effects(&mut watchers), [tell(2, "a", Status::Idle, 5), done(2, "r2")]);
}

#[test]
fn older_revisions_are_dropped() {
    let mut watchers = Watchers::new(1);
    watchers.handle_watch(Watcher(1), vec![user("a")], None);
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
    watchers.handle_watch(Watcher(1), vec![user("a"), user("b")], None);
    watchers.handle_watch(Watcher(2), vec![user("b")], Some("r".into()));
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
    watchers.handle_watch(Watcher(1), vec![user("a")], None);
    watchers.handle_record(&user("a"), Some(record(Status::Online, 1)));
    effects(&mut watchers);
    watchers.handle_missed();
    assert_eq!(effects(&mut watchers), [WatchEffect::Read(user("a"))]);
    watchers.handle_record(&user("a"), Some(record(Status::Idle, 3)));
    assert_eq!(effects(&mut watchers), [tell(1, "a", Status::Idle, 3)]);
}

#[derive(Clone, Debug)]
enum Step {
    Watch { watcher: u64, users: Vec<usize> },
    Unwatch { watcher: u64, user: usize },
    Close { watcher: u64 },
    Change { user: usize },
    Notice { user: usize, lag: usize },
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u64, proptest::collection::vec(0..4_usize, 1..4))
            .prop_map(|(watcher, users)| Step::Watch { watcher, users }),
        (0..3_u64, 0..4_usize).prop_map(|(watcher, user)| Step::Unwatch { watcher, user }),
        (0..3_u64).prop_map(|watcher| Step::Close { watcher }),
        (0..4_usize).prop_map(|user| Step::Change { user }),
        (0..4_usize, 0..3_usize).prop_map(|(user, lag)| Step::Notice { user, lag }),
        Just(Step::Answer),
    ]
}

proptest! {
    /// I9: at rest, what each watcher last heard of a user it watches is the user's status; revisions never go back
    /// within one watch; every `watch` is answered once.
    #[test]
    fn i9_what_a_watcher_last_heard_is_the_status(steps in proptest::collection::vec(step(), 1..100)) {
        let names: Vec<UserId> = (0..4).map(|at| user(&format!("u{at}"))).collect();
        let mut history: Vec<Vec<StatusRecord>> = vec![Vec::new(); 4];
        let mut watching: BTreeSet<(u64, usize)> = BTreeSet::new();
        let mut heard: BTreeMap<(u64, UserId), (Status, u64)> = BTreeMap::new();
        let mut reads: VecDeque<UserId> = VecDeque::new();
        let mut asked: BTreeMap<u64, u64> = BTreeMap::new();
        let mut watchers = Watchers::new(9);
        let run = |watchers: &mut Watchers, reads: &mut VecDeque<UserId>, asked: &mut BTreeMap<u64, u64>,
                       heard: &mut BTreeMap<(u64, UserId), (Status, u64)>| {
            while let Some(effect) = watchers.poll_effect() {
                match effect {
                    WatchEffect::Read(user) => reads.push_back(user),
                    WatchEffect::Tell { watcher, user, status, revision, .. } => {
                        let before = heard.insert((watcher.0, user), (status, revision));
                        assert!(before.is_none_or(|(_, before)| before <= revision), "I9");
                    }
                    WatchEffect::Done { watcher, .. } => *asked.get_mut(&watcher.0).unwrap() -= 1,
                }
            }
        };
        for step in steps {
            match step {
                Step::Watch { watcher, users } => {
                    *asked.entry(watcher).or_default() += 1;
                    watching.extend(users.iter().map(|user| (watcher, *user)));
                    let users = users.iter().map(|user| names[*user].clone()).collect();
                    watchers.handle_watch(Watcher(watcher), users, None);
                }
                Step::Unwatch { watcher, user } => {
                    watching.remove(&(watcher, user));
                    watchers.handle_unwatch(Watcher(watcher), &[names[user].clone()]);
                    run(&mut watchers, &mut reads, &mut asked, &mut heard);
                    heard.remove(&(watcher, names[user].clone()));
                }
                Step::Close { watcher } => {
                    watchers.handle_closed(Watcher(watcher));
                    run(&mut watchers, &mut reads, &mut asked, &mut heard);
                    asked.remove(&watcher);
                    watching.retain(|(other, _)| *other != watcher);
                    heard.retain(|(other, _), _| *other != watcher);
                }
                Step::Change { user } => {
                    let revision = history[user].len() as u64 + 1;
                    let status = if revision % 2 == 0 { Status::Idle } else { Status::Online };
                    history[user].push(record(status, revision));
                    watchers.handle_record(&names[user], Some(record(status, revision)));
                }
                Step::Notice { user, lag } => {
                    if let Some(old) = history[user].iter().rev().nth(lag) {
                        watchers.handle_record(&names[user], Some(*old));
                    }
                }
                Step::Answer => {
                    if let Some(user) = reads.pop_front() {
                        let at = names.iter().position(|name| *name == user).unwrap();
                        watchers.handle_record(&user, history[at].last().copied());
                    }
                }
            }
            run(&mut watchers, &mut reads, &mut asked, &mut heard);
        }
        while let Some(user) = reads.pop_front() {
            let at = names.iter().position(|name| *name == user).unwrap();
            watchers.handle_record(&user, history[at].last().copied());
            run(&mut watchers, &mut reads, &mut asked, &mut heard);
        }
        for (watcher, at) in &watching {
            let expected = history[*at].last().map_or((Status::Offline, 0), |last| (last.status, last.revision));
            prop_assert_eq!(heard.get(&(*watcher, names[*at].clone())), Some(&expected), "I9");
        }
        prop_assert!(asked.values().all(|open| *open == 0), "every watch is answered: {asked:?}");
        let watched: BTreeSet<usize> = watching.iter().map(|(_, user)| *user).collect();
        prop_assert_eq!(watchers.watched(), watched.len());
    }
}
