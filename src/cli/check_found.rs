//! What `pgvane check` has found, as text and as JSON.

use std::fmt;

use serde::Serialize;

use super::explain;
use crate::cluster::Topology;
use crate::config::{Config, Faults};

/// What a file has, and with `--connect` what its nodes answer.
#[derive(Debug, Serialize)]
pub(super) struct FileFound {
    file: String,
    is_valid: bool,
    faults: Vec<FaultFound>,
    warnings: Vec<String>,
    /// The number of clusters in the file.
    cluster_count: usize,
    listeners: Vec<ListenerFound>,
    /// With `--connect`: the nodes.
    pub(super) clusters: Vec<ClusterFound>,
    /// With `--connect`: where sessions would go.
    pub(super) routes: Vec<RouteFound>,
}

#[derive(Debug, Serialize)]
struct FaultFound {
    line: Option<usize>,
    message: String,
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct ListenerFound {
    name: String,
    /// What it does, in one sentence.
    explanation: String,
    #[serde(skip)]
    is_explained: bool,
}

/// The nodes of a cluster.
#[derive(Debug, Serialize)]
pub(super) struct ClusterFound {
    name: String,
    nodes: Vec<NodeFound>,
}

#[derive(Debug, Serialize)]
struct NodeFound {
    name: String,
    address: String,
    is_discovered: bool,
    /// Its role and health in words.
    standing: String,
    /// It answers, and belongs to the cluster.
    answers: bool,
}

/// Where a listener's sessions would go now.
#[derive(Debug, Serialize)]
pub(super) struct RouteFound {
    pub(super) listener: String,
    pub(super) bind: String,
    /// The names of the nodes that would get its sessions.
    pub(super) goes_to: Vec<String>,
    /// The only one of them is the leader.
    pub(super) is_leader: bool,
    /// Why sessions would wait, if there is no node.
    pub(super) waits_because: Option<String>,
    pub(super) hold_max_seconds: f64,
    /// The nodes whose PostgreSQL cannot be reached.
    pub(super) unreachable: Vec<Unreachable>,
}

/// A node whose PostgreSQL cannot be reached.
#[derive(Debug, Serialize)]
pub(super) struct Unreachable {
    pub(super) node: String,
    pub(super) why: String,
}

impl FileFound {
    /// Of a valid file. The sentences are printed as text only if they are wanted; JSON always has them.
    pub(super) fn valid(file: &str, config: &Config, is_explained: bool) -> FileFound {
        let listener = |listener| explain::sentence(config, listener);
        let listeners = config.listeners.iter();
        FileFound {
            file: file.to_owned(),
            is_valid: true,
            faults: Vec::new(),
            warnings: config.warnings(),
            cluster_count: config.clusters.len(),
            listeners: listeners
                .map(|of| ListenerFound { name: of.name.clone(), explanation: listener(of), is_explained })
                .collect(),
            clusters: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// Of a file with faults.
    pub(super) fn faulty(faults: &Faults) -> FileFound {
        let list = faults.list.iter().cloned();
        FileFound {
            file: faults.file.clone(),
            is_valid: false,
            faults: list
                .map(|fault| FaultFound { line: fault.line, message: fault.message, hint: fault.hint })
                .collect(),
            warnings: Vec::new(),
            cluster_count: 0,
            listeners: Vec::new(),
            clusters: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// Prints the warnings on standard error, and all else on standard output.
    pub(super) fn print(&self) {
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
        println!("{}: valid ({} cluster(s), {} listener(s))", self.file, self.cluster_count, self.listeners.len());
        for listener in self.listeners.iter().filter(|listener| listener.is_explained) {
            println!("{}", listener.explanation);
        }
    }
}

impl ClusterFound {
    pub(super) fn of(name: &str, topology: &Topology) -> ClusterFound {
        let nodes = topology.members().map(|(_, node)| NodeFound {
            name: node.member.name.clone(),
            address: node.member.address.to_string(),
            is_discovered: node.member.is_discovered,
            standing: node.summary().to_string(),
            answers: node.health.report().is_some() && node.foreign.is_none(),
        });
        ClusterFound { name: name.to_owned(), nodes: nodes.collect() }
    }

    /// Whether there are nodes and all of them answer.
    pub(super) fn all_answer(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.iter().all(|node| node.answers)
    }
}

impl fmt::Display for ClusterFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cluster {}:", self.name)?;
        for node in &self.nodes {
            let found = if node.is_discovered { " (found by discovery)" } else { "" };
            writeln!(f, "  {} at {}{found}: {}", node.name, node.address, node.standing)?;
        }
        if self.nodes.is_empty() { f.write_str("  no members were found\n") } else { Ok(()) }
    }
}

impl RouteFound {
    /// Whether sessions have a node, and every node can be reached.
    pub(super) fn is_well(&self) -> bool {
        self.waits_because.is_none() && self.unreachable.is_empty()
    }
}

impl fmt::Display for RouteFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {} on {}: ", self.listener, self.bind)?;
        let leader = if self.is_leader { ", the leader" } else { "" };
        match &self.waits_because {
            Some(why) => {
                let hold_max = std::time::Duration::try_from_secs_f64(self.hold_max_seconds).unwrap_or_default();
                writeln!(f, "sessions wait, at most for hold_max ({hold_max:?}): {why}")?;
            }
            None => writeln!(f, "sessions go to {}{leader}", self.goes_to.join(", "))?,
        }
        self.unreachable.iter().try_for_each(|one| writeln!(f, "  PostgreSQL of {}: {}", one.node, one.why))
    }
}
