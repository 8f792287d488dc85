//! The running program: starts from a configuration, changes with it, runs until it is stopped, and drains.
//!
//! `parts` are what runs: clusters, listeners, places to accept at. They are made from nothing at the start, and from what
//! runs already at a reload, in two steps: `load` and `Parts::open` do what can fail and change nothing; `Parts::apply`
//! cannot fail. `reload` says how a reload goes, `background` are the tasks.
//! `service_manager` hears of all that.

mod background;
mod error;
mod load;
mod parts;
mod reload;
mod service_manager;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::error::{StartError, TaskEnded};
use self::parts::{Opened, Parts};
use self::reload::Reloader;
pub use self::reload::{ReadConfig, ReadError};
use self::service_manager::ServiceManager;
use crate::admin::reloads::{ReloadRequest, Reloads};
use crate::config::Config;
use crate::proxy::sessions::drain_watch::describe;
use crate::proxy::sessions::registry::Registry;

/// How long sessions have to send their clients the final error message after the order to stop.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// The program with its ports open; it accepts no connections yet.
pub struct App {
    parts: Parts,
    opened: Opened,
    requests: mpsc::Receiver<ReloadRequest>,
    read: ReadConfig,
}

impl App {
    /// Opens all ports. `read` reads the configuration again, for a reload; `reloads` asks for one. Must be called in a tokio
    /// runtime.
    pub fn build(
        config: Config,
        read: ReadConfig,
        (reloads, requests): (Arc<Reloads>, mpsc::Receiver<ReloadRequest>),
    ) -> Result<App, StartError> {
        let parts = Parts::none(config.threads, reloads)?;
        let loaded = parts.loader().load(config)?;
        let opened = parts.open(loaded)?;
        Ok(App { parts, opened, requests, read })
    }

    /// Runs until `stop` becomes true, then drains: accepts no new sessions, and waits up to `drain_timeout` for the
    /// running ones to end. A second change of `stop` ends the wait. Meanwhile it reloads its configuration when it is asked
    /// to.
    ///
    /// Errors: a background task ended; in normal operation none does. Without it pgvane would not check its nodes or not
    /// serve its stats page, so it ends its sessions and stops, and the service manager starts it again.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), TaskEnded> {
        let App { mut parts, opened, mut requests, read } = self;
        parts.watch_stop(stop.clone());
        parts.apply(opened).await;
        let manager = ServiceManager::from_environment();
        parts.background.spawn("watchdog", manager.keep_alive(Arc::clone(&parts.workers)));
        manager.ready("connections are accepted");
        let mut reloader = Reloader::new(read);
        let ended = loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break None,
                ended = parts.background.any_ends() => break Some(ended),
                Some(request) = requests.recv(), if !reloader.is_busy() => {
                    manager.reloading();
                    reloader.begin(request, parts.loader());
                }
                loaded = reloader.loaded() => {
                    let outcome = parts.reload(loaded).await;
                    manager.ready(&outcome);
                }
            }
        };
        manager.stopping();
        parts.close_all().await;
        let drain_timeout = if ended.is_some() { Duration::ZERO } else { parts.config().drain_timeout };
        drain(parts.workers.sessions(), &parts.registry, drain_timeout, &mut stop).await;
        parts.background.shut_down().await;
        ended.map_or(Ok(()), Err)
    }
}

async fn drain(sessions: &TaskTracker, registry: &Registry, drain_timeout: Duration, stop: &mut watch::Receiver<bool>) {
    sessions.close();
    let running = registry.sessions();
    if running > 0 {
        info!(sessions = running, timeout_seconds = drain_timeout.as_secs_f64(), "draining");
    }
    stop.mark_unchanged();
    tokio::select! {
        _ = timeout_at(Instant::now() + drain_timeout, sessions.wait()) => {}
        _ = stop.changed() => info!("received a second stop signal: ending the drain now"),
    }
    let left = registry.sessions();
    if left > 0 {
        let (clients, _) = describe(registry, |_| true);
        warn!(sessions = left, clients, "ending the remaining sessions");
        registry.stop();
        let _ = timeout_at(Instant::now() + STOP_GRACE, sessions.wait()).await;
    }
    info!("stopped");
}
