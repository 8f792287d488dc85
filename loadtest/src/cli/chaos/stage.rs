//! The cluster, pgvane and the load on them, and what is checked after each fault.

use std::time::Duration;

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::reader::{Reader, RunningReader};
use pgvane_loadtest::tls::Endpoint;
use pgvane_loadtest::writer::{RunningWriter, Writer};
use pgvane_loadtest::{Result, wait};

use super::faults::{self, Outcome, Target};
use super::idle::IdleSession;
use super::judge::{Facts, Port, cause};
use super::plan::Step;
use super::report::{Seen, StepReport};
use super::watch::{Usage, Watch};

const WRITERS: usize = 4;
const WRITERS_PACE: Duration = Duration::from_millis(20);
const READERS_PACES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(130)];
const IDLE_SESSIONS: usize = 2;
/// Longer than any fault: a server that is stopped for some seconds is no reason for a session to end.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
const CLUSTER_SOUND_WITHIN: Duration = Duration::from_secs(180);
const PGVANE_SOUND_WITHIN: Duration = Duration::from_secs(60);
const FLAT_WITHIN: Duration = Duration::from_secs(30);
/// Checks and sessions of this load come and go.
const DESCRIPTORS_SLACK: usize = 60;
/// After 1000 connections, the allocator keeps some memory.
const BYTES_SLACK: u64 = 48 * 1024 * 1024;
/// What one connection may need during a fault: two sockets, and two pipes with two ends each.
const DESCRIPTORS_PER_CONNECTION: usize = 6;
/// What one session may need during a fault, with TLS and with a client that does not read.
const BYTES_PER_CONNECTION: u64 = 512 * 1024;

pub(super) struct Stage<'a> {
    lab: &'a Lab,
    pgvane: &'a Pgvane,
    write: Endpoint,
    writers: Vec<(RunningWriter, usize)>,
    readers: [RunningReader; 2],
    new_sessions: RunningReader,
    idle: Vec<IdleSession>,
    facts: Facts,
    watch: Watch,
    /// pgvane's usage at the beginning.
    start: Usage,
}

impl<'a> Stage<'a> {
    /// Starts the load and waits until all of it is served.
    pub(super) async fn new(lab: &'a Lab, pgvane: &'a Pgvane, tls: bool) -> Result<Self> {
        lab.wait_for_sync_standby(CLUSTER_SOUND_WITHIN).await?;
        let leader = lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        let write = Endpoint { address: pgvane.write_addr, tls };
        let read = Endpoint { address: pgvane.read_addr, tls };
        let mut stage = Self {
            lab,
            pgvane,
            write,
            writers: (0..WRITERS).map(|number| (writer(number, write), 0)).collect(),
            readers: READERS_PACES.map(|pace| Reader::to(read).pace(pace).start()),
            new_sessions: Reader::to(write).pace(READERS_PACES[0]).start(),
            idle: (0..IDLE_SESSIONS).map(|_| IdleSession::start(write)).collect(),
            facts: Facts::of(lab, leader).await,
            watch: Watch::start(pgvane.process_id()),
            start: Usage::default(),
        };
        stage.pgvane_is_sound().await?;
        stage.start = Usage::of(pgvane.process_id())?;
        stage.watch.take_peak();
        Ok(stage)
    }

    /// Causes one fault, waits until the cluster works again, and checks everything. An error is one of the lab.
    pub(super) async fn step(&mut self, step: Step) -> Result<StepReport> {
        let mut report = StepReport::default();
        let target = Target { lab: self.lab, pgvane: self.pgvane, write: self.write, leader: self.facts.leader };
        match faults::inflict(step, target).await {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Refused(reason)) => report.refused = Some(reason),
            Err(error) if step.fault.is_on_ports() => {
                report.violations.push(format!("a client was not served: {error}"));
            }
            Err(error) => return Err(error),
        }
        self.lab.wait_until_all_streaming(CLUSTER_SOUND_WITHIN).await?;
        self.lab.wait_for_sync_standby(CLUSTER_SOUND_WITHIN).await?;
        let leader = self.lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        if let Err(error) = self.pgvane_is_sound().await {
            report.violations.push(format!("the cluster is sound, but clients are not served: {error}"));
        }
        let before = std::mem::replace(&mut self.facts, Facts::of(self.lab, leader).await);
        self.judge_failures(step, &before, &mut report);
        self.judge_writes(&mut report.violations).await?;
        self.judge_usage(step, &mut report).await?;
        if self.pgvane.log_text().contains("panicked") {
            report.violations.push("pgvane's log has a panic".to_owned());
        }
        Ok(report)
    }

    /// Every writer writes, and every replica answers reads.
    async fn pgvane_is_sound(&self) -> Result<()> {
        for (writer, _) in &self.writers {
            writer.wait_for_acks(5, PGVANE_SOUND_WITHIN).await?;
        }
        let leader = self.lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        for (_, node) in self.lab.nodes().iter().enumerate().filter(|(node, _)| *node != leader) {
            // Either will do: while two readers take turns, each of them meets the same replica again and again.
            let [one, other] = &self.readers;
            tokio::select! {
                served = one.wait_for_answer_of(node.pg.port(), PGVANE_SOUND_WITHIN) => served?,
                served = other.wait_for_answer_of(node.pg.port(), PGVANE_SOUND_WITHIN) => served?,
            }
        }
        Ok(())
    }

    /// Every session and login that ended is either explained or a violation.
    fn judge_failures(&mut self, step: Step, before: &Facts, report: &mut StepReport) {
        let mut failures = Vec::new();
        for (writer, judged) in &mut self.writers {
            let new = writer.so_far().failures.split_off(*judged);
            *judged += new.len();
            failures.extend(new.into_iter().map(|failure| (Port::Write, failure)));
        }
        let new_sessions = self.new_sessions.take();
        if new_sessions.visits.iter().any(|visit| visit.in_recovery) {
            report.violations.push("a new session on the write port was on a server in recovery".to_owned());
        }
        failures.extend(new_sessions.failures.into_iter().map(|failure| (Port::Write, failure)));
        failures.extend(self.idle.iter().flat_map(IdleSession::take).map(|failure| (Port::Write, failure)));
        for reader in &self.readers {
            failures.extend(reader.take().failures.into_iter().map(|failure| (Port::Read, failure)));
        }
        for (port, failure) in failures {
            match cause(step.fault, port, &failure, before, &self.facts) {
                Some(cause) => report.seen.push(Seen { port, failure, cause }),
                None => report.violations.push(format!("{} port: {}", port.name(), failure.message)),
            }
        }
    }

    async fn judge_writes(&self, violations: &mut Vec<String>) -> Result<()> {
        for (writer, _) in &self.writers {
            let report = writer.so_far();
            let missing = report.missing_rows(self.lab).await?;
            if !missing.is_empty() {
                violations.push(format!("{}: acknowledged rows are lost: {missing:?}", report.name));
            }
        }
        Ok(())
    }

    /// pgvane's usage is bounded while a fault lasts, and soon after it as at the beginning.
    async fn judge_usage(&self, step: Step, report: &mut StepReport) -> Result<()> {
        report.peak = self.watch.take_peak();
        let connections = step.fault.connections();
        let peak_max = Usage {
            bytes: self.start.bytes
                + BYTES_SLACK
                + BYTES_PER_CONNECTION * u64::try_from(connections).unwrap_or(u64::MAX),
            descriptors: self.start.descriptors + DESCRIPTORS_SLACK + DESCRIPTORS_PER_CONNECTION * connections,
        };
        if report.peak.max(peak_max) != peak_max {
            report.violations.push(format!("pgvane has used {} (at most {peak_max})", report.peak));
        }
        let flat =
            Usage { bytes: self.start.bytes + BYTES_SLACK, descriptors: self.start.descriptors + DESCRIPTORS_SLACK };
        let settled = wait::until("pgvane's memory and descriptors as at the beginning", FLAT_WITHIN, || async {
            let usage = Usage::of(self.pgvane.process_id()).map_err(|error| error.to_string())?;
            if usage.max(flat) == flat { Ok(()) } else { Err(format!("{usage} (at most {flat})")) }
        });
        if let Err(error) = settled.await {
            report.violations.push(error.to_string());
        }
        report.after = Usage::of(self.pgvane.process_id())?;
        Ok(())
    }
}

/// Half of the writers log in with a password (SCRAM).
fn writer(number: usize, server: Endpoint) -> RunningWriter {
    let login = if number % 2 == 0 { Login::Trusting } else { Login::App };
    let writer = Writer::to(&format!("writer{number}"), server).login(login).pace(WRITERS_PACE);
    writer.connect_within(ANSWER_WITHIN * 2).answer_within(ANSWER_WITHIN).start()
}
