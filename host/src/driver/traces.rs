//! The driver's side of traces: which document goes on with which message, and which transition with which document.
//! Nothing is kept of messages that are not sampled, and nothing is decided by what is kept.

use presence_core::events::{Hook, Status, Transition};
use presence_core::ids::{PartitionId, Sequence, SessionId, UserId};
use presence_core::sessions::SessionKey;

use super::engine::Driver;
use crate::traces::{Bounded, Span, SpanContext, Told, Traced, Tracer, attributes};

/// What the driver knows of traces.
#[derive(Default)]
pub(super) struct Traces {
    pub(super) tracer: Tracer,
    /// Users whose next session document goes on with a message.
    messages: Bounded<UserId, SpanContext>,
    /// Users whose next transition goes on with a document.
    transitions: Bounded<UserId, Deciding>,
}

/// A transition that a document brings about.
struct Deciding {
    span: Box<Span>,
    /// None: nothing is decided yet, since `offline` is held back.
    revision: Option<u64>,
}

impl Deciding {
    fn is_held_back(&self) -> bool {
        self.revision.is_none()
    }
}

/// A write of a session document.
pub(super) struct TracedPut {
    tracer: Tracer,
    user: UserId,
    span: Box<Span>,
    shared: bool,
}

impl TracedPut {
    /// The store has answered: where the document is, or that it is gone; none: it is not written.
    pub(super) fn end(mut self, written: Option<Option<Sequence>>) {
        self.span.failed = written.is_none();
        if self.shared {
            self.tracer.forget_outgoing(&self.user, self.span.context);
        } else if let Some(at) = written.flatten() {
            self.tracer.note_incoming(&self.user, at, self.span.context);
        }
        self.tracer.end(self.span);
    }
}

impl Traces {
    /// The user's session document is about to be written. `shared`: others may own the user's partition, so that the
    /// context goes through the store.
    pub(super) fn begin_put(&mut self, user: &UserId, shared: bool) -> Option<TracedPut> {
        if self.messages.is_empty() {
            return None;
        }
        let span = self.tracer.child("store.put", self.messages.take(user)?)?;
        if shared {
            self.tracer.note_outgoing(user, span.context);
        }
        Some(TracedPut { tracer: self.tracer.clone(), user: user.clone(), span, shared })
    }

    /// A transition is recorded: its hooks go on with the trace.
    pub(super) fn tell(&mut self, transition: &Transition) {
        if self.transitions.is_empty() {
            return;
        }
        let Some(Deciding { mut span, revision }) = self.transitions.take(&transition.user) else { return };
        match revision {
            // What was decided before the document came.
            Some(revision) if transition.revision < revision => {
                let user = transition.user.clone();
                self.transitions.put(user, Deciding { span, revision: Some(revision) });
                return;
            }
            // It is not what was held back.
            None if transition.current != Status::Offline => return,
            _ => {}
        }
        span.set(attributes::USER, transition.user.as_str());
        span.set(attributes::OUTCOME, transition.current.to_string());
        self.tracer.note_told(Told::Status(transition.user.clone(), transition.revision), span.context);
        self.tracer.end(span);
    }
}

impl Driver {
    /// Traces of messages go on with what the driver does.
    pub fn traced(mut self, tracer: Tracer) -> Driver {
        self.traces.tracer = tracer;
        self
    }

    /// A message of a client was taken. `hook`: which event of the session it is, if it is one.
    pub(super) fn note_message(
        &mut self,
        span: Traced,
        user: UserId,
        session: SessionId,
        hook: Option<Hook>,
    ) {
        let Some(mut span) = span else { return };
        span.set(attributes::USER, user.as_str());
        if let Some(hook) = hook {
            self.traces.tracer.note_told(Told::Session(session, hook), span.context);
        }
        self.traces.messages.put(user, span.context);
        self.traces.tracer.end(span);
    }

    /// `set_status` was taken. A status that the session has already changes no document.
    pub(super) fn note_set_status(&mut self, span: Traced, key: SessionKey, before: Option<Status>) {
        let Some(span) = span else { return };
        match self.sessions.session(key) {
            Some(view) if before != Some(view.status) => {
                self.note_message(Some(span), view.user, view.id, None);
            }
            _ => self.traces.tracer.end(span),
        }
    }

    /// The session's connection has ended, which is a message of the client as well.
    pub(super) fn begin_disconnect(&mut self, key: SessionKey) {
        if let Some(span) = self.traces.tracer.root("session.disconnect", None)
            && let Some(view) = self.sessions.session(key)
        {
            self.note_message(Some(span), view.user, view.id, Some(Hook::SessionDisconnected));
        }
    }

    /// A session document came: the context that it carries, and the user's revision before it is looked at.
    pub(super) fn arriving(
        &self,
        id: PartitionId,
        user: &UserId,
        at: Sequence,
    ) -> Option<(SpanContext, u64)> {
        let context = self.traces.tracer.take_incoming(user, at)?;
        let known = self.partitions.get(&id)?.tracker.known(user);
        Some((context, known.map_or(0, |known| known.record.revision)))
    }

    /// It was looked at.
    pub(super) fn arrived(&mut self, id: PartitionId, user: &UserId, traced: Option<(SpanContext, u64)>) {
        if traced.is_none() && self.traces.transitions.get(user).is_none() {
            return;
        }
        let known = self.partitions.get(&id).and_then(|partition| partition.tracker.known(user));
        let Some(known) = known else { return };
        if known.sessions > 0 && self.traces.transitions.get(user).is_some_and(Deciding::is_held_back) {
            // Somebody came back in time.
            self.traces.transitions.take(user);
        }
        let Some((context, before)) = traced else { return };
        let revision = (known.record.revision != before).then_some(known.record.revision);
        let held_back = known.sessions == 0 && known.record.status != Status::Offline;
        if (revision.is_some() || held_back)
            && let Some(span) = self.traces.tracer.child("transition", context)
        {
            self.traces.transitions.put(user.clone(), Deciding { span, revision });
        }
    }
}

#[cfg(test)]
mod tests {
    use presence_core::delivery::Payload;

    use super::*;
    use crate::plugins::testing;
    use crate::traces::tests::{Recording, recording};

    const CONTEXT: SpanContext = SpanContext { trace: 7, span: 9 };

    fn traces() -> (Traces, Recording) {
        let (tracer, recording) = recording();
        (Traces { tracer, ..Traces::default() }, recording)
    }

    fn alice() -> UserId {
        UserId::new("alice").unwrap()
    }

    fn transition(current: Status, revision: u64) -> Transition {
        Transition { current, ..testing::transition("alice", revision) }
    }

    /// A document of alice has brought about this revision, or has left her offline held back.
    fn decide(traces: &mut Traces, revision: Option<u64>) {
        let span = traces.tracer.child("transition", CONTEXT).unwrap();
        traces.transitions.put(alice(), Deciding { span, revision });
    }

    fn is_traced(traces: &Traces, transition: Transition) -> bool {
        traces.tracer.hook("p", &Payload::Status(transition.into()), "id", 1).is_some()
    }

    #[test]
    fn a_transition_goes_on_with_the_document_that_brought_it_about() {
        let (mut traces, mut recording) = traces();
        decide(&mut traces, Some(3));
        traces.tell(&transition(Status::Online, 2));
        assert_eq!(recording.ended(), Vec::<String>::new(), "it was decided before");
        traces.tell(&transition(Status::Idle, 3));
        assert_eq!(recording.ended(), ["transition idle"]);
        traces.tell(&transition(Status::Online, 4));
        let traced = [2, 3, 4].map(|revision| is_traced(&traces, transition(Status::Idle, revision)));
        assert_eq!(traced, [false, true, false]);
    }

    #[test]
    fn what_is_held_back_is_told_with_the_trace_or_nothing_is() {
        let (mut traces, mut recording) = traces();
        decide(&mut traces, None);
        traces.tell(&transition(Status::Offline, 3));
        assert_eq!(recording.ended(), ["transition offline"]);
        decide(&mut traces, None);
        traces.tell(&transition(Status::Idle, 4));
        traces.tell(&transition(Status::Offline, 5));
        assert_eq!(recording.ended(), Vec::<String>::new(), "it was not held back any more");
    }

    #[test]
    fn a_write_hands_the_trace_on_to_the_owner_once_it_is_certain() {
        let (mut traces, mut recording) = traces();
        assert!(traces.begin_put(&alice(), true).is_none());
        for (shared, written) in
            [(true, Some(Some(Sequence(4)))), (false, Some(Some(Sequence(5)))), (false, None)]
        {
            traces.messages.put(alice(), CONTEXT);
            let put = traces.begin_put(&alice(), shared).unwrap();
            assert!(traces.begin_put(&alice(), shared).is_none(), "one document goes on with a message");
            assert_eq!(
                traces.tracer.outgoing(&alice()).is_some(),
                shared,
                "through the store if it is shared"
            );
            put.end(written);
            assert_eq!(traces.tracer.outgoing(&alice()), None);
        }
        let came = [4, 5].map(|at| traces.tracer.take_incoming(&alice(), Sequence(at)).is_some());
        assert_eq!(came, [false, true]);
        assert_eq!(recording.ended(), ["store.put", "store.put", "store.put!"]);
    }
}
