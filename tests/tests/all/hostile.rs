//! I7, isolation: whatever one plugin does, the other plugin hears everything in order, sessions are served, and the
//! host lives.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use presence_tests::{Client, Daemon, Folder, Mood, Plugin, ProfileService, Receiver, presence, until};
use serde_json::Value;

/// So many users whose events the hostile plugin acts on, all at once: their status and their session keep all its
/// workers at it.
const VICTIMS: usize = 4;

/// Status changes that are followed to the well-behaved plugin's receiver, alone and again beside the hostile plugin.
const TRIPS: usize = 12;

/// A trip takes a few milliseconds. A host that is held up by the hostile plugin takes as long as the plugin's
/// deadlines, 500 ms each and many of them; a slow machine is slow alone, too.
const PROMPT: Duration = Duration::from_millis(250);
const SLOWER: u32 = 5;

/// A hostile plugin and a well-behaved one in one daemon.
struct Scene {
    daemon: Daemon,
    profiles: ProfileService,
    bystander: Client,
    /// What was to be heard of the bystander so far.
    statuses: Vec<&'static str>,
}

impl Scene {
    async fn start(hostile: Plugin) -> Scene {
        let profiles = ProfileService::start().await;
        let config = Daemon::with(hostile)
            .section(Plugin::profile_updater(&profiles))
            .presence("offline_grace = \"0s\"\nboot_timeout = \"500ms\"")
            .host("drain_timeout = \"1s\"");
        let daemon = config.start().await;
        let bystander = daemon.client("bystander").await;
        profiles.until_heard("bystander", &["online"]).await;
        Scene { daemon, profiles, bystander, statuses: vec!["online"] }
    }

    /// The bystander changes its status and the receiver hears of it: how long that takes.
    async fn trip(&mut self) -> Duration {
        let began = Instant::now();
        if self.statuses.len() % 2 == 1 {
            self.bystander.idle().await;
            self.statuses.push("idle");
        } else {
            self.bystander.online().await;
            self.statuses.push("online");
        }
        self.profiles.until_heard("bystander", &self.statuses).await;
        began.elapsed()
    }

    /// Trips alone, then as many while the hostile plugin acts: as quick, and all is heard.
    async fn compare(&mut self) {
        let mut alone = Vec::new();
        for _ in 0..TRIPS {
            alone.push(self.trip().await);
        }
        let mut beside = Vec::new();
        let mut victims = Vec::new();
        for number in 0..VICTIMS {
            victims.push(self.daemon.client(&format!("victim-{number}")).await);
        }
        for number in 0..TRIPS {
            for victim in &mut victims {
                if number % 2 == 0 {
                    victim.idle().await;
                } else {
                    victim.online().await;
                }
            }
            beside.push(self.trip().await);
        }
        let (alone, beside) = (median(alone), median(beside));
        assert!(beside < PROMPT.max(alone * SLOWER), "alone {alone:?}, beside the hostile plugin {beside:?}");
        for victim in victims {
            victim.close().await;
        }
        let changes = ["idle", "online"].into_iter().cycle().take(TRIPS);
        let heard: Vec<&str> = ["online"].into_iter().chain(changes).chain(["offline"]).collect();
        for number in 0..VICTIMS {
            self.profiles.until_heard(&format!("victim-{number}"), &heard).await;
        }
    }

    /// What `/v1/plugins` says of one.
    async fn plugin(&self, name: &str) -> Value {
        let list = self.daemon.get("/v1/plugins").await.json();
        let found = list["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    }

    /// The host is in order, and so is what the well-behaved plugin did.
    async fn end(self) {
        assert_eq!(self.profiles.resets(), 1);
        assert_eq!(self.daemon.get("/healthz").await.status, 200);
        assert_eq!(self.daemon.get("/readyz").await.status, 200);
        let updater = self.plugin("profile-updater").await;
        assert_eq!((&updater["failures"], &updater["dead_letters"]), (&0.into(), &0.into()), "{updater}");
        // Something may be undelivered to the hostile plugin, and is accounted for then.
        let ended = self.daemon.stop().await;
        assert!(matches!(ended.code, Some(0 | 75)), "{:?}", ended.code);
        let heard = self.profiles.heard("bystander");
        assert_eq!((heard.len(), heard.last().unwrap().as_str()), (self.statuses.len() + 1, "offline"));
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// The plugin does this beside a well-behaved one.
async fn beside(hostile: Plugin) {
    let mut scene = Scene::start(hostile).await;
    scene.compare().await;
    scene.end().await;
}

/// Does it for each victim.
fn hostile(act: &str) -> Plugin {
    hasty(&format!("{{ rules = [{{ user = \"victim-*\", {act} }}] }}"))
}

/// Quick to fail: few attempts, short deadline.
fn hasty(config: &str) -> Plugin {
    Plugin::hostile("")
        .config(config)
        .delivery("attempts = 2\nbackoff = \"20ms\"\nmax_backoff = \"200ms\"")
        .limits("deadline = \"500ms\"")
}

#[tokio::test]
async fn a_plugin_that_traps() {
    beside(hostile("act = \"trap\"")).await;
}

#[tokio::test]
async fn a_plugin_that_panics() {
    beside(hostile("act = \"panic\"")).await;
}

#[tokio::test]
async fn a_plugin_that_loops_for_ever() {
    beside(hostile("act = \"loop\"")).await;
}

#[tokio::test]
async fn a_plugin_that_recurses_for_ever() {
    beside(hostile("act = \"recurse\"")).await;
}

#[tokio::test]
async fn a_plugin_that_allocates_without_end() {
    beside(hostile("act = \"allocate\"")).await;
}

#[tokio::test]
async fn a_plugin_that_leaves_the_program() {
    beside(hostile("act = \"exit\"")).await;
}

#[tokio::test]
async fn a_plugin_that_fails_every_time() {
    beside(hostile("act = \"retry\"")).await;
}

#[tokio::test]
async fn a_plugin_that_rejects_everything() {
    beside(hostile("act = \"reject\"")).await;
}

#[tokio::test]
async fn a_plugin_that_answers_with_megabytes() {
    beside(hostile("act = { huge_error = 20000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_floods_the_log() {
    beside(hostile("act = { flood_log = 1000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_logs_one_huge_message() {
    beside(hostile("act = { huge_log = 20000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_floods_its_output() {
    beside(hostile("act = { flood_output = 1000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_prints_one_huge_line() {
    beside(hostile("act = { huge_line = 20000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_sleeps() {
    beside(hostile("act = { sleep = 600000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_never_cleans_up() {
    let config = "{ rules = [{ hook = \"cleanup\", act = { sleep = 600000 } }] }";
    let mut scene = Scene::start(hasty(config)).await;
    scene.compare().await;
    assert_eq!(scene.plugin("hostile").await["state"], "behind-everything");
    scene.end().await;
}

#[tokio::test]
async fn a_plugin_that_calls_the_host_for_ever() {
    beside(hostile("act = \"flood_calls\"")).await;
}

#[tokio::test]
async fn a_plugin_that_wants_much_randomness() {
    beside(hostile("act = { random = 50000000 }")).await;
}

#[tokio::test]
async fn a_plugin_that_waits_for_very_many_things_at_once() {
    beside(hostile("act = { poll = 200 }")).await;
}

#[tokio::test]
async fn a_plugin_that_makes_requests_and_drops_none() {
    let mut scene = Scene::start(hostile("act = \"hoard\"")).await;
    scene.compare().await;
    scene.daemon.until_logged(&["hostile", "user-online", "victim", "table"]).await;
    scene.end().await;
}

/// A server of this kind, and the plugin with a grant for it that does this to it.
async fn asking(mood: Mood, act: &str) -> (Receiver, Plugin) {
    let server = Receiver::start().await;
    server.answer(mood);
    let plugin = hostile(&format!("act = {{ {act} = \"{}/\" }}", server.origin()));
    let plugin = plugin.may_reach(server.origin());
    (server, plugin)
}

#[tokio::test]
async fn a_plugin_that_asks_a_server_that_never_answers() {
    let (server, plugin) = asking(Mood::Hang, "ask").await;
    beside(plugin).await;
    assert!(server.attempts() > 0, "the plugin did ask");
}

#[tokio::test]
async fn a_plugin_that_asks_a_server_that_answers_a_byte_a_second() {
    let (server, plugin) = asking(Mood::Drip, "read").await;
    beside(plugin).await;
    assert!(server.attempts() > 0, "the plugin did ask");
}

#[tokio::test]
async fn a_plugin_that_reads_a_gigabyte() {
    let (_server, plugin) = asking(Mood::Flood(1 << 30), "read").await;
    let mut scene = Scene::start(plugin).await;
    scene.compare().await;
    scene.daemon.until_logged(&["hostile", "victim", "after 1048576 bytes"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_plugin_that_reads_no_answer_and_drops_none() {
    let (_server, plugin) = asking(Mood::Flood(1 << 20), "keep_answers").await;
    let mut scene = Scene::start(plugin).await;
    scene.compare().await;
    scene.daemon.until_logged(&["hostile", "after 16 answers", "ConnectionLimitReached"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_plugin_that_follows_a_redirect_to_a_private_address() {
    let secret = Receiver::start().await;
    let location = Mood::Redirect(format!("{}/latest/meta-data", secret.origin()));
    let (server, plugin) = asking(location, "follow").await;
    let mut scene = Scene::start(plugin).await;
    scene.compare().await;
    scene.daemon.until_logged(&["denied", &secret.origin()]).await;
    scene.end().await;
    assert!(server.attempts() > 0 && secret.attempts() == 0);
}

#[tokio::test]
async fn a_plugin_whose_granted_name_leads_to_a_private_address() {
    let secret = Receiver::start().await;
    let origin = secret.origin().replace("127.0.0.1", "localhost");
    let plugin = hostile(&format!("act = {{ ask = \"{origin}/\" }}")).may_reach(origin);
    let mut scene = Scene::start(plugin).await;
    scene.compare().await;
    scene.daemon.until_logged(&["denied", "the private address of localhost"]).await;
    scene.end().await;
    assert_eq!(secret.attempts(), 0);
}

#[tokio::test]
async fn a_plugin_that_knows_many_names_of_loopback() {
    let secret = Receiver::start().await;
    let origin = secret.origin();
    let port = origin.rsplit(':').next().unwrap();
    let names = [
        "127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::]",
        "127.0.0.1.",
        "granted.example@127.0.0.1",
    ];
    let urls: Vec<String> = names.iter().map(|name| format!("\"http://{name}:{port}/\"")).collect();
    // One name that is granted to another place makes none of the others good.
    let plugin = hostile(&format!("act = {{ ask_all = [{}] }}", urls.join(", ")))
        .may_reach(format!("http://granted.example:{port}"));
    let mut scene = Scene::start(plugin).await;
    scene.compare().await;
    until("the hostile plugin has run", async || {
        (scene.plugin("hostile").await["calls"].as_u64() >= Some(8)).then_some(())
    })
    .await;
    assert_eq!(scene.plugin("hostile").await["dead_letters"], 0, "nothing answered: see its rejections");
    scene.end().await;
    assert_eq!(secret.attempts(), 0);
}

#[tokio::test]
async fn a_plugin_that_fills_its_keyvalue_bucket() {
    let mut scene = Scene::start(hostile("act = { fill = \"all\" }").grants("keyvalue = [\"all\"]")).await;
    scene.compare().await;
    // What it wrote before its deadline stays: it goes on where it stopped, up to what a bucket holds.
    until("the hostile plugin has met its limits", async || {
        (scene.plugin("hostile").await["failures"].as_u64() > Some(0)).then_some(())
    })
    .await;
    scene.end().await;
}

#[tokio::test]
async fn a_plugin_that_publishes_where_it_may_not() {
    let mut scene = Scene::start(hostile("act = { publish = \"payments.refund\" }")).await;
    scene.compare().await;
    scene.daemon.until_logged(&["denied", "hostile", "NATS subject", "payments.refund"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_plugin_that_panics_at_start_is_refused() {
    let config = "{ configure = \"panic\" }";
    let ended = Daemon::with(Plugin::hostile("").config(config)).refused().await;
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("`configure` failed"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_plugin_that_loops_at_start_is_refused() {
    let plugin = Plugin::hostile("").config("{ configure = \"loop\" }").limits("deadline = \"500ms\"");
    let ended = Daemon::with(plugin).refused().await;
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("still computed when limits.deadline"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_plugin_that_panics_at_every_start_but_the_first() {
    let mut scene = Scene::start(hasty("{ later = \"panic\" }").grants("keyvalue = [\"starts\"]")).await;
    scene.compare().await;
    scene.daemon.until_logged(&["hostile", "no guest: configure failed"]).await;
    scene.end().await;
}

#[tokio::test]
async fn a_plugin_that_poisons_its_memory_and_traps() {
    let mut scene = Scene::start(hostile("act = \"poison\"")).await;
    scene.compare().await;
    let letters = scene.daemon.get("/v1/dead-letters?plugin=hostile").await.json();
    let letters = letters["dead_letters"].as_array().unwrap().clone();
    assert!(!letters.is_empty());
    for letter in &letters {
        let error = letter["error"].as_str().unwrap();
        assert!(error.contains("unreachable"), "each attempt found a fresh guest: {letter}");
        assert_ne!(letter["user"], "bystander", "whose events are on good guests: {letter}");
    }
    scene.end().await;
}

/// A component whose code keeps the compiler busy for minutes.
fn endless_to_compile() -> Vec<u8> {
    let mut body = String::new();
    for number in 0..60_000 {
        // Writing to a String can't fail.
        let _ = write!(
            body,
            "(if (i32.gt_u (local.get {}) (i32.const {number})) (then (local.set {} (i32.add (local.get {}) (i32.const {number})))))",
            number % 97,
            number % 89,
            number % 83
        );
    }
    let locals = "i32 ".repeat(97);
    let functions = format!("(func (param {locals}) {body})").repeat(2);
    wat::parse_str(format!("(component (core module {functions}))")).expect("a valid component")
}

#[tokio::test]
async fn a_plugin_that_takes_minutes_to_compile() {
    let mut scene = Scene::start(hostile("act = \"nothing\"")).await;
    let folder = Folder::new();
    let plugin = folder.file("endless.wasm", endless_to_compile());
    let data = folder.path().join("data");
    let text = format!("[host]\ndata_dir = {data:?}\n[[plugin]]\nname = \"endless\"\npath = {plugin:?}\n");
    let config = folder.file("presence.toml", text);
    let mut check = tokio::process::Command::new(presence());
    check.args(["check", "--config"]).arg(&config).kill_on_drop(true);
    let mut check = check.spawn().expect("it starts");
    until("the compiler runs", async || (!compilers(&data).is_empty()).then_some(())).await;
    scene.compare().await;
    assert_eq!(compilers(&data).len(), 1, "it still compiles");
    check.kill().await.expect("it is our child");
    until("the compiler ends with whom it works for", async || compilers(&data).is_empty().then_some(()))
        .await;
    scene.end().await;
}

/// The processes that compile into this folder.
fn compilers(data: &std::path::Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("Linux").filter_map(Result::ok);
    let commands =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    let data = data.to_str().expect("paths of tests are UTF-8");
    commands.filter(|command| command.contains("compile-plugin") && command.contains(data)).collect()
}

#[tokio::test]
async fn a_plugin_without_a_grant_reaches_nobody() {
    let secret = Receiver::start().await;
    let rule = format!("hook = \"user-online\", act = {{ ask = \"{}/\" }}", secret.origin());
    let daemon = Daemon::with(Plugin::hostile(&rule)).start().await;
    let _alice = daemon.client("alice").await;
    // The log names the line to add to presence.toml.
    daemon.until_logged(&["http", &secret.origin()]).await;
    assert_eq!(secret.attempts(), 0);
}

#[tokio::test]
async fn one_user_that_fails_delays_no_other() {
    let profiles = ProfileService::start().await;
    let bad = Plugin::hostile("user = \"mallory\", act = \"retry\"");
    let daemon = Daemon::with(bad).section(Plugin::profile_updater(&profiles)).start().await;
    let _mallory = daemon.client("mallory").await;
    daemon.until_logged(&["hostile", "user-online", "mallory"]).await;
    let _alice = daemon.client("alice").await;
    profiles.until_heard("alice", &["online"]).await;
    profiles.until_heard("mallory", &["online"]).await;
}
