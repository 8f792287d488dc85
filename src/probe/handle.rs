//! How the rest of the program reads a cluster's topology, and how it reports to the monitor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::clock::Clock;
use super::history::History;
use super::node_records::NodeRecords;
use super::node_sessions::NodeSessions;
use super::reconfigure::{ClusterChange, Reconfiguration};
use crate::cluster::event::Event;
use crate::cluster::ports::SessionPort;
use crate::cluster::{AdminState, Moment, NodeId, Suspicion, Topology};
use crate::config;
use crate::net::dial::NodeDialer;

/// The number of events that may wait for the monitor. Suspicions lead to the same check, so those that do not fit can
/// be dropped.
pub(super) const EVENTS_MAX: usize = 64;

/// The number of operators' commands that may wait for the monitor.
pub(super) const COMMANDS_MAX: usize = 8;

/// After such a time without a look at the nodes' checks `/readyz` fails: the monitor looks several times a second.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// What the rest of the program sees of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterHandle {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    /// When the monitor last attended to its checks, in microseconds of the clock.
    pub(super) monitored_at: Arc<AtomicU64>,
    pub(super) sessions: Arc<NodeSessions>,
    pub(super) records: Arc<NodeRecords>,
    pub(super) sends_proxy_header: bool,
    pub(super) dialer: NodeDialer,
    pub(super) current: Arc<ArcSwap<Topology>>,
    pub(super) changes: watch::Receiver<u64>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) commands: mpsc::Sender<AdminCommand>,
    pub(super) changed: mpsc::Sender<Reconfiguration>,
    pub(super) history: Arc<History>,
}

/// An operator's command for a node. The sender learns when the topology shows it.
#[derive(Debug)]
pub(super) struct AdminCommand {
    pub(super) event: Event,
    pub(super) is_published: oneshot::Sender<()>,
}

impl ClusterHandle {
    /// The handle of the same cluster with a changed configuration, for new sessions.
    pub fn with(&self, cluster: &config::Cluster) -> ClusterHandle {
        let dialer = NodeDialer { discover_allow: cluster.discover_allow(), ..self.dialer.clone() };
        ClusterHandle { sends_proxy_header: cluster.sends_proxy_header, dialer, ..self.clone() }
    }

    /// Has the monitor take over a changed configuration, and returns once the topology shows it. False if the monitor has
    /// ended, as it does when the process stops.
    pub async fn reconfigure(&self, change: ClusterChange) -> bool {
        let (is_published, published) = oneshot::channel();
        self.changed.send(Reconfiguration { change, is_published }).await.is_ok() && published.await.is_ok()
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether every connection to its nodes has to begin with a PROXY header.
    pub fn sends_proxy_header(&self) -> bool {
        self.sends_proxy_header
    }

    /// How its nodes are connected to.
    pub fn dialer(&self) -> &NodeDialer {
        &self.dialer
    }

    /// The present moment, on the clock of the topologies.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The changes of lead so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The newest topology.
    pub fn topology(&self) -> arc_swap::Guard<Arc<Topology>> {
        self.current.load()
    }

    /// The newest topology, to keep.
    pub fn topology_full(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// Waits until there is a topology newer than generation `seen`. Cancel safe.
    ///
    /// Never returns once the monitor has ended, as it does when the process stops.
    pub async fn newer_than(&self, seen: u64) {
        let mut changes = self.changes.clone();
        if changes.wait_for(|generation| *generation > seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// When the monitor last attended to the nodes' checks.
    pub fn monitored_at(&self) -> Moment {
        Moment::after_start(Duration::from_micros(self.monitored_at.load(Relaxed)))
    }

    /// Whether no check has been attended to for so long that pgvane must have been suspended, or its monitor be stuck.
    pub fn is_monitor_stuck(&self) -> bool {
        self.now() - self.monitored_at() > STUCK_AFTER
    }

    /// The sessions on each node.
    pub fn sessions(&self) -> &Arc<NodeSessions> {
        &self.sessions
    }

    /// What is recorded of each node besides the topology.
    pub fn records(&self) -> &NodeRecords {
        &self.records
    }

    /// Reports something that makes a node's role doubtful. All nodes are checked at once, unless this kind of
    /// suspicion has caused that often enough; the role itself does not change before one of them answers.
    pub fn suspect(&self, node: NodeId, suspicion: Suspicion) {
        // full: a check is on its way already
        let _ = self.events.try_send(Event::Suspicion(node, suspicion));
    }

    /// Reports that a client could get no session on this port of a node, and why. Does what [`ClusterHandle::suspect`]
    /// does; in addition, other sessions try the node last for a while, and the reason is shown to operators.
    pub fn failed(&self, node: NodeId, port: SessionPort, why: &str, suspicion: Option<Suspicion>) {
        let _ = self.events.try_send(Event::Failure(node, port, why.to_owned(), suspicion));
    }

    /// Reports that a client got a session on this port of a node, where others had failed.
    pub fn served(&self, node: NodeId, port: SessionPort) {
        let _ = self.events.try_send(Event::Served(node, port));
    }

    /// Reports that at a login on this port a node said something else about its recovery than its last check, and
    /// waits for the end of a check that is sent after this call. Returns the topology after it. Cancel safe; the caller
    /// limits the wait.
    pub async fn check_login_hint(
        &self,
        node: NodeId,
        port: SessionPort,
        in_recovery: bool,
    ) -> (Moment, Arc<Topology>) {
        let hinted_at = self.now();
        let _ = self.events.send(Event::LoginHint(node, port, in_recovery)).await;
        loop {
            let topology = self.topology_full();
            if topology.node(node).check_asked_at.is_some_and(|asked_at| asked_at >= hinted_at) {
                return (hinted_at, topology);
            }
            self.newer_than(topology.generation).await;
        }
    }

    /// Puts a node into an administrative state, and returns when the topology shows it. False if the monitor has ended,
    /// which it does when the process stops. If this is cancelled, the state may have changed or not.
    pub async fn administer(&self, node: NodeId, state: AdminState) -> bool {
        self.command(Event::Administered(node, state)).await
    }

    /// Sets the weight of a node, or takes the configured one again if it is `None`. For the rest like
    /// [`ClusterHandle::administer`].
    pub async fn set_weight(&self, node: NodeId, weight: Option<u32>) -> bool {
        self.command(Event::Weighed(node, weight)).await
    }

    async fn command(&self, event: Event) -> bool {
        let (is_published, published) = oneshot::channel();
        self.commands.send(AdminCommand { event, is_published }).await.is_ok() && published.await.is_ok()
    }
}
