//! Errors of the lab, with the information that helps to find the cause.

use std::fmt;
use std::io;
use std::time::Duration;

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the lab itself, not of the software that is tested in it.
#[derive(Debug)]
pub enum Error {
    /// A program that the lab needs is not installed.
    Missing {
        /// What was looked for, and where.
        program: String,
    },
    /// A fixed port is in use.
    PortBusy {
        /// The port that was wanted.
        port: u16,
        /// The process that uses it, if that can be seen.
        owner: String,
    },
    /// No free port was found below the ephemeral range.
    NoFreePort,
    /// An operation of the system failed.
    Io {
        /// What was being done.
        doing: String,
        /// How it failed.
        source: io::Error,
    },
    /// A server ended instead of getting ready.
    Ended {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines of its log.
        log_tail: String,
    },
    /// A command failed.
    Command {
        /// The command and its arguments.
        command: String,
        /// What it printed.
        output: String,
    },
    /// A condition did not come true in time.
    TooLate {
        /// The condition.
        waited_for: String,
        /// How long the wait lasted.
        within: Duration,
        /// What was seen instead at the last attempt.
        last_seen: String,
    },
    /// PostgreSQL refused something, or could not be reached.
    Postgres {
        /// What was being done.
        doing: String,
        /// How it failed.
        source: tokio_postgres::Error,
    },
}

/// How many of a log's last lines an error shows.
const LOG_TAIL_LINES: usize = 25;

impl Error {
    /// Adds the end of `log` to a wait that has timed out.
    pub(crate) fn with_log(self, log: &str) -> Self {
        match self {
            Self::TooLate { waited_for, within, last_seen } => {
                let last_seen = format!("{last_seen}\nThe end of its log:\n{}", last_lines(log));
                Self::TooLate { waited_for, within, last_seen }
            }
            other => other,
        }
    }
}

/// The end of a log, as an error shows it.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program } => write!(f, "{program} is missing (scripts/setup installs what the lab needs)"),
            Self::PortBusy { port, owner } => write!(f, "port {port} is in use by {owner}"),
            Self::NoFreePort => write!(f, "no free port below the ephemeral range"),
            Self::Io { doing, source } => write!(f, "{doing}: {source}"),
            Self::Ended { program, status, log_tail } => {
                write!(f, "{program} ended ({status}); the end of its log:\n{log_tail}")
            }
            Self::Command { command, output } => write!(f, "`{command}` failed:\n{output}"),
            Self::TooLate { waited_for, within, last_seen } => {
                write!(f, "{waited_for}: not within {} s; last seen: {last_seen}", within.as_secs_f64())
            }
            Self::Postgres { doing, source } => {
                write!(f, "{doing}: {}", crate::failure::text_of(source))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Postgres { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Adds what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the failure into an [`Error::Io`]; the text is made only then.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { doing: what(), source })
    }
}
