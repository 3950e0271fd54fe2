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
    path.replace("{user}", "bob").replace("{number}", "1").replace("{holder}", "chat").replace("{id}", "1")
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

/// What docs/http-api.md shows of an operation: the request, and what is answered.
fn shown() -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::new();
    let mut rest = HTTP_API;
    while let Some((_, after)) = rest.split_once("\n```http\n") {
        let (block, after) = after.split_once("\n```").unwrap();
        // A request may have a body.
        let at = block.find("\n\nHTTP/").unwrap_or_else(|| panic!("no answer in {block}"));
        let (request, answer) = (&block[..at], &block[at + 2..]);
        let line = request.lines().next().unwrap();
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap_or_else(|| panic!("{line}")));
        let path = target.split('?').next().unwrap();
        let template = described().into_keys().find(|name| {
            let (one, template) = name.split_once(' ').unwrap();
            let parts: Vec<&str> = template.split('/').collect();
            let given: Vec<&str> = path.split('/').collect();
            let fits =
                |(part, given): (&&str, &&str)| part == given || (part.starts_with('{') && !given.is_empty());
            one == method
                && parts.len() == given.len()
                && parts.iter().zip(&given).all(fits)
                && !(template.contains('{') && described().contains_key(&format!("{method} {path}")))
        });
        let name = template.unwrap_or_else(|| panic!("{line} is in no document"));
        found.entry(name).or_insert((line.to_owned(), answer.to_owned()));
        rest = after;
    }
    found
}

#[test]
fn the_page_shows_every_operation_with_the_answer_of_the_document() {
    let shown = shown();
    for (name, operation) in described() {
        let Some((line, answer)) = shown.get(&name) else { panic!("docs/http-api.md does not show {name}") };
        let (status, body) = answer.split_once("\n\n").unwrap_or((answer, ""));
        let code = status.split(' ').nth(1).unwrap_or_else(|| panic!("{name}: {status}"));
        let told = &operation["responses"][code];
        let (_, content) = told["content"]
            .as_object()
            .and_then(|all| all.iter().next())
            .unwrap_or_else(|| panic!("{name}: {code} is not in the document"));
        match &content["example"] {
            Value::String(text) => assert_eq!(body.trim(), text.trim(), "{name}"),
            example => {
                let body: Value =
                    serde_json::from_str(body).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(body, *example, "{name}: this is the example of the document:\n{example:#}");
            }
        }
        for (parameter, value) in line.split_once('?').iter().flat_map(|(_, query)| {
            query.split(' ').next().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='))
        }) {
            let known =
                operation["parameters"].as_array().unwrap().iter().any(|one| one["name"] == parameter);
            assert!(known && !value.is_empty(), "{name}: {parameter}");
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
