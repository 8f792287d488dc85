//! The rows of the stats page's tables: a node's and a listener's figures, as text and as values.

use super::query::Query;
use super::status::{self, SetBy};
use super::words::{grouped, seconds};
use crate::config::size_text;

/// A column of figures.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// It is the first of a group of columns.
    pub(super) begins_group: bool,
}

const fn first(name: &'static str, help: &'static str) -> Column {
    Column { name, help, begins_group: true }
}

const fn next(name: &'static str, help: &'static str) -> Column {
    Column { name, help, begins_group: false }
}

/// The columns of a node's [`Node::figures`].
pub(super) const NODE_COLUMNS: &[Column] = &[
    first("highest", "The most sessions at the same time since the start"),
    next("total", "Sessions since the start"),
    next("limit", "sessions_max of the node"),
    first("now", "Sessions that began in the last full second"),
    next("highest", "Sessions that began in the busiest second since the start"),
    first("to node", "Bytes relayed to the node since the start"),
    next("from node", "Bytes relayed from the node since the start"),
    first("not opened", "Attempts to open a session that failed because of the node; most are retried on another node"),
    next("lost", "Sessions that broke because the connection to the node was lost"),
];

/// The columns of a listener's [`Listener::figures`].
pub(super) const LISTENER_COLUMNS: &[Column] = &[
    first("highest", "The most connections at the same time since the start"),
    next("total", "Connections accepted since the start"),
    next("limit", "sessions_max of the listener"),
    first("now", "Connections accepted in the last full second"),
    next("highest", "Connections accepted in the busiest second since the start"),
    first("highest", "The most connections that waited for a node at the same time"),
    next("limit", "hold_sessions_max of the listener"),
    first("to servers", "Bytes relayed to servers since the start"),
    next("to clients", "Bytes relayed to clients since the start"),
    first("denied", "Connections refused by an access list or a limit"),
    next("failed", "Connections that got no session, or whose session broke"),
    next("retried", "Failed attempts to reach a node that were retried, so that the client did not see them"),
];

/// A number with its metric.
pub(super) struct Figure {
    pub(super) value: u64,
    pub(super) text: String,
    pub(super) metric: &'static str,
    pub(super) direction: Option<&'static str>,
    pub(super) begins_group: bool,
}

pub(super) struct Node {
    pub(super) name: String,
    /// The page of the node.
    pub(super) link: String,
    /// Its sessions.
    pub(super) sessions_link: String,
    pub(super) address: String,
    /// What stands in the role's badge.
    pub(super) badge: String,
    /// Its administrative state.
    pub(super) admin: String,
    /// The CSS class of the badge: `serves` is filled, `good`, `warn` and `bad` are not.
    pub(super) severity: &'static str,
    pub(super) state: String,
    pub(super) timeline: String,
    pub(super) lag: String,
    pub(super) replication: String,
    pub(super) sessions: u32,
    pub(super) figures: Vec<Figure>,
    pub(super) weight: u32,
    pub(super) weight_configured: u32,
    pub(super) check: String,
    /// Whether the last check failed.
    pub(super) is_check_bad: bool,
    pub(super) since: String,
    pub(super) downtime: String,
    pub(super) downtime_seconds: u64,
    pub(super) remarks: Vec<String>,
    /// The clients that still have sessions on a node that an operator has taken out of service.
    pub(super) left: Vec<String>,
}

pub(super) struct Listener {
    pub(super) name: String,
    pub(super) bind: String,
    pub(super) routes_to: String,
    /// Its sessions.
    pub(super) link: String,
    /// Why sessions go elsewhere at present.
    pub(super) warning: Option<String>,
    pub(super) sessions: usize,
    pub(super) held: usize,
    pub(super) figures: Vec<Figure>,
    pub(super) ends: String,
}

/// Puts figures into their columns.
fn figures(columns: &[Column], values: Vec<(u64, String, &'static str, Option<&'static str>)>) -> Vec<Figure> {
    let columns = columns.iter().zip(values);
    columns
        .map(|(column, (value, text, metric, direction))| Figure {
            value,
            text,
            metric,
            direction,
            begins_group: column.begins_group,
        })
        .collect()
}

fn number(value: u64, metric: &'static str) -> (u64, String, &'static str, Option<&'static str>) {
    (value, grouped(value), metric, None)
}

fn size(
    value: u64,
    metric: &'static str,
    direction: &'static str,
) -> (u64, String, &'static str, Option<&'static str>) {
    (value, size_text(value), metric, Some(direction))
}

/// A limit; there is no metric where there is no limit.
fn limit(value: Option<u64>, metric: &'static str) -> (u64, String, &'static str, Option<&'static str>) {
    value.map_or_else(|| (0, "–".to_owned(), "", None), |value| number(value, metric))
}

pub(super) fn node(cluster: &str, node: status::Node) -> Node {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let (severity, badge) = badge(&node);
    let link = Query::of([("cluster", cluster), ("node", node.name.as_str())]);
    Node {
        severity,
        badge,
        link: link.link("/stats/node"),
        sessions_link: link.link("/stats/sessions"),
        check: check(&node),
        is_check_bad: node.health != "up" && node.health != "unchecked",
        figures: figures(
            NODE_COLUMNS,
            vec![
                number(node.sessions_highest.into(), "pgvane_node_sessions_highest"),
                number(node.sessions_total, "pgvane_node_sessions_total"),
                limit(node.sessions_max.map(u64::from), "pgvane_node_sessions_max"),
                number(node.sessions_per_second.into(), ""),
                number(node.sessions_per_second_highest.into(), ""),
                size(node.bytes_to_server, "pgvane_node_bytes_total", "to_server"),
                size(node.bytes_to_client, "pgvane_node_bytes_total", "to_client"),
                number(node.connect_failures, "pgvane_node_connect_failures_total"),
                number(node.sessions_lost, "pgvane_node_sessions_lost_total"),
            ],
        ),
        since: format!("{} {}", node.health, seconds(node.health_seconds)),
        downtime: downtime(&node),
        downtime_seconds: node.downtime_seconds as u64,
        remarks: remarks(&node),
        left: node.left.iter().map(ToString::to_string).collect(),
        state: or_dash(node.postgresql),
        timeline: or_dash(node.timeline.map(|timeline| timeline.to_string())),
        lag: or_dash(node.lag_bytes.map(|bytes| {
            let was = if node.health == "up" { "" } else { "was " }; // it may be another by now
            format!("{was}{}", lag(bytes, node.lag_seconds.unwrap_or(0.0)))
        })),
        replication: match (node.replication, node.sync) {
            (Some(replication), Some(sync)) => format!("{replication}, {sync}"),
            (replication, sync) => or_dash(replication.or(sync)),
        },
        name: node.name,
        address: node.address,
        admin: node.state,
        sessions: node.sessions,
        weight: node.weight,
        weight_configured: node.weight_configured,
    }
}

fn downtime(node: &status::Node) -> String {
    match node.downs {
        0 => "–".to_owned(),
        1 => seconds(node.downtime_seconds),
        downs => format!("{} in {downs} times", seconds(node.downtime_seconds)),
    }
}

/// The class and the text of the badge with the role. Filled and green is only a leader that answers and serves; a node
/// that does not answer is never green.
pub(super) fn badge(node: &status::Node) -> (&'static str, String) {
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

/// The result of the checks: whether the node answers, how long its last check took, and how old its last answer is.
fn check(node: &status::Node) -> String {
    let error = node.check_error.as_deref().unwrap_or_default();
    match (node.silent_seconds, node.answer_age_seconds) {
        (Some(silent), _) => format!("silent for {}: {error}", seconds(silent)),
        (None, Some(age)) => {
            let age = seconds(age);
            match (&node.check_result, node.check_seconds) {
                (Some(result), Some(took)) => format!("{result} in {}, answered {age} ago", milliseconds(took)),
                _ => format!("{}, answered {age} ago", node.health),
            }
        }
        (None, None) if error.is_empty() => node.health.clone(),
        (None, None) => node.health_because(error),
    }
}

fn milliseconds(seconds: f64) -> String {
    let ms = seconds * 1000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

fn remarks(node: &status::Node) -> Vec<String> {
    let mut remarks: Vec<String> = node.foreign.iter().cloned().collect();
    let by_operator = node.state_set_by.as_ref().filter(|_| node.state != "ready");
    remarks.extend(by_operator.map(|by: &SetBy| format!("{} {by}", node.state)));
    let weighted = node.weight_set_by.as_ref().filter(|_| node.weight != node.weight_configured);
    remarks.extend(weighted.map(|by| format!("weight {} {by}", node.weight)));
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
    let versions = [("PostgreSQL", &node.postgresql_version), ("Patroni", &node.patroni_version)];
    remarks.extend(versions.into_iter().filter_map(|(of, version)| Some(format!("{of} {}", version.as_ref()?))));
    remarks
}

fn lag(bytes: u64, time: f64) -> String {
    let in_bytes = size_text(bytes).replace(' ', "\u{a0}"); // a narrow column breaks between the two, not within one
    if time == 0.0 { in_bytes } else { format!("{in_bytes}, {}", seconds(time).replace(' ', "\u{a0}")) }
}

pub(super) fn listener(listener: status::Listener) -> Listener {
    let fallback = listener.fallback.as_ref();
    let ends: Vec<String> =
        listener.ends.iter().map(|(reason, count)| format!("{reason} {}", grouped(*count))).collect();
    Listener {
        warning: fallback.map(|leader| format!("no replica can serve: new sessions go to the leader, {leader}")),
        link: Query::of([("listener", listener.name.as_str())]).link("/stats/sessions"),
        figures: figures(
            LISTENER_COLUMNS,
            vec![
                number(listener.sessions_highest as u64, "pgvane_sessions_highest"),
                number(listener.sessions_total, "pgvane_sessions_total"),
                number(listener.sessions_max as u64, "pgvane_sessions_max"),
                number(listener.connects_per_second.into(), "pgvane_connects_per_second"),
                number(listener.connects_per_second_highest.into(), "pgvane_connects_per_second_highest"),
                number(listener.held_highest as u64, "pgvane_sessions_held_highest"),
                number(listener.held_max as u64, ""),
                size(listener.bytes_to_server, "pgvane_bytes_total", "to_server"),
                size(listener.bytes_to_client, "pgvane_bytes_total", "to_client"),
                number(listener.denied, ""),
                number(listener.failed, ""),
                number(listener.retries, "pgvane_connect_retries_total"),
            ],
        ),
        ends: if ends.is_empty() { "–".to_owned() } else { ends.join(", ") },
        name: listener.name,
        bind: listener.bind,
        routes_to: listener.routes_to,
        sessions: listener.sessions,
        held: listener.held,
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
        let node = status::Node { check_result: Some("200".to_owned()), check_seconds: Some(0.003_14), ..node };
        assert_eq!(check(&node), "200 in 3.1 ms, answered 0.4 s ago");
        let refused = Some("connection refused".to_owned());
        let never = status::Node { check_error: refused, ..leader("unreachable", false) };
        assert_eq!(check(&never), "unreachable: connection refused");
        let unreachable = Some("unreachable: no answer in time (10.0.0.1)".to_owned());
        let unreachable = status::Node { check_error: unreachable, ..leader("unreachable", false) };
        assert_eq!(check(&unreachable), "unreachable: no answer in time (10.0.0.1)", "the word comes once");
        assert_eq!(check(&leader("unchecked", false)), "unchecked");
    }

    #[test]
    fn every_column_has_its_figure() {
        assert_eq!(node("main", leader("up", true)).figures.len(), NODE_COLUMNS.len());
        assert_eq!(listener(status::Listener::default()).figures.len(), LISTENER_COLUMNS.len());
    }

    #[test]
    fn who_set_a_state_or_another_weight_is_told() {
        let by = Some(SetBy { user: "ops".to_owned(), at: "2026-11-26T04:00:00Z".to_owned() });
        let node = status::Node {
            state: "drain".to_owned(),
            state_set_by: by.clone(),
            weight: 5,
            weight_configured: 100,
            weight_set_by: by,
            ..leader("up", false)
        };
        assert_eq!(remarks(&node), ["drain by ops at 2026-11-26T04:00:00Z", "weight 5 by ops at 2026-11-26T04:00:00Z"]);
    }
}
