//! What is wrong in a configuration: where, what, and how to correct it.

use std::fmt;

/// One error in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1; `None` if the fault does not belong to one line.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do next, where the message does not make that clear.
    pub hint: Option<String>,
}

/// All errors in a file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file's name as the user wrote it.
    pub file: String,
    /// The faults; never empty.
    pub list: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.list {
            match fault.line {
                Some(line) => writeln!(f, "{}:{line}: {}", self.file, fault.message)?,
                None => writeln!(f, "{}: {}", self.file, fault.message)?,
            }
            if let Some(hint) = &fault.hint {
                writeln!(f, "  hint: {hint}")?;
            }
        }
        match self.list.len() {
            1 => write!(f, "1 error found: pgvane cannot start until it is corrected"),
            count => write!(f, "{count} errors found: pgvane cannot start until they are corrected"),
        }
    }
}

impl std::error::Error for Faults {}
