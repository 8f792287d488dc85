//! All connections of the process, by listener and node; sends orders to sessions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::cancel_keys::{Keys, SessionKey};
use super::cluster_parking::ClusterParking;
use super::control::{SessionControl, SessionOrder};
use super::moving::Exit;
use super::origin::Origin;
use super::owner::Owner;
use super::questions::Questions;
use super::server_counts::ServerCounts;
use super::slots::Slots;
use super::tally::{Census, ListenerTally};
use super::waiting::{WaitingClient, WaitingClients};
use crate::cluster::NodeId;
use crate::cluster::node::NODES_MAX;
use crate::cluster::ports::SessionPort;
use crate::cluster::topology::Topology;
use crate::config::{ClusterIndex, ListenerIndex};
use crate::net::descriptors;
use crate::probe::NodeSessions;
use crate::protocol::CancelKey;
use crate::protocol::session_question::Answer;
use crate::proxy::intake::pending::PendingConnections;
use crate::routing::{NodeLoad, Reaction, Reactions, Rule, SessionPark, why_on_wrong_node};

/// Descriptors that sessions leave alone: 64 connections to the stats page, the checks, the pipes of 16 streams at rest, and
/// what the process itself needs.
const DESCRIPTORS_RESERVED: usize = 160;

/// How often it is looked for peers that do not acknowledge any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What operators see of a session.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Its number: of this session only, as long as the process lives. It keeps the number when another process takes over.
    pub id: u64,
    /// Its listener and cluster.
    pub origin: Arc<Origin>,
    /// The node.
    pub node: NodeId,
    /// Address, user, database and application of the client; `None` during the login.
    pub owner: Option<Owner>,
    /// How long it has been on the node.
    pub seconds: u32,
    /// It is to end between two transactions.
    pub is_draining: bool,
    /// Whether it is parked.
    pub park: SessionPark,
    /// Bytes to the server and to the client.
    pub bytes: [u64; 2],
}

impl fmt::Display for SessionInfo {
    /// The client and the age of the session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "{owner} for {} s", self.seconds),
            None => write!(f, "a client that is logging in, for {} s", self.seconds),
        }
    }
}

impl SessionInfo {
    /// Its state in a word: `login`, `open`, `draining` or `parked`.
    pub fn state(&self) -> &'static str {
        match (&self.owner, self.is_draining) {
            (None, _) => "login",
            (Some(_), true) => "draining",
            (Some(_), false) if self.park == SessionPark::Parked => "parked",
            (Some(_), false) => "open",
        }
    }

    fn of(id: u64, control: &SessionControl, now: u32) -> SessionInfo {
        SessionInfo {
            id,
            origin: Arc::clone(&control.origin),
            node: control.node,
            owner: control.owner().cloned(),
            seconds: now.saturating_sub(control.since_seconds),
            is_draining: control.is_draining(),
            park: control.park(),
            bytes: control.bytes().read(),
        }
    }
}

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
    waiting: WaitingClients,
    /// Who wants to know the state of a session.
    pub(super) questions: Questions,
    keys: Keys,
    /// File descriptors that the process may have.
    descriptors_max: usize,
    next_id: AtomicU64,
    started: Instant,
    stop: CancellationToken,
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
            waiting: WaitingClients::default(),
            questions: Questions::default(),
            keys: Keys::empty(),
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

    fn tally(&self, listener: ListenerIndex) -> &ListenerTally {
        self.listeners.get_or_init(listener.0, ListenerTally::default)
    }

    fn on_nodes(&self, cluster: ClusterIndex) -> &Arc<NodeSessions> {
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

    /// Counts a connection as held, unless `held_max` are held.
    pub fn hold(self: &Arc<Self>, origin: &Arc<Origin>, held_max: usize, owner: Owner) -> Option<Held> {
        let (listener, origin) = (origin.listener, Arc::clone(origin));
        if !self.tally(listener).held.raise(held_max) {
            return None;
        }
        let number = self.waiting.add(WaitingClient { origin, owner, since: Instant::now(), reason: String::new() });
        Some(Held { registry: Arc::clone(self), listener, number })
    }

    /// The clients that have waited longest for a node, at most `max`, and the number of all that wait.
    pub fn waiting(&self, max: usize) -> (Vec<WaitingClient>, usize) {
        self.waiting.list(max)
    }

    /// Registers a session on a node: it counts as the node's load, receives orders, and can have a cancel key.
    pub fn guard(self: &Arc<Self>, origin: &Arc<Origin>, node: NodeId) -> SessionGuard {
        self.servers(origin.listener).chosen(node, self.seconds());
        self.register(self.next_id.fetch_add(1, Relaxed), origin, node, self.seconds())
    }

    /// Registers a session that another process had before, under the same number; it has been on the node for so long.
    pub fn move_in(self: &Arc<Self>, id: u64, origin: &Arc<Origin>, node: NodeId, node_seconds: u32) -> SessionGuard {
        self.servers(origin.listener).moved_in(node);
        self.register(id, origin, node, self.seconds().saturating_sub(node_seconds))
    }

    fn register(self: &Arc<Self>, id: u64, origin: &Arc<Origin>, node: NodeId, since_seconds: u32) -> SessionGuard {
        let control = Arc::new(SessionControl::new(Arc::clone(origin), node, since_seconds));
        self.on_nodes(origin.cluster).add(node);
        let mut controls = self.controls.lock();
        self.parkings.get(origin.cluster.0).inspect(|parking| parking.ask_new(&control));
        controls.insert(id, Arc::clone(&control));
        drop(controls);
        SessionGuard { registry: Arc::clone(self), id, control, key: SessionKey::Unknown }
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
    fn seconds(&self) -> u32 {
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
            let node = &mut census.node_bytes[control.cluster().0][control.node.index()];
            *node = [node[0] + to_server, node[1] + to_client];
            let server = &mut census.servers[control.listener().0][control.node.index()];
            server.bytes_to_server += to_server;
            server.bytes_to_client += to_client;
        }
        census
    }

    /// Closes the sessions for which `is_wanted` is true, and returns their number.
    pub fn close(&self, is_wanted: impl Fn(&SessionInfo) -> bool) -> usize {
        let now = self.seconds();
        let controls = self.controls.lock();
        let wanted = controls.iter().filter(|(id, control)| is_wanted(&SessionInfo::of(**id, control, now)));
        wanted.map(|(_, control)| control.send_order(SessionOrder::Close)).count()
    }

    /// Ends every connection: those on a node with [`SessionOrder::Stop`], the others with [`Registry::stopped`].
    pub fn stop(&self) {
        self.stop.cancel();
        for control in self.controls.lock().values() {
            control.send_order(SessionOrder::Stop);
        }
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

    /// The load of each node of a cluster, with the sessions of one listener that can move or are about to.
    pub fn node_loads(&self, listener: ListenerIndex, cluster: ClusterIndex) -> [NodeLoad; NODES_MAX] {
        let mut node_loads = [NodeLoad::default(); NODES_MAX];
        for (node_load, sessions) in node_loads.iter_mut().zip(self.on_nodes(cluster).all()) {
            node_load.sessions = sessions;
        }
        for control in self.controls.lock().values().filter(|control| control.listener() == listener) {
            let node_load = &mut node_loads[control.node.index()];
            node_load.movable += u32::from(control.is_movable());
            node_load.leaving += u32::from(control.is_about_to_move());
        }
        node_loads
    }

    /// Orders the oldest movable session of this listener on this node to move between two transactions.
    pub fn move_one(&self, listener: ListenerIndex, node: NodeId) {
        let controls = self.controls.lock();
        let is_movable = |control: &&Arc<SessionControl>| {
            control.listener() == listener && control.node == node && control.is_movable()
        };
        if let Some(control) = controls.values().find(is_movable) {
            control.send_order(SessionOrder::Move);
        }
    }

    /// Sends orders to the sessions of a cluster that are on the wrong node by a new topology, and withdraws the drain of
    /// those that are on the right node again.
    pub fn apply(&self, cluster: ClusterIndex, topology: &Topology) {
        for control in self.controls.lock().values().filter(|control| control.cluster() == cluster) {
            let reactions = *self.tally(control.listener()).reactions.lock();
            match order_for(&control.origin.rule, &reactions, topology, control.node) {
                Some(order) => control.send_order(order),
                None => control.withdraw_drain(),
            }
        }
    }

    /// Ends the sessions of a listener that was removed.
    pub fn end_listener(&self, listener: ListenerIndex) {
        for control in self.controls.lock().values().filter(|control| control.listener() == listener) {
            control.send_order(SessionOrder::ListenerRemoved);
        }
    }

    /// The number of a listener's connections.
    pub fn sessions_of(&self, listener: ListenerIndex) -> usize {
        self.tally(listener).sessions.now()
    }
}

/// The order for a session of this rule that is on `node`; `None` if it can stay.
pub fn order_for(rule: &Rule, reactions: &Reactions, topology: &Topology, node: NodeId) -> Option<SessionOrder> {
    let cause = why_on_wrong_node(rule, topology, node)?;
    match reactions.to(cause) {
        Reaction::Keep => None,
        Reaction::Drain => Some(SessionOrder::Drain(cause)),
        Reaction::Cut => Some(SessionOrder::Cut(cause)),
    }
}

/// A held connection; the drop removes it from the count.
#[derive(Debug)]
pub struct Held {
    registry: Arc<Registry>,
    listener: ListenerIndex,
    /// Among those that wait.
    number: u64,
}

impl Held {
    /// Says why it waits now.
    pub fn set_reason(&self, reason: String) {
        self.registry.waiting.set_reason(self.number, reason);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.registry.waiting.remove(self.number);
        self.registry.tally(self.listener).held.lower();
    }
}

/// A session's registration on a node; the drop removes the session and its cancel key.
#[derive(Debug)]
pub struct SessionGuard {
    registry: Arc<Registry>,
    id: u64,
    control: Arc<SessionControl>,
    key: SessionKey,
}

impl SessionGuard {
    /// Its cancel key and the port of the node that it uses, if the server has sent a key.
    pub fn key(&self) -> Option<(CancelKey, SessionPort)> {
        match &self.key {
            SessionKey::Seen(key) => Some((key.clone(), self.registry.keys.port(key))),
            SessionKey::Unknown | SessionKey::Unseen => None,
        }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How long it has been on the node.
    pub fn seconds_on_node(&self) -> u32 {
        self.registry.seconds().saturating_sub(self.control.since_seconds)
    }

    /// Another process has it now.
    pub fn moved_out(self) {
        self.control.has_moved_out();
    }

    /// The session's node.
    pub fn node(&self) -> NodeId {
        self.control.node
    }

    /// The shared part of the session.
    pub fn control(&self) -> &SessionControl {
        &self.control
    }

    /// Records the cancel key of the session, which uses this port of its node. If a server sends several, the last one
    /// counts.
    pub fn set_key(&mut self, key: CancelKey, port: SessionPort) {
        self.replace_key(SessionKey::Unknown); // first, because a server may send the same key again
        self.registry.keys.add(key.clone(), self.control.cluster(), self.control.node, port);
        self.key = SessionKey::Seen(key);
    }

    /// Records that pgvane cannot read the session from now on: if it has no key yet, pgvane will not see it.
    pub fn mark_opaque(&mut self) {
        if matches!(self.key, SessionKey::Unknown) {
            self.registry.keys.add_unseen(self.control.listener(), self.control.node);
            self.replace_key(SessionKey::Unseen);
        }
    }

    /// Passes on what the server has answered to the question for the session's state.
    pub fn answer(&self, answer: Answer) {
        self.control.set_asked(false);
        self.registry.questions.answer(self.id, answer);
    }

    fn replace_key(&mut self, key: SessionKey) {
        let before = std::mem::replace(&mut self.key, key);
        self.registry.keys.end(&before, self.control.listener(), self.control.node);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.replace_key(SessionKey::Unknown);
        let registry = &self.registry;
        registry.on_nodes(self.control.cluster()).remove(self.control.node);
        // the bytes are added to those of ended sessions under the lock that `census` takes, so none are counted twice
        registry.questions.give_up(self.id);
        let mut controls = registry.controls.lock();
        controls.remove(&self.id);
        let tally = registry.tally(self.control.listener());
        if self.control.is_moved_out() {
            return tally.servers.moved_out(self.control.node);
        }
        let [to_server, to_client] = self.control.bytes().read();
        registry.on_nodes(self.control.cluster()).add_ended_bytes(self.control.node, [to_server, to_client]);
        tally.servers.ended(&self.control);
        tally.ended_bytes_to_server.fetch_add(to_server, Relaxed);
        tally.ended_bytes_to_client.fetch_add(to_client, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use pgwire::messages::startup::SecretKey;

    use super::super::cancel_keys::KeyLocation;
    use super::*;
    use crate::routing::Target;

    fn from(listener: usize) -> Arc<Origin> {
        Origin::shared((ListenerIndex(listener), "test"), ClusterIndex(0), Rule::new(Target::Any))
    }

    fn registry() -> Arc<Registry> {
        Arc::new(Registry::new(2, vec![Arc::default()]))
    }

    #[test]
    fn connections_are_counted_up_to_the_limit() {
        let registry = registry();
        assert!(registry.enter(ListenerIndex(0), 1));
        assert!(!registry.enter(ListenerIndex(0), 1));
        assert!(registry.enter(ListenerIndex(1), 1), "each listener has its own limit");
        registry.leave(ListenerIndex(0));
        assert!(registry.enter(ListenerIndex(0), 1));
    }

    #[test]
    fn a_session_counts_as_load_and_keeps_its_key_until_it_ends() {
        let registry = registry();
        let key = CancelKey::new(7, &SecretKey::I32(9));
        let mut guard = registry.guard(&from(0), NodeId::new(2));
        guard.set_key(key.clone(), None);
        assert_eq!(registry.load(ClusterIndex(0), NodeId::new(2)), 1);
        assert_eq!(
            registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::On(NodeId::new(2), None)
        );
        guard.mark_opaque();
        let other = CancelKey::new(8, &SecretKey::I32(9));
        assert_eq!(
            registry.keys().look_up(&other, ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::Nowhere,
            "the session has one already"
        );
        drop(guard);
        assert_eq!(registry.load(ClusterIndex(0), NodeId::new(2)), 0);
        assert_eq!(registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
    }

    #[test]
    fn the_last_key_counts_also_if_it_is_named_twice() {
        let registry = registry();
        let [first, last] = [7, 8].map(|pid| CancelKey::new(pid, &SecretKey::I32(9)));
        let mut guard = registry.guard(&from(0), NodeId::new(2));
        for key in [&first, &last, &last] {
            guard.set_key(key.clone(), None);
        }
        let location = |key| registry.keys().look_up(key, ListenerIndex(0), ClusterIndex(0));
        assert_eq!(location(&last), KeyLocation::On(NodeId::new(2), None));
        assert_eq!(location(&first), KeyLocation::Nowhere);
    }

    #[test]
    fn an_opaque_session_may_have_any_key_while_it_lasts() {
        let registry = registry();
        let key = CancelKey::new(7, &SecretKey::I32(9));
        let mut guard = registry.guard(&from(0), NodeId::new(2));
        guard.mark_opaque();
        assert_eq!(
            registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)),
            KeyLocation::Among(vec![NodeId::new(2)])
        );
        drop(guard);
        assert_eq!(registry.keys().look_up(&key, ListenerIndex(0), ClusterIndex(0)), KeyLocation::Nowhere);
    }

    #[test]
    fn bytes_stay_counted_after_a_session_has_ended() {
        let registry = registry();
        let guard = registry.guard(&from(1), NodeId::new(0));
        guard.control().bytes().add_to_client(5);
        let counted = || (registry.census().listeners[1].bytes_to_client, registry.census().node_bytes[0][0]);
        assert_eq!(counted(), (5, [0, 5]));
        drop(guard);
        assert_eq!(counted(), (5, [0, 5]));
    }

    #[test]
    fn the_wanted_sessions_are_closed_and_counted_and_the_others_stay() {
        let registry = registry();
        let guards: Vec<SessionGuard> = (0..4).map(|node| registry.guard(&from(0), NodeId::new(node / 3))).collect();
        assert_eq!(registry.close(|session| session.node == NodeId::new(0)), 3);
        assert!(guards[..3].iter().all(|guard| guard.control().is_ordered(SessionOrder::Close)));
        assert!(!guards[3].control().is_ordered(SessionOrder::Close));
    }

    #[test]
    fn one_session_is_closed_by_its_id_and_the_id_is_not_given_again() {
        let registry = registry();
        let (first, second) = (registry.guard(&from(0), NodeId::new(0)), registry.guard(&from(0), NodeId::new(0)));
        let ids = || registry.list(9, |_| true).0.iter().map(|session| session.id).collect::<Vec<u64>>();
        let before = ids();
        assert_eq!(registry.close(|session| session.id == before[1]), 1);
        assert!(second.control().is_ordered(SessionOrder::Close) && !first.control().is_ordered(SessionOrder::Close));
        drop(second);
        let _third = registry.guard(&from(0), NodeId::new(0));
        assert_eq!(ids()[0], before[0], "it stays the same");
        assert!(!before.contains(&ids()[1]), "{before:?}, then {:?}", ids());
    }

    #[test]
    fn the_oldest_session_whose_transactions_are_visible_is_moved() {
        let registry = registry();
        let guards: Vec<SessionGuard> =
            (0..4).map(|listener| registry.guard(&from(listener / 3), NodeId::new(2))).collect();
        let node_load = || registry.node_loads(ListenerIndex(0), ClusterIndex(0))[2];
        assert_eq!(
            node_load(),
            NodeLoad { sessions: 4, movable: 0, leaving: 0 },
            "no session's transactions are visible"
        );
        registry.move_one(ListenerIndex(0), NodeId::new(2));
        assert_eq!(node_load().leaving, 0);
        guards[1..].iter().for_each(|guard| guard.control().show_transactions());
        assert_eq!(node_load(), NodeLoad { sessions: 4, movable: 2, leaving: 0 }, "one is of another listener");
        registry.move_one(ListenerIndex(0), NodeId::new(2));
        assert!(guards[1].control().is_about_to_move());
        assert_eq!(node_load(), NodeLoad { sessions: 4, movable: 1, leaving: 1 });
    }
}
