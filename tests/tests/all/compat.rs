//! Plugins that were built against a published contract, in the present host: each binary in plugin-sdk/compat, and the
//! same guest as it is built today, hears every hook, is answered by every import, and is understood whatever it answers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use presence_tests::{Config, Daemon, NatsServer, Plugin, Program, Receiver, Request, WAIT, guest, until};
use serde_json::{Value, json};

const HOOKS: [&str; 7] = [
    "session-connected",
    "session-disconnected",
    "cleanup",
    "user-online",
    "user-idle",
    "user-offline",
    "tick",
];

fn sdk(place: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk").join(place)
}

/// The versions of the contract that nobody may change any more.
fn published() -> BTreeSet<String> {
    let list = std::fs::read_to_string(sdk("wit/published.sha256")).expect("the list of what is published");
    let files = list.lines().filter_map(|line| line.split_once("  ")?.1.split_once('/'));
    files.map(|(version, _)| version.to_owned()).collect()
}

/// The binaries of a version; none if there is no folder of it.
fn kept(version: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sdk("compat").join(version)).into_iter().flatten();
    let files = entries.map(|entry| entry.expect("a folder can be listed").path());
    files.filter(|file| file.extension().is_some_and(|kind| kind == "wasm")).collect()
}

/// All that are kept, and what is built today.
fn plugins() -> Vec<PathBuf> {
    let kept = published().into_iter().flat_map(|version| kept(&version));
    kept.chain([guest("guest-compat")]).collect()
}

fn plugin(file: &Path, receiver: &Receiver, word: &str) -> Plugin {
    let config = format!(
        "{{ url = \"{}/told\", bucket = \"kept\", subject = \"app.compat.told\", users = [\"alice\", \"nobody\"], \
         word = \"{word}\" }}",
        receiver.origin()
    );
    Plugin::at("compat", file).config(&config).may_reach(receiver.origin()).interval("1s")
}

fn user_of(event: &Value) -> Option<&str> {
    event["user"].as_str().or(event["session"]["user"].as_str())
}

/// Waits for the document of a hook and a user; none for those that are nobody's. It is checked for what is the same in all.
async fn told(receiver: &Receiver, hook: &str, user: Option<&str>) -> Value {
    let request = until(format!("{hook} of {user:?}"), async || {
        receiver.requests().into_iter().find(|request| {
            let document = request.json();
            document["hook"] == hook && user_of(&document["event"]) == user
        })
    })
    .await;
    check_answers(&request);
    request.json()
}

/// What the host answered to the plugin's calls.
fn check_answers(request: &Request) {
    let document = request.json();
    let event_id = document["event_id"].as_str().expect("an id");
    assert!(event_id.starts_with(&format!("compat:{}:", document["hook"].as_str().unwrap())), "{event_id}");
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/told"));
    assert_eq!(request.header("idempotency-key"), event_id);
    assert_eq!(document["config"], "as configured");
    let mut kept = document["keyvalue"].clone();
    for (name, error) in [("long", "keyvalue limit: "), ("elsewhere", "keyvalue denied: ")] {
        let said = kept.as_object_mut().and_then(|kept| kept.remove(name));
        assert!(said.as_ref().is_some_and(|said| said.as_str().unwrap_or("").starts_with(error)), "{said:?}");
    }
    let expected = json!({
        "sum": 3, "first": true, "lost": true, "won": true, "read": "fourth", "found": true, "after": 0, "gone": true,
    });
    assert_eq!(kept, expected);
    let users = &document["presence"];
    assert_eq!(users[0]["user"], "alice");
    let nobody =
        json!({ "user": "nobody", "status": "offline", "since": null, "revision": 0, "last_seen": null });
    assert_eq!((&users[1], users.as_array().map(Vec::len)), (&nobody, Some(2)));
}

fn names(record: &Value) -> BTreeSet<&str> {
    record.as_object().expect("a record").keys().map(String::as_str).collect()
}

fn check_session(session: &Value) {
    let expected = ["id", "user", "instance", "status", "connected_at", "attributes"];
    assert_eq!(names(session), BTreeSet::from(expected), "{session}");
    assert_eq!(session["attributes"]["remote-address"], "127.0.0.1");
}

fn check_status(document: &Value, previous: Value, sessions: u64) {
    let event = &document["event"];
    let expected = ["user", "previous", "current", "since", "revision", "sessions", "last_seen"];
    assert_eq!(names(event), BTreeSet::from(expected), "{event}");
    assert_eq!((&event["previous"], &event["sessions"]), (&previous, &json!(sessions)), "{event}");
    assert_eq!(event["last_seen"].is_null(), sessions > 0, "{event}");
    // What is told is recorded before.
    assert_eq!(document["presence"][0]["status"], event["current"]);
    assert_eq!(document["presence"][0]["revision"], event["revision"]);
}

#[tokio::test]
async fn every_published_contract_has_a_plugin_that_was_built_against_it() {
    let published = published();
    assert!(published.contains("0.1.0"), "{published:?}");
    for version in &published {
        let kept = kept(version);
        assert!(!kept.is_empty(), "plugin-sdk/compat/{version} has no binary: see its README.md");
        for file in kept {
            let words = ["plugin", "inspect", "--json", file.to_str().unwrap()];
            let ended = Program::presence(&words).run().await.with_code(0);
            let found: Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(found["contract"], json!([version]), "{}", file.display());
            assert_eq!(found["hooks"], json!(HOOKS));
        }
    }
    let folders = std::fs::read_dir(sdk("compat")).unwrap().map(|entry| entry.unwrap());
    let folders = folders.filter(|entry| entry.file_type().unwrap().is_dir());
    let folders: BTreeSet<String> =
        folders.map(|entry| entry.file_name().into_string().expect("a version")).collect();
    assert_eq!(folders, published, "there is no binary of a contract that is not published");
}

#[tokio::test]
async fn on_one_host_every_hook_is_heard_and_every_call_answered() {
    for file in plugins() {
        let receiver = Receiver::start().await;
        let grants = "keyvalue = [\"kept\"]\npresence = true";
        let plugin = plugin(&file, &receiver, "as configured").grants(grants).limits("deadline = \"10s\"");
        let daemon = Daemon::with(plugin).presence("offline_grace = \"0s\"").start().await;

        let everything = told(&receiver, "cleanup", None).await;
        let expected = json!({ "cause": "fresh-start", "scope": "everything", "chunk": 0, "last": true });
        assert_eq!(everything["event"], expected);
        let mut alice = daemon.client("alice").await;
        let connected = told(&receiver, "session-connected", Some("alice")).await;
        check_session(&connected["event"]);
        assert_eq!(connected["event"]["id"], alice.session());
        let online = told(&receiver, "user-online", Some("alice")).await;
        check_status(&online, Value::Null, 1);
        assert_eq!(
            online["messaging"].as_str().map(|said| said.starts_with("messaging denied: ")),
            Some(true)
        );
        alice.idle().await;
        check_status(&told(&receiver, "user-idle", Some("alice")).await, json!("online"), 1);
        let session = alice.session().to_owned();
        alice.close().await;
        check_status(&told(&receiver, "user-offline", Some("alice")).await, json!("idle"), 0);
        let ended = told(&receiver, "session-disconnected", Some("alice")).await["event"].clone();
        assert_eq!(names(&ended), BTreeSet::from(["session", "reason", "duration_ms"]), "{ended}");
        check_session(&ended["session"]);
        assert_eq!((&ended["session"]["id"], &ended["reason"]), (&json!(session), &json!("closed")));
        let tick = told(&receiver, "tick", None).await["event"].clone();
        assert_eq!((&tick["interval_ms"], tick["due"].as_u64().unwrap() % 1000), (&json!(1000), 0));
        daemon.until_logged(&["compat", "is told hook=user-online user=alice"]).await;
        daemon.until_logged(&["compat", "stdout", "told at"]).await;
        check_results(&daemon, &receiver).await;
    }
}

/// What the host makes of answers: a retry comes again, a rejection is a dead letter.
async fn check_results(daemon: &Daemon, receiver: &Receiver) {
    let _again = daemon.client("again").await;
    for hook in ["session-connected", "user-online"] {
        assert_eq!(told(receiver, hook, Some("again")).await["attempt"], 2, "{hook}");
    }
    let _never = daemon.client("never").await;
    let letters = until("two dead letters", async || {
        let found = daemon.get("/v1/dead-letters?plugin=compat").await.json();
        let letters = found["dead_letters"].as_array().expect("a list").clone();
        (letters.len() == 2).then_some(letters)
    })
    .await;
    for letter in letters {
        assert_eq!((&letter["user"], &letter["error"]), (&json!("never"), &json!("not this one")));
        assert_eq!(letter["attempts"], 1);
    }
}

#[tokio::test]
async fn a_configuration_that_is_refused_is_told_in_the_plugins_words() {
    let receiver = Receiver::start().await;
    for file in plugins() {
        let checked = Daemon::with(plugin(&file, &receiver, "")).check().await.with_code(78);
        checked.says(&["it refuses its configuration: config.word: is empty"]);
    }
}

/// The first message that tells of this hook.
async fn until_sent(messages: &mut async_nats::Subscriber, hook: &str) -> async_nats::Message {
    let sent = async {
        while let Some(message) = messages.next().await {
            let header = message.headers.as_ref().and_then(|headers| headers.get("Hook"));
            if header.is_some_and(|header| header.as_str() == hook) {
                return message;
            }
        }
        panic!("the subscription has ended")
    };
    tokio::time::timeout(WAIT, sent).await.unwrap_or_else(|_| panic!("no message of {hook}"))
}

#[tokio::test]
async fn in_a_deployment_messages_are_sent_and_dead_hosts_cleaned_up_after() {
    for file in plugins() {
        let (nats, receiver) = (NatsServer::start().await, Receiver::start().await);
        let config = |host: &str| {
            let (urls, ttl) = (nats.url(), "instance_ttl = \"4s\"");
            let cluster = format!("[cluster]\nstore = \"nats\"\nurls = [\"{urls}\"]\n{ttl}");
            let grants = "keyvalue = [\"kept\"]\npresence = true\nmessaging = [\"app.compat.>\"]";
            let plugin = plugin(&file, &receiver, "as configured").grants(grants);
            let config = Config::default().host(&format!("name = \"{host}\"")).section(cluster);
            config.presence("offline_grace = \"0s\"").section(plugin)
        };
        let (a, _b) = (config("a").start().await, config("b").start().await);
        let mut messages = nats.listener("app.compat.>").await;
        let alice = a.client("alice").await;
        let online = told(&receiver, "user-online", Some("alice")).await;
        check_status(&online, Value::Null, 1);
        assert_eq!(online["messaging"], "sent");
        let message = until_sent(&mut messages, "user-online").await;
        let payload: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((message.subject.as_str(), &payload), ("app.compat.told", &online["event"]));
        let headers = message.headers.expect("headers");
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(header("Presence-Event-Id").as_deref(), online["event_id"].as_str());
        assert!(header("Nats-Msg-Id").is_some());

        told(&receiver, "session-connected", Some("alice")).await;
        let (instance, session) = (alice.instance().to_owned(), alice.session().to_owned());
        a.kill().await;
        let lost = until("the cleanup after the dead host", async || {
            let told = receiver.requests().into_iter();
            told.map(|request| request.json()).find(|told| told["event"]["cause"] == "instance-lost")
        })
        .await;
        let event = &lost["event"];
        assert_eq!((&event["chunk"], &event["last"]), (&json!(0), &json!(true)));
        let scope = &event["scope"]["lost"];
        assert_eq!(
            (&scope["instance"], scope["sessions"].as_array().map(Vec::len)),
            (&json!(instance), Some(1))
        );
        check_session(&scope["sessions"][0]);
        assert_eq!(scope["sessions"][0]["id"], json!(session));
        check_status(&told(&receiver, "user-offline", Some("alice")).await, json!("online"), 0);
    }
}
