//! A client that connects, asks which node answers, and disconnects, again and again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::failure::Failure;
use crate::login::Login;
use crate::tls::Endpoint;
use crate::{Result, wait};

/// How long one visit may take, from connecting to the answer.
const VISIT_WITHIN: Duration = Duration::from_secs(60);

/// The description of a reader; [`Reader::start`] starts it.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    server: Endpoint,
    login: Login,
    pace: Duration,
}

/// A reader at work; dropping it ends it.
#[derive(Debug)]
pub struct RunningReader {
    report: Arc<Mutex<ReaderReport>>,
    task: JoinHandle<()>,
}

/// What a reader saw.
#[derive(Debug, Clone, Default)]
pub struct ReaderReport {
    /// Every visit that was answered, in order.
    pub visits: Vec<Visit>,
    /// Everything that went wrong, in order.
    pub failures: Vec<Failure>,
}

/// One answered visit.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// When the answer arrived.
    pub at: Instant,
    /// The port of the PostgreSQL server that answered: it identifies the node, through any proxy.
    pub port: u16,
    /// Whether it was a replica.
    pub in_recovery: bool,
}

impl Reader {
    /// A reader that visits `server`, usually a proxy.
    pub fn to(server: impl Into<Endpoint>) -> Self {
        Self { server: server.into(), login: Login::Trusting, pace: Duration::from_millis(5) }
    }

    /// Connects as `login` instead of [`Login::Trusting`].
    pub fn login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }

    /// Pause between two visits; 5 ms unless set.
    pub fn pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// Connects once, asks, and disconnects.
    pub async fn visit(self) -> std::result::Result<Visit, Failure> {
        let client =
            self.login.connect(self.server, VISIT_WITHIN).await.map_err(|error| Failure::connecting(&error))?;
        // Without a prepared statement: a pooler that pools transactions does not keep one.
        let asking = client.simple_query("select inet_server_port(), pg_is_in_recovery()");
        let answer = tokio::time::timeout(VISIT_WITHIN, asking).await.map_err(|_elapsed| Failure::unanswered())?;
        let answer = answer.map_err(|error| Failure::of_statement(&error))?;
        let row = answer.iter().find_map(row_of).expect("the query returns one row");
        let port = row.get(0).and_then(|port| port.parse().ok()).expect("PostgreSQL listens on a port");
        Ok(Visit { at: Instant::now(), port, in_recovery: row.get(1) == Some("t") })
    }

    /// Starts reading.
    pub fn start(self) -> RunningReader {
        let report = Arc::new(Mutex::new(ReaderReport::default()));
        let shared = Arc::clone(&report);
        let task = tokio::spawn(async move {
            loop {
                let outcome = self.visit().await;
                {
                    let mut report = locked(&shared);
                    match outcome {
                        Ok(visit) => report.visits.push(visit),
                        Err(failure) => report.failures.push(failure),
                    }
                }
                tokio::time::sleep(self.pace).await;
            }
        });
        RunningReader { report, task }
    }
}

impl RunningReader {
    /// What it has seen so far.
    fn so_far(&self) -> ReaderReport {
        locked(&self.report).clone()
    }

    /// What it has seen since it began, or since the last call.
    pub fn take(&self) -> ReaderReport {
        std::mem::take(&mut *locked(&self.report))
    }

    /// Waits until the server on `port` has answered a visit that ended after this call.
    pub async fn wait_for_answer_of(&self, port: u16, within: Duration) -> Result<()> {
        let from = Instant::now();
        wait::until(&format!("an answer of the server on port {port}"), within, || async {
            let report = self.so_far();
            match report.visits.iter().any(|visit| visit.port == port && visit.at > from) {
                true => Ok(()),
                false => Err(format!("{:?}", report.visits_by_port())),
            }
        })
        .await
    }

    /// Ends the reader.
    pub async fn finish(mut self) -> ReaderReport {
        self.task.abort();
        let _cancelled = (&mut self.task).await;
        std::mem::take(&mut *locked(&self.report))
    }
}

impl Drop for RunningReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ReaderReport {
    /// How many visits each server has answered.
    fn visits_by_port(&self) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for visit in &self.visits {
            *counts.entry(visit.port).or_default() += 1;
        }
        counts
    }
}

fn row_of(message: &SimpleQueryMessage) -> Option<&SimpleQueryRow> {
    match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }
}

fn locked(report: &Mutex<ReaderReport>) -> MutexGuard<'_, ReaderReport> {
    report.lock().expect("nobody panics with this lock")
}
