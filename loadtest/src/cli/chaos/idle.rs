//! A session that stays open and asks from time to time whether its server is a primary.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pgvane_loadtest::failure::{Failure, FailureClass};
use pgvane_loadtest::login::{Login, Session};
use pgvane_loadtest::tls::Endpoint;
use pgvane_loadtest::tokio_postgres::SimpleQueryMessage;
use tokio::task::JoinHandle;

/// Longer than pgvane holds a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(90);
const QUESTION: &str = "select pg_is_in_recovery()";
const ASKS_EVERY: Duration = Duration::from_millis(1500);

/// A running session, connected again when it ends; dropping it ends it.
#[derive(Debug)]
pub(super) struct IdleSession {
    seen: Arc<Mutex<Vec<Failure>>>,
    task: JoinHandle<()>,
}

impl IdleSession {
    /// Through the write port at `server`.
    pub(super) fn start(server: Endpoint) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(stay(server, Arc::clone(&seen)));
        Self { seen, task }
    }

    /// The failures since the last call. An answer of a server in recovery is one of them, as a read-only error.
    pub(super) fn take(&self) -> Vec<Failure> {
        std::mem::take(&mut *locked(&self.seen))
    }
}

impl Drop for IdleSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stay(server: Endpoint, seen: Arc<Mutex<Vec<Failure>>>) {
    loop {
        match Login::Trusting.open(server, CONNECT_WITHIN).await {
            Ok(mut session) => {
                let end = session_end(&mut session, &seen).await;
                locked(&seen).push(end);
            }
            Err(error) => locked(&seen).push(failure(FailureClass::ConnectFailed, &error.to_string())),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn session_end(session: &mut Session, seen: &Mutex<Vec<Failure>>) -> Failure {
    loop {
        match session.client.simple_query(QUESTION).await {
            Ok(answer) if answer.iter().any(says_in_recovery) => {
                let text = "an idle session on the write port is on a server in recovery";
                locked(seen).push(failure(FailureClass::ReadOnly, text));
            }
            Ok(_) => {}
            Err(error) => return session.reason(Failure::of_statement(&error)).await,
        }
        if let Ok(end) = tokio::time::timeout(ASKS_EVERY, session.ended()).await {
            return end;
        }
    }
}

fn says_in_recovery(message: &SimpleQueryMessage) -> bool {
    matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))
}

fn failure(class: FailureClass, message: &str) -> Failure {
    Failure { at: std::time::Instant::now(), class, sqlstate: None, message: message.to_owned() }
}

fn locked(seen: &Mutex<Vec<Failure>>) -> MutexGuard<'_, Vec<Failure>> {
    seen.lock().expect("nobody panics with this lock")
}
