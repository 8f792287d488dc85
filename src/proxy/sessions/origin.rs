//! Where a session comes from: its listener, with the cluster and the rule that the listener had when it accepted it. One
//! for all sessions of a listener between two reloads, because there may be thousands of sessions.

use std::sync::Arc;

use crate::config::{ClusterIndex, ListenerIndex};
use crate::routing::Rule;

/// What the sessions have in common that a listener accepts between two reloads.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    /// The listener's number.
    pub listener: ListenerIndex,
    /// The listener's name.
    pub listener_name: String,
    /// The cluster's number.
    pub cluster: ClusterIndex,
    /// The rule by which the nodes are chosen. A reload that changes the listener's rule leaves running sessions alone.
    pub rule: Rule,
}

impl Origin {
    /// For sessions to share.
    pub fn shared(listener: (ListenerIndex, &str), cluster: ClusterIndex, rule: Rule) -> Arc<Origin> {
        let (listener, name) = listener;
        Arc::new(Origin { listener, listener_name: name.to_owned(), cluster, rule })
    }

    /// Of a listener of the first cluster, for tests.
    #[cfg(test)]
    pub(super) fn of_listener(number: usize) -> Arc<Origin> {
        Origin::shared((ListenerIndex(number), "test"), ClusterIndex(0), Rule::new(crate::routing::Target::Any))
    }
}
