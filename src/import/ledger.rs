//! What becomes of each line of the file. A line that nobody claims is reported as dropped, so that none can be lost
//! in silence.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::lexer::Line;

/// The reason of a line for which there is no other.
const NO_COUNTERPART: &str = "pgvane has nothing like it";

/// The lines of one file, and what is known about each.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    file: String,
    entries: BTreeMap<usize, Entry>,
    /// Reasons to refuse the file, by line; 0 stands for the file as a whole.
    refusals: BTreeMap<usize, Vec<Refusal>>,
    /// What is said about the file as a whole.
    remarks: Vec<String>,
    /// Checks that do not ask for the role: reasons to refuse the file unless the user says who knows the roles.
    without_role: Vec<(usize, String)>,
    /// The number of refusals for which there is a proposal.
    proposed: usize,
    /// Reasons that hold if nothing else is said about a line.
    late: Vec<(usize, String)>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// The directive, without values that may be secret.
    label: String,
    unset: Vec<String>,
    /// A `${NAME}` that HAProxy does not expand, because it is not in double quotes.
    unexpanded: Option<String>,
    fate: Fate,
    notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Nobody has looked at it so far.
    Unclaimed,
    Used,
    Dropped(String),
}

/// Why the file is not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub why: String,
    pub hint: String,
}

impl Ledger {
    pub fn new(file: &str, lines: &[Line]) -> Ledger {
        let entry = |line: &Line| Entry {
            label: label(line),
            unset: line.unset.clone(),
            unexpanded: line.words.iter().find_map(|word| unexpanded(word)),
            fate: Fate::Unclaimed,
            notes: Vec::new(),
        };
        let entries = lines.iter().map(|line| (line.number, entry(line))).collect();
        Ledger { file: file.to_owned(), entries, ..Ledger::default() }
    }

    /// The line is part of the result.
    pub fn used(&mut self, line: usize) {
        if let Some(entry) = self.entries.get_mut(&line) {
            entry.fate = Fate::Used;
        }
    }

    /// An address is expanded also outside of quotes: its `${NAME}` is no fault.
    pub fn expands(&mut self, line: usize, unset: Vec<String>) {
        if let Some(entry) = self.entries.get_mut(&line) {
            entry.unexpanded = None;
            entry.unset.extend(unset);
        }
    }

    /// The line is not part of the result. A line that is used elsewhere stays used.
    pub fn dropped(&mut self, line: usize, why: impl Into<String>) {
        if let Some(entry) = self.entries.get_mut(&line).filter(|entry| entry.fate == Fate::Unclaimed) {
            entry.fate = Fate::Dropped(why.into());
        }
    }

    /// The line is not part of the result, if nobody has claimed it until now.
    pub fn dropped_at_last(&mut self, line: usize, why: &str) {
        self.late.push((line, why.to_owned()));
    }

    /// The line, or a part of it, means something else in pgvane.
    pub fn note(&mut self, line: usize, what: impl Into<String>) {
        let what = what.into();
        match self.entries.get_mut(&line) {
            Some(entry) if entry.notes.contains(&what) => {}
            Some(entry) => entry.notes.push(what),
            None => self.remark(what),
        }
    }

    /// Something about the file as a whole.
    pub fn remark(&mut self, what: impl Into<String>) {
        let what = what.into();
        if !self.remarks.contains(&what) {
            self.remarks.push(what);
        }
    }

    /// The file cannot be imported because of this line; 0 for the file as a whole.
    pub fn refuse(&mut self, line: usize, why: impl Into<String>, hint: impl Into<String>) {
        let refusal = Refusal { why: why.into(), hint: hint.into() };
        let all = self.refusals.entry(line).or_default();
        if !all.contains(&refusal) {
            all.push(refusal);
        }
    }

    /// The check at this line does not ask for the role.
    pub fn no_role(&mut self, line: usize, why: String) {
        self.without_role.push((line, why));
    }

    pub fn has_checks_without_role(&self) -> bool {
        !self.without_role.is_empty()
    }

    /// The user has said who knows the roles: checks without a role are notes.
    pub fn roles_are_known(&mut self, how: &str) {
        for (line, why) in std::mem::take(&mut self.without_role) {
            self.used(line);
            self.note(line, format!("{why}; {how}"));
        }
    }

    /// Nobody has said it: they are reasons to refuse the file.
    pub fn roles_are_unknown(&mut self, hint: &str) {
        for (line, why) in std::mem::take(&mut self.without_role) {
            self.propose(line, why, hint);
        }
    }

    /// Adds what follows from a check without a role.
    pub fn explain_role(&mut self, line: usize, what: &str) {
        for (_, why) in self.without_role.iter_mut().filter(|(place, _)| *place == line) {
            *why = format!("{why}; {what}");
        }
    }

    /// Refuses the file for lines that are used although HAProxy took a variable for empty, or did not expand it.
    pub fn check_variables(&mut self) {
        let mut found = Vec::new();
        for (line, entry) in self.entries.iter().filter(|(_, entry)| entry.fate == Fate::Used) {
            for name in &entry.unset {
                found.push((
                    *line,
                    format!("{}: the environment variable {name} is not set: HAProxy takes it for empty", entry.label),
                    format!("set {name} as HAProxy's service does, and import again"),
                ));
            }
            if let Some(text) = &entry.unexpanded {
                found.push((
                    *line,
                    format!(
                        "{}: HAProxy expands {text} in double quotes only, and takes it for these characters here",
                        entry.label
                    ),
                    "write the value, or put the word in double quotes".to_owned(),
                ));
            }
        }
        for (line, why, hint) in found {
            self.refuse(line, why, hint);
        }
    }

    /// The file cannot be imported because of this line, but there is a proposal of what may be meant.
    pub fn propose(&mut self, line: usize, why: impl Into<String>, hint: impl Into<String>) {
        let before = self.count();
        self.refuse(line, why, hint);
        self.proposed += self.count() - before;
    }

    /// Whether there is a proposal for every reason to refuse the file.
    pub fn has_proposals_only(&self) -> bool {
        self.count() == self.proposed
    }

    fn count(&self) -> usize {
        self.refusals.values().map(Vec::len).sum()
    }

    pub fn is_refused(&self) -> bool {
        !self.refusals.is_empty()
    }

    /// What was dropped and what changes, in the order of the lines.
    pub fn report(&self) -> String {
        let mut report = String::new();
        let (mut used, mut dropped, mut notes) = (0, 0, 0);
        for (line, entry) in &self.entries {
            let place = format!("{}:{line}", self.file);
            match &entry.fate {
                Fate::Used => used += 1,
                Fate::Dropped(why) => {
                    dropped += 1;
                    push(&mut report, &format!("{place}: dropped: {}: {why}", entry.label));
                }
                Fate::Unclaimed => {
                    dropped += 1;
                    let why = self.late.iter().find(|(late, _)| late == line).map_or(NO_COUNTERPART, |(_, why)| why);
                    push(&mut report, &format!("{place}: dropped: {}: {why}", entry.label));
                }
            }
            for note in &entry.notes {
                notes += 1;
                push(&mut report, &format!("{place}: note: {note}"));
            }
        }
        for remark in &self.remarks {
            push(&mut report, &format!("{}: note: {remark}", self.file));
        }
        let total = self.entries.len();
        push(&mut report, &format!("{}: {total} lines: {used} used, {dropped} dropped, {notes} notes", self.file));
        report
    }

    /// Why the file is refused, with all reasons.
    pub fn refusal(&self) -> String {
        let mut report = String::new();
        for (line, refusals) in &self.refusals {
            let place = if *line == 0 { self.file.clone() } else { format!("{}:{line}", self.file) };
            for refusal in refusals {
                push(&mut report, &format!("{place}: {}", refusal.why));
                if !refusal.hint.is_empty() {
                    push(&mut report, &format!("  hint: {}", refusal.hint));
                }
            }
        }
        let count = self.count();
        let reasons = if count == 1 { "1 reason" } else { &format!("{count} reasons") };
        push(&mut report, &format!("{}: not imported ({reasons})", self.file));
        report
    }

    /// The lines that are neither used nor reported. Always empty: this is what the tests hold against.
    #[cfg(test)]
    pub fn unreported(&self, report: &str) -> Vec<usize> {
        let is_reported = |line: &usize| report.contains(&format!("{}:{line}: dropped: ", self.file));
        let unused = self.entries.iter().filter(|(_, entry)| entry.fate != Fate::Used);
        unused.map(|(line, _)| *line).filter(|line| !is_reported(line)).collect()
    }
}

/// Adds one line. Control characters of the file do not reach the terminal.
fn push(report: &mut String, text: &str) {
    let visible: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(report, "{visible}");
}

/// The directive and, where they cannot be secrets, its values.
fn label(line: &Line) -> String {
    const WITH_SECOND: [&str; 23] = [
        "option",
        "timeout",
        "stats",
        "tcp-request",
        "tcp-response",
        "http-request",
        "http-response",
        "http-check",
        "tcp-check",
        "balance",
        "mode",
        "acl",
        "server",
        "server-template",
        "use_backend",
        "default_backend",
        "bind",
        "presetenv",
        "setenv",
        "listen",
        "frontend",
        "backend",
        "no",
    ];
    const WITH_ALL: [&str; 14] = [
        "timeout",
        "balance",
        "mode",
        "maxconn",
        "retries",
        "default_backend",
        "listen",
        "frontend",
        "backend",
        "nbthread",
        "nbproc",
        "bind",
        "defaults",
        "hold",
    ];
    let first = line.word(0);
    if WITH_ALL.contains(&first) || (first == "option" && line.word(1) != "httpchk") {
        return line.words.join(" ");
    }
    match line.word(1) {
        second if WITH_SECOND.contains(&first) && !second.is_empty() => format!("{first} {second}"),
        _ => first.to_owned(),
    }
}

/// The first `${NAME}` or `$NAME` in a word.
fn unexpanded(word: &str) -> Option<String> {
    word.match_indices('$').find_map(|(at, _)| {
        let rest = &word[at + 1..];
        let name = rest.strip_prefix('{').unwrap_or(rest);
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let end = if rest.starts_with('{') {
            rest.find('}')? + 1
        } else {
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len())
        };
        is_name.then(|| format!("${}", &rest[..end]))
    })
}
