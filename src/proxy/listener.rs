//! Accepts the connections of one listener: on TCP ports and on the files of Unix sockets.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::Connection;
use super::context::ListenerContext;
use super::session;
use super::worker::Workers;
use crate::net::Bind;
use crate::net::listen::BoundListener;
use crate::telemetry::LineLimit;

/// How long accepting rests when the process has run out of file descriptors: sessions that end free some.
const BREATHER: Duration = Duration::from_millis(100);

/// Why a listener cannot listen.
#[derive(Debug)]
pub struct BindError {
    /// Where.
    pub address: Bind,
    /// The cause. See [`BoundListener::open`].
    pub error: io::Error,
}

/// A listener whose ports are open. Nothing is accepted before [`Listener::run`].
pub struct Listener {
    bound: Vec<BoundListener>,
    context: Arc<ListenerContext>,
}

impl Listener {
    /// Opens its ports, for so many threads to accept at each.
    ///
    /// Errors: the first place where it cannot listen. None of the others stays open then.
    pub fn bind(context: ListenerContext, threads: usize) -> Result<Listener, BindError> {
        let mut bound = Vec::new();
        for bind in context.settings.binds.iter() {
            let sockets = BoundListener::open(bind, context.tcp, threads);
            bound.extend(sockets.map_err(|error| BindError { address: bind.clone(), error })?);
        }
        Ok(Listener { bound, context: Arc::new(context) })
    }

    /// Accepts until `stop` says so; then the ports are closed. Accepting and the sessions have the workers' threads;
    /// sessions run on there.
    pub async fn run(self, workers: Arc<Workers>, stop: watch::Receiver<bool>) {
        let ListenerContext { index, settings, .. } = &*self.context;
        info!(listener = %settings.name, address = %settings.binds, "listening");
        let mut accepting = JoinSet::new();
        for (number, bound) in self.bound.into_iter().enumerate() {
            let thread = index.0 + number;
            let accepted = accept(bound, thread, Arc::clone(&self.context), Arc::clone(&workers), stop.clone());
            accepting.spawn_on(accepted, workers.runtime(thread));
        }
        accepting.join_all().await;
    }
}

/// Accepts on one thread.
async fn accept(
    bound: BoundListener,
    thread: usize,
    context: Arc<ListenerContext>,
    workers: Arc<Workers>,
    mut stop: watch::Receiver<bool>,
) {
    let listener = &context.settings.name;
    let socket = match bound.watch() {
        Ok(socket) => socket,
        Err(error) => return warn!(%listener, %error, "cannot listen"),
    };
    let mut lines = LineLimit::new(1);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let handed_on = accepted.and_then(|(socket, peer)| {
            let context = Arc::clone(&context);
            workers
                .spawn(thread, socket, |socket, load| session::serve(Connection::accepted(context, peer, load), socket))
        });
        if let Err(error) = handed_on {
            if let Some(suppressed) = lines.admit(Instant::now()) {
                let suppressed = (suppressed > 0).then_some(suppressed);
                warn!(%listener, %error, suppressed, "cannot accept a connection");
            }
            tokio::time::sleep(BREATHER).await;
        }
    }
}
