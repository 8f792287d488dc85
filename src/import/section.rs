//! From the bytes of a file to its sections: which lines hold, to which section each belongs, and from which `defaults`
//! a section inherits.

use std::collections::BTreeMap;

use super::condition::Blocks;
use super::keywords;
use super::ledger::Ledger;
use super::lexer::{self, Environment, Line};

/// What a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Global,
    Defaults,
    Listen,
    Frontend,
    Backend,
    /// `resolvers`, `peers`, `userlist` and others, of which pgvane uses nothing.
    Other,
}

/// One section of the file.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub kind: Kind,
    pub name: String,
    /// The line that begins it.
    pub line: usize,
    /// Its other lines.
    pub lines: Vec<Line>,
    /// The `defaults` that it inherits from: a place in the list of sections.
    pub defaults: Option<usize>,
}

/// A whole file.
pub(super) struct File {
    pub sections: Vec<Section>,
    pub environment: Environment,
}

/// Sections of which pgvane uses nothing, with the reason.
const OTHERS: &[(&str, &str)] = &[
    ("resolvers", "pgvane asks the system's resolver, at each connect"),
    ("peers", "pgvane keeps no tables that could be shared"),
    ("userlist", "pgvane has its own users in [admin]"),
    ("mailers", "pgvane sends no mail: use the alerts in prometheus-alerts.yml"),
    ("program", "pgvane starts no programs"),
    ("cache", "it is for HTTP"),
    ("ring", "pgvane writes its log to standard error"),
    ("log-forward", "pgvane forwards no logs"),
    ("log-profile", "pgvane writes its log to standard error"),
    ("http-errors", "it is for HTTP"),
    ("fcgi-app", "it is for HTTP"),
    ("crt-list", "pgvane reads certificates from the files of [listener.tls]"),
    ("crt-store", "pgvane reads certificates from the files of [listener.tls]"),
    ("acme", "pgvane requests no certificates"),
    ("traces", "pgvane has levels of [log] instead"),
    ("snmp", "pgvane has /metrics instead"),
];

/// Reads a file. What cannot be read is a reason to refuse it.
pub(super) fn read(name: &str, bytes: &[u8], variables: &BTreeMap<String, String>) -> (File, Ledger) {
    let mut environment = Environment::new(variables);
    let mut blocks = Blocks::default();
    let (mut lines, mut inactive, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let mut is_global = false;
    for (number, bytes) in numbered(bytes) {
        if let Some(position) = bytes.iter().position(|byte| *byte == 0) {
            faults.push((number, format!("a NUL byte at position {}: HAProxy refuses the file", position + 1)));
            continue;
        }
        let line = match lexer::line(number, bytes, &environment) {
            Ok(Some(line)) => line,
            Ok(None) => continue,
            Err(unreadable) => {
                faults.push((number, unreadable.why));
                continue;
            }
        };
        if line.word(0).starts_with('.') {
            if let Err(why) = blocks.follow(&line, &environment) {
                faults.push((number, why));
            }
            lines.push(line);
        } else if blocks.hold() {
            if kind_of(line.word(0)).is_some() {
                is_global = line.word(0) == "global";
            } else if is_global {
                environment.follow(&line);
            }
            lines.push(line);
        } else {
            inactive.push(line);
        }
    }
    let all: Vec<Line> = lines.iter().chain(&inactive).cloned().collect();
    let mut ledger = Ledger::new(name, &all);
    for line in &inactive {
        ledger.dropped(line.number, "the condition of its .if does not hold");
    }
    for (line, why) in faults {
        ledger.refuse(line, why, "correct the line; haproxy -c must accept the file");
    }
    if let Some(line) = blocks.unclosed() {
        ledger.refuse(line, ".if without .endif: HAProxy refuses the file", "add the .endif");
    }
    refuse_cut_off(bytes, &mut ledger);
    for line in &all {
        refuse_markers(line, &mut ledger);
    }
    let sections = divide(lines, &mut ledger);
    (File { sections, environment }, ledger)
}

fn numbered(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes.split(|byte| *byte == b'\n').enumerate().map(|(place, line)| (place + 1, line))
}

fn refuse_cut_off(bytes: &[u8], ledger: &mut Ledger) {
    if !bytes.is_empty() && bytes.last() != Some(&b'\n') {
        let last = bytes.split(|byte| *byte == b'\n').count();
        ledger.refuse(
            last,
            "the last line has no line end: the file may be cut off, and HAProxy refuses it too (\"Missing LF on last line\")",
            "compare the file with the original; if it is whole, add a line end",
        );
    }
}

/// Places that a template should have filled in. HAProxy takes them for text.
fn refuse_markers(line: &Line, ledger: &mut Ledger) {
    const PAIRS: [(&str, &str); 4] = [("{{", "}}"), ("{% ", "%}"), ("{%- ", "%}"), ("<%", "%>")];
    let text = line.words.join(" ");
    for (open, close) in PAIRS {
        let Some(at) = text.find(open) else { continue };
        let Some(length) = text[at..].find(close) else { continue };
        let marker = &text[at..at + length + close.len()];
        ledger.refuse(
            line.number,
            format!("{marker} is a place that a template should have filled in"),
            "import the file that the template gives",
        );
        return;
    }
    let is_marker = |word: &&String| {
        let inside = |open: char, close: char| {
            let name = word.strip_prefix(open).and_then(|rest| rest.split(close).next());
            let is_closed = word.chars().filter(|c| *c == close).count() >= 1 && word.len() > 2;
            let is_name =
                |name: &str| name.len() > 1 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-. ".contains(c));
            is_closed && name.is_some_and(is_name)
        };
        inside('<', '>') || (inside('@', '@') && word.matches('@').count() >= 2)
    };
    if let Some(marker) = line.words.iter().find(is_marker) {
        ledger.refuse(
            line.number,
            format!("\"{marker}\" is a place that should have been filled in"),
            "write the value, or import the file that the template gives",
        );
    }
}

fn kind_of(word: &str) -> Option<Kind> {
    match word {
        "global" => Some(Kind::Global),
        "defaults" => Some(Kind::Defaults),
        "listen" => Some(Kind::Listen),
        "frontend" => Some(Kind::Frontend),
        "backend" => Some(Kind::Backend),
        other => OTHERS.iter().any(|(known, _)| *known == other).then_some(Kind::Other),
    }
}

fn divide(lines: Vec<Line>, ledger: &mut Ledger) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut newest_defaults = None;
    for line in lines {
        if line.word(0).starts_with('.') {
            ledger.used(line.number);
            continue;
        }
        let is_directive_of_global = sections.last().is_some_and(|section| section.kind == Kind::Global)
            && matches!(line.word(0), "log-profile" | "crt-list");
        match kind_of(line.word(0)).filter(|_| !is_directive_of_global) {
            Some(kind) => {
                let section = begin(&line, kind, &sections, newest_defaults, ledger);
                if kind == Kind::Defaults {
                    newest_defaults = Some(sections.len());
                }
                sections.push(section);
            }
            None => match sections.last_mut() {
                Some(section) => add(section, line, ledger),
                None => ledger.refuse(
                    line.number,
                    format!("\"{}\" stands before the first section: HAProxy refuses the file", line.word(0)),
                    "move it into a section; haproxy -c must accept the file",
                ),
            },
        }
    }
    refuse_same_names(&sections, ledger);
    sections
}

fn begin(line: &Line, kind: Kind, sections: &[Section], newest: Option<usize>, ledger: &mut Ledger) -> Section {
    let is_proxy = matches!(kind, Kind::Listen | Kind::Frontend | Kind::Backend);
    let takes_from = is_proxy || kind == Kind::Defaults;
    let from = line.words.iter().position(|word| word == "from").filter(|place| takes_from && *place > 0);
    let named = |name: &str| {
        let wanted = |section: &Section| section.kind == Kind::Defaults && section.name == name;
        sections.iter().rposition(wanted)
    };
    let name = if from == Some(1) { "" } else { line.word(1) };
    let defaults = match from {
        Some(place) => {
            let wanted = line.word(place + 1);
            let found = named(wanted);
            if found.is_none() {
                ledger.refuse(
                    line.number,
                    format!("there is no section \"defaults {wanted}\" before this line: HAProxy refuses the file"),
                    "correct the name behind \"from\"",
                );
            }
            found
        }
        None => newest.filter(|_| is_proxy),
    };
    let extra = from.map_or(line.words.len(), |place| place);
    if is_proxy && name.is_empty() {
        ledger.refuse(line.number, format!("\"{}\" has no name: HAProxy refuses the file", line.word(0)), "add a name");
    } else if is_proxy && extra > 2 {
        ledger.refuse(
            line.number,
            format!("\"{}\" stands behind the section's name: HAProxy refuses the file", line.word(2)),
            "write the address on a line of its own: bind ADDRESS:PORT",
        );
    }
    match kind {
        Kind::Other => {
            let reason = OTHERS.iter().find(|(known, _)| *known == line.word(0)).map_or("", |(_, reason)| reason);
            ledger.dropped(line.number, reason);
        }
        Kind::Global | Kind::Defaults => ledger.used(line.number),
        Kind::Listen | Kind::Frontend | Kind::Backend => {}
    }
    Section { kind, name: name.to_owned(), line: line.number, lines: Vec::new(), defaults }
}

fn add(section: &mut Section, line: Line, ledger: &mut Ledger) {
    let fault = match section.kind {
        Kind::Global => keywords::global_fault(&line.words),
        Kind::Other => None,
        _ => keywords::proxy_fault(&line.words),
    };
    if let Some((why, hint)) = fault {
        ledger.refuse(line.number, why, hint);
    }
    if section.kind == Kind::Other {
        ledger.dropped(line.number, "it belongs to a section of which pgvane uses nothing");
    }
    section.lines.push(line);
}

fn refuse_same_names(sections: &[Section], ledger: &mut Ledger) {
    let mut seen: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for section in sections {
        let sides: &[bool] = match section.kind {
            Kind::Listen => &[true, false],
            Kind::Frontend => &[true],
            Kind::Backend => &[false],
            _ => continue,
        };
        for side in sides {
            if let Some(other) = seen.insert((&section.name, *side), section.line) {
                ledger.refuse(
                    section.line,
                    format!(
                        "\"{}\" has the same name as the section at line {other}: HAProxy refuses the file",
                        section.name
                    ),
                    "give each section a name of its own",
                );
                break;
            }
        }
    }
}
