//! The admin port: its socket stays open while its address stays, and its requests see the newest configuration.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::inherited::Inherited;
use crate::admin::{self, Served};
use crate::app::background::Background;
use crate::app::error::StartError;
use crate::config::Admin;

/// The running admin port.
pub(super) struct AdminPort {
    bind: SocketAddr,
    served: watch::Sender<Served>,
    task: AbortHandle,
    /// The same socket, for another process.
    copy: Option<OwnedFd>,
    connections: TaskTracker,
}

/// The admin port of a configuration that is about to be applied.
pub(super) enum OpenedAdmin {
    /// There is none.
    None,
    /// It is the one that runs.
    Kept,
    New(SocketAddr, TcpListener),
}

impl AdminPort {
    /// Opens the port if it is not open and was not `inherited` from another process. Errors: it cannot be opened.
    pub(super) fn open(
        running: Option<&AdminPort>,
        wanted: Option<&Admin>,
        inherited: &mut Inherited,
    ) -> Result<OpenedAdmin, StartError> {
        let Some(address) = wanted.map(|admin| admin.bind) else { return Ok(OpenedAdmin::None) };
        if running.is_some_and(|running| running.bind == address) {
            return Ok(OpenedAdmin::Kept);
        }
        match inherited.take_admin(address).map_or_else(|| listen(address), Ok) {
            Ok(socket) => Ok(OpenedAdmin::New(address, socket)),
            Err(error) => Err(StartError::Bind { owner: "[admin]".to_owned(), address: address.into(), error }),
        }
    }

    /// Makes it the running one.
    pub(super) fn apply(
        running: &mut Option<AdminPort>,
        opened: OpenedAdmin,
        served: Served,
        background: &mut Background,
        runtime: &Handle,
    ) {
        let before = running.take();
        match (opened, before) {
            (OpenedAdmin::Kept, Some(port)) => {
                drop(port.served.send_replace(served));
                *running = Some(port);
            }
            (OpenedAdmin::New(bind, socket), before) => {
                let (sender, served) = watch::channel(served);
                let (copy, connections) = (socket.as_fd().try_clone_to_owned().ok(), TaskTracker::new());
                let task =
                    background.spawn_on("stats page", admin::serve(socket, served, connections.clone()), runtime);
                *running = Some(AdminPort { bind, served: sender, task, copy, connections });
                before.iter().for_each(|before| before.task.abort());
            }
            (OpenedAdmin::None | OpenedAdmin::Kept, before) => before.iter().for_each(|before| before.task.abort()),
        }
    }
}

impl AdminPort {
    /// Whether connections are accepted from now on. If not, another process accepts them.
    pub(super) fn set_accepting(&self, is_accepting: bool) {
        self.served.send_modify(|served| served.set_accepting(is_accepting));
    }

    /// Its address in the configuration, and its socket for another process.
    pub(super) fn copy(&self) -> Option<(SocketAddr, &OwnedFd)> {
        Some((self.bind, self.copy.as_ref()?))
    }

    /// The connections that run.
    pub(super) fn connections(&self) -> &TaskTracker {
        &self.connections
    }
}

/// Listens, for a runtime to watch.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
