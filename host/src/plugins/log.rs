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

/// Each line costs so much beside its text: empty lines are not free.
const LINE_COST: u64 = 16;
/// A line longer than this, in bytes, is cut in pieces.
const MAX_LINE_BYTES: usize = 8 << 10;

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
    pub fn new(plugin: Arc<str>, budget: u64) -> CallLog {
        CallLog {
            plugin,
            budget,
            left: AtomicU64::new(budget),
            cut: AtomicU64::new(0),
            printed: AtomicBool::new(false),
            output: Mutex::default(),
            tape: None,
        }
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
            let Printed { partial: [out, err], .. } = std::mem::take(&mut *self.output());
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
                if text.len() < part.len() || line.len() >= MAX_LINE_BYTES {
                    lines.push((stream, std::mem::take(line)));
                }
            }
        }
    }

    fn write_lines(&self, caller: &Caller) {
        let lines = std::mem::take(&mut self.output().lines);
        lines.iter().for_each(|(stream, line)| self.write_line(caller, *stream, line));
    }

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
        let (plugin, fields, message) = (&*self.plugin, Fields(fields), Printable(message));
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

/// ` key=value` for each.
struct Fields<'a>(&'a [(String, String)]);

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| write!(f, " {}={}", Printable(key), Printable(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::transition;

    #[test]
    fn the_budget_is_for_one_call_and_what_is_cut_is_counted() {
        let (log, caller) = (CallLog::new("p".into(), 100), Caller::default());
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
        let log = CallLog::new("p".into(), 10 * LINE_COST);
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
}
