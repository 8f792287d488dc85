//! A client that works in one session after another, and what it has seen.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pgvane_loadtest::failure::{Failure, FailureClass};
use pgvane_loadtest::login::{Login, Session};
use pgvane_loadtest::tls::Endpoint;
use pgvane_loadtest::tokio_postgres::{self, SimpleQueryMessage};
use pgvane_loadtest::{Result, wait};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::judge::Port;

/// Longer than pgvane holds a connection.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(180);
/// Longer than any fault: a server that is stopped for some seconds is no reason for a session to end.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(90);
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Without a prepared statement: a pooler that pools transactions does not keep one.
const WHERE_AM_I: &str = "select inet_server_port(), pg_is_in_recovery()";

/// What a client does in its sessions.
pub(super) trait Work: Send + 'static {
    /// What comes first in each session.
    fn begin(&mut self, session: &mut Session) -> impl Future<Output = Outcome> + Send;

    /// One round; there are as many as the session lasts.
    fn round(&mut self, session: &mut Session) -> impl Future<Output = Outcome> + Send;
}

pub(super) type Outcome = std::result::Result<(), Stop>;

/// Why a client does not go on in its session.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(Failure),
    /// The session goes on, and has done something that it must not.
    Wrong(String),
}

impl From<tokio_postgres::Error> for Stop {
    fn from(error: tokio_postgres::Error) -> Self {
        Stop::Failed(Failure::of_statement(&error))
    }
}

/// How a client uses pgvane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) server: Endpoint,
    pub(super) port: Port,
    pub(super) login: Login,
    /// Pause between two rounds.
    pub(super) pace: Duration,
    /// After this time the client ends its session itself. `None`: only a fault ends it.
    pub(super) session_lasts: Option<Duration>,
}

/// A running client; dropping it ends it.
#[derive(Debug)]
pub(super) struct Client {
    name: String,
    record: Record,
    task: JoinHandle<()>,
}

/// What a client has seen since the last call of [`Client::take`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// With the port of the server that the session was on.
    pub(super) failures: Vec<(Option<u16>, Failure)>,
    pub(super) wrong: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Record(Arc<Mutex<(Seen, u64)>>);

impl Record {
    fn locked(&self) -> MutexGuard<'_, (Seen, u64)> {
        self.0.lock().expect("nobody panics with this lock")
    }
}

impl Client {
    pub(super) fn start(name: &str, usage: Usage, work: impl Work) -> Client {
        let record = Record::default();
        let task = tokio::spawn(stay(name.to_owned(), usage, work, record.clone()));
        Client { name: name.to_owned(), record, task }
    }

    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut self.record.locked().0)
    }

    /// Waits until it has done two rounds more: one of them began after this call.
    pub(super) async fn wait_for_rounds(&self, within: Duration) -> Result<()> {
        let wanted = self.record.locked().1 + 2;
        wait::until(&format!("two rounds of {}", self.name), within, || async {
            let record = self.record.locked();
            let last = record.0.failures.last().map_or("none", |(_, failure)| &failure.message);
            if record.1 >= wanted { Ok(()) } else { Err(format!("{} of {wanted}; last failure: {last}", record.1)) }
        })
        .await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stay(name: String, usage: Usage, mut work: impl Work, record: Record) {
    loop {
        match usage.login.open_as(&name, usage.server, CONNECT_WITHIN).await {
            Ok(mut session) => {
                let mut node = None;
                match work_in(&mut session, usage, &mut work, &mut node, &record).await {
                    Some(Stop::Failed(failure)) => {
                        let failure = session.reason(failure).await;
                        record.locked().0.failures.push((node, failure));
                    }
                    Some(Stop::Wrong(what)) => record.locked().0.wrong.push(what),
                    None => {}
                }
            }
            Err(error) => record.locked().0.failures.push((None, Failure::connecting(&error))),
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// Works until the session has ended, and returns why unless the client has ended it.
async fn work_in(
    session: &mut Session,
    usage: Usage,
    work: &mut impl Work,
    node: &mut Option<u16>,
    record: &Record,
) -> Option<Stop> {
    let opened = Instant::now();
    let begin = async {
        *node = Some(where_it_is(session, usage.port).await?);
        work.begin(session).await
    };
    if let Err(stop) = in_time(begin).await {
        return Some(stop);
    }
    loop {
        if let Err(stop) = in_time(work.round(session)).await {
            return Some(stop);
        }
        record.locked().1 += 1;
        if usage.session_lasts.is_some_and(|lasts| opened.elapsed() > lasts) {
            return None;
        }
        if let Ok(end) = timeout(usage.pace, session.ended()).await {
            return Some(Stop::Failed(end));
        }
    }
}

async fn in_time(work: impl Future<Output = Outcome>) -> Outcome {
    timeout(ANSWER_WITHIN, work).await.unwrap_or_else(|_elapsed| Err(Stop::Failed(Failure::unanswered())))
}

/// The port of the session's server. Errors: the session is on the port for writes, and its server is in recovery.
pub(super) async fn where_it_is(session: &Session, port: Port) -> std::result::Result<u16, Stop> {
    let answer = session.client.simple_query(WHERE_AM_I).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or_else(|| Stop::Wrong("a query without a row".to_owned()))?;
    if port == Port::Write && row.get(1) == Some("t") {
        let message = "a session on the write port is on a server in recovery".to_owned();
        let failure = Failure { at: Instant::now(), class: FailureClass::ReadOnly, sqlstate: None, message };
        return Err(Stop::Failed(failure));
    }
    let number = row.get(0).and_then(|port| port.parse().ok());
    number.ok_or_else(|| Stop::Wrong(format!("the server says that its port is {:?}", row.get(0))))
}
