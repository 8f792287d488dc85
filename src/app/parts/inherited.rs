//! Sockets that another process has opened and handed over: a port that the configuration still has need not be opened
//! again, so no connection to it is refused.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::net::Bind;
use crate::net::unix_listener::SocketFile;

/// The sockets that have been handed over and are not in use yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    places: Vec<Place>,
    admin: Option<(SocketAddr, TcpListener)>,
    admin_sockets: Vec<(PathBuf, OwnedFd)>,
}

#[derive(Debug)]
struct Place {
    listener: String,
    bind: Bind,
    sockets: Vec<OwnedFd>,
}

impl Inherited {
    /// Adds a socket of this listener at this place.
    pub(crate) fn add(&mut self, listener: String, bind: Bind, sockets: Vec<OwnedFd>) {
        let known = self.places.iter_mut().find(|place| place.listener == listener && place.bind == bind);
        match known {
            Some(place) => place.sockets.extend(sockets),
            None => self.places.push(Place { listener, bind, sockets }),
        }
    }

    /// Adds the socket of the admin port.
    pub(crate) fn add_admin(&mut self, bind: SocketAddr, socket: OwnedFd) {
        self.admin = Some((bind, socket.into()));
    }

    /// Adds an admin socket.
    pub(crate) fn add_admin_socket(&mut self, path: PathBuf, socket: OwnedFd) {
        self.admin_sockets.push((path, socket));
    }

    /// The admin socket of this path. Errors: its file is gone.
    pub(super) fn take_admin_socket(&mut self, path: &Path) -> Option<io::Result<(UnixListener, SocketFile)>> {
        let at = self.admin_sockets.iter().position(|(known, _)| known == path)?;
        let (_, socket) = self.admin_sockets.swap_remove(at);
        Some(SocketFile::of(path, false).map(|file| (UnixListener::from(socket), file)))
    }

    /// The sockets of this place. With port 0 several listeners can be at the same address: then each gets its own.
    pub(super) fn take(&mut self, listener: &str, bind: &Bind) -> Option<Vec<OwnedFd>> {
        let is_shared = matches!(bind, Bind::Tcp(address) if address.port() == 0);
        let is_here = |place: &Place| match (&place.bind, bind) {
            (Bind::Unix(one), Bind::Unix(other)) => one.path == other.path,
            (one, other) => one == other && (!is_shared || place.listener == listener),
        };
        let at = self.places.iter().position(is_here)?;
        Some(self.places.swap_remove(at).sockets)
    }

    /// Whether one of those that are left is an address that contains this one, or the other way round: the other process
    /// will close it.
    pub(super) fn overlaps(&self, bind: &Bind) -> bool {
        self.places.iter().any(|place| overlaps(&place.bind, bind))
    }

    /// The socket of the admin port, if that is at this address.
    pub(super) fn take_admin(&mut self, address: SocketAddr) -> Option<TcpListener> {
        self.admin.take_if(|(bind, _)| *bind == address).map(|(_, socket)| socket)
    }
}

/// Whether the kernel refuses to listen at both, because one of them is all addresses of the host.
pub(super) fn overlaps(one: &Bind, other: &Bind) -> bool {
    let is_all = |address: &SocketAddr| address.ip().is_unspecified();
    match (one, other) {
        (Bind::Tcp(one), Bind::Tcp(other)) => one.port() == other.port() && (is_all(one) || is_all(other)),
        _ => false,
    }
}
