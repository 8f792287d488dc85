//! A reload: read the configuration again, load its files, compare, open its ports, and only then apply it. One at a time.

use std::future::pending;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{error, info, warn};

use super::error::StartError;
use super::load::{Loaded, Loader};
use super::parts::Parts;
use super::parts::inherited::Inherited;
use crate::admin::reloads::{Refused, Reload, ReloadRequest};
use crate::config::diff::{self, Difference};
use crate::config::{Config, Faults};
use crate::proxy::intake::tls;
use crate::telemetry::logging;

/// Reads the configuration from where it came at the start.
pub type ReadConfig = Arc<dyn Fn() -> Result<Config, ReadError> + Send + Sync>;

/// Why the configuration could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be read; with its name and the cause.
    File(String),
    /// The file has faults.
    Faults(Faults),
}

/// Runs at most one reload.
pub(super) struct Reloader {
    read: ReadConfig,
    running: Option<(ReloadRequest, JoinHandle<Result<Loaded, Refused>>)>,
}

/// A configuration that has been loaded, or why it could not be, for who asked for it.
pub(super) struct Outcome {
    request: ReloadRequest,
    loaded: Result<Loaded, Refused>,
}

impl Reloader {
    pub(super) fn new(read: ReadConfig) -> Reloader {
        Reloader { read, running: None }
    }

    /// Whether a reload is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to read and load; on another thread, because a disk can be slow.
    pub(super) fn begin(&mut self, request: ReloadRequest, loader: Loader) {
        info!(by = request.by.to_string(), "reloading the configuration");
        let read = Arc::clone(&self.read);
        let running = spawn_blocking(move || {
            let config = read().map_err(refused_by_file)?;
            loader.load(config).map_err(|error| Refused::Unusable(error.to_string()))
        });
        self.running = Some((request, running));
    }

    /// Waits until the reload that is on its way has loaded everything; forever if there is none. Cancel safe.
    pub(super) async fn loaded(&mut self) -> Outcome {
        let loaded = match &mut self.running {
            Some((_, running)) => match running.await {
                Ok(loaded) => loaded,
                Err(error) => Err(Refused::Unusable(format!("reading the configuration failed: {error}"))),
            },
            None => return pending().await,
        };
        match self.running.take() {
            Some((request, _)) => Outcome { request, loaded },
            None => pending().await, // it was there a line above
        }
    }
}

fn refused_by_file(error: ReadError) -> Refused {
    match error {
        ReadError::File(why) => Refused::Faulty(why),
        ReadError::Faults(faults) => Refused::Faulty(faults.to_string()),
    }
}

impl Parts {
    /// Ends a reload: applies what was loaded, or says why not. Returns how it ended, for people.
    pub(super) async fn reload(&mut self, outcome: Outcome) -> String {
        let Outcome { request, loaded } = outcome;
        let (by, now) = (request.by.to_string(), Timestamp::now());
        let at = Timestamp::from_second(now.as_second()).unwrap_or(now); // whole seconds are easier to read
        let applied = match loaded {
            Ok(loaded) => self.take_over(loaded).await,
            Err(refused) => Err(refused),
        };
        let reload = match applied {
            Ok(differences) => {
                let told = |needs_restart: bool| {
                    let those = differences.iter().filter(move |one| one.needs_restart() == needs_restart);
                    those.map(ToString::to_string).collect::<Vec<String>>()
                };
                let (changes, needs_restart) = (told(false), told(true));
                changes.iter().for_each(|change| info!(change, "configuration changed"));
                for change in &needs_restart {
                    warn!(change, "this change takes effect when pgvane is started again");
                }
                let warnings = self.config().warnings();
                for warning in &self.config().file_warnings {
                    warn!("{warning}");
                }
                info!(by, changes = changes.len(), "configuration reloaded");
                Ok(Reload { at, by: by.clone(), changes, needs_restart, warnings })
            }
            Err(refused) => {
                let reason = refused.to_string();
                error!(by, reason, "the new configuration was not accepted; nothing was changed");
                Err(refused)
            }
        };
        self.reloads.ended(at, &by, &reload);
        self.operators.reloaded(&request.by, &reload);
        let told = match &reload {
            Ok(reload) => format!("connections are accepted; configuration of {}", reload.at),
            Err(why) => format!("connections are accepted; the configuration of {at} was not accepted: {why}"),
        };
        if let Some(answer) = request.answer {
            let _ = answer.send(reload); // who asked may have gone
        }
        told
    }

    async fn take_over(&mut self, mut loaded: Loaded) -> Result<Vec<Difference>, Refused> {
        let before = Arc::clone(self.config());
        let differences = diff::between(&before, &loaded.config);
        loaded.config.threads = before.threads;
        loaded.config.log.is_json = before.log.is_json;
        self.places_are_closed().await; // a removed port may come back
        let opened = self
            .open(loaded, &mut Inherited::default())
            .map_err(|error: StartError| Refused::Unusable(error.to_string()))?;
        self.apply(opened).await;
        tls::check_all(self.encryptions_in_use(), true).await;
        let log = &self.config().log;
        if before.log.level != log.level && !logging::set_level(log) {
            warn!(variable = logging::LEVEL_VARIABLE, "log.level has no effect: this environment variable is set");
        }
        Ok(differences)
    }
}
