//! The admin port: its socket stays open while its address stays, and its requests see the newest configuration.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::admin::{self, Served};
use crate::app::background::Background;
use crate::app::error::StartError;
use crate::config::Admin;

/// The running admin port.
pub(super) struct AdminPort {
    bind: SocketAddr,
    served: watch::Sender<Served>,
    task: AbortHandle,
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
    /// Opens the port if it is not open. Errors: it cannot be opened.
    pub(super) fn open(running: Option<&AdminPort>, wanted: Option<&Admin>) -> Result<OpenedAdmin, StartError> {
        let Some(address) = wanted.map(|admin| admin.bind) else { return Ok(OpenedAdmin::None) };
        if running.is_some_and(|running| running.bind == address) {
            return Ok(OpenedAdmin::Kept);
        }
        match listen(address) {
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
                let task = background.spawn_on("stats page", admin::serve(socket, served), runtime);
                *running = Some(AdminPort { bind, served: sender, task });
                before.iter().for_each(|before| before.task.abort());
            }
            (OpenedAdmin::None | OpenedAdmin::Kept, before) => before.iter().for_each(|before| before.task.abort()),
        }
    }
}

/// Listens, for a runtime to watch.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
