//! Hooks as parts of traces.

use super::*;
use crate::traces::tests::recording;
use crate::traces::{SpanContext, Told, Tracer};

fn note(tracer: &Tracer, told: Told) {
    tracer.note_told(told, SpanContext { trace: 7, span: 9 });
}

/// What is told of a session's beginning.
fn connected(session: u128) -> Told {
    Told::Session(SessionId::Hosted(session), Hook::SessionConnected)
}

#[tokio::test]
async fn every_attempt_of_a_traced_event_is_a_span_without_a_word_of_the_plugins() {
    let (tracer, mut recording) = recording();
    let running = Running::traced(&[("p", unchanged)], tracer.clone()).await;
    let retry = transition("retry", 1);
    note(&tracer, Told::Status(retry.user.clone(), retry.revision));
    note(&tracer, connected(7));
    running.online("retry", 1);
    running.connected("jack", 7);
    running.online("alice", 1);
    running.connected("jack", 8);
    running.outcomes(4).await;
    let mut ended = recording.ended();
    ended.sort_unstable();
    let expected =
        ["hook p session-connected reject!", "hook p user-online delivered", "hook p user-online retry!"];
    assert_eq!(ended, expected, "not of alice, nor of session 8");
}

#[tokio::test]
async fn a_call_that_the_host_ends_is_told_as_cut() {
    let (tracer, mut recording) = recording();
    let running =
        Running::traced(&[("p", |settings| settings.limits.deadline = PATIENCE)], tracer.clone()).await;
    note(&tracer, connected(7));
    running.connected("wait", 7);
    running.until(|metrics| metrics.running == 1).await;
    running.set.shutdown().await;
    assert_eq!(recording.ended(), ["hook p session-connected cut!"]);
}
