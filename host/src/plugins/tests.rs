//! Plugins as the host meets them: files that can't be loaded, guests that misbehave, events that arrive.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use presence_core::delivery::Payload;
use presence_core::events::{Hook, Scope, Sweep, labels};
use presence_core::ids::{InstanceId, PartitionId, SessionId};
use presence_core::time::Tick;

use super::metrics::{FailureKind, PluginMetrics};
use super::testing::{
    Folder, LetterBox, letter_box, quiet_component, session_event, settings, transition, zoo_component,
};
use super::{
    Backends, CompileMode, Deps, LetterNumber, NotWanted, Outcome, PluginSet, Plugins, ReplayEnd, Replayed,
    check,
};
use crate::clock::Clock;
use crate::settings::PluginSettings;

mod guide;
mod hostile;
mod reload;
mod traces;

/// Nothing in these tests takes longer, on a slow machine either.
const PATIENCE: Duration = Duration::from_secs(30);

/// A name, and what is different in its settings.
type Animal<'a> = (&'a str, fn(&mut PluginSettings));

struct Running {
    set: PluginSet,
    letters: Arc<LetterBox>,
    _folder: Folder,
}

impl Running {
    /// Loads plugins of the zoo, with these changes to their settings.
    async fn zoo(plugins: &[Animal<'_>]) -> Running {
        Running::traced(plugins, crate::traces::Tracer::off()).await
    }

    /// The same; hooks go on with the traces of their events.
    async fn traced(plugins: &[Animal<'_>], tracer: crate::traces::Tracer) -> Running {
        let folder = Folder::new();
        let path = folder.write("zoo.wasm", zoo_component());
        let settings: Vec<PluginSettings> = plugins
            .iter()
            .map(|(name, change)| {
                let mut settings = settings(name, path.clone());
                change(&mut settings);
                settings
            })
            .collect();
        let letters = letter_box();
        let deps = Deps { tracer, ..deps(&folder, letters.clone()) };
        let set = PluginSet::load(&settings, deps).await.unwrap();
        Running { set, letters, _folder: folder }
    }

    fn online(&self, user: &str, revision: u64) {
        self.set.submit(Payload::Status(transition(user, revision).into()));
    }

    fn connected(&self, user: &str, session: u128) {
        self.set.submit(Payload::Session(session_event(user, session).into()));
    }

    /// Waits for so many outcomes.
    async fn outcomes(&self, count: usize) -> Vec<Outcome> {
        let mut all = Vec::new();
        while all.len() < count {
            let more = tokio::time::timeout(PATIENCE, self.set.outcomes()).await;
            all.extend(more.unwrap_or_else(|_| panic!("only {all:?}")));
        }
        assert_eq!(all.len(), count, "{all:?}");
        all
    }

    /// The error of the only dead letter.
    fn letter(&self) -> String {
        let letters = self.letters.letters();
        assert_eq!(letters.len(), 1, "{letters:?}");
        letters[0].error.clone()
    }

    /// Waits until the first plugin's numbers are as wanted.
    async fn until(&self, wanted: impl Fn(&PluginMetrics) -> bool) {
        let reached = async {
            while !wanted(&self.metrics(0)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, reached).await;
        ended.unwrap_or_else(|_| panic!("{:?}", self.metrics(0)));
    }

    fn metrics(&self, plugin: usize) -> PluginMetrics {
        self.set.metrics().swap_remove(plugin)
    }

    fn failures(&self, hook: Hook, kind: FailureKind) -> u64 {
        let metrics = self.metrics(0);
        let hook = metrics.hooks.iter().find(|metrics| metrics.hook == hook).unwrap();
        hook.failures[kind as usize].1
    }
}

fn deps(folder: &Folder, letters: Arc<LetterBox>) -> Deps {
    Deps {
        data_dir: folder.path().join("data"),
        store: letters,
        backends: Backends::for_trials(),
        compile: CompileMode::InProcess,
        clock: Clock::machine(),
        tracer: crate::traces::Tracer::off(),
    }
}

fn unchanged(_: &mut PluginSettings) {}

/// What `check` says of a file.
async fn verdict(folder: &Folder, path: PathBuf) -> String {
    let settings = [settings("p", path)];
    let mut checked = check(&settings, &folder.path().join("data"), CompileMode::InProcess).await;
    match checked.swap_remove(0) {
        Ok(description) => format!("{:?}", description.hooks),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn each_bad_file_is_refused_with_its_reason() {
    let folder = Folder::new();
    let write = |name: &str, bytes: &[u8]| folder.write(name, bytes);
    let wat = |name: &str, text: &str| folder.write(name, wat::parse_str(text).unwrap());
    let wrong_types = r#"(component
        (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f"))) (instance $e (export "handle" (func $f)))
        (export "presence:plugin/user-online@0.1.0" (instance $e)))"#;
    let cases = [
        (folder.path().join("missing.wasm"), "can't be read"),
        (write("empty.wasm", b""), "the file is empty"),
        (write("script.wasm", b"#!/bin/sh\n"), "not a WebAssembly file"),
        (write("broken.wasm", b"\0asm\x0d\0\x01\0nonsense"), "not a valid component"),
        (wat("module.wasm", "(module)"), "wasm32-wasip2"),
        (wat("nothing.wasm", "(component)"), "exports no hook"),
        (wat("types.wasm", wrong_types), "other types than the contract says"),
        (
            wat(
                "import.wasm",
                r#"(component (import "wasi:nn/tensor@0.2.0" (instance (export "f" (func)))))"#,
            ),
            "imports `wasi:nn/tensor@0.2.0`",
        ),
    ];
    for (path, expected) in cases {
        let said = verdict(&folder, path.clone()).await;
        assert!(said.contains(expected), "{}: {said}", path.display());
        assert!(said.starts_with("plugin `p` ("), "{said}");
    }
    let good = write("quiet.wasm", &quiet_component());
    assert_eq!(verdict(&folder, good).await, "[UserOnline, UserIdle]");
}

#[tokio::test]
async fn everything_wrong_with_all_plugins_is_told_at_once() {
    let folder = Folder::new();
    let zoo = folder.write("zoo.wasm", zoo_component());
    let mut refusing = settings("refusing", zoo.clone());
    refusing.config = r#"{"a":1}"#.to_owned();
    let mut hungry = settings("hungry", zoo.clone());
    hungry.limits.memory = 65536;
    let all = [refusing, settings("good", zoo), hungry, settings("gone", folder.path().join("x"))];
    let errors = PluginSet::load(&all, deps(&folder, letter_box())).await.unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:#?}");
    assert!(texts[0].contains("refuses its configuration: no config wanted"), "{}", texts[0]);
    assert!(texts[1].contains("can't be started") && texts[1].contains("limits.memory"), "{}", texts[1]);
    assert!(texts[2].contains("`gone`") && texts[2].contains("can't be read"), "{}", texts[2]);
}

#[tokio::test]
async fn compiled_code_is_found_at_the_second_start() {
    let folder = Folder::new();
    let settings = [settings("p", folder.write("quiet.wasm", quiet_component()))];
    for cached in [false, true] {
        let set = PluginSet::load(&settings, deps(&folder, letter_box())).await.unwrap();
        let [description] = &set.descriptions()[..] else { panic!("{set:?}") };
        assert_eq!(description.cached, cached);
        assert_eq!(description.digest.len(), 64);
        set.shutdown().await;
    }
}

#[tokio::test]
async fn a_compiler_that_dies_or_is_missing_is_told_of() {
    let folder = Folder::new();
    let settings = [settings("p", folder.write("quiet.wasm", quiet_component()))];
    for (program, expected) in [("/bin/false", "compiling it failed"), ("/no/such/file", "can't be started")]
    {
        let mode = CompileMode::Child(program.into());
        let mut checked = check(&settings, &folder.path().join("data"), mode).await;
        let said = checked.swap_remove(0).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn events_are_delivered_and_counted() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    for number in 0..500 {
        running.online(&format!("user{number}"), 1);
    }
    let users: BTreeSet<String> = running
        .outcomes(500)
        .await
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Status { user, plugin, .. } if &*plugin == "p" => user.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(users.len(), 500);
    let metrics = running.metrics(0);
    let online = metrics.hooks.iter().find(|hook| hook.hook == Hook::UserOnline).unwrap();
    assert_eq!((online.calls, online.delivered), (500, 500));
    assert!((1..=4).contains(&metrics.guests_started), "guests are reused: {metrics:?}");
    assert_eq!(running.set.unsettled(), [("p".into(), 0)]);
}

#[tokio::test]
async fn a_retried_event_is_delivered_later() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    running.online("retry", 1);
    running.outcomes(1).await;
    assert_eq!(running.failures(Hook::UserOnline, FailureKind::Retry), 1);
    assert_eq!(running.letters.letters().len(), 0);
}

/// I8: letters that find no room on their way to the store are in the log alone, and their events are settled.
#[tokio::test]
async fn i8_letters_that_find_no_room_hold_nobody_up() {
    const EVENTS: u128 = 1_500;
    let running = Running::zoo(&[("p", |settings| {
        settings.delivery.queue = 1;
        settings.delivery.concurrency = 1;
    })])
    .await;
    running.letters.hold();
    for session in 1..=EVENTS {
        running.connected("wait", session);
    }
    running.until(|metrics| metrics.dead_letters_lost > 0).await;
    running.letters.release();
    running.outcomes(EVENTS as usize).await;
}

#[tokio::test]
async fn a_replay_is_told_as_one_and_fails_into_one_new_letter() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    let letter = |number| LetterNumber::new(number).unwrap();
    let replay = |plugin: &str, event, number| running.set.replay(plugin, event, letter(number), 0);
    let session = |user: &str| Payload::Session(session_event(user, 1).into());
    let status = |user: &str| Payload::Status(transition(user, 7).into());
    assert_eq!(replay("p", session("alice"), 1), Ok(Replayed::Queued));
    assert_eq!(running.outcomes(1).await, [Outcome::Replayed(letter(1), ReplayEnd::Delivered)]);
    assert_eq!(replay("p", status("retry"), 2), Ok(Replayed::Queued));
    assert_eq!(running.outcomes(1).await, [Outcome::Replayed(letter(2), ReplayEnd::Delivered)]);
    assert_eq!(running.letters.letters().len(), 0);
    assert_eq!(replay("p", session("jack"), 3), Ok(Replayed::Queued));
    assert_eq!(running.outcomes(1).await, [Outcome::Replayed(letter(3), ReplayEnd::GivenUp)]);
    assert_eq!(running.letter(), "never");
    assert_eq!(replay("q", session("jack"), 4), Err(NotWanted), "no such plugin");
    let sweep =
        Sweep { cause: "test".into(), scope: Scope::Everything, chunk: 0, last: true, run: "1-1-0".into() };
    assert_eq!(replay("p", Payload::Cleanup(sweep.into()), 5), Err(NotWanted), "no such hook");
}

#[tokio::test]
async fn a_rejected_event_becomes_a_dead_letter() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    running.connected("jack", 7);
    running.outcomes(1).await;
    let letter = running.letters.letters()[0].clone();
    assert_eq!((letter.plugin.as_str(), letter.hook.as_str()), ("p", "session-connected"));
    assert_eq!((letter.error.as_str(), letter.attempts), ("never", 1));
    assert_eq!(letter.user.as_deref(), Some("jack"));
    assert_eq!(letter.event_id, "p:session-connected:00000000-0000-0000-0000-000000000007");
    assert_eq!(letter.event["attributes"][0][1], "test");
    assert_eq!(letter.digest, running.set.descriptions()[0].digest);
}

#[tokio::test]
async fn dead_letters_and_refusals_hold_no_secret() {
    let running = Running::zoo(&[("p", |settings| {
        settings.secrets.values = vec!["never".to_owned(), "executed, in".to_owned()];
    })])
    .await;
    running.connected("jack", 7);
    running.online("trap", 1);
    running.outcomes(2).await;
    let mut errors: Vec<String> =
        running.letters.letters().iter().map(|letter| letter.error.clone()).collect();
    errors.sort_unstable();
    assert_eq!(errors, ["[redacted]", "wasm `unreachable` instruction [redacted] trap"]);

    let folder = Folder::new();
    let mut refusing = settings("refusing", folder.write("zoo.wasm", zoo_component()));
    refusing.config = r#"{"token":"config wanted"}"#.to_owned();
    refusing.secrets.values = vec!["config wanted".to_owned()];
    let checked =
        check(&[refusing], &folder.path().join("data"), CompileMode::InProcess).await.swap_remove(0);
    let said = checked.unwrap_err().to_string();
    assert!(said.ends_with("it refuses its configuration: no [redacted]"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_pinned_must_be_the_one() {
    let folder = Folder::new();
    let mut pinned = settings("p", folder.write("quiet.wasm", quiet_component()));
    pinned.sha256 = Some("0".repeat(64));
    let settings = |pinned: &PluginSettings| [pinned.clone()];
    let data = folder.path().join("data");
    let said = check(&settings(&pinned), &data, CompileMode::InProcess).await.swap_remove(0).unwrap_err();
    let said = said.to_string();
    assert!(said.contains(&"0".repeat(64)), "{said}");
    let found = said.split("write sha256 = \"").nth(1).unwrap()[..64].to_owned();
    pinned.sha256 = Some(found.clone());
    let checked = check(&settings(&pinned), &data, CompileMode::InProcess).await.swap_remove(0);
    assert_eq!(checked.unwrap().digest, found);
}

#[tokio::test]
async fn i7_a_guest_that_traps_is_replaced_and_harms_nobody() {
    let running = Running::zoo(&[("p", unchanged), ("q", unchanged)]).await;
    running.online("trap", 1);
    running.online("alice", 1);
    running.outcomes(4).await;
    let letters = running.letters.letters().clone();
    assert_eq!(letters.len(), 2, "one for each plugin: {letters:?}");
    assert!(letters.iter().all(|letter| letter.user.as_deref() == Some("trap") && letter.attempts == 2));
    assert_eq!(letters[0].error, "wasm `unreachable` instruction executed, in trap");
    assert_eq!(running.failures(Hook::UserOnline, FailureKind::Trap), 2);
}

#[tokio::test]
async fn an_endless_loop_is_a_trap() {
    let running = Running::zoo(&[("p", |settings| settings.delivery.attempts = 1)]).await;
    for session in 1..=4 {
        running.connected("spin", session);
    }
    running.outcomes(4).await;
    let error = running.letters.letters()[0].error.clone();
    assert!(error.contains("still computed when limits.deadline (200ms)"), "{error}");
    assert_eq!(running.failures(Hook::SessionConnected, FailureKind::Trap), 4);
    assert_eq!(running.failures(Hook::SessionConnected, FailureKind::Stalled), 0);
}

#[tokio::test]
async fn i7_plugins_that_loop_delay_nobody() {
    let folder = Folder::new();
    let mut looping = settings("looping", folder.write("zoo.wasm", zoo_component()));
    looping.limits.deadline = PATIENCE;
    let good = settings("good", folder.write("quiet.wasm", quiet_component()));
    let set = PluginSet::load(&[looping, good], deps(&folder, letter_box())).await.unwrap();
    let online = |user| set.submit(Payload::Status(transition(user, 1).into()));
    ["s1", "s2", "s3", "s4"].iter().copied().for_each(online);
    let all_loop = async {
        while set.metrics()[0].running < 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_loop).await.expect("four guests loop");
    ["a", "b", "c", "d"].iter().copied().for_each(online);
    let mut delivered = 0;
    while delivered < 8 {
        let outcomes = tokio::time::timeout(PATIENCE, set.outcomes()).await.unwrap();
        let good = |outcome: &&Outcome| match outcome {
            Outcome::Status { plugin, .. } => &**plugin == "good",
            _ => false,
        };
        delivered += outcomes.iter().filter(good).count();
    }
    assert_eq!(set.metrics()[0].running, 4, "the others still loop");
    set.shutdown().await;
}

#[tokio::test]
async fn a_guest_that_waits_past_its_deadline_has_stalled() {
    let running = Running::zoo(&[("p", |settings| settings.delivery.attempts = 1)]).await;
    running.connected("wait", 1);
    running.outcomes(1).await;
    assert!(running.letter().contains("still waited for an answer"), "{}", running.letter());
    assert_eq!(running.failures(Hook::SessionConnected, FailureKind::Stalled), 1);
    assert_eq!(running.failures(Hook::SessionConnected, FailureKind::Trap), 0);
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused() {
    let running = Running::zoo(&[("p", |settings| settings.delivery.attempts = 1)]).await;
    running.online("grow", 1);
    running.outcomes(1).await;
    assert!(running.letter().contains("refused memory beyond limits.memory"), "{}", running.letter());
}

#[tokio::test]
async fn a_huge_answer_is_a_trap() {
    let running = Running::zoo(&[("p", |settings| settings.delivery.attempts = 1)]).await;
    running.online("huge", 1);
    running.outcomes(1).await;
    assert_eq!(running.failures(Hook::UserOnline, FailureKind::Trap), 1);
    assert_eq!(running.letter(), "it gave the host more than 262144 bytes at once");
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    running.online("flood", 1);
    running.outcomes(1).await;
    let cut = running.metrics(0).log_bytes_cut;
    assert!(cut > 100_000, "{cut}");
}

#[tokio::test]
async fn a_bucket_needs_a_grant() {
    let running = Running::zoo(&[
        ("denied", unchanged),
        ("granted", |settings| settings.grants.keyvalue = vec!["counts".to_owned()]),
    ])
    .await;
    running.online("carol", 1);
    running.outcomes(2).await;
    assert_eq!(running.letter(), "no grant for the bucket \"counts\"");
    assert_eq!(running.letters.letters()[0].plugin, "denied");
}

#[tokio::test]
async fn a_session_event_is_settled_once_all_plugins_have_settled_it() {
    let running = Running::zoo(&[("p", unchanged), ("q", unchanged)]).await;
    running.connected("alice", 1);
    running.connected("trap", 2);
    let sessions: BTreeSet<SessionId> = running
        .outcomes(2)
        .await
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Session { session, hook: Hook::SessionConnected } => session,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sessions, BTreeSet::from([SessionId::Hosted(1), SessionId::Hosted(2)]));
    assert_eq!(running.letters.letters().len(), 2);
}

#[tokio::test]
async fn an_event_that_no_plugin_wants_is_settled_at_once() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    let sweep = Sweep {
        cause: labels::FRESH_START.into(),
        scope: Scope::Everything,
        chunk: 0,
        last: true,
        run: "1-1-0".into(),
    };
    running.set.submit(Payload::Cleanup(sweep.into()));
    assert_eq!(running.outcomes(1).await, [Outcome::Everything("1-1-0".into())]);
}

#[tokio::test]
async fn stopping_does_not_wait_for_guests() {
    let running = Running::zoo(&[("p", |settings| settings.limits.deadline = Duration::from_secs(60))]).await;
    running.online("wait", 1);
    running.online("sspin", 1);
    let listed = running.set.unsettled_list(1);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let began = Instant::now();
    running.set.shutdown().await;
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(running.set.unsettled(), [("p".into(), 2)]);
}

fn patient(settings: &mut PluginSettings) {
    settings.limits.deadline = PATIENCE * 2;
}

#[tokio::test]
async fn without_a_permit_statuses_and_new_sessions_wait() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    running.set.permit(Clock::machine().tick());
    for user in ["alice", "bob", "dave"] {
        running.online(user, 1);
    }
    running.connected("alice", 1);
    running.until(|metrics| (metrics.withheld, metrics.queued, metrics.running) == (4, 0, 0)).await;
    running.set.permit(Clock::machine().tick() + PATIENCE);
    let connected = Outcome::Session { session: SessionId::Hosted(1), hook: Hook::SessionConnected };
    assert!(running.outcomes(4).await.contains(&connected));
    assert_eq!(running.set.unsettled(), [("p".into(), 0)]);
}

#[tokio::test]
async fn i4_calls_are_cut_at_the_end_of_the_permit_and_repeated_under_the_next() {
    let running = Running::zoo(&[("p", patient)]).await;
    running.online("wait", 1);
    running.online("spin", 1);
    running.connected("wait", 1);
    running.until(|metrics| metrics.running == 3).await;
    let until = Clock::machine().tick() + Duration::from_millis(50);
    running.set.permit(until);
    running.until(|metrics| metrics.withheld == 3).await;
    assert!(Clock::machine().tick() >= until);
    assert_eq!(running.failures(Hook::UserOnline, FailureKind::Cut), 2);
    assert_eq!(running.failures(Hook::SessionConnected, FailureKind::Cut), 1);
    running.set.permit(Tick(u64::MAX));
    running.until(|metrics| metrics.running == 3).await;
    running.set.permit(Tick(0));
    running.until(|metrics| metrics.withheld == 3).await;
    assert_eq!(running.failures(Hook::UserOnline, FailureKind::Cut), 4);
    assert_eq!(running.failures(Hook::SessionConnected, FailureKind::Cut), 2);
    assert_eq!(running.letters.letters().len(), 0);
    let untried = |line: &&String| line.contains("(waiting)");
    assert_eq!(running.set.unsettled_list(9).iter().filter(untried).count(), 3, "no attempt was used");
}

#[tokio::test]
async fn a_withdrawn_partition_waits_for_its_calls_or_cuts_them() {
    let running = Running::zoo(&[("p", patient), ("q", patient)]).await;
    let (partition, other) = (PartitionId(0), PartitionId(7));
    running.set.withdraw(other, false);
    assert_eq!(running.outcomes(1).await, [Outcome::Withdrawn(other)], "nothing is left of it at once");
    for user in ["w1", "s2", "w3", "w4", "alice", "bob"] {
        running.online(user, 1);
    }
    running.until(|metrics| metrics.running == 4).await;
    while running.metrics(1).running < 4 {
        tokio::task::yield_now().await;
    }
    running.set.withdraw(partition, false);
    assert_eq!(running.set.unsettled(), [("p".into(), 4), ("q".into(), 4)]);
    running.set.withdraw(partition, true);
    assert_eq!(running.outcomes(1).await, [Outcome::Withdrawn(partition)]);
    assert_eq!(running.set.unsettled(), [("p".into(), 0), ("q".into(), 0)]);
    assert_eq!(running.metrics(1).withdrawn, 6);
    assert_eq!(running.failures(Hook::UserOnline, FailureKind::Cut), 4);
    running.online("alice", 2);
    running.outcomes(2).await;
    running.set.withdraw(partition, false);
    assert_eq!(running.outcomes(1).await, [Outcome::Withdrawn(partition)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_partition_is_settled_after_it_was_withdrawn() {
    let running = Running::zoo(&[("p", unchanged), ("q", unchanged)]).await;
    for round in 0..20_u64 {
        let before = running.metrics(0).withdrawn + running.metrics(1).withdrawn;
        for number in 0..500 {
            running.online(&format!("user{number}"), round + 1);
        }
        running.set.withdraw(PartitionId(0), false);
        let mut outcomes = Vec::new();
        while outcomes.last() != Some(&Outcome::Withdrawn(PartitionId(0))) {
            let more = tokio::time::timeout(PATIENCE, running.set.outcomes()).await;
            outcomes.extend(more.expect("it comes"));
        }
        let withdrawn = running.metrics(0).withdrawn + running.metrics(1).withdrawn - before;
        assert_eq!((outcomes.len() as u64 - 1) + withdrawn, 1000, "all else was settled before");
        assert_eq!(running.set.unsettled(), [("p".into(), 0), ("q".into(), 0)]);
    }
}

#[tokio::test]
async fn waiting_hooks_of_a_dead_instance_are_dropped_and_counted() {
    let running = Running::zoo(&[("p", patient), ("q", unchanged)]).await;
    (1..=4).for_each(|session| running.connected("wait", session));
    running.until(|metrics| metrics.running == 4).await;
    (5..=7).for_each(|session| running.connected("alice", session));
    running.set.drop_sessions(InstanceId(2));
    assert_eq!(running.metrics(0).session_hooks_dropped, 0);
    running.set.drop_sessions(InstanceId(1));
    assert_eq!((running.metrics(0).session_hooks_dropped, running.metrics(0).running), (3, 4));
    assert_eq!(running.set.unsettled()[0], ("p".into(), 4));
}

#[tokio::test]
async fn what_a_plugin_does_not_want_is_settled_at_once_when_it_is_for_it_alone() {
    let running = Running::zoo(&[("p", unchanged)]).await;
    let (instance, cause, run) = (InstanceId(9), labels::INSTANCE_LOST.into(), "".into());
    let scope = Scope::Lost { instance, sessions: Arc::default() };
    let event = Payload::Cleanup(Sweep { cause, scope, chunk: 3, last: true, run }.into());
    for plugin in ["p", "gone"] {
        running.set.submit_to(plugin, event.clone());
        let lost = Outcome::Lost { plugin: plugin.into(), instance, run: "".into(), chunk: 3 };
        assert_eq!(running.outcomes(1).await, [lost]);
    }
    running.set.submit_to("gone", Payload::Status(transition("alice", 1).into()));
    running.set.submit_to("p", Payload::Status(transition("alice", 2).into()));
    assert_eq!(running.outcomes(2).await.len(), 2);
}
