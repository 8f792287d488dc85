//! The clients that wait for a node: who, since when, and why. For operators only; what counts them is the listener's tally.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::origin::Origin;
use super::owner::Owner;

/// The clients that wait, in the order in which they began to.
#[derive(Debug, Default)]
pub(super) struct WaitingClients(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    clients: BTreeMap<u64, WaitingClient>,
    next: u64,
}

/// A client that waits for a node.
#[derive(Debug, Clone)]
pub struct WaitingClient {
    /// Its listener and cluster.
    pub origin: Arc<Origin>,
    /// Address, user, database and application; the names are empty where encryption hides them.
    pub owner: Owner,
    /// When it began to wait.
    pub since: Instant,
    /// Why there is no node for it now.
    pub reason: String,
}

impl WaitingClients {
    /// Adds a client; returns its number.
    pub(super) fn add(&self, client: WaitingClient) -> u64 {
        let mut waiting = self.0.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.clients.insert(number, client);
        number
    }

    /// Says why it waits now.
    pub(super) fn set_reason(&self, number: u64, reason: String) {
        if let Some(client) = self.0.lock().clients.get_mut(&number) {
            client.reason = reason;
        }
    }

    /// It does not wait any more.
    pub(super) fn remove(&self, number: u64) {
        self.0.lock().clients.remove(&number);
    }

    /// Those that have waited longest, at most `max`, and the number of all.
    pub(super) fn list(&self, max: usize) -> (Vec<WaitingClient>, usize) {
        let clients = &self.0.lock().clients;
        (clients.values().take(max).cloned().collect(), clients.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterIndex, ListenerIndex};
    use crate::net::Peer;
    use crate::protocol::startup::StartupParameters;
    use crate::routing::{Rule, Target};

    #[test]
    fn those_that_wait_longest_come_first_with_their_newest_reason() {
        let waiting = WaitingClients::default();
        let origin = Origin::shared((ListenerIndex(0), "test"), ClusterIndex(0), Rule::new(Target::Any));
        let client = |user: &str| WaitingClient {
            origin: Arc::clone(&origin),
            owner: Owner::new(Peer::Unix, &StartupParameters::new(user, "", "")),
            since: Instant::now(),
            reason: "first".to_owned(),
        };
        let numbers = ["a", "b", "c"].map(|user| waiting.add(client(user)));
        waiting.set_reason(numbers[1], "second".to_owned());
        waiting.remove(numbers[0]);
        waiting.set_reason(numbers[0], "late".to_owned());
        let (listed, total) = waiting.list(1);
        assert_eq!((listed.len(), total), (1, 2));
        assert_eq!((listed[0].owner.names()[0], listed[0].reason.as_str()), ("b", "second"));
    }
}
