//! Metrics that are read at the time of the scrape, such as roles, lags and sessions.

use super::park_metrics;
use super::status::{Cluster, Lead, Listener, Status};
use crate::cluster::AdminState;
use crate::telemetry::{MetricRegistry, lines_lost, registry};

/// Returns all metrics in Prometheus' text format: the registered ones, and those that are read now.
pub(super) fn render(registered: &MetricRegistry, status: &Status) -> String {
    let mut families = registered.gather();
    families.extend(of_clusters(&status.clusters).gather());
    families.extend(of_node_figures(&status.clusters).gather());
    families.extend(of_listeners(&status.listeners).gather());
    families.extend(of_choices(status).gather());
    families.extend(park_metrics::metrics(&status.clusters).gather());
    families.extend(of_names(status).gather());
    families.extend(of_process().gather());
    registry::render(&families)
}

/// The roles of a node. Each node has one series per role; it is 1 for the current role, else 0.
const ROLES: [&str; 8] =
    ["leader", "lock-holder", "unlocked-primary", "standby-leader", "replica", "out-of-service", "foreign", "unknown"];

fn of_clusters(clusters: &[Cluster]) -> MetricRegistry {
    let registry = MetricRegistry::default();
    let gauge = |name: &str, help: &str, labels: &[&str]| registry.gauge(name, help, labels);
    let node = ["cluster", "node"];
    let has_leader =
        gauge("pgvane_cluster_has_leader", "1 if the cluster has exactly one leader, else 0.", &["cluster"]);
    let contested = gauge(
        "pgvane_cluster_contested",
        "1 if several nodes claim to be the leader (split brain), else 0.",
        &["cluster"],
    );
    let role = gauge(
        "pgvane_node_role",
        "1 for the node's current role, 0 for the other roles.",
        &["cluster", "node", "role"],
    );
    let state = gauge(
        "pgvane_node_admin_state",
        "1 for the node's administrative state, 0 for the other states.",
        &["cluster", "node", "state"],
    );
    let up = gauge("pgvane_node_up", "1 if the node answers its checks, else 0.", &node);
    let reachable = gauge(
        "pgvane_node_reachable",
        "0 after a session could not be opened on the node, until one can; else 1.",
        &node,
    );
    let port_reachable = gauge(
        "pgvane_node_port_reachable",
        "The same as pgvane_node_reachable, for a port of the nodes that listeners name (port = …).",
        &["cluster", "node", "port"],
    );
    let lag = gauge(
        "pgvane_node_lag_bytes",
        "Bytes of WAL that a replica still has to replay to reach the leader's position.",
        &node,
    );
    let lag_time = gauge(
        "pgvane_node_lag_seconds",
        "Age of the last commit that the replica has replayed; 0 if it has replayed everything.",
        &node,
    );
    let timeline = gauge("pgvane_node_timeline", "PostgreSQL's timeline; 0 if unknown.", &node);
    let sessions = gauge("pgvane_node_sessions", "Current sessions on the node.", &node);
    let number = |is_true: bool| if is_true { 1.0 } else { 0.0 };

    for cluster in clusters {
        has_leader.with_label_values(&[&cluster.name]).set(number(cluster.leader.is_some()));
        contested.with_label_values(&[&cluster.name]).set(number(cluster.lead == Lead::Contested));
        for of_node in &cluster.nodes {
            let labels = [cluster.name.as_str(), of_node.name.as_str()];
            for label in ROLES {
                role.with_label_values(&[labels[0], labels[1], label]).set(number(label == of_node.role));
            }
            for label in AdminState::ALL.map(AdminState::label) {
                state.with_label_values(&[labels[0], labels[1], label]).set(number(label == of_node.state));
            }
            up.with_label_values(&labels).set(number(of_node.health == "up"));
            for port in &of_node.ports {
                let is_reachable = number(port.is_reachable());
                match port.port {
                    None => reachable.with_label_values(&labels).set(is_reachable),
                    Some(port) => {
                        port_reachable.with_label_values(&[labels[0], labels[1], &port.to_string()]).set(is_reachable);
                    }
                }
            }
            lag.with_label_values(&labels).set(of_node.lag_bytes.unwrap_or(0) as f64);
            lag_time.with_label_values(&labels).set(of_node.lag_seconds.unwrap_or(0.0));
            timeline.with_label_values(&labels).set(f64::from(of_node.timeline.unwrap_or(0)));
            sessions.with_label_values(&labels).set(f64::from(of_node.sessions));
        }
    }
    registry
}

fn of_node_figures(clusters: &[Cluster]) -> MetricRegistry {
    let (registry, node) = (MetricRegistry::default(), ["cluster", "node"]);
    let gauge = |name: &str, help: &str| registry.gauge(name, help, &node);
    let counter = |name: &str, help: &str| registry.counter(name, help, &node);
    let highest = gauge("pgvane_node_sessions_highest", "The most sessions on the node at the same time.");
    let limit = gauge("pgvane_node_sessions_max", "The limit of sessions on the node (sessions_max), if it has one.");
    let weight = gauge("pgvane_node_weight", "The node's share of new sessions, relative to the other nodes.");
    let check = gauge("pgvane_node_check_seconds", "Duration of the node's last check.");
    let total = counter("pgvane_node_sessions_total", "Sessions that were opened on the node.");
    let failures = counter(
        "pgvane_node_connect_failures_total",
        "Attempts to open a session that failed because of the node. Most are retried on another node.",
    );
    let lost =
        counter("pgvane_node_sessions_lost_total", "Sessions that broke because the connection to the node was lost.");
    let downs = counter("pgvane_node_downs_total", "How often the node stopped answering its checks.");
    let downtime = counter(
        "pgvane_node_downtime_seconds_total",
        "Time for which the node has not answered its checks, in full seconds.",
    );
    let unanswered = counter("pgvane_node_checks_failed_total", "Checks of the node that got no answer.");
    let help = "Bytes relayed to the node and from it, including those of open sessions.";
    let bytes = registry.counter("pgvane_node_bytes_total", help, &["cluster", "node", "direction"]);
    for cluster in clusters {
        for of_node in &cluster.nodes {
            let labels = [cluster.name.as_str(), of_node.name.as_str()];
            highest.with_label_values(&labels).set(f64::from(of_node.sessions_highest));
            if let Some(max) = of_node.sessions_max {
                limit.with_label_values(&labels).set(f64::from(max));
            }
            weight.with_label_values(&labels).set(f64::from(of_node.weight));
            check.with_label_values(&labels).set(of_node.check_seconds.unwrap_or(0.0));
            total.with_label_values(&labels).inc_by(of_node.sessions_total);
            failures.with_label_values(&labels).inc_by(of_node.connect_failures);
            lost.with_label_values(&labels).inc_by(of_node.sessions_lost);
            downs.with_label_values(&labels).inc_by(of_node.downs.into());
            downtime.with_label_values(&labels).inc_by(of_node.downtime_seconds as u64);
            unanswered.with_label_values(&labels).inc_by(of_node.checks_failed);
            bytes.with_label_values(&[labels[0], labels[1], "to_server"]).inc_by(of_node.bytes_to_server);
            bytes.with_label_values(&[labels[0], labels[1], "to_client"]).inc_by(of_node.bytes_to_client);
        }
    }
    registry
}

fn of_choices(status: &Status) -> MetricRegistry {
    let registry = MetricRegistry::default();
    let fallback = registry.gauge(
        "pgvane_listener_fallback",
        "1 if new sessions of the listener go to the leader because no replica can serve, else 0.",
        &["listener"],
    );
    let lags = registry.gauge(
        "pgvane_listener_node_excluded_for_lag",
        "1 if the node gets no new sessions of the listener because of lag_max or lag_max_time, else 0.",
        &["listener", "node"],
    );
    let number = |is_true: bool| if is_true { 1.0 } else { 0.0 };
    for listener in status.listeners.iter().filter(|listener| listener.target != "leader") {
        fallback.with_label_values(&[&listener.name]).set(number(listener.fallback.is_some()));
        let cluster = status.clusters.iter().find(|cluster| cluster.name == listener.cluster);
        for node in cluster.iter().flat_map(|cluster| &cluster.nodes) {
            let mut excluded = listener.excluded.iter().filter(|excluded| excluded.reason == "lag");
            let is_excluded = excluded.any(|excluded| excluded.node == node.name);
            lags.with_label_values(&[&listener.name, &node.name]).set(number(is_excluded));
        }
    }
    registry
}

fn of_names(status: &Status) -> MetricRegistry {
    let registry = MetricRegistry::default();
    let lookups = registry.counter(
        "pgvane_name_lookups_total",
        "Lookups of the nodes' host names, by outcome: answered, not-found (the name does not exist) or failed.",
        &["outcome"],
    );
    let counts = status.name_lookups;
    for (outcome, count) in [("answered", counts.answered), ("not-found", counts.not_found), ("failed", counts.failed)]
    {
        lookups.with_label_values(&[outcome]).inc_by(count);
    }
    let help =
        "Host names that cannot be resolved at present. pgvane uses their last known addresses, if there are any.";
    let unresolved = registry.gauge("pgvane_names_unresolved", help, &[]);
    unresolved.with_label_values::<&str>(&[]).set(status.unresolved_names.len() as f64);
    registry
}

fn of_process() -> MetricRegistry {
    let registry = MetricRegistry::default();
    let lost = "Log lines dropped because standard error could not be written to.";
    registry.counter("pgvane_log_lines_lost_total", lost, &[]).with_label_values::<&str>(&[]).inc_by(lines_lost());
    registry
}

fn of_listeners(listeners: &[Listener]) -> MetricRegistry {
    let registry = MetricRegistry::default();
    let gauge = |name: &str, help: &str| registry.gauge(name, help, &["listener"]);
    let sessions = gauge("pgvane_sessions", "Current connections, including held ones.");
    let pending =
        gauge("pgvane_connections_pending", "Current connections that have not sent a complete startup packet yet.");
    let held = gauge("pgvane_sessions_held", "Current connections that wait for a node.");
    let limit = gauge("pgvane_sessions_max", "The limit of concurrent connections of the listener (sessions_max).");
    let highest = gauge("pgvane_sessions_highest", "The most connections of the listener at the same time.");
    let held_highest = gauge("pgvane_sessions_held_highest", "The most connections that waited at the same time.");
    let rate = gauge("pgvane_connects_per_second", "Connections accepted in the last full second.");
    let rate_highest = gauge("pgvane_connects_per_second_highest", "Connections accepted in the busiest second.");
    let bytes = registry.counter(
        "pgvane_bytes_total",
        "Bytes relayed, including those of open sessions.",
        &["listener", "direction"],
    );
    for listener in listeners {
        let name = listener.name.as_str();
        sessions.with_label_values(&[name]).set(listener.sessions as f64);
        pending.with_label_values(&[name]).set(listener.pending as f64);
        held.with_label_values(&[name]).set(listener.held as f64);
        limit.with_label_values(&[name]).set(listener.sessions_max as f64);
        highest.with_label_values(&[name]).set(listener.sessions_highest as f64);
        held_highest.with_label_values(&[name]).set(listener.held_highest as f64);
        rate.with_label_values(&[name]).set(f64::from(listener.connects_per_second));
        rate_highest.with_label_values(&[name]).set(f64::from(listener.connects_per_second_highest));
        bytes.with_label_values(&[name, "to_server"]).inc_by(listener.bytes_to_server);
        bytes.with_label_values(&[name, "to_client"]).inc_by(listener.bytes_to_client);
    }
    registry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::metrics::ProbeMetrics;
    use crate::proxy::metrics::ProxyMetrics;

    #[test]
    fn every_series_is_there_before_anything_has_happened() {
        let registry = MetricRegistry::with_build_info();
        ProxyMetrics::new(&registry).listener("write");
        ProbeMetrics::new(&registry).cluster("main");
        let write = Listener { name: "write".to_owned(), ..Listener::default() };
        let text = render(&registry, &Status { listeners: vec![write], ..Status::default() });
        for series in [
            "pgvane_sessions_total{listener=\"write\"} 0",
            "pgvane_session_ends_total{listener=\"write\",reason=\"client-closed\"} 0",
            "pgvane_hold_seconds_count{listener=\"write\"} 0",
            "pgvane_cancels_total{listener=\"write\",outcome=\"fanned-out\"} 0",
            "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"} 0",
            "pgvane_sessions{listener=\"write\"} 0",
            "pgvane_connections_pending{listener=\"write\"} 0",
            "pgvane_name_lookups_total{outcome=\"failed\"} 0",
            "pgvane_names_unresolved 0",
            "pgvane_bytes_total{direction=\"to_client\",listener=\"write\"} 0",
        ] {
            assert!(text.contains(series), "{series} is not in\n{text}");
        }
    }
}
