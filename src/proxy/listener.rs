//! Accepts connections at one place, a TCP port or the file of a Unix socket, for the listener that has it now.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::connection::Connection;
use super::context::ListenerContext;
use super::session;
use super::worker::Workers;
use crate::net::dial::TcpOptions;
use crate::net::listen::{BoundListener, Listener as Listening};
use crate::net::unix_listener::set_permissions;
use crate::net::{Bind, Peer, Socket};
use crate::telemetry::LineLimit;

/// How long nothing is accepted when the process has run out of file descriptors: sessions that end free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a place that is about to be closed waits for the next of the connections that the kernel has taken already.
const QUEUED_WITHIN: Duration = Duration::from_millis(20);

/// How long it goes on with that while clients connect all the time.
const QUEUED_MAX: Duration = Duration::from_millis(200);

/// Why pgvane cannot listen at a place.
#[derive(Debug)]
pub struct BindError {
    /// Where.
    pub address: Bind,
    /// The cause. See [`BoundListener::open`].
    pub error: io::Error,
}

/// A place that is open. Nothing is accepted there before [`OpenPlace::accept`].
pub struct OpenPlace {
    bind: Bind,
    sockets: Vec<BoundListener>,
}

/// A place at which connections are accepted.
pub struct Place {
    bind: Bind,
    /// Dropping it closes the place.
    assigned: watch::Sender<Assigned>,
    accepting: JoinSet<()>,
    /// The same sockets, for another process.
    copies: Vec<OwnedFd>,
}

/// Who accepts at a place.
#[derive(Debug, Clone)]
struct Assigned {
    /// The listener that has it.
    context: Arc<ListenerContext>,
    /// Whether connections are accepted. If not, they wait in the kernel, and another process may accept them.
    is_accepting: bool,
}

impl OpenPlace {
    /// Opens a place at which this number of threads accepts; `beside_own` as in [`BoundListener::open`].
    ///
    /// Errors: it is in use, or pgvane may not listen there.
    pub fn open(bind: &Bind, options: TcpOptions, threads: usize, beside_own: bool) -> Result<OpenPlace, BindError> {
        let sockets = BoundListener::open(bind, options, threads, beside_own);
        let sockets = sockets.map_err(|error| BindError { address: bind.clone(), error })?;
        Ok(OpenPlace { bind: bind.clone(), sockets })
    }

    /// A place that another process has opened and handed over. Errors: its sockets cannot be used.
    pub fn inherited(bind: &Bind, sockets: Vec<OwnedFd>) -> Result<OpenPlace, BindError> {
        let sockets =
            sockets.into_iter().map(|socket| BoundListener::inherited(bind, socket)).collect::<io::Result<_>>();
        let sockets = sockets.map_err(|error| BindError { address: bind.clone(), error })?;
        Ok(OpenPlace { bind: bind.clone(), sockets })
    }

    /// Belongs to this listener from now on, and accepts if `is_accepting`. The workers' threads accept, and serve the
    /// sessions.
    pub fn accept(self, context: Arc<ListenerContext>, is_accepting: bool, workers: &Arc<Workers>) -> Place {
        let first = context.index.0;
        // without descriptors for copies nothing can be handed over, and all else works
        let copies = self.sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned()).collect::<io::Result<_>>();
        let assigned = watch::Sender::new(Assigned { context, is_accepting });
        let mut accepting = JoinSet::new();
        for (number, socket) in self.sockets.into_iter().enumerate() {
            let accepted = accept_in_turn(socket, first + number, assigned.subscribe(), Arc::clone(workers));
            accepting.spawn_on(accepted, workers.runtime(0));
        }
        Place { bind: self.bind, assigned, accepting, copies: copies.unwrap_or_default() }
    }
}

impl Place {
    /// Where it is.
    pub fn bind(&self) -> &Bind {
        &self.bind
    }

    /// The name of the listener that has it.
    pub fn listener(&self) -> String {
        self.assigned.borrow().context.settings.name.clone()
    }

    /// Its sockets, for another process.
    pub fn copies(&self) -> &[OwnedFd] {
        &self.copies
    }

    /// Whether connections are accepted from now on. If not, they wait in the kernel.
    pub fn set_accepting(&self, is_accepting: bool) {
        self.assigned.send_modify(|assigned| assigned.is_accepting = is_accepting);
    }

    /// Accepts for another listener, or for one whose settings have changed, from the next connection on. `bind` is the
    /// same place; the file of a Unix socket gets its new permissions.
    pub fn hand_to(&mut self, context: Arc<ListenerContext>, bind: &Bind) {
        if let (Some(unix), true) = (bind.unix(), self.bind != *bind)
            && let Err(error) = set_permissions(unix)
        {
            warn!(listener = %context.settings.name, address = %bind, %error, "cannot set the permissions of the socket");
        }
        self.bind = bind.clone();
        self.assigned.send_modify(|assigned| assigned.context = context);
    }

    /// Closes it. Connections that the kernel has taken already are still served, unless another process accepts here.
    pub async fn close(self) {
        drop((self.assigned, self.copies));
        self.accepting.join_all().await;
    }
}

/// Accepts on one of the threads in use, until the sender of `assigned` is dropped.
async fn accept_in_turn(
    mut socket: BoundListener,
    number: usize,
    assigned: watch::Receiver<Assigned>,
    workers: Arc<Workers>,
) {
    loop {
        let thread = number % (*workers.in_use().borrow()).max(1);
        let accepting = accept(socket, [number, thread], assigned.clone(), Arc::clone(&workers));
        match AbortOnDropHandle::new(workers.runtime(thread).spawn(accepting)).await {
            Ok(Some(back)) => socket = back,
            Ok(None) | Err(_) => return, // the place is closed, or the threads end
        }
    }
}

/// Accepts on this thread. Returns the socket if another thread should accept, as more or fewer are in use.
async fn accept(
    socket: BoundListener,
    [number, thread]: [usize; 2],
    mut assigned: watch::Receiver<Assigned>,
    workers: Arc<Workers>,
) -> Option<BoundListener> {
    let socket = match socket.watch() {
        Ok(socket) => socket,
        Err(error) => {
            warn!(listener = %assigned.borrow().context.settings.name, %error, "cannot listen");
            return None;
        }
    };
    let mut in_use = workers.in_use();
    let mut lines = LineLimit::new(1);
    let mut is_accepting = {
        let now = assigned.borrow_and_update();
        set_options(&socket, &now.context);
        now.is_accepting
    };
    socket.set_ours(is_accepting);
    loop {
        tokio::select! {
            accepted = socket.accept(), if is_accepting => {
                let context = Arc::clone(&assigned.borrow().context);
                if let Err(error) = serve(accepted, thread, &context, &workers) {
                    if let Some(suppressed) = lines.admit(Instant::now()) {
                        let suppressed = (suppressed > 0).then_some(suppressed);
                        warn!(listener = %context.settings.name, %error, suppressed, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            changed = assigned.changed() => match changed {
                Ok(()) => {
                    let now = assigned.borrow_and_update();
                    is_accepting = now.is_accepting;
                    socket.set_ours(is_accepting);
                    set_options(&socket, &now.context);
                }
                Err(_) => break,
            },
            () = turn_ends(&mut in_use, number, thread) => return socket.unwatch().ok(),
        }
    }
    if !is_accepting {
        return None; // another process does
    }
    let context = Arc::clone(&assigned.borrow().context);
    let until = Instant::now() + QUEUED_MAX;
    while let Ok(accepted) = timeout(QUEUED_WITHIN, socket.accept()).await {
        if serve(accepted, thread, &context, &workers).is_err() || Instant::now() >= until {
            break;
        }
    }
    None
}

/// Waits until the socket of this number should be served by another thread than this one. Cancel safe.
async fn turn_ends(in_use: &mut watch::Receiver<usize>, number: usize, thread: usize) {
    if in_use.wait_for(|in_use| number % in_use != thread).await.is_err() {
        std::future::pending::<()>().await; // the threads end, and this one with them
    }
}

fn set_options(socket: &Listening, context: &ListenerContext) {
    if let Err(error) = socket.set_options(context.tcp) {
        warn!(listener = %context.settings.name, %error, "cannot set tcp_keepalive and tcp_user_timeout");
    }
}

fn serve(
    accepted: io::Result<(Socket, Peer)>,
    thread: usize,
    context: &Arc<ListenerContext>,
    workers: &Workers,
) -> io::Result<()> {
    let (socket, peer) = accepted?;
    let context = Arc::clone(context);
    workers.spawn(thread, socket, |socket, load| session::serve(Connection::accepted(context, peer, load), socket))
}
