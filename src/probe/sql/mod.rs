//! Checks one node's PostgreSQL by SQL, over a connection that stays open.
//!
//! # What the role needs
//!
//! `CREATE ROLE pgvane LOGIN PASSWORD '…';` and nothing else: PUBLIC may execute every function that is used, in
//! PostgreSQL 15 to 18. What changes with more or fewer rights:
//!
//! - Member of `pg_monitor` (or `pg_read_all_stats`): the state and the timeline of a replica's WAL receiver are shown.
//!   Without it the state reads `receiving`, and the timeline is that of the last restartpoint or of the minimum
//!   recovery point, whichever is newer; no decision depends on either.
//! - Where an administrator has revoked `pg_control_system()`, `pg_control_checkpoint()`, `pg_control_recovery()` or
//!   `pg_walfile_name()` from PUBLIC, system identifier and timeline stay unknown. Grant them back if you can: without
//!   timelines pgvane cannot tell a new leader from an old one that still claims to lead, and holds the writes.
//!
//! A connection limit for the role (`CONNECTION LIMIT 10`) is fine: each pgvane has one connection to each node, and
//! for a moment two.
//!
//! # No traces in PostgreSQL's log
//!
//! Every connection that has received `ReadyForQuery` ends with Terminate; see `wire.rs`. A login is never cancelled
//! because a check has timed out: it continues, and the next check waits for it. So a frozen server finds one login of
//! pgvane when it runs again, and not hundreds of dead ones.

mod access;
mod auth_guard;
mod auth_query;
mod question;
mod session;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

pub use self::access::Access;
pub use self::auth_query::{AuthQuery, Verifiers};
use self::session::{LoginFailure, Session};
use crate::cluster::node::{CheckError, Report};
use crate::cluster::{HostPort, Member};

/// After a login that was refused for a reason that does not go away soon (password, pg_hba.conf, certificate, too many
/// clients), no login is tried for this long: each attempt is a line in the server's log.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// One node's PostgreSQL. Dropping it closes its connection.
#[derive(Debug)]
pub struct SqlNode {
    access: Access,
    member: Arc<Member>,
    connection: Mutex<Connection>,
}

/// The connection to a server.
#[derive(Debug, Default)]
struct Connection {
    /// A session that waits for the next check.
    session: Option<Session>,
    /// A login that has not ended. It continues after the check that began it has timed out.
    login: Option<JoinHandle<Result<Session, LoginFailure>>>,
    /// Why the last login was refused, and until when none is tried.
    refused: Option<(LoginFailure, Instant)>,
}

impl SqlNode {
    /// A node that has not been connected to yet.
    pub fn new(access: Access, member: Arc<Member>) -> SqlNode {
        SqlNode { access, member, connection: Mutex::default() }
    }

    /// Whether it is at this address. A discovered node can get another one.
    pub fn is_at(&self, address: &HostPort) -> bool {
        self.member.address == *address
    }

    /// Asks the node for its report, by `deadline`. Two calls at the same time run one after the other.
    ///
    /// Cancel safe: a session that waits for an answer is closed; a login continues for the next call.
    pub async fn ask(&self, deadline: Instant) -> Result<Report, CheckError> {
        timeout_at(deadline, self.ask_in_time()).await.unwrap_or(Err(CheckError::TimedOut))
    }

    /// Closes the connection, if there is one and no check uses it.
    pub fn disconnect(&self) {
        if let Ok(mut connection) = self.connection.try_lock() {
            connection.session = None;
        }
    }

    async fn ask_in_time(&self) -> Result<Report, CheckError> {
        let mut connection = self.connection.lock().await;
        match connection.session.take() {
            // That the server has ended the session is not an answer. A new login finds out why.
            Some(session) if session.age() < self.access.sql.reconnect => match connection.ask_over(session).await {
                Ok(report) => Ok(report),
                Err(_ended) => self.ask_after_login(&mut connection, None).await,
            },
            old => self.ask_after_login(&mut connection, old).await,
        }
    }

    /// Logs in and asks. The `old` session, if there is one, is closed only after that: a server without a free
    /// connection would not accept a new login.
    async fn ask_after_login(&self, connection: &mut Connection, old: Option<Session>) -> Result<Report, CheckError> {
        match (self.log_in(connection).await, old) {
            (Ok(session), _) => connection.ask_over(session).await,
            (Err(LoginFailure::Full(_)), Some(old)) => connection.ask_over(old).await,
            (Err(failure), _) => failure.into_outcome(),
        }
    }

    /// Logs in, unless a login was refused a short time ago.
    async fn log_in(&self, connection: &mut Connection) -> Result<Session, LoginFailure> {
        if connection.login.as_ref().is_some_and(JoinHandle::is_finished) {
            // It ended after the check that began it. A session is used; that the server did not answer, or was
            // starting, may be out of date.
            match connection.login_of(self).await {
                Err(LoginFailure::Failed(_) | LoginFailure::NotServing(_)) => {}
                outcome => return outcome,
            }
        }
        if let Some((failure, until)) = &connection.refused
            && Instant::now() < *until
        {
            return Err(failure.clone());
        }
        connection.login_of(self).await
    }
}

impl Connection {
    /// Begins a login, or joins the one that has not ended, and waits for its end. Cancel safe: the login continues.
    async fn login_of(&mut self, node: &SqlNode) -> Result<Session, LoginFailure> {
        let begin = || tokio::spawn(session::log_in(node.access.clone(), Arc::clone(&node.member)));
        let login = self.login.get_or_insert_with(begin);
        let outcome = login.await.unwrap_or_else(|panic| Err(LoginFailure::of_panic(&panic)));
        self.login = None;
        self.refused = match &outcome {
            Err(failure) if failure.is_refusal() => Some((failure.clone(), Instant::now() + REFUSED_PAUSE)),
            _ => None,
        };
        outcome
    }

    /// Asks, and keeps the session if it answered. If this is cancelled, the session is closed: its late answer must
    /// not be taken for the answer to the next check.
    async fn ask_over(&mut self, mut session: Session) -> Result<Report, CheckError> {
        let report = session.ask().await?;
        self.session = Some(session);
        Ok(report)
    }
}
