//! What is wrong with a configuration: where, what, and how to mend it.

use std::fmt;

/// One thing wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1; `None` if the fault is in no one place.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// How to mend it, where that is not plain from the message.
    pub hint: Option<String>,
}

/// All that is wrong in a file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file's name as the user gave it.
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
        let count = self.list.len();
        write!(f, "{count} fault{} found, nothing was started", if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Faults {}
