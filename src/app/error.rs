//! Why the program does not start, does not take over a configuration, or ends by itself.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::net::Bind;
use crate::probe::checker::CheckerError;
use crate::tls::TlsError;

/// Why the program could not start, or could not take over a configuration.
#[derive(Debug)]
pub enum StartError {
    /// pgvane cannot listen on an address or a socket file.
    Bind {
        /// The listener, or `[admin]`.
        owner: String,
        /// The address.
        address: Bind,
        /// The cause.
        error: io::Error,
    },
    /// A cluster's certificates could not be loaded.
    Check(CheckerError),
    /// A listener's certificates could not be loaded.
    Tls {
        /// The listener's name.
        listener: String,
        /// The cause.
        error: TlsError,
    },
    /// The session threads could not be started.
    Threads(io::Error),
    /// Reloads have added so many listeners or clusters that there is no number left for another.
    TooMany(&'static str),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind { owner, address, error } => write!(f, "{owner} cannot listen on {address}: {error}"),
            StartError::Check(error) => write!(f, "{error}"),
            StartError::Tls { listener, error } => write!(f, "listener \"{listener}\": {error}"),
            StartError::TooMany(what) => write!(f, "too many different {what} since the start: restart pgvane"),
            StartError::Threads(error) => write!(f, "cannot start the session threads: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A background task ended, by a panic or by returning: a defect of pgvane.
#[derive(Debug, Error)]
#[error("the background task \"{task}\" ended; this is a defect of pgvane")]
pub struct TaskEnded {
    /// Its name.
    pub task: &'static str,
}

/// Why the running program ended by itself.
#[derive(Debug, Error)]
pub enum RunError {
    /// A background task ended.
    #[error(transparent)]
    TaskEnded(TaskEnded),
    /// It was to take over from another process, which goes on.
    #[error("cannot take over from the process before: {0}")]
    NotTakenOver(io::Error),
}
