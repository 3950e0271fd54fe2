//! The figures, and that they stay right when guests are cut off, play at once, or hear things twice.

use std::collections::BTreeMap;
use std::rc::Rc;

use presence_plugin::keyvalue::Bucket;
use presence_plugin::testing::{self, keyvalue as disturb};
use presence_plugin::{Scope, Status};
use serde_json::Value;

use super::*;
use crate::ledger::rollup_key;
use crate::record::UserRecord;

const DAY_MS: u64 = 86_400_000;
/// 2025-11-25 at midnight.
const MIDNIGHT: u64 = 1_764_028_800_000;

#[derive(Clone, Debug)]
enum Event {
    Connected(Session),
    Disconnected(SessionDisconnected),
    Status(StatusChange),
    Lost(Vec<Session>),
    Everything,
}

fn session(id: &str, user: &str, connected_at: u64) -> Session {
    Session {
        id: id.to_string(),
        user: user.to_string(),
        instance: "i".to_string(),
        status: Status::Online,
        connected_at,
        attributes: Default::default(),
    }
}

fn connected(id: &str, user: &str, at: u64) -> Event {
    Event::Connected(session(id, user, at))
}

fn disconnected(id: &str, user: &str, at: u64, duration_ms: u64) -> Event {
    Event::Disconnected(SessionDisconnected {
        session: session(id, user, at),
        reason: "closed".to_string(),
        duration_ms,
    })
}

fn status(user: &str, previous: Option<Status>, current: Status, since: u64) -> Event {
    let user = user.to_string();
    Event::Status(StatusChange {
        user,
        previous,
        current,
        since,
        revision: since,
        sessions: 1,
        last_seen: None,
    })
}

fn plugin() -> Analytics {
    testing::reset();
    testing::set_now_ms(MIDNIGHT);
    Analytics::configure(Config::default()).unwrap()
}

fn tell(plugin: &Analytics, event: &Event) -> HookResult {
    let ctx = Context::default();
    // Whether it is the last says nothing of the sessions in it.
    let sweep = |scope| Cleanup { cause: "instance-lost".to_string(), scope, chunk: 0, last: false };
    match event {
        Event::Connected(event) => plugin.session_connected(&ctx, event),
        Event::Disconnected(event) => plugin.session_disconnected(&ctx, event),
        Event::Status(event) => match event.current {
            Status::Online => plugin.user_online(&ctx, event),
            Status::Idle => plugin.user_idle(&ctx, event),
            Status::Offline => plugin.user_offline(&ctx, event),
        },
        Event::Lost(sessions) => {
            let (instance, sessions) = ("i".to_string(), sessions.clone());
            plugin.cleanup(&ctx, &sweep(Scope::Lost { instance, sessions }))
        }
        Event::Everything => plugin.cleanup(&ctx, &sweep(Scope::Everything)),
    }
}

fn document(key: &str) -> Value {
    let entry = Bucket::new("analytics").get(key).unwrap().unwrap_or_else(|| panic!("{key} is missing"));
    serde_json::from_slice(&entry.value).unwrap()
}

fn figures(key: &str) -> Figures {
    serde_json::from_value(document(key)["figures"].clone()).unwrap()
}

fn keys(prefix: &str) -> Vec<String> {
    Bucket::new("analytics").keys(prefix).collect::<Result<_, _>>().unwrap()
}

fn sum(prefix: &str) -> Figures {
    keys(prefix).iter().fold(Figures::default(), |mut sum, key| {
        sum += figures(key);
        sum
    })
}

/// What a reader sees: every day's figures and every user's.
fn everything_kept() -> (BTreeMap<String, Figures>, BTreeMap<String, Figures>, Vec<String>) {
    let mut days = BTreeMap::<String, Figures>::new();
    for key in keys("rollup/") {
        *days.entry(key["rollup/".len()..][..10].to_string()).or_default() += figures(&key);
    }
    let users = keys("user/").into_iter().map(|key| (key.clone(), figures(&key))).collect();
    assert_eq!(sum("user/"), sum("rollup/"), "users and days add up to the same");
    for key in keys("user/") {
        assert_eq!(document(&key)["pending"], Value::Null, "{key}: nothing is on its way at rest");
    }
    (days, users, keys("open/"))
}

/// Two users of one shard and day, one of whom is there on two days, with everything that can happen.
fn story() -> Vec<Event> {
    use Status::{Idle, Offline, Online};
    let t = MIDNIGHT + 1000;
    vec![
        connected("a1", "alice", t),
        status("alice", None, Online, t),
        connected("a2", "alice", t + 10),
        connected("b1", "bob", t + 20),
        status("bob", None, Online, t + 20),
        status("alice", Some(Online), Idle, t + 500),
        disconnected("a1", "alice", t, 600),
        status("alice", Some(Idle), Online, t + 700),
        Event::Lost(vec![session("b1", "bob", t + 20), session("b2", "bob", t + 30)]),
        status("bob", Some(Online), Offline, t + 900),
        disconnected("a2", "alice", t + 10, DAY_MS),
        status("alice", Some(Online), Offline, t + DAY_MS),
        connected("a3", "alice", t + DAY_MS + 5),
        Event::Everything,
    ]
}

#[test]
fn the_figures_of_a_story() {
    let plugin = plugin();
    for event in story() {
        tell(&plugin, &event).unwrap();
    }
    let (days, users, open) = everything_kept();
    let alice = Figures {
        sessions_started: 3,
        sessions_ended: 2,
        sessions_lost: 1,
        session_ms: 600 + 86_400_000,
        became_online: 2,
        became_idle: 1,
        became_offline: 1,
        online_ms: 500 + 86_400_000 - 700,
        idle_ms: 200,
        ..Figures::default()
    };
    let bob = Figures {
        sessions_started: 2,
        sessions_lost: 2,
        became_online: 1,
        became_offline: 1,
        online_ms: 880,
        ..Figures::default()
    };
    assert_eq!(users, BTreeMap::from([("user/alice".to_string(), alice), ("user/bob".to_string(), bob)]));
    let second_day = Figures {
        sessions_started: 1,
        sessions_lost: 1,
        became_offline: 1,
        online_ms: 86_400_000 - 700,
        ..Figures::default()
    };
    assert_eq!(days["2025-11-26"], second_day);
    assert_eq!(days.len(), 2);
    assert_eq!(open, Vec::<String>::new());
    let record: UserRecord = serde_json::from_value(document("user/bob")).unwrap();
    assert_eq!((record.status, record.since), (Some(Status::Offline), MIDNIGHT + 1900));
}

#[test]
fn repeats_change_nothing() {
    let plugin = plugin();
    for event in story() {
        tell(&plugin, &event).unwrap();
        tell(&plugin, &event).unwrap();
    }
    let once = everything_kept();
    for event in story() {
        tell(&plugin, &event).unwrap();
    }
    assert_eq!(everything_kept(), once, "all of it once more, from the start");
}

#[test]
fn a_guest_may_be_thrown_away_after_any_step() {
    let undisturbed = {
        let plugin = plugin();
        story().iter().for_each(|event| tell(&plugin, event).unwrap());
        everything_kept().1
    };
    for fault in (0..40).flat_map(|step| [disturb::Fault::Before(step), disturb::Fault::After(step)]) {
        let plugin = plugin();
        for (number, event) in story().into_iter().enumerate() {
            disturb::disturb(Some(fault));
            let first = tell(&plugin, &event);
            disturb::disturb(None);
            if let Err(error) = first {
                assert!(error.is_retry(), "{error}");
                strangers(number).for_each(|event| tell(&plugin, &event).unwrap());
                tell(&plugin, &event).unwrap();
            }
        }
        assert_eq!(users_among_strangers(&undisturbed), undisturbed, "{fault:?}");
    }
}

/// Every event of the story is played by another guest between any two steps of the same event, and of the one before,
/// with many users who have nothing to do with it.
#[test]
fn guests_may_work_side_by_side() {
    let undisturbed = {
        let plugin = plugin();
        story().iter().for_each(|event| tell(&plugin, event).unwrap());
        everything_kept().1
    };
    for step in 0..14 {
        let plugin = Rc::new(plugin());
        for (number, event) in story().into_iter().enumerate() {
            // The next event too, where their order is free: those of one session and of one user's status have one.
            let mut others = vec![event.clone()];
            if let (Event::Connected(_), Some(next @ Event::Status(_))) = (&event, story().get(number + 1)) {
                others.push(next.clone());
            }
            let (guest, mut left) = (Rc::clone(&plugin), Some(others));
            let mut seen = 0;
            disturb::between(Some(Box::new(move |_| {
                if seen == step {
                    let others = left.take().into_iter().flatten();
                    others.for_each(|event| tell(&guest, &event).unwrap());
                    strangers(number).for_each(|event| tell(&guest, &event).unwrap());
                }
                seen += 1;
            })));
            tell(&plugin, &event).unwrap();
            disturb::between(None);
        }
        assert_eq!(users_among_strangers(&undisturbed), undisturbed, "step {step}");
    }
}

fn users_among_strangers(known: &BTreeMap<String, Figures>) -> BTreeMap<String, Figures> {
    let (_, mut users, _) = everything_kept();
    users.retain(|user, _| known.contains_key(user));
    users
}

/// Users on the roll-ups of alice and bob, enough to make notes there go.
fn strangers(number: usize) -> impl Iterator<Item = Event> {
    let beside = |user: &'static str| {
        let names = (0..).map(move |name| format!("{number}-{name}"));
        names.filter(move |name| rollup_key(MIDNIGHT, name) == rollup_key(MIDNIGHT, user)).take(3)
    };
    let names = beside("alice").chain(beside("bob"));
    names.map(|name| status(&name, None, Status::Online, MIDNIGHT))
}

/// Many users, random order between them, random cuts, random company; the seed is in the message.
#[test]
fn random_weather() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let plugin = Rc::new(plugin());
        let mut queues: Vec<Vec<Event>> =
            (0..80).flat_map(|user| life(&format!("u{user}"), &mut random)).collect();
        let expected = queues.iter().flatten().fold(Figures::default(), |mut sum, event| {
            sum += naive(event);
            sum
        });
        while !queues.is_empty() {
            let at = random.usize(..queues.len());
            let event = queues[at].remove(0);
            let twin = event.clone();
            if queues[at].is_empty() {
                queues.swap_remove(at);
            }
            let (guest, when, mut seen) = (Rc::clone(&plugin), random.usize(..12), 0);
            disturb::between(Some(Box::new(move |_| {
                if seen == when {
                    // This one may be cut off as well.
                    let _ = tell(&guest, &twin);
                }
                seen += 1;
            })));
            disturb::disturb(random.bool().then(|| disturb::Fault::After(random.usize(..30))));
            let first = tell(&plugin, &event);
            disturb::between(None);
            disturb::disturb(None);
            if first.is_err() || random.u8(..4) == 0 {
                tell(&plugin, &event).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
        }
        let (_, users, open) = everything_kept();
        assert_eq!((sum("rollup/"), users.len(), open.len()), (expected, 80, 0), "seed {seed}");
    }
}

/// A user's queue of status changes, and one of each session.
fn life(user: &str, random: &mut fastrand::Rng) -> Vec<Vec<Event>> {
    use Status::{Idle, Offline, Online};
    let start = MIDNIGHT + random.u64(..3 * DAY_MS);
    let mut queues = vec![vec![
        status(user, None, Online, start),
        status(user, Some(Online), Idle, start + 100),
        status(user, Some(Idle), Online, start + 300),
        status(user, Some(Online), Offline, start + 600),
    ]];
    for number in 0..random.u64(1..4) {
        let (id, at) = (format!("{user}-{number}"), start + number);
        queues.push(vec![connected(&id, user, at), disconnected(&id, user, at, 500)]);
    }
    queues
}

/// What an event of such a life adds, counted the simple way.
fn naive(event: &Event) -> Figures {
    let mut figures = Figures::default();
    match event {
        Event::Connected(_) => figures.sessions_started = 1,
        Event::Disconnected(end) => {
            (figures.sessions_ended, figures.session_ms) = (1, end.duration_ms as i64);
        }
        Event::Status(change) => match (change.previous, change.current) {
            (None, _) => figures.became_online = 1,
            (_, Status::Idle) => (figures.became_idle, figures.online_ms) = (1, 100),
            (_, Status::Online) => (figures.became_online, figures.idle_ms) = (1, 200),
            (_, Status::Offline) => (figures.became_offline, figures.online_ms) = (1, 300),
        },
        Event::Lost(_) | Event::Everything => {}
    }
    figures
}

#[test]
fn sessions_are_counted_by_whatever_is_heard_first() {
    let plugin = plugin();
    let t = MIDNIGHT;
    tell(&plugin, &disconnected("s1", "alice", t, 5)).unwrap();
    tell(&plugin, &connected("s1", "alice", t)).unwrap();
    tell(&plugin, &Event::Lost(vec![session("s1", "alice", t), session("s2", "alice", t)])).unwrap();
    let lost = figures("user/alice");
    assert_eq!((lost.sessions_started, lost.sessions_ended, lost.sessions_lost), (2, 1, 1));
    tell(&plugin, &disconnected("s2", "alice", t, 7)).unwrap();
    let ended = figures("user/alice");
    assert_eq!(
        (ended.sessions_started, ended.sessions_ended, ended.sessions_lost),
        (2, 2, 0),
        "not lost after all"
    );
    assert_eq!(ended.session_ms, 12);
    assert_eq!(everything_kept().2, Vec::<String>::new());
}

/// A large cleanup comes in chunks; each may come again, also after the next one, and from another host that cut them
/// otherwise.
#[test]
fn chunks_of_a_lost_instance_are_counted_once() {
    let plugin = plugin();
    let t = MIDNIGHT;
    let sessions: Vec<Session> =
        (0..10).map(|at| session(&format!("s{at}"), &format!("u{}", at % 3), t + at)).collect();
    for opened in &sessions[..7] {
        tell(&plugin, &Event::Connected(opened.clone())).unwrap();
    }
    let chunks = [&sessions[..4], &sessions[4..8], &sessions[..4], &sessions[8..], &sessions[2..9], &[]];
    for chunk in chunks {
        tell(&plugin, &Event::Lost(chunk.to_vec())).unwrap();
    }
    let (_, users, open) = everything_kept();
    let lost: Vec<i64> = users.values().map(|figures| figures.sessions_lost).collect();
    assert_eq!((lost, open), (vec![4, 3, 3], Vec::<String>::new()));
    assert_eq!(sum("user/").sessions_started, 10, "also those whose beginning was not heard of");
}

#[test]
fn gaps_are_unknown_and_replays_are_no_changes() {
    use Status::{Idle, Offline, Online};
    let plugin = plugin();
    let t = MIDNIGHT;
    for event in [
        status("alice", None, Online, t),
        status("alice", None, Online, t + 1), // a fresh start
        status("alice", Some(Online), Online, t + 3),
        status("alice", Some(Idle), Online, t + 7), // the change to idle never came
        status("alice", Some(Online), Offline, t + 15),
        status("alice", None, Online, t + 31), // another fresh start: who was offline stayed so
        status("alice", Some(Offline), Idle, t + 30), // late
    ] {
        tell(&plugin, &event).unwrap();
    }
    let expected = Figures {
        became_online: 3,
        became_offline: 1,
        online_ms: 2 + 8,
        offline_ms: 16,
        unknown_ms: 1 + 4,
        ..Figures::default()
    };
    assert_eq!(figures("user/alice"), expected);
}

#[test]
fn documents_stay_small() {
    let plugin = plugin();
    let id = |number: usize| format!("0198c5a0-0000-7000-8000-{number:012}");
    for number in 0..1000 {
        tell(&plugin, &connected(&id(number), "bot", MIDNIGHT)).unwrap();
    }
    let counted = figures("user/bot").sessions_started;
    assert!((600..1000).contains(&counted), "{counted}");
    for number in 0..1000 {
        tell(&plugin, &disconnected(&id(number), "bot", MIDNIGHT, 1)).unwrap();
    }
    let all = figures("user/bot");
    assert_eq!((all.sessions_started, all.sessions_ended, all.session_ms), (1000, 1000, 1000));
    let remembered = || document("user/bot")["closed"].as_array().unwrap().len();
    assert!(remembered() > 300);
    testing::set_now_ms(MIDNIGHT + DAY_MS);
    tell(&plugin, &disconnected("last", "bot", MIDNIGHT, 1)).unwrap();
    assert_eq!(remembered(), 32);
}

#[test]
fn notes_are_dropped_once_they_have_served() {
    let plugin = plugin();
    for user in 0..2000 {
        tell(&plugin, &status(&format!("u{user}"), None, Status::Online, MIDNIGHT)).unwrap();
    }
    assert_eq!(sum("rollup/").became_online, 2000);
    for key in keys("rollup/") {
        assert!(document(&key)["applied"].as_object().unwrap().len() <= 33, "{key}");
    }
}

fn tick(plugin: &Analytics, due: u64) {
    plugin.tick(&Context::default(), &Tick { due, interval_ms: 60_000 }).unwrap();
}

/// Ticks until the round is at its end.
fn round(plugin: &Analytics, due: u64) {
    tick(plugin, due);
    while !keys("round").is_empty() {
        tick(plugin, due);
    }
}

fn attendance(key: &str) -> rounds::Attendance {
    serde_json::from_value(document(key)).unwrap()
}

fn census(users: u64, online: u64, idle: u64, sessions: u64) -> rounds::Census {
    rounds::Census { users, online, idle, sessions }
}

#[test]
fn ticks_count_who_is_there_by_the_hour_and_the_day() {
    let plugin = plugin();
    let t = MIDNIGHT + 17 * 3_600_000;
    for user in 0..10 {
        let name = format!("u{user}");
        tell(&plugin, &connected(&format!("s{user}"), &name, t)).unwrap();
        tell(&plugin, &status(&name, None, if user < 7 { Status::Online } else { Status::Idle }, t)).unwrap();
    }
    tick(&plugin, t + 60_000);
    assert_eq!((keys("hour/"), keys("round")), (vec![], vec!["round".to_string()]), "it takes several ticks");
    round(&plugin, t + 120_000);
    let first = census(10, 7, 3, 10);
    let expected = rounds::Attendance { at: t + 120_000, now: first, peak: first };
    assert_eq!(attendance("hour/2025-11-25T17"), expected);
    assert_eq!(attendance("day/2025-11-25"), expected);
    for user in 0..7 {
        tell(&plugin, &disconnected(&format!("s{user}"), &format!("u{user}"), t, 1)).unwrap();
        tell(&plugin, &status(&format!("u{user}"), Some(Status::Online), Status::Idle, t + 5)).unwrap();
    }
    round(&plugin, t + 180_000);
    let second = census(10, 0, 10, 3);
    let expected = rounds::Attendance { at: t + 180_000, now: second, peak: census(10, 7, 10, 10) };
    assert_eq!(attendance("hour/2025-11-25T17"), expected);
    round(&plugin, t + 180_000);
    assert_eq!(attendance("hour/2025-11-25T17"), expected, "a repeat says the same");
    round(&plugin, t + 3_600_000);
    assert_eq!(attendance("hour/2025-11-25T18").peak, second);
    assert_eq!(attendance("day/2025-11-25").peak, census(10, 7, 10, 10));
}

#[test]
fn users_who_are_long_gone_are_forgotten_and_the_days_keep_what_they_did() {
    let plugin = plugin();
    let t = MIDNIGHT;
    for user in ["gone", "back", "here", "open"] {
        tell(&plugin, &connected(user, user, t)).unwrap();
        tell(&plugin, &status(user, None, Status::Online, t)).unwrap();
    }
    for user in ["gone", "back"] {
        tell(&plugin, &disconnected(user, user, t, 10)).unwrap();
        tell(&plugin, &status(user, Some(Status::Online), Status::Offline, t + 10)).unwrap();
    }
    tell(&plugin, &status("open", Some(Status::Online), Status::Offline, t + 10)).unwrap();
    let all_time = sum("rollup/");
    round(&plugin, t + 90 * DAY_MS);
    assert_eq!(keys("user/").len(), 4, "not yet");
    testing::set_now_ms(t + 91 * DAY_MS);
    tell(&plugin, &status("back", Some(Status::Offline), Status::Online, t + 91 * DAY_MS)).unwrap();
    round(&plugin, t + 91 * DAY_MS);
    assert_eq!(
        keys("user/"),
        ["user/back", "user/here", "user/open"],
        "a session is open, or a status is not offline"
    );
    let now = sum("rollup/");
    assert_eq!(now.sessions_started, all_time.sessions_started);
    tell(&plugin, &connected("again", "gone", t + 91 * DAY_MS)).unwrap();
    assert_eq!(figures("user/gone").sessions_started, 1, "begins anew");
    assert_eq!(sum("rollup/").sessions_started, all_time.sessions_started + 1);
}

#[test]
fn nobody_is_forgotten_if_that_is_what_is_wanted() {
    let config = Config { forget_after_days: 0, ..Config::default() };
    testing::reset();
    testing::set_now_ms(MIDNIGHT);
    let plugin = Analytics::configure(config).unwrap();
    tell(&plugin, &status("alice", None, Status::Offline, MIDNIGHT)).unwrap();
    round(&plugin, MIDNIGHT + 10_000 * DAY_MS);
    assert_eq!(keys("user/").len(), 1);
}

#[test]
fn hours_and_days_are_bounded() {
    let plugin = plugin();
    for hour in 0..40 {
        tick(&plugin, MIDNIGHT + hour * 3_600_000);
    }
    assert_eq!(keys("hour/").len(), 30);
    assert_eq!(keys("hour/")[0], "hour/2025-11-25T10");
    for day in 0..20 {
        tick(&plugin, MIDNIGHT + day * DAY_MS);
    }
    assert_eq!(keys("day/").len(), 10);
    assert_eq!(keys("day/")[0], "day/2025-12-05");
}

#[test]
fn a_tick_that_is_cut_off_anywhere_is_made_good_by_the_next() {
    for fault in (0..30).flat_map(|step| [disturb::Fault::Before(step), disturb::Fault::After(step)]) {
        let plugin = plugin();
        for user in 0..6 {
            tell(&plugin, &status(&format!("u{user}"), None, Status::Online, MIDNIGHT)).unwrap();
        }
        disturb::disturb(Some(fault));
        // It may be cut off, or have come to its end.
        let _ = plugin.tick(&Context::default(), &Tick { due: MIDNIGHT + 60_000, interval_ms: 60_000 });
        disturb::disturb(None);
        round(&plugin, MIDNIGHT + 120_000);
        round(&plugin, MIDNIGHT + 180_000);
        assert_eq!(attendance("day/2025-11-25").now, census(6, 6, 0, 0), "{fault:?}");
        assert_eq!(attendance("day/2025-11-25").peak, census(6, 6, 0, 0), "{fault:?}");
    }
}

#[test]
fn foreign_documents_are_not_overwritten() {
    let plugin = plugin();
    Bucket::new("analytics").set("user/alice", "12").unwrap();
    let error = tell(&plugin, &connected("s", "alice", MIDNIGHT)).unwrap_err();
    assert!(error.to_string().starts_with("user/alice is not a document of this plugin"), "{error}");
    assert!(!error.is_retry());
}
