//! The stats page: what an operator needs in an incident, on one screen.

use std::time::Duration;

use askama::Template;

use super::context::AdminContext;
use super::status::{UnresolvedName, why_writes_wait};
use crate::cluster::lag::Lag;
use crate::cluster::leadership::Leadership;
use crate::cluster::node::{Report, SyncStanding};
use crate::cluster::topology::{NodeView, Topology};
use crate::cluster::{AdminState, Moment};
use crate::config::{self, ClusterIndex, size_text};
use crate::probe::ClusterHandle;
use crate::probe::history::Record;
use crate::proxy::sessions::registry::Census;

/// How many leader changes the page shows for each cluster; `/api/events` has more.
const CHANGES_SHOWN: usize = 10;

/// The data of the page.
#[derive(Template)]
#[template(path = "stats.html")]
pub(super) struct Page {
    version: &'static str,
    uptime: String,
    is_stopping: bool,
    /// The configuration has users, so the page has buttons to set the nodes' states.
    has_actions: bool,
    /// The host names that cannot be resolved at present.
    unresolved_names: Vec<UnresolvedName>,
    clusters: Vec<Cluster>,
    listeners: Vec<Listener>,
}

struct Cluster {
    name: String,
    /// The CSS class of the title: `led`, `doubted`, `vacant` or `contested`.
    severity: &'static str,
    headline: String,
    notes: Vec<String>,
    nodes: Vec<Node>,
    changes: Vec<Change>,
}

/// One row of the table of leader changes.
struct Change {
    at: String,
    from: String,
    to: String,
    timeline: String,
    leaderless: String,
    held_max: usize,
    first_session: String,
    reason: String,
}

struct Node {
    name: String,
    address: String,
    role: &'static str,
    /// Its administrative state.
    admin: &'static str,
    /// The CSS class of the role: `good`, `warn` or `bad`.
    severity: &'static str,
    state: String,
    timeline: String,
    lag: String,
    replication: String,
    sessions: u32,
    checked: String,
    health: &'static str,
    remarks: Vec<String>,
}

struct Listener {
    name: String,
    bind: String,
    routes_to: String,
    sessions: usize,
    sessions_max: usize,
    held: usize,
    to_server: String,
    to_client: String,
}

impl Page {
    pub(super) fn of(context: &AdminContext) -> Page {
        let clusters = context.clusters.iter().enumerate().map(|(index, view)| {
            let loads = context.registry.loads(ClusterIndex(index));
            let warning = context.config.clusters[index].warning();
            let mut cluster = cluster(view, &loads);
            cluster.notes.extend(warning);
            cluster
        });
        let listeners = context.config.listeners.iter().zip(context.census());
        Page {
            version: env!("CARGO_PKG_VERSION"),
            uptime: span(context.started.elapsed()),
            is_stopping: *context.is_stopping.borrow(),
            has_actions: context.config.admin.as_ref().is_some_and(|admin| !admin.users.is_empty()),
            unresolved_names: context.names.unresolved().into_iter().map(UnresolvedName::from).collect(),
            clusters: clusters.collect(),
            listeners: listeners.map(|(settings, (_, census))| listener(settings, context, census)).collect(),
        }
    }
}

fn cluster(view: &ClusterHandle, loads: &[u32]) -> Cluster {
    let (topology, now) = (view.topology(), view.now());
    let topology: &Topology = &topology;
    let node_name = |id| &topology.node(id).member.name;
    let (severity, headline) = match &topology.leadership {
        Leadership::Led { leader, .. } if topology.node(*leader).admin != AdminState::Ready => {
            let why = why_writes_wait(topology).unwrap_or_default();
            ("vacant", format!("{why}: new writes wait for another leader"))
        }
        Leadership::Led { leader, since, .. } if topology.doubted_at.is_some() => (
            "doubted",
            format!("{} has been the leader for {}; it is being checked again", node_name(*leader), span(now - *since)),
        ),
        Leadership::Led { leader, since, .. } => {
            ("led", format!("{} has been the leader for {}", node_name(*leader), span(now - *since)))
        }
        Leadership::Vacant { since, .. } => {
            let why = topology.why_no_leader().unwrap_or_default();
            ("vacant", format!("no leader for {}: {why}", span(now - *since)))
        }
        Leadership::Contested { since, .. } => {
            let why = topology.why_no_leader().unwrap_or_default();
            ("contested", format!("split brain for {}: {why}; writes are held", span(now - *since)))
        }
    };
    Cluster {
        name: view.name().to_owned(),
        severity,
        headline,
        notes: notes(topology),
        nodes: topology
            .members()
            .map(|(id, view)| node(view, loads.get(id.index()).copied().unwrap_or(0), now))
            .collect(),
        changes: view.history().records().into_iter().take(CHANGES_SHOWN).map(change).collect(),
    }
}

fn notes(topology: &Topology) -> Vec<String> {
    let any_report = |matches: fn(&Report) -> bool| {
        topology.members().any(|(_, node)| node.health.report().is_some_and(|report| matches(report)))
    };
    let mut notes: Vec<String> = topology.scheduled_switchover.iter().cloned().collect();
    if any_report(|report| report.paused) {
        notes.push("Patroni is paused: no automatic failover".to_owned());
    }
    if any_report(|report| report.failsafe) {
        notes.push("Patroni is in failsafe mode: its DCS is not reachable".to_owned());
    }
    notes
}

fn change(record: Record) -> Change {
    let ms = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |ms| format!("{ms} ms"));
    Change {
        at: record.noticed_at.to_string(),
        from: record.from,
        to: record.to.unwrap_or_else(|| "none yet".to_owned()),
        timeline: record.timeline.map_or_else(|| "–".to_owned(), |timeline| timeline.to_string()),
        leaderless: ms(record.leaderless_ms),
        held_max: record.held_max,
        first_session: ms(record.first_session_ms),
        reason: record.reason,
    }
}

fn node(view: &NodeView, sessions: u32, now: Moment) -> Node {
    let report = view.health.report();
    let health = view.health.label();
    let role = view.role_label();
    let severity = match (health, role) {
        _ if view.admin != AdminState::Ready => "warn",
        ("up", "leader" | "replica" | "standby-leader") => "good",
        (_, "foreign" | "out-of-service") | ("unreachable", _) => "bad",
        _ => "warn",
    };
    let text = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let mut remarks: Vec<String> = view.foreign.iter().cloned().collect();
    remarks.extend(view.member.is_backup.then(|| "backup".to_owned()));
    remarks.extend(view.health.last_error().map(ToString::to_string));
    if let Some(report) = report {
        let patroni_error = report.patroni_error.as_ref();
        remarks.extend(patroni_error.map(|error| format!("reported by PostgreSQL only; Patroni: {error}")));
        remarks.extend(report.tags.iter().map(|(name, value)| format!("{name}: {value}")));
        remarks.extend(report.pending_restart.then(|| "restart pending".to_owned()));
        remarks.extend(match report.sync {
            SyncStanding::Async => None,
            SyncStanding::Sync => Some("sync standby".to_owned()),
            SyncStanding::Quorum => Some("quorum standby".to_owned()),
        });
    }
    Node {
        name: view.member.name.clone(),
        address: view.member.address.to_string(),
        role,
        admin: view.admin.label(),
        severity,
        state: text(report.map(|report| report.state.clone())),
        timeline: text(report.and_then(|report| report.timeline).map(|timeline| timeline.to_string())),
        lag: text(view.lag.map(lag)),
        replication: text(report.and_then(|report| report.replication_state.clone())),
        sessions,
        checked: text(view.checked_at.map(|at| ago(now, at))),
        health,
        remarks,
    }
}

fn lag(lag: Lag) -> String {
    if lag.time.is_zero() { size_text(lag.bytes) } else { format!("{}, {}", size_text(lag.bytes), span(lag.time)) }
}

fn listener(settings: &config::Listener, context: &AdminContext, census: Census) -> Listener {
    let rule = &settings.rule;
    let mut routes_to = format!("{} of {}", rule.target.label(), context.config.clusters[settings.cluster.0].name);
    if let Some(port) = rule.port {
        routes_to = format!("port {port}, {routes_to}");
    }
    let conditions = rule.tags.iter().map(|(name, value)| format!("{name} = {value}"));
    let lag_limits = [rule.lag_bytes_max.map(size_text), rule.lag_time_max.map(span)];
    for condition in conditions.chain(lag_limits.into_iter().flatten().map(|limit| format!("lag ≤ {limit}"))) {
        routes_to.push_str(", ");
        routes_to.push_str(&condition);
    }
    if rule.includes_leader {
        routes_to.push_str(", and leader");
    }
    let tags = rule.prefer_tags.iter().map(|(name, value)| format!("{name} = {value}"));
    let preferred: Vec<String> = tags.chain(rule.prefer_nodes.iter().cloned()).collect();
    if !preferred.is_empty() {
        routes_to = format!("{routes_to}, first {}", preferred.join(", "));
    }
    if rule.target.is_standbys() && rule.falls_back_to_leader {
        routes_to.push_str(", else leader");
    }
    Listener {
        name: settings.name.clone(),
        bind: settings.binds.to_string(),
        routes_to,
        sessions: census.sessions,
        sessions_max: census.sessions_max,
        held: census.held,
        to_server: size_text(census.bytes_to_server),
        to_client: size_text(census.bytes_to_client),
    }
}

fn ago(now: Moment, then: Moment) -> String {
    format!("{} ago", span(now - then))
}

/// Formats a duration in its two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_shown_in_its_two_largest_units() {
        assert_eq!(span(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(span(Duration::from_secs(3_725)), "1 h 2 min");
    }
}
