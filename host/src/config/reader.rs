//! Walks a parsed document with typed getters that collect errors instead of stopping at the first.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, values};

/// Values of variables shorter than this, in bytes, would be found in any message.
const MIN_HIDDEN_BYTES: usize = 4;

/// A file being read: its lines, its variables, its errors so far.
pub(super) struct Document<'e> {
    text: String,
    env: &'e dyn Fn(&str) -> Option<String>,
    errors: RefCell<Vec<ConfigError>>,
    /// Names and values of the variables that were put in: no error tells the value.
    brought: RefCell<Vec<(String, String)>>,
}

/// A value, or its default, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: T,
}

/// One table; whoever drops it has asked for every key that it may have.
pub(super) struct Table<'d, 'e> {
    document: &'d Document<'e>,
    /// With a dot at the end, or empty.
    prefix: String,
    line: usize,
    table: Option<&'d DeTable<'d>>,
    known: BTreeSet<String>,
}

/// The document of a text; none when it is no TOML.
pub(super) fn parse<'t>(document: &Document<'_>, text: &'t str) -> Option<Spanned<DeTable<'t>>> {
    let (parsed, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = error.span().map_or(0, |span| document.line(&span));
        document.push(line, String::new(), format!("is not TOML: {}", error.message().replace('\n', " ")));
    }
    errors.is_empty().then_some(parsed)
}

impl<'e> Document<'e> {
    pub(super) fn new(text: &str, env: &'e dyn Fn(&str) -> Option<String>) -> Document<'e> {
        Document { text: text.to_owned(), env, errors: RefCell::default(), brought: RefCell::default() }
    }

    pub(super) fn root<'d>(&'d self, parsed: &'d Spanned<DeTable<'d>>) -> Table<'d, 'e> {
        Table {
            document: self,
            prefix: String::new(),
            line: 1,
            table: Some(parsed.get_ref()),
            known: BTreeSet::new(),
        }
    }

    /// What was wrong, by line.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        let mut brought = self.brought.into_inner();
        brought.retain(|(_, value)| value.len() >= MIN_HIDDEN_BYTES);
        // The longest first: another one may be a part of it.
        brought.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        for error in &mut errors {
            for (name, value) in &brought {
                error.message = error.message.replace(value, &format!("${{{name}}}"));
            }
        }
        errors.sort_by(|one, other| (one.line, &one.key).cmp(&(other.line, &other.key)));
        errors
    }

    fn line(&self, span: &Range<usize>) -> usize {
        self.text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
    }

    fn push(&self, line: usize, key: String, message: String) {
        self.errors.borrow_mut().push(ConfigError { line, key, message });
    }
}

impl<'d, 'e> Table<'d, 'e> {
    /// One that is not there: every key has its default.
    pub(super) fn empty(document: &'d Document<'e>) -> Table<'d, 'e> {
        Table { document, prefix: String::new(), line: 0, table: None, known: BTreeSet::new() }
    }

    /// Something is wrong with a value.
    pub(super) fn wrong<T>(&self, found: &Found<T>, message: &str) {
        self.document.push(found.line, found.key.clone(), message.to_owned());
    }

    /// Something is wrong with the table as a whole, or with a key that is not there.
    pub(super) fn missing(&self, key: &str, message: &str) {
        self.document.push(self.line, format!("{}{key}", self.prefix), message.to_owned());
    }

    /// The value, whatever it is.
    pub(super) fn any(&mut self, key: &str) -> Option<Found<&'d DeValue<'d>>> {
        self.known.insert(key.to_owned());
        let value = self.table?.get(key)?;
        let line = self.document.line(&value.span());
        Some(Found { key: format!("{}{key}", self.prefix), line, value: value.get_ref() })
    }

    fn expect<T>(
        &mut self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'d DeValue<'d>) -> Option<T>,
    ) -> Option<Found<T>> {
        let found = self.any(key)?;
        match read(found.value) {
            Some(value) => Some(Found { key: found.key, line: found.line, value }),
            None => {
                let message = format!("must be {wanted}, not {}", found.value.type_str());
                self.wrong(&found, &message);
                None
            }
        }
    }

    /// A text, with its variables replaced.
    pub(super) fn string(&mut self, key: &str) -> Option<Found<String>> {
        let found = self.expect(key, "a text in quotes", |value| value.as_str())?;
        self.expanded(found)
    }

    /// A text as it is written, and with its variables replaced.
    pub(super) fn written(&mut self, key: &str) -> Option<(&'d str, Found<String>)> {
        let found = self.expect(key, "a text in quotes", |value| value.as_str())?;
        Some((found.value, self.expanded(found)?))
    }

    fn expanded(&self, found: Found<&str>) -> Option<Found<String>> {
        let mut brought = self.document.brought.borrow_mut();
        match values::expand(found.value, self.document.env, &mut brought) {
            Ok(value) => Some(Found { key: found.key, line: found.line, value }),
            Err(message) => {
                self.wrong(&found, &message);
                None
            }
        }
    }

    /// A list of texts.
    pub(super) fn strings(&mut self, key: &str) -> Vec<Found<String>> {
        let items = self.items(key);
        items.iter().filter_map(|item| self.item_text(item)).collect()
    }

    /// A text given as one item of a list.
    pub(super) fn item_text(&self, item: &Found<&'d DeValue<'d>>) -> Option<Found<String>> {
        match item.value.as_str() {
            Some(text) => self.expanded(Found { key: item.key.clone(), line: item.line, value: text }),
            None => {
                self.wrong(item, &format!("must be a text in quotes, not {}", item.value.type_str()));
                None
            }
        }
    }

    /// The items of a list.
    pub(super) fn items(&mut self, key: &str) -> Vec<Found<&'d DeValue<'d>>> {
        let Some(found) = self.expect(key, "a list in [ ]", |value| value.as_array()) else {
            return Vec::new();
        };
        let item = |(at, value): (usize, &'d Spanned<DeValue<'d>>)| Found {
            key: format!("{}[{at}]", found.key),
            line: self.document.line(&value.span()),
            value: value.get_ref(),
        };
        found.value.iter().enumerate().map(item).collect()
    }

    /// Yes or no.
    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.expect(key, "true or false", DeValue::as_bool).map_or(default, |found| found.value)
    }

    /// A whole number within a range.
    pub(super) fn integer(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(found) = self.expect(key, &wanted, DeValue::as_integer) else {
            return default;
        };
        let value = i64::from_str_radix(found.value.as_str(), found.value.radix()).ok();
        match value.filter(|value| range.contains(value)) {
            Some(value) => value,
            None => {
                self.wrong(&found, &format!("must be {wanted}, not {}", found.value.as_str()));
                default
            }
        }
    }

    /// A number from 0 to 1.
    pub(super) fn ratio(&mut self, key: &str, default: f64) -> f64 {
        const WANTED: &str = "a number from 0 to 1, such as 0.01";
        let number = |value: &DeValue<'_>| match value {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        let Some(found) = self.expect(key, WANTED, number) else {
            return default;
        };
        if (0.0..=1.0).contains(&found.value) {
            return found.value;
        }
        self.wrong(&found, &format!("must be {WANTED}, not {}", found.value));
        default
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        default: T,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Found<T> {
        let absent = Found { key: format!("{}{key}", self.prefix), line: self.line, value: default };
        let Some(found) = self.string(key) else {
            return absent;
        };
        match parse(&found.value) {
            Some(value) => Found { key: found.key, line: found.line, value },
            None => {
                self.wrong(&found, &format!("\"{}\" is not {wanted}", found.value));
                absent
            }
        }
    }

    /// Such as `"5s"`.
    pub(super) fn duration(&mut self, key: &str, default: Duration) -> Found<Duration> {
        self.parsed(key, default, "a duration; write for example \"5s\" or \"1m30s\"", values::duration)
    }

    /// Such as `"32MiB"`, in bytes.
    pub(super) fn size(&mut self, key: &str, default: u64) -> Found<u64> {
        self.parsed(key, default, "a size; write for example \"64KiB\" or \"32MiB\"", values::size)
    }

    /// The names of all keys, for a table whose author chooses them.
    pub(super) fn names(&self) -> Vec<String> {
        self.table.into_iter().flat_map(|table| table.keys()).map(|key| key.get_ref().to_string()).collect()
    }

    /// Everything in it as JSON.
    pub(super) fn all_json(&mut self) -> serde_json::Value {
        let names = self.names();
        let entries = names.into_iter().filter_map(|name| Some((name.clone(), self.json(&name)?.value)));
        serde_json::Value::Object(entries.collect())
    }

    /// Where it stands.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Whether the key, which may be there, is.
    pub(super) fn has(&mut self, key: &str) -> bool {
        self.known.insert(key.to_owned());
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Such as `"127.0.0.1:7070"`.
    pub(super) fn address(&mut self, key: &str, default: &str) -> Found<SocketAddr> {
        let default = default.parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
        let wanted = "an address with a port; write for example \"127.0.0.1:7070\" or \"[::]:7070\"";
        self.parsed(key, default, wanted, |text| text.parse().ok())
    }

    /// A table inside; an absent one has every default.
    pub(super) fn table(&mut self, key: &str) -> Table<'d, 'e> {
        let found = self.expect(key, "a table", |value| value.as_table());
        self.inside(key, found)
    }

    fn inside(&self, key: &str, found: Option<Found<&'d DeTable<'d>>>) -> Table<'d, 'e> {
        Table {
            document: self.document,
            prefix: format!("{}{key}.", self.prefix),
            line: found.as_ref().map_or(self.line, |found| found.line),
            table: found.map(|found| found.value),
            known: BTreeSet::new(),
        }
    }

    /// A list of tables, `[[key]]`.
    pub(super) fn tables(&mut self, key: &str) -> Vec<Table<'d, 'e>> {
        let items = self.items(key);
        let mut tables = Vec::new();
        for item in items {
            match item.value.as_table() {
                Some(table) => {
                    tables
                        .push(self.inside(key, Some(Found { key: item.key, line: item.line, value: table })));
                }
                None => self.wrong(&item, &format!("must be a table, written as [[{key}]]")),
            }
        }
        tables
    }

    /// A table given as one item of a list.
    pub(super) fn item_table(&self, item: &Found<&'d DeValue<'d>>) -> Option<Table<'d, 'e>> {
        let table = item.value.as_table()?;
        Some(Table {
            document: self.document,
            prefix: format!("{}.", item.key),
            line: item.line,
            table: Some(table),
            known: BTreeSet::new(),
        })
    }

    /// Any value as JSON, with variables replaced; dates become texts.
    pub(super) fn json(&mut self, key: &str) -> Option<Found<serde_json::Value>> {
        let found = self.any(key)?;
        let value = self.to_json(&found.key, found.line, found.value);
        Some(Found { key: found.key, line: found.line, value })
    }

    /// The same, and the values of those variables.
    pub(super) fn json_and_variables(&mut self, key: &str) -> Option<(serde_json::Value, Vec<String>)> {
        let before = self.document.brought.borrow().len();
        let found = self.json(key)?;
        let brought = self.document.brought.borrow();
        Some((found.value, brought[before..].iter().map(|(_, value)| value.clone()).collect()))
    }

    fn to_json(&self, key: &str, line: usize, value: &DeValue<'_>) -> serde_json::Value {
        use serde_json::Value;
        match value {
            DeValue::String(text) => {
                let found = Found { key: key.to_owned(), line, value: text.as_ref() };
                self.expanded(found).map_or(Value::Null, |found| Value::String(found.value))
            }
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                parsed.map_or(Value::Null, Value::from)
            }
            DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Value::Null, Value::from),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(date) => Value::String(date.to_string()),
            DeValue::Array(items) => {
                let item = |(at, item): (usize, &Spanned<DeValue<'_>>)| {
                    self.to_json(&format!("{key}[{at}]"), self.document.line(&item.span()), item.get_ref())
                };
                Value::Array(items.iter().enumerate().map(item).collect())
            }
            DeValue::Table(table) => {
                let entry = |(name, item): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                    let name = name.get_ref().to_string();
                    let line = self.document.line(&item.span());
                    let value = self.to_json(&format!("{key}.{name}"), line, item.get_ref());
                    (name, value)
                };
                Value::Object(table.iter().map(entry).collect())
            }
        }
    }
}

impl Drop for Table<'_, '_> {
    /// Keys that nobody asked for are mistakes.
    fn drop(&mut self) {
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let name = key.get_ref().as_ref();
            if self.known.contains(name) {
                continue;
            }
            let near = self.known.iter().map(|known| (strsim::damerau_levenshtein(known, name), known));
            let near = near.filter(|(distance, known)| *distance <= 1 + known.len() / 4).min();
            let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
            let message = match near {
                Some((_, known)) => format!("is not a key; did you mean `{known}`?"),
                None => format!("is not a key; there are {}", known.join(", ")),
            };
            self.document.push(self.document.line(&key.span()), format!("{}{name}", self.prefix), message);
        }
    }
}
