//! Upgrades: another process, perhaps of a newer version, takes over the ports and the sessions of this one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

/// Upgrades that may wait: one at a time.
const REQUESTS_MAX: usize = 1;

/// A request to upgrade.
#[derive(Debug)]
pub struct UpgradeRequest {
    /// Who asks, for the log.
    pub by: String,
    /// Who waits for the outcome; the error says why nothing was changed.
    pub answer: Option<oneshot::Sender<Result<Upgrade, String>>>,
}

/// The new process has taken over the ports, and gets the sessions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upgrade {
    /// The number of the new process.
    pub process: u32,
    /// Its version.
    pub version: String,
    /// The version of the old process.
    pub version_before: String,
    /// Sessions that the old process had at that moment.
    pub sessions: usize,
    /// Whether sessions can move to the new process. If not, the old process serves them until they end, at most for
    /// `drain_timeout`.
    pub can_move_sessions: bool,
}

/// The process that this one has taken over from, while it still has sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its version.
    pub version: String,
    /// Its sessions.
    pub sessions: usize,
}

/// Asks for upgrades, and knows what is left of the last one.
#[derive(Debug)]
pub struct Upgrades {
    requests: mpsc::Sender<UpgradeRequest>,
    predecessor: watch::Sender<Option<Predecessor>>,
}

impl Upgrades {
    /// No upgrade yet; and what receives the requests.
    pub fn new() -> (Arc<Upgrades>, mpsc::Receiver<UpgradeRequest>) {
        let (requests, received) = mpsc::channel(REQUESTS_MAX);
        (Arc::new(Upgrades { requests, predecessor: watch::Sender::new(None) }), received)
    }

    /// Asks for an upgrade and does not wait for it.
    pub fn request(&self, by: &str) {
        // full: one is about to begin
        let _ = self.requests.try_send(UpgradeRequest { by: by.to_owned(), answer: None });
    }

    /// Asks for an upgrade and waits until the new process accepts connections, or has failed. `None` if pgvane is stopping.
    /// Cancelled, it goes on.
    pub async fn upgrade(&self, by: String) -> Option<Result<Upgrade, String>> {
        let (answer, outcome) = oneshot::channel();
        self.requests.send(UpgradeRequest { by, answer: Some(answer) }).await.ok()?;
        outcome.await.ok()
    }

    /// Notes what the process before this one still has; `None` once it has ended.
    pub fn note_predecessor(&self, predecessor: Option<Predecessor>) {
        self.predecessor.send_replace(predecessor);
    }

    /// The process before this one, if it still runs.
    pub fn predecessor(&self) -> Option<Predecessor> {
        self.predecessor.borrow().clone()
    }

    /// Waits until the process before this one has ended. Cancel safe.
    pub async fn predecessor_ended(&self) {
        let _ = self.predecessor.subscribe().wait_for(Option::is_none).await; // the sender is here
    }
}
