//! Keys of the admin listener, through the real socket: every route wants one, and one with its scope.

use super::*;
use crate::api_keys::{ApiKey, ApiKeys, KeyDigest, Scope};
use crate::gateway::admin::operations;

/// The key that has this scope alone.
fn sent(scope: Scope) -> String {
    format!("pk_{}", scope.as_str())
}

fn keys() -> ApiKeys {
    let key = |scope: Scope| ApiKey {
        name: scope.as_str().to_owned(),
        scopes: [scope].into_iter().collect(),
        digest: KeyDigest::of(&sent(scope)),
    };
    ApiKeys(Scope::ALL.map(key).to_vec())
}

async fn with_keys() -> Gateway {
    let settings = Settings { api: keys(), ..settings(open_to_all()) };
    Gateway::serve(bind(&settings).await.unwrap()).await
}

/// The status and the head of an answer.
async fn ask(gateway: &Gateway, method: &str, path: &str, key: Option<&str>) -> (u16, String) {
    let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let host = gateway.admin;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Connection: close\r\n\r\n");
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    // A stream of events has no end: the head is enough.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
}

fn filled(path: &str) -> String {
    let segment = |segment: &str| if segment.starts_with('{') { "1".to_owned() } else { segment.to_owned() };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// The router knows no other routes than those of the list.
#[tokio::test]
async fn every_route_wants_a_key_with_its_scope() {
    let gateway = with_keys().await;
    let operations = operations();
    assert!(operations.len() > 15, "{}", operations.len());
    for (group, operation) in operations {
        let (method, path) = (operation.method.as_str(), filled(operation.path));
        let Some(wanted) = group.scope() else {
            assert_eq!(ask(&gateway, method, &path, None).await.0, 200, "{method} {path}");
            continue;
        };
        for key in [None, Some("pk_other"), Some("")] {
            let (status, head) = ask(&gateway, method, &path, key).await;
            assert_eq!(status, 401, "{method} {path} with {key:?}");
            assert!(head.contains("www-authenticate: bearer"), "{head}");
        }
        for scope in Scope::ALL {
            let status = ask(&gateway, method, &path, Some(&sent(scope))).await.0;
            let allowed = scope == wanted || scope == Scope::Admin;
            assert_eq!(status != 403, allowed, "{method} {path} with the scope {scope:?}: {status}");
            assert_ne!(status, 401, "{method} {path} with the scope {scope:?}");
        }
        let reads = ["GET", "HEAD"].contains(&method);
        assert_eq!(reads, wanted == Scope::Read, "{method} {path}: what reads changes nothing");
    }
    // Also what is nowhere.
    assert_eq!(ask(&gateway, "GET", "/v1/nothing", None).await.0, 401);
    assert_eq!(ask(&gateway, "GET", "/v1/nothing", Some("pk_read")).await.0, 404);
    assert_eq!(ask(&gateway, "PUT", "/v1/users", None).await.0, 401);
}

#[tokio::test]
async fn what_a_key_lacks_is_told_and_counted() {
    let gateway = with_keys().await;
    let (status, head) = ask(&gateway, "POST", "/v1/reload", Some("pk_read")).await;
    assert_eq!(status, 403);
    assert!(
        head.contains("www-authenticate: bearer error=\"insufficient_scope\", scope=\"admin\""),
        "{head}"
    );
    assert_eq!(ask(&gateway, "POST", "/v1/reload", Some("pk_admin")).await.0, 200);
    assert_eq!(ask(&gateway, "GET", "/v1/users/bob", Some("pk_sessions")).await.0, 403);
    assert_eq!(ask(&gateway, "GET", "/v1/users/bob", None).await.0, 401);
    assert_eq!(ask(&gateway, "GET", "/v1/users/bob", Some("pk_guess")).await.0, 401);
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer pk_read\r\nConnection: close\r\n\r\n",
        gateway.admin
    );
    let (_, metrics) = raw(gateway.admin, &request).await;
    for line in ["reason=\"no_key\"} 1", "reason=\"unknown_key\"} 1", "reason=\"scope\"} 2"] {
        let line = format!("presence_gateway_api_requests_refused_total{{{line}");
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn with_keys_other_names_lead_here_and_pages_of_others_still_do_not() {
    let gateway = with_keys().await;
    let ask = async |headers: &str| {
        let request = format!(
            "GET /v1/users/bob HTTP/1.1\r\n{headers}\r\nAuthorization: Bearer pk_read\r\nConnection: close\r\n\r\n"
        );
        raw(gateway.admin, &request).await.0.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask("Host: presence.internal:7071").await, "200");
    assert_eq!(ask("Host: presence.internal\r\nOrigin: https://example.org").await, "403");
}

#[tokio::test]
async fn an_admin_listener_for_others_needs_keys() {
    let mut open = settings(with_tokens());
    open.host.admin = "0.0.0.0:0".parse().unwrap();
    let error = bind(&open).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("host.admin is 0.0.0.0:0, and there is no [[api.key]]"), "{error}");
    open.api = keys();
    assert!(bind(&open).await.is_ok());
}
