//! The OpenAPI document against the router, and docs/http-api.md against both.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Group, Operation, Param, words};
use crate::api_keys::Scope;
use crate::gateway::admin::{openapi, operations};
use crate::gateway::problem::Kind;
use crate::gateway::tests::{Gateway, ask_admin, open_to_all};
use crate::guide::{self, HTTP_API};

fn document() -> Value {
    serde_json::from_str(openapi()).unwrap()
}

/// Every operation of the document, as `GET /v1/users`.
fn described() -> BTreeMap<String, Value> {
    let document = document();
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.insert(format!("{} {path}", method.to_ascii_uppercase()), operation.clone());
        }
    }
    found
}

/// A path with something in place of its parameters.
fn filled(path: &str) -> String {
    path.replace("{user}", "bob")
        .replace("{number}", "1")
        .replace("{holder}", "chat")
        .replace("{session}", "1")
}

#[test]
fn the_document_is_whole() {
    let document = document();
    assert_eq!(document["openapi"].as_str().unwrap(), "3.1.0");
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
    let text = openapi();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in text.split("\"$ref\": \"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{name} is nowhere");
    }
    let mut ids: Vec<String> =
        described().values().map(|operation| operation["operationId"].as_str().unwrap().to_owned()).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), count), (count, operations().len()));
}

#[test]
fn every_operation_says_for_whom_it_is_and_how_it_fails() {
    let described = described();
    for (group, operation) in operations() {
        let name = format!("{} {}", operation.method, operation.path);
        let told = &described[&name];
        let scope = &told["security"][0]["api_key"][0];
        assert_eq!(scope.as_str(), group.scope().map(Scope::as_str), "{name}");
        let reads = operation.method == http::Method::GET;
        assert_eq!(reads, matches!(group, Group::Open | Group::Read), "{name}: what reads changes nothing");
        for (status, answer) in told["responses"].as_object().unwrap() {
            for (kind, content) in answer["content"].as_object().into_iter().flatten() {
                assert!(!content["example"].is_null(), "{name}: {status} has no example");
                assert_eq!(kind == "application/problem+json", status.starts_with(['4', '5']), "{name}");
            }
        }
        for parameter in told["parameters"].as_array().into_iter().flatten() {
            let in_path = operation.path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap()));
            assert_eq!(parameter["in"] == "path", in_path, "{name}: {parameter}");
        }
    }
}

#[tokio::test]
async fn every_operation_of_the_document_is_routed_and_no_other_method_is() {
    let gateway = Gateway::start(open_to_all()).await;
    let described = described();
    for name in described.keys() {
        let (_, path) = name.split_once(' ').unwrap();
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
            if format!("{method} {path}") == "GET /v1/events" {
                continue; // It never ends; the next test has it.
            }
            // An unknown parameter: so nothing is done.
            let target = format!("{}?surely_unknown=1", filled(path));
            let (head, body) = ask_admin(&gateway, method, &target).await;
            let expected = if described.contains_key(&format!("{method} {path}")) { 400 } else { 405 };
            assert!(head.starts_with(&format!("http/1.1 {expected} ")), "{method} {target}: {head}\n{body}");
        }
    }
    let (head, _) = ask_admin(&gateway, "GET", "/v1/events?surely_unknown=1").await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
    let (head, body) = ask_admin(&gateway, "GET", "/v1/openapi.json").await;
    assert!(head.starts_with("http/1.1 200 ") && head.contains("content-type: application/json"), "{head}");
    assert_eq!(body, openapi());
}

/// What docs/http-api.md shows of an operation.
struct Shown {
    /// The first line of the request.
    line: String,
    /// The body of the request.
    sent: String,
    code: String,
    answer: String,
}

/// The operation that a request is for.
fn operation_of(method: &str, path: &str) -> Option<String> {
    let exactly = format!("{method} {path}");
    let described = described();
    if described.contains_key(&exactly) {
        return Some(exactly);
    }
    described.into_keys().find(|name| {
        let (one, template) = name.split_once(' ').unwrap();
        let (parts, given) = (template.split('/'), path.split('/'));
        let same =
            |(part, given): (&str, &str)| part == given || (part.starts_with('{') && !given.is_empty());
        one == method && parts.clone().count() == given.clone().count() && parts.zip(given).all(same)
    })
}

fn shown() -> BTreeMap<String, Shown> {
    let mut found = BTreeMap::new();
    for block in guide::blocks(HTTP_API, "http") {
        let (request, answer) =
            block.split_once("\n\nHTTP/1.1 ").unwrap_or_else(|| panic!("no answer in {block}"));
        let (head, sent) = request.split_once("\n\n").unwrap_or((request, ""));
        let (status, answer) = answer.split_once("\n\n").unwrap_or((answer, ""));
        let line = head.lines().next().unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let path = words[1].split('?').next().unwrap();
        let name = operation_of(words[0], path).unwrap_or_else(|| panic!("{line} is in no document"));
        let [line, sent, answer] = [line, sent, answer].map(str::to_owned);
        let code = status.split(' ').next().unwrap().to_owned();
        found.entry(name).or_insert(Shown { line, sent, code, answer });
    }
    found
}

#[test]
fn the_page_shows_every_operation_with_the_answer_of_the_document() {
    let shown = shown();
    for (name, operation) in described() {
        let Some(shown) = shown.get(&name) else { panic!("docs/http-api.md does not show {name}") };
        let wanted = &operation["requestBody"]["content"]["application/json"]["example"];
        assert_eq!(serde_json::from_str(&shown.sent).unwrap_or(Value::Null), *wanted, "{name}");
        let told =
            operation["responses"].get(&shown.code).unwrap_or_else(|| panic!("{name}: {}", shown.code));
        let content = told["content"].as_object().and_then(|all| all.values().next());
        match content.map(|content| &content["example"]) {
            None => assert_eq!(shown.answer, "", "{name}"),
            Some(Value::String(text)) => assert_eq!(shown.answer.trim(), text.trim(), "{name}"),
            Some(example) => {
                let found: Value = serde_json::from_str(&shown.answer).unwrap_or(Value::Null);
                assert_eq!(found, *example, "{name}: this is the example of the document:\n{example:#}");
            }
        }
        let query = shown.line.split_once('?').map_or("", |(_, query)| query.split(' ').next().unwrap());
        for parameter in query.split('&').filter_map(|pair| Some(pair.split_once('=')?.0)) {
            let known =
                operation["parameters"].as_array().unwrap().iter().any(|one| one["name"] == parameter);
            assert!(known, "{name}: {parameter}");
        }
    }
}

#[test]
fn the_page_lists_every_kind_of_problem() {
    let tables = guide::tables(HTTP_API, "## Problems");
    let rows: BTreeMap<String, String> =
        tables[0].iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone())).collect();
    let expected: BTreeMap<String, String> =
        Kind::ALL.map(|kind| (kind.as_str().to_owned(), kind.status().as_u16().to_string())).into();
    assert_eq!(rows, expected);
}

#[test]
fn only_parameters_that_are_told_of_are_taken() {
    let operation = Operation::get("/x/{user}", "x", "X")
        .takes(Param::path("user", "", words::text()))
        .takes(Param::query("limit", "", words::text()))
        .takes(Param::query("status", "", words::text()).repeated(2));
    let judge = |query| operation.judge(query).map_err(|problem| format!("{problem:?}"));
    for fine in [None, Some(""), Some("limit=1&status=a&status=b"), Some("&&status=")] {
        assert_eq!(judge(fine), Ok(()));
    }
    for (query, part) in [
        ("limits=1", "`limits` is not known"),
        ("user=a", "`user` is not known"),
        ("limit=1&limit=1", "more than once"),
        ("status=a&status=b&status=c", "more than 2 times"),
        ("status=%ff", "not percent-encoded"),
    ] {
        let problem = judge(Some(query)).unwrap_err();
        assert!(problem.contains(part) && problem.contains("BadParameter"), "{query}: {problem}");
    }
}
