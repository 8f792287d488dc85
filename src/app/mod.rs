//! The running program: starts from a configuration, changes with it, runs until it is stopped, and drains.
//!
//! `parts` are what runs: clusters, listeners, places to accept at. They are made from nothing at the start, and from what
//! runs already at a reload, in two steps: `load` and `Parts::open` do what can fail and change nothing; `Parts::apply`
//! cannot fail. `reload` says how a reload goes, `background` are the tasks.
//! `service_manager` hears of all that. `upgrade` lets another process take over.

mod background;
mod error;
mod load;
mod parts;
mod reload;
mod service_manager;
pub mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::error::{RunError, StartError, TaskEnded};
use self::parts::{Opened, Parts};
use self::reload::Reloader;
pub use self::reload::{ReadConfig, ReadError};
use self::service_manager::ServiceManager;
use self::upgrade::new_process::OldProcess;
use self::upgrade::old_process::{self, Upgrader};
use self::upgrade::program::Program;
use crate::admin::reloads::{ReloadRequest, Reloads};
use crate::admin::upgrades::{UpgradeRequest, Upgrades};
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
    upgrade_requests: mpsc::Receiver<UpgradeRequest>,
    read: ReadConfig,
    /// The process that this one takes over from.
    old_process: Option<OldProcess>,
}

impl App {
    /// Opens all ports that `old_process` does not hand over. `read` reads the configuration again, for a reload; `reloads`
    /// asks for one, and `upgrades` for an upgrade. Must be called in a tokio runtime.
    pub fn build(
        config: Config,
        read: ReadConfig,
        (reloads, requests): (Arc<Reloads>, mpsc::Receiver<ReloadRequest>),
        (upgrades, upgrade_requests): (Arc<Upgrades>, mpsc::Receiver<UpgradeRequest>),
        mut old_process: Option<OldProcess>,
    ) -> Result<App, StartError> {
        let clock = old_process.as_ref().map_or(Duration::ZERO, |old| old.clock);
        let mut parts = Parts::none(config.threads, reloads, upgrades, clock)?;
        let loaded = parts.loader().load(config)?;
        let inherited = old_process.as_mut().map(|old| std::mem::take(&mut old.inherited));
        let opened = parts.open(loaded, &mut inherited.unwrap_or_default())?;
        parts.set_accepting(old_process.is_none());
        Ok(App { parts, opened, requests, upgrade_requests, read, old_process })
    }

    /// Runs until `stop` becomes true, then drains: accepts no new sessions, and waits up to `drain_timeout` for the
    /// running ones to end. A second change of `stop` ends the wait. Meanwhile it reloads its configuration when it is asked
    /// to.
    ///
    /// When it is asked to upgrade, it starts a new process, which takes over from it, and returns when that has its sessions.
    ///
    /// Errors: a background task ended; in normal operation none does. Without it pgvane would not check its nodes or not
    /// serve its stats page, so it ends its sessions and stops, and the service manager starts it again. Or it could not take
    /// over from the process before, which goes on.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), RunError> {
        let App { mut parts, opened, mut requests, mut upgrade_requests, read, old_process } = self;
        parts.watch_stop(stop.clone());
        parts.apply(opened).await;
        let manager = ServiceManager::from_environment();
        if let Some(old_process) = old_process {
            old_process.take_over(&mut parts).await.map_err(RunError::NotTakenOver)?;
        }
        parts.background.spawn("watchdog", manager.keep_alive(Arc::clone(&parts.workers)));
        manager.ready("connections are accepted");
        let (mut reloader, mut upgrader) = (Reloader::new(read), Upgrader::new(Program::of_this_process()));
        let signals = stop.clone();
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
                Some(request) = upgrade_requests.recv(), if !upgrader.is_busy() => upgrader.begin(request, &parts),
                (request, started) = upgrader.started() => {
                    if old_process::hand_over(&mut parts, request, started, &manager, signals.clone()).await {
                        end_sessions(parts.workers.sessions(), &parts.registry).await;
                        parts.end_handed_over().await;
                        return Ok(());
                    }
                }
            }
        };
        manager.stopping();
        parts.close_all().await;
        let drain_timeout = if ended.is_some() { Duration::ZERO } else { parts.config().drain_timeout };
        drain(parts.workers.sessions(), &parts.registry, drain_timeout, &mut stop).await;
        parts.background.shut_down().await;
        ended.map_or(Ok(()), |ended| Err(RunError::TaskEnded(ended)))
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
    end_sessions(sessions, registry).await;
    info!("stopped");
}

/// Ends the sessions that are left.
async fn end_sessions(sessions: &TaskTracker, registry: &Registry) {
    let left = registry.sessions();
    if left > 0 {
        let (clients, _) = describe(registry, |_| true);
        warn!(sessions = left, clients, "ending the remaining sessions");
        registry.stop();
        let _ = timeout_at(Instant::now() + STOP_GRACE, sessions.wait()).await;
    }
}
