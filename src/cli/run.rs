//! `pgvane run`: starts the runtime and the program, and handles signals.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::exit::{self, failed};
use super::memory;
use crate::admin::reloads::Reloads;
use crate::admin::upgrades::Upgrades;
use crate::app::upgrade::new_process::OldProcess;
use crate::app::{App, ReadConfig, RunError};
use crate::config::Config;
use crate::net::descriptors;
use crate::telemetry::logging;

/// Runs until SIGTERM or SIGINT. SIGHUP reloads the configuration, which `read` reads again. SIGUSR2 starts the program again,
/// and lets the new process take over.
pub(super) fn run(config: Config, read: ReadConfig) -> ExitCode {
    memory::disable_fastbins();
    let _log = match logging::start(&config.log) {
        Ok(guard) => guard,
        Err(why) => return failed(exit::USAGE, why),
    };
    match descriptors::raise_limit() {
        Ok(limit) => debug!(limit, "file descriptors"),
        Err(error) => warn!(%error, "cannot raise the limit of file descriptors"),
    }
    info!(version = env!("CARGO_PKG_VERSION"), "pgvane starts");
    for warning in &config.file_warnings {
        warn!("{warning}");
    }
    // for everything but the sessions, which run on threads of their own
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(exit::FAILURE, format!("cannot start: {error}")),
    };
    runtime.block_on(async {
        let (reloads, requests) = Reloads::new();
        let (upgrades, upgrade_requests) = Upgrades::new();
        let asking = ask_on_signals(Arc::clone(&reloads), Arc::clone(&upgrades));
        let stop = match asking.and_then(|()| stop_on_signals()) {
            Ok(stop) => stop,
            Err(error) => return failed(exit::FAILURE, format!("cannot handle signals: {error}")),
        };
        let old_process = match OldProcess::greet().await {
            Ok(old_process) => old_process,
            Err(error) => return failed(exit::FAILURE, format!("cannot take over from the process before: {error}")),
        };
        match App::build(config, read, (reloads, requests), (upgrades, upgrade_requests), old_process) {
            Ok(app) => match app.run(stop).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(ended @ RunError::TaskEnded(_)) => {
                    error!("{ended}");
                    ExitCode::from(exit::SOFTWARE)
                }
                Err(error @ RunError::NotTakenOver(_)) => failed(exit::FAILURE, error),
            },
            Err(error) => failed(exit::FAILURE, error),
        }
    })
}

/// Becomes true with the first SIGTERM or SIGINT, and changes again with each further one.
fn stop_on_signals() -> std::io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "received a signal to stop");
            sender.send_replace(true);
        }
    });
    Ok(receiver)
}

/// Asks for a reload with each SIGHUP, and for an upgrade with each SIGUSR2.
fn ask_on_signals(reloads: Arc<Reloads>, upgrades: Arc<Upgrades>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user_defined = signal(SignalKind::user_defined2())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    info!(signal = "SIGHUP", "received a signal to reload the configuration");
                    reloads.request("SIGHUP");
                }
                _ = user_defined.recv() => {
                    info!(signal = "SIGUSR2", "received a signal to upgrade");
                    upgrades.request("SIGUSR2");
                }
            }
        }
    });
    Ok(())
}
