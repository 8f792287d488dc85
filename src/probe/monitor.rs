//! Drives one cluster's machine: gives it the time, sends the checks it asks for, publishes what it concludes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::checker::{CheckResult, Checker, CheckerError};
use super::discovery::Discoverer;
use super::handle::{AdminCommand, COMMANDS_MAX, ClusterHandle, SUSPICIONS_MAX};
use super::history::History;
use super::metrics::ClusterMetrics;
use crate::cluster::health::Thresholds;
use crate::cluster::machine::{Action, Change, Discovery, Event, Machine, Settings};
use crate::cluster::node::{CheckError, Observation};
use crate::cluster::{Moment, NodeId, Topology};
use crate::config;

/// Time between two looks at `/cluster`, which makes Patroni read its DCS.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

/// After a change of lead, time until the next look at `/cluster`: members tend to change with it.
const DISCOVERY_AFTER_CHANGE: Duration = Duration::from_secs(2);

/// Time between two looks at `/cluster` while no member is known.
const DISCOVERY_INTERVAL_AT_FIRST: Duration = Duration::from_secs(1);

/// A cluster's monitor, ready to run.
pub struct Monitor {
    name: Arc<str>,
    machine: Machine,
    checker: Checker,
    discovery: Option<Discoverer>,
    started: Instant,
    current: Arc<ArcSwap<Topology>>,
    announce: watch::Sender<u64>,
    suspicions: mpsc::Receiver<Event>,
    commands: mpsc::Receiver<AdminCommand>,
    metrics: ClusterMetrics,
    history: Arc<History>,
    discovery_due: Instant,
    running: JoinSet<TaskResult>,
}

/// What a task of the monitor's brought.
enum TaskResult {
    Checked { observation: Observation, took: Duration },
    Discovered(Result<Discovery, CheckError>),
}

impl Monitor {
    /// A monitor, and the handle through which others see what it finds. Nobody leads until it has run.
    ///
    /// Errors: certificates that cannot be read.
    pub fn new(cluster: &config::Cluster, metrics: ClusterMetrics) -> Result<(Monitor, ClusterHandle), CheckerError> {
        let checker = Checker::new(cluster)?;
        let discovery = cluster.discovery.clone().zip(checker.patroni().cloned());
        let settings = Settings {
            interval: cluster.interval,
            fast_interval: cluster.fast_interval,
            leader_grace: cluster.leader_grace,
            thresholds: Thresholds { rise: cluster.rise, fall: cluster.fall },
            scope: cluster.scope.clone(),
            seed: u64::from(std::process::id()),
        };
        let machine = Machine::new(settings, cluster.nodes.clone(), Moment::START);
        let current = Arc::new(ArcSwap::from_pointee(machine.topology()));
        let (announce, changes) = watch::channel(0);
        let (suspicion_sender, suspicions) = mpsc::channel(SUSPICIONS_MAX);
        let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
        let name: Arc<str> = cluster.name.as_str().into();
        let history = Arc::new(History::new(metrics.clone()));
        let started = Instant::now();
        let handle = ClusterHandle {
            name: Arc::clone(&name),
            started,
            sends_proxy_header: cluster.sends_proxy_header,
            history: Arc::clone(&history),
            current: Arc::clone(&current),
            changes,
            suspicions: suspicion_sender,
            commands: command_sender,
        };
        let monitor = Monitor {
            name,
            machine,
            discovery: discovery.map(|(settings, patroni)| Discoverer::new(settings, patroni)),
            checker,
            started,
            current,
            announce,
            suspicions,
            commands,
            metrics,
            history,
            discovery_due: started,
            running: JoinSet::new(),
        };
        Ok((monitor, handle))
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let discovers = self.discovery.is_some();
        self.step(Event::Tick);
        loop {
            let wakeup = self.machine.next_wakeup().map(|moment| self.started + moment.since_start());
            tokio::select! {
                biased;
                Some(command) = self.commands.recv() => {
                    self.step(Event::Administered(command.node, command.state));
                    let _ = command.is_published.send(()); // whoever asked may have gone
                }
                Some(suspicion) = self.suspicions.recv() => self.step(suspicion),
                Some(finding) = self.running.join_next() => self.take(finding),
                () = sleep_until(wakeup) => self.step(Event::Tick),
                () = tokio::time::sleep_until(self.discovery_due), if discovers => self.look_for_members(),
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
    }

    fn take(&mut self, finding: Result<TaskResult, tokio::task::JoinError>) {
        match finding {
            Ok(TaskResult::Checked { observation, took }) => {
                self.metrics.check_ended(observation.outcome.is_ok(), took);
                self.step(Event::Checked(observation));
            }
            Ok(TaskResult::Discovered(Ok(discovery))) => {
                self.step(Event::Discovered(discovery));
                let topology = self.current.load();
                self.checker.keep_only(|node| !topology.node(node).departed);
            }
            Ok(TaskResult::Discovered(Err(silence))) => {
                warn!(cluster = %self.name, reason = %silence, "no Patroni tells the cluster's members");
            }
            // a check that panicked is a defect; its node is asked again when the answer is overdue
            Err(error) => error!(cluster = %self.name, %error, "a check failed in an unforeseen way"),
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.machine.handle(event, self.now()) {
            match action {
                Action::Check { node, asked_at } => self.check(node, asked_at),
                Action::Publish(topology) => {
                    let generation = topology.generation;
                    self.current.store(topology);
                    self.announce.send_replace(generation);
                }
                Action::Tell(change) => self.tell(&change),
            }
        }
    }

    fn check(&mut self, node: NodeId, asked_at: Moment) {
        let inquiry = self.checker.inquiry(node, self.machine.member(node));
        let started = self.started;
        self.running.spawn(async move {
            let sent = Instant::now();
            let CheckResult { outcome, second_opinion } =
                inquiry.carry_out(|| Moment::after_start(started.elapsed())).await;
            let observation = Observation { node, asked_at, outcome, second_opinion };
            TaskResult::Checked { observation, took: sent.elapsed() }
        });
    }

    /// Looks for members, and plans the next look.
    fn look_for_members(&mut self) {
        let known: Vec<String> =
            self.current.load().members().map(|(_, node)| node.member.patroni_url.clone()).collect();
        let pause = if known.is_empty() { DISCOVERY_INTERVAL_AT_FIRST } else { DISCOVERY_INTERVAL };
        self.discovery_due = Instant::now() + pause;
        if let Some(discoverer) = self.discovery.clone() {
            self.running.spawn(async move { TaskResult::Discovered(discoverer.look(known).await) });
        }
    }

    /// One line for the log, and the metrics of a change of lead.
    fn tell(&mut self, change: &Change) {
        let cluster = &self.name;
        let name = |id: &NodeId| self.machine.member(*id).name.as_str();
        match change {
            Change::LeadTaken { from, to, timeline, leaderless } => {
                let out_of_service = self.machine.admin_state(*to).why_unfit();
                let (from, to) = (from.as_ref().map_or("none", name), name(to));
                let leaderless_ms = leaderless.as_millis() as u64;
                info!(%cluster, from, to, timeline, leaderless_ms, "new leader");
                if let Some(reason) = out_of_service {
                    warn!(%cluster, node = to, reason, "the leader is out of service: writes wait for another");
                }
                self.history.lead_taken(from, to, *timeline, *leaderless);
            }
            Change::LeadLost { from, why, last_seen, is_contested } => {
                let last_seen_ms = last_seen.as_millis() as u64;
                warn!(%cluster, from = name(from), to = "none", reason = why, last_seen_ms, "no leader");
                self.history.lead_lost(name(from), why, *last_seen);
                self.alarm(*is_contested, why);
            }
            Change::StillLeaderless { why, is_contested } => {
                info!(%cluster, reason = why, "still no leader");
                self.alarm(*is_contested, why);
            }
            Change::Node { node, from, to } => info!(%cluster, node = name(node), from, to, "node changed"),
        }
        let is_of_lead = !matches!(change, Change::Node { .. });
        if is_of_lead {
            self.discovery_due = self.discovery_due.min(Instant::now() + DISCOVERY_AFTER_CHANGE);
        }
    }

    fn alarm(&self, is_contested: bool, why: &str) {
        if is_contested {
            error!(cluster = %self.name, reason = why, "split brain: writes are held until it is resolved");
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
