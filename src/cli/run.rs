//! `pgvane run`: starts the runtime and the program, and handles signals.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::exit::{self, failed};
use super::memory;
use crate::app::App;
use crate::config::Config;
use crate::net::descriptors;
use crate::telemetry::logging;

/// Runs until SIGTERM or SIGINT. SIGHUP reloads certificates.
pub(super) fn run(config: Config) -> ExitCode {
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
        let (stop, reload) = match stop_on_signals().and_then(|stop| Ok((stop, reload_on_signal()?))) {
            Ok(receivers) => receivers,
            Err(error) => return failed(exit::FAILURE, format!("cannot handle signals: {error}")),
        };
        match App::build(config).await {
            Ok(app) => match app.run(stop, reload).await {
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

/// Changes with each SIGHUP.
fn reload_on_signal() -> std::io::Result<watch::Receiver<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!(signal = "SIGHUP", "received a signal to reload certificates");
            sender.send_replace(());
        }
    });
    Ok(receiver)
}
