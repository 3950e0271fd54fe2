//! Every check is shown to object: evidence that is right, and one thing changed in it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Evidence, Final, judge};
use crate::chaos::ledger::{Contradiction, Fate, Heard, Life, Pause, SessionNote};

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn heard(seconds: u64, host: usize, kind: &str, id: &str, data: Value) -> Heard {
    Heard { at: at(seconds), host, event: json!({"type": kind, "id": id, "data": data}) }
}

fn status(seconds: u64, host: usize, status: &str, revision: u64) -> Heard {
    let data = json!({"user": "alice", "current": status, "revision": revision, "since": revision});
    heard(seconds, host, &format!("user-{status}"), &format!("w:{status}:{revision}"), data)
}

fn connected(seconds: u64, host: usize, session: &str, instance: &str) -> Heard {
    let data = json!({"id": session, "user": "alice", "instance": instance});
    heard(seconds, host, "session-connected", &format!("w:c:{session}"), data)
}

fn disconnected(seconds: u64, host: usize, session: &str, instance: &str) -> Heard {
    let data = json!({"session": {"id": session, "user": "alice", "instance": instance}, "reason": "closed"});
    heard(seconds, host, "session-disconnected", &format!("w:d:{session}"), data)
}

fn everything(seconds: u64, generation: u64) -> Heard {
    let id = format!("w:cleanup:everything:e-{generation}-0:0");
    heard(seconds, 0, "cleanup", &id, json!({"scope": "everything"}))
}

fn cleanup(seconds: u64, instance: &str, sessions: &[&str]) -> Heard {
    let sessions: Vec<Value> = sessions.iter().map(|id| json!({"id": id, "user": "alice"})).collect();
    let data = json!({"scope": {"lost": {"instance": instance, "sessions": sessions}}});
    heard(seconds, 1, "cleanup", &format!("w:cleanup:{instance}:0"), data)
}

fn note(seconds: u64, host: usize, session: &str, instance: &str) -> SessionNote {
    SessionNote {
        session: session.into(),
        user: "alice".into(),
        instance: instance.into(),
        host,
        welcomed: at(seconds),
        again: false,
        ended: None,
    }
}

/// Two hosts; the first is killed at 10 s with Alice's first session; the second has one more that ended, and her last.
fn right() -> Evidence {
    let mut evidence = Evidence::default();
    let life = |host, ended| Life { host, started: at(0), ready: Some(at(2)), ended };
    evidence.kept.lives = vec![life(0, Some((at(10), Fate::Killed))), life(1, None)];
    evidence.kept.sessions = vec![note(3, 0, "s1", "i0"), note(4, 1, "s2", "i1"), note(12, 1, "s3", "i1")];
    evidence.kept.instances = [("i0".to_owned(), (0, at(3))), ("i1".to_owned(), (1, at(4)))].into();
    evidence.kept.sessions[0].ended = Some((at(10), "lost"));
    evidence.kept.sessions[1].ended = Some((at(6), "left"));
    evidence.heard = vec![
        everything(1, 1),
        connected(3, 0, "s1", "i0"),
        status(3, 0, "online", 30),
        connected(4, 1, "s2", "i1"),
        disconnected(6, 1, "s2", "i1"),
        connected(12, 1, "s3", "i1"),
        cleanup(16, "i0", &["s1"]),
        status(17, 1, "idle", 40),
    ];
    let told = [("alice".to_owned(), ("idle".to_owned(), 40))].into();
    evidence.clients = vec![Final { user: "alice".into(), wanted: true, status: Some("idle".into()), told }];
    let recorded = [("alice".to_owned(), ("idle".to_owned(), 40))];
    evidence.statuses = vec![recorded.clone().into(), recorded.into()];
    evidence
}

/// The names of what is wrong after this change.
fn broken(change: impl FnOnce(&mut Evidence)) -> Vec<&'static str> {
    let mut evidence = right();
    change(&mut evidence);
    let mut names: Vec<&str> = judge(&evidence).iter().map(|violation| violation.invariant).collect();
    names.dedup();
    names
}

#[test]
fn nothing_is_wrong_with_what_is_right() {
    assert_eq!(judge(&right()), []);
}

#[test]
fn i1_a_host_that_says_otherwise() {
    let stale = |evidence: &mut Evidence| {
        evidence.statuses[1].insert("alice".into(), ("online".into(), 30));
    };
    assert_eq!(broken(stale), ["I1"]);
    assert_eq!(broken(|evidence| evidence.statuses[1].clear()), ["I1"]);
    let lost = |evidence: &mut Evidence| evidence.clients[0].status = None;
    assert!(broken(lost).contains(&"I1"), "a client that can't come back");
}

#[test]
fn i2_a_revision_that_goes_back() {
    assert_eq!(broken(|evidence| evidence.heard.push(status(18, 1, "online", 30))), ["I2"]);
    let paused = |evidence: &mut Evidence| {
        evidence.kept.pauses.push(Pause { host: 1, from: at(13), to: Some(at(17)) });
        evidence.heard.push(status(18, 1, "online", 30));
    };
    assert!(broken(paused).is_empty(), "a call that was held back may arrive late");
}

#[test]
fn i3_a_last_status_that_was_never_told() {
    assert_eq!(broken(|evidence| drop(evidence.heard.pop())), ["I3"]);
    let newer = |evidence: &mut Evidence| {
        for statuses in &mut evidence.statuses {
            statuses.insert("alice".into(), ("idle".into(), 41));
        }
    };
    assert_eq!(broken(newer), ["I3"]);
    let letter = |evidence: &mut Evidence| evidence.dead_letters.push("[{\"event_id\": 1}]".into());
    assert_eq!(broken(letter), ["I3"]);
}

#[test]
fn i4_two_records_of_one_revision() {
    assert!(broken(|evidence| evidence.heard.push(status(18, 1, "online", 40))).contains(&"I4"));
    let watched = |evidence: &mut Evidence| {
        evidence.kept.told.insert(("alice".into(), 40), "online".into());
    };
    assert_eq!(broken(watched), ["I4"]);
    let contradiction = |evidence: &mut Evidence| {
        let statuses = ["idle".into(), "online".into()];
        evidence.kept.contradictions.push(Contradiction { user: "alice".into(), revision: 40, statuses });
    };
    assert_eq!(broken(contradiction), ["I4"]);
}

#[test]
fn i5_a_dead_instance_without_a_whole_cleanup() {
    assert_eq!(broken(|evidence| drop(evidence.heard.remove(6))), ["I5"]);
    assert_eq!(broken(|evidence| evidence.heard[6] = cleanup(16, "i0", &[])), ["I5"]);
}

#[test]
fn i5_a_living_instance_with_a_cleanup() {
    assert_eq!(broken(|evidence| evidence.heard.insert(7, cleanup(16, "i1", &[]))), ["I5"]);
    let left = |evidence: &mut Evidence| {
        evidence.kept.lives[1].ended = Some((at(20), Fate::Exited(0)));
        evidence.heard.push(disconnected(20, 1, "s3", "i1"));
        evidence.heard.push(cleanup(25, "i1", &[]));
    };
    assert_eq!(broken(left), ["I5"]);
    let replaced = |evidence: &mut Evidence| {
        evidence.kept.instances.insert("i2".into(), (1, at(20)));
        evidence.heard.push(cleanup(21, "i1", &["s3"]));
    };
    assert!(broken(replaced).is_empty(), "it was dead: its process has a newer one");
}

#[test]
fn i5_everything_while_a_host_is_up() {
    assert_eq!(broken(|evidence| evidence.heard.insert(7, everything(16, 2))), ["I5"]);
    assert_eq!(broken(|evidence| drop(evidence.heard.remove(0))), ["I5"], "no first one");
    let down = |evidence: &mut Evidence| {
        evidence.kept.lives[1].ended = Some((at(11), Fate::Killed));
        let again = Life { host: 1, started: at(11), ready: Some(at(12)), ended: None };
        evidence.kept.lives.push(again);
        evidence.heard.insert(5, everything(12, 2));
    };
    assert!(broken(down).is_empty(), "all were down, and it stands for the cleanups of both");
}

#[test]
fn i6_sessions_without_their_pair() {
    assert_eq!(broken(|evidence| drop(evidence.heard.remove(4))), ["I6"], "never disconnected");
    assert_eq!(broken(|evidence| drop(evidence.heard.remove(5))), ["I6"], "never connected");
    assert_eq!(broken(|evidence| evidence.heard.swap(3, 4)), ["I6"], "in the wrong order");
    let twice = |evidence: &mut Evidence| {
        let mut again = connected(13, 1, "s3", "i1");
        again.event["id"] = json!("another");
        evidence.heard.push(again);
    };
    assert_eq!(broken(twice), ["I6"], "two ids for one event");
    let repeated = |evidence: &mut Evidence| evidence.heard.push(connected(13, 1, "s3", "i1"));
    assert!(broken(repeated).is_empty(), "a repeat has the same id");
}

#[test]
fn i9_a_watcher_that_was_left_behind() {
    let stale = |evidence: &mut Evidence| {
        evidence.clients[0].told.insert("alice".into(), ("online".into(), 30));
    };
    assert_eq!(broken(stale), ["I9"]);
}
