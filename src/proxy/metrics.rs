//! What is counted of each listener's connections.

use jiff::Timestamp;
use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};

use strum::VariantArray;

use super::end::{CancelOutcome, EndKind};
use crate::telemetry::MetricRegistry;
use crate::tls::Version;

/// The metrics of all listeners. All series of a listener exist from the start, at zero, so that a rate never begins with
/// a gap.
#[derive(Debug)]
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
    /// Attempts on a node that failed without the client's seeing it.
    pub retries: IntCounter,
    /// Logins at which the server said of its recovery what a newer check refuted.
    pub login_hints_ignored: IntCounter,
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

impl ProxyMetrics {
    /// Adds them to `registry`.
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
                "Attempts on a node that failed and were made good elsewhere or later, unseen by the client.",
                &by_listener,
            ),
            login_hints_ignored: registry.counter(
                "pgvane_login_hints_ignored_total",
                "Logins at which in_hot_standby contradicted a newer check, as it does behind a pooler.",
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
                "Clients with whom TLS was agreed on, by version.",
                &["listener", "version"],
            ),
            failed_reloads: registry.counter(
                "pgvane_tls_reload_failures_total",
                "How often changed certificates could not be used.",
                &by_listener,
            ),
            expiry: registry.gauge(
                "pgvane_tls_certificate_expiry_timestamp_seconds",
                "Until when the certificate that clients are shown holds, in Unix time.",
                &by_listener,
            ),
        }
    }

    /// The counters of a listener, all of them present from now on.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            sessions: self.sessions.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            login_hints_ignored: self.login_hints_ignored.with_label_values(&[name]),
            hold: self.hold.with_label_values(&[name]),
            cancels: CancelOutcome::VARIANTS
                .iter()
                .map(|way| self.cancels.with_label_values(&[name, way.label()]))
                .collect(),
            ends: EndKind::VARIANTS.iter().map(|kind| self.ends.with_label_values(&[name, kind.label()])).collect(),
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
}

impl ListenerMetrics {
    /// Counts the end of a connection.
    pub fn ended(&self, kind: EndKind) {
        self.ends[kind as usize].inc();
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

    /// Counts changed certificates that could not be used.
    pub fn count_failed_reload(&self) {
        self.failed_reloads.inc();
    }

    /// Notes until when the certificate that clients are shown holds. Only where there is one is there a series.
    pub fn expires(&self, at: Timestamp) {
        self.expiry.with_label_values(&[&self.listener]).set(at.as_second() as f64);
    }
}
