//! What guests print and log, within a budget for each call, on its way to tracing. Knows no plugin but by name.
//!
//! Guests say what they like, so everything is bounded and made printable: nobody forges lines of the host's log. What
//! they print waits until they log something or the call ends: only then is at hand what the call is about.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use presence_core::delivery::Payload;
use presence_core::events::Hook;

use super::bindings::log;
use super::guest::GuestState;
use super::local::tape::{Entry, Tape};
use super::redact::Redactor;

/// Each line costs so much beside its text: empty lines are not free.
pub(super) const LINE_COST: u64 = 16;
/// A line longer than this, in bytes, is cut in pieces.
pub(super) const MAX_LINE_BYTES: usize = 8 << 10;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a call is about, for the lines of its log. Its texts keep their memory from call to call.
#[derive(Debug, Default)]
pub struct Caller {
    hook: Option<Hook>,
    user: String,
    event_id: String,
}

impl Caller {
    /// A guest is being started.
    pub fn start(&mut self) {
        self.hook = None;
        self.user.clear();
        self.event_id.clear();
    }

    /// An event.
    pub fn set(&mut self, payload: &Payload, event_id: &str) {
        self.start();
        self.hook = Some(payload.hook());
        self.user.push_str(payload.user().map_or("", |user| user.as_str()));
        self.event_id.push_str(event_id);
    }

    fn hook(&self) -> &'static str {
        self.hook.map_or("configure", Hook::as_str)
    }

    fn user(&self) -> Option<&str> {
        Some(self.user.as_str()).filter(|user| !user.is_empty())
    }

    fn event_id(&self) -> Option<&str> {
        Some(self.event_id.as_str()).filter(|id| !id.is_empty())
    }
}

/// Lines on their way, and what is no line yet.
#[derive(Default)]
struct Printed {
    lines: Vec<(Stream, Vec<u8>)>,
    partial: [Vec<u8>; 2],
}

/// The output of one guest. Shared between the guest's streams and whoever calls the guest; used by one at a time.
pub struct CallLog {
    plugin: Arc<str>,
    redactor: Arc<Redactor>,
    budget: u64,
    left: AtomicU64,
    cut: AtomicU64,
    /// True when `output` may hold something: spares the lock at the end of quiet calls.
    printed: AtomicBool,
    output: Mutex<Printed>,
    /// In local runs, instead of tracing.
    pub(super) tape: Option<Arc<Tape>>,
}

impl CallLog {
    /// `budget`: bytes for each call.
    pub(super) fn new(plugin: Arc<str>, redactor: Arc<Redactor>, budget: u64) -> CallLog {
        CallLog {
            plugin,
            redactor,
            budget,
            left: AtomicU64::new(budget),
            cut: AtomicU64::new(0),
            printed: AtomicBool::new(false),
            output: Mutex::default(),
            tape: None,
        }
    }

    /// Takes secrets out of the guest's texts.
    pub(super) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// A call begins.
    pub fn begin(&self) {
        self.left.store(self.budget, Relaxed);
        self.cut.store(0, Relaxed);
    }

    /// The call has ended: what it printed is written, unfinished lines too. Returns how many bytes were cut.
    pub fn end(&self, caller: &Caller) -> u64 {
        if self.printed.load(Relaxed) {
            self.write_lines(caller);
            self.printed.store(false, Relaxed);
            let Printed { partial: [mut out, mut err], .. } = std::mem::take(&mut *self.output());
            self.redactor.bytes(&mut out);
            self.redactor.bytes(&mut err);
            self.write_line(caller, Stream::Out, &out);
            self.write_line(caller, Stream::Err, &err);
        }
        self.cut.load(Relaxed)
    }

    fn output(&self) -> MutexGuard<'_, Printed> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes out of the budget; what does not fit is counted as cut.
    fn afford(&self, bytes: u64) -> bool {
        let left = self.left.load(Relaxed);
        match left.checked_sub(bytes) {
            Some(rest) => {
                self.left.store(rest, Relaxed);
                true
            }
            None => {
                self.left.store(0, Relaxed);
                self.cut.fetch_add(bytes, Relaxed);
                false
            }
        }
    }

    /// What a guest wrote to a stream.
    pub fn print(&self, stream: Stream, bytes: &[u8]) {
        self.printed.store(true, Relaxed);
        let mut output = self.output();
        let Printed { lines, partial } = &mut *output;
        let line = &mut partial[stream as usize];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MAX_LINE_BYTES) {
                let text = part.strip_suffix(b"\n").unwrap_or(part);
                if !self.afford(text.len() as u64 + LINE_COST) {
                    continue;
                }
                line.extend_from_slice(text);
                let complete = text.len() < part.len();
                if complete || line.len() >= MAX_LINE_BYTES + self.redactor.longest() {
                    // What is not complete keeps an end that may be the beginning of a secret.
                    let open = self.redactor.bytes(line);
                    let end = if complete { line.len() } else { line.len().saturating_sub(open) };
                    let rest = line.split_off(end);
                    lines.push((stream, std::mem::replace(line, rest)));
                }
            }
        }
    }

    fn write_lines(&self, caller: &Caller) {
        let lines = std::mem::take(&mut self.output().lines);
        lines.iter().for_each(|(stream, line)| self.write_line(caller, *stream, line));
    }

    /// Writes a line that holds no secrets any more.
    fn write_line(&self, caller: &Caller, stream: Stream, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(line);
        let (plugin, text) = (&*self.plugin, Printable(&text));
        if let Some(tape) = &self.tape {
            let level = if stream == Stream::Out { "stdout" } else { "stderr" };
            tape.push(Entry::Log { level, text: text.to_string() });
            return;
        }
        let (hook, user, event_id) = (caller.hook(), caller.user(), caller.event_id());
        match stream {
            Stream::Out => {
                tracing::info!(target: "presence::guest", plugin, hook, user, event_id, stream = "stdout", "{text}")
            }
            Stream::Err => {
                tracing::warn!(target: "presence::guest", plugin, hook, user, event_id, stream = "stderr", "{text}")
            }
        }
    }

    fn entry(&self, caller: &Caller, level: log::Level, message: &str, fields: &[(String, String)]) {
        // In the order in which it was said.
        if self.printed.load(Relaxed) {
            self.write_lines(caller);
        }
        let texts = fields.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>();
        if !self.afford((message.len() + texts) as u64 + LINE_COST) {
            return;
        }
        let (plugin, fields) = (&*self.plugin, Fields(fields, &self.redactor));
        let message = Clean(message, &self.redactor);
        if let Some(tape) = &self.tape {
            tape.push(Entry::Log { level: name_of(level), text: format!("{message}{fields}") });
            return;
        }
        let (hook, user, event_id) = (caller.hook(), caller.user(), caller.event_id());
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(target: "presence::guest", plugin, hook, user, event_id, "{message}{fields}")
            };
        }
        match level {
            log::Level::Error => event!(error),
            log::Level::Warn => event!(warn),
            log::Level::Info => event!(info),
            log::Level::Debug => event!(debug),
            log::Level::Trace => event!(trace),
        }
    }
}

fn name_of(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "error",
        log::Level::Warn => "warn",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    }
}

impl log::Host for GuestState {
    fn log(&mut self, level: log::Level, message: String, fields: Vec<(String, String)>) {
        self.log.entry(&self.caller, level, &message, &fields);
    }
}

/// Text of strangers: control characters are escaped, so that it stays one line and moves no cursor.
pub(super) struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for character in self.0.chars() {
            if character.is_control() && character != '\t' {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Text of a plugin, without its secrets and made printable; nothing is done before somebody reads it.
struct Clean<'a>(&'a str, &'a Redactor);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.1.text(self.0)).fmt(f)
    }
}

/// ` key=value` for each.
struct Fields<'a>(&'a [(String, String)], &'a Redactor);

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fields(fields, redactor) = self;
        fields
            .iter()
            .try_for_each(|(key, value)| write!(f, " {}={}", Clean(key, redactor), Clean(value, redactor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::transition;

    #[test]
    fn the_budget_is_for_one_call_and_what_is_cut_is_counted() {
        let (log, caller) = (CallLog::new("p".into(), Arc::default(), 100), Caller::default());
        log.begin();
        log.print(Stream::Out, &[b'x'; 80]);
        assert_eq!(log.end(&caller), 0);
        log.begin();
        log.print(Stream::Out, &[b'x'; 80]);
        log.print(Stream::Err, &[b'y'; 40]);
        log.entry(&caller, log::Level::Info, "message", &[]);
        assert_eq!(log.end(&caller), 40 + LINE_COST + 7 + LINE_COST);
        log.begin();
        assert_eq!(log.end(&caller), 0);
    }

    #[test]
    fn empty_lines_are_not_free() {
        let log = CallLog::new("p".into(), Arc::default(), 10 * LINE_COST);
        log.begin();
        log.print(Stream::Out, &[b'\n'; 1000]);
        assert_eq!(log.end(&Caller::default()), 990 * LINE_COST);
    }

    #[test]
    fn lines_tell_what_the_call_is_about() {
        let mut caller = Caller::default();
        caller.set(&Payload::Status(transition("alice", 7).into()), "p:user-online:alice:7");
        let (user, event_id) = (Some("alice"), Some("p:user-online:alice:7"));
        assert_eq!((caller.hook(), caller.user(), caller.event_id()), ("user-online", user, event_id));
        caller.start();
        assert_eq!((caller.hook(), caller.user(), caller.event_id()), ("configure", None, None));
    }

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(Printable("a\nb\x1b[31mc\td").to_string(), "a\\nb\\u{1b}[31mc\td");
    }

    /// Everything that a log with this secret told.
    fn told(secret: &str, act: impl FnOnce(&CallLog)) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let log = CallLog::new("p".into(), Arc::new(Redactor::new([secret])), 1 << 20);
            log.begin();
            act(&log);
            log.end(&Caller::default());
        });
        let told = lines.0.lock().unwrap().clone();
        String::from_utf8(told).unwrap()
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn messages_and_fields_hold_no_secret() {
        let fields =
            [("key-s3cret".to_owned(), "a s3cret value".to_owned()), ("other".to_owned(), "x".to_owned())];
        let told = told("s3cret", |log| {
            log.entry(&Caller::default(), log::Level::Info, "the s3cret is s3cret", &fields)
        });
        assert!(
            told.contains("the [redacted] is [redacted] key-[redacted]=a [redacted] value other=x"),
            "{told}"
        );
    }

    #[test]
    fn printed_lines_hold_no_secret_wherever_they_are_cut() {
        let secret = "abcdefghij-secret";
        for before in MAX_LINE_BYTES - 20..MAX_LINE_BYTES + 4 {
            let text = format!("{}{secret}{}", "x".repeat(before), "y".repeat(100));
            let told = told(secret, |log| {
                text.as_bytes().chunks(7).for_each(|part| log.print(Stream::Out, part));
            });
            // A piece that is cut from the line may begin with the rest of what stands for the secret.
            let traces = told.matches("abcd").count() + told.matches("-secret").count();
            let printed = told.matches('x').count();
            assert!(traces == 0 && printed >= before, "{before}: {traces} {printed}");
        }
    }

    #[test]
    fn lines_without_an_end_hold_no_secret() {
        let told = told("s3cret", |log| {
            log.print(Stream::Err, b"s3c");
            log.print(Stream::Err, b"ret\nand s3cret");
        });
        assert!(!told.contains("s3cret") && told.matches("[redacted]").count() == 2, "{told}");
    }
}
