//! Spans as OTLP says: the JSON of `ExportTraceServiceRequest` (OTLP/HTTP, `POST /v1/traces`), of which collectors take
//! JSON and protobuf alike. Numbers of 64 bits are texts there, ids hexadecimal. It knows no connection.

use serde::Serialize;

use super::{EndedSpan, Kind, Span, Value};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: [KeyValue<'a>; 3],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<WrittenSpan<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenSpan<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<KeyValue<'a>>,
    status: Status,
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: &'a str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum AnyValue<'a> {
    StringValue(&'a str),
    IntValue(String),
}

#[derive(Serialize)]
struct Status {
    /// 0: not said, 2: an error.
    code: u8,
}

/// The body of a request that carries these spans.
pub(super) fn encode(service: &str, host: &str, spans: &[EndedSpan]) -> serde_json::Result<Vec<u8>> {
    let version = env!("CARGO_PKG_VERSION");
    let attributes = [("service.name", service), ("service.version", version), ("host.name", host)]
        .map(|(key, text)| KeyValue { key, value: AnyValue::StringValue(text) });
    let scope = Scope { name: "presence", version };
    let spans = spans.iter().map(|span| write(span)).collect();
    let scope_spans = [ScopeSpans { scope, spans }];
    serde_json::to_vec(&Request {
        resource_spans: [ResourceSpans { resource: Resource { attributes }, scope_spans }],
    })
}

fn write(span: &Span) -> WrittenSpan<'_> {
    let attributes = span.attributes.iter().map(|(key, value)| KeyValue {
        key,
        value: match value {
            Value::Text(text) => AnyValue::StringValue(text),
            Value::Number(number) => AnyValue::IntValue(number.to_string()),
        },
    });
    WrittenSpan {
        trace_id: format!("{:032x}", span.context.trace),
        span_id: format!("{:016x}", span.context.span),
        parent_span_id: span.parent.map(|parent| format!("{parent:016x}")),
        flags: 1,
        name: &span.name,
        kind: match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        },
        start_time_unix_nano: span.began.to_string(),
        // Clocks may be set back.
        end_time_unix_nano: span.ended.max(span.began).to_string(),
        attributes: attributes.collect(),
        status: Status { code: if span.failed { 2 } else { 0 } },
    }
}
