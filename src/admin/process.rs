//! What is true of the whole process.

use serde::{Deserialize, Serialize};

/// The process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// When it began to accept connections, in Unix time.
    pub started_at: u64,
    /// Threads that serve sessions.
    pub threads: usize,
    /// File descriptors that it may have.
    pub descriptors_max: usize,
    /// Log lines that could not be written.
    pub log_lines_lost: u64,
}
