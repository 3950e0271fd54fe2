//! The HTTP API of a running daemon against its own OpenAPI document, and what its pages, sessions and counts say.

use std::collections::BTreeSet;

use presence_tests::{Client, Daemon, OpenApi, Plugin, Program, ask, until};
use serde_json::Value;

/// A daemon with something to tell of everything.
struct Busy {
    daemon: Daemon,
    api: OpenApi,
    _clients: Vec<Client>,
}

impl Busy {
    async fn start() -> Busy {
        let rejecting = Plugin::hostile("hook = \"user-online\", act = \"reject\"");
        let daemon = Daemon::with(rejecting).presence("offline_grace = \"0s\"").start().await;
        let api = OpenApi::parse(&daemon.get("/v1/openapi.json").await.body);
        let mut clients = Vec::new();
        for user in ["alice", "alice", "bob", "carol/1", "zoë 🦀"] {
            clients.push(daemon.client(user).await);
        }
        clients[2].idle().await;
        daemon.client("dave").await.close().await;
        daemon.until_status("dave", "offline").await;
        daemon.until_status("bob", "idle").await;
        until("dead letters", async || {
            (daemon.get("/v1/dead-letters").await.json()["dead_letters"].as_array()?.len() >= 5).then_some(())
        })
        .await;
        Busy { daemon, api, _clients: clients }
    }

    /// Asks, and holds the answer against the document.
    async fn ask(&self, operation: &str, path: &str, expected: u16) -> Value {
        let method = operation.split(' ').next().unwrap().to_uppercase();
        let answer = ask(&method, self.daemon.admin(), path).await.unwrap();
        assert_eq!(answer.status, expected, "{operation}: {answer:?}");
        let document = answer.json();
        let faults = self.api.faults_of(operation, answer.status, &document);
        assert!(faults.is_empty(), "{operation}: {faults:#?} in {document:#}");
        document
    }
}

#[tokio::test]
async fn every_answer_is_what_the_document_says() {
    let busy = Busy::start().await;
    for (operation, path, status) in [
        ("get /healthz", "/healthz", 200),
        ("get /readyz", "/readyz", 200),
        ("get /v1/users/{user}", "/v1/users/alice", 200),
        ("get /v1/users/{user}", "/v1/users/nobody", 200),
        ("get /v1/users/{user}", "/v1/users/dave", 200),
        ("get /v1/users/{user}", "/v1/users/%00", 400),
        ("get /v1/users", "/v1/users?user=bob&user=nobody", 200),
        ("get /v1/users", "/v1/users?status=online&status=offline&limit=2", 200),
        ("get /v1/users", "/v1/users?status=online&cursor=AAAA", 400),
        ("get /v1/users/{user}/sessions", "/v1/users/alice/sessions", 200),
        ("get /v1/users/{user}/sessions", "/v1/users/nobody/sessions", 200),
        ("get /v1/users/{user}/transitions", "/v1/users/dave/transitions", 200),
        ("get /v1/users/{user}/transitions", "/v1/users/nobody/transitions", 200),
        ("get /v1/counts", "/v1/counts", 200),
        ("get /v1/instances", "/v1/instances", 200),
        ("get /v1/partitions", "/v1/partitions", 200),
        ("get /v1/plugins", "/v1/plugins", 200),
        ("get /v1/dead-letters", "/v1/dead-letters?limit=3", 200),
        ("get /v1/dead-letters/{number}", "/v1/dead-letters/1", 200),
        ("get /v1/dead-letters/{number}", "/v1/dead-letters/4711", 404),
        ("delete /v1/dead-letters/{number}", "/v1/dead-letters/1", 200),
        ("post /v1/dead-letters/{number}/replay", "/v1/dead-letters/1/replay", 404),
        ("post /v1/dead-letters/replay", "/v1/dead-letters/replay?user=bob", 200),
        ("delete /v1/dead-letters", "/v1/dead-letters?all=true", 200),
        ("delete /v1/dead-letters", "/v1/dead-letters", 400),
        ("post /v1/reload", "/v1/reload", 200),
    ] {
        busy.ask(operation, path, status).await;
    }
}

#[tokio::test]
async fn every_example_is_what_the_document_says() {
    let daemon = Daemon::with("").start().await;
    let text = daemon.get("/v1/openapi.json").await.body;
    let printed = Program::presence(&["openapi"]).run().await.with_code(0);
    assert_eq!(printed.stdout.trim(), text.trim());
    let api = OpenApi::parse(&text);
    for (path, item) in api.document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                for (kind, content) in answer["content"].as_object().into_iter().flatten() {
                    if kind.ends_with("json") && content["schema"].get("$ref").is_some() {
                        let faults = api.faults(&content["schema"], &content["example"]);
                        assert!(faults.is_empty(), "{method} {path} {status}: {faults:#?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn those_online_are_listed_page_by_page() {
    let busy = Busy::start().await;
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let more = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/v1/users?status=online&status=idle&limit=2{more}");
        let page = busy.ask("get /v1/users", &path, 200).await;
        let users = page["users"].as_array().unwrap();
        assert!(users.len() <= 2, "{page}");
        found.extend(users.iter().map(|user| user["user"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(
        found.into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["alice", "bob", "carol/1", "zoë 🦀"].map(str::to_owned))
    );
    // One of another deployment, whose store has another epoch.
    let cursor = cursor.expect("there were several pages");
    let other = Busy::start().await;
    let path = format!("/v1/users?status=online&status=idle&cursor={cursor}");
    let problem = other.ask("get /v1/users", &path, 400).await;
    assert_eq!(problem["type"], "urn:presence:problem:bad-cursor");
    busy.ask("get /v1/users", &format!("/v1/users?status=online&cursor={cursor}"), 400).await;
}

#[tokio::test]
async fn sessions_counts_and_reasons_are_told() {
    let busy = Busy::start().await;
    let sessions = busy.ask("get /v1/users/{user}/sessions", "/v1/users/alice/sessions", 200).await;
    assert_eq!(sessions["total"], 2, "{sessions}");
    let first = &sessions["sessions"][0];
    assert_eq!(
        (first["status"].as_str(), first["attributes"]["remote-address"].as_str()),
        (Some("online"), Some("127.0.0.1"))
    );
    assert!(first["host"].is_string(), "{first}");

    let counts = busy.ask("get /v1/counts", "/v1/counts", 200).await;
    let expected = serde_json::json!({"online": 3, "idle": 1, "offline": 1});
    assert_eq!((&counts["users"], &counts["complete"]), (&expected, &Value::Bool(true)), "{counts}");
    assert_eq!(counts["sessions"], serde_json::json!({"online": 4, "idle": 1}));

    let reasons = async |user: &str| -> Vec<String> {
        let path = format!("/v1/users/{user}/transitions");
        let told = busy.ask("get /v1/users/{user}/transitions", &path, 200).await;
        let of =
            |one: &Value| format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap());
        told["transitions"].as_array().unwrap().iter().map(of).collect()
    };
    assert_eq!(reasons("bob").await, ["idle idle", "online connected"]);
    assert_eq!(reasons("dave").await, ["offline closed", "online connected"]);
}
