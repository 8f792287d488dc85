//! What the sessions of one listener share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::cancel;
use super::connect::TcpOptions;
use super::registry::Registry;
use crate::config;
use crate::probe::ClusterView;
use crate::telemetry::metrics::ListenerMetrics;

/// Everything that the sessions of one listener share.
#[derive(Debug)]
pub struct Desk {
    /// Index into the configuration's listeners.
    pub index: usize,
    /// The listener's settings.
    pub settings: config::Listener,
    /// How long a draining session may finish its transaction.
    pub drain_timeout: Duration,
    /// The nodes.
    pub cluster: ClusterView,
    /// All sessions.
    pub registry: Arc<Registry>,
    /// The listener's counters.
    pub metrics: ListenerMetrics,
    /// Socket options of both sides.
    pub tcp: TcpOptions,
    /// Bounds the cancel requests that go to several nodes.
    pub fan_outs: cancel::Pace,
    turn: AtomicU64,
}

impl Desk {
    /// The desk of the listener at `index`.
    pub fn new(
        index: usize,
        settings: config::Listener,
        drain_timeout: Duration,
        cluster: ClusterView,
        registry: Arc<Registry>,
        metrics: ListenerMetrics,
    ) -> Desk {
        let tcp = TcpOptions { keepalive: settings.tcp_keepalive, user_timeout: settings.tcp_user_timeout };
        let fan_outs = cancel::Pace::default();
        Desk { index, settings, drain_timeout, cluster, registry, metrics, tcp, fan_outs, turn: AtomicU64::new(0) }
    }

    /// Counts the listener's choices of a node.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Relaxed)
    }
}
