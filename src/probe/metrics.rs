//! What is counted of each cluster's checks and changes of lead.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::telemetry::MetricRegistry;

/// The metrics of all clusters. All series of a cluster exist from the start, at zero, so that a rate never begins with a
/// gap.
#[derive(Debug)]
pub struct ProbeMetrics {
    checks: IntCounterVec,
    check_time: HistogramVec,
    lead_changes: IntCounterVec,
    leaderless: HistogramVec,
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

impl ProbeMetrics {
    /// Adds them to `registry`.
    pub fn new(registry: &MetricRegistry) -> ProbeMetrics {
        ProbeMetrics {
            checks: registry.counter("pgvane_checks_total", "Checks of nodes, by outcome.", &["cluster", "outcome"]),
            check_time: registry.wait_histogram("pgvane_check_seconds", "How long checks took.", &["cluster"]),
            lead_changes: registry.counter(
                "pgvane_leader_changes_total",
                "How often a node took the lead, or lost it to none.",
                &["cluster", "change"],
            ),
            leaderless: registry.wait_histogram(
                "pgvane_leaderless_seconds",
                "Times without a leader that have ended.",
                &["cluster"],
            ),
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
