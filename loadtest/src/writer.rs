//! A client that writes one numbered row after another, and records when each was acknowledged and each failure.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::failure::{Failure, FailureClass};
use crate::lab::Lab;
use crate::login::{Login, Session};
use crate::tls::Endpoint;
use crate::{Error, Result};

/// The time between two attempts to connect: short enough to see when a proxy accepts one, and no busy loop.
const RECONNECT_PAUSE: Duration = Duration::from_millis(2);

/// The table is made and read back while the cluster has a leader, or is about to get one.
const LEADER_WITHIN: Duration = Duration::from_secs(30);

/// The description of a writer; [`Writer::start`] starts it.
#[derive(Debug, Clone)]
pub struct Writer {
    name: String,
    server: Endpoint,
    login: Login,
    pace: Duration,
    connect_within: Duration,
    answer_within: Duration,
    session_lasts: Option<Duration>,
    stays_on_read_only: bool,
}

/// A writer at work; dropping it ends it.
#[derive(Debug)]
pub struct RunningWriter {
    run: i64,
    name: String,
    record: Record,
    task: JoinHandle<()>,
}

/// What a writer saw.
#[derive(Debug, Clone)]
pub struct WriterReport {
    /// The writer's name.
    pub name: String,
    /// Rows that the server has acknowledged, in order.
    pub acks: Vec<Ack>,
    /// Everything that went wrong, in order.
    pub failures: Vec<Failure>,
    run: i64,
}

/// An acknowledged row.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// The row's number.
    pub id: i64,
    /// When the acknowledgement arrived.
    pub at: Instant,
}

/// A time without an acknowledged write.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// The last acknowledgement before it.
    pub from: Instant,
    /// The first one after it.
    pub to: Instant,
}

impl Gap {
    /// Its length.
    pub fn length(&self) -> Duration {
        self.to - self.from
    }
}

/// The longest gap between acknowledgements, of all writers together.
pub fn longest_gap<'a>(acks: impl IntoIterator<Item = &'a Ack>) -> Option<Gap> {
    let mut times: Vec<Instant> = acks.into_iter().map(|ack| ack.at).collect();
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| Gap { from: pair[0], to: pair[1] });
    gaps.max_by_key(Gap::length)
}

/// Where a writer records what it sees.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Progress>>);

impl Record {
    /// A row was acknowledged just now.
    pub(crate) fn acknowledged(&self, id: i64) {
        self.locked().acks.push(Ack { id, at: Instant::now() });
    }

    /// Something went wrong.
    pub(crate) fn failed(&self, failure: Failure) {
        self.locked().failures.push(failure);
    }

    fn locked(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().expect("nobody panics with this lock")
    }
}

#[derive(Debug, Default)]
struct Progress {
    acks: Vec<Ack>,
    failures: Vec<Failure>,
}

impl Writer {
    /// A writer that connects to `server`, usually a proxy, and reconnects after every failure.
    pub fn to(name: &str, server: impl Into<Endpoint>) -> Self {
        Self {
            name: name.to_owned(),
            server: server.into(),
            login: Login::Trusting,
            pace: Duration::from_millis(5),
            connect_within: Duration::from_secs(60),
            answer_within: Duration::from_secs(5),
            session_lasts: None,
            stays_on_read_only: false,
        }
    }

    /// One writer per node, each at its node's PostgreSQL and nowhere else: together they see when the *cluster* takes
    /// writes. They stay connected to a replica and try again, so that they notice its promotion at once.
    pub fn direct(lab: &Lab) -> Vec<Self> {
        let to_node = |node: &crate::lab::Node| Self { stays_on_read_only: true, ..Self::to(&node.name, node.pg) };
        lab.nodes().iter().map(to_node).collect()
    }

    /// Connects as `login` instead of [`Login::Trusting`].
    pub fn login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }

    /// Pause between an acknowledgement and the next row; 5 ms unless set.
    pub fn pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// How long it waits for a connection; 60 s unless set, longer than a proxy holds one.
    pub fn connect_within(mut self, within: Duration) -> Self {
        self.connect_within = within;
        self
    }

    /// How long it waits for an acknowledgement; 5 s unless set.
    pub fn answer_within(mut self, within: Duration) -> Self {
        self.answer_within = within;
        self
    }

    /// After this time it ends its session and begins another one; never unless set.
    pub fn session_lasts(mut self, time: Option<Duration>) -> Self {
        self.session_lasts = time;
        self
    }

    /// Makes the table that every writer uses, on the leader.
    pub async fn prepare(lab: &Lab) -> Result<()> {
        let client = client_of_leader(lab).await?;
        let statement = "create table if not exists writes
                (writer text, run bigint, id bigint, at timestamptz default clock_timestamp(), primary key (writer, run, id));
            grant all on writes to public";
        let done = client.batch_execute(statement).await;
        done.map_err(|source| Error::Postgres { doing: "making the table of writes".to_owned(), source })
    }

    /// Starts writing.
    pub fn start(self) -> RunningWriter {
        let name = self.name.clone();
        RunningWriter::of(&name, |run, record| self.write(run, record))
    }

    async fn write(self, run: i64, record: Record) {
        let mut id = 0;
        loop {
            match self.login.open_as(&self.name, self.server, self.connect_within).await {
                Ok(mut session) => {
                    self.write_in_session(&mut session, run, &mut id, &record).await;
                }
                Err(error) => record.failed(Failure::connecting(&error)),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Writes until the session fails. A number is never used twice, because a row whose insert failed may have been
    /// written.
    async fn write_in_session(&self, session: &mut Session, run: i64, id: &mut i64, record: &Record) {
        let opened = Instant::now();
        while self.session_lasts.is_none_or(|time| opened.elapsed() < time) {
            *id += 1;
            let statement = format!("insert into writes (writer, run, id) values ('{}', {run}, {id})", self.name);
            let answer = tokio::time::timeout(self.answer_within, session.client.batch_execute(&statement)).await;
            let failure = match answer {
                Ok(Ok(())) => {
                    record.acknowledged(*id);
                    tokio::time::sleep(self.pace).await;
                    continue;
                }
                Ok(Err(error)) => session.reason(Failure::of_statement(&error)).await,
                Err(_elapsed) => Failure::unanswered(),
            };
            let stays = self.stays_on_read_only && failure.class == FailureClass::ReadOnly;
            record.failed(failure);
            if !stays {
                return;
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

impl RunningWriter {
    /// Starts what `write` returns. It is given a number for the rows of this run, and where it records what it sees.
    pub(crate) fn of<F>(name: &str, write: impl FnOnce(i64, Record) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // So that rows of an earlier run with the same name are not counted.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = i64::try_from(since_epoch.as_micros()).unwrap_or_default();
        let record = Record::default();
        let task = tokio::spawn(write(run, record.clone()));
        RunningWriter { run, name: name.to_owned(), record, task }
    }

    /// How many rows have been acknowledged so far.
    pub fn acks_so_far(&self) -> usize {
        self.record.locked().acks.len()
    }

    /// How many failures it has met so far.
    pub fn failures_so_far(&self) -> usize {
        self.record.locked().failures.len()
    }

    /// Waits until `more` further rows have been acknowledged.
    pub async fn wait_for_acks(&self, more: usize, within: Duration) -> Result<()> {
        let wanted = self.acks_so_far() + more;
        crate::wait::until(&format!("{more} more writes through {}", self.name), within, || async {
            let (acks, failure) = {
                let progress = self.record.locked();
                (progress.acks.len(), progress.failures.last().map(|failure| failure.message.clone()))
            };
            let seen = || format!("{acks} of {wanted}; last failure: {}", failure.as_deref().unwrap_or("none"));
            if acks >= wanted { Ok(()) } else { Err(seen()) }
        })
        .await
    }

    /// What it has seen so far.
    pub fn so_far(&self) -> WriterReport {
        let progress = self.record.locked();
        let Progress { acks, failures } = &*progress;
        WriterReport { name: self.name.clone(), acks: acks.clone(), failures: failures.clone(), run: self.run }
    }

    /// Ends the writer; a row that is just being written is not counted.
    pub async fn finish(mut self) -> WriterReport {
        self.task.abort();
        let _cancelled = (&mut self.task).await;
        let Progress { acks, failures } = std::mem::take(&mut *self.record.locked());
        WriterReport { name: self.name.clone(), acks, failures, run: self.run }
    }
}

impl Drop for RunningWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WriterReport {
    /// The longest time between two acknowledgements.
    pub fn longest_gap(&self) -> Option<Gap> {
        longest_gap(&self.acks)
    }

    /// How many failures were of this kind.
    pub fn count(&self, class: FailureClass) -> usize {
        self.failures.iter().filter(|failure| failure.class == class).count()
    }

    /// The first acknowledgement after `moment`.
    pub fn first_ack_after(&self, moment: Instant) -> Option<Ack> {
        self.acks.iter().find(|ack| ack.at > moment).copied()
    }

    /// The last acknowledgement before `moment`.
    pub fn last_ack_before(&self, moment: Instant) -> Option<Ack> {
        self.acks.iter().rev().find(|ack| ack.at < moment).copied()
    }

    /// Acknowledged rows that the present leader does not have.
    pub async fn missing_rows(&self, lab: &Lab) -> Result<Vec<i64>> {
        let client = client_of_leader(lab).await?;
        let query = "select id from writes where writer = $1 and run = $2";
        let rows = client.query(query, &[&self.name, &self.run]).await;
        let rows = rows.map_err(|source| Error::Postgres { doing: "reading the rows back".to_owned(), source })?;
        let present: std::collections::HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        Ok(self.acks.iter().map(|ack| ack.id).filter(|id| !present.contains(id)).collect())
    }
}

/// A session of the table's owner.
async fn client_of_leader(lab: &Lab) -> Result<Client> {
    let leader = lab.wait_for_leader(LEADER_WITHIN).await?;
    Login::App.connect(lab.nodes()[leader].pg, LEADER_WITHIN).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_across_writers() {
        let start = Instant::now();
        let ack = |ms: u64| Ack { id: 0, at: start + Duration::from_millis(ms) };
        let (old_leader, new_leader) = ([ack(0), ack(10), ack(20)], [ack(320), ack(325)]);
        let gap = longest_gap(new_leader.iter().chain(&old_leader)).expect("there are acks");
        assert_eq!(gap.length(), Duration::from_millis(300));
        assert!(longest_gap(&[ack(1)]).is_none());
    }
}
