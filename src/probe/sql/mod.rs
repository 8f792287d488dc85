//! Asks one node's PostgreSQL itself, over a connection that is kept.
//!
//! # What the role needs
//!
//! `CREATE ROLE pgvane LOGIN PASSWORD '…';` and nothing else: every function that is asked is open to PUBLIC in
//! PostgreSQL 15 to 18. What more rights, or fewer, change:
//!
//! - Member of `pg_monitor` (or `pg_read_all_stats`): the state and the timeline of a replica's WAL receiver are shown.
//!   Without it the state reads `receiving`, and the timeline is that of the last restartpoint or of the minimum
//!   recovery point, whichever is newer; no decision rests on either.
//! - Where an administrator has revoked `pg_control_system()`, `pg_control_checkpoint()`, `pg_control_recovery()` or
//!   `pg_walfile_name()` from PUBLIC, system identifier and timeline stay unknown. Grant them back if you can: without
//!   timelines a new leader that finds an old one still claiming cannot be told from it, and writes are held.
//!
//! A connection limit of its own (`CONNECTION LIMIT 10`) does no harm: a pgvane has one connection to each node, and
//! for moments two.
//!
//! # No traces in PostgreSQL's log
//!
//! Every connection that got as far as `ReadyForQuery` ends with Terminate; see `wire.rs`. A login that is under way is
//! never abandoned because a check has run out of time: it goes on, and the next check waits for it. So a frozen server
//! finds one of our logins when it thaws, and not hundreds of dead ones.

mod auth_guard;
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

use self::session::{LoginFailure, Session};
use crate::cluster::node::{CheckError, Report};
use crate::cluster::{HostPort, Member};
use crate::config::{self, Sql};
use crate::net::Resolver;
use crate::net::dial::NodeDialer;
use crate::protocol::proxy_header;
use crate::tls::{ServerTls, TlsError};

/// After a login that was refused for a reason that the next moment does not mend (password, pg_hba.conf, certificate,
/// a server full of clients), nothing is tried for this long: each attempt is a line in the server's log.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// How to log in to every node of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    sql: Arc<Sql>,
    tls: ServerTls,
    connect_timeout: Duration,
    /// What a connection begins with.
    preamble: Vec<u8>,
    dialer: NodeDialer,
}

impl Access {
    /// Connecting by TCP may take most of the time of a check, so that its failure is known within the check. If connections begin with a PROXY header, it says that the
    /// connection is pgvane's own.
    ///
    /// Errors: files for TLS that cannot be used.
    pub fn new(sql: &Sql, cluster: &config::Cluster, names: Arc<Resolver>) -> Result<Access, TlsError> {
        let preamble = if cluster.sends_proxy_header { proxy_header::encode(None) } else { Vec::new() };
        let dialer = NodeDialer { names, discover_allow: cluster.discover_allow() };
        let (tls, sql) = (ServerTls::new(&sql.tls)?, Arc::new(sql.clone()));
        Ok(Access { sql, tls, connect_timeout: cluster.timeout * 3 / 4, preamble, dialer })
    }
}

/// One node's PostgreSQL. Dropping it closes its connection.
#[derive(Debug)]
pub struct SqlNode {
    access: Access,
    member: Arc<Member>,
    line: Mutex<Line>,
}

/// The way to a server.
#[derive(Debug, Default)]
struct Line {
    /// Logged in and at rest.
    session: Option<Session>,
    /// A login under way; it outlives the check that began it.
    login: Option<JoinHandle<Result<Session, LoginFailure>>>,
    /// Why the last login was refused, and until when none is tried.
    refused: Option<(LoginFailure, Instant)>,
}

impl SqlNode {
    /// A node that has not been connected to yet.
    pub fn new(access: Access, member: Arc<Member>) -> SqlNode {
        SqlNode { access, member, line: Mutex::default() }
    }

    /// Whether it is at this address. A discovered node can get another one.
    pub fn is_at(&self, address: &HostPort) -> bool {
        self.member.address == *address
    }

    /// Asks the node for its report, by `deadline`. Two who ask at once are answered one after the other.
    ///
    /// Cancel safe: a session that was just asking is closed, a login continues for the next call.
    pub async fn ask(&self, deadline: Instant) -> Result<Report, CheckError> {
        timeout_at(deadline, self.ask_in_time()).await.unwrap_or(Err(CheckError::TimedOut))
    }

    /// Closes the connection, if there is one and nobody is asking over it.
    pub fn rest(&self) {
        if let Ok(mut line) = self.line.try_lock() {
            line.session = None;
        }
    }

    async fn ask_in_time(&self) -> Result<Report, CheckError> {
        let mut line = self.line.lock().await;
        match line.session.take() {
            // A session that the server has ended meanwhile is no answer: why it did, a new login will tell.
            Some(session) if session.age() < self.access.sql.reconnect => match line.ask_over(session).await {
                Ok(report) => Ok(report),
                Err(_ended) => self.ask_anew(&mut line, None).await,
            },
            old => self.ask_anew(&mut line, old).await,
        }
    }

    /// Logs in and asks. The `old` session, if there is one, is given up only now: a server that is full would not
    /// take us back.
    async fn ask_anew(&self, line: &mut Line, old: Option<Session>) -> Result<Report, CheckError> {
        match (self.log_in(line).await, old) {
            (Ok(session), _) => line.ask_over(session).await,
            (Err(LoginFailure::Full(_)), Some(old)) => line.ask_over(old).await,
            (Err(failure), _) => failure.into_outcome(),
        }
    }

    /// Logs in, unless that was refused just now.
    async fn log_in(&self, line: &mut Line) -> Result<Session, LoginFailure> {
        if line.login.as_ref().is_some_and(JoinHandle::is_finished) {
            // It came to its end after the check that began it. A session is welcome; that nobody was there, or that
            // the server was starting, is old news.
            match line.login_of(self).await {
                Err(LoginFailure::Failed(_) | LoginFailure::NotServing(_)) => {}
                outcome => return outcome,
            }
        }
        if let Some((failure, until)) = &line.refused
            && Instant::now() < *until
        {
            return Err(failure.clone());
        }
        line.login_of(self).await
    }
}

impl Line {
    /// Begins a login, or joins the one under way, and waits for its end. Cancel safe: it goes on.
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

    /// Asks, and keeps the session if it answered. Whatever ends this half-way drops the session: an answer that is
    /// still on its way must not be taken for that to the next question.
    async fn ask_over(&mut self, mut session: Session) -> Result<Report, CheckError> {
        let report = session.ask().await?;
        self.session = Some(session);
        Ok(report)
    }
}
