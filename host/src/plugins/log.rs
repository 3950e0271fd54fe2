//! What guests print and log, within a budget for each call, on its way to tracing. Knows no plugin but by name.
//!
//! Guests say what they like, so everything is bounded and made printable: nobody forges lines of the host's log.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

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

/// The output of one guest. Shared between the guest's streams and whoever calls the guest; used by one at a time.
pub struct CallLog {
    plugin: Arc<str>,
    budget: u64,
    left: AtomicU64,
    cut: AtomicU64,
    hook: AtomicU8,
    /// True when `partial` may hold something: spares the lock at the end of quiet calls.
    printed: AtomicBool,
    partial: Mutex<[Vec<u8>; 2]>,
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
            hook: AtomicU8::new(0),
            printed: AtomicBool::new(false),
            partial: Mutex::default(),
            tape: None,
        }
    }

    /// A call begins; none: the guest is being started.
    pub fn begin(&self, hook: Option<Hook>) {
        self.left.store(self.budget, Relaxed);
        self.cut.store(0, Relaxed);
        self.hook.store(hook.map_or(u8::MAX, |hook| hook as u8), Relaxed);
    }

    /// The call has ended: unfinished lines are written. Returns how many bytes were cut.
    pub fn end(&self) -> u64 {
        if self.printed.swap(false, Relaxed) {
            let [out, err] =
                std::mem::take(&mut *self.partial.lock().unwrap_or_else(PoisonError::into_inner));
            self.write_line(Stream::Out, &out);
            self.write_line(Stream::Err, &err);
        }
        self.cut.load(Relaxed)
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

    /// What a guest wrote to a stream: whole lines go out, the rest waits.
    pub fn print(&self, stream: Stream, bytes: &[u8]) {
        self.printed.store(true, Relaxed);
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let line = &mut partial[stream as usize];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MAX_LINE_BYTES) {
                let text = part.strip_suffix(b"\n").unwrap_or(part);
                if !self.afford(text.len() as u64 + LINE_COST) {
                    continue;
                }
                line.extend_from_slice(text);
                if text.len() < part.len() || line.len() >= MAX_LINE_BYTES {
                    self.write_line(stream, line);
                    line.clear();
                }
            }
        }
    }

    fn write_line(&self, stream: Stream, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(line);
        let (plugin, hook, text) = (&*self.plugin, self.hook_name(), Printable(&text));
        if let Some(tape) = &self.tape {
            let level = if stream == Stream::Out { "stdout" } else { "stderr" };
            tape.push(Entry::Log { level, text: text.to_string() });
            return;
        }
        match stream {
            Stream::Out => {
                tracing::info!(target: "presence::guest", plugin, hook, stream = "stdout", "{text}")
            }
            Stream::Err => {
                tracing::warn!(target: "presence::guest", plugin, hook, stream = "stderr", "{text}")
            }
        }
    }

    fn hook_name(&self) -> &'static str {
        let hook = usize::from(self.hook.load(Relaxed));
        Hook::ALL.get(hook).map_or("configure", |hook| hook.as_str())
    }

    fn entry(&self, level: log::Level, message: &str, fields: &[(String, String)]) {
        let texts = fields.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>();
        if !self.afford((message.len() + texts) as u64 + LINE_COST) {
            return;
        }
        let (plugin, hook, fields, message) =
            (&*self.plugin, self.hook_name(), Fields(fields), Printable(message));
        if let Some(tape) = &self.tape {
            tape.push(Entry::Log { level: name_of(level), text: format!("{message}{fields}") });
            return;
        }
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(target: "presence::guest", plugin, hook, "{message}{fields}")
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
        self.log.entry(level, &message, &fields);
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

    #[test]
    fn the_budget_is_for_one_call_and_what_is_cut_is_counted() {
        let log = CallLog::new("p".into(), 100);
        log.begin(Some(Hook::UserOnline));
        log.print(Stream::Out, &[b'x'; 80]);
        assert_eq!(log.end(), 0);
        log.begin(Some(Hook::UserIdle));
        log.print(Stream::Out, &[b'x'; 80]);
        log.print(Stream::Err, &[b'y'; 40]);
        log.entry(log::Level::Info, "message", &[]);
        assert_eq!(log.end(), 40 + LINE_COST + 7 + LINE_COST);
        log.begin(None);
        assert_eq!(log.end(), 0);
    }

    #[test]
    fn empty_lines_are_not_free() {
        let log = CallLog::new("p".into(), 10 * LINE_COST);
        log.begin(None);
        log.print(Stream::Out, &[b'\n'; 1000]);
        assert_eq!(log.end(), 990 * LINE_COST);
    }

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(Printable("a\nb\x1b[31mc\td").to_string(), "a\\nb\\u{1b}[31mc\td");
    }
}
