//! Metrics of each cluster's checks and leader changes.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::telemetry::MetricRegistry;

/// The metrics of all clusters. All series of a cluster exist from the start, at zero, so that `rate()` never starts
/// with a gap.
#[derive(Debug)]
pub struct ProbeMetrics {
    checks: IntCounterVec,
    check_time: HistogramVec,
    lead_changes: IntCounterVec,
    leaderless: HistogramVec,
    carry_wait: HistogramVec,
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
    carry_wait: Histogram,
}

impl ProbeMetrics {
    /// Registers the metrics in `registry`.
    pub fn new(registry: &MetricRegistry) -> ProbeMetrics {
        ProbeMetrics {
            checks: registry.counter(
                "pgvane_checks_total",
                "Health checks of nodes, by outcome: answered or unanswered.",
                &["cluster", "outcome"],
            ),
            check_time: registry.wait_histogram("pgvane_check_seconds", "Duration of health checks.", &["cluster"]),
            lead_changes: registry.counter(
                "pgvane_leader_changes_total",
                "Leader changes: a node became the leader (taken), or the cluster lost its leader (lost).",
                &["cluster", "change"],
            ),
            leaderless: registry.wait_histogram(
                "pgvane_leaderless_seconds",
                "Duration of each period without a leader, observed when it ends.",
                &["cluster"],
            ),
            carry_wait: registry.wait_histogram(
                "pgvane_carry_wait_seconds",
                "How long sessions that were carried to another leader had no server.",
                &["cluster"],
            ),
        }
    }

    /// The counters of one cluster. Creates all its series.
    pub fn cluster(&self, name: &str) -> ClusterMetrics {
        ClusterMetrics {
            answered: self.checks.with_label_values(&[name, "answered"]),
            unanswered: self.checks.with_label_values(&[name, "unanswered"]),
            check_time: self.check_time.with_label_values(&[name]),
            leads_taken: self.lead_changes.with_label_values(&[name, "taken"]),
            leads_lost: self.lead_changes.with_label_values(&[name, "lost"]),
            leaderless: self.leaderless.with_label_values(&[name]),
            carry_wait: self.carry_wait.with_label_values(&[name]),
        }
    }
}

impl ClusterMetrics {
    /// Counts a check that has ended.
    pub fn check_ended(&self, was_answered: bool, took: Duration) {
        if was_answered {
            self.answered.inc();
        } else {
            self.unanswered.inc();
        }
        self.check_time.observe(took.as_secs_f64());
    }

    /// Counts a new leader, and records how long there was none.
    pub fn lead_taken(&self, leaderless: Duration) {
        self.leads_taken.inc();
        self.leaderless.observe(leaderless.as_secs_f64());
    }

    /// Records how long a session that was carried had no server.
    pub fn session_carried(&self, waited: Duration) {
        self.carry_wait.observe(waited.as_secs_f64());
    }

    /// Counts the loss of the leader.
    pub fn lead_lost(&self) {
        self.leads_lost.inc();
    }
}
