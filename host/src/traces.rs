//! Traces: what a sampled client message sets off, as OpenTelemetry spans on every host that it reaches.
//!
//! ```text
//! session.connect ─┬─▶ hook <plugin> session-connected ─▶ http
//!                  └─▶ store.put ─▶ transition (at the owner) ─▶ hook <plugin> user-online ─▶ http
//! ```
//!
//! Only sampled messages carry anything, beside the documents and events that they belong to: in tables of bounded size,
//! whose loss costs a trace its rest and nobody anything else. Without `[telemetry]` each question here is one branch.
//! Attributes are the names below and no others, so that no secret gets out. It decides nothing and waits for nobody.

use std::borrow::Cow;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use presence_core::delivery::Payload;
use presence_core::events::Hook;
use presence_core::ids::{Sequence, SessionId, UserId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::settings::TelemetrySettings;

mod bounded;
mod context;
mod export;
mod otlp;
mod running;

pub(crate) use bounded::{Bounded, Table};
pub use context::{SpanContext, Traceparent};
pub(crate) use running::{HookTrace, Running};

/// So many spans wait to be sent; more are dropped and counted.
const QUEUE: usize = 4096;

/// How long stopping waits for what is left to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Names of attributes. There are no others.
pub(crate) mod attributes {
    pub(crate) const PLUGIN: &str = "presence.plugin";
    pub(crate) const HOOK: &str = "presence.hook";
    pub(crate) const USER: &str = "presence.user";
    pub(crate) const EVENT_ID: &str = "presence.event_id";
    pub(crate) const ATTEMPT: &str = "presence.attempt";
    pub(crate) const OUTCOME: &str = "presence.outcome";
}

/// What an attribute says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
}

/// Whether a span is a request to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Internal,
    Server,
    Client,
}

/// A piece of work that has begun and is part of a trace.
#[derive(Clone, Debug)]
pub struct Span {
    pub(crate) context: SpanContext,
    parent: Option<u64>,
    name: Cow<'static, str>,
    kind: Kind,
    /// Nanoseconds since 1970.
    began: u64,
    ended: u64,
    attributes: Vec<(&'static str, Value)>,
    pub(crate) failed: bool,
}

impl Span {
    pub(crate) fn set(&mut self, name: &'static str, text: impl Into<String>) {
        self.attributes.push((name, Value::Text(text.into())));
    }
}

/// What goes with an event: a span, if its message is sampled. Boxed, since most are not.
pub type Traced = Option<Box<Span>>;

/// A span on its way to the collector: moved from hand to hand, never copied.
pub(crate) type EndedSpan = Box<Span>;

/// An event that hooks are run for, by what tells it apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    /// A user's transition, by revision.
    Status(UserId, u64),
    /// One of the two events of a session.
    Session(SessionId, Hook),
}

impl Told {
    fn of(payload: &Payload) -> Option<Told> {
        match payload {
            Payload::Status(transition) => Some(Told::Status(transition.user.clone(), transition.revision)),
            Payload::Session(event) => Some(Told::Session(event.session.id.clone(), event.hook())),
            Payload::Cleanup(_) | Payload::Tick(_) => None,
        }
    }
}

/// Makes spans and passes them on. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer {
    /// None: nothing is traced.
    inner: Option<Arc<Inner>>,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("on", &self.is_on()).finish()
    }
}

struct Inner {
    sample: f64,
    spans: mpsc::Sender<EndedSpan>,
    dropped: Arc<AtomicU64>,
    /// Events whose hooks go on with a trace.
    hooks: Table<Told>,
    /// Users whose session document is being written with a `traceparent`.
    outgoing: Table<UserId>,
    /// Session documents that came with one, until the owner has looked at them.
    incoming: Table<(UserId, Sequence)>,
    closing: CancellationToken,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    fn new(sample: f64, spans: mpsc::Sender<EndedSpan>) -> Inner {
        Inner {
            sample,
            spans,
            dropped: Arc::default(),
            hooks: Table::default(),
            outgoing: Table::default(),
            incoming: Table::default(),
            closing: CancellationToken::new(),
            exporter: Mutex::new(None),
        }
    }
}

impl Tracer {
    /// Traces nothing.
    pub fn off() -> Tracer {
        Tracer::default()
    }

    /// Traces as the settings say and sends the spans from a task of its own, which needs a tokio runtime. With a
    /// sample of 0 nothing is traced. Fails when the system has no root certificates for `https`.
    pub fn start(settings: Option<&TelemetrySettings>, host: &str) -> std::io::Result<Tracer> {
        let Some(settings) = settings.filter(|settings| settings.sample > 0.0) else {
            return Ok(Tracer::off());
        };
        let (spans, queue) = mpsc::channel(QUEUE);
        let (dropped, closing) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let exporter = export::Exporter::new(settings, host, dropped.clone())?;
        let exporter = tokio::spawn(exporter.run(queue, closing.clone()));
        let exporter = Mutex::new(Some(exporter));
        let inner = Inner { dropped, closing, exporter, ..Inner::new(settings.sample, spans) };
        Ok(Tracer { inner: Some(Arc::new(inner)) })
    }

    /// Whether anything may be traced.
    pub(crate) fn is_on(&self) -> bool {
        self.inner.is_some()
    }

    /// So many spans were not sent; none: nothing is traced.
    pub fn dropped(&self) -> Option<u64> {
        self.inner.as_ref().map(|inner| inner.dropped.load(Relaxed))
    }

    /// The span of a message, if it is sampled: as its sender decided, if he did, else by chance.
    pub(crate) fn root(&self, name: &'static str, sender: Option<Traceparent>) -> Traced {
        let inner = self.inner.as_ref()?;
        let sampled = sender.map_or_else(|| fastrand::f64() < inner.sample, |sender| sender.sampled);
        let trace = sender.map_or_else(|| fastrand::u128(1..), |sender| sender.context.trace);
        let parent = sender.map(|sender| sender.context.span);
        sampled.then(|| Box::new(begin(trace, parent, name.into(), Kind::Server)))
    }

    /// A span below another one.
    pub(crate) fn child(&self, name: impl Into<Cow<'static, str>>, parent: SpanContext) -> Traced {
        self.is_on().then(|| Box::new(begin(parent.trace, Some(parent.span), name.into(), Kind::Internal)))
    }

    /// The span has ended. Never waits: what does not fit into the queue is counted.
    pub(crate) fn end(&self, mut span: Box<Span>) {
        let Some(inner) = &self.inner else { return };
        span.ended = nanoseconds();
        if inner.spans.try_send(span).is_err() {
            inner.dropped.fetch_add(1, Relaxed);
        }
    }

    /// The hooks of this event go on with a trace.
    pub(crate) fn note_told(&self, told: Told, context: SpanContext) {
        if let Some(inner) = &self.inner {
            inner.hooks.put(told, context);
        }
    }

    /// The span of one attempt of a hook, if its event is traced.
    pub(crate) fn hook(
        &self,
        plugin: &str,
        payload: &Payload,
        event_id: &str,
        attempt: u32,
    ) -> Option<Running> {
        let inner = self.inner.as_ref().filter(|inner| !inner.hooks.is_empty())?;
        let parent = inner.hooks.get(&Told::of(payload)?)?;
        let hook = payload.hook().as_str();
        let mut span = self.child(format!("hook {plugin} {hook}"), parent)?;
        span.set(attributes::PLUGIN, plugin);
        span.set(attributes::HOOK, hook);
        if let Some(user) = payload.user() {
            span.set(attributes::USER, user.as_str());
        }
        span.set(attributes::EVENT_ID, event_id);
        span.attributes.push((attributes::ATTEMPT, Value::Number(attempt.into())));
        Some(Running::new(self, span))
    }

    /// The session document that is about to be written for this user carries this context.
    pub(crate) fn note_outgoing(&self, user: &UserId, context: SpanContext) {
        if let Some(inner) = &self.inner {
            inner.outgoing.put(user.clone(), context);
        }
    }

    /// It is written.
    pub(crate) fn forget_outgoing(&self, user: &UserId, context: SpanContext) {
        if let Some(inner) = &self.inner {
            inner.outgoing.remove(user, context);
        }
    }

    /// What the session document of this user carries.
    pub(crate) fn outgoing(&self, user: &UserId) -> Option<SpanContext> {
        self.inner.as_ref().filter(|inner| !inner.outgoing.is_empty())?.outgoing.get(user)
    }

    /// The session document of this user that was written at this place came with this context.
    pub(crate) fn note_incoming(&self, user: &UserId, at: Sequence, context: SpanContext) {
        if let Some(inner) = &self.inner {
            inner.incoming.put((user.clone(), at), context);
        }
    }

    /// What that document came with, once.
    pub(crate) fn take_incoming(&self, user: &UserId, at: Sequence) -> Option<SpanContext> {
        let inner = self.inner.as_ref().filter(|inner| !inner.incoming.is_empty())?;
        inner.incoming.take(&(user.clone(), at))
    }

    /// Sends what is left, for a bounded time. What ends later is dropped.
    pub async fn shutdown(&self) {
        let Some(inner) = &self.inner else { return };
        let exporter = inner.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut exporter) = exporter else { return };
        inner.closing.cancel();
        if tokio::time::timeout(FLUSH_TIMEOUT, &mut exporter).await.is_err() {
            exporter.abort();
            tracing::warn!("the last traces could not be sent in time");
        }
    }
}

fn begin(trace: u128, parent: Option<u64>, name: Cow<'static, str>, kind: Kind) -> Span {
    let context = SpanContext { trace, span: fastrand::u64(1..) };
    let began = nanoseconds();
    Span { context, parent, name, kind, began, ended: began, attributes: Vec::new(), failed: false }
}

/// Since 1970; 0 on a machine whose clock is before that.
fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
