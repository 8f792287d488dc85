//! The admin sockets: one that stays in the configuration stays open, and its clients see the newest configuration.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::warn;

use super::inherited::Inherited;
use crate::admin::{Served, runtime};
use crate::app::background::Background;
use crate::app::error::StartError;
use crate::config::AdminSocket;
use crate::net::Bind;
use crate::net::unix_listener::{self, SocketFile};

/// Connections that may wait to be accepted. A further one gets EAGAIN.
const BACKLOG: i32 = 128;

/// The sockets that are open.
#[derive(Default)]
pub(super) struct AdminSockets(Vec<Running>);

struct Running {
    /// The same socket, for another process.
    copy: Option<OwnedFd>,
    /// Removed when the task has ended too.
    file: Arc<SocketFile>,
    settings: watch::Sender<AdminSocket>,
    served: watch::Sender<Served>,
    task: AbortHandle,
}

/// A socket of a configuration that is about to be applied; without a listener if it is open already.
pub(super) struct OpenedSocket(AdminSocket, Option<(UnixListener, SocketFile)>);

impl AdminSockets {
    /// Whether connections are accepted from now on. If not, another process accepts them.
    pub(super) fn set_accepting(&self, is_accepting: bool) {
        for running in &self.0 {
            running.file.set_ours(is_accepting);
            running.served.send_modify(|served| served.set_accepting(is_accepting));
        }
    }

    /// Each with its path, for another process.
    pub(super) fn copies(&self) -> impl Iterator<Item = (PathBuf, &OwnedFd)> {
        self.0.iter().filter_map(|running| Some((running.settings.borrow().file.path.clone(), running.copy.as_ref()?)))
    }

    /// Opens the sockets that are not open and were not `inherited` from another process. Errors: one of them cannot be
    /// opened; then none of them stays open.
    pub(super) fn open(
        &self,
        wanted: &[AdminSocket],
        inherited: &mut Inherited,
    ) -> Result<Vec<OpenedSocket>, StartError> {
        let mut open = |socket: &AdminSocket| {
            if self.0.iter().any(|running| running.is_at(&socket.file.path)) {
                return Ok(OpenedSocket(socket.clone(), None));
            }
            let taken = inherited.take_admin_socket(&socket.file.path);
            let listening = taken.unwrap_or_else(|| unix_listener::listen(&socket.file, BACKLOG)).map_err(|error| {
                StartError::Bind {
                    owner: "[[admin.sockets]]".to_owned(),
                    address: Bind::Unix(socket.file.clone()),
                    error,
                }
            })?;
            Ok(OpenedSocket(socket.clone(), Some(listening)))
        };
        wanted.iter().map(&mut open).collect()
    }

    /// Makes them the running ones, and closes all others.
    pub(super) fn apply(
        &mut self,
        opened: Vec<OpenedSocket>,
        served: &Served,
        background: &mut Background,
        runtime: &Handle,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for OpenedSocket(socket, listening) in opened {
            let known = before.iter().position(|running| running.is_at(&socket.file.path));
            match (listening, known) {
                (Some((listener, file)), _) => {
                    let (settings, served) = (watch::Sender::new(socket), watch::Sender::new(served.clone()));
                    let copy = listener.as_fd().try_clone_to_owned().ok();
                    let file = Arc::new(file);
                    let kept = Arc::clone(&file);
                    let serving = runtime::serve(listener, settings.subscribe(), served.subscribe());
                    let task = async move {
                        let _file = kept; // removed when the task ends
                        serving.await;
                    };
                    let task = background.spawn_on("admin socket", task, runtime);
                    self.0.push(Running { copy, file, settings, served, task });
                }
                (None, Some(at)) => {
                    let running = before.swap_remove(at);
                    running.change(socket, served.clone());
                    self.0.push(running);
                }
                (None, None) => {} // it was open when it was looked for
            }
        }
        before.iter().for_each(|removed| removed.task.abort());
    }
}

impl Running {
    fn is_at(&self, path: &Path) -> bool {
        self.settings.borrow().file.path == path
    }

    fn change(&self, socket: AdminSocket, served: Served) {
        if self.settings.borrow().file != socket.file
            && let Err(error) = unix_listener::set_permissions(&socket.file)
        {
            warn!(path = %socket.file.path.display(), %error, "cannot change the permissions of the admin socket");
        }
        drop(self.settings.send_replace(socket));
        drop(self.served.send_replace(served));
    }
}
