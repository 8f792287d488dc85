//! Reads one table of a document, key by key: a typed value, or a fault with its line and a hint.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::{foreign_words, units};
use crate::net::Bind;

const DAY: Duration = Duration::from_secs(86_400);

/// Durations from `ms` to a day.
pub(super) const fn at_least_ms(ms: u64) -> Range<Duration> {
    Duration::from_millis(ms)..DAY
}

/// One table. Remembers which keys were asked for, so that all other keys can be reported as unknown.
pub struct Section<'d> {
    document: &'d Document<'d>,
    path: String,
    table: &'d DeTable<'d>,
    span: Range<usize>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'d> Section<'d> {
    /// The top-level table of a document.
    pub fn root(document: &'d Document<'d>) -> Section<'d> {
        Section::new(document, String::new(), document.root.get_ref(), document.root.span())
    }

    fn new(document: &'d Document<'d>, path: String, table: &'d DeTable<'d>, span: Range<usize>) -> Section<'d> {
        Section { document, path, table, span, known: RefCell::new(BTreeSet::new()) }
    }

    /// Reports a fault of this table as a whole.
    pub fn fault(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.document.fault(Some(self.span.clone()), message.into(), Some(hint.into()));
    }

    /// Reports that a key is missing, unless an unknown key of this table turns out to be what was meant.
    pub fn missing(&self, key: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.mark_known(key);
        self.fault(message, hint);
        self.document.newest_fault_is_missing_key(self.span.start, self.named(key));
    }

    /// Reports a fault of one key's value, or of the table if the key is absent.
    pub fn fault_at(&self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.fault_in(self.span_of(key), message, hint);
    }

    /// Reports a fault of this part of the text.
    pub fn fault_in(&self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.document.fault(Some(span), message.into(), Some(hint.into()));
    }

    /// Reports something at one key's value that pgvane can start with, but that the operator must know.
    pub fn warn_at(&self, key: &str, message: String) {
        self.document.warn(self.span_of(key), message);
    }

    /// The part of the text that has one key's value, or the table if the key is absent.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// The number of faults in the whole document so far.
    pub fn fault_count(&self) -> usize {
        self.document.fault_count()
    }

    /// Whether the file has this key.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the file has this key with this string as its value.
    pub fn is_string(&self, key: &str, text: &str) -> bool {
        let found = self.table.get(key);
        found.is_some_and(|value| matches!(value.get_ref(), DeValue::String(found) if found.as_ref() == text))
    }

    /// The string that the file has at this key, whether the key is known or not; `None` if there is none.
    pub fn text(&self, key: &str) -> Option<String> {
        match self.table.get(key)?.get_ref() {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            _ => None,
        }
    }

    /// Marks a key as known, so that it is not reported as unknown.
    pub fn mark_known(&self, key: &'static str) {
        self.known.borrow_mut().insert(key);
        self.document.note_asked(self.named(key));
    }

    fn value(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.mark_known(key);
        self.table.get(key)
    }

    /// The table's name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A key's name with the name of its table in front.
    pub fn named(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong_kind<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Option<T> {
        let message = format!("{} must be {wanted}, but it is {}", self.named(key), kind_of(value.get_ref()));
        self.document.fault(Some(value.span()), message, None);
        None
    }

    fn bad_value<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, problem: &str, hint: String) -> Option<T> {
        self.document.fault(Some(value.span()), format!("{}: {problem}", self.named(key)), Some(hint));
        None
    }

    /// A string.
    pub fn string(&self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            _ => self.wrong_kind(key, value, "a string in quotes"),
        }
    }

    /// A string that must be there and must not be empty.
    pub fn required_string(&self, key: &'static str, hint: &str) -> Option<String> {
        if !self.has(key) {
            self.missing(key, format!("{} is missing", self.named(key)), hint);
            return None;
        }
        let text = self.string(key)?;
        if text.trim().is_empty() {
            self.fault_at(key, format!("{} is empty", self.named(key)), hint);
            return None;
        }
        Some(text)
    }

    /// True or false.
    pub fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(yes) => Some(*yes),
            _ => self.wrong_kind(key, value, "true or false"),
        }
    }

    /// A whole number within `bounds`.
    pub fn integer(&self, key: &'static str, bounds: Range<u64>) -> Option<u64> {
        let value = self.value(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            return self.wrong_kind(key, value, "a whole number");
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if bounds.contains(&number) => Some(number),
            _ => {
                let hint = format!("write a number from {} to {}", bounds.start, bounds.end - 1);
                self.bad_value(key, value, &format!("{} is out of range", number.as_str()), hint)
            }
        }
    }

    /// A duration with its unit, within `bounds`.
    pub fn duration(&self, key: &'static str, bounds: Range<Duration>) -> Option<Duration> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => {
                let hint = format!("write {key} = \"{}s\", or use another unit: us, ms, min, h or d", number.as_str());
                return self.bad_value(key, value, "the unit of the duration is missing", hint);
            }
            _ => return self.wrong_kind(key, value, "a duration such as \"10s\""),
        };
        match units::duration(text) {
            Ok(duration) if bounds.contains(&duration) => Some(duration),
            Ok(_) => {
                let hint = format!("write a duration of at least {:?} and less than {:?}", bounds.start, bounds.end);
                self.bad_value(key, value, &format!("\"{text}\" is out of range"), hint)
            }
            Err(hint) => self.bad_value(key, value, &format!("\"{text}\" is not a duration"), hint),
        }
    }

    /// A size with its unit, in bytes.
    pub fn size_bytes(&self, key: &'static str) -> Option<u64> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => {
                let hint = format!("write {key} = \"{}B\", or use another unit: kB, MB, GB or TB", number.as_str());
                return self.bad_value(key, value, "the unit of the size is missing", hint);
            }
            _ => return self.wrong_kind(key, value, "a size with a unit such as \"64MB\""),
        };
        match units::size_bytes(text) {
            Ok(size) => Some(size),
            Err(hint) => self.bad_value(key, value, &format!("\"{text}\" is not a size"), hint),
        }
    }

    /// One of several values.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.value(key)?;
        let DeValue::String(text) = value.get_ref() else {
            return self.wrong_kind(key, value, "a string in quotes");
        };
        let found = choices.iter().find(|(name, _)| *name == text.as_ref());
        found.map(|(_, choice)| *choice).or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let message = format!("{}: unknown value \"{text}\": expected {}", self.named(key), alternatives(&names));
            let hint = match foreign_words::value(key, text, &names) {
                Some(own) => Some(format!("write \"{own}\"")),
                None => closest(text, &names).map(|name| format!("did you mean \"{name}\"?")),
            };
            self.document.fault(Some(value.span()), message, hint);
            None
        })
    }

    /// A list of strings; empty if the key is absent.
    pub fn strings(&self, key: &'static str) -> Vec<String> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            return self.wrong_kind(key, value, "a list of strings, [\"…\", \"…\"]").unwrap_or_default();
        };
        let text = |item: &'d Spanned<DeValue<'d>>| match item.get_ref() {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            _ => self.wrong_kind(key, item, "a list of strings, [\"…\", \"…\"]"),
        };
        items.iter().filter_map(text).collect()
    }

    /// A table with any keys, whose values are strings; empty if the key is absent.
    pub fn string_map(&self, key: &'static str) -> BTreeMap<String, String> {
        let Some(value) = self.value(key) else { return BTreeMap::new() };
        let DeValue::Table(table) = value.get_ref() else {
            return self.wrong_kind(key, value, "a table, { name = \"value\" }").unwrap_or_default();
        };
        let pair = |(name, item): (&'d Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let name: &Cow<'d, str> = name.get_ref();
            match item.get_ref() {
                DeValue::String(text) => Some((name.as_ref().to_owned(), text.as_ref().to_owned())),
                DeValue::Boolean(truth) => Some((name.as_ref().to_owned(), truth.to_string())),
                DeValue::Integer(number) => Some((name.as_ref().to_owned(), number.as_str().to_owned())),
                _ => self.wrong_kind(key, item, "a table of strings, { name = \"value\" }"),
            }
        };
        table.iter().filter_map(pair).collect()
    }

    /// Where to listen: one address.
    pub fn bind(&self, key: &'static str) -> Option<Bind> {
        let value = self.value(key)?;
        self.bind_of(key, value, "an address such as \"0.0.0.0:6432\"")
    }

    /// Where to listen: one address, or a list of them. Empty if the key is absent or has a fault.
    pub fn binds(&self, key: &'static str) -> Vec<Bind> {
        const WANTED: &str = "an address such as \"0.0.0.0:6432\", or a list of addresses";
        let Some(value) = self.value(key) else { return Vec::new() };
        let bind = |item| self.bind_of(key, item, WANTED);
        match value.get_ref() {
            DeValue::Array(items) if items.is_empty() => {
                let hint = "write an address to listen on, for example bind = \"0.0.0.0:6432\"";
                self.bad_value(key, value, "the list is empty", hint.to_owned()).unwrap_or_default()
            }
            // one that is faulty must not hide behind the others
            DeValue::Array(items) => {
                let read: Vec<Option<Bind>> = items.iter().map(bind).collect(); // all, so that every fault is reported
                read.into_iter().collect::<Option<_>>().unwrap_or_default()
            }
            _ => bind(value).into_iter().collect(),
        }
    }

    fn bind_of(&self, key: &'static str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Option<Bind> {
        let DeValue::String(text) = value.get_ref() else { return self.wrong_kind(key, value, wanted) };
        match Bind::parse(text) {
            Ok(bind) => Some(bind),
            Err(hint) => self.bad_value(key, value, &format!("\"{text}\" is not an address to listen on"), hint),
        }
    }

    /// A list of strings that must not be empty if it is there; empty if the key is absent.
    pub fn names(&self, key: &'static str, hint: &str) -> Vec<String> {
        let names = self.strings(key);
        let is_a_list = self.table.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::Array(_)));
        if is_a_list && names.is_empty() {
            self.fault_at(key, format!("{} is empty: no client could connect", self.named(key)), hint);
        }
        names
    }

    /// The tables of an array of tables; none if the key is absent.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let wanted = format!("an array of tables, [[{}]]", self.named(key));
            return self.wrong_kind(key, value, &wanted).unwrap_or_default();
        };
        let section = |item: &'d Spanned<DeValue<'d>>| match item.get_ref() {
            DeValue::Table(table) => Some(Section::new(self.document, self.named(key), table, item.span())),
            _ => self.wrong_kind(key, item, "an array of tables"),
        };
        items.iter().filter_map(section).collect()
    }

    /// A table; `None` if the key is absent.
    pub fn section(&self, key: &'static str) -> Option<Section<'d>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::new(self.document, self.named(key), table, value.span())),
            _ => self.wrong_kind(key, value, &format!("a table, [{}]", self.named(key))),
        }
    }

    /// A table, for a key that also takes a string; `None` if the key is absent or its value is not a table.
    pub fn section_if_table(&self, key: &'static str) -> Option<Section<'d>> {
        let is_table = self.table.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_)));
        if is_table { self.section(key) } else { None }
    }

    /// Reports every key that was not asked for as unknown.
    pub fn finish(self) {
        let known: Vec<&str> = self.known.borrow().iter().copied().collect();
        let mut meant: Vec<String> = Vec::new();
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
            let (own, hint) = match (foreign_words::key(&self.path, name), closest(name, &known)) {
                (Some((own, hint)), _) => (own.map(str::to_owned), hint),
                (None, Some(known)) => (Some(self.named(known)), format!("did you mean \"{known}\"?")),
                (None, None) => (None, format!("known keys: {}", known.join(", "))),
            };
            meant.extend(own);
            self.document.fault(Some(key.span()), format!("unknown key \"{name}\"{place}"), Some(hint));
        }
        self.document.drop_missing(self.span.start, &meant);
    }
}

/// The name that was probably meant.
fn closest<'n>(typed: &str, names: &[&'n str]) -> Option<&'n str> {
    let similarity = |name: &str| strsim::jaro_winkler(typed, name);
    let best = names.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(best) > 0.8).then_some(best)
}

/// `a, b or c`.
fn alternatives(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Sets `setting` to what the file gives. If the file gives nothing, the default stays.
pub(super) fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *setting = given;
    }
}

/// Reports names that occur twice.
pub(super) fn distinct(section: &Section<'_>, what: &str, names: &[impl PartialEq + Display]) {
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            section.fault_at(what, format!("{what} \"{name}\" is given twice"), "each entry needs a different one");
        }
    }
}
