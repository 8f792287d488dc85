//! Accepts connections on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use super::desk::Desk;
use super::session;
use super::workers::Workers;

/// Connections that the kernel keeps ready for us; bounded further by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long accepting rests when the process has run out of file descriptors: sessions that end free some.
const BREATHER: Duration = Duration::from_millis(100);

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
                workers.spawn(*index, stream.into(), move |stream| session::serve(desk, stream, peer))
            });
            if let Err(error) = handed_on {
                warn!(listener = %settings.name, %error, "cannot accept a connection");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
}
