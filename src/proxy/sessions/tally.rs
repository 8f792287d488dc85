//! The numbers of each listener, and of each node, at one moment.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;

use super::availability::{Availability, AvailabilityCensus};
use super::server_counts::{ServerCensus, ServerCounts};
use crate::proxy::intake::pending::PendingConnections;
use crate::routing::Reactions;
use crate::telemetry::RateMeter;

/// The numbers at one moment.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// Of every listener, by its number.
    pub listeners: Vec<ListenerCensus>,
    /// Bytes relayed to and from every node since the start, by cluster and by the node's number.
    pub node_bytes: Vec<Vec<[u64; 2]>>,
    /// The counts of every listener's nodes, by the listener's number and by the node's number.
    pub servers: Vec<Vec<ServerCensus>>,
}

/// A listener's numbers at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListenerCensus {
    /// Connections whose startup packet is not complete.
    pub pending: usize,
    /// Connections, including held ones.
    pub sessions: usize,
    /// The most connections at the same time so far.
    pub sessions_highest: usize,
    /// Connections accepted in the last full second.
    pub per_second: u32,
    /// Connections accepted in the busiest second so far.
    pub per_second_highest: u32,
    /// Connections that wait for a node.
    pub held: usize,
    /// The most connections that waited for a node at the same time so far.
    pub held_highest: usize,
    /// Bytes relayed to servers since the start.
    pub bytes_to_server: u64,
    /// Bytes relayed to clients since the start.
    pub bytes_to_client: u64,
    /// Whether there is a node for new sessions.
    pub availability: AvailabilityCensus,
}

/// Where a listener's numbers are counted.
#[derive(Debug, Default)]
pub(super) struct ListenerTally {
    pub(super) pending: PendingConnections,
    pub(super) refused: PendingConnections,
    pub(super) sessions: Level,
    pub(super) held: Level,
    pub(super) accepted: RateMeter,
    pub(super) ended_bytes_to_server: AtomicU64,
    pub(super) ended_bytes_to_client: AtomicU64,
    pub(super) servers: ServerCounts,
    pub(super) availability: Availability,
    /// What happens to running sessions, by the newest configuration.
    pub(super) reactions: Mutex<Reactions>,
}

impl ListenerTally {
    /// The numbers now, without the bytes of running sessions.
    pub(super) fn census(&self) -> ListenerCensus {
        ListenerCensus {
            pending: self.pending.count(),
            sessions: self.sessions.now(),
            sessions_highest: self.sessions.highest(),
            per_second: self.accepted.per_second(),
            per_second_highest: self.accepted.highest(),
            held: self.held.now(),
            held_highest: self.held.highest(),
            bytes_to_server: self.ended_bytes_to_server.load(Relaxed),
            bytes_to_client: self.ended_bytes_to_client.load(Relaxed),
            availability: self.availability.census(Instant::now()),
        }
    }

    /// Adds bytes, to the server and to the client, that no session has in its own counts any more.
    pub(super) fn add_ended_bytes(&self, [to_server, to_client]: [u64; 2]) {
        self.ended_bytes_to_server.fetch_add(to_server, Relaxed);
        self.ended_bytes_to_client.fetch_add(to_client, Relaxed);
    }
}

impl ListenerTally {
    /// What was counted so far, by name. Another process can add it to its own.
    pub(super) fn figures(&self) -> [(&'static str, u64); 5] {
        let now = self.census();
        [
            ("sessions_highest", now.sessions_highest as u64),
            ("held_highest", now.held_highest as u64),
            ("per_second_highest", u64::from(now.per_second_highest)),
            ("bytes_to_server", now.bytes_to_server),
            ("bytes_to_client", now.bytes_to_client),
        ]
    }

    /// Adds what another process has counted. False if the name is unknown.
    pub(super) fn add_figure(&self, name: &str, value: u64) -> bool {
        match name {
            "sessions_highest" => self.sessions.was(value),
            "held_highest" => self.held.was(value),
            "per_second_highest" => self.accepted.was(u32::try_from(value).unwrap_or(u32::MAX)),
            "bytes_to_server" => _ = self.ended_bytes_to_server.fetch_add(value, Relaxed),
            "bytes_to_client" => _ = self.ended_bytes_to_client.fetch_add(value, Relaxed),
            _ => return false,
        }
        true
    }
}

/// A number that goes up and down, and the highest that it has been.
#[derive(Debug, Default)]
pub(super) struct Level {
    now: AtomicUsize,
    highest: AtomicUsize,
}

impl Level {
    /// Adds one, unless it has reached `max`; returns false then.
    pub(super) fn raise(&self, max: usize) -> bool {
        match self.now.fetch_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1)) {
            Ok(before) => {
                if before >= self.highest.load(Relaxed) {
                    self.highest.fetch_max(before + 1, Relaxed);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// It was this high before this process began.
    fn was(&self, highest: u64) {
        self.highest.fetch_max(usize::try_from(highest).unwrap_or(usize::MAX), Relaxed);
    }

    /// Takes one away.
    pub(super) fn lower(&self) {
        self.now.fetch_sub(1, Relaxed);
    }

    /// The number now.
    pub(super) fn now(&self) -> usize {
        self.now.load(Relaxed)
    }

    /// The highest that it has been.
    pub(super) fn highest(&self) -> usize {
        self.highest.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_remembers_its_highest_and_stops_at_the_limit() {
        let level = Level::default();
        assert!(level.raise(2) && level.raise(2));
        assert!(!level.raise(2));
        level.lower();
        assert_eq!((level.now(), level.highest()), (1, 2));
        assert!(level.raise(2));
        assert_eq!((level.now(), level.highest()), (2, 2));
    }
}
