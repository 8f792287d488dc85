//! The TLS settings of a listener's sessions with clients and with servers. Certificates load again when files change.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::config;
use crate::proxy::metrics::{ProxyMetrics, TlsMetrics};
use crate::tls::{Acceptor, Certificate, ClientTls, FileCheck, Reloading, ServerTls, TlsError, Version};

/// How often the files are checked: often enough that nobody waits for it, and rare enough to cause no load on a disk.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A listener's TLS.
#[derive(Debug)]
pub struct Encryption {
    listener: String,
    to_clients: ToClients,
    to_servers: Reloading<ServerTls>,
    /// `None` where there are no certificates.
    metrics: Option<TlsMetrics>,
}

/// See [`ClientTls`].
#[derive(Debug)]
enum ToClients {
    Passthrough,
    Disable,
    Terminate { acceptor: Reloading<Acceptor>, is_required: bool },
}

/// The answer to a client that asks for TLS.
#[derive(Debug)]
pub enum Offer {
    /// The server answers: the request is passed on.
    PassOn,
    /// TLS is refused.
    Refuse,
    /// TLS is accepted, and pgvane does the handshake.
    Accept(Arc<Acceptor>),
}

impl Encryption {
    /// Loads and logs a listener's certificates. Errors: a file cannot be used.
    pub fn new(settings: &config::Listener, metrics: &ProxyMetrics) -> Result<Encryption, TlsError> {
        let to_clients = match &settings.tls {
            ClientTls::Passthrough => ToClients::Passthrough,
            ClientTls::Disable => ToClients::Disable,
            ClientTls::Terminate(terminate) => ToClients::Terminate {
                acceptor: Reloading::new(terminate.clone())?,
                is_required: terminate.is_required,
            },
        };
        let to_servers = Reloading::<ServerTls>::new(settings.server_tls.clone())?;
        let has_certificates = matches!(to_clients, ToClients::Terminate { .. }) || !to_servers.is_constant();
        let metrics = has_certificates.then(|| metrics.tls(&settings.name));
        let encryption = Encryption { listener: settings.name.clone(), to_clients, to_servers, metrics };
        if let ToClients::Terminate { acceptor, .. } = &encryption.to_clients {
            encryption.report_certificate(acceptor.load().certificate());
        }
        Ok(encryption)
    }

    /// Whether there are no files that can change.
    fn is_constant(&self) -> bool {
        self.metrics.is_none()
    }

    /// The answer to a client that asks for TLS.
    pub fn offer(&self) -> Offer {
        match &self.to_clients {
            ToClients::Passthrough => Offer::PassOn,
            ToClients::Disable => Offer::Refuse,
            ToClients::Terminate { acceptor, .. } => Offer::Accept(acceptor.load()),
        }
    }

    /// Whether a client has to use TLS.
    pub fn is_required(&self) -> bool {
        matches!(self.to_clients, ToClients::Terminate { is_required: true, .. })
    }

    /// TLS of connections to nodes, for sessions that the client has not encrypted end to end.
    pub fn to_servers(&self) -> Arc<ServerTls> {
        self.to_servers.load()
    }

    /// Counts a handshake with a client.
    pub fn count_handshake(&self, version: Version) {
        if let Some(metrics) = &self.metrics {
            metrics.count_handshake(version);
        }
    }

    /// Loads the files again if they have changed; with `at_once`, in any case. Blocks while it reads them.
    pub fn check_files(&self, at_once: bool) {
        if let ToClients::Terminate { acceptor, .. } = &self.to_clients {
            match acceptor.check(at_once) {
                FileCheck::Unchanged => {}
                FileCheck::Reloaded => self.report_certificate(acceptor.load().certificate()),
                FileCheck::Failed(error) => self.report_failure("tls", &error),
            }
        }
        match self.to_servers.check(at_once) {
            FileCheck::Unchanged => {}
            FileCheck::Reloaded => info!(listener = %self.listener, "certificates for connections to nodes loaded"),
            FileCheck::Failed(error) => self.report_failure("server_tls", &error),
        }
    }

    fn report_certificate(&self, certificate: &Certificate) {
        let (listener, names, expires) = (&self.listener, certificate.names().join(", "), certificate.expires());
        if let Some(metrics) = &self.metrics {
            metrics.set_expiry(expires);
        }
        info!(%listener, names, %expires, "certificate for clients loaded");
        if expires < Timestamp::now() {
            warn!(%listener, %expires, "the certificate for clients has expired");
        }
    }

    fn report_failure(&self, key: &str, error: &TlsError) {
        if let Some(metrics) = &self.metrics {
            metrics.count_failed_reload();
        }
        let listener = &self.listener;
        error!(%listener, key, %error, "cannot load changed certificates; the previous ones stay in use");
    }
}

/// Checks the certificate files of the listeners every two seconds and loads changed ones. Never returns.
pub async fn reload_changed(listeners: watch::Receiver<Vec<Arc<Encryption>>>) {
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let all = listeners.borrow().clone();
        check_all(all, false).await;
    }
}

/// Checks the certificate files of these listeners, see [`Encryption::check_files`].
pub async fn check_all(mut all: Vec<Arc<Encryption>>, at_once: bool) {
    all.retain(|encryption| !encryption.is_constant());
    if all.is_empty() {
        return; // no files can change
    }
    // a disk can be slow, and a network file system very slow
    let check = move || all.iter().for_each(|encryption| encryption.check_files(at_once));
    if let Err(error) = tokio::task::spawn_blocking(check).await {
        error!(%error, "checking the certificate files failed");
    }
}
