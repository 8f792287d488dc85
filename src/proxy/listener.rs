//! Accepts connections on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use super::cancel;
use super::connect::TcpOptions;
use super::registry::Registry;
use super::session;
use super::workers::Workers;
use crate::config;
use crate::probe::ClusterView;
use crate::telemetry::metrics::ListenerMetrics;

/// Connections that the kernel keeps ready for us; bounded further by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long accepting rests when the process has run out of file descriptors: sessions that end free some.
const BREATHER: Duration = Duration::from_millis(100);

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

/// A port that is open. Nothing is accepted before [`Listener::run`].
pub struct Listener {
    socket: std::net::TcpListener,
    desk: Arc<Desk>,
}

impl Listener {
    /// Opens the port. Errors: as from the kernel; the port may be taken, or need privileges.
    pub fn bind(desk: Desk) -> io::Result<Listener> {
        let address = desk.settings.bind;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        desk.tcp.apply(&SockRef::from(&socket))?; // accepted connections inherit the options
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener { socket: socket.into(), desk: Arc::new(desk) })
    }

    /// Where it listens; tells the port that the kernel chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Its number among the listeners.
    pub fn index(&self) -> usize {
        self.desk.index
    }

    /// Accepts until `stop` says so; then the port is closed. To be run on the [`Workers::runtime`] of its number;
    /// sessions run on, there and on the other threads.
    pub async fn run(self, workers: Arc<Workers>, mut stop: watch::Receiver<bool>) {
        let Desk { index, settings, .. } = &*self.desk;
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => return warn!(listener = %settings.name, %error, "cannot listen"),
        };
        info!(listener = %settings.name, address = %settings.bind, "listening");
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let handed_on = accepted.and_then(|(stream, peer)| {
                let desk = Arc::clone(&self.desk);
                workers.spawn(*index, stream, move |stream| session::serve(desk, stream, peer))
            });
            if let Err(error) = handed_on {
                warn!(listener = %settings.name, %error, "cannot accept a connection");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
}
