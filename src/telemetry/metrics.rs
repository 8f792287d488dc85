//! Every metric, in one place. Names begin with `pgvane_`; units are Prometheus' base units.
//!
//! All series of the configured listeners and clusters exist from the start, at zero, so that a rate never begins
//! with a gap. What describes the present (roles, lags, sessions) is read at the time of the scrape.

use std::time::Duration;

use jiff::Timestamp;
use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::cluster::AdminState;
use crate::cluster::topology::Topology;
use crate::proxy::cancel::Outcome;
use crate::proxy::end_kind::EndKind;
use crate::proxy::registry::Census;
use crate::tls::Version;

/// Buckets from a local round trip to the longest wait that anybody configures.
const WAIT_BUCKETS_SECONDS: &[f64] = &[0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// All metrics that count, and the registry that prints them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sessions: IntCounterVec,
    ends: IntCounterVec,
    retries: IntCounterVec,
    cancels: IntCounterVec,
    hold: HistogramVec,
    checks: IntCounterVec,
    check_time: HistogramVec,
    lead_changes: IntCounterVec,
    leaderless: HistogramVec,
    handshakes: IntCounterVec,
    failed_reloads: IntCounterVec,
    expiry: GaugeVec,
}

/// One listener's counters.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Connections accepted.
    pub sessions: IntCounter,
    /// Attempts on a node that failed without the client's seeing it.
    pub retries: IntCounter,
    /// How long new connections were held before they got a node, for those that were.
    pub hold: Histogram,
    cancels: Vec<IntCounter>,
    ends: Vec<IntCounter>,
}

/// What a listener with certificates counts besides.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    listener: String,
    handshakes: [IntCounter; Version::ALL.len()],
    failed_reloads: IntCounter,
    expiry: GaugeVec,
}

/// One cluster's counters.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    answered: IntCounter,
    unanswered: IntCounter,
    check_time: Histogram,
    leads_taken: IntCounter,
    leads_lost: IntCounter,
    leaderless: Histogram,
}

/// What a scrape reads of one cluster besides the counters.
pub struct ClusterNow<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its newest picture.
    pub topology: &'a Topology,
    /// Sessions now on each node, by [`crate::cluster::NodeId`].
    pub sessions: &'a [u32],
}

/// Prometheus refuses a metric only if its name or labels are malformed or given twice: both are fixed here.
const FIXED: &str = "names and labels are constants of this file";

impl Default for Metrics {
    fn default() -> Metrics {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(WAIT_BUCKETS_SECONDS.to_vec());
            registered(&registry, HistogramVec::new(options, labels))
        };
        let metrics = Metrics {
            sessions: counter("pgvane_sessions_total", "Connections accepted.", &["listener"]),
            ends: counter("pgvane_session_ends_total", "Connections ended, by reason.", &["listener", "reason"]),
            retries: counter(
                "pgvane_connect_retries_total",
                "Attempts on a node that failed and were made good elsewhere or later, unseen by the client.",
                &["listener"],
            ),
            cancels: counter("pgvane_cancels_total", "Cancel requests, by outcome.", &["listener", "outcome"]),
            hold: histogram("pgvane_hold_seconds", "How long connections waited for a node.", &["listener"]),
            checks: counter("pgvane_checks_total", "Checks of nodes, by outcome.", &["cluster", "outcome"]),
            check_time: histogram("pgvane_check_seconds", "How long checks took.", &["cluster"]),
            lead_changes: counter(
                "pgvane_leader_changes_total",
                "How often a node took the lead, or lost it to none.",
                &["cluster", "change"],
            ),
            handshakes: counter(
                "pgvane_tls_handshakes_total",
                "Clients with whom TLS was agreed on, by version.",
                &["listener", "version"],
            ),
            failed_reloads: counter(
                "pgvane_tls_reload_failures_total",
                "How often changed certificates could not be used.",
                &["listener"],
            ),
            expiry: registered(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "pgvane_tls_certificate_expiry_timestamp_seconds",
                        "Until when the certificate that clients are shown holds, in Unix time.",
                    ),
                    &["listener"],
                ),
            ),
            leaderless: histogram("pgvane_leaderless_seconds", "Times without a leader that have ended.", &["cluster"]),
            registry,
        };
        let build = IntGaugeVec::new(Opts::new("pgvane_build_info", "Which pgvane this is."), &["version"]);
        registered(&metrics.registry, build).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let metric = made.expect(FIXED);
    registry.register(Box::new(metric.clone())).expect(FIXED);
    metric
}

impl Metrics {
    /// The counters of a listener, all of them present from now on.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            sessions: self.sessions.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            hold: self.hold.with_label_values(&[name]),
            cancels: Outcome::ALL.iter().map(|way| self.cancels.with_label_values(&[name, way.label()])).collect(),
            ends: EndKind::ALL.iter().map(|kind| self.ends.with_label_values(&[name, kind.label()])).collect(),
        }
    }

    /// The counters of a listener with certificates, all of them present from now on.
    pub fn tls(&self, listener: &str) -> TlsMetrics {
        TlsMetrics {
            handshakes: Version::ALL.map(|version| self.handshakes.with_label_values(&[listener, version.label()])),
            failed_reloads: self.failed_reloads.with_label_values(&[listener]),
            expiry: self.expiry.clone(),
            listener: listener.to_owned(),
        }
    }

    /// The counters of a cluster, all of them present from now on.
    pub fn cluster(&self, name: &str) -> ClusterMetrics {
        ClusterMetrics {
            answered: self.checks.with_label_values(&[name, "answered"]),
            unanswered: self.checks.with_label_values(&[name, "unanswered"]),
            check_time: self.check_time.with_label_values(&[name]),
            leads_taken: self.lead_changes.with_label_values(&[name, "taken"]),
            leads_lost: self.lead_changes.with_label_values(&[name, "lost"]),
            leaderless: self.leaderless.with_label_values(&[name]),
        }
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, clusters: &[ClusterNow<'_>], census: &[(String, Census)]) -> String {
        let mut families = self.registry.gather();
        families.extend(of_clusters(clusters).gather());
        families.extend(of_listeners(census).gather());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("writing to memory does not fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

impl ListenerMetrics {
    /// Counts the end of a connection.
    pub fn ended(&self, kind: EndKind) {
        self.ends[kind as usize].inc();
    }

    /// Counts a cancel request.
    pub fn cancelled(&self, outcome: Outcome) {
        self.cancels[outcome as usize].inc();
    }
}

impl TlsMetrics {
    /// Counts a handshake.
    pub fn count_handshake(&self, version: Version) {
        self.handshakes[version as usize].inc();
    }

    /// Counts changed certificates that could not be used.
    pub fn count_failed_reload(&self) {
        self.failed_reloads.inc();
    }

    /// Notes until when the certificate that clients are shown holds. Only where there is one is there a series.
    pub fn expires(&self, at: Timestamp) {
        self.expiry.with_label_values(&[&self.listener]).set(at.as_second() as f64);
    }
}

impl ClusterMetrics {
    /// Counts a check.
    pub fn check_ended(&self, was_answered: bool, took: Duration) {
        if was_answered {
            self.answered.inc();
        } else {
            self.unanswered.inc();
        }
        self.check_time.observe(took.as_secs_f64());
    }

    /// Counts a node's taking the lead, and the time without a leader that it ended.
    pub fn lead_taken(&self, leaderless: Duration) {
        self.leads_taken.inc();
        self.leaderless.observe(leaderless.as_secs_f64());
    }

    /// Counts a loss of the lead.
    pub fn lead_lost(&self) {
        self.leads_lost.inc();
    }
}

/// Roles that a node can show; each has its series for each node, 1 for the present one.
const ROLES: [&str; 7] = ["leader", "lock-holder", "standby-leader", "replica", "out-of-service", "foreign", "unknown"];

fn of_clusters(clusters: &[ClusterNow<'_>]) -> Registry {
    let registry = Registry::new();
    let gauge =
        |name: &str, help: &str, labels: &[&str]| registered(&registry, GaugeVec::new(Opts::new(name, help), labels));
    let node = ["cluster", "node"];
    let has_leader = gauge("pgvane_cluster_has_leader", "1 while exactly one node leads.", &["cluster"]);
    let contested = gauge("pgvane_cluster_contested", "1 while several nodes claim to lead.", &["cluster"]);
    let role = gauge("pgvane_node_role", "1 for the role that the node has.", &["cluster", "node", "role"]);
    let state =
        gauge("pgvane_node_admin_state", "1 for what operators have made of the node.", &["cluster", "node", "state"]);
    let up = gauge("pgvane_node_up", "1 while the node's checks are answered.", &node);
    let lag = gauge("pgvane_node_lag_bytes", "How far a replica's replay is behind the leader.", &node);
    let lag_time = gauge("pgvane_node_lag_seconds", "The same as time since the last replayed commit.", &node);
    let timeline = gauge("pgvane_node_timeline", "PostgreSQL's timeline.", &node);
    let sessions = gauge("pgvane_node_sessions", "Sessions on the node now.", &node);
    let truth = |yes: bool| if yes { 1.0 } else { 0.0 };

    for cluster in clusters {
        let leadership = &cluster.topology.leadership;
        has_leader.with_label_values(&[cluster.name]).set(truth(leadership.leader().is_some()));
        let is_contested = matches!(leadership, crate::cluster::leadership::Leadership::Contested { .. });
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

fn of_listeners(listeners: &[(String, Census)]) -> Registry {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str| registered(&registry, GaugeVec::new(Opts::new(name, help), &["listener"]));
    let sessions = gauge("pgvane_sessions", "Connections now, held ones included.");
    let openings = gauge("pgvane_openings", "Connections now that have not yet said what they want.");
    let held = gauge("pgvane_sessions_held", "Connections now waiting for a node.");
    let limit = gauge("pgvane_sessions_max", "The most connections that the listener takes at once.");
    let bytes = IntCounterVec::new(
        Opts::new("pgvane_bytes_total", "Bytes relayed, those of running sessions included."),
        &["listener", "direction"],
    );
    let bytes = registered(&registry, bytes);
    for (name, census) in listeners {
        sessions.with_label_values(&[name]).set(census.sessions as f64);
        openings.with_label_values(&[name]).set(census.openings as f64);
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

    #[test]
    fn every_series_is_there_before_anything_has_happened() {
        let metrics = Metrics::default();
        metrics.listener("write");
        metrics.cluster("main");
        let text = metrics.render(&[], &[("write".to_owned(), Census::default())]);
        for series in [
            "pgvane_sessions_total{listener=\"write\"} 0",
            "pgvane_session_ends_total{listener=\"write\",reason=\"client-closed\"} 0",
            "pgvane_hold_seconds_count{listener=\"write\"} 0",
            "pgvane_cancels_total{listener=\"write\",outcome=\"fanned-out\"} 0",
            "pgvane_checks_total{cluster=\"main\",outcome=\"answered\"} 0",
            "pgvane_sessions{listener=\"write\"} 0",
            "pgvane_openings{listener=\"write\"} 0",
            "pgvane_bytes_total{direction=\"to_client\",listener=\"write\"} 0",
        ] {
            assert!(text.contains(series), "{series} is not in\n{text}");
        }
    }
}
