//! What the sessions of one listener share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::intake::connection_rates::ConnectionRates;
use super::intake::per_client::PerClient;
use super::intake::tls::Encryption;
use super::intake::tls_answers::TlsAnswers;
use super::log_limit::LogLimit;
use super::metrics::ListenerMetrics;
use super::sessions::cancel_limits::CancelLimits;
use super::sessions::origin::Origin;
use super::sessions::registry::Registry;
use crate::cluster::{NodeId, Suspicion};
use crate::config::{self, ListenerIndex};
use crate::net::dial::TcpOptions;
use crate::probe::ClusterHandle;

/// Everything that the sessions of one listener share.
#[derive(Debug)]
pub struct ListenerContext {
    /// The listener's number: it stays the same when a reload changes the listener.
    pub index: ListenerIndex,
    /// The listener's settings. `cluster` is the number of the cluster, which is not its position in the file after a
    /// reload.
    pub settings: config::Listener,
    /// Listener, cluster and rule, for sessions to keep.
    pub origin: Arc<Origin>,
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
    /// What stays the same when a reload changes the listener.
    pub kept: Arc<Kept>,
    /// Whether connections to nodes begin with a PROXY header that names the client.
    pub sends_proxy_header: bool,
}

/// What a listener's sessions share, whatever its settings are.
#[derive(Debug, Default)]
pub struct Kept {
    /// Limits the cancel requests that are sent to servers.
    pub cancel_limits: CancelLimits,
    /// Limits how often the same end is logged.
    pub log_limit: LogLimit,
    /// The sessions of each client.
    pub per_client: PerClient,
    /// How fast each client connects.
    pub connection_rates: ConnectionRates,
    /// What the nodes answer when a client asks for TLS.
    pub tls_answers: TlsAnswers,
    turn: AtomicU64,
}

/// The socket options of a listener's connections, on both sides.
pub fn tcp_options(settings: &config::Listener) -> TcpOptions {
    TcpOptions {
        keepalive: settings.tcp_keepalive,
        unacknowledged_max: settings.tcp_user_timeout,
        ends_with_shut_window: false,
    }
}

impl ListenerContext {
    /// The context of the listener with this number.
    pub fn new(
        index: ListenerIndex,
        settings: config::Listener,
        drain_timeout: Duration,
        cluster: ClusterHandle,
        registry: Arc<Registry>,
        metrics: ListenerMetrics,
        encryption: Arc<Encryption>,
    ) -> ListenerContext {
        let tcp = tcp_options(&settings);
        ListenerContext {
            index,
            drain_timeout,
            sends_proxy_header: cluster.sends_proxy_header(),
            cluster,
            registry,
            metrics,
            encryption,
            tcp,
            kept: Arc::default(),
            origin: Origin::shared((index, &settings.name), settings.cluster, settings.rule.clone()),
            settings,
        }
    }

    /// Reports that something in a session makes a node doubtful, see [`ClusterHandle::suspect`].
    pub fn suspect(&self, node: NodeId, suspicion: Suspicion) {
        let suspicion = self.settings.suspicion(suspicion, &self.cluster.topology().node(node).member);
        self.cluster.suspect(node, suspicion);
    }

    /// The same, with what is kept of the context that the listener had before a reload.
    pub fn after(self, previous: &ListenerContext) -> ListenerContext {
        ListenerContext { kept: Arc::clone(&previous.kept), ..self }
    }

    /// Counts the listener's choices of a node.
    pub fn next_turn(&self) -> u64 {
        self.kept.turn.fetch_add(1, Relaxed)
    }
}
