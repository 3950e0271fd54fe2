//! What happened in a local run, in order: what the guest logged, what it asked of the host and what it was answered.
//! Knows neither WebAssembly nor scenarios.

use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// So many entries are kept of one call: a guest may log a million lines.
const MAX_ENTRIES: usize = 10_000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A line of the import `log`, or of standard output (`stdout`) or error (`stderr`).
    Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, `stdout` or `stderr`.
        level: &'static str,
        /// The message, and behind it ` key=value` for each field.
        text: String,
    },
    /// A call of the host.
    Call(HostCall),
    /// Something was denied, and what would allow it.
    Denied {
        /// Such as `a request to http://profiles`.
        what: String,
        /// The line of `[plugin.grants]`.
        line: String,
    },
}

/// A call of the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostCall {
    /// The import and its function, as in `keyvalue increment`.
    pub name: &'static str,
    /// The arguments in words, as in `seen alice 1`.
    pub words: String,
    /// The answer in words, as in `4`.
    pub answer: String,
    /// Everything, for programs.
    pub details: Value,
}

impl HostCall {
    /// One line for people and scenarios: `keyvalue increment seen alice 1 -> 4`.
    pub fn line(&self) -> String {
        let space = if self.words.is_empty() { "" } else { " " };
        format!("{}{space}{} -> {}", self.name, self.words, self.answer)
    }
}

impl Entry {
    /// For programs.
    pub fn to_json(&self) -> Value {
        match self {
            Entry::Log { level, text } => json!({ "log": { "level": level, "text": text } }),
            Entry::Denied { what, line } => json!({ "denied": { "what": what, "grant": line } }),
            Entry::Call(call) => json!({
                "call": call.name, "line": call.line(), "details": call.details,
            }),
        }
    }
}

/// Shared by all that a guest can call.
#[derive(Debug, Default)]
pub struct Tape(Mutex<Vec<Entry>>);

impl Tape {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an entry behind the others; beyond 10,000 nothing.
    pub fn push(&self, entry: Entry) {
        let mut entries = self.entries();
        if entries.len() < MAX_ENTRIES {
            entries.push(entry);
        }
    }

    /// A call that has ended.
    pub fn call(&self, name: &'static str, words: String, answer: String, details: Value) {
        self.push(Entry::Call(HostCall { name, words, answer, details }));
    }

    /// Takes what there is.
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.entries())
    }
}

/// Words of a line, those with blanks or nothing in them quoted.
pub fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        let plain = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
        _ = if plain { write!(line, "{word}") } else { write!(line, "{word:?}") };
    }
    line
}

/// Bytes as a text, or, if they are none, in hexadecimal digits behind `0x`.
pub fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("0x{}", crate::plugins::cache::hex(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_one_line() {
        let tape = Tape::default();
        tape.call("keyvalue get", words(["seen", "a b", ""]), "nothing".into(), Value::Null);
        let [Entry::Call(call)] = &tape.take()[..] else { panic!("one call") };
        assert_eq!(call.line(), "keyvalue get seen \"a b\" \"\" -> nothing");
        assert_eq!(tape.take(), []);
    }

    #[test]
    fn a_tape_ends_somewhere() {
        let tape = Tape::default();
        for _ in 0..MAX_ENTRIES + 5 {
            tape.push(Entry::Log { level: "info", text: String::new() });
        }
        assert_eq!(tape.take().len(), MAX_ENTRIES);
    }

    #[test]
    fn bytes_are_shown_as_text_where_they_are_text() {
        assert_eq!((text_of(b"4"), text_of(&[0xff, 0])), ("4".into(), "0xff00".into()));
    }
}
