//! What guests try against the host that made them: each is held to its limits, and the next event finds a fresh guest.

use super::*;

/// One attempt of the user whose name says what to do; then the error of its dead letter.
async fn attempt(user: &str) -> (Running, String) {
    let running = Running::zoo(&[("p", |settings| settings.delivery.attempts = 1)]).await;
    running.online(user, 1);
    running.outcomes(1).await;
    let said = running.letter();
    running.online("alice", 1);
    running.outcomes(1).await;
    assert_eq!(running.failures(Hook::UserOnline, FailureKind::Trap), 1, "{said}");
    (running, said)
}

#[tokio::test]
async fn memory_is_summed_over_many_memories_that_grow_in_many_steps() {
    let (running, said) = attempt("n").await;
    assert!(said.contains("refused memory beyond limits.memory, 16777216 bytes"), "{said}");
    assert_eq!(running.metrics(0).memory_peak, 16 << 20, "to the last page, and no further");
    assert!(running.metrics(0).guests >= 1);
}

#[tokio::test]
async fn elements_are_summed_over_tables() {
    let (_, said) = attempt("k").await;
    assert!(said.contains("refused more than 200000 elements of tables"), "{said}");
}

#[tokio::test]
async fn a_line_with_very_many_fields_is_a_trap() {
    let (_, said) = attempt("m").await;
    assert_eq!(said, "it gave the host more than 262144 bytes at once, in many_fields");
}

/// Written out, the name of the function that traps would fill the memory of any machine.
#[tokio::test]
async fn a_name_that_stands_for_gigabytes_is_told_as_it_is() {
    let (_, said) = attempt("x").await;
    assert!(said.contains("in _Z1fSt4pairIiiES_IS0_S0_E"), "{said}");
}

/// More guests compute than there are threads, one of each plugin and all without end: a call that only waits for
/// threads ends long before they do.
#[tokio::test]
async fn i7_guests_that_compute_leave_a_thread_to_those_that_do_not() {
    let looping: Animal = ("looping", |settings| {
        settings.limits.deadline = PATIENCE * 2;
        settings.delivery.concurrency = 32;
    });
    let running = Running::zoo(&[looping, ("good", unchanged)]).await;
    for number in 0..32 {
        running.set.submit_to("looping", Payload::Status(transition(&format!("s{number}"), 1).into()));
    }
    running.until(|metrics| metrics.running == 32).await;
    for number in 0..100 {
        running.set.submit_to("good", Payload::Status(transition(&format!("u{number}"), 1).into()));
        running.outcomes(1).await;
    }
    assert_eq!(running.metrics(0).running, 32, "all of them still loop");
    running.set.shutdown().await;
}
