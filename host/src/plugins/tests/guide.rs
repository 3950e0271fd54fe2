//! docs/plugins.md against what plugins meet: hooks, imports, limits that nobody sets, messages.

use presence_core::delivery::BREAKER_AFTER;
use presence_core::membership::CLEANUP_CHUNK;
use presence_core::retry::LONGEST_WISH;

use super::*;
use crate::guide::{PLUGINS, fits, names, pattern, tables};
use crate::plugins::messaging::{self, subjects};
use crate::plugins::{
    CompileError, Problem, admission, anatomy, compile, guest, http, keyvalue, limits, log, presence,
    problem, redact,
};
use crate::store::MAX_DEAD_LETTERS;

/// As people write it: `64 KiB`, `1,000 bytes`.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units
        .into_iter()
        .find(|(shift, _): &(u32, &str)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{} bytes", count(bytes)),
    }
}

/// With commas between thousands.
fn count(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", count(number / 1000), number % 1000),
    }
}

fn time(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

#[test]
fn its_hooks_are_those_of_the_contract() {
    let hooks: BTreeSet<String> = Hook::ALL.iter().map(Hook::to_string).collect();
    assert_eq!(names(&tables(PLUGINS, "## Hooks")[0]), hooks);
    use labels::{ABUSE, CLOSED, DRAINING, EXPIRED, FRESH_START, INSTANCE_LOST, TIMEOUT};
    for label in [CLOSED, TIMEOUT, EXPIRED, DRAINING, ABUSE, FRESH_START, INSTANCE_LOST] {
        assert!(PLUGINS.contains(&format!("`{label}`")), "{label}");
    }
}

#[test]
fn its_imports_are_those_that_are_admitted() {
    let ours = admission::IMPORTS.into_iter().chain(["wasi:http"]);
    let ours: BTreeSet<String> = ours.map(str::to_owned).collect();
    assert_eq!(names(&tables(PLUGINS, "## Imports")[0]), ours);
    let told = tables(PLUGINS, "### WASI");
    assert_eq!(told[0].len(), admission::WASI.len());
    for (row, (package, interfaces)) in told[0].iter().zip(admission::WASI) {
        let listed: Vec<String> = interfaces.iter().map(|interface| format!("`{interface}`")).collect();
        assert_eq!((&row[0], &row[1]), (&format!("`{package}`"), &listed.join(", ")));
    }
}

#[test]
fn its_limits_are_those_of_the_code() {
    let bytes = |bytes: usize| size(bytes as u64);
    let number = |number: usize| count(number as u64);
    let expected = [
        ("the file", size(problem::MAX_FILE_BYTES)),
        ("compiling it", time(compile::WALL_LIMIT)),
        ("compiling it, over all processors", format!("{} s", compile::CPU_LIMIT_SECONDS)),
        ("compiling it, address space", size(compile::ADDRESS_SPACE_LIMIT)),
        ("globals and functions of the modules, over all instances", size(anatomy::MAX_INSTANCE_BYTES)),
        ("core instances of a guest", number(limits::MAX_INSTANCES)),
        ("tables of a guest", number(limits::MAX_TABLES)),
        ("memories of a guest", number(limits::MAX_MEMORIES)),
        ("elements over all tables of a guest", number(limits::MAX_TABLE_ELEMENTS)),
        ("resources of a guest: requests, streams, pollables", number(guest::MAX_RESOURCES)),
        ("out of the guest in one host call, or as a hook's answer", bytes(guest::HOSTCALL_FUEL)),
        ("random bytes in one call", size(guest::MAX_RANDOM_BYTES)),
        ("calls of one guest", count(guest::MAX_CALLS.into())),
        ("an error text", bytes(guest::MAX_ERROR_BYTES)),
        ("a line in `limits.log`, beside its text", size(log::LINE_COST)),
        ("a line that is printed", bytes(log::MAX_LINE_BYTES)),
        ("requests of a guest at once, until their answers are read or dropped", number(http::MAX_AT_ONCE)),
        ("names of a plugin that are looked up at once", number(http::MAX_LOOKUPS)),
        ("opening a connection", time(http::CONNECT_TIMEOUT)),
        ("until an answer begins", time(http::FIRST_BYTE_TIMEOUT)),
        ("silence within an answer", time(http::BETWEEN_BYTES_TIMEOUT)),
        ("the head of an answer", bytes(http::READ_AHEAD_BYTES)),
        ("a request's body", bytes(http::MAX_REQUEST_BYTES)),
        ("an answer's body", bytes(http::MAX_RESPONSE_BYTES)),
        ("a piece of a request's body", bytes(http::CHUNK_BYTES)),
        ("a key", bytes(keyvalue::MAX_KEY_BYTES)),
        ("a value", bytes(keyvalue::MAX_VALUE_BYTES)),
        ("keys of a bucket", number(keyvalue::MAX_KEYS)),
        ("keys and values of a bucket in the file", bytes(keyvalue::MAX_BUCKET_BYTES)),
        ("keys of a page", number(keyvalue::PAGE_KEYS)),
        ("a subject", bytes(subjects::MAX_SUBJECT_BYTES)),
        ("a message's payload", bytes(messaging::MAX_PAYLOAD_BYTES)),
        ("headers of a message", number(messaging::MAX_HEADERS)),
        ("names and values of these headers", bytes(messaging::MAX_HEADER_BYTES)),
        ("users of one look-up", number(presence::MAX_USERS)),
        ("sessions of one `cleanup`", number(CLEANUP_CHUNK)),
        ("failures in a row before the breaker opens", BREAKER_AFTER.to_string()),
        ("a wish to be called later", format!("{LONGEST_WISH} times `max_backoff`")),
        ("dead letters of a deployment", number(MAX_DEAD_LETTERS)),
    ];
    let told = &tables(PLUGINS, "## Limits")[1];
    let told: Vec<(&str, &str)> = told.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let expected: Vec<(&str, &str)> = expected.iter().map(|(what, most)| (*what, most.as_str())).collect();
    assert_eq!(told, expected);
    for elsewhere in [
        format!("or {} calls", count(guest::MAX_CALLS.into())),
        format!("more than {CLEANUP_CHUNK} sessions come in several calls"),
        format!("after {BREAKER_AFTER} failures of the receiver in a row"),
        format!("at most {LONGEST_WISH} times `max_backoff`"),
        format!("shorter than {} bytes", redact::MIN_BYTES),
    ] {
        assert!(PLUGINS.contains(&elsewhere), "{elsewhere}");
    }
}

/// One of each kind, but for [`Problem::Host`], of which there is nothing more to say.
fn samples() -> Vec<Problem> {
    let text = || "such and such".to_owned();
    let error = || std::io::Error::other("such and such");
    vec![
        Problem::Unreadable(error()),
        Problem::TooLarge(1),
        Problem::Digest { expected: text(), found: text() },
        Problem::Empty,
        Problem::NotWasm,
        Problem::CoreModule,
        Problem::Compile(CompileError::Invalid(text())),
        Problem::Compile(CompileError::Died { status: text(), complaint: text() }),
        Problem::Compile(CompileError::TooSlow),
        Problem::Compile(CompileError::NotStarted { program: PathBuf::new(), error: error() }),
        Problem::Compile(CompileError::Files { path: PathBuf::new(), error: error() }),
        Problem::OwnResources,
        Problem::Unwieldy { mebibytes: 1, limit: 1 },
        Problem::UnknownImport(text()),
        Problem::ImportVersion { import: text(), ours: "0", remedy: "such" },
        Problem::ExportVersion { export: text(), ours: "0", remedy: "such" },
        Problem::UnknownExport(text()),
        Problem::NoHook(text()),
        Problem::IntervalWithoutTick,
        Problem::Link(text()),
        Problem::Types { export: text(), reason: text() },
        Problem::Start(text()),
        Problem::Configure(text()),
        Problem::Certificates(error()),
    ]
}

/// Where among the samples it is: a new kind has to have a place here before this compiles.
fn place(problem: &Problem) -> Option<usize> {
    Some(match problem {
        Problem::Unreadable(_) => 0,
        Problem::TooLarge(_) => 1,
        Problem::Digest { .. } => 2,
        Problem::Empty => 3,
        Problem::NotWasm => 4,
        Problem::CoreModule => 5,
        Problem::Compile(CompileError::Invalid(_)) => 6,
        Problem::Compile(CompileError::Died { .. }) => 7,
        Problem::Compile(CompileError::TooSlow) => 8,
        Problem::Compile(CompileError::NotStarted { .. }) => 9,
        Problem::Compile(CompileError::Files { .. }) => 10,
        Problem::OwnResources => 11,
        Problem::Unwieldy { .. } => 12,
        Problem::UnknownImport(_) => 13,
        Problem::ImportVersion { .. } => 14,
        Problem::ExportVersion { .. } => 15,
        Problem::UnknownExport(_) => 16,
        Problem::NoHook(_) => 17,
        Problem::IntervalWithoutTick => 18,
        Problem::Link(_) => 19,
        Problem::Types { .. } => 20,
        Problem::Start(_) => 21,
        Problem::Configure(_) => 22,
        Problem::Certificates(_) => 23,
        Problem::Host(_) => return None,
    })
}

#[test]
fn its_messages_at_load_are_those_of_the_code() {
    let told = &tables(PLUGINS, "## Errors")[0];
    let mut rows = BTreeSet::new();
    for (at, problem) in samples().iter().enumerate() {
        assert_eq!(place(problem), Some(at));
        let message = problem.to_string();
        let fitting: Vec<usize> =
            (0..told.len()).filter(|row| fits(pattern(&told[*row][0]), &message)).collect();
        assert_eq!(fitting.len(), 1, "{message}: {fitting:?}");
        rows.extend(fitting);
    }
    assert_eq!(rows.len(), told.len(), "no row is about what is not said any more");
    assert!(told.iter().all(|row| !row[1].is_empty()), "a remedy for each");
}

#[tokio::test]
async fn its_reasons_of_failed_calls_are_those_that_are_given() {
    let running = Running::zoo(&[("p", |settings| settings.delivery.attempts = 1)]).await;
    for user in ["spin", "huge", "grow", "keep"] {
        running.online(user, 1);
    }
    running.connected("wait", 1);
    running.outcomes(5).await;
    let told = &tables(PLUGINS, "## Errors")[1];
    let letters = running.letters.letters();
    assert_eq!(letters.len(), 5, "{letters:?}");
    for letter in letters.iter() {
        let fitting = told.iter().filter(|row| fits(pattern(&row[0]), &letter.error)).count();
        assert_eq!(fitting, 1, "{}", letter.error);
    }
}
