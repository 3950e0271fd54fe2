//! Who is sampled, what is carried along, what is written.

use std::time::Duration;

use presence_core::delivery::Payload;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::plugins::testing::transition;

/// A tracer that samples everything, and the spans that have ended.
pub(crate) fn recording() -> (Tracer, Recording) {
    let (spans, ended) = mpsc::channel(QUEUE);
    (Tracer { inner: Some(Arc::new(Inner::new(1.0, spans))) }, Recording(ended))
}

/// What would have been sent.
pub(crate) struct Recording(mpsc::Receiver<EndedSpan>);

impl Recording {
    /// The spans that have ended since.
    fn spans(&mut self) -> Vec<EndedSpan> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }

    /// The same, each by its name and its outcome; with `!` if that is a failure.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        self.spans().iter().map(|span| shown(span)).collect()
    }
}

fn shown(span: &Span) -> String {
    let mut text = span.name.to_string();
    for (name, value) in &span.attributes {
        if let (&attributes::OUTCOME, Value::Text(outcome)) = (name, value) {
            text = format!("{text} {outcome}");
        }
    }
    if span.failed { text + "!" } else { text }
}

/// The first attempt of plugin `p` at a transition of alice, as part of a trace.
pub(crate) fn attempt(tracer: &Tracer) -> Running {
    let payload = Payload::Status(transition("alice", 3).into());
    tracer.note_told(Told::of(&payload).unwrap(), SpanContext { trace: 7, span: 9 });
    tracer.hook("p", &payload, "p:user-online:alice:3", 1).unwrap()
}

fn settings(otlp: &str, sample: f64) -> TelemetrySettings {
    TelemetrySettings { otlp: otlp.parse().unwrap(), sample, service_name: "test".into() }
}

fn tracer(sample: f64) -> Tracer {
    // Nobody listens on this port.
    Tracer::start(Some(&settings("http://127.0.0.1:9", sample)), "host").unwrap()
}

fn sender(sampled: bool) -> Option<Traceparent> {
    Some(Traceparent { context: SpanContext { trace: 7, span: 9 }, sampled })
}

#[tokio::test]
async fn the_sender_decides_else_chance_and_with_a_sample_of_0_nobody() {
    let (never, always) = (tracer(0.0), tracer(1.0));
    assert!(!never.is_on() && never.root("m", sender(true)).is_none());
    assert!(Tracer::start(None, "host").unwrap().dropped().is_none());
    assert!(always.root("m", None).is_some_and(|span| span.parent.is_none() && span.context.trace != 0));
    assert!(always.root("m", sender(false)).is_none());
    let span = tracer(1e-12).root("m", sender(true)).unwrap();
    assert_eq!((span.context.trace, span.parent), (7, Some(9)));
}

#[test]
fn a_hook_is_part_of_the_trace_of_its_event_alone() {
    let (tracer, mut recording) = recording();
    let payload = |user, revision| Payload::Status(transition(user, revision).into());
    let context = SpanContext { trace: 7, span: 9 };
    tracer.note_told(Told::of(&payload("alice", 3)).unwrap(), context);
    for (user, revision) in [("alice", 4), ("bob", 3)] {
        assert!(tracer.hook("p", &payload(user, revision), "id", 1).is_none());
    }
    for attempt in [1, 2] {
        let running = tracer.hook("p", &payload("alice", 3), "id", attempt).unwrap();
        running.end(if attempt == 1 { "retry" } else { "delivered" }, attempt == 1);
    }
    let spans = recording.spans();
    assert_eq!(
        spans.iter().map(|span| shown(span)).collect::<Vec<_>>(),
        ["hook p user-online retry!", "hook p user-online delivered"]
    );
    assert!(spans.iter().all(|span| span.context.trace == 7 && span.parent == Some(9)));
    assert!(Tracer::off().hook("p", &payload("alice", 3), "id", 1).is_none());
}

#[test]
fn a_request_tells_whose_it_is_and_how_it_ended() {
    let (tracer, mut recording) = recording();
    let attempt = attempt(&tracer);
    let trace = HookTrace::of(&attempt).unwrap();
    let (one, other, third) = (trace.request(), trace.request(), trace.request());
    assert_eq!(one.context.trace, 7);
    assert_ne!(one.context.span, other.context.span);
    one.end("204", false);
    other.end("503", true);
    drop(third);
    let hook = attempt.context.span;
    drop(attempt);
    let spans = recording.spans();
    let ended: Vec<String> = spans.iter().map(|span| shown(span)).collect();
    assert_eq!(ended, ["http 204", "http 503!", "http cut!", "hook p user-online cut!"]);
    for span in &spans[..3] {
        let names: Vec<&str> = span.attributes.iter().map(|(name, _)| *name).collect();
        let of_hook = ["presence.plugin", "presence.hook", "presence.user", "presence.event_id"];
        assert_eq!(names, [&of_hook[..], &["presence.outcome"]].concat());
        assert_eq!((span.parent, span.kind), (Some(hook), Kind::Client));
    }
}

#[tokio::test]
async fn documents_carry_what_was_noted_for_them() {
    let (tracer, context) = (tracer(1.0), SpanContext { trace: 7, span: 9 });
    let alice = UserId::new("alice").unwrap();
    tracer.note_outgoing(&alice, context);
    assert_eq!(tracer.outgoing(&alice), Some(context));
    tracer.forget_outgoing(&alice, SpanContext { trace: 8, span: 9 });
    assert_eq!(tracer.outgoing(&alice), Some(context), "another one is being written");
    tracer.forget_outgoing(&alice, context);
    assert_eq!(tracer.outgoing(&alice), None);
    tracer.note_incoming(&alice, Sequence(5), context);
    let take = |at| tracer.take_incoming(&alice, Sequence(at));
    assert_eq!((take(4), take(5), take(5)), (None, Some(context), None), "of that document alone, once");
}

#[tokio::test]
async fn spans_that_find_no_room_are_counted() {
    let tracer = tracer(1.0);
    // The exporter has no turn meanwhile: this is a runtime of one thread.
    for _ in 0..QUEUE + 5 {
        tracer.end(tracer.root("m", None).unwrap());
    }
    assert_eq!(tracer.dropped(), Some(5));
}

#[test]
fn spans_are_written_as_otlp_says() {
    let context = SpanContext { trace: 7, span: 9 };
    let mut span = begin(7, Some(3), "hook p user-online".into(), Kind::Internal);
    (span.context, span.began, span.ended, span.failed) = (context, 1_795_536_000_123_456_789, 5, true);
    span.set(attributes::PLUGIN, "p");
    span.attributes.push((attributes::ATTEMPT, Value::Number(2)));
    let text = otlp::encode("presence", "host-1", &[Box::new(span)]).unwrap();
    let written: Json = serde_json::from_slice(&text).unwrap();
    let attributes = |pairs: &[(&str, &str)]| -> Vec<Json> {
        pairs.iter().map(|(key, text)| json!({"key": key, "value": {"stringValue": text}})).collect()
    };
    let version = env!("CARGO_PKG_VERSION");
    let resource = [("service.name", "presence"), ("service.version", version), ("host.name", "host-1")];
    let mut own = attributes(&[("presence.plugin", "p")]);
    own.push(json!({"key": "presence.attempt", "value": {"intValue": "2"}}));
    let span = json!({
        "traceId": "00000000000000000000000000000007", "spanId": "0000000000000009",
        "parentSpanId": "0000000000000003", "flags": 1, "name": "hook p user-online", "kind": 1,
        "startTimeUnixNano": "1795536000123456789", "endTimeUnixNano": "1795536000123456789",
        "attributes": own, "status": {"code": 2},
    });
    let scope = json!({"name": "presence", "version": version});
    assert_eq!(
        written,
        json!({"resourceSpans": [{
            "resource": {"attributes": attributes(&resource)},
            "scopeSpans": [{"scope": scope, "spans": [span]}],
        }]})
    );
}

#[tokio::test]
async fn what_is_left_is_sent_when_the_host_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tracer = Tracer::start(Some(&settings(&format!("http://{address}/"), 1.0)), "host").unwrap();
    let taken = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 512];
        let read = stream.read(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        String::from_utf8_lossy(&head[..read]).into_owned()
    });
    tracer.end(tracer.root("m", None).unwrap());
    tokio::time::timeout(Duration::from_secs(20), tracer.shutdown()).await.unwrap();
    let head = taken.await.unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("application/json"), "{head}");
    assert_eq!(tracer.dropped(), Some(0));
}

#[tokio::test]
async fn a_collector_that_is_away_is_counted_and_holds_up_nobody() {
    let tracer = tracer(1.0);
    tracer.end(tracer.root("m", None).unwrap());
    tokio::time::timeout(Duration::from_secs(20), tracer.shutdown()).await.unwrap();
    assert_eq!(tracer.dropped(), Some(1));
}
