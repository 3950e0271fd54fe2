//! Spans of what may be cut short at any time: an attempt of a hook, and each request that it makes.

use std::borrow::Cow;

use super::{Kind, Span, SpanContext, Traced, Tracer, attributes, begin};

/// A span whose end tells how it went. Dropped before it has ended, it was cut with whatever it is part of.
pub(crate) struct Running {
    tracer: Tracer,
    /// Of the span.
    pub(crate) context: SpanContext,
    /// None once it is passed on.
    span: Traced,
    outcome: Cow<'static, str>,
    failed: bool,
}

impl Running {
    pub(super) fn new(tracer: &Tracer, span: Box<Span>) -> Running {
        let (context, outcome) = (span.context, Cow::Borrowed("cut"));
        Running { tracer: tracer.clone(), context, span: Some(span), outcome, failed: true }
    }

    /// It has ended: how, in a word that is never a plugin's, and whether that is a failure.
    pub(crate) fn end(mut self, outcome: impl Into<Cow<'static, str>>, failed: bool) {
        (self.outcome, self.failed) = (outcome.into(), failed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut span) = self.span.take() else { return };
        span.set(attributes::OUTCOME, std::mem::take(&mut self.outcome));
        span.failed = self.failed;
        self.tracer.end(span);
    }
}

/// An attempt of a hook as part of a trace, for what it asks of others.
#[derive(Clone)]
pub(crate) struct HookTrace {
    tracer: Tracer,
    hook: SpanContext,
    /// Those of the attempt that its requests have as well.
    attributes: Vec<(&'static str, super::Value)>,
}

impl HookTrace {
    /// None: the span was passed on already.
    pub(crate) fn of(attempt: &Running) -> Option<HookTrace> {
        let span = attempt.span.as_ref()?;
        let copied = span.attributes.iter().filter(|(name, _)| *name != attributes::ATTEMPT);
        let (tracer, attributes) = (attempt.tracer.clone(), copied.cloned().collect());
        Some(HookTrace { tracer, hook: span.context, attributes })
    }

    /// A request of the guest.
    pub(crate) fn request(&self) -> Running {
        let mut span = begin(self.hook.trace, Some(self.hook.span), "http".into(), Kind::Client);
        span.attributes = self.attributes.clone();
        Running::new(&self.tracer, Box::new(span))
    }
}
