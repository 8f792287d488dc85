//! What was found while a section was read. It reaches the ledger when it is clear whether the section is imported.

use super::ledger::Ledger;

/// The findings of one section, each with its line.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    used: Vec<usize>,
    dropped: Vec<(usize, String)>,
    notes: Vec<(usize, String)>,
    /// HAProxy refuses the file.
    faults: Vec<(usize, String, String)>,
    /// pgvane cannot do it. It counts only if the section is imported.
    obstacles: Vec<(usize, String, String)>,
    expanded: Vec<(usize, Vec<String>)>,
}

impl Findings {
    pub fn uses(&mut self, line: usize) {
        self.used.push(line);
    }

    pub fn drops(&mut self, line: usize, why: impl Into<String>) {
        self.dropped.push((line, why.into()));
    }

    pub fn note(&mut self, line: usize, what: impl Into<String>) {
        self.notes.push((line, what.into()));
    }

    pub fn fault(&mut self, line: usize, why: impl Into<String>, hint: impl Into<String>) {
        self.faults.push((line, why.into(), hint.into()));
    }

    pub fn obstacle(&mut self, line: usize, why: impl Into<String>, hint: impl Into<String>) {
        self.obstacles.push((line, why.into(), hint.into()));
    }

    /// The addresses on a line were expanded, with variables that are not set.
    pub fn expands(&mut self, line: usize, unset: Vec<String>) {
        self.expanded.push((line, unset));
    }

    /// Whether something in the section stands in the way of an import.
    pub fn has_obstacles(&self) -> bool {
        !(self.obstacles.is_empty() && self.expanded.iter().all(|(_, unset)| unset.is_empty()))
    }

    /// The section is imported.
    pub fn enter(&self, ledger: &mut Ledger) {
        self.enter_faults(ledger);
        for (line, unset) in &self.expanded {
            ledger.expands(*line, unset.clone());
        }
        for line in &self.used {
            ledger.used(*line);
        }
        for (line, why) in &self.dropped {
            ledger.dropped(*line, why);
        }
        for (line, note) in &self.notes {
            ledger.note(*line, note);
        }
        for (line, why, hint) in &self.obstacles {
            ledger.refuse(*line, why, hint);
        }
    }

    /// The section is not imported: HAProxy must still accept it.
    pub fn enter_faults(&self, ledger: &mut Ledger) {
        for (line, why, hint) in &self.faults {
            ledger.refuse(*line, why, hint);
        }
    }
}
