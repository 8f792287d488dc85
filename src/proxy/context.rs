//! What the sessions of one listener share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::intake::connection_rates::ConnectionRates;
use super::intake::per_client::PerClient;
use super::intake::tls::Encryption;
use super::log_limit::LogLimit;
use super::metrics::ListenerMetrics;
use super::sessions::cancel_limits::CancelLimits;
use super::sessions::registry::Registry;
use crate::cluster::{NodeId, Suspicion};
use crate::config::{self, ListenerIndex};
use crate::net::dial::TcpOptions;
use crate::probe::ClusterHandle;

/// Everything that the sessions of one listener share.
#[derive(Debug)]
pub struct ListenerContext {
    /// Index into the configuration's listeners.
    pub index: ListenerIndex,
    /// The listener's settings.
    pub settings: config::Listener,
    /// How long a draining session may finish its transaction.
    pub drain_timeout: Duration,
    /// The nodes.
    pub cluster: ClusterHandle,
    /// All sessions.
    pub registry: Arc<Registry>,
    /// The listener's counters.
    pub metrics: ListenerMetrics,
    /// Encryption on both sides.
    pub encryption: Arc<Encryption>,
    /// Socket options of both sides.
    pub tcp: TcpOptions,
    /// Bounds the cancel requests that are sent to servers.
    pub cancel_limits: CancelLimits,
    /// Bounds how often the same end is logged.
    pub log_limit: LogLimit,
    /// The sessions of each client.
    pub per_client: PerClient,
    /// How fast each client connects.
    pub connection_rates: ConnectionRates,
    /// Whether connections to nodes begin with a PROXY header that names the client.
    pub sends_proxy_header: bool,
    turn: AtomicU64,
}

impl ListenerContext {
    /// The context of the listener at `index`.
    pub fn new(
        index: ListenerIndex,
        settings: config::Listener,
        drain_timeout: Duration,
        cluster: ClusterHandle,
        registry: Arc<Registry>,
        metrics: ListenerMetrics,
        encryption: Arc<Encryption>,
    ) -> ListenerContext {
        let tcp = TcpOptions {
            keepalive: settings.tcp_keepalive,
            unacknowledged_max: settings.tcp_user_timeout,
            ends_with_shut_window: false,
        };
        ListenerContext {
            index,
            drain_timeout,
            sends_proxy_header: cluster.sends_proxy_header(),
            cluster,
            registry,
            metrics,
            encryption,
            tcp,
            cancel_limits: CancelLimits::default(),
            log_limit: LogLimit::default(),
            per_client: PerClient::default(),
            connection_rates: ConnectionRates::default(),
            turn: AtomicU64::new(0),
            settings,
        }
    }

    /// Reports that something in a session makes a node doubtful, see [`ClusterHandle::suspect`].
    pub fn suspect(&self, node: NodeId, suspicion: Suspicion) {
        let suspicion = self.settings.suspicion(suspicion, &self.cluster.topology().node(node).member);
        self.cluster.suspect(node, suspicion);
    }

    /// Counts the listener's choices of a node.
    pub fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Relaxed)
    }
}
