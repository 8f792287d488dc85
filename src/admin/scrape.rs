//! Metrics that describe the present, such as roles, lags and sessions: read at the time of the scrape.

use crate::cluster::AdminState;
use crate::cluster::leadership::Leadership;
use crate::cluster::topology::Topology;
use crate::proxy::sessions::registry::Census;
use crate::telemetry::{MetricRegistry, lines_lost, registry};

/// What a scrape reads of one cluster besides the counters.
pub struct ClusterNow<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its newest picture.
    pub topology: &'a Topology,
    /// Sessions now on each node, by [`crate::cluster::NodeId`].
    pub sessions: &'a [u32],
}

/// Everything in Prometheus' text format: what has been counted, and the present.
pub(super) fn render(counted: &MetricRegistry, clusters: &[ClusterNow<'_>], census: &[(String, Census)]) -> String {
    let mut families = counted.gather();
    families.extend(of_clusters(clusters).gather());
    families.extend(of_listeners(census).gather());
    families.extend(of_process().gather());
    registry::render(&families)
}

/// Roles that a node can show; each has its series for each node, 1 for the present one.
const ROLES: [&str; 8] =
    ["leader", "lock-holder", "unlocked-primary", "standby-leader", "replica", "out-of-service", "foreign", "unknown"];

fn of_clusters(clusters: &[ClusterNow<'_>]) -> MetricRegistry {
    let registry = MetricRegistry::default();
    let gauge = |name: &str, help: &str, labels: &[&str]| registry.gauge(name, help, labels);
    let node = ["cluster", "node"];
    let has_leader = gauge("pgvane_cluster_has_leader", "1 while exactly one node leads.", &["cluster"]);
    let contested = gauge("pgvane_cluster_contested", "1 while several nodes claim to lead.", &["cluster"]);
    let role = gauge("pgvane_node_role", "1 for the role that the node has.", &["cluster", "node", "role"]);
    let state =
        gauge("pgvane_node_admin_state", "1 for what operators have made of the node.", &["cluster", "node", "state"]);
    let up = gauge("pgvane_node_up", "1 while the node's checks are answered.", &node);
    let reachable = gauge("pgvane_node_reachable", "0 while clients cannot get a session on the node, else 1.", &node);
    let lag = gauge("pgvane_node_lag_bytes", "How far a replica's replay is behind the leader.", &node);
    let lag_time = gauge("pgvane_node_lag_seconds", "The same as time since the last replayed commit.", &node);
    let timeline = gauge("pgvane_node_timeline", "PostgreSQL's timeline.", &node);
    let sessions = gauge("pgvane_node_sessions", "Sessions on the node now.", &node);
    let truth = |yes: bool| if yes { 1.0 } else { 0.0 };

    for cluster in clusters {
        let leadership = &cluster.topology.leadership;
        has_leader.with_label_values(&[cluster.name]).set(truth(leadership.leader().is_some()));
        let is_contested = matches!(leadership, Leadership::Contested { .. });
        contested.with_label_values(&[cluster.name]).set(truth(is_contested));
        for (id, view) in cluster.topology.members() {
            let labels = [cluster.name, view.member.name.as_str()];
            let present = view.role_label();
            for label in ROLES {
                role.with_label_values(&[labels[0], labels[1], label]).set(truth(label == present));
            }
            for one in AdminState::ALL {
                state.with_label_values(&[labels[0], labels[1], one.label()]).set(truth(one == view.admin));
            }
            up.with_label_values(&labels).set(truth(view.health.label() == "up"));
            reachable.with_label_values(&labels).set(truth(view.way_failure.is_none()));
            let behind = view.lag.unwrap_or_default();
            lag.with_label_values(&labels).set(behind.bytes as f64);
            lag_time.with_label_values(&labels).set(behind.time.as_secs_f64());
            let known = view.health.report().and_then(|report| report.timeline);
            timeline.with_label_values(&labels).set(f64::from(known.unwrap_or(0)));
            sessions.with_label_values(&labels).set(f64::from(cluster.sessions.get(id.index()).copied().unwrap_or(0)));
        }
    }
    registry
}

fn of_process() -> MetricRegistry {
    let registry = MetricRegistry::default();
    let lost = "Log lines lost because standard error did not take them.";
    registry.counter("pgvane_log_lines_lost_total", lost, &[]).with_label_values::<&str>(&[]).inc_by(lines_lost());
    registry
}

fn of_listeners(listeners: &[(String, Census)]) -> MetricRegistry {
    let registry = MetricRegistry::default();
    let gauge = |name: &str, help: &str| registry.gauge(name, help, &["listener"]);
    let sessions = gauge("pgvane_sessions", "Connections now, held ones included.");
    let pending = gauge("pgvane_connections_pending", "Connections now that have not yet said what they want.");
    let held = gauge("pgvane_sessions_held", "Connections now waiting for a node.");
    let limit = gauge("pgvane_sessions_max", "The most connections that the listener takes at once.");
    let bytes = registry.counter(
        "pgvane_bytes_total",
        "Bytes relayed, those of running sessions included.",
        &["listener", "direction"],
    );
    for (name, census) in listeners {
        sessions.with_label_values(&[name]).set(census.sessions as f64);
        pending.with_label_values(&[name]).set(census.pending as f64);
        held.with_label_values(&[name]).set(census.held as f64);
        limit.with_label_values(&[name]).set(census.sessions_max as f64);
        bytes.with_label_values(&[name, "to_server"]).inc_by(census.bytes_to_server);
        bytes.with_label_values(&[name, "to_client"]).inc_by(census.bytes_to_client);
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
        let text = render(&registry, &[], &[("write".to_owned(), Census::default())]);
        for series in [
            "pgvane_sessions_total{listener=\"write\"} 0",
            "pgvane_session_ends_total{listener=\"write\",reason=\"client-closed\"} 0",
            "pgvane_hold_seconds_count{listener=\"write\"} 0",
            "pgvane_cancels_total{listener=\"write\",outcome=\"fanned-out\"} 0",
            "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"} 0",
            "pgvane_sessions{listener=\"write\"} 0",
            "pgvane_connections_pending{listener=\"write\"} 0",
            "pgvane_bytes_total{direction=\"to_client\",listener=\"write\"} 0",
        ] {
            assert!(text.contains(series), "{series} is not in\n{text}");
        }
    }
}
