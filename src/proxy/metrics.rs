//! The metrics of each listener's connections.

use jiff::Timestamp;
use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};

use strum::VariantArray;

use super::end::{CancelOutcome, EndKind};
use crate::telemetry::MetricRegistry;
use crate::tls::Version;

/// The metrics of all listeners. All series of a listener exist from the start with the value zero, so that a rate has no
/// gap at its beginning.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    sessions: IntCounterVec,
    ends: IntCounterVec,
    retries: IntCounterVec,
    login_hints_ignored: IntCounterVec,
    cancels: IntCounterVec,
    hold: HistogramVec,
    handshakes: IntCounterVec,
    failed_reloads: IntCounterVec,
    expiry: GaugeVec,
}

/// One listener's counters.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    /// Connections accepted.
    pub sessions: IntCounter,
    /// Failed attempts to reach a node that were retried, so that the client did not see them.
    pub retries: IntCounter,
    /// Logins whose `in_hot_standby` was ignored because a newer check contradicts it.
    pub login_hints_ignored: IntCounter,
    /// How long held connections waited for a node.
    pub hold: Histogram,
    cancels: Vec<IntCounter>,
    ends: Vec<IntCounter>,
}

/// The counters of a listener with certificates.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    listener: String,
    handshakes: [IntCounter; Version::ALL.len()],
    failed_reloads: IntCounter,
    expiry: GaugeVec,
}

impl ProxyMetrics {
    /// Registers the metrics in `registry`.
    pub fn new(registry: &MetricRegistry) -> ProxyMetrics {
        let by_listener = ["listener"];
        ProxyMetrics {
            sessions: registry.counter("pgvane_sessions_total", "Connections accepted.", &by_listener),
            ends: registry.counter(
                "pgvane_session_ends_total",
                "Connections ended, by reason.",
                &["listener", "reason"],
            ),
            retries: registry.counter(
                "pgvane_connect_retries_total",
                "Failed attempts to reach a node that were retried transparently.",
                &by_listener,
            ),
            login_hints_ignored: registry.counter(
                "pgvane_login_hints_ignored_total",
                "Logins whose in_hot_standby was ignored because a newer check contradicts it, as behind a pooler.",
                &by_listener,
            ),
            cancels: registry.counter("pgvane_cancels_total", "Cancel requests, by outcome.", &["listener", "outcome"]),
            hold: registry.wait_histogram(
                "pgvane_hold_seconds",
                "How long connections waited for a node.",
                &by_listener,
            ),
            handshakes: registry.counter(
                "pgvane_tls_handshakes_total",
                "TLS handshakes with clients, by version.",
                &["listener", "version"],
            ),
            failed_reloads: registry.counter(
                "pgvane_tls_reload_failures_total",
                "Changed certificate files that could not be loaded.",
                &by_listener,
            ),
            expiry: registry.gauge(
                "pgvane_tls_certificate_expiry_timestamp_seconds",
                "When the certificate that is sent to clients expires, in Unix time.",
                &by_listener,
            ),
        }
    }

    /// The counters of a listener; their series exist from now on.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            sessions: self.sessions.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            login_hints_ignored: self.login_hints_ignored.with_label_values(&[name]),
            hold: self.hold.with_label_values(&[name]),
            cancels: CancelOutcome::VARIANTS
                .iter()
                .map(|outcome| self.cancels.with_label_values(&[name, outcome.label()]))
                .collect(),
            ends: EndKind::VARIANTS.iter().map(|kind| self.ends.with_label_values(&[name, kind.label()])).collect(),
        }
    }

    /// The TLS counters of a listener; their series exist from now on.
    pub fn tls(&self, listener: &str) -> TlsMetrics {
        TlsMetrics {
            handshakes: Version::ALL.map(|version| self.handshakes.with_label_values(&[listener, version.label()])),
            failed_reloads: self.failed_reloads.with_label_values(&[listener]),
            expiry: self.expiry.clone(),
            listener: listener.to_owned(),
        }
    }
}

impl ListenerMetrics {
    /// Counts the end of a connection.
    pub fn ended(&self, kind: EndKind) {
        self.ends[kind as usize].inc();
    }

    /// The number of connections that have ended in each way so far.
    pub fn end_counts(&self) -> impl Iterator<Item = (EndKind, u64)> + '_ {
        EndKind::VARIANTS.iter().zip(&self.ends).map(|(kind, count)| (*kind, count.get()))
    }

    /// Counts a cancel request.
    pub fn cancelled(&self, outcome: CancelOutcome) {
        self.cancels[outcome as usize].inc();
    }
}

impl TlsMetrics {
    /// Counts a handshake.
    pub fn count_handshake(&self, version: Version) {
        self.handshakes[version as usize].inc();
    }

    /// Counts changed certificate files that could not be loaded.
    pub fn count_failed_reload(&self) {
        self.failed_reloads.inc();
    }

    /// Sets when the certificate that is sent to clients expires. The series exists only if there is a certificate.
    pub fn set_expiry(&self, at: Timestamp) {
        self.expiry.with_label_values(&[&self.listener]).set(at.as_second() as f64);
    }
}
