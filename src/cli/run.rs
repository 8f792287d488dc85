//! `pgvane run`: starts the runtime and the program, and handles signals.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::exit::{self, failed};
use super::memory;
use crate::admin::reloads::Reloads;
use crate::app::{App, ReadConfig};
use crate::config::Config;
use crate::net::descriptors;
use crate::telemetry::logging;

/// Runs until SIGTERM or SIGINT. SIGHUP reloads the configuration, which `read` reads again.
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
        let reloading = reload_on_signal(Arc::clone(&reloads));
        let stop = match reloading.and_then(|()| stop_on_signals()) {
            Ok(stop) => stop,
            Err(error) => return failed(exit::FAILURE, format!("cannot handle signals: {error}")),
        };
        match App::build(config, read, (reloads, requests)) {
            Ok(app) => match app.run(stop).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(ended) => {
                    error!("{ended}");
                    ExitCode::from(exit::SOFTWARE)
                }
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

/// Asks for a reload with each SIGHUP.
fn reload_on_signal(reloads: Arc<Reloads>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!(signal = "SIGHUP", "received a signal to reload the configuration");
            reloads.request("SIGHUP");
        }
    });
    Ok(())
}
