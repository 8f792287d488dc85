//! Failures as a client sees them: when, of which kind, with which text.

use std::error::Error as _;
use std::time::Instant;

use serde::Serialize;
use tokio_postgres::error::SqlState;

use crate::Error;

/// Kinds of failure, by what an application would have to do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// No session was established: refused, closed, answered with an error, or not answered in time.
    ConnectFailed,
    /// An established session ended under a statement.
    SessionBroken,
    /// The statement reached a node that does not take writes (SQLSTATE 25006).
    ReadOnly,
    /// An established session gave no answer before the deadline.
    Unanswered,
    /// Any other error.
    Other,
}

/// One failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When the client noticed it.
    pub at: Instant,
    /// Its kind.
    pub class: FailureClass,
    /// PostgreSQL's code, where an `ErrorResponse` arrived.
    pub sqlstate: Option<String>,
    /// The whole text.
    pub message: String,
}

impl Failure {
    /// A failure to connect.
    pub fn connecting(error: &Error) -> Self {
        let sqlstate = match error {
            Error::Postgres { source, .. } => source.code().map(|code| code.code().to_owned()),
            _ => None,
        };
        Self { at: Instant::now(), class: FailureClass::ConnectFailed, sqlstate, message: error.to_string() }
    }

    /// A failure of a statement in a session that had been established.
    pub fn of_statement(error: &tokio_postgres::Error) -> Self {
        let sqlstate = error.code().map(|code| code.code().to_owned());
        Self { at: Instant::now(), class: class_of(error), sqlstate, message: text_of(error) }
    }

    /// A connection that was closed without an error message.
    pub fn closed() -> Self {
        let message = "connection closed without an error message".to_owned();
        Self { at: Instant::now(), class: FailureClass::SessionBroken, sqlstate: None, message }
    }

    /// A statement without an answer.
    pub fn unanswered() -> Self {
        let message = "no answer before the deadline".to_owned();
        Self { at: Instant::now(), class: FailureClass::Unanswered, sqlstate: None, message }
    }
}

fn class_of(error: &tokio_postgres::Error) -> FailureClass {
    // The last is sent by proxies when a server is gone; PostgreSQL itself sends the others.
    let ended = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::CONNECTION_FAILURE,
    ];
    match error.code() {
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => FailureClass::ReadOnly,
        Some(code) if ended.contains(code) => FailureClass::SessionBroken,
        Some(_) => FailureClass::Other,
        None => FailureClass::SessionBroken,
    }
}

/// An error of the client library with its causes: by itself it often says no more than "db error".
pub(crate) fn text_of(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    match error.code() {
        Some(code) => format!("{text} (SQLSTATE {})", code.code()),
        None => text,
    }
}
