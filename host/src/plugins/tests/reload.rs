//! Other plugins while the host runs: nothing is lost, nothing goes back, and who is gone holds nobody up.

use super::*;
use crate::plugins::Changes;

/// A host that reloads.
struct Reloading {
    set: PluginSet,
    letters: Arc<LetterBox>,
    folder: Folder,
}

impl Reloading {
    /// With these plugins, all of the zoo.
    async fn start(names: &[&str]) -> Reloading {
        let folder = Folder::new();
        let zoo = folder.write("zoo.wasm", zoo_component());
        folder.write("quiet.wasm", quiet_component());
        let all: Vec<PluginSettings> = names.iter().map(|name| settings(name, zoo.clone())).collect();
        let letters = letter_box();
        let set = PluginSet::load(&all, deps(&folder, letters.clone())).await.unwrap();
        Reloading { set, letters, folder }
    }

    fn zoo(&self, name: &str) -> PluginSettings {
        settings(name, self.folder.path().join("zoo.wasm"))
    }

    fn quiet(&self, name: &str) -> PluginSettings {
        settings(name, self.folder.path().join("quiet.wasm"))
    }

    async fn reload(&self, settings: &[PluginSettings]) -> Changes {
        let changes = self.set.prepare(settings).await.unwrap();
        self.set.switch();
        changes
    }

    fn online(&self, user: &str, revision: u64) {
        self.set.submit(Payload::Status(transition(user, revision).into()));
    }

    fn connected(&self, user: &str, session: u128) {
        self.set.submit(Payload::Session(session_event(user, session).into()));
    }

    async fn outcomes(&self, count: usize) -> Vec<Outcome> {
        let mut all = Vec::new();
        while all.len() < count {
            let more = tokio::time::timeout(PATIENCE, self.set.outcomes()).await;
            all.extend(more.unwrap_or_else(|_| panic!("only {all:?}")));
        }
        assert_eq!(all.len(), count, "{all:?}");
        all
    }

    fn metrics(&self, name: &str) -> PluginMetrics {
        let metrics = self.set.metrics().into_iter().find(|metrics| &*metrics.plugin == name);
        metrics.unwrap_or_else(|| panic!("there is no {name}"))
    }

    async fn until_running(&self, name: &str, calls: usize) {
        let reached = async {
            while self.metrics(name).running != calls {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{:?}", self.metrics(name)));
    }

    async fn until_withheld(&self, name: &str) {
        let reached = async {
            while self.metrics(name).withheld == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it has no permit");
    }
}

fn names(changes: &Changes) -> [String; 4] {
    [&changes.added, &changes.removed, &changes.changed, &changes.unchanged].map(|names| names.join(" "))
}

#[tokio::test]
async fn what_differs_is_told_and_what_does_not_goes_on() {
    let host = Reloading::start(&["a", "b", "c"]).await;
    let mut b = host.zoo("b");
    b.limits.log += 1;
    let changes = host.reload(&[host.quiet("d"), b.clone(), host.zoo("a")]).await;
    assert_eq!(names(&changes), ["d", "c", "b", "a"].map(str::to_owned));
    let plugins: Vec<String> = host.set.descriptions().iter().map(|plugin| plugin.name.clone()).collect();
    assert_eq!(plugins, ["d", "b", "a"]);
    assert_eq!(["a", "b", "d"].map(|name| host.metrics(name).generation), [1, 2, 1]);
    let hooks: Vec<usize> = host.set.hooks().iter().map(|(_, hooks)| hooks.len()).collect();
    assert_eq!(hooks, [2, 2, 2]);
    host.online("alice", 1);
    host.outcomes(3).await;
    let again = host.reload(&[host.quiet("d"), b, host.zoo("a")]).await;
    assert!(again.is_empty());
    assert_eq!(again.unchanged, ["d", "b", "a"]);
}

#[tokio::test]
async fn a_new_file_of_the_same_name_is_a_new_version() {
    let host = Reloading::start(&["p"]).await;
    let before = host.set.descriptions()[0].digest.clone();
    host.online("alice", 1);
    host.outcomes(1).await;
    host.folder.write("new.wasm", quiet_component());
    std::fs::rename(host.folder.path().join("new.wasm"), host.folder.path().join("zoo.wasm")).unwrap();
    let changes = host.reload(&[host.zoo("p")]).await;
    assert_eq!(changes.changed, ["p"]);
    assert_ne!(host.set.descriptions()[0].digest, before);
    assert_eq!(host.set.hooks()[0].1, BTreeSet::from([Hook::UserOnline, Hook::UserIdle]));
    host.online("trap", 1);
    host.outcomes(1).await;
    let metrics = host.metrics("p");
    let online = metrics.hooks.iter().find(|hook| hook.hook == Hook::UserOnline).unwrap();
    assert_eq!((online.calls, online.delivered), (2, 2), "counters go on, and the new version does not trap");
}

#[tokio::test]
async fn what_is_wrong_is_refused_as_a_whole_and_the_old_goes_on() {
    let host = Reloading::start(&["a", "b"]).await;
    let mut refusing = host.zoo("a");
    refusing.config = r#"{"a":1}"#.to_owned();
    let missing = settings("b", host.folder.path().join("gone.wasm"));
    let errors = host.set.prepare(&[refusing, missing, host.quiet("c")]).await.unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("no config wanted") && texts[1].contains("can't be read"), "{texts:?}");
    host.set.switch();
    assert_eq!(["a", "b"].map(|name| host.metrics(name).generation), [1, 1]);
    assert_eq!(host.set.hooks().len(), 2);
    host.online("alice", 1);
    host.outcomes(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_lose_and_repeat_nothing() {
    const USERS: usize = 50;
    let host = Reloading::start(&["p"]).await;
    let mut plugin = host.zoo("p");
    (plugin.delivery.queue, plugin.limits.deadline) = (1_000_000, PATIENCE);
    let (mut submitted, mut seen) = (0_u64, Vec::new());
    for round in 0..100_u64 {
        for _ in 0..USERS {
            submitted += 1;
            host.online(&format!("user{}", submitted as usize % USERS), submitted);
        }
        plugin.limits.log = 4096 + round;
        plugin.delivery.concurrency = 1 + (round % 8) as u32;
        assert_eq!(host.reload(std::slice::from_ref(&plugin)).await.changed, ["p"]);
        // The load goes on while the host reloads, in bursts of its own.
        for _ in 0..USERS {
            submitted += 1;
            host.online(&format!("user{}", submitted as usize % USERS), submitted);
        }
    }
    while (seen.len() as u64) < submitted {
        seen.extend(tokio::time::timeout(PATIENCE, host.set.outcomes()).await.expect("all are settled"));
    }
    // Workers pass on what is settled in batches of their own: not in order.
    let mut sequences: Vec<u64> = seen.iter().map(sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=submitted).collect::<Vec<_>>());
    let metrics = host.metrics("p");
    assert_eq!(metrics.generation, 101);
    let online = metrics.hooks.iter().find(|hook| hook.hook == Hook::UserOnline).unwrap();
    assert_eq!((online.delivered, online.coalesced, metrics.unwanted), (submitted, 0, 0), "each once");
    assert_eq!(host.letters.letters().len(), 0);
}

#[tokio::test]
async fn a_running_call_ends_on_the_old_version_and_the_users_next_runs_on_the_new_one() {
    let host = Reloading::start(&["p"]).await;
    let mut slow = host.zoo("p");
    slow.limits.deadline = PATIENCE * 2;
    host.reload(std::slice::from_ref(&slow)).await;
    host.online("wait", 1);
    host.until_running("p", 1).await;
    // The new version delivers what the old one waits with.
    let mut quiet = host.quiet("p");
    quiet.limits.deadline = PATIENCE * 2;
    host.reload(&[quiet]).await;
    host.online("wait", 2);
    host.online("alice", 1);
    let outcomes = host.outcomes(1).await;
    assert!(matches!(&outcomes[0], Outcome::Status { user, .. } if user.as_str() == "alice"), "{outcomes:?}");
    assert_eq!(host.metrics("p").running, 1, "the old call runs still");
    host.set.permit(Tick(0));
    host.until_withheld("p").await;
    host.set.permit(Tick(u64::MAX));
    // Cut, it is repeated: now on the new version, and before what came later.
    let sequences: Vec<u64> = host.outcomes(2).await.iter().map(sequence).collect();
    assert_eq!(sequences, [1, 2]);
}

fn sequence(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Status { sequence, .. } => sequence.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn workers_come_and_go_with_concurrency() {
    let host = Reloading::start(&["p"]).await;
    let with = |concurrency| {
        let mut plugin = host.zoo("p");
        plugin.limits.deadline = PATIENCE * 2;
        plugin.delivery.concurrency = concurrency;
        [plugin]
    };
    host.reload(&with(6)).await;
    for number in 0..8 {
        host.connected("wait", number);
    }
    host.until_running("p", 6).await;
    host.reload(&with(8)).await;
    host.until_running("p", 8).await;
    host.reload(&with(1)).await;
    assert_eq!(host.metrics("p").running, 8, "those end by themselves");
    host.reload(&with(9)).await;
    host.connected("wait", 9);
    host.until_running("p", 9).await;
}

#[tokio::test]
async fn a_hook_that_the_new_version_lacks_settles_what_waits_for_it() {
    let host = Reloading::start(&["p", "q"]).await;
    let mut slow = host.zoo("p");
    (slow.limits.deadline, slow.delivery.concurrency) = (PATIENCE * 2, 1);
    host.reload(&[slow, host.zoo("q")]).await;
    host.connected("wait", 1);
    host.until_running("p", 1).await;
    host.connected("alice", 2);
    host.online("alice", 1);
    host.outcomes(1).await;
    host.reload(&[host.quiet("p"), host.zoo("q")]).await;
    let connected = Outcome::Session { session: SessionId::Hosted(2), hook: Hook::SessionConnected };
    let outcomes = host.outcomes(2).await;
    assert!(outcomes.contains(&connected), "{outcomes:?}");
    assert_eq!(host.metrics("p").unwanted, 1);
    host.connected("alice", 3);
    let connected = Outcome::Session { session: SessionId::Hosted(3), hook: Hook::SessionConnected };
    assert_eq!(host.outcomes(1).await, [connected], "it does not wait for p");
}

#[tokio::test]
async fn a_removed_plugin_settles_what_waits_lets_calls_end_and_is_gone() {
    let host = Reloading::start(&["p", "q"]).await;
    let mut slow = host.zoo("p");
    (slow.limits.deadline, slow.delivery.concurrency) = (Duration::from_millis(500), 1);
    host.reload(&[slow, host.zoo("q")]).await;
    host.connected("wait", 1);
    host.until_running("p", 1).await;
    let everything = Sweep {
        cause: labels::FRESH_START.into(),
        scope: Scope::Everything,
        chunk: 0,
        last: true,
        run: "1-1-0".into(),
    };
    host.set.submit(Payload::Cleanup(everything.into()));
    assert_eq!(host.outcomes(1).await, [Outcome::Everything("1-1-0".into())], "neither exports it");
    host.connected("alice", 2);
    host.online("alice", 1);
    host.outcomes(1).await;
    let changes = host.reload(&[host.zoo("q")]).await;
    assert_eq!(changes.removed, ["p"]);
    assert!(host.set.unsettled().iter().all(|(plugin, _)| &**plugin == "q"), "nobody waits for p");
    // p's call that runs passes its deadline, and is not repeated; the same of q becomes a dead letter.
    let settled = host.outcomes(3).await;
    for session in [1, 2] {
        let session = SessionId::Hosted(session);
        let connected = Outcome::Session { session, hook: Hook::SessionConnected };
        assert!(settled.contains(&connected), "{settled:?}");
    }
    assert!(host.letters.letters().iter().all(|letter| letter.plugin == "q"));
    let gone = async {
        while !host.set.roster().leaving.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its workers leave");
}

#[tokio::test]
async fn a_plugin_that_comes_back_begins_when_its_calls_have_ended() {
    let host = Reloading::start(&["p"]).await;
    let mut slow = host.zoo("p");
    slow.limits.deadline = Duration::from_millis(500);
    host.reload(std::slice::from_ref(&slow)).await;
    host.online("wait", 1);
    host.until_running("p", 1).await;
    host.reload(&[]).await;
    assert_eq!(host.set.hooks(), []);
    host.set.permit(Clock::machine().tick());
    host.reload(&[slow]).await;
    assert_eq!(host.outcomes(1).await.iter().map(sequence).collect::<Vec<_>>(), [1]);
    host.online("alice", 2);
    host.until_withheld("p").await;
    host.set.permit(Tick(u64::MAX));
    host.outcomes(1).await;
}

#[tokio::test]
async fn a_withdrawal_waits_for_the_calls_of_a_removed_plugin_and_cuts_them() {
    let host = Reloading::start(&["p"]).await;
    let mut slow = host.zoo("p");
    slow.limits.deadline = PATIENCE * 2;
    host.reload(&[slow]).await;
    host.online("wait", 1);
    host.until_running("p", 1).await;
    host.reload(&[]).await;
    host.set.withdraw(PartitionId(0), false);
    host.set.withdraw(PartitionId(7), false);
    assert_eq!(host.outcomes(1).await, [Outcome::Withdrawn(PartitionId(7))]);
    host.set.withdraw(PartitionId(0), true);
    assert_eq!(host.outcomes(1).await, [Outcome::Withdrawn(PartitionId(0))]);
}

#[tokio::test]
async fn the_pause_of_a_reload_under_load_is_measured() {
    let host = Reloading::start(&["p"]).await;
    let mut plugin = host.zoo("p");
    plugin.delivery.concurrency = 1;
    host.reload(std::slice::from_ref(&plugin)).await;
    assert_eq!(host.metrics("p").last_reload_pause, None, "nothing waited");
    host.connected("wait", 1);
    host.until_running("p", 1).await;
    host.online("alice", 1);
    plugin.limits.log += 1;
    host.reload(&[plugin]).await;
    host.outcomes(2).await;
    let metrics = host.metrics("p");
    assert!(metrics.last_reload_pause.is_some());
    assert_eq!(metrics.reload_pauses.buckets.iter().map(|(_, count)| count).sum::<u64>(), 1);
}
