//! Reloads of the configuration: who asked for the last one, what it changed, or why it was refused.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::Gauge;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::telemetry::MetricRegistry;

/// Reloads that may wait. One that has not begun reads the newest file, so more are not needed.
const REQUESTS_MAX: usize = 4;

/// A request to reload.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Who asks.
    pub by: RequestedBy,
    /// Who waits for the outcome.
    pub answer: Option<oneshot::Sender<Result<Reload, Refused>>>,
}

/// Who asks for a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedBy {
    /// A signal to the process.
    Signal(&'static str),
    /// A user of the API.
    User {
        /// The name.
        name: String,
        /// Where the request came from.
        peer: SocketAddr,
    },
}

impl fmt::Display for RequestedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestedBy::Signal(name) => f.write_str(name),
            RequestedBy::User { name, peer } => write!(f, "user {name} from {}", peer.ip()),
        }
    }
}

/// A reload that was accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reload {
    /// When.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// What changed: the key, its value before and after.
    pub changes: Vec<String>,
    /// What differs in the file and takes effect with the next start only.
    pub needs_restart: Vec<String>,
    /// What the operator must know of the new configuration, as `pgvane check` says it.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A reload that was refused, so that nothing was changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefusedReload {
    /// When.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why it was refused.
    pub reason: String,
}

/// Why a reload was refused.
#[derive(Debug, Clone)]
pub enum Refused {
    /// The file cannot be read or has faults.
    Faulty(String),
    /// It is valid, and it cannot be used now: a port is in use.
    Unusable(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Faulty(why) | Refused::Unusable(why) => f.write_str(why),
        }
    }
}

/// The reloads of this process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadRecord {
    /// The last one that was accepted; `None` if the configuration is that of the start.
    pub accepted: Option<Reload>,
    /// The last one, if it was refused: then the file is not what is in use.
    pub refused: Option<RefusedReload>,
}

/// Asks for reloads, and remembers how they ended.
#[derive(Debug)]
pub struct Reloads {
    requests: mpsc::Sender<ReloadRequest>,
    record: Mutex<ReloadRecord>,
    gauges: Mutex<Option<[Gauge; 2]>>,
}

impl Reloads {
    /// No reload yet; and what receives the requests.
    pub fn new() -> (Arc<Reloads>, mpsc::Receiver<ReloadRequest>) {
        let (requests, received) = mpsc::channel(REQUESTS_MAX);
        (Arc::new(Reloads { requests, record: Mutex::default(), gauges: Mutex::default() }), received)
    }

    /// Counts them in these metrics. The start counts as the first one.
    pub fn count_in(&self, metrics: &MetricRegistry) {
        let successful = metrics.gauge(
            "pgvane_config_last_reload_successful",
            "1 if the last reload of the configuration was accepted, 0 if the file has a fault or cannot be used.",
            &[],
        );
        let time = metrics.gauge(
            "pgvane_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was loaded, in Unix time.",
            &[],
        );
        let gauges = [successful, time].map(|gauge| gauge.with_label_values(&[] as &[&str]));
        gauges[0].set(1.0);
        gauges[1].set(Timestamp::now().as_second() as f64);
        *self.gauges.lock() = Some(gauges);
    }

    /// Asks for a reload because of this signal, and does not wait for it.
    pub fn request(&self, signal: &'static str) {
        // full: one that has not begun yet reads the same file
        let _ = self.requests.try_send(ReloadRequest { by: RequestedBy::Signal(signal), answer: None });
    }

    /// Asks for a reload and waits for its outcome. `None` if pgvane is stopping. Cancelled, it goes on.
    pub async fn reload(&self, by: RequestedBy) -> Option<Result<Reload, Refused>> {
        let (answer, outcome) = oneshot::channel();
        self.requests.send(ReloadRequest { by, answer: Some(answer) }).await.ok()?;
        outcome.await.ok()
    }

    /// Notes how a reload ended.
    pub fn ended(&self, at: Timestamp, by: &str, outcome: &Result<Reload, Refused>) {
        let mut record = self.record.lock();
        match outcome {
            Ok(reload) => *record = ReloadRecord { accepted: Some(reload.clone()), refused: None },
            Err(why) => record.refused = Some(RefusedReload { at, by: by.to_owned(), reason: why.to_string() }),
        }
        if let Some([successful, time]) = &*self.gauges.lock() {
            successful.set(if outcome.is_ok() { 1.0 } else { 0.0 });
            if outcome.is_ok() {
                time.set(at.as_second() as f64);
            }
        }
    }

    /// How they ended so far.
    pub fn record(&self) -> ReloadRecord {
        self.record.lock().clone()
    }
}
