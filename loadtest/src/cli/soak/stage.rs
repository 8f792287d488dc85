//! The load on a world, and what is checked after each fault.

use std::time::Duration;

use pgvane_loadtest::{Result, wait};

use super::faults::{self, Outcome, Target};
use super::judge::{Events, Facts, cause};
use super::load::Load;
use super::plan::{Fault, Kind, Step};
use super::report::{Seen, StepReport};
use super::sabotage::Sabotage;
use super::watch::{Usage, Watch};
use super::world::World;

const CLUSTER_SOUND_WITHIN: Duration = Duration::from_secs(180);
const PGVANE_SOUND_WITHIN: Duration = Duration::from_secs(90);
const FLAT_WITHIN: Duration = Duration::from_secs(45);
/// Bytes and descriptors by which pgvane may exceed its usage at the beginning, when it rests after a fault.
///
/// Chaos measures while sessions come and go, and before the allocator has seen a crowd: after 1000 connections it keeps
/// some memory.
const CHAOS_SLACK: Usage = Usage { bytes: 48 * 1024 * 1024, descriptors: 60 };
/// A soak measures after such a crowd, and the least of some seconds. Then memory changed by up to 3 MB from step to step in
/// runs of an hour, and the pool of pipes keeps up to 16, with two ends each; a few sessions come and go.
const SOAK_SLACK: Usage = Usage { bytes: 8 * 1024 * 1024, descriptors: 32 + 12 };
/// What one connection may need during a fault: two sockets, and two pipes with two ends each.
const DESCRIPTORS_PER_CONNECTION: usize = 6;
/// What one session may need during a fault, with TLS and with a client that does not read.
const BYTES_PER_CONNECTION: u64 = 512 * 1024;
/// What has the allocator keep what it keeps after many connections.
const WARM_UP: [Fault; 3] = [Fault::OneByteConnections, Fault::NonReadingClients, Fault::SilentAdminConnections];
const WARM_UP_LASTS: Duration = Duration::from_secs(2);

pub(super) struct Stage<'a> {
    world: &'a World,
    kind: Kind,
    load: Load,
    facts: Facts,
    watch: Watch,
    /// pgvane's usage at the beginning.
    start: Usage,
}

impl<'a> Stage<'a> {
    /// Starts the load and waits until all of it is served.
    pub(super) async fn new(world: &'a World, kind: Kind, load: Load) -> Result<Self> {
        let lab = &world.lab;
        lab.wait_for_sync_standby(CLUSTER_SOUND_WITHIN).await?;
        let leader = lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        let (facts, watch) = (Facts::of(lab, leader).await, Watch::start(world.pgvane.processes()));
        let mut stage = Self { world, kind, load, facts, watch, start: Usage::default() };
        stage.load.is_served(lab, PGVANE_SOUND_WITHIN).await?;
        if kind == Kind::Soak {
            for fault in WARM_UP {
                faults::inflict(Step { fault, lasts: WARM_UP_LASTS, choice: 0 }, stage.target()).await?;
            }
            stage.load.is_served(lab, PGVANE_SOUND_WITHIN).await?;
        }
        stage.start = Usage::at_rest(world.pgvane.processes()).await;
        stage.watch.take_peak();
        Ok(stage)
    }

    /// pgvane's usage at the beginning.
    pub(super) fn start(&self) -> Usage {
        self.start
    }

    /// Causes one fault, waits until the cluster works again, and checks everything. An error is one of the lab.
    pub(super) async fn step(&mut self, step: Step, harm: Option<Sabotage>) -> Result<StepReport> {
        let mut report = StepReport::default();
        let lab = &self.world.lab;
        match faults::inflict(step, self.target()).await {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Refused(reason)) => report.refused = Some(reason),
            Err(error) if step.fault.is_borne_by_pgvane() => report.violations.push(error.to_string()),
            Err(error) => return Err(error),
        }
        let _kept = match harm {
            Some(harm) => harm.commit(self.world, self.facts.leader).await?,
            None => Vec::new(),
        };
        lab.wait_until_all_streaming(CLUSTER_SOUND_WITHIN).await?;
        lab.wait_for_sync_standby(CLUSTER_SOUND_WITHIN).await?;
        let leader = lab.wait_for_leader(CLUSTER_SOUND_WITHIN).await?;
        if let Err(error) = self.load.is_served(lab, PGVANE_SOUND_WITHIN).await {
            report.violations.push(format!("the cluster is sound, but clients are not served: {error}"));
        }
        let before = std::mem::replace(&mut self.facts, Facts::of(lab, leader).await);
        self.judge_clients(step, &before, &mut report);
        report.violations.extend(self.load.missing_writes(lab).await?);
        self.judge_usage(step, &mut report).await;
        Ok(report)
    }

    fn target(&self) -> Target<'_> {
        Target { world: self.world, load: &self.load, leader: self.facts.leader }
    }

    /// Every session and login that ended is either explained or a violation.
    fn judge_clients(&mut self, step: Step, before: &Facts, report: &mut StepReport) {
        let nodes = self.world.lab.nodes();
        let seen = self.load.take(nodes);
        report.violations.extend(seen.wrong);
        let node = step.node(before.leader, nodes.len());
        let events = Events { fault: step.fault, node, before, after: &self.facts };
        for loss in seen.losses {
            match cause(&loss, events) {
                Some(cause) => report.seen.push(Seen { port: loss.port, failure: loss.failure, cause }),
                None => {
                    let on = loss.node.map_or(String::new(), |node| format!(", on {}", nodes[node].name));
                    report.violations.push(format!("{} port{on}: {}", loss.port.name(), loss.failure.message));
                }
            }
        }
    }

    /// pgvane's usage is bounded while a fault lasts, and soon after it as at the beginning.
    async fn judge_usage(&self, step: Step, report: &mut StepReport) {
        report.peak = self.watch.take_peak();
        let peak_max = self.peak_max(step.fault);
        if !report.peak.is_within(peak_max) {
            report.violations.push(format!("pgvane has used {} (at most {peak_max})", report.peak));
        }
        let slack = if self.kind == Kind::Soak { SOAK_SLACK } else { CHAOS_SLACK };
        let flat = self.start.plus(slack);
        let settled = wait::until("pgvane's memory and descriptors as at the beginning", FLAT_WITHIN, || async {
            let usage = Usage::at_rest(self.world.pgvane.processes()).await;
            if usage.is_within(flat) { Ok(usage) } else { Err(format!("{usage} (at most {flat})")) }
        });
        match settled.await {
            Ok(usage) => report.after = usage,
            Err(error) => {
                report.violations.push(error.to_string());
                report.after = Usage::at_rest(self.world.pgvane.processes()).await;
            }
        }
    }

    fn peak_max(&self, fault: Fault) -> Usage {
        let connections = fault.connections();
        let of_connections = Usage {
            bytes: BYTES_PER_CONNECTION * u64::try_from(connections).unwrap_or(u64::MAX),
            descriptors: DESCRIPTORS_PER_CONNECTION * connections,
        };
        let one_process = self.start.plus(CHAOS_SLACK).plus(of_connections);
        if fault.is_upgrade() { one_process.plus(one_process) } else { one_process }
    }
}
