//! A login, the session that it opens, and what a failure of either says about the server.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::{SslMode as WireMode, SslNegotiation};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Config, Row, SimpleQueryMessage};

use super::access::Access;
use super::auth_guard::AuthGuard;
use super::question::{self, Question};
use super::wire::{AlreadyAgreed, TerminateNeeded, Wire};
use crate::cluster::Member;
use crate::cluster::node::{CheckError, Claim, Report};
use crate::net::Stream;
use crate::net::dial::{ConnectFailure, TcpOptions, connect};
use crate::tls::{NegotiationFailure, ServerTls, SslMode};

/// How long a login may take once TCP is connected. PostgreSQL itself ends one after `authentication_timeout`, a minute
/// by default; a frozen server is given that time, because each login that is abandoned has still to be worked off when
/// it thaws, and one over TLS leaves a line in its log.
const LOGIN_MAX: Duration = Duration::from_secs(60);

/// How long a session that is no longer needed waits for the answer to its last query before it is closed anyway. A
/// server that continues later finds Terminate in its queue.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(1);

/// A kernel acknowledges at once, even for a frozen server: what stays unacknowledged for so long went to a dead host.
const TCP: TcpOptions = TcpOptions {
    keepalive: Duration::from_secs(10),
    unacknowledged_max: Duration::from_secs(5),
    ends_with_shut_window: true,
};

/// A session, logged in. Dropping it closes it with Terminate.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    question: Question,
    opened: Instant,
    /// Dropped after the client: then the task that drives the connection knows that nothing waits for it any more.
    _held: oneshot::Sender<()>,
}

impl Session {
    /// Time since the login.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Asks for a report. Has no timeout of its own. Not cancel safe: after a cancelled call the session must be
    /// dropped.
    pub(super) async fn ask(&mut self) -> Result<Report, CheckError> {
        loop {
            let answer = match self.client.simple_query(self.question.text()).await {
                Ok(answer) => answer,
                Err(error) if allows_bare_question(&error, self.question) => {
                    self.question = Question::Bare;
                    continue;
                }
                Err(error) => return Err(LoginFailure::of(&error).into_check_error()),
            };
            let row = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let report = row.ok_or_else(|| "no row".to_owned()).and_then(question::report);
            return report.map_err(CheckError::Garbled);
        }
    }
}

impl Session {
    /// The rows of a query with one parameter, a text. Errors: the server's, in words.
    pub(super) async fn rows(&self, query: &str, parameter: &str) -> Result<Vec<Row>, String> {
        self.client.query(query, &[&parameter]).await.map_err(|error| match error.as_db_error() {
            Some(said) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
            None => error.to_string(),
        })
    }
}

fn allows_bare_question(error: &tokio_postgres::Error, asked: Question) -> bool {
    asked == Question::Whole && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Logs in. Ends within the connect timeout and [`LOGIN_MAX`].
///
/// Meant for a task of its own that is not cancelled: a TLS handshake broken off leaves a line in PostgreSQL's log.
pub(super) async fn log_in(access: Access, member: Arc<Member>) -> Result<Session, LoginFailure> {
    let logging_in = async {
        match attempt(&access, &access.tls, &member).await {
            // as libpq does: what cannot be had with encryption may be had without
            Err(LoginFailure::Encrypted(_)) if access.tls.mode() == SslMode::Prefer => {
                attempt(&access, &ServerTls::plaintext(), &member).await
            }
            outcome => outcome,
        }
    };
    timeout(LOGIN_MAX, logging_in).await.unwrap_or(Err(LoginFailure::Failed(CheckError::TimedOut)))
}

async fn attempt(access: &Access, tls: &ServerTls, member: &Member) -> Result<Session, LoginFailure> {
    let deadline = Instant::now() + access.connect_timeout;
    let to = access.dialer.destination(member, None, TCP, &access.preamble);
    let tcp = connect(&to, deadline).await.map_err(LoginFailure::of_connect)?;
    let stream = tls.negotiate(tcp.into(), to.address.host()).await.map_err(LoginFailure::of_negotiation)?;
    let is_encrypted = stream.is_encrypted();
    match start(access, stream).await {
        // pg_hba.conf may have a line for connections without TLS only
        Err(LoginFailure::Refused(error, Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION))) if is_encrypted => {
            Err(LoginFailure::Encrypted(error))
        }
        outcome => outcome,
    }
}

async fn start(access: &Access, stream: Stream) -> Result<Session, LoginFailure> {
    let mut config = Config::new();
    config.user(&access.sql.user).dbname(&access.sql.database).application_name(&access.sql.application_name);
    if let Some(password) = &access.sql.password {
        config.password(password.reveal());
    }
    // "direct" keeps tokio-postgres from asking for encryption itself: that has been agreed on
    match stream.is_encrypted() {
        true => config.ssl_mode(WireMode::Require).ssl_negotiation(SslNegotiation::Direct),
        false => config.ssl_mode(WireMode::Disable),
    };
    let terminate_needed = TerminateNeeded::default();
    let is_verified = stream.is_encrypted() && access.tls.verifies();
    let guard = AuthGuard::new(access.sql.require_auth, is_verified);
    let wire = Wire::new(stream, terminate_needed.clone(), guard);
    let (client, connection) =
        config.connect_raw(wire, AlreadyAgreed).await.map_err(|error| LoginFailure::of(&error))?;
    terminate_needed.set();
    let (held, dropped) = oneshot::channel();
    tokio::spawn(async move {
        let given_up = async {
            let _ = dropped.await; // never sent: it ends when the session is dropped
            sleep(LAST_ANSWER_MAX).await;
        };
        tokio::select! {
            // what ends it reaches the client too, as the outcome of its next question
            _ended = connection => {}
            () = given_up => {}
        }
    });
    Ok(Session { client, question: Question::Whole, opened: Instant::now(), _held: held })
}

/// Why there is no session.
#[derive(Debug, Clone)]
pub(super) enum LoginFailure {
    /// PostgreSQL says, by SQLSTATE 57P03, that it accepts no sessions now; with its state.
    NotServing(&'static str),
    /// It has no connection left for us (53300).
    Full(CheckError),
    /// It refuses us, or we it, and would again in a moment; with the SQLSTATE where there is one.
    Refused(CheckError, Option<SqlState>),
    /// Refused, and encryption may be the reason.
    Encrypted(CheckError),
    /// There was no answer, or it broke off.
    Failed(CheckError),
}

impl LoginFailure {
    /// What the failure says of the node.
    pub(super) fn into_outcome(self) -> Result<Report, CheckError> {
        match self {
            LoginFailure::NotServing(state) => Ok(Report::bare(Claim::OutOfService, state)),
            other => Err(other.into_check_error()),
        }
    }

    /// Whether the same would come of another attempt in a moment.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, LoginFailure::Full(_) | LoginFailure::Refused(..) | LoginFailure::Encrypted(_))
    }

    pub(super) fn of_panic(panic: &JoinError) -> LoginFailure {
        LoginFailure::Failed(CheckError::Garbled(format!("the login panicked, which is a defect of pgvane: {panic}")))
    }

    pub(super) fn into_check_error(self) -> CheckError {
        match self {
            LoginFailure::NotServing(state) => CheckError::Denied(format!("PostgreSQL is {state}")),
            LoginFailure::Full(error)
            | LoginFailure::Refused(error, _)
            | LoginFailure::Encrypted(error)
            | LoginFailure::Failed(error) => error,
        }
    }

    fn of_connect(failure: ConnectFailure) -> LoginFailure {
        LoginFailure::Failed(match failure {
            ConnectFailure::TimedOut => CheckError::TimedOut,
            ConnectFailure::Failed(error) => of_io(&error),
            other @ (ConnectFailure::Unresolved(_) | ConnectFailure::NotAllowed(_) | ConnectFailure::AllFailed(_)) => {
                CheckError::Unreachable(other.to_string())
            }
        })
    }

    fn of_negotiation(failure: NegotiationFailure) -> LoginFailure {
        let unreachable = CheckError::Unreachable(failure.to_string());
        match failure {
            NegotiationFailure::Io(error) => LoginFailure::Failed(of_io(&error)),
            // rustls' own verdicts come as "invalid data"; all else is the connection's end
            NegotiationFailure::Handshake(error) if error.kind() != io::ErrorKind::InvalidData => {
                LoginFailure::Failed(unreachable)
            }
            NegotiationFailure::Handshake(_) => LoginFailure::Encrypted(unreachable),
            NegotiationFailure::UnknownAnswer(_) => LoginFailure::Failed(unreachable),
            NegotiationFailure::NotOffered | NegotiationFailure::NotPostgres | NegotiationFailure::BadHostName(_) => {
                LoginFailure::Refused(unreachable, None)
            }
        }
    }

    fn of(error: &tokio_postgres::Error) -> LoginFailure {
        if let Some(said) = error.as_db_error() {
            return LoginFailure::of_server_error(said);
        }
        let cause = error.source();
        match cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
            // an alert of TLS 1.3 about our certificate comes after the handshake
            Some(io) if io.kind() == io::ErrorKind::InvalidData => {
                LoginFailure::Refused(CheckError::Unreachable(format!("TLS: {io}")), None)
            }
            Some(io) => LoginFailure::Failed(of_io(io)),
            None if error.is_closed() => {
                LoginFailure::Failed(CheckError::Unreachable("the server closed the connection".to_owned()))
            }
            None => {
                let why = cause.map_or_else(|| error.to_string(), ToString::to_string);
                LoginFailure::Refused(CheckError::Denied(why), None)
            }
        }
    }

    /// What the server's error message means.
    fn of_server_error(said: &DbError) -> LoginFailure {
        let code = said.code();
        let text = said.message().to_owned();
        if *code == SqlState::CANNOT_CONNECT_NOW {
            LoginFailure::NotServing(state_of(&text))
        } else if *code == SqlState::TOO_MANY_CONNECTIONS {
            LoginFailure::Full(CheckError::Denied(text))
        } else if code.code().starts_with("57") {
            // an operator, or a shutdown, ended the session: the next login finds out which
            LoginFailure::Failed(CheckError::Unreachable(text))
        } else {
            LoginFailure::Refused(CheckError::Denied(text), Some(code.clone()))
        }
    }
}

/// Patroni's name for the state of a server that says 57P03. The text is translated where the server's language is
/// another (`lc_messages`); then what is certain is said.
fn state_of(message: &str) -> &'static str {
    if message.contains("shutting down") {
        "stopping"
    } else if message.contains("starting up") || message.contains("recovery mode") || message.contains("not yet") {
        "starting"
    } else {
        "not accepting connections"
    }
}

fn of_io(error: &io::Error) -> CheckError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => CheckError::Refused,
        io::ErrorKind::TimedOut => CheckError::TimedOut,
        io::ErrorKind::UnexpectedEof => CheckError::Unreachable("the server closed the connection".to_owned()),
        _ => CheckError::Unreachable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_server_that_accepts_no_connections_is_read_from_its_message() {
        assert_eq!(state_of("the database system is starting up"), "starting");
        assert_eq!(state_of("the database system is in recovery mode"), "starting");
        assert_eq!(state_of("the database system is not yet accepting connections"), "starting");
        assert_eq!(state_of("the database system is shutting down"), "stopping");
        assert_eq!(state_of("das Datenbanksystem fährt hoch"), "not accepting connections");
    }

    #[test]
    fn only_a_server_that_says_so_is_out_of_service() {
        let report = LoginFailure::NotServing("stopping").into_outcome().expect("is an answer");
        assert_eq!((report.claim, report.state.as_str()), (Claim::OutOfService, "stopping"));
        let refused = LoginFailure::Refused(CheckError::Denied("password authentication failed".to_owned()), None);
        assert!(refused.is_refusal() && refused.into_outcome().is_err());
    }
}
