//! All connections of the process, by listener and node. A session is in it while it has its `guard`; `orders` are sent to
//! sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cancel_keys::Keys;
use super::cluster_carrying::ClusterCarrying;
use super::cluster_parking::ClusterParking;
use super::control::SessionControl;
use super::moving::Exit;
use super::openings::Openings;
use super::questions::Questions;
use super::server_counts::ServerCounts;
use super::session_info::SessionInfo;
use super::slots::Slots;
use super::tally::{Census, ListenerTally};
use super::waiting::{WaitingClient, WaitingClients};
use crate::cluster::NodeId;
use crate::cluster::node::NODES_MAX;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::net::descriptors;
use crate::probe::NodeSessions;
use crate::proxy::intake::pending::PendingConnections;
use crate::routing::{Reactions, SessionPark};

/// Descriptors that sessions leave alone: 64 connections to the stats page, the checks, the pipes of 16 streams at rest, and
/// what the process itself needs.
const DESCRIPTORS_RESERVED: usize = 160;

/// How often it is looked for peers that do not acknowledge any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// All sessions of the process.
#[derive(Debug)]
pub struct Registry {
    listeners: Slots<ListenerTally>,
    /// Sessions on each node, by cluster and node number.
    nodes: Slots<Arc<NodeSessions>>,
    /// In the order in which they were registered.
    pub(super) controls: Mutex<BTreeMap<u64, Arc<SessionControl>>>,
    /// By cluster.
    pub(super) parkings: Slots<ClusterParking>,
    /// By cluster.
    pub(super) carryings: Slots<ClusterCarrying>,
    pub(super) waiting: WaitingClients,
    /// Who wants to know the state of a session.
    pub(super) questions: Questions,
    pub(super) keys: Keys,
    pub(super) openings: Openings,
    /// File descriptors that the process may have.
    descriptors_max: usize,
    pub(super) next_id: AtomicU64,
    started: Instant,
    pub(super) stop: CancellationToken,
    /// Where sessions go that move to another process.
    exit: Mutex<Option<Exit>>,
}

impl Registry {
    /// A registry without listeners and clusters.
    pub fn empty() -> Registry {
        Registry::with_clock_since(Duration::ZERO)
    }

    /// The same, whose clock began so long ago: sessions that move in may be older than this process.
    pub fn with_clock_since(age: Duration) -> Registry {
        let now = Instant::now();
        Registry {
            listeners: Slots::empty(),
            nodes: Slots::empty(),
            controls: Mutex::default(),
            parkings: Slots::empty(),
            carryings: Slots::empty(),
            waiting: WaitingClients::default(),
            questions: Questions::default(),
            keys: Keys::empty(),
            openings: Openings::default(),
            descriptors_max: descriptors::limit(),
            next_id: AtomicU64::new(1),
            started: now.checked_sub(age).unwrap_or(now),
            stop: CancellationToken::new(),
            exit: Mutex::default(),
        }
    }

    /// A registry for this number of listeners; `nodes` are the clusters' session counters.
    pub fn new(listeners: usize, nodes: Vec<Arc<NodeSessions>>) -> Registry {
        let registry = Registry::empty();
        (0..listeners).for_each(|listener| registry.set_reactions(ListenerIndex(listener), Reactions::default()));
        for (cluster, sessions) in nodes.into_iter().enumerate() {
            registry.add_cluster(ClusterIndex(cluster), sessions);
        }
        registry
    }

    /// Adds a cluster with the counters of its sessions. A number is given to one cluster only.
    pub fn add_cluster(&self, cluster: ClusterIndex, sessions: Arc<NodeSessions>) {
        self.nodes.get_or_init(cluster.0, || sessions);
    }

    /// Sets what happens to the running sessions of a listener, and adds the listener if it is new.
    pub fn set_reactions(&self, listener: ListenerIndex, reactions: Reactions) {
        *self.tally(listener).reactions.lock() = reactions;
    }

    pub(super) fn tally(&self, listener: ListenerIndex) -> &ListenerTally {
        self.listeners.get_or_init(listener.0, ListenerTally::default)
    }

    pub(super) fn on_nodes(&self, cluster: ClusterIndex) -> &Arc<NodeSessions> {
        self.nodes.get_or_init(cluster.0, Arc::default)
    }

    /// The connections of a listener whose startup packet is not complete.
    pub fn pending(&self, listener: ListenerIndex) -> &PendingConnections {
        &self.tally(listener).pending
    }

    /// The connections of a listener that will be refused because of their address, and have not been told yet.
    pub fn refused(&self, listener: ListenerIndex) -> &PendingConnections {
        &self.tally(listener).refused
    }

    /// Whether there are descriptors for another session: two for each session, one for each connection that is pending, and
    /// some for the checks and the stats page, which must go on whatever clients do.
    pub fn has_descriptors(&self) -> bool {
        let pending: usize = self.listeners.iter().map(|tally| tally.pending.count()).sum();
        self.sessions() * 2 + pending + DESCRIPTORS_RESERVED + 2 <= self.descriptors_max
    }

    /// How many connections of a listener may be pending: not more than there are descriptors for.
    pub fn pending_max(&self, configured: usize) -> usize {
        let share =
            self.descriptors_max.saturating_sub(DESCRIPTORS_RESERVED) / (4 * self.listeners.iter().count().max(1));
        configured.min(share.max(1))
    }

    /// Descriptors that the process may have.
    pub fn descriptors_max(&self) -> usize {
        self.descriptors_max
    }

    /// Counts a connection that has been accepted; for the rate only.
    pub fn accepted(&self, listener: ListenerIndex) {
        self.tally(listener).accepted.count();
    }

    /// Counts a new connection, unless the listener has reached `sessions_max`; returns false then.
    pub fn enter(&self, listener: ListenerIndex, sessions_max: usize) -> bool {
        self.tally(listener).sessions.raise(sessions_max)
    }

    /// Removes a counted connection from the count.
    pub fn leave(&self, listener: ListenerIndex) {
        self.tally(listener).sessions.lower();
    }

    /// The clients that have waited longest for a node, at most `max`, and the number of all that wait.
    pub fn waiting(&self, max: usize) -> (Vec<WaitingClient>, usize) {
        self.waiting.list(max)
    }

    /// The number of the next session.
    pub fn next_id(&self) -> u64 {
        self.next_id.load(Relaxed)
    }

    /// The next session has at least this number.
    pub fn number_from(&self, id: u64) {
        self.next_id.fetch_max(id, Relaxed);
    }

    /// How long its clock has run.
    pub fn clock_age(&self) -> Duration {
        self.started.elapsed()
    }

    /// From now on sessions can move to another process by this exit; `None`: they cannot, and those that were asked stay.
    pub fn set_exit(&self, exit: Option<Exit>) {
        *self.exit.lock() = exit;
        self.controls.lock().values().for_each(|control| control.need_not_move_out());
    }

    /// Where sessions go that move to another process.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.lock().clone()
    }

    /// Asks the oldest sessions to move to another process that have not been asked yet, at most `max`. Returns their number.
    pub fn ask_to_move_out(&self, max: usize) -> usize {
        self.controls.lock().values().filter(|control| control.ask_to_move_out()).take(max).count()
    }

    /// Notes whether a listener has a node for new sessions.
    pub fn set_available(&self, listener: ListenerIndex, is_available: bool) {
        self.tally(listener).availability.set(is_available, Instant::now());
    }

    /// What is counted of the nodes of a listener.
    pub fn servers(&self, listener: ListenerIndex) -> &ServerCounts {
        &self.tally(listener).servers
    }

    /// What was counted of a listener so far, by name. Another process can add it to its own.
    pub fn figures(&self, listener: ListenerIndex) -> [(&'static str, u64); 5] {
        self.tally(listener).figures()
    }

    /// Adds what another process has counted of a listener. False if the name is unknown.
    pub fn add_figure(&self, listener: ListenerIndex, name: &str, value: u64) -> bool {
        self.tally(listener).add_figure(name, value)
    }

    /// The seconds of the registry's clock.
    pub(super) fn seconds(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// The oldest sessions for which `is_wanted` is true, at most `max`, and the number of all of them.
    pub fn list(&self, max: usize, is_wanted: impl Fn(&SessionInfo) -> bool) -> (Vec<SessionInfo>, usize) {
        let (now, mut total, mut listed) = (self.seconds(), 0, Vec::new());
        for (id, control) in self.controls.lock().iter() {
            let info = SessionInfo::of(*id, control, now);
            if is_wanted(&info) {
                total += 1;
                if listed.len() < max {
                    listed.push(info);
                }
            }
        }
        (listed, total)
    }

    /// The sessions for whose controls `is_wanted` is true, with their controls.
    pub(super) fn select(
        &self,
        is_wanted: impl Fn(&SessionControl) -> bool,
    ) -> Vec<(SessionInfo, Arc<SessionControl>)> {
        let now = self.seconds();
        let controls = self.controls.lock();
        let wanted = controls.iter().filter(|(_, control)| is_wanted(control));
        wanted.map(|(id, control)| (SessionInfo::of(*id, control, now), Arc::clone(control))).collect()
    }

    /// The number of sessions of a cluster that are being carried to another leader.
    pub fn sessions_without_server(&self, cluster: ClusterIndex) -> usize {
        let is_one =
            |control: &&Arc<SessionControl>| control.cluster() == cluster && control.park() == SessionPark::Carrying;
        self.controls.lock().values().filter(is_one).count()
    }

    /// The number of sessions on a node.
    pub fn load(&self, cluster: ClusterIndex, node: NodeId) -> u32 {
        self.on_nodes(cluster).on(node)
    }

    /// The number of sessions on each node of a cluster.
    pub fn loads(&self, cluster: ClusterIndex) -> Vec<u32> {
        self.on_nodes(cluster).all()
    }

    /// The cancel keys of the sessions.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The number of a listener's connections that wait for a node.
    pub fn held(&self, listener: ListenerIndex) -> usize {
        self.tally(listener).held.now()
    }

    /// The number of connections on all listeners.
    pub fn sessions(&self) -> usize {
        self.listeners.iter().map(|tally| tally.sessions.now()).sum()
    }

    /// The numbers of every listener and node.
    pub fn census(&self) -> Census {
        let controls = self.controls.lock(); // locked to the end, see `SessionGuard::drop`
        let ended = |nodes: &Arc<NodeSessions>| (0..NODES_MAX).map(|id| nodes.ended_bytes(NodeId::new(id))).collect();
        let mut census = Census {
            listeners: self.listeners.iter().map(ListenerTally::census).collect(),
            node_bytes: self.nodes.iter().map(ended).collect(),
            servers: self.listeners.iter().map(|tally| tally.servers.read(self.seconds())).collect(),
        };
        for control in controls.values() {
            let [to_server, to_client] = control.bytes().read();
            let listener = &mut census.listeners[control.listener().0];
            listener.bytes_to_server += to_server;
            listener.bytes_to_client += to_client;
            let node = &mut census.node_bytes[control.cluster().0][control.node().index()];
            *node = [node[0] + to_server, node[1] + to_client];
            let server = &mut census.servers[control.listener().0][control.node().index()];
            server.bytes_to_server += to_server;
            server.bytes_to_client += to_client;
        }
        census
    }

    /// Has the sessions that are in use ask whether their peers still acknowledge, every few seconds. Runs until it is
    /// dropped.
    pub async fn sweep(&self) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for control in self.controls.lock().values() {
                control.sweep();
            }
        }
    }

    /// Waits until [`Registry::stop`] is called. Cancel safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The number of a listener's connections.
    pub fn sessions_of(&self, listener: ListenerIndex) -> usize {
        self.tally(listener).sessions.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_up_to_the_limit() {
        let registry = Registry::new(2, vec![Arc::default()]);
        assert!(registry.enter(ListenerIndex(0), 1));
        assert!(!registry.enter(ListenerIndex(0), 1));
        assert!(registry.enter(ListenerIndex(1), 1), "each listener has its own limit");
        registry.leave(ListenerIndex(0));
        assert!(registry.enter(ListenerIndex(0), 1));
    }
}
