//! How a listener's sessions are encrypted on either side, and the certificates for it, kept in step with their files.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::config;
use crate::proxy::metrics::{ProxyMetrics, TlsMetrics};
use crate::tls::{Acceptor, Certificate, ClientTls, Look, Reloading, ServerTls, TlsError, Version};

/// How often the files are looked at: often enough that nobody waits for it, rare enough not to be seen on a disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A listener's encryption.
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

/// What a client that asks for TLS is answered.
#[derive(Debug)]
pub enum Offer {
    /// The question is passed on to the server.
    PassOn,
    /// No.
    Refuse,
    /// A handshake with us.
    Accept(Arc<Acceptor>),
}

impl Encryption {
    /// Reads a listener's certificates, and says in the log what they are. Errors: files that cannot be used.
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
        let has_certificates = matches!(to_clients, ToClients::Terminate { .. }) || !to_servers.is_settled();
        let metrics = has_certificates.then(|| metrics.tls(&settings.name));
        let encryption = Encryption { listener: settings.name.clone(), to_clients, to_servers, metrics };
        if let ToClients::Terminate { acceptor, .. } = &encryption.to_clients {
            encryption.announce(acceptor.load().certificate());
        }
        Ok(encryption)
    }

    /// Whether there is nothing that could change.
    fn is_settled(&self) -> bool {
        self.metrics.is_none()
    }

    /// What a client that asks for TLS is answered.
    pub fn offer(&self) -> Offer {
        match &self.to_clients {
            ToClients::Passthrough => Offer::PassOn,
            ToClients::Disable => Offer::Refuse,
            ToClients::Terminate { acceptor, .. } => Offer::Accept(acceptor.load()),
        }
    }

    /// Whether a session must not be in clear between the client and us.
    pub fn is_required(&self) -> bool {
        matches!(self.to_clients, ToClients::Terminate { is_required: true, .. })
    }

    /// How connections to nodes are encrypted that carry sessions in clear.
    pub fn to_servers(&self) -> Arc<ServerTls> {
        self.to_servers.load()
    }

    /// Counts a handshake with a client.
    pub fn count_handshake(&self, version: Version) {
        if let Some(metrics) = &self.metrics {
            metrics.count_handshake(version);
        }
    }

    /// Looks whether files have changed, and reads them if so; in any case with `at_once`. Blocks.
    fn look(&self, at_once: bool) {
        if let ToClients::Terminate { acceptor, .. } = &self.to_clients {
            match acceptor.look(at_once) {
                Look::Unchanged => {}
                Look::Renewed => self.announce(acceptor.load().certificate()),
                Look::Failed(error) => self.complain("tls", &error),
            }
        }
        match self.to_servers.look(at_once) {
            Look::Unchanged => {}
            Look::Renewed => info!(listener = %self.listener, "certificates for connections to nodes read"),
            Look::Failed(error) => self.complain("server_tls", &error),
        }
    }

    fn announce(&self, certificate: &Certificate) {
        let (listener, names, expires) = (&self.listener, certificate.names().join(", "), certificate.expires());
        if let Some(metrics) = &self.metrics {
            metrics.expires(expires);
        }
        info!(%listener, names, %expires, "certificate for clients read");
        if expires < Timestamp::now() {
            warn!(%listener, %expires, "the certificate for clients has expired");
        }
    }

    fn complain(&self, key: &str, error: &TlsError) {
        if let Some(metrics) = &self.metrics {
            metrics.count_failed_reload();
        }
        let listener = &self.listener;
        error!(%listener, key, %error, "changed certificates cannot be used; those read before stay in use");
    }
}

/// Keeps certificates in step with their files: looks at them every few seconds, and reads them at once whenever
/// `reread` changes. Ends with whoever can change it.
pub async fn keep_in_step(mut all: Vec<Arc<Encryption>>, mut reread: watch::Receiver<()>) {
    all.retain(|encryption| !encryption.is_settled());
    if all.is_empty() {
        return std::future::pending().await; // there is nothing that could change
    }
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let at_once = tokio::select! {
            _ = ticks.tick() => false,
            changed = reread.changed() => match changed {
                Ok(()) => true,
                Err(_) => return std::future::pending().await, // the program ends
            },
        };
        let all = all.clone();
        // a disk may be slow, and a network's disk very slow
        let looked = tokio::task::spawn_blocking(move || all.iter().for_each(|encryption| encryption.look(at_once)));
        if let Err(error) = looked.await {
            error!(%error, "looking at certificates failed");
        }
    }
}
