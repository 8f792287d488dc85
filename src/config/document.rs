//! A TOML document that is being read: its text, and every fault that was found so far. Reading does not stop at the first
//! fault. The tables are read by [`Section`](super::section::Section).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::{self, Unreplaced};
use super::fault::{Fault, Faults};
use super::syntax;

/// A document that is being read, with the faults found so far.
pub struct Document<'text> {
    file: String,
    text: &'text str,
    pub(super) root: Spanned<DeTable<'text>>,
    /// Where there are any, nothing else is reported: what the parser could not read would count as missing.
    syntax_faults: Vec<Fault>,
    faults: RefCell<Vec<Found>>,
    warnings: RefCell<Vec<Fault>>,
    /// Every key that was asked for, with its table's name: `listener.hold_max`.
    asked: RefCell<BTreeSet<String>>,
}

/// A fault other than one of the syntax.
struct Found {
    fault: Fault,
    /// The place of a table, and the name of the key that is missing there, if that is the fault.
    missing: Option<(usize, String)>,
}

impl<'text> Document<'text> {
    /// Parses `text` and replaces the environment variables in its strings. What could be parsed can be read in spite of
    /// syntax errors.
    pub fn parse(file: &str, text: &'text str) -> Document<'text> {
        let (mut root, errors) = DeTable::parse_recoverable(text);
        let mut unreplaced = Vec::new();
        replace_in_table(root.get_mut(), &mut unreplaced);
        let document = Document {
            file: file.to_owned(),
            text,
            root,
            syntax_faults: syntax::faults(text, &errors),
            faults: RefCell::default(),
            warnings: RefCell::default(),
            asked: RefCell::default(),
        };
        for (span, Unreplaced { message, hint }) in unreplaced {
            document.fault(Some(span), message, Some(hint));
        }
        document
    }

    /// Every key that was asked for so far, with its table's name: `listener.hold_max`.
    #[cfg(test)]
    pub fn keys_asked_for(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    /// Ends the reading. Returns the warnings, as text with file and line. Errors: all faults, in the order of their lines;
    /// if there are syntax errors, these alone.
    pub fn finish(self) -> Result<Vec<String>, Faults> {
        let mut list = self.syntax_faults;
        if list.is_empty() {
            list = self.faults.into_inner().into_iter().map(|found| found.fault).collect();
        }
        list.sort_by_key(|fault| fault.line);
        if !list.is_empty() {
            return Err(Faults { file: self.file, list });
        }
        let mut warnings = self.warnings.into_inner();
        warnings.sort_by_key(|warning| warning.line);
        let place = |line: Option<usize>| line.map_or_else(String::new, |line| format!(":{line}"));
        let text = |warning: Fault| format!("{}{}: {}", self.file, place(warning.line), warning.message);
        Ok(warnings.into_iter().map(text).collect())
    }

    /// Notes a fault of this part of the text, or of the whole file.
    pub(super) fn fault(&self, span: Option<Range<usize>>, message: String, hint: Option<String>) {
        let line = span.map(|span| self.line(span));
        self.faults.borrow_mut().push(Found { fault: Fault { line, message, hint }, missing: None });
    }

    /// Says of the newest fault that it is this key of the table at `place` that is missing.
    pub(super) fn newest_fault_is_missing_key(&self, place: usize, key: String) {
        if let Some(found) = self.faults.borrow_mut().last_mut() {
            found.missing = Some((place, key));
        }
    }

    /// Drops the faults that say that one of these keys is missing in the table at `place`.
    pub(super) fn drop_missing(&self, place: usize, keys: &[String]) {
        let is_meant = |(at, key): &(usize, String)| *at == place && keys.contains(key);
        self.faults.borrow_mut().retain(|found| !found.missing.as_ref().is_some_and(is_meant));
    }

    /// The number of faults so far.
    pub(super) fn fault_count(&self) -> usize {
        self.faults.borrow().len()
    }

    /// Notes something that pgvane can start with, but that the operator must know.
    pub(super) fn warn(&self, span: Range<usize>, message: String) {
        let line = Some(self.line(span));
        self.warnings.borrow_mut().push(Fault { line, message, hint: None });
    }

    /// Notes that a key was asked for.
    pub(super) fn note_asked(&self, key: String) {
        self.asked.borrow_mut().insert(key);
    }

    /// The number of the line in which this part of the text begins.
    pub(super) fn line(&self, span: Range<usize>) -> usize {
        self.text[..span.start.min(self.text.len())].matches('\n').count() + 1
    }
}

/// Replaces the environment variables in all strings of a table; its keys stay. What cannot be replaced stays as it is
/// and is added to `unreplaced`, with its place in the text.
fn replace_in_table(table: &mut DeTable<'_>, unreplaced: &mut Vec<(Range<usize>, Unreplaced)>) {
    for (_, value) in table.iter_mut() {
        replace_in_value(value, unreplaced);
    }
}

fn replace_in_value(value: &mut Spanned<DeValue<'_>>, unreplaced: &mut Vec<(Range<usize>, Unreplaced)>) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) => match environment::replace(text, |name| std::env::var(name).ok()) {
            Ok(None) => {}
            Ok(Some(replaced)) => *text = Cow::Owned(replaced),
            Err(problem) => unreplaced.push((span, problem)),
        },
        DeValue::Array(items) => items.iter_mut().for_each(|item| replace_in_value(item, unreplaced)),
        DeValue::Table(table) => replace_in_table(table, unreplaced),
        _ => {}
    }
}
