//! Drives one cluster's state machine: passes it the time, sends the checks that it requests, publishes its topologies.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::checker::{CheckResult, Checker, CheckerError};
use super::clock::Clock;
use super::discovery::Discoverer;
use super::handle::{AdminCommand, COMMANDS_MAX, ClusterHandle, EVENTS_MAX};
use super::history::History;
use super::metrics::ClusterMetrics;
use super::node_records::NodeRecords;
use super::node_sessions::NodeSessions;
use super::patroni::RestApi;
use super::reconfigure::{ClusterChange, Reconfiguration, settings};
use crate::cluster::event::{Action, Change, Discovery, Event, Reconfigured};
use crate::cluster::machine::Machine;
use crate::cluster::node::{CheckError, NODES_MAX, Observation};
use crate::cluster::{Moment, NodeId, Topology};
use crate::config;
use crate::net::Resolver;
use crate::net::dial::NodeDialer;

/// The longest time for which the monitor sleeps. Whenever it runs, it records the time.
const ATTENTION_INTERVAL: Duration = Duration::from_millis(500);

/// If so much time has passed since it last ran, the process was suspended.
const OVERSLEPT_AFTER: Duration = Duration::from_millis(1500);

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
    clock: Clock,
    monitored_at: Arc<AtomicU64>,
    sessions: Arc<NodeSessions>,
    records: Arc<NodeRecords>,
    current: Arc<ArcSwap<Topology>>,
    announce: watch::Sender<u64>,
    events: mpsc::Receiver<Event>,
    commands: mpsc::Receiver<AdminCommand>,
    changed: mpsc::Receiver<Reconfiguration>,
    metrics: ClusterMetrics,
    history: Arc<History>,
    discovery_due: Instant,
    running: JoinSet<TaskResult>,
}

/// The result of one of the monitor's tasks.
enum TaskResult {
    Checked { observation: Observation, took: Duration },
    Discovered(Result<Discovery, CheckError>),
}

impl Monitor {
    /// A monitor, and the handle through which others see its results. There is no leader until it has run.
    ///
    /// Errors: certificates that cannot be read.
    pub fn new(
        cluster: &config::Cluster,
        metrics: ClusterMetrics,
        names: &Arc<Resolver>,
    ) -> Result<(Monitor, ClusterHandle), CheckerError> {
        let checker = Checker::new(cluster, names)?;
        let discovery = cluster.discovery.clone().zip(checker.patroni().cloned());
        let machine = Machine::new(settings(cluster), cluster.nodes.clone(), Moment::START);
        let current = Arc::new(ArcSwap::from_pointee(machine.topology()));
        let (announce, changes) = watch::channel(0);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (change_sender, changed) = mpsc::channel(1);
        let name: Arc<str> = cluster.name.as_str().into();
        let history = Arc::new(History::new(metrics.clone()));
        let clock = Clock::start();
        let (monitored_at, sessions) = (Arc::default(), Arc::<NodeSessions>::default());
        let records = Arc::<NodeRecords>::default();
        records.apply_observation(&current.load(), Moment::START);
        let handle = ClusterHandle {
            name: Arc::clone(&name),
            clock,
            monitored_at: Arc::clone(&monitored_at),
            sessions: Arc::clone(&sessions),
            records: Arc::clone(&records),
            sends_proxy_header: cluster.sends_proxy_header,
            dialer: NodeDialer { names: Arc::clone(names), discover_allow: cluster.discover_allow() },
            history: Arc::clone(&history),
            current: Arc::clone(&current),
            changes,
            events: event_sender,
            commands: command_sender,
            changed: change_sender,
        };
        let monitor = Monitor {
            name,
            machine,
            discovery: discovery.map(|(settings, patroni)| Discoverer::new(settings, patroni, Arc::clone(names))),
            checker,
            clock,
            monitored_at,
            sessions,
            records,
            current,
            announce,
            events,
            commands,
            changed,
            metrics,
            history,
            discovery_due: Instant::now(),
            running: JoinSet::new(),
        };
        Ok((monitor, handle))
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        self.step(Event::Tick);
        self.attend();
        loop {
            let discovers = self.discovery.is_some();
            let wakeup = self.machine.next_wakeup().map(|moment| self.clock.instant(moment));
            let at_the_latest = Instant::now() + ATTENTION_INTERVAL;
            let wakeup = wakeup.map_or(at_the_latest, |wakeup| wakeup.min(at_the_latest));
            tokio::select! {
                biased;
                Some(command) = self.commands.recv() => {
                    self.step(command.event);
                    let _ = command.is_published.send(()); // the caller may have gone
                }
                Some(Reconfiguration { change, is_published }) = self.changed.recv() => {
                    self.reconfigure(change);
                    let _ = is_published.send(());
                }
                Some(event) = self.events.recv() => self.step(event),
                Some(result) = self.running.join_next() => self.take(result),
                () = tokio::time::sleep_until(wakeup) => self.step(Event::Tick),
                () = tokio::time::sleep_until(self.discovery_due), if discovers => self.look_for_members(),
            }
            self.attend();
        }
    }

    /// Takes over a changed configuration. Checks that are on their way end as they began.
    fn reconfigure(&mut self, change: ClusterChange) {
        let ClusterChange { settings, members, discovery, checker, names } = change;
        if let Some(checker) = checker {
            self.checker = checker;
        }
        let discovery = discovery.zip(self.checker.patroni().cloned());
        self.discovery = discovery.map(|(settings, patroni)| Discoverer::new(settings, patroni, names));
        self.discovery_due = Instant::now();
        let (discovers, busy) = (self.discovery.is_some(), self.sessions.busy());
        self.step(Event::Reconfigured(Reconfigured { settings, members, discovers, busy }));
        let topology = self.current.load();
        self.checker.keep_only(|node| !topology.node(node).departed);
    }

    fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Records that the monitor runs. If it last ran long ago, the process was suspended: then the leader is in doubt
    /// before any session is routed by what was known before.
    fn attend(&mut self) {
        let now = self.now();
        let last = Moment::after_start(Duration::from_micros(self.monitored_at.load(Relaxed)));
        if now - last > OVERSLEPT_AFTER {
            let seconds = (now - last).as_secs_f64();
            warn!(cluster = %self.name, seconds, "pgvane was suspended; all nodes are checked again");
            self.step(Event::Suspended);
        }
        let now = u64::try_from(now.since_start().as_micros()).unwrap_or(u64::MAX);
        self.monitored_at.store(now, Relaxed);
    }

    fn take(&mut self, result: Result<TaskResult, tokio::task::JoinError>) {
        match result {
            Ok(TaskResult::Checked { observation, took }) => {
                self.metrics.check_ended(observation.outcome.is_ok(), took);
                self.records.check_ended(observation.node, took, observation.outcome.as_ref().err().cloned());
                self.step(Event::Checked(observation));
            }
            Ok(TaskResult::Discovered(Ok(discovery))) => {
                let busy = self.sessions.busy();
                self.step(Event::Discovered(discovery, busy));
                let topology = self.current.load();
                self.checker.keep_only(|node| !topology.node(node).departed);
            }
            Ok(TaskResult::Discovered(Err(error))) => {
                warn!(cluster = %self.name, reason = %error, "no Patroni returns the list of members");
            }
            // a check that panicked is a defect; its node is checked again when the answer is overdue
            Err(error) => error!(cluster = %self.name, %error, "a check panicked: this is a defect of pgvane"),
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.machine.handle(event, self.now()) {
            match action {
                Action::Check { node, asked_at } => self.check(node, asked_at),
                Action::Publish(topology) => {
                    let generation = topology.generation;
                    let replaced = self.records.apply_observation(&topology, self.now());
                    replaced.into_iter().for_each(|node| self.sessions.forget(node));
                    self.current.store(topology);
                    self.announce.send_replace(generation);
                }
                Action::Tell(change) => self.report(&change),
            }
        }
    }

    fn check(&mut self, node: NodeId, asked_at: Moment) {
        let check = self.checker.node_check(node, self.machine.member(node));
        let clock = self.clock;
        self.running.spawn(async move {
            let sent = Instant::now();
            let CheckResult { outcome, second_opinion } = check.run(|| clock.now()).await;
            let observation = Observation { node, asked_at, outcome, second_opinion };
            TaskResult::Checked { observation, took: sent.elapsed() }
        });
    }

    /// Starts a look for members, and schedules the next one.
    fn look_for_members(&mut self) {
        let known: Vec<RestApi> = self.current.load().members().map(|(_, node)| (&*node.member).into()).collect();
        let pause = if known.is_empty() { DISCOVERY_INTERVAL_AT_FIRST } else { DISCOVERY_INTERVAL };
        self.discovery_due = Instant::now() + pause;
        if let Some(discoverer) = self.discovery.clone() {
            self.running.spawn(async move { TaskResult::Discovered(discoverer.look(known).await) });
        }
    }

    /// One line for the log, and the metrics of a change of lead.
    fn report(&mut self, change: &Change) {
        let cluster = &self.name;
        let name = |id: &NodeId| self.machine.member(*id).name.as_str();
        match change {
            Change::LeadTaken { from, to, timeline, leaderless } => {
                let out_of_service = self.machine.admin_state(*to).why_not_eligible();
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
            Change::PortFailed { node, port, why } => {
                let port = port.map(NonZeroU16::get); // of a listener, if it has one of its own
                warn!(%cluster, node = name(node), port, reason = why, "clients cannot reach this node's PostgreSQL");
            }
            Change::PortRestored { node, port, after } => {
                let (port, failed_seconds) = (port.map(NonZeroU16::get), after.as_secs_f64());
                info!(%cluster, node = name(node), port, failed_seconds, "clients reach this node's PostgreSQL again");
            }
            Change::NoRoom { name } => error!(
                %cluster, node = name, max = NODES_MAX, "node left out: the cluster has too many nodes"
            ),
            Change::Rebuilt { from, to } => warn!(
                %cluster, from, to, "the cluster has another system identifier than before: it was created again"
            ),
            Change::LoginHintRefuted { node } => {
                let reason = "in_hot_standby at login contradicts Patroni, which was asked after it";
                warn!(%cluster, node = name(node), reason, "login parameter ignored: is the node's address a pooler?");
            }
            Change::Node { node, from, to } if to.contains("(silent: ") => {
                warn!(%cluster, node = name(node), from, to, "node lost: its checks are not answered");
            }
            Change::Node { node, from, to } => info!(%cluster, node = name(node), from, to, "node changed"),
        }
        let is_of_lead =
            matches!(change, Change::LeadTaken { .. } | Change::LeadLost { .. } | Change::StillLeaderless { .. });
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
