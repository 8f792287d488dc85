//! What one node says of itself: the vocabulary in which probes speak to the core.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::moment::Moment;

/// The most nodes that one cluster may have. Patroni clusters have two to seven; the bound keeps per-node
/// tables a fixed size, so that counting a session takes no lock.
pub const NODES_MAX: usize = 128;

/// Some of a cluster's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeSet(u128);

impl NodeSet {
    /// Puts a node into it.
    pub fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.index();
    }

    /// Whether a node is in it.
    pub fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.index()) != 0
    }
}

/// A node's number within its cluster, valid for the life of the process and smaller than [`NODES_MAX`]. A byte: every
/// session carries some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u8);

impl NodeId {
    /// The node of this number.
    ///
    /// # Panics
    ///
    /// If it is not smaller than [`NODES_MAX`]: the configuration and the roster admit no more nodes.
    pub const fn new(number: usize) -> NodeId {
        assert!(number < NODES_MAX, "no cluster has so many nodes");
        NodeId(number as u8)
    }

    /// Its number, an index into tables of nodes.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a node is to be found. Names are resolved at each connect, so that a changed address is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name under which logs, metrics and the stats page show the node; Patroni's member name.
    pub name: String,
    /// PostgreSQL's `host:port`.
    pub address: String,
    /// Base URL of Patroni's REST API, without a trailing slash.
    pub patroni_url: String,
    /// What share of new sessions it gets, beside the others' weights.
    pub weight: u32,
    /// How many sessions it carries at once, over all listeners.
    pub sessions_max: u32,
}

/// The weight of a node to which none was given.
pub const WEIGHT_DEFAULT: u32 = 100;

/// A position in the write-ahead log, in bytes since its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    /// As PostgreSQL prints a `pg_lsn`: two hexadecimal halves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The part that a node says it plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Holds Patroni's leader lock, PostgreSQL runs and is not in recovery: takes writes. By the SQL check: is not in
    /// recovery.
    Leader,
    /// Holds the leader lock, but its PostgreSQL does not take writes: starting, stopping, still in recovery.
    LockHolder,
    /// Leads a standby cluster: holds the lock, in recovery by design.
    StandbyLeader,
    /// In recovery, running.
    Replica,
    /// Runs as a primary, and does not hold the leader lock: its Patroni has just started, or has lost its DCS. It gets no
    /// new write sessions. It keeps those that it has, until another node holds the lock or its PostgreSQL stops.
    UnlockedPrimary,
    /// Says that it serves nobody: stopped, starting, or being created.
    OutOfService,
}

impl Claim {
    /// Whether an existing write session may stay on a node that says this.
    ///
    /// A lock holder keeps its sessions: a restart of PostgreSQL ends them by itself, and a slow answer to
    /// Patroni's own query must not.
    pub fn keeps_writers(self) -> bool {
        matches!(self, Claim::Leader | Claim::LockHolder | Claim::UnlockedPrimary)
    }

    /// The word for it in logs, metrics and on the stats page.
    pub fn label(self) -> &'static str {
        match self {
            Claim::Leader => "leader",
            Claim::LockHolder => "lock-holder",
            Claim::StandbyLeader => "standby-leader",
            Claim::Replica => "replica",
            Claim::UnlockedPrimary => "unlocked-primary",
            Claim::OutOfService => "out-of-service",
        }
    }
}

/// A replica's part in synchronous replication, as Patroni states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SyncStanding {
    /// Neither of the below.
    #[default]
    Async,
    /// One of `synchronous_standby_names`.
    Sync,
    /// Takes part in quorum commit.
    Quorum,
}

/// A node's own account of itself, taken from one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The part it plays.
    pub claim: Claim,
    /// Patroni says that the node holds the leader lock. Never so by PostgreSQL's answer alone.
    pub holds_lock: bool,
    /// PostgreSQL's state in Patroni's words: `running`, `starting`, `stopping`, …
    pub state: String,
    /// PostgreSQL's timeline.
    pub timeline: Option<u32>,
    /// A leader's flush position, or a replica's replay position.
    pub position: Option<Lsn>,
    /// Up to where a replica has received WAL.
    pub received: Option<Lsn>,
    /// How long before this answer what the replica last replayed was committed. Grows on an idle cluster too.
    pub replay_delay: Option<Duration>,
    /// `streaming`, `in archive recovery`, another state of PostgreSQL's WAL receiver, or absent.
    pub replication_state: Option<String>,
    /// Part in synchronous replication.
    pub sync: SyncStanding,
    /// The node's tags from Patroni's configuration, values as text.
    pub tags: BTreeMap<String, String>,
    /// The node asks, by Patroni's `noloadbalance` tag, to be given no reads.
    pub noloadbalance: bool,
    /// The member's name by its own word (since Patroni 4).
    pub name: Option<String>,
    /// Patroni's `scope`, the cluster's name.
    pub scope: Option<String>,
    /// `system_identifier` of pg_controldata.
    pub system_identifier: Option<String>,
    /// When its postmaster started, as Patroni prints it, to the microsecond: with the system identifier it tells a server
    /// from every other.
    pub postmaster_start: Option<String>,
    /// PostgreSQL's version number, 150008 for 15.8.
    pub server_version: Option<u32>,
    /// Patroni's version.
    pub patroni_version: Option<String>,
    /// Patroni is in maintenance mode (`patronictl pause`).
    pub paused: bool,
    /// Patroni keeps its leader though the DCS is gone, because all members agree (`failsafe_mode`).
    pub failsafe: bool,
    /// The node waits for a restart to apply its configuration.
    pub pending_restart: bool,
    /// Patroni did not answer, and why; the rest is PostgreSQL's own word. `None` where the one that was to be asked
    /// has answered.
    pub patroni_error: Option<CheckError>,
}

impl Report {
    /// A report of which no more is known.
    pub fn bare(claim: Claim, state: &str) -> Report {
        Report {
            claim,
            holds_lock: false,
            state: state.to_owned(),
            timeline: None,
            position: None,
            received: None,
            replay_delay: None,
            replication_state: None,
            sync: SyncStanding::Async,
            tags: BTreeMap::new(),
            noloadbalance: false,
            name: None,
            scope: None,
            system_identifier: None,
            postmaster_start: None,
            server_version: None,
            patroni_version: None,
            paused: false,
            failsafe: false,
            pending_restart: false,
            patroni_error: None,
        }
    }
}

/// Why a check brought no answer. It says nothing about the node's role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckError {
    /// No whole answer within the deadline.
    TimedOut,
    /// Nobody listens there.
    Refused,
    /// The host or name could not be reached, or the connection broke; with the cause.
    Unreachable(String),
    /// PostgreSQL let us not in; in its own words.
    Denied(String),
    /// Something answered that is not what was to be asked, or not in words that we know; with what was wrong.
    Garbled(String),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckError::TimedOut => f.write_str("no answer in time"),
            CheckError::Refused => f.write_str("connection refused"),
            CheckError::Unreachable(cause) => write!(f, "unreachable: {cause}"),
            CheckError::Denied(cause) => write!(f, "login refused: {cause}"),
            CheckError::Garbled(cause) => write!(f, "answer not understood: {cause}"),
        }
    }
}

/// What one check of one node brought.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Whom it is about.
    pub node: NodeId,
    /// When the question was sent. The answer describes the node at some moment after this.
    pub asked_at: Moment,
    /// The answer, or why there was none.
    pub outcome: Result<Arc<Report>, CheckError>,
    /// What its PostgreSQL said, where Patroni was to be asked and was silent.
    pub second_opinion: Option<SecondOpinion>,
}

/// PostgreSQL's own word about a node. What it is worth: see [`super::corroboration`].
#[derive(Debug, Clone)]
pub struct SecondOpinion {
    /// When it was asked for. Not before the question to Patroni.
    pub asked_at: Moment,
    /// The answer.
    pub report: Arc<Report>,
}
