//! What the rest of the program sees of a cluster, and what it tells the monitor.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::history::History;
use crate::cluster::machine::Event;
use crate::cluster::{AdminState, Moment, NodeId, Topology};

/// Suspicions that may wait to be taken in. They all lead to the same one check, so what does not fit is not missed.
pub(super) const SUSPICIONS_MAX: usize = 64;

/// Operators' commands that may wait to be taken in, which takes no time.
pub(super) const COMMANDS_MAX: usize = 8;

/// What the rest of the program sees of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterHandle {
    pub(super) name: Arc<str>,
    pub(super) started: Instant,
    pub(super) sends_proxy_header: bool,
    pub(super) current: Arc<ArcSwap<Topology>>,
    pub(super) changes: watch::Receiver<u64>,
    pub(super) suspicions: mpsc::Sender<Event>,
    pub(super) commands: mpsc::Sender<AdminCommand>,
    pub(super) history: Arc<History>,
}

/// What an operator says of a node, and who waits for its being published.
#[derive(Debug)]
pub(super) struct AdminCommand {
    pub(super) node: NodeId,
    pub(super) state: AdminState,
    pub(super) is_published: oneshot::Sender<()>,
}

impl ClusterHandle {
    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether every connection to its nodes has to begin with a PROXY header.
    pub fn sends_proxy_header(&self) -> bool {
        self.sends_proxy_header
    }

    /// The present moment, on the clock of the topologies.
    pub fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
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

    /// Reports something that makes a node's role doubtful. All nodes are checked at once; the role itself does not
    /// change before one of them answers.
    pub fn suspect(&self, node: NodeId) {
        // full: a check is on its way already
        let _ = self.suspicions.try_send(Event::Suspicion(node));
    }

    /// Reports that a client could get no session on a node: besides what [`ClusterHandle::suspect`] does, others try it
    /// last for a while.
    pub fn failed(&self, node: NodeId) {
        let _ = self.suspicions.try_send(Event::Failure(node));
    }

    /// Puts a node into an administrative state, and returns once the topology shows it. False if the monitor has ended,
    /// as it does when the process stops. Cancelled, it may have been done or not.
    pub async fn administer(&self, node: NodeId, state: AdminState) -> bool {
        let (is_published, published) = oneshot::channel();
        self.commands.send(AdminCommand { node, state, is_published }).await.is_ok() && published.await.is_ok()
    }
}
