//! All that pgvane shows of itself at one moment. The stats page, the metrics that are read when they are scraped, and
//! `GET /api/status` are made from this, so that they show the same figures. `collect` fills it in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::park_status::{CarryCounts, Park, ParkCounts, RoleKeys};
use super::process::Process;
use super::reloads::ReloadRecord;
use super::servers::Server;
use super::upgrades::Predecessor;
use crate::net::resolver::Unresolved;
use crate::probe::history::Record;

/// The state at one moment. New versions may add keys, but do not rename or remove any.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The version of pgvane.
    pub version: String,
    /// Time since it began to accept connections.
    pub uptime_seconds: u64,
    /// pgvane is stopping and does not accept new connections.
    pub is_stopping: bool,
    /// What is true of the whole process.
    pub process: Process,
    /// The nodes' host names that cannot be resolved at present.
    pub unresolved_names: Vec<UnresolvedName>,
    /// How many lookups of host names had which outcome since the start.
    pub name_lookups: NameLookups,
    /// Reloads of the configuration.
    pub reload: ReloadRecord,
    /// The process that this one has taken over from, while it still has sessions.
    pub predecessor: Option<Predecessor>,
    /// The clusters, in the configuration's order.
    pub clusters: Vec<Cluster>,
    /// The listeners, in the configuration's order.
    pub listeners: Vec<Listener>,
    /// What is wrong, with what to do about it; critical alarms first.
    pub alarms: Vec<Alarm>,
    /// What operators have changed since the start, newest first; old changes are left out.
    pub operators: Vec<OperatorAction>,
}

/// Something that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alarm {
    /// How urgent it is.
    pub severity: Severity,
    /// The cluster, `cluster/node`, the listener or the host name.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub what_to_do: String,
}

/// How urgent an alarm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Clients are affected: it needs action now.
    Critical,
    /// It can wait until the morning.
    #[default]
    Warning,
}

impl Severity {
    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        }
    }
}

impl Alarm {
    /// Whether it needs action now.
    pub fn is_critical(&self) -> bool {
        self.severity == Severity::Critical
    }
}

/// Something that an operator has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorAction {
    /// When, in UTC.
    pub at: String,
    /// Who: the user's name.
    pub user: String,
    /// The address from which the request came.
    pub from: String,
    /// What.
    pub what: String,
}

/// Who has set something, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetBy {
    /// The user's name.
    pub user: String,
    /// When, in UTC.
    pub at: String,
}

impl fmt::Display for SetBy {
    /// `by ops at 2026-11-26T04:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {} at {}", self.user, self.at)
    }
}

/// A host name that cannot be resolved at present.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// The lookups of the nodes' host names, by outcome.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NameLookups {
    /// Answered with addresses.
    pub answered: u64,
    /// The name does not exist.
    pub not_found: u64,
    /// Not answered.
    pub failed: u64,
}

/// One cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The name of the leader, if there is one.
    pub leader: Option<String>,
    /// Whether there is a leader, and how certain that is.
    pub lead: Lead,
    /// How long this has been so: there has been this leader, or none.
    pub lead_seconds: f64,
    /// The state of the lead in one sentence.
    pub headline: String,
    /// For how long a leader that does not answer is still the leader.
    pub grace_left_seconds: Option<f64>,
    /// Why new write sessions wait, if they do.
    pub writes_wait: Option<String>,
    /// What else operators should know of the cluster, a sentence each.
    pub notes: Vec<String>,
    /// The park of its write sessions, if there is one.
    pub park: Option<Park>,
    /// Whether its write sessions can be parked (`park = true`).
    pub can_park: bool,
    /// What became of sessions that were to be parked, since the start.
    pub park_counts: ParkCounts,
    /// What became of parked sessions that lost their server, since the start.
    pub carry_counts: CarryCounts,
    /// The roles whose sessions have logged in by SCRAM; null if sessions are not carried to another server.
    pub role_keys: Option<RoleKeys>,
    /// Its members.
    pub nodes: Vec<Node>,
    /// The changes of leader, newest first. `/api/events` has them as JSON.
    #[serde(skip)]
    pub changes: Vec<Record>,
}

/// Whether a cluster has a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lead {
    /// There is a leader, and it answers.
    Led,
    /// There is a leader, and something happened that makes it doubtful: it is being checked again.
    Doubted,
    /// There is a leader, and it does not answer. It is the leader until its last answer is older than `leader_grace`.
    Silent,
    /// There is a leader, and an operator has taken it out of service: writes wait.
    OutOfService,
    /// There is no leader.
    #[default]
    Vacant,
    /// Several nodes claim to lead: a split brain.
    Contested,
}

/// One node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// PostgreSQL's `host:port`.
    pub address: String,
    /// Its role by its newest answer, however old: `leader`, `replica`, …, `unknown`.
    pub role: String,
    /// Whether new write sessions go to it.
    pub is_leader: bool,
    /// The result of its checks: `up`, `silent`, `unreachable`, `unchecked`.
    pub health: String,
    /// Why its last check failed, if it failed.
    pub check_error: Option<String>,
    /// For how long its checks have not been answered, counted from its last answer.
    pub silent_seconds: Option<f64>,
    /// The age of its newest answer.
    pub answer_age_seconds: Option<f64>,
    /// Its administrative state: `ready`, `drain`, `maint`.
    pub state: String,
    /// Who set the administrative state; `None` if nobody has since the start.
    pub state_set_by: Option<SetBy>,
    /// PostgreSQL's version, for example `15.8`.
    pub postgresql_version: Option<String>,
    /// Patroni's version.
    pub patroni_version: Option<String>,
    /// PostgreSQL's state, as Patroni names it: `running`, `starting`, `stopping`, …
    pub postgresql: Option<String>,
    /// PostgreSQL's timeline.
    pub timeline: Option<u32>,
    /// A replica's lag in bytes.
    pub lag_bytes: Option<u64>,
    /// A replica's lag in time.
    pub lag_seconds: Option<f64>,
    /// `streaming`, `in archive recovery`, or another state of PostgreSQL's WAL receiver.
    pub replication: Option<String>,
    /// Its role in synchronous replication, if it has one: `sync` or `quorum`.
    pub sync: Option<String>,
    /// Its tags in Patroni's configuration.
    pub tags: BTreeMap<String, String>,
    /// It gets sessions only if no other node can serve them (`backup`).
    pub is_backup: bool,
    /// It waits for a restart to apply its configuration.
    pub pending_restart: bool,
    /// Why its Patroni did not answer, where its PostgreSQL did.
    pub patroni_error: Option<String>,
    /// Why its answers are not accepted: it belongs to another cluster.
    pub foreign: Option<String>,
    /// Why it gets no new sessions of a listener although its role is right, a sentence for each listener.
    pub excluded: Vec<String>,
    /// The ports on which clients get sessions: PostgreSQL's, and those that listeners name.
    pub ports: Vec<NodePort>,
    /// Current sessions on it, including those that are logging in.
    pub sessions: u32,
    /// The most sessions at the same time since the start.
    pub sessions_highest: u32,
    /// Sessions since the start.
    pub sessions_total: u64,
    /// The maximum number of its sessions (`sessions_max`); no limit if `None`.
    pub sessions_max: Option<u32>,
    /// Sessions that began in the last full second.
    pub sessions_per_second: u32,
    /// Sessions that began in the busiest second since the start.
    pub sessions_per_second_highest: u32,
    /// Bytes relayed to it since the start.
    pub bytes_to_server: u64,
    /// Bytes relayed from it since the start.
    pub bytes_to_client: u64,
    /// Attempts to open a session that failed because of the node, since the start. Clients see these only if no other
    /// node can serve them.
    pub connect_failures: u64,
    /// Sessions that broke because the connection to the node was lost, since the start.
    pub sessions_lost: u64,
    /// Its share of new sessions, relative to the weights of the other nodes.
    pub weight: u32,
    /// The weight in the configuration.
    pub weight_configured: u32,
    /// Who set the weight; `None` if nobody has since the start.
    pub weight_set_by: Option<SetBy>,
    /// How long its health has been what it is.
    pub health_seconds: f64,
    /// How long its role has been what it is.
    pub role_seconds: f64,
    /// For how long it has not answered its checks since the start, altogether.
    pub downtime_seconds: f64,
    /// How often it stopped answering its checks since the start.
    pub downs: u32,
    /// How long its last check took.
    pub check_seconds: Option<f64>,
    /// The result of its last check: `200` or `503`, Patroni's HTTP status; `ok`, an answer of PostgreSQL; `failed`.
    pub check_result: Option<String>,
    /// Checks that got no answer, since the start.
    pub checks_failed: u64,
    /// The oldest of these sessions, if an operator has taken the node out of service: at most [`LEFT_MAX`].
    pub left: Vec<Session>,
}

/// How many sessions are listed of a node that an operator has taken out of service.
pub const LEFT_MAX: usize = 20;

/// One session.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Its number, by which it can be closed: of this session only, as long as pgvane runs.
    pub id: u64,
    /// The listener.
    pub listener: String,
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// The client's address.
    pub client: String,
    /// The user; empty if encryption hides it.
    pub user: String,
    /// The database; empty if encryption hides it.
    pub database: String,
    /// The application's name; empty if the client gave none, or encryption hides it.
    pub application_name: String,
    /// How long it has been on its node.
    pub seconds: u32,
    /// `login`; `open`; `parked`: its client waits between two transactions; or `draining`: it ends when its transaction
    /// ends, or after `drain_timeout`.
    pub state: String,
    /// Bytes relayed to the server.
    pub bytes_to_server: u64,
    /// Bytes relayed to the client.
    pub bytes_to_client: u64,
    /// Why it could not log in again at another server, and so not be carried there; `None` if it could, or if its cluster
    /// does not carry its sessions.
    pub cannot_log_in_again: Option<String>,
}

impl fmt::Display for Session {
    /// Whose it is, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |name: &str| if name.is_empty() { "?".to_owned() } else { format!("{name:?}") };
        let [user, database, application] =
            [&self.user, &self.database, &self.application_name].map(|of| or_unknown(of));
        write!(
            f,
            "{} user {user} database {database} application {application} for {} s ({}, {}, session {})",
            self.client, self.seconds, self.listener, self.state, self.id
        )
    }
}

/// A port of a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodePort {
    /// The port that a listener names (`port = …`); the port of the node's address if `None`.
    pub port: Option<u16>,
    /// Why clients get no session there, if they do not.
    pub failure: Option<String>,
    /// For how long they have got none.
    pub failing_seconds: Option<f64>,
}

/// One listener.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// The addresses that it listens on.
    pub bind: String,
    /// The cluster that it routes to.
    pub cluster: String,
    /// The nodes that it routes to: the listener's `target`.
    pub target: String,
    /// The target with its conditions, in words.
    pub routes_to: String,
    /// The leader, if new sessions go to it because no replica can serve (`fallback`).
    pub fallback: Option<String>,
    /// The replicas that get no new sessions because of a condition of the listener.
    pub excluded: Vec<Exclusion>,
    /// Current connections, including held ones.
    pub sessions: usize,
    /// The most connections at the same time since the start.
    pub sessions_highest: usize,
    /// Connections accepted since the start.
    pub sessions_total: u64,
    /// The limit of concurrent connections.
    pub sessions_max: usize,
    /// The limit of concurrent connections of one client; no limit if `None`.
    pub sessions_max_per_client: Option<usize>,
    /// How fast one client may connect, as `connection_rate_max_per_client` has it; no limit if `None`.
    pub connection_rate_max_per_client: Option<String>,
    /// Connections accepted in the last full second.
    pub connects_per_second: u32,
    /// Connections accepted in the busiest second since the start.
    pub connects_per_second_highest: u32,
    /// Current connections whose startup packet is not complete.
    pub pending: usize,
    /// The limit of connections whose startup packet is not complete.
    pub pending_max: usize,
    /// Current connections that wait for a node.
    pub held: usize,
    /// The most connections that waited for a node at the same time since the start.
    pub held_highest: usize,
    /// The limit of connections that wait for a node.
    pub held_max: usize,
    /// Failed attempts to reach a node that were retried, so that the client did not see them.
    pub retries: u64,
    /// Connections that an access list or a limit refused, since the start: a part of `ends`.
    pub denied: u64,
    /// Connections that got no session, or whose session broke, since the start: a part of `ends`.
    pub failed: u64,
    /// How many connections have ended for which reason since the start; reasons that have not occurred are left out.
    pub ends: BTreeMap<String, u64>,
    /// Bytes relayed to servers since the start.
    pub bytes_to_server: u64,
    /// Bytes relayed to clients since the start.
    pub bytes_to_client: u64,
    /// How long it has had a node for new sessions, or none; `None` before the nodes have been checked.
    pub served_seconds: Option<f64>,
    /// How often it lost its last node for new sessions, since the start.
    pub downs: u32,
    /// For how long it had no node for new sessions since the start, altogether.
    pub downtime_seconds: f64,
    /// How it chooses among nodes: `balance` in the configuration.
    pub balance: String,
    /// The nodes as it uses them.
    pub servers: Vec<Server>,
}

/// A replica that gets no new sessions of a listener.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exclusion {
    /// Its name.
    pub node: String,
    /// `lag`, or `condition` for other conditions: tags, streaming, synchronous replication.
    pub reason: String,
    /// The condition in words.
    pub why: String,
}

impl Node {
    /// The result of its checks with the reason, which may begin with the same word.
    pub fn health_because(&self, error: &str) -> String {
        if error.starts_with(&self.health) { error.to_owned() } else { format!("{}: {error}", self.health) }
    }
}

impl NodePort {
    /// Whether clients get sessions there.
    pub fn is_reachable(&self) -> bool {
        self.failure.is_none()
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
