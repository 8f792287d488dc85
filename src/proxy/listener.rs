//! Accepts connections on one port, or on the file of a Unix socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::desk::Desk;
use super::door::Door;
use super::session;
use super::workers::Workers;

/// How long accepting rests when the process has run out of file descriptors: sessions that end free some.
const BREATHER: Duration = Duration::from_millis(100);

/// A port that is open. Nothing is accepted before [`Listener::run`].
pub struct Listener {
    door: Door,
    desk: Arc<Desk>,
}

impl Listener {
    /// Opens the port. Errors: see [`Door::open`].
    pub fn bind(desk: Desk) -> io::Result<Listener> {
        Ok(Listener { door: Door::open(&desk.settings.bind, desk.tcp)?, desk: Arc::new(desk) })
    }

    /// Its number among the listeners.
    pub fn index(&self) -> usize {
        self.desk.index
    }

    /// Accepts until `stop` says so; then the port is closed. To be run on the [`Workers::runtime`] of its number;
    /// sessions run on, there and on the other threads.
    pub async fn run(self, workers: Arc<Workers>, mut stop: watch::Receiver<bool>) {
        let Desk { index, settings, .. } = &*self.desk;
        let door = match self.door.watch() {
            Ok(door) => door,
            Err(error) => return warn!(listener = %settings.name, %error, "cannot listen"),
        };
        info!(listener = %settings.name, address = %settings.bind, "listening");
        loop {
            let accepted = tokio::select! {
                accepted = door.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let handed_on = accepted.and_then(|(socket, peer)| {
                let desk = Arc::clone(&self.desk);
                workers.spawn(*index, socket, move |socket| session::serve(desk, socket, peer))
            });
            if let Err(error) = handed_on {
                warn!(listener = %settings.name, %error, "cannot accept a connection");
                tokio::time::sleep(BREATHER).await;
            }
        }
    }
}
