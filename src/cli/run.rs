//! `pgvane run`: the runtime, the signals, and the program between them.

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

/// Runs until SIGTERM or SIGINT. SIGHUP has certificates read anew.
pub(super) fn run(config: Config) -> ExitCode {
    memory::joins_small_pieces();
    let _log = match logging::start(&config.log) {
        Ok(guard) => guard,
        Err(why) => return failed(exit::USAGE, why),
    };
    match descriptors::raise_limit() {
        Ok(limit) => debug!(limit, "file descriptors"),
        Err(error) => warn!(%error, "cannot raise the limit of file descriptors"),
    }
    info!(version = env!("CARGO_PKG_VERSION"), "pgvane starts");
    // for all but the sessions, which have threads of their own
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(exit::FAILURE, format!("cannot start: {error}")),
    };
    runtime.block_on(async {
        let (stop, reread) = match stop_on_signals().and_then(|stop| Ok((stop, reread_on_signal()?))) {
            Ok(heard) => heard,
            Err(error) => return failed(exit::FAILURE, format!("cannot listen for signals: {error}")),
        };
        match App::build(config).await {
            Ok(app) => match app.run(stop, reread).await {
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

/// Comes true with the first SIGTERM or SIGINT, and changes again with each further one.
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
            info!(signal = name, "told to stop");
            sender.send_replace(true);
        }
    });
    Ok(receiver)
}

/// Changes with each SIGHUP.
fn reread_on_signal() -> std::io::Result<watch::Receiver<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!(signal = "SIGHUP", "told to read certificates anew");
            sender.send_replace(());
        }
    });
    Ok(receiver)
}
