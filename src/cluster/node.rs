//! What one node says of itself: the types in which probes pass answers to the core.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::host_port::HostPort;
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
    /// If it is not smaller than [`NODES_MAX`]: the configuration and the members admit no more nodes.
    pub const fn new(number: usize) -> NodeId {
        assert!(number < NODES_MAX, "no cluster has so many nodes");
        NodeId(number as u8)
    }

    /// The number as a byte.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// The node of a byte that [`NodeId::to_byte`] gave.
    pub const fn from_byte(byte: u8) -> NodeId {
        NodeId::new(byte as usize)
    }

    /// Its number, an index into tables of nodes.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a node is. Names are looked up again and again, so that a changed address takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name under which logs, metrics and the stats page show the node; Patroni's member name.
    pub name: String,
    /// Where its PostgreSQL listens.
    pub address: HostPort,
    /// Base URL of Patroni's REST API, without a trailing slash.
    pub patroni_url: String,
    /// Its share of new sessions, relative to the weights of the other nodes.
    pub weight: u32,
    /// The maximum number of its sessions, over all listeners.
    pub sessions_max: u32,
    /// Discovery has found it; else the configuration names it. Only such a node has to be within `discover_allow`.
    pub is_discovered: bool,
    /// It gets reads only while no other replica can serve them.
    pub is_backup: bool,
    /// What listens at `address`.
    pub kind: ServerKind,
    /// Where PostgreSQL itself listens, for SQL checks, if not at `address`.
    pub check_address: Option<HostPort>,
}

/// What sessions reach on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerKind {
    /// PostgreSQL itself.
    #[default]
    Postgresql,
    /// A pooler in front of it. What it says at login about recovery may be old, or that of another server.
    Pooler,
}

impl ServerKind {
    /// Its name in the configuration file.
    pub const ALL: [(&'static str, ServerKind); 2] =
        [("postgresql", ServerKind::Postgresql), ("pooler", ServerKind::Pooler)];
}

impl Member {
    /// A node that the configuration names, with the default of every setting.
    pub fn new(name: String, address: HostPort, patroni_url: String) -> Member {
        Member {
            name,
            address,
            patroni_url,
            weight: WEIGHT_DEFAULT,
            sessions_max: u32::MAX,
            is_discovered: false,
            is_backup: false,
            kind: ServerKind::default(),
            check_address: None,
        }
    }

    /// Where PostgreSQL itself listens, for SQL checks.
    pub fn checked_address(&self) -> &HostPort {
        self.check_address.as_ref().unwrap_or(&self.address)
    }
}

/// The weight of a node if the configuration gives none.
pub const WEIGHT_DEFAULT: u32 = 100;

/// The highest weight.
pub const WEIGHT_MAX: u32 = 10_000;

/// A position in the write-ahead log, in bytes since its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    /// As PostgreSQL prints a `pg_lsn`: two hexadecimal halves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The role that a node says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Holds Patroni's leader lock, PostgreSQL runs and is not in recovery: takes writes. In the SQL check: is not in
    /// recovery.
    Leader,
    /// Holds the leader lock, but its PostgreSQL does not take writes: starting, stopping, still in recovery.
    LockHolder,
    /// Leads a standby cluster: holds the lock, in recovery by design.
    StandbyLeader,
    /// In recovery, running.
    Replica,
    /// Runs as a primary, and does not hold the leader lock: its Patroni has just started, or has lost its DCS. It gets
    /// no new write sessions. It keeps those that it has, until another node holds the lock or its PostgreSQL stops.
    UnlockedPrimary,
    /// Says that it serves no clients: stopped, starting, or being created.
    OutOfService,
}

impl Claim {
    /// Whether an existing write session may stay on a node that says this.
    ///
    /// A lock holder keeps its sessions: a restart of PostgreSQL ends them anyway, and a slow answer to Patroni's own
    /// query must not end them.
    pub fn keeps_writers(self) -> bool {
        matches!(self, Claim::Leader | Claim::LockHolder | Claim::UnlockedPrimary)
    }

    /// Its label in logs, metrics and on the stats page.
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

/// A replica's role in synchronous replication, as Patroni reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SyncStanding {
    /// Asynchronous.
    #[default]
    Async,
    /// One of `synchronous_standby_names`.
    Sync,
    /// Takes part in quorum commit.
    Quorum,
}

/// What a node reports of itself in one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its role.
    pub claim: Claim,
    /// Patroni says that the node holds the leader lock. PostgreSQL's answer alone never sets this.
    pub holds_lock: bool,
    /// PostgreSQL's state, as Patroni names it: `running`, `starting`, `stopping`, …
    pub state: String,
    /// PostgreSQL's timeline.
    pub timeline: Option<u32>,
    /// A leader's flush position, or a replica's replay position.
    pub position: Option<Lsn>,
    /// The position up to which a replica has received WAL.
    pub received: Option<Lsn>,
    /// The age, at this answer, of the last transaction that the replica replayed. Grows on an idle cluster too.
    pub replay_delay: Option<Duration>,
    /// `streaming`, `in archive recovery`, another state of PostgreSQL's WAL receiver, or absent.
    pub replication_state: Option<String>,
    /// Its role in synchronous replication.
    pub sync: SyncStanding,
    /// The node's tags from Patroni's configuration, values as text.
    pub tags: BTreeMap<String, String>,
    /// Patroni's `noloadbalance` tag is set: the node must get no reads.
    pub noloadbalance: bool,
    /// The member's name as its Patroni reports it (since Patroni 4).
    pub name: Option<String>,
    /// Patroni's `scope`, the cluster's name.
    pub scope: Option<String>,
    /// `system_identifier` of pg_controldata.
    pub system_identifier: Option<String>,
    /// When its postmaster started, as Patroni prints it, to the microsecond. Together with the system identifier it
    /// identifies a server.
    pub postmaster_start: Option<String>,
    /// PostgreSQL's version number, 150008 for 15.8.
    pub server_version: Option<u32>,
    /// Patroni's version.
    pub patroni_version: Option<String>,
    /// Patroni is in maintenance mode (`patronictl pause`).
    pub paused: bool,
    /// Patroni keeps its leader although the DCS is unavailable, because all members agree (`failsafe_mode`).
    pub failsafe: bool,
    /// The node waits for a restart to apply its configuration.
    pub pending_restart: bool,
    /// Why Patroni did not answer; the rest of the report then comes from PostgreSQL. `None` where the service that is
    /// checked has answered.
    pub patroni_error: Option<CheckError>,
}

impl Report {
    /// This report, where Patroni's answer has gaps because it cannot query its PostgreSQL (state "unknown"): the values
    /// that do not change from query to query are those of the report before.
    #[must_use]
    pub(super) fn with_gaps_filled_from(self: Arc<Report>, before: Option<&Arc<Report>>) -> Arc<Report> {
        let Some(known) = before.filter(|known| self.state == "unknown" && known.claim == self.claim) else {
            return self;
        };
        let mut whole = Report::clone(&self);
        whole.timeline = whole.timeline.or(known.timeline);
        whole.position = whole.position.or(known.position);
        whole.system_identifier = whole.system_identifier.or_else(|| known.system_identifier.clone());
        whole.postmaster_start = whole.postmaster_start.or_else(|| known.postmaster_start.clone());
        whole.server_version = whole.server_version.or(known.server_version);
        Arc::new(whole)
    }

    /// A report in which nothing else is known.
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

/// Why a check got no answer. It says nothing about the node's role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckError {
    /// No complete answer within the deadline.
    TimedOut,
    /// The connection was refused.
    Refused,
    /// The host or name could not be reached, or the connection was lost; with the cause.
    Unreachable(String),
    /// PostgreSQL refused the login; with its message.
    Denied(String),
    /// The answer is not one that Patroni or PostgreSQL gives; with what is wrong.
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

/// The result of one check of one node.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The node that was checked.
    pub node: NodeId,
    /// When the check was sent. The answer describes the node at some moment after this.
    pub asked_at: Moment,
    /// The answer, or why there was none.
    pub outcome: Result<Arc<Report>, CheckError>,
    /// The answer of its PostgreSQL, where Patroni was asked and did not answer.
    pub second_opinion: Option<SecondOpinion>,
}

/// PostgreSQL's answer about its own node. What follows from it: see [`super::corroboration`].
#[derive(Debug, Clone)]
pub struct SecondOpinion {
    /// When PostgreSQL was asked. Not earlier than Patroni.
    pub asked_at: Moment,
    /// The answer.
    pub report: Arc<Report>,
}
