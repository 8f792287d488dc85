//! What is true of the whole process.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::context::AdminContext;
use crate::telemetry::lines_lost;

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

impl Process {
    pub(super) fn of(context: &AdminContext) -> Process {
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        Process {
            started_at: now.saturating_sub(context.started.elapsed().as_secs()),
            threads: context.config.threads,
            descriptors_max: context.registry.descriptors_max(),
            log_lines_lost: lines_lost(),
        }
    }
}
