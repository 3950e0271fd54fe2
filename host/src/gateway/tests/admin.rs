//! The admin listener over real sockets.

use serde_json::json;

use super::*;

async fn get_json(gateway: &Gateway, path: &str) -> (u16, Value) {
    let (head, body) = get(gateway.admin, path).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
}

#[tokio::test]
async fn users_are_told_by_their_encoded_ids() {
    let gateway = Gateway::start(open_to_all()).await;
    let seen = |user: &str| {
        json!({"user": user, "status": "idle", "since": "2025-11-24T16:00:00.123Z", "last_seen": null,
               "sessions": 2, "revision": 7})
    };
    let unknown = |user: &str| json!({"user": user, "status": "offline", "since": null, "last_seen": null, "sessions": 0, "revision": 0});
    // Who asks for one user is told the message too.
    let one = |mut user: Value, message: Value| {
        user["message"] = message;
        (200, user)
    };
    let message = json!({"text": "in a meeting", "until": "2025-11-24T16:00:00.123Z"});
    assert_eq!(get_json(&gateway, "/v1/users/bob").await, one(seen("bob"), message.clone()));
    let crab = get_json(&gateway, "/v1/users/b%2F..%2Fc%20%F0%9F%A6%80").await;
    assert_eq!(crab, one(seen("b/../c 🦀"), message));
    assert_eq!(get_json(&gateway, "/v1/users/alice").await, one(unknown("alice"), Value::Null));
    let (status, list) = get_json(&gateway, "/v1/users?user=x&user=b%26&user=x").await;
    assert_eq!((status, list), (200, json!({"users": [unknown("x"), seen("b&"), unknown("x")]})));
}

#[tokio::test]
async fn bad_questions_are_problems() {
    let gateway = Gateway::start(open_to_all()).await;
    let many = vec!["user=x"; 1001].join("&");
    let cases = [
        ("/v1/users/..", "`.` and `..`"),
        ("/v1/users/%ff", "not percent-encoded UTF-8"),
        ("/v1/users/a%0a", "control characters"),
        ("/v1/users/a?verbose=1", "`verbose` is not known"),
        ("/v1/users", "name 1 to 1000 users"),
        ("/v1/users?user=a&user=", "user 2: a user id must not be empty"),
        ("/v1/users?name=a", "`name` is not known"),
        (&format!("/v1/users?{many}"), "more than 1000 times"),
        ("/v1/dead-letters?limit=0", "`limit` must be"),
        ("/v1/dead-letters?plugins=x", "`plugins` is not known"),
    ];
    for (path, part) in cases {
        let (status, problem) = get_json(&gateway, path).await;
        assert_eq!(status, 400, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{path}: {problem}");
    }
}

#[tokio::test]
async fn problems_have_types_that_programs_may_rely_on() {
    let gateway = Gateway::start(open_to_all()).await;
    let kind = async |path: &str| {
        let problem = get_json(&gateway, path).await.1;
        problem["type"].as_str().unwrap().strip_prefix("urn:presence:problem:").unwrap().to_owned()
    };
    for (path, expected) in [
        ("/v1/users/%ff", "bad-parameter"),
        ("/v1/users?status=away", "bad-parameter"),
        ("/v1/users?status=online&limit=1001", "bad-parameter"),
        ("/v1/users?status=online&limit=1&limit=1", "bad-parameter"),
        ("/v1/users?status=online&user=a", "bad-parameter"),
        ("/v1/users?user=a&limit=1", "bad-parameter"),
        ("/v1/users?status=online&cursor=AAAA", "bad-cursor"),
        ("/v1/users?status=online&cursor=%F0%9F%A6%80", "bad-cursor"),
        ("/v1/users/a%00b/sessions", "bad-parameter"),
        ("/v1/users/bob/sessions?limit=1", "bad-parameter"),
        ("/v1/users/./transitions", "bad-parameter"),
        ("/v1/counts?exact=true", "bad-parameter"),
        ("/v1/dead-letters/9", "not-found"),
        ("/v2/users", "not-found"),
        ("/v1/reload", "method-not-allowed"),
    ] {
        assert_eq!(kind(path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn why_a_user_has_a_status_is_told_newest_first() {
    let gateway = Gateway::start(open_to_all()).await;
    let transitions = json!([
        {"status": "idle", "since": "2025-11-24T16:00:00.123Z", "revision": 7, "reason": "idle"},
        {"status": "online", "since": "2025-11-24T16:00:00.000Z", "revision": 1_764_000_000_000_u64, "reason": "connected"},
    ]);
    let (status, found) = get_json(&gateway, "/v1/users/bob/transitions").await;
    assert_eq!((status, found), (200, json!({"user": "bob", "transitions": transitions})));
    let (status, found) = get_json(&gateway, "/v1/users/alice/transitions").await;
    assert_eq!((status, &found["transitions"][0]["status"]), (200, &json!(null)), "{found}");
}

#[tokio::test]
async fn counts_say_when_they_are_not_whole() {
    let gateway = Gateway::start(open_to_all()).await;
    let (status, mut counts) = get_json(&gateway, "/v1/counts").await;
    assert!(counts["as_of"].take().is_string());
    let expected = json!({"users": {"online": 1, "idle": 2, "offline": 3}, "sessions": {"online": 4, "idle": 5},
        "partitions": 4, "counted": 3, "complete": false, "as_of": null});
    assert_eq!((status, counts), (200, expected));
}

#[tokio::test]
async fn an_unreadable_store_is_a_503() {
    let gateway = Gateway::start(open_to_all()).await;
    gateway.driver.mood.lock().unwrap().users_fail = true;
    let (status, problem) = get_json(&gateway, "/v1/users/bob").await;
    assert_eq!((status, &problem["detail"]), (503, &json!("the statuses can't be read now: it is away")));
}

#[tokio::test]
async fn dead_letters_are_filtered_and_the_newest_come_last() {
    let gateway = Gateway::start(open_to_all()).await;
    let numbers = |list: &Value| -> Vec<u64> {
        list["dead_letters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|letter| letter["number"].as_u64().unwrap())
            .collect()
    };
    let (_, all) = get_json(&gateway, "/v1/dead-letters").await;
    assert_eq!(numbers(&all), [1, 2, 3]);
    assert_eq!(all["dead_letters"][0]["at"], "2025-11-24T16:00:00.123Z");
    assert_eq!(numbers(&get_json(&gateway, "/v1/dead-letters?plugin=webhook").await.1), [1, 3]);
    assert_eq!(numbers(&get_json(&gateway, "/v1/dead-letters?plugin=webhook&hook=user-online").await.1), [1]);
    assert_eq!(numbers(&get_json(&gateway, "/v1/dead-letters?limit=2").await.1), [2, 3]);
    assert_eq!(numbers(&get_json(&gateway, "/v1/dead-letters?user=bob&limit=1").await.1), [3]);
    assert_eq!(numbers(&get_json(&gateway, "/v1/dead-letters?user=alice").await.1), [0; 0]);
    assert_eq!(get_json(&gateway, "/v1/dead-letters/2").await.1, all["dead_letters"][1]);
}

async fn send_json(gateway: &Gateway, method: &str, path: &str) -> (u16, Value) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.admin);
    let (head, body) = raw(gateway.admin, &request).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
}

#[tokio::test]
async fn a_dead_letter_is_replayed_or_dropped_and_what_was_not_done_is_a_problem() {
    let gateway = Gateway::start(open_to_all()).await;
    let report = |number: u64, outcome: &str| {
        json!({"number": number, "outcome": outcome, "host": "host-1", "plugin": "webhook",
               "hook": "user-online", "user": "bob", "detail": null})
    };
    let replayed = send_json(&gateway, "POST", "/v1/dead-letters/1/replay").await;
    assert_eq!(replayed, (202, report(1, "queued")));
    let superseded = send_json(&gateway, "POST", "/v1/dead-letters/2/replay").await;
    assert_eq!(superseded, (200, report(2, "superseded")));
    assert_eq!(send_json(&gateway, "DELETE", "/v1/dead-letters/2").await, (200, report(2, "dropped")));
    for (method, path, status, part) in [
        ("POST", "/v1/dead-letters/3/replay", 409, "on the host host-1"),
        ("POST", "/v1/dead-letters/9/replay", 404, "no dead letter 9"),
        ("GET", "/v1/dead-letters/9", 404, "no dead letter 9"),
        ("DELETE", "/v1/dead-letters/0", 400, "numbers from 1 on"),
        ("GET", "/v1/dead-letters/seven", 400, "numbers from 1 on"),
        ("POST", "/v1/dead-letters/1/replay?force=1", 400, "`force` is not known"),
        ("PUT", "/v1/dead-letters/1", 405, "PUT is not possible here"),
        ("POST", "/v1/dead-letters/replay", 400, "`all=true`"),
        ("DELETE", "/v1/dead-letters", 400, "`all=true`"),
        ("DELETE", "/v1/dead-letters?all=yes", 400, "`all=true`"),
        ("DELETE", "/v1/dead-letters?plugins=webhook", 400, "`plugins` is not known"),
        ("POST", "/v1/dead-letters/replay?all=true&limit=101", 400, "from 1 to 100"),
    ] {
        let (found, problem) = send_json(&gateway, method, path).await;
        assert_eq!(found, status, "{method} {path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{path}: {problem}");
    }
}

#[tokio::test]
async fn many_dead_letters_are_replayed_oldest_first_as_far_as_they_are_chosen() {
    let gateway = Gateway::start(open_to_all()).await;
    let outcomes = async |method: &str, query: &str| -> (Vec<(u64, String)>, u64) {
        let (status, answer) = send_json(&gateway, method, &format!("/v1/dead-letters{query}")).await;
        assert_eq!(status, 200, "{query}: {answer}");
        let reports = answer["reports"].as_array().unwrap().iter();
        let told = |report: &Value| {
            (report["number"].as_u64().unwrap(), report["outcome"].as_str().unwrap().to_owned())
        };
        (reports.map(told).collect(), answer["left"].as_u64().unwrap())
    };
    let one = |number: u64, outcome: &str| (number, outcome.to_owned());
    let all = (vec![one(1, "queued"), one(2, "superseded"), one(3, "busy")], 0);
    assert_eq!(outcomes("POST", "/replay?all=true").await, all);
    assert_eq!(outcomes("POST", "/replay?plugin=webhook&up_to=2").await, (vec![one(1, "queued")], 0));
    assert_eq!(outcomes("POST", "/replay?all=true&limit=1").await, (vec![one(1, "queued")], 2));
    assert_eq!(outcomes("DELETE", "?hook=user-offline").await, (vec![one(3, "dropped")], 0));
    assert_eq!(outcomes("DELETE", "?user=bob&after=1&limit=1").await, (vec![one(2, "dropped")], 1));
    assert_eq!(outcomes("DELETE", "?user=alice").await, (vec![], 0));
}

#[tokio::test]
async fn plugins_are_told_at_a_glance() {
    let gateway = Gateway::start(open_to_all()).await;
    let (status, list) = get_json(&gateway, "/v1/plugins").await;
    let webhook = json!({
        "name": "webhook", "state": "breaker-open", "digest": "9f86d081".repeat(8), "version": "0.1.0",
        "hooks": ["user-online"], "queued": 8, "backing_off": 1, "withheld": 3, "running": 2, "lag_seconds": 2.5,
        "calls": 6, "failures": 2, "dead_letters": 3, "guests": 2, "memory_peak_bytes": 1_114_112
    });
    assert_eq!((status, list), (200, json!({"plugins": [webhook]})));
    assert_eq!(get_json(&gateway, "/v1/plugins?name=webhook").await.0, 400);
}

#[tokio::test]
async fn health_and_metrics() {
    let gateway = Gateway::start(open_to_all()).await;
    assert_eq!(get_json(&gateway, "/healthz").await.0, 200);
    assert_eq!(get_json(&gateway, "/readyz").await.1["status"], "ready");
    gateway.driver.mood.lock().unwrap().unready = Some("the store is away".into());
    assert_eq!(get_json(&gateway, "/healthz").await.0, 200);
    let (status, problem) = get_json(&gateway, "/readyz").await;
    assert_eq!((status, &problem["detail"]), (503, &json!("not ready: the store is away")));
    gateway.connect("alice").await;
    let (head, text) = get(gateway.admin, "/metrics").await;
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    for line in [
        "presence_sessions{status=\"online\"} 5",
        "presence_gateway_sessions_opened_total 1",
        "presence_hook_calls_total{plugin=\"webhook\",hook=\"user-online\"} 6",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn a_reload_answers_what_it_did_or_everything_that_is_wrong() {
    let gateway = Gateway::start(open_to_all()).await;
    let post = async |path: &str, headers: &str| {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{headers}Connection: close\r\n\r\n", gateway.admin);
        let (head, body) = raw(gateway.admin, &request).await;
        let document: Value = serde_json::from_str(&body).unwrap();
        (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), document)
    };
    let (status, applied) = post("/v1/reload", "").await;
    let expected = json!({"applied": true, "added": [], "removed": [], "changed": ["a"], "unchanged": [],
        "needs_restart": ["host.listen"]});
    assert_eq!((status, applied), (200, expected));
    *gateway.reloads.0.lock().unwrap() = vec!["one".into(), "two".into()];
    let (status, problem) = post("/v1/reload", "").await;
    assert_eq!((status, &problem["errors"]), (422, &json!(["one", "two"])));
    assert!(problem["detail"].as_str().unwrap().starts_with("there are 2 errors"), "{problem}");
    assert_eq!(post("/v1/reload?force=1", "").await.0, 400);
    assert_eq!(post("/v1/reload", "Origin: https://example.org\r\n").await.0, 403);
    let (head, body) = raw(
        gateway.admin,
        &format!("GET /v1/reload HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.admin),
    )
    .await;
    assert!(head.starts_with("http/1.1 405 ") && head.contains("allow: post"), "{head}");
    assert!(body.contains("GET is not possible here"), "{body}");
}

#[tokio::test]
async fn foreign_pages_and_rebound_names_are_refused() {
    let gateway = Gateway::start(open_to_all()).await;
    let ask = async |headers: &str| {
        let request = format!("GET /v1/users/bob HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        raw(gateway.admin, &request).await.0.split(' ').nth(1).unwrap().to_owned()
    };
    let own = format!("Host: {0}\r\nOrigin: http://{0}", gateway.admin);
    assert_eq!(ask(&own).await, "200");
    assert_eq!(ask("Host: rebound.example.org").await, "403");
    assert_eq!(ask("Host: localhost\r\nOrigin: https://example.org").await, "403");
    assert_eq!(ask("Host: localhost\r\nOrigin: null").await, "403");
    assert_eq!(ask("X: no host at all").await, "403");
}

#[tokio::test]
async fn connections_are_kept_and_ended_when_the_host_stops() {
    let gateway = Gateway::start(open_to_all()).await;
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    let mut answer = [0; 12];
    for _ in 0..2 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        soon(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let mut rest = [0; 1024];
        assert!(soon(stream.read(&mut rest)).await.unwrap() > 0);
    }
    gateway.stop().await;
    assert_eq!(soon(stream.read(&mut answer)).await.unwrap(), 0);
}
