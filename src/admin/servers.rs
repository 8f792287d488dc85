//! The nodes as one listener uses them: what HAProxy calls the servers of a backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::health::Health;
use crate::cluster::node::CheckError;
use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{AdminState, HostPort, NodeId};
use crate::config::{Cluster, Listener};
use crate::proxy::sessions::server_counts::ServerCensus;
use crate::proxy::sessions::server_times::AverageCensus;
use crate::routing::{ServerState, server_state};

/// A node as one listener uses it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// The node's name.
    pub node: String,
    /// The node's number in its cluster, from 1. It stays the same as long as pgvane runs.
    pub number: u32,
    /// Where the listener's sessions connect to.
    pub address: String,
    /// `up`: it gets new sessions. `silent`: it is the leader, does not answer its checks, and still gets new sessions.
    /// `down`: it gets none. `drain`, `maint`: an operator has taken it out of service.
    pub state: String,
    /// Why it gets no new sessions, if its state is `down`.
    pub why_down: Option<String>,
    /// It gets sessions only while no other node can serve them: `backup`, or a leader that stands in for replicas.
    pub is_backup: bool,
    /// The result of its newest check, by HAProxy's names: `L7OK`, `L7STS` (it answers, and its answer keeps it from
    /// this listener's sessions), `L4CON`, `L7TOUT`, `L7RSP`, `INI` (not checked yet).
    pub check: String,
    /// What the check found, in words.
    pub check_text: String,
    /// Checks that are answered in a row until a silent node serves again.
    pub rise: u32,
    /// Checks that are not answered in a row until a node is silent.
    pub fall: u32,
    /// How many more checks may stay unanswered: from `rise + fall - 1` (all is well) down to 0.
    pub check_health: u32,
    /// Its share of new sessions.
    pub weight: u32,
    /// The maximum number of its sessions, over all listeners.
    pub sessions_max: Option<u32>,
    /// The listener's current sessions on it, including those that are logging in.
    pub sessions: u32,
    /// The most of these at the same time, since the start.
    pub sessions_highest: u32,
    /// How often it was chosen for a session, since the start.
    pub chosen_total: u64,
    /// How often it then took no session, and another node was tried.
    pub failed_total: u64,
    /// How many of its sessions the server ended, or lost.
    pub server_aborts_total: u64,
    /// How many of its sessions ended because the client was lost.
    pub client_aborts_total: u64,
    /// How long ago it was last chosen.
    pub chosen_seconds_ago: Option<u64>,
    /// Bytes relayed to it since the start.
    pub bytes_to_server: u64,
    /// Bytes relayed from it since the start.
    pub bytes_to_client: u64,
    /// How often it was chosen for a session in the last full second.
    pub chosen_per_second: u32,
    /// How often it was chosen for a session in the busiest second since the start.
    pub chosen_per_second_highest: u32,
    /// From a client's request until the node was chosen for it.
    pub queue_time: SessionTime,
    /// To connect to the node.
    pub connect_time: SessionTime,
    /// From the client's connection until its end.
    pub session_time: SessionTime,
}

/// A time of sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionTime {
    /// How many sessions the average is of: the newest, about 512 of them.
    pub sessions: u64,
    /// The average.
    pub average_seconds: f64,
    /// The longest since the start.
    pub longest_seconds: f64,
}

impl SessionTime {
    fn of(census: AverageCensus) -> SessionTime {
        let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
        SessionTime {
            sessions: census.sessions,
            average_seconds: seconds(census.average_us),
            longest_seconds: seconds(census.longest_us),
        }
    }

    /// Over several nodes, each with the weight of its sessions.
    pub(super) fn over(all: impl Iterator<Item = SessionTime> + Clone) -> SessionTime {
        let sessions: u64 = all.clone().map(|one| one.sessions).sum();
        let sum: f64 = all.clone().map(|one| one.average_seconds * one.sessions as f64).sum();
        let average_seconds = if sessions == 0 { 0.0 } else { sum / sessions as f64 };
        SessionTime {
            sessions,
            average_seconds,
            longest_seconds: all.map(|one| one.longest_seconds).fold(0.0, f64::max),
        }
    }
}

/// The nodes of a listener's cluster. `census` has the counts by the nodes' numbers.
pub(super) fn servers(
    listener: &Listener,
    cluster: &Cluster,
    topology: &Topology,
    census: &[ServerCensus],
) -> Vec<Server> {
    let of_node = |(id, node): (NodeId, &NodeView)| {
        let counts = census.get(id.index()).copied().unwrap_or_default().of(&node.member.name);
        server(listener, cluster, topology, (id, node), counts)
    };
    topology.members().map(of_node).collect()
}

fn server(
    listener: &Listener,
    cluster: &Cluster,
    topology: &Topology,
    (id, node): (NodeId, &NodeView),
    counts: ServerCensus,
) -> Server {
    let by_role = server_state(topology, &listener.rule, id);
    let why_down = match &by_role {
        ServerState::Down(why) => Some(why.clone()),
        _ => None,
    };
    let state = match (node.admin, &by_role) {
        (AdminState::Drain | AdminState::Maint, _) => node.admin.label(),
        (AdminState::Ready, ServerState::Serves | ServerState::Backup) => "up",
        (AdminState::Ready, ServerState::SilentLeader) => "silent",
        (AdminState::Ready, ServerState::Down(_)) => "down",
    };
    let own_port = listener.rule.port.and_then(|port| HostPort::new(node.member.address.host(), port.get()).ok());
    let address = own_port.as_ref().unwrap_or(&node.member.address).to_string();
    let (check, check_text) = check(node, why_down.as_deref());
    Server {
        node: node.member.name.clone(),
        number: u32::try_from(id.index() + 1).unwrap_or(u32::MAX),
        address,
        state: state.to_owned(),
        why_down: why_down.filter(|_| state == "down"),
        is_backup: node.member.is_backup || by_role == ServerState::Backup,
        check: check.to_owned(),
        check_text,
        rise: cluster.rise,
        fall: cluster.fall,
        check_health: check_health(&node.health, cluster.rise, cluster.fall),
        weight: node.weight(),
        sessions_max: Some(node.member.sessions_max).filter(|max| *max < u32::MAX),
        sessions: counts.sessions,
        sessions_highest: counts.sessions_highest,
        chosen_total: counts.chosen,
        failed_total: counts.failed,
        server_aborts_total: counts.server_aborts,
        client_aborts_total: counts.client_aborts,
        chosen_seconds_ago: counts.chosen_seconds_ago.map(u64::from),
        bytes_to_server: counts.bytes_to_server,
        bytes_to_client: counts.bytes_to_client,
        chosen_per_second: counts.per_second,
        chosen_per_second_highest: counts.per_second_highest,
        queue_time: SessionTime::of(counts.times.queue),
        connect_time: SessionTime::of(counts.times.connect),
        session_time: SessionTime::of(counts.times.total),
    }
}

/// The result of the newest check: HAProxy's name for it, and what it means for the listener.
fn check(node: &NodeView, why_down: Option<&str>) -> (&'static str, String) {
    match &node.health {
        Health::Unchecked { error: None } => ("INI", "not checked yet".to_owned()),
        Health::Unchecked { error: Some(error) } | Health::Silent { error, .. } => (failure(error), error.to_string()),
        Health::Answering { .. } => match (&node.foreign, why_down) {
            (Some(why), _) => ("L7STS", why.clone()),
            (None, Some(why)) => ("L7STS", format!("the node is {why}")),
            (None, None) => ("L7OK", format!("the node is {}", node.role_label())),
        },
    }
}

fn failure(error: &CheckError) -> &'static str {
    match error {
        CheckError::Refused | CheckError::Unreachable(_) => "L4CON",
        CheckError::TimedOut => "L7TOUT",
        CheckError::Denied(_) | CheckError::Garbled(_) => "L7RSP",
    }
}

/// HAProxy's count: from `rise` on a server is up; each check without an answer takes one away.
fn check_health(health: &Health, rise: u32, fall: u32) -> u32 {
    match health {
        Health::Unchecked { .. } => 0,
        Health::Answering { missed, .. } => (rise + fall).saturating_sub(1 + missed),
        Health::Silent { risen, .. } => *risen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_the_weight_of_their_sessions() {
        let time =
            |sessions, average_seconds, longest_seconds| SessionTime { sessions, average_seconds, longest_seconds };
        let all = [time(3, 1.0, 5.0), time(1, 3.0, 4.0), time(0, 0.0, 0.0)];
        assert_eq!(SessionTime::over(all.into_iter()), time(4, 1.5, 5.0));
        assert_eq!(SessionTime::over([].into_iter()), SessionTime::default());
    }
}
