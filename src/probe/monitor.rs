//! Drives one cluster's machine: gives it the time, sends the checks it asks for, publishes what it concludes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::checker::{Checker, CheckerError, Findings};
use crate::cluster::health::Thresholds;
use crate::cluster::machine::{Action, Change, Event, Machine, Settings};
use crate::cluster::node::{Observation, Silence};
use crate::cluster::topology::Topology;
use crate::cluster::{Member, Moment, NodeId};
use crate::config;
use crate::telemetry::metrics::ClusterMetrics;

/// Suspicions that may wait to be taken in. They all lead to the same one check, so what does not fit is not missed.
const SUSPICIONS_MAX: usize = 64;

/// Time between two looks at `/cluster`, which makes Patroni read its DCS.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

/// Time between two looks at `/cluster` while no member is known.
const DISCOVERY_INTERVAL_AT_FIRST: Duration = Duration::from_secs(1);

/// What the rest of the program sees of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterView {
    name: Arc<str>,
    current: Arc<ArcSwap<Topology>>,
    changes: watch::Receiver<u64>,
    suspicions: mpsc::Sender<NodeId>,
}

impl ClusterView {
    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest picture.
    pub fn topology(&self) -> arc_swap::Guard<Arc<Topology>> {
        self.current.load()
    }

    /// The newest picture, to keep.
    pub fn topology_full(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// Waits until there is a picture newer than generation `seen`. Cancel safe.
    ///
    /// Never returns once the monitor has ended, as it does when the process stops.
    pub async fn newer_than(&self, seen: u64) {
        let mut changes = self.changes.clone();
        if changes.wait_for(|generation| *generation > seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reports something that makes a node's role doubtful. All nodes are checked at once; the role itself does not
    /// change before one of them answers.
    pub fn suspect(&self, node: NodeId) {
        // full: a check is on its way already
        let _ = self.suspicions.try_send(node);
    }
}

/// A cluster's monitor, ready to run.
pub struct Monitor {
    name: Arc<str>,
    machine: Machine,
    checker: Checker,
    discover_urls: Vec<String>,
    started: Instant,
    current: Arc<ArcSwap<Topology>>,
    announce: watch::Sender<u64>,
    suspicions: mpsc::Receiver<NodeId>,
    metrics: ClusterMetrics,
    running: JoinSet<Finding>,
}

/// What a task of the monitor's brought.
enum Finding {
    Checked { observation: Observation, took: Duration },
    Members(Result<Vec<Member>, Silence>),
}

impl Monitor {
    /// A monitor, and the view through which others see what it finds. Nobody leads until it has run.
    ///
    /// Errors: certificates that cannot be read.
    pub fn new(cluster: &config::Cluster, metrics: ClusterMetrics) -> Result<(Monitor, ClusterView), CheckerError> {
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
        let name: Arc<str> = cluster.name.as_str().into();
        let view = ClusterView {
            name: Arc::clone(&name),
            current: Arc::clone(&current),
            changes,
            suspicions: suspicion_sender,
        };
        let monitor = Monitor {
            name,
            machine,
            checker: Checker::new(cluster)?,
            discover_urls: cluster.discover_urls.clone(),
            started: Instant::now(),
            current,
            announce,
            suspicions,
            metrics,
            running: JoinSet::new(),
        };
        Ok((monitor, view))
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        self.started = Instant::now();
        let mut discovery_due = Instant::now();
        let discovers = !self.discover_urls.is_empty();
        self.step(Event::Tick);
        loop {
            let wakeup = self.machine.next_wakeup().map(|moment| self.started + moment.since_start());
            tokio::select! {
                biased;
                Some(node) = self.suspicions.recv() => self.step(Event::Suspicion(node)),
                Some(finding) = self.running.join_next() => self.take(finding),
                () = sleep_until(wakeup) => self.step(Event::Tick),
                () = tokio::time::sleep_until(discovery_due), if discovers => {
                    self.look_for_members();
                    let knows_members = self.current.load().members().next().is_some();
                    let pause = if knows_members { DISCOVERY_INTERVAL } else { DISCOVERY_INTERVAL_AT_FIRST };
                    discovery_due = Instant::now() + pause;
                }
            }
        }
    }

    fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
    }

    fn take(&mut self, finding: Result<Finding, tokio::task::JoinError>) {
        match finding {
            Ok(Finding::Checked { observation, took }) => {
                self.metrics.check_ended(observation.outcome.is_ok(), took);
                self.step(Event::Checked(observation));
            }
            Ok(Finding::Members(Ok(members))) => {
                self.step(Event::Members(members));
                let topology = self.current.load();
                self.checker.keep_only(|node| !topology.node(node).departed);
            }
            Ok(Finding::Members(Err(silence))) => {
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
            let Findings { outcome, second_opinion } =
                inquiry.carry_out(|| Moment::after_start(started.elapsed())).await;
            let observation = Observation { node, asked_at, outcome, second_opinion };
            Finding::Checked { observation, took: sent.elapsed() }
        });
    }

    /// Asks the known nodes' and the configured URLs in turn until one tells the members.
    fn look_for_members(&mut self) {
        let known: Vec<String> =
            self.current.load().members().map(|(_, node)| node.member.patroni_url.clone()).collect();
        let Some(patroni) = self.checker.patroni().cloned() else { return };
        let urls: Vec<String> = known.into_iter().chain(self.discover_urls.iter().cloned()).collect();
        self.running.spawn(async move {
            let mut newest_failure = Silence::TimedOut;
            for url in urls {
                match patroni.members(&url).await {
                    Ok(members) => return Finding::Members(Ok(members)),
                    Err(silence) => newest_failure = silence,
                }
            }
            Finding::Members(Err(newest_failure))
        });
    }

    /// One line for the log, and the metrics of a change of lead.
    fn tell(&self, change: &Change) {
        let cluster = &self.name;
        let name = |id: &NodeId| self.machine.member(*id).name.as_str();
        match change {
            Change::LeadTaken { from, to, timeline, leaderless } => {
                self.metrics.lead_taken(*leaderless);
                let (from, to) = (from.as_ref().map_or("none", name), name(to));
                let leaderless_ms = leaderless.as_millis() as u64;
                info!(%cluster, from, to, timeline, leaderless_ms, "new leader");
            }
            Change::LeadLost { from, why } => {
                self.metrics.lead_lost();
                warn!(%cluster, from = name(from), to = "none", reason = why, "no leader");
            }
            Change::StillLeaderless { why } => info!(%cluster, reason = why, "still no leader"),
            Change::Node { node, from, to } => info!(%cluster, node = name(node), from, to, "node changed"),
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
