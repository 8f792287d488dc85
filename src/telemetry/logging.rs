//! The log: text for people or JSON for collectors, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::Log;

/// Starts logging; `PGVANE_LOG` outdoes the configured level. Does nothing if logging has been started before.
pub fn start(log: &Log) {
    let level = std::env::var("PGVANE_LOG").unwrap_or_else(|_| log.level.clone());
    let filter = Log::filter(&level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = if log.is_json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
    drop(started);
}
