//! `loadtest chaos`: faults at random on a cluster with pgvane in front, and after each a check of what clients saw.

mod faults;
mod idle;
mod judge;
mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use pgvane_loadtest::bench::usage;
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::reader::{Reader, RunningReader};
use pgvane_loadtest::writer::{RunningWriter, Writer};
use pgvane_loadtest::{Error, Result, wait};

use self::idle::IdleSession;
use self::judge::{Door, Facts, violation};
use self::plan::{Plan, Step};
use super::unless_interrupted;

const WRITERS: usize = 4;
const WRITERS_PACE: Duration = Duration::from_millis(20);
const READERS_PACE: Duration = Duration::from_millis(100);
const IDLE_SESSIONS: usize = 2;
/// Longer than any step without a leader, so that a refusal is never explained by the cluster.
const HOLD_MAX: &str = "120s";
/// Longer than any fault: a frozen server is no reason for a session to end.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
const CLUSTER_SOUND_WITHIN: Duration = Duration::from_secs(180);
const PGVANE_SOUND_WITHIN: Duration = Duration::from_secs(60);
const FLAT_WITHIN: Duration = Duration::from_secs(30);
/// Checks and sessions of this load come and go.
const DESCRIPTORS_SLACK: usize = 60;
/// A crowd of 1000 leaves some memory with the allocator.
const MEMORY_SLACK: u64 = 48 * 1024 * 1024;
const LOG_LINES: usize = 30;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary
    #[arg(long, value_name = "PATH")]
    pgvane: PathBuf,
    /// How long; the last fault is finished
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// What chooses the faults: the same seed, the same faults
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(chaos(options)).await.map(drop)
}

async fn chaos(options: &Options) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(options.minutes * 60);
    println!("seed {}; starting the cluster", options.seed);
    let lab = Lab::builder().synchronous_mode(true).start().await?;
    Writer::prepare(&lab).await?;
    let pgvane = Pgvane::builder(&options.pgvane, lab.nodes()).cluster("leader_grace = \"15s\"").hold_max(HOLD_MAX);
    let pgvane = pgvane.start(lab.directory()).await?;
    let mut stage = Stage::new(&lab, &pgvane).await?;
    let mut table: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    let mut failed = None;
    for (number, step) in Plan::new(options.seed).enumerate() {
        if Instant::now() >= until {
            break;
        }
        let began = Instant::now();
        let logged = pgvane.log_text().len();
        let outcome = stage.step(step).await;
        let row = table.entry(step.fault.name()).or_default();
        row.0 += 1;
        let violations = match outcome {
            Ok(violations) => violations,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        row.1 += violations.len();
        println!("{:3}  {:<55} {:5.1} s  {}", number + 1, step.fault.name(), began.elapsed().as_secs_f64(), stage.seen);
        report(&violations, pgvane.log_text().get(logged..).unwrap_or_default());
    }
    finish(&table, failed)
}

fn report(violations: &[String], log: &str) {
    for violation in violations {
        println!("     VIOLATION: {violation}");
    }
    if !violations.is_empty() {
        let lines: Vec<&str> = log.lines().collect();
        println!("     pgvane's log since the fault began, its last lines:");
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            println!("       {line}");
        }
    }
}

fn finish(table: &BTreeMap<&'static str, (usize, usize)>, failed: Option<Error>) -> Result<()> {
    println!("\n| fault | times | violations |\n|---|--:|--:|");
    for (name, (times, violations)) in table {
        println!("| {name} | {times} | {violations} |");
    }
    let violations: usize = table.values().map(|(_, violations)| violations).sum();
    match failed {
        Some(error) => Err(error),
        None if violations > 0 => {
            Err(Error::Command { command: "chaos".to_owned(), output: format!("{violations} violations") })
        }
        None => Ok(()),
    }
}

/// The cluster, pgvane, and the load on them.
struct Stage<'a> {
    lab: &'a Lab,
    pgvane: &'a Pgvane,
    writers: Vec<(RunningWriter, usize)>,
    readers: Vec<RunningReader>,
    newcomer: RunningReader,
    idle: Vec<IdleSession>,
    facts: Facts,
    /// pgvane's memory and descriptors at the beginning.
    usage: (u64, usize),
    seen: String,
}

impl<'a> Stage<'a> {
    async fn new(lab: &'a Lab, pgvane: &'a Pgvane) -> Result<Self> {
        lab.wait_for_sync_standby(CLUSTER_SOUND_WITHIN).await?;
        let leader = lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        let writer = |number| Writer::to(&format!("writer{number}"), pgvane.write_addr).pace(WRITERS_PACE);
        let writer = |number| writer(number).connect_within(ANSWER_WITHIN * 2).answer_within(ANSWER_WITHIN).start();
        let mut stage = Self {
            lab,
            pgvane,
            writers: (0..WRITERS).map(|number| (writer(number), 0)).collect(),
            readers: (0..2).map(|_| Reader::to(pgvane.read_addr).pace(READERS_PACE).start()).collect(),
            newcomer: Reader::to(pgvane.write_addr).pace(READERS_PACE).start(),
            idle: (0..IDLE_SESSIONS).map(|_| IdleSession::start(pgvane.write_addr)).collect(),
            facts: Facts::of(lab, leader).await,
            usage: (0, 0),
            seen: String::new(),
        };
        stage.pgvane_is_sound().await?;
        stage.usage = stage.usage_now()?;
        Ok(stage)
    }

    /// One fault, the way back to a sound cluster, and what was wrong. An error is one of the lab's or the tool's.
    async fn step(&mut self, step: Step) -> Result<Vec<String>> {
        let mut violations = Vec::new();
        match faults::inflict(step, self.lab, self.pgvane, self.facts.leader).await {
            Err(error) if step.fault.is_on_ports() => violations.push(format!("a client was not served: {error}")),
            done => done?,
        }
        self.lab.wait_until_all_streaming(CLUSTER_SOUND_WITHIN).await?;
        self.lab.wait_for_sync_standby(CLUSTER_SOUND_WITHIN).await?;
        let leader = self.lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        if let Err(error) = self.pgvane_is_sound().await {
            violations.push(format!("the cluster is sound, but clients are not served: {error}"));
        }
        let before = std::mem::replace(&mut self.facts, Facts::of(self.lab, leader).await);
        self.judge_failures(&before, &mut violations);
        self.judge_writes(&mut violations).await?;
        if let Err(error) = self.usage_is_flat().await {
            violations.push(error.to_string());
        }
        if self.pgvane.log_text().contains("panicked") {
            violations.push("pgvane's log has a panic".to_owned());
        }
        Ok(violations)
    }

    /// Every writer writes, and every replica answers reads.
    async fn pgvane_is_sound(&self) -> Result<()> {
        for (writer, _) in &self.writers {
            writer.wait_for_acks(5, PGVANE_SOUND_WITHIN).await?;
        }
        let leader = self.lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        for (_, node) in self.lab.nodes().iter().enumerate().filter(|(node, _)| *node != leader) {
            self.readers[0].wait_for_answer_of(node.pg.port(), PGVANE_SOUND_WITHIN).await?;
        }
        Ok(())
    }

    fn judge_failures(&mut self, before: &Facts, violations: &mut Vec<String>) {
        let mut failures = Vec::new();
        for (writer, judged) in &mut self.writers {
            let new = writer.so_far().failures.split_off(*judged);
            *judged += new.len();
            failures.extend(new.into_iter().map(|failure| (Door::Write, failure)));
        }
        let newcomer = self.newcomer.take();
        if newcomer.visits.iter().any(|visit| visit.in_recovery) {
            violations.push("a new session on the write port was on a server in recovery".to_owned());
        }
        failures.extend(newcomer.failures.into_iter().map(|failure| (Door::Write, failure)));
        failures.extend(self.idle.iter().flat_map(IdleSession::take).map(|failure| (Door::Write, failure)));
        for reader in &self.readers {
            failures.extend(reader.take().failures.into_iter().map(|failure| (Door::Read, failure)));
        }
        self.seen = format!("{} sessions or logins ended", failures.len());
        let unexplained = failures.iter().filter_map(|(door, failure)| violation(*door, failure, before, &self.facts));
        violations.extend(unexplained);
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

    fn usage_now(&self) -> Result<(u64, usize)> {
        let pid = self.pgvane.process_id();
        Ok((usage::resident_bytes(pid)?, usage::descriptors(pid)?))
    }

    async fn usage_is_flat(&self) -> Result<()> {
        let (memory_max, descriptors_max) = (self.usage.0 + MEMORY_SLACK, self.usage.1 + DESCRIPTORS_SLACK);
        wait::until("pgvane's memory and descriptors as at the beginning", FLAT_WITHIN, || async {
            let (memory, descriptors) = self.usage_now().map_err(|error| error.to_string())?;
            match memory <= memory_max && descriptors <= descriptors_max {
                true => Ok(()),
                false => Err(format!(
                    "{} kB (at most {}), {descriptors} descriptors (at most {descriptors_max})",
                    memory / 1024,
                    memory_max / 1024
                )),
            }
        })
        .await
    }
}
