//! `GET /api/status`: the content of the stats page as JSON.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::context::AdminContext;
use crate::cluster::topology::Topology;
use crate::config::ClusterIndex;
use crate::net::resolver::Unresolved;
use crate::probe::ClusterHandle;

/// The state at one moment. New versions may add keys, but do not rename or remove any.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version of pgvane.
    pub version: String,
    /// Time since it began to accept connections.
    pub uptime_seconds: u64,
    /// pgvane is stopping and does not accept new connections.
    pub is_stopping: bool,
    /// The nodes' host names that cannot be resolved at present.
    #[serde(default)]
    pub unresolved_names: Vec<UnresolvedName>,
    /// The clusters, in the configuration's order.
    pub clusters: Vec<Cluster>,
    /// The listeners, in the configuration's order.
    pub listeners: Vec<Listener>,
}

/// A host name that cannot be resolved at present.
#[derive(Debug, Serialize, Deserialize)]
pub struct UnresolvedName {
    /// The name.
    pub name: String,
    /// Why it cannot be resolved.
    pub reason: String,
    /// For how long.
    pub seconds: u64,
    /// Its last known addresses, which are used meanwhile.
    pub addresses: Vec<IpAddr>,
}

/// One cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The name of the leader, if there is one.
    pub leader: Option<String>,
    /// Why new write sessions wait, if they do.
    pub writes_wait: Option<String>,
    /// Its members.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// PostgreSQL's `host:port`.
    pub address: String,
    /// Its role: `leader`, `replica`, …, `unknown`.
    pub role: String,
    /// The result of its checks: `up`, `silent`, `unreachable`, `unchecked`.
    pub health: String,
    /// Its administrative state: `ready`, `drain`, `maint`.
    pub state: String,
    /// PostgreSQL's state, as Patroni names it: `running`, `starting`, `stopping`, …
    pub postgresql: Option<String>,
    /// PostgreSQL's timeline.
    pub timeline: Option<u32>,
    /// A replica's lag in bytes.
    pub lag_bytes: Option<u64>,
    /// A replica's lag in time.
    pub lag_seconds: Option<f64>,
    /// Current sessions on it.
    pub sessions: u32,
}

/// One listener.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// The address that it listens on.
    pub bind: String,
    /// The cluster that it routes to.
    pub cluster: String,
    /// The nodes that it routes to: the listener's `target`.
    pub target: String,
    /// Current connections, including held ones.
    pub sessions: usize,
    /// The limit of concurrent connections.
    pub sessions_max: usize,
    /// Current connections that wait for a node.
    pub held: usize,
}

impl Status {
    pub(super) fn of(context: &AdminContext) -> Status {
        let clusters = context.clusters.iter().enumerate();
        let listeners = context.config.listeners.iter().zip(context.census());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: context.started.elapsed().as_secs(),
            is_stopping: *context.is_stopping.borrow(),
            unresolved_names: context.names.unresolved().into_iter().map(UnresolvedName::from).collect(),
            clusters: clusters
                .map(|(index, view)| cluster(view, &context.registry.loads(ClusterIndex(index))))
                .collect(),
            listeners: listeners
                .map(|(settings, (name, census))| Listener {
                    name,
                    bind: settings.binds.to_string(),
                    cluster: context.config.clusters[settings.cluster.0].name.clone(),
                    target: settings.rule.target.label().to_owned(),
                    sessions: census.sessions,
                    sessions_max: census.sessions_max,
                    held: census.held,
                })
                .collect(),
        }
    }
}

impl From<Unresolved> for UnresolvedName {
    fn from(of: Unresolved) -> UnresolvedName {
        let (reason, seconds) = (of.error.to_string(), of.since.as_secs());
        UnresolvedName { name: of.name, reason, seconds, addresses: of.addresses }
    }
}

impl fmt::Display for UnresolvedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnresolvedName { name, reason, seconds, addresses } = self;
        write!(f, "{name}: {reason}, for {seconds} s; ")?;
        if addresses.is_empty() {
            return f.write_str("no address is known");
        }
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        write!(f, "the last known addresses are used: {}", addresses.join(", "))
    }
}

fn cluster(view: &ClusterHandle, loads: &[u32]) -> Cluster {
    let topology: &Topology = &view.topology_full();
    let name = |id| topology.node(id).member.name.clone();
    let nodes = topology.members().map(|(id, node)| {
        let report = node.health.report();
        Node {
            name: node.member.name.clone(),
            address: node.member.address.to_string(),
            role: node.role_label().to_owned(),
            health: node.health.label().to_owned(),
            state: node.admin.label().to_owned(),
            postgresql: report.map(|report| report.state.clone()),
            timeline: report.and_then(|report| report.timeline),
            lag_bytes: node.lag.map(|lag| lag.bytes),
            lag_seconds: node.lag.map(|lag| lag.time.as_secs_f64()),
            sessions: loads.get(id.index()).copied().unwrap_or(0),
        }
    });
    Cluster {
        name: view.name().to_owned(),
        leader: topology.leader().map(name),
        writes_wait: why_writes_wait(topology),
        nodes: nodes.collect(),
    }
}

/// Why a new write session would wait; `None` if it would not.
pub(super) fn why_writes_wait(topology: &Topology) -> Option<String> {
    let leader = topology.leader().map(|leader| topology.node(leader));
    let by_operator =
        leader.and_then(|node| Some(format!("{} is the leader and is {}", node.member.name, node.admin.why_unfit()?)));
    topology.why_no_leader().or(by_operator)
}
