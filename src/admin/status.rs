//! `GET /api/status`: what the stats page shows, for programs.

use serde::{Deserialize, Serialize};

use super::context::AdminContext;
use crate::cluster::topology::Topology;
use crate::config::ClusterIndex;
use crate::probe::ClusterHandle;

/// Everything at one moment. Keys may be added; none is renamed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// pgvane's own version.
    pub version: String,
    /// Since it began to serve.
    pub uptime_seconds: u64,
    /// No new connections are taken.
    pub is_stopping: bool,
    /// In the configuration's order.
    pub clusters: Vec<Cluster>,
    /// In the configuration's order.
    pub listeners: Vec<Listener>,
}

/// One cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The node that leads, if one does.
    pub leader: Option<String>,
    /// Why new writes wait, if they do.
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
    /// What it is: `leader`, `replica`, …, `unknown`.
    pub role: String,
    /// What its checks say: `up`, `silent`, `unreachable`, `unchecked`.
    pub health: String,
    /// What operators have made of it: `ready`, `drain`, `maint`.
    pub state: String,
    /// PostgreSQL's state in Patroni's words.
    pub postgresql: Option<String>,
    /// PostgreSQL's timeline.
    pub timeline: Option<u32>,
    /// A replica's lag in bytes.
    pub lag_bytes: Option<u64>,
    /// A replica's lag in time.
    pub lag_seconds: Option<f64>,
    /// Sessions on it now.
    pub sessions: u32,
}

/// One listener.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub bind: String,
    /// Which cluster it leads to.
    pub cluster: String,
    /// Which nodes it leads to.
    pub target: String,
    /// Connections now, held ones included.
    pub sessions: usize,
    /// The most that it takes.
    pub sessions_max: usize,
    /// Connections that wait for a node.
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
            clusters: clusters
                .map(|(index, view)| cluster(view, &context.registry.loads(ClusterIndex(index))))
                .collect(),
            listeners: listeners
                .map(|(settings, (name, census))| Listener {
                    name,
                    bind: settings.bind.to_string(),
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

fn cluster(view: &ClusterHandle, loads: &[u32]) -> Cluster {
    let topology: &Topology = &view.topology_full();
    let name = |id| topology.node(id).member.name.clone();
    let nodes = topology.members().map(|(id, node)| {
        let report = node.health.report();
        Node {
            name: node.member.name.clone(),
            address: node.member.address.clone(),
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

/// Why a new write would wait, if it would.
pub(super) fn why_writes_wait(topology: &Topology) -> Option<String> {
    let leader = topology.leader().map(|leader| topology.node(leader));
    let by_operator =
        leader.and_then(|node| Some(format!("{} leads and is {}", node.member.name, node.admin.why_unfit()?)));
    topology.why_no_leader().or(by_operator)
}
