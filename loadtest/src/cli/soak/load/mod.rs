//! The clients of a run: short and long sessions, COPY, notifications, prepared statements, cancel requests.

mod cancel;
mod copy;
mod idle;
mod notify;
mod prepared;
mod session;

use std::time::Duration;

use pgvane_loadtest::Result;
use pgvane_loadtest::failure::Failure;
use pgvane_loadtest::lab::{Lab, Node};
use pgvane_loadtest::login::Login;
use pgvane_loadtest::reader::{Reader, RunningReader};
use pgvane_loadtest::tls::Endpoint;
use pgvane_loadtest::writer::{RunningWriter, Writer};

use self::cancel::Cancelled;
use self::copy::{Batches, CopyIn, CopyOut};
use self::idle::Idle;
use self::notify::Notify;
use self::prepared::Prepared;
use self::session::{ANSWER_WITHIN, Client, Usage};
use super::judge::{Loss, Port};
use super::plan::Kind;
use super::variant::Variant;

const WRITERS: usize = 4;
const WRITERS_PACE: Duration = Duration::from_millis(20);
/// There are more kinds of clients beside them, and all rows are read back after each step.
const WRITERS_PACE_IN_SOAK: Duration = Duration::from_millis(60);
const READERS_PACES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(130)];
const IDLE_SESSIONS: usize = 2;
const IDLE_PACE: Duration = Duration::from_millis(1500);
const WORK_PACE: Duration = Duration::from_millis(300);
/// How long a session of medium length lasts.
const MEDIUM_SESSION: Duration = Duration::from_secs(25);

/// pgvane's ports, as clients use them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) write: Endpoint,
    pub(super) read: Endpoint,
}

/// All clients; they run until it is dropped.
#[derive(Debug)]
pub(super) struct Load {
    writers: Vec<(RunningWriter, usize)>,
    readers: [RunningReader; 2],
    new_sessions: RunningReader,
    clients: Vec<(Port, Client)>,
    batches: Option<Batches>,
}

/// What the clients have seen since the last time.
#[derive(Debug, Default)]
pub(super) struct LoadReport {
    pub(super) losses: Vec<Loss>,
    /// What must never be.
    pub(super) wrong: Vec<String>,
}

impl Load {
    /// Starts the clients of this kind of run.
    pub(super) async fn start(lab: &Lab, ports: Ports, kind: Kind, variant: Variant) -> Result<Load> {
        Writer::prepare(lab).await?;
        copy::prepare(lab).await?;
        let Ports { write, read } = ports;
        // An upgrade does not move the others, and waits for their end.
        let longest = variant.ends_tls_at_pgvane().then_some(MEDIUM_SESSION);
        let mut load = Load {
            writers: (0..WRITERS).map(|number| (writer(number, write, kind, longest), 0)).collect(),
            readers: READERS_PACES.map(|pace| Reader::to(read).pace(pace).start()),
            new_sessions: Reader::to(write).pace(READERS_PACES[0]).start(),
            clients: Vec::new(),
            batches: None,
        };
        let usage = |port, login, pace, session_lasts| Usage {
            server: if port == Port::Write { write } else { read },
            port,
            login,
            pace,
            session_lasts,
        };
        for number in 0..IDLE_SESSIONS {
            let usage = usage(Port::Write, Login::Trusting, IDLE_PACE, longest);
            load.clients.push((Port::Write, Client::start(&format!("idle session {number}"), usage, Idle)));
        }
        if kind == Kind::Soak {
            load.start_sessions_of_soak(ports, variant, longest, usage);
        }
        Ok(load)
    }

    /// One of each in sessions that only a fault ends, and one in sessions of medium length.
    fn start_sessions_of_soak(
        &mut self,
        ports: Ports,
        variant: Variant,
        longest: Option<Duration>,
        usage: impl Fn(Port, Login, Duration, Option<Duration>) -> Usage,
    ) {
        let (long, medium) = (longest, Some(MEDIUM_SESSION));
        let (copy_in, batches) = CopyIn::new();
        self.batches = Some(batches);
        let on_write = |login, lasts| usage(Port::Write, login, WORK_PACE, lasts);
        let on_read = |login, lasts| usage(Port::Read, login, WORK_PACE, lasts);
        let notify = Notify::on("soak", ports.write, Login::Trusting);
        let clients = [
            (Port::Write, Client::start("COPY in", on_write(Login::App, long), copy_in)),
            (Port::Write, Client::start("COPY out, write port", on_write(Login::App, medium), CopyOut)),
            (Port::Read, Client::start("COPY out, read port", on_read(Login::App, long), CopyOut)),
            (Port::Write, Client::start("NOTIFY", on_write(Login::App, long), notify)),
            (Port::Write, Client::start("prepared, write port", on_write(Login::Trusting, long), Prepared::default())),
            (Port::Read, Client::start("prepared, read port", on_read(Login::Trusting, long), Prepared::default())),
            (Port::Read, Client::start("prepared, medium", on_read(Login::App, medium), Prepared::default())),
            (
                Port::Write,
                Client::start("cancelled, write port", on_write(Login::Trusting, long), Cancelled::default()),
            ),
        ];
        self.clients.extend(clients);
        // Encrypted end to end, a cancel request looks like a session: on the port for reads it may get another node.
        if !variant.passes_tls_through() {
            let usage = on_read(Login::App, medium);
            self.clients.push((Port::Read, Client::start("cancelled, read port", usage, Cancelled::default())));
        }
    }

    /// Every client is served, and every replica answers reads.
    pub(super) async fn is_served(&self, lab: &Lab, within: Duration) -> Result<()> {
        for (writer, _) in &self.writers {
            writer.wait_for_acks(5, within).await?;
        }
        for (_, client) in &self.clients {
            client.wait_for_rounds(within).await?;
        }
        let leader = lab.wait_for_leader(within).await?;
        for (_, node) in lab.nodes().iter().enumerate().filter(|(node, _)| *node != leader) {
            // Either will do: while two readers take turns, each of them meets the same replica again and again.
            let [one, other] = &self.readers;
            tokio::select! {
                served = one.wait_for_answer_of(node.pg.port(), within) => served?,
                served = other.wait_for_answer_of(node.pg.port(), within) => served?,
            }
        }
        Ok(())
    }

    /// What the clients have seen since the last call.
    pub(super) fn take(&mut self, nodes: &[Node]) -> LoadReport {
        let mut report = LoadReport::default();
        let mut lost = |port, node, failure: Failure| report.losses.push(Loss { port, node, failure });
        for (writer, judged) in &mut self.writers {
            let new = writer.so_far().failures.split_off(*judged);
            *judged += new.len();
            new.into_iter().for_each(|failure| lost(Port::Write, None, failure));
        }
        for reader in &self.readers {
            reader.take().failures.into_iter().for_each(|failure| lost(Port::Read, None, failure));
        }
        let new_sessions = self.new_sessions.take();
        new_sessions.failures.into_iter().for_each(|failure| lost(Port::Write, None, failure));
        for (port, client) in &self.clients {
            let seen = client.take();
            for (server, failure) in seen.failures {
                let node = server.and_then(|server| nodes.iter().position(|node| node.pg.port() == server));
                report.losses.push(Loss { port: *port, node, failure });
            }
            report.wrong.extend(seen.wrong);
        }
        if new_sessions.visits.iter().any(|visit| visit.in_recovery) {
            report.wrong.push("a new session on the write port was on a server in recovery".to_owned());
        }
        report
    }

    /// Acknowledged writes that the leader does not have.
    pub(super) async fn missing_writes(&self, lab: &Lab) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for (writer, _) in &self.writers {
            let report = writer.so_far();
            let rows = report.missing_rows(lab).await?;
            if !rows.is_empty() {
                missing.push(format!("{}: acknowledged rows are lost: {rows:?}", report.name));
            }
        }
        if let Some(batches) = &self.batches {
            let batches = batches.missing(lab).await?;
            if !batches.is_empty() {
                missing.push(format!("COPY in: acknowledged batches are lost: {batches:?}"));
            }
        }
        Ok(missing)
    }
}

/// Half of the writers log in with a password (SCRAM).
fn writer(number: usize, server: Endpoint, kind: Kind, session_lasts: Option<Duration>) -> RunningWriter {
    let login = if number % 2 == 0 { Login::Trusting } else { Login::App };
    let pace = if kind == Kind::Soak { WRITERS_PACE_IN_SOAK } else { WRITERS_PACE };
    let writer = Writer::to(&format!("writer{number}"), server).login(login).pace(pace).session_lasts(session_lasts);
    writer.connect_within(ANSWER_WITHIN * 2).answer_within(ANSWER_WITHIN).start()
}
