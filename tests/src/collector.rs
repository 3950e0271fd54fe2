//! A small OpenTelemetry collector: takes OTLP over HTTP as JSON, and nothing that is not written as OTLP says.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::receiver::{Receiver, Request};
use crate::waiting::until;

/// A span that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The same; empty for the first of a trace.
    pub parent: String,
    /// Such as `store.put`.
    pub name: String,
    /// 1: internal, 2: server, 3: client.
    pub kind: u8,
    /// Numbers as texts.
    pub attributes: BTreeMap<String, String>,
    /// Whether its status is an error.
    pub failed: bool,
    /// `service.name`
    pub service: String,
    /// `host.name`
    pub host: String,
}

/// The collector; ends with this value.
#[derive(Debug)]
pub struct Collector(Receiver);

impl Collector {
    /// Listens on a free port.
    pub async fn start() -> Collector {
        Collector(Receiver::start().await)
    }

    /// A section `[telemetry]` that leads here, with these further lines.
    pub fn section(&self, lines: &str) -> String {
        format!("[telemetry]\notlp = \"{}\"\n{lines}", self.0.origin())
    }

    /// Refuses connections from now on.
    pub async fn take_down(&self) {
        self.0.take_down().await;
    }

    /// What came, as it came.
    pub fn requests(&self) -> Vec<Request> {
        self.0.requests()
    }

    /// Every span so far. Panics if something else came.
    pub fn spans(&self) -> Vec<Span> {
        self.requests().iter().flat_map(spans).collect()
    }

    /// The spans of one trace, once there is one of each of these names; others may be among them.
    pub async fn until_trace(&self, trace: &str, names: &[&str]) -> Trace {
        let whole = async || {
            let spans = self.spans().into_iter().filter(|span| span.trace == trace).collect();
            let trace = Trace(spans);
            names.iter().all(|name| trace.0.iter().any(|span| span.name == *name)).then_some(trace)
        };
        until(format!("spans {names:?} of the trace {trace}"), whole).await
    }

    /// The trace of the only span of this name, once it has arrived with everything that leads to it.
    pub async fn until_span(&self, name: &str) -> Trace {
        until(format!("the span {name} and what leads to it"), async || {
            let spans = self.spans();
            let mut named = spans.iter().filter(|span| span.name == name);
            let (span, more) = (named.next()?.clone(), named.next());
            assert_eq!(more, None, "one span {name}");
            let trace = Trace(spans.into_iter().filter(|other| other.trace == span.trace).collect());
            trace.way(&span).last().is_some_and(|first| first.parent.is_empty()).then_some(trace)
        })
        .await
    }
}

/// Spans of one trace.
#[derive(Clone, Debug)]
pub struct Trace(pub Vec<Span>);

impl Trace {
    /// The only span of this name.
    pub fn span(&self, name: &str) -> &Span {
        let named: Vec<&Span> = self.0.iter().filter(|span| span.name == name).collect();
        assert_eq!(named.len(), 1, "spans {name} among {:#?}", self.0);
        named[0]
    }

    /// The names from the span up to the first one, its own first.
    pub fn names(&self, span: &Span) -> Vec<&str> {
        self.way(span).iter().map(|span| span.name.as_str()).collect()
    }

    fn way(&self, span: &Span) -> Vec<&Span> {
        let find = |id: &str| self.0.iter().find(|other| other.id == id);
        std::iter::successors(find(&span.id), |span| find(&span.parent)).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Export {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceSpans {
    resource: Resource,
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    attributes: Vec<KeyValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeSpans {
    scope: Scope,
    spans: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    name: String,
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    trace_id: String,
    span_id: String,
    #[serde(default)]
    parent_span_id: String,
    flags: u32,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<KeyValue>,
    status: Status,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyValue {
    key: String,
    value: AnyValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue {
    StringValue(String),
    IntValue(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    code: u8,
}

fn spans(request: &Request) -> Vec<Span> {
    assert_eq!((&*request.method, &*request.path), ("POST", "/v1/traces"));
    assert_eq!(request.header("content-type"), "application/json");
    let export: Export = serde_json::from_str(&request.body)
        .unwrap_or_else(|error| panic!("no OTLP ({error}): {}", request.body));
    let mut spans = Vec::new();
    for ResourceSpans { resource, scope_spans } in export.resource_spans {
        let resource = pairs(resource.attributes);
        for ScopeSpans { scope, spans: written } in scope_spans {
            assert!(scope.name == "presence" && !scope.version.is_empty());
            spans.extend(written.into_iter().map(|span| span.read(&resource)));
        }
    }
    spans
}

impl Written {
    fn read(self, resource: &BTreeMap<String, String>) -> Span {
        let hexadecimal = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        };
        assert!(hexadecimal(&self.trace_id, 32) && hexadecimal(&self.span_id, 16), "{}", self.name);
        assert!(self.parent_span_id.is_empty() || hexadecimal(&self.parent_span_id, 16), "{}", self.name);
        let nanoseconds = |text: &str| text.parse::<u64>().expect("nanoseconds, as a text");
        assert!(nanoseconds(&self.start_time_unix_nano) <= nanoseconds(&self.end_time_unix_nano));
        assert_eq!(self.flags, 1, "sampled");
        Span {
            trace: self.trace_id,
            id: self.span_id,
            parent: self.parent_span_id,
            name: self.name,
            kind: self.kind,
            attributes: pairs(self.attributes),
            failed: self.status.code == 2,
            service: resource["service.name"].clone(),
            host: resource["host.name"].clone(),
        }
    }
}

fn pairs(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        AnyValue::StringValue(text) => text,
        AnyValue::IntValue(number) => number.parse::<i64>().expect("a number, as a text").to_string(),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}
