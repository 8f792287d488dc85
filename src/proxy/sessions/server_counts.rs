//! What is counted of the nodes of one listener, each by itself. [`crate::probe::NodeSessions`] counts the sessions of a
//! node over all listeners.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::control::SessionControl;
use super::server_times::{Times, TimesCensus};
use crate::cluster::NodeId;
use crate::cluster::node::NODES_MAX;
use crate::proxy::end::End;
use crate::telemetry::RateMeter;

const SESSIONS_HIGHEST: &str = "sessions_highest";

/// The counts of a listener's nodes. Counting takes no lock.
#[derive(Debug)]
pub struct ServerCounts(Box<[Counts]>);

#[derive(Debug, Default)]
struct Counts {
    sessions: AtomicU32,
    sessions_highest: AtomicU32,
    chosen: AtomicU64,
    failed: AtomicU64,
    server_aborts: AtomicU64,
    client_aborts: AtomicU64,
    /// Which node it is, see [`identity`].
    identity: AtomicU64,
    /// When it was last chosen, in seconds of the registry's clock plus one; zero if it never was.
    chosen_in: AtomicU32,
    ended_bytes_to_server: AtomicU64,
    ended_bytes_to_client: AtomicU64,
    rate: RateMeter,
    times: Times,
}

/// The counts of one node of a listener at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerCensus {
    identity: u64,
    /// The listener's sessions on the node, including those that are logging in.
    pub sessions: u32,
    /// The most that there have been at the same time.
    pub sessions_highest: u32,
    /// How often the node was chosen for a session.
    pub chosen: u64,
    /// How often it then took no session, and another node was tried.
    pub failed: u64,
    /// How many of its sessions the server ended, or lost.
    pub server_aborts: u64,
    /// How many of its sessions ended because the client was lost.
    pub client_aborts: u64,
    /// How long ago it was last chosen.
    pub chosen_seconds_ago: Option<u32>,
    /// Bytes relayed to it.
    pub bytes_to_server: u64,
    /// Bytes relayed from it.
    pub bytes_to_client: u64,
    /// How often it was chosen in the last full second.
    pub per_second: u32,
    /// How often it was chosen in the busiest second.
    pub per_second_highest: u32,
    /// How long its sessions wait, connect and last.
    pub times: TimesCensus,
}

impl ServerCensus {
    /// The same, if the counts are those of the node of this name: a node that has left may have had its number before.
    pub fn of(self, name: &str) -> ServerCensus {
        if self.identity == identity(name) { self } else { ServerCensus::default() }
    }
}

/// What tells a node from others that have its number before or after it: a hash of its name.
fn identity(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Default for ServerCounts {
    /// Nothing was counted.
    fn default() -> ServerCounts {
        ServerCounts((0..NODES_MAX).map(|_| Counts::default()).collect())
    }
}

impl ServerCounts {
    /// Says which node has this number, before a session is counted. Another node's counts are forgotten.
    pub fn is_node(&self, node: NodeId, name: &str) {
        let counts = &self.0[node.index()];
        let identity = identity(name);
        if counts.identity.load(Relaxed) != identity && counts.identity.swap(identity, Relaxed) != identity {
            counts.forget();
        }
    }

    /// Counts a session for which the node was chosen in this second of the registry's clock. Each is ended with [`ServerCounts::ended`].
    pub fn chosen(&self, node: NodeId, second: u32) {
        let counts = &self.0[node.index()];
        counts.chosen_in.store(second.saturating_add(1), Relaxed);
        counts.chosen.fetch_add(1, Relaxed);
        counts.rate.count();
        counts.begins();
    }

    /// What was counted of the node of this name and number so far, by name. Another process can add it to its own.
    pub fn figures(&self, node: NodeId, name: &str) -> Vec<(&'static str, u64)> {
        let counts = &self.0[node.index()];
        if counts.identity.load(Relaxed) != identity(name) {
            return Vec::new();
        }
        let highest = (SESSIONS_HIGHEST, u64::from(counts.sessions_highest.load(Relaxed)));
        counts.totals().map(|(name, total)| (name, total.load(Relaxed))).into_iter().chain([highest]).collect()
    }

    /// Adds what another process has counted of this node. False if the name is unknown.
    pub fn add_figure(&self, node: NodeId, name: &str, value: u64) -> bool {
        let counts = &self.0[node.index()];
        if name == SESSIONS_HIGHEST {
            counts.sessions_highest.fetch_max(u32::try_from(value).unwrap_or(u32::MAX), Relaxed);
            return true;
        }
        let total = counts.totals().into_iter().find(|(known, _)| *known == name);
        total.map(|(_, total)| total.fetch_add(value, Relaxed)).is_some()
    }

    /// Counts a session that another process had before. It was counted as chosen there.
    pub fn moved_in(&self, node: NodeId) {
        self.0[node.index()].begins();
    }

    /// The opposite: another process has it now.
    pub fn moved_out(&self, node: NodeId) {
        self.0[node.index()].sessions.fetch_sub(1, Relaxed);
    }

    /// Counts the end of a session.
    pub fn ended(&self, control: &SessionControl) {
        let counts = &self.0[control.node().index()];
        let [to_server, to_client] = control.bytes().read();
        counts.ended_bytes_to_server.fetch_add(to_server, Relaxed);
        counts.ended_bytes_to_client.fetch_add(to_client, Relaxed);
        counts.sessions.fetch_sub(1, Relaxed);
    }

    /// Notes how long a session waited until the node was chosen, and how long it took to connect.
    pub fn connected(&self, node: NodeId, queue: Duration, connect: Duration) {
        let times = &self.0[node.index()].times;
        times.queue.add(queue);
        times.connect.add(connect);
    }

    /// Notes how long a connection whose session was on the node has lasted.
    pub fn lasted(&self, node: NodeId, time: Duration) {
        self.0[node.index()].times.total.add(time);
    }

    /// Counts a session that the node did not take.
    pub fn failed(&self, node: NodeId) {
        self.0[node.index()].failed.fetch_add(1, Relaxed);
    }

    /// Counts a session that ended because the server or the client was lost.
    pub fn aborted(&self, node: NodeId, end: &End) {
        let counts = &self.0[node.index()];
        match end {
            end if end.is_loss_of_server() => &counts.server_aborts,
            End::ClientFailed(_) | End::ClientUnresponsive(_) => &counts.client_aborts,
            _ => return,
        }
        .fetch_add(1, Relaxed);
    }

    /// The counts by the nodes' numbers at this second of the registry's clock, with the bytes of ended sessions only.
    pub fn read(&self, second: u32) -> Vec<ServerCensus> {
        let ago = |chosen_in: u32| chosen_in.checked_sub(1).map(|chosen_in| second.saturating_sub(chosen_in));
        let read = |counts: &Counts| ServerCensus {
            identity: counts.identity.load(Relaxed),
            sessions: counts.sessions.load(Relaxed),
            sessions_highest: counts.sessions_highest.load(Relaxed),
            chosen: counts.chosen.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            server_aborts: counts.server_aborts.load(Relaxed),
            client_aborts: counts.client_aborts.load(Relaxed),
            chosen_seconds_ago: ago(counts.chosen_in.load(Relaxed)),
            bytes_to_server: counts.ended_bytes_to_server.load(Relaxed),
            bytes_to_client: counts.ended_bytes_to_client.load(Relaxed),
            per_second: counts.rate.per_second(),
            per_second_highest: counts.rate.highest(),
            times: counts.times.census(),
        };
        self.0.iter().map(read).collect()
    }
}

impl Counts {
    fn begins(&self) {
        let sessions = self.sessions.fetch_add(1, Relaxed) + 1;
        if sessions > self.sessions_highest.load(Relaxed) {
            self.sessions_highest.fetch_max(sessions, Relaxed);
        }
    }

    /// The numbers that only grow, with their names.
    fn totals(&self) -> [(&'static str, &AtomicU64); 6] {
        [
            ("chosen", &self.chosen),
            ("failed", &self.failed),
            ("server_aborts", &self.server_aborts),
            ("client_aborts", &self.client_aborts),
            ("bytes_to_server", &self.ended_bytes_to_server),
            ("bytes_to_client", &self.ended_bytes_to_client),
        ]
    }

    /// Forgets everything but the current sessions, which end later.
    fn forget(&self) {
        self.totals().iter().for_each(|(_, total)| total.store(0, Relaxed));
        self.sessions_highest.store(self.sessions.load(Relaxed), Relaxed);
        self.chosen_in.store(0, Relaxed);
        self.rate.forget();
        self.times.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::super::origin::Origin;
    use super::*;
    use crate::config::{ClusterIndex, ListenerIndex};
    use crate::routing::{Rule, Target};

    #[test]
    fn the_number_of_sessions_returns_to_zero_and_totals_stay() {
        let (counts, node) = (ServerCounts::default(), NodeId::new(1));
        let control = SessionControl::new(
            Origin::shared((ListenerIndex(0), "test"), ClusterIndex(0), Rule::new(Target::Any)),
            node,
            0,
        );
        control.bytes().add_to_client(5);
        counts.is_node(node, "b");
        (0..3).for_each(|_| counts.chosen(node, 7));
        counts.failed(node);
        counts.aborted(node, &End::ServerClosed(None));
        counts.aborted(node, &End::ClientClosed);
        (0..3).for_each(|_| counts.ended(&control));
        let expected = ServerCensus {
            sessions_highest: 3,
            chosen: 3,
            failed: 1,
            server_aborts: 1,
            chosen_seconds_ago: Some(2),
            bytes_to_client: 15,
            ..ServerCensus::default()
        };
        let seen = counts.read(9)[1];
        assert_eq!(ServerCensus { identity: 0, per_second: 0, per_second_highest: 0, ..seen.of("b") }, expected);
        assert_eq!(seen.of("c"), ServerCensus::default(), "another node has had the number");
        counts.is_node(node, "c");
        assert_eq!(counts.read(9)[1].of("c").chosen, 0);
        assert_eq!(counts.read(9)[2], ServerCensus::default(), "each node has its own");
    }
}
