//! The settings of the [`machine`](super::machine): a part of the configuration.

use std::time::Duration;

use super::health::Thresholds;

/// The settings of the machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time between checks of a node in normal operation.
    pub interval: Duration,
    /// Time between checks while there is no leader, or just after a change.
    pub fast_interval: Duration,
    /// How long a leader's last answer is valid.
    pub leader_grace: Duration,
    /// The number of checks until a node counts as silent, or as answering again.
    pub thresholds: Thresholds,
    /// The cluster's Patroni scope, if the operator has named it. Nodes of another scope are refused.
    pub scope: Option<String>,
    /// Spreads checks over time. Any number.
    pub seed: u64,
}
