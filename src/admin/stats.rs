//! The stats page: what an operator needs in an incident, on one screen. It shows a [`Status`] in words and colours.

use askama::Template;

use super::reloads::ReloadRecord;
use super::status::{self, Lead, Status};
use super::words::{seconds, span};
use crate::config::size_text;
use crate::probe::history::Record;

/// How many leader changes the page shows for each cluster; `/api/events` has more.
const CHANGES_SHOWN: usize = 10;

/// The data of the page.
#[derive(Template)]
#[template(path = "stats.html")]
pub(super) struct Page {
    version: String,
    uptime: String,
    is_stopping: bool,
    reload: ReloadRecord,
    /// The configuration has users, so the page has buttons to set the nodes' states.
    has_actions: bool,
    /// The host names that cannot be resolved at present.
    unresolved_names: Vec<status::UnresolvedName>,
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
    /// What stands in the role's badge.
    badge: String,
    is_leader: bool,
    /// Its administrative state.
    admin: String,
    /// The CSS class of the badge: `serves` is filled, `good`, `warn` and `bad` are not.
    severity: &'static str,
    state: String,
    timeline: String,
    lag: String,
    replication: String,
    sessions: u32,
    check: String,
    /// Whether the last check failed.
    is_check_bad: bool,
    remarks: Vec<String>,
    /// The clients that still have sessions on a node that an operator has taken out of service.
    left: Vec<String>,
}

struct Listener {
    name: String,
    bind: String,
    routes_to: String,
    /// Why sessions go elsewhere at present.
    warning: Option<String>,
    sessions: usize,
    sessions_max: usize,
    held: usize,
    to_server: String,
    to_client: String,
}

impl Page {
    pub(super) fn of(status: Status, has_actions: bool) -> Page {
        Page {
            version: status.version,
            uptime: span(std::time::Duration::from_secs(status.uptime_seconds)),
            is_stopping: status.is_stopping,
            reload: status.reload,
            has_actions,
            unresolved_names: status.unresolved_names,
            clusters: status.clusters.into_iter().map(cluster).collect(),
            listeners: status.listeners.into_iter().map(listener).collect(),
        }
    }
}

fn cluster(cluster: status::Cluster) -> Cluster {
    let severity = match cluster.lead {
        Lead::Led => "led",
        Lead::Doubted => "doubted",
        Lead::Silent | Lead::OutOfService | Lead::Vacant => "vacant",
        Lead::Contested => "contested",
    };
    Cluster {
        name: cluster.name,
        severity,
        headline: cluster.headline,
        notes: cluster.notes,
        nodes: cluster.nodes.into_iter().map(node).collect(),
        changes: cluster.changes.into_iter().take(CHANGES_SHOWN).map(change).collect(),
    }
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

fn node(node: status::Node) -> Node {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let (severity, badge) = badge(&node);
    Node {
        severity,
        badge,
        check: check(&node),
        is_check_bad: node.health != "up" && node.health != "unchecked",
        remarks: remarks(&node),
        left: node.left.iter().map(ToString::to_string).collect(),
        state: or_dash(node.postgresql),
        timeline: or_dash(node.timeline.map(|timeline| timeline.to_string())),
        lag: or_dash(node.lag_bytes.map(|bytes| lag(bytes, node.lag_seconds.unwrap_or(0.0)))),
        replication: or_dash(node.replication),
        name: node.name,
        address: node.address,
        is_leader: node.is_leader,
        admin: node.state,
        sessions: node.sessions,
    }
}

/// The class and the text of the badge with the role. Filled and green is only a leader that answers and serves; a node
/// that does not answer is never green.
fn badge(node: &status::Node) -> (&'static str, String) {
    let claims_in_vain = node.role == "leader" && !node.is_leader;
    match node.health.as_str() {
        "up" if claims_in_vain => ("bad", "claims to lead".to_owned()),
        "up" if node.state != "ready" => ("warn", node.role.clone()),
        "up" => match node.role.as_str() {
            "leader" => ("serves", node.role.clone()),
            "replica" | "standby-leader" => ("good", node.role.clone()),
            "foreign" | "out-of-service" => ("bad", node.role.clone()),
            _ => ("warn", node.role.clone()),
        },
        "silent" if node.is_leader => ("bad", "leader, silent".to_owned()),
        "silent" => ("bad", format!("was {}", node.role)),
        "unreachable" => ("bad", node.role.clone()),
        _ => ("warn", node.role.clone()),
    }
}

/// The result of the checks: whether the node answers, and how old its last answer is.
fn check(node: &status::Node) -> String {
    let error = node.check_error.as_deref().unwrap_or_default();
    match (node.silent_seconds, node.answer_age_seconds) {
        (Some(silent), _) => format!("silent for {}: {error}", seconds(silent)),
        (None, Some(age)) => format!("{}, answered {} ago", node.health, seconds(age)),
        (None, None) if error.is_empty() => node.health.clone(),
        (None, None) => format!("{}: {error}", node.health),
    }
}

fn remarks(node: &status::Node) -> Vec<String> {
    let mut remarks: Vec<String> = node.foreign.iter().cloned().collect();
    remarks.extend(node.is_backup.then(|| "backup".to_owned()));
    for port in &node.ports {
        if let Some(why) = &port.failure {
            let on_port = port.port.map(|port| format!(" on port {port}")).unwrap_or_default();
            let since = seconds(port.failing_seconds.unwrap_or_default());
            remarks.push(format!("clients get no session{on_port} for {since}: {} {why}", node.name));
        }
    }
    remarks.extend(node.excluded.iter().cloned());
    let patroni_error = node.patroni_error.as_ref();
    remarks.extend(patroni_error.map(|error| format!("reported by PostgreSQL only; Patroni: {error}")));
    remarks.extend(node.tags.iter().map(|(name, value)| format!("{name}: {value}")));
    remarks.extend(node.pending_restart.then(|| "restart pending".to_owned()));
    remarks.extend(node.sync.as_ref().map(|sync| format!("{sync} standby")));
    remarks
}

fn lag(bytes: u64, time: f64) -> String {
    if time == 0.0 { size_text(bytes) } else { format!("{}, {}", size_text(bytes), seconds(time)) }
}

fn listener(listener: status::Listener) -> Listener {
    let fallback = listener.fallback.as_ref();
    Listener {
        warning: fallback.map(|leader| format!("no replica can serve: new sessions go to the leader, {leader}")),
        name: listener.name,
        bind: listener.bind,
        routes_to: listener.routes_to,
        sessions: listener.sessions,
        sessions_max: listener.sessions_max,
        held: listener.held,
        to_server: size_text(listener.bytes_to_server),
        to_client: size_text(listener.bytes_to_client),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(health: &str, is_leader: bool) -> status::Node {
        status::Node {
            name: "node1".to_owned(),
            role: "leader".to_owned(),
            state: "ready".to_owned(),
            health: health.to_owned(),
            postgresql: Some("running".to_owned()),
            is_leader,
            ..status::Node::default()
        }
    }

    #[test]
    fn only_a_leader_that_answers_and_serves_is_filled_green() {
        assert_eq!(badge(&leader("up", true)), ("serves", "leader".to_owned()));
        assert_eq!(badge(&leader("up", false)), ("bad", "claims to lead".to_owned()), "a split brain");
        let silent = status::Node {
            silent_seconds: Some(13.4),
            answer_age_seconds: Some(13.4),
            check_error: Some("connection refused".to_owned()),
            ..leader("silent", true)
        };
        assert_eq!(badge(&silent), ("bad", "leader, silent".to_owned()));
        assert_eq!(check(&silent), "silent for 13 s: connection refused");
        assert_eq!(badge(&status::Node { is_leader: false, ..silent }), ("bad", "was leader".to_owned()));
        for state in ["drain", "maint"] {
            let drained = status::Node { state: state.to_owned(), ..leader("up", true) };
            assert_eq!(badge(&drained).0, "warn");
        }
    }

    #[test]
    fn the_check_tells_the_age_of_the_last_answer() {
        let node = status::Node { answer_age_seconds: Some(0.44), ..leader("up", true) };
        assert_eq!(check(&node), "up, answered 0.4 s ago");
        let refused = Some("connection refused".to_owned());
        let never = status::Node { check_error: refused, ..leader("unreachable", false) };
        assert_eq!(check(&never), "unreachable: connection refused");
        assert_eq!(check(&leader("unchecked", false)), "unchecked");
    }
}
