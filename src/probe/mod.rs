//! Checks of the nodes, and the task that passes their results to a cluster's state machine.

pub mod checker;
pub mod clock;
pub mod discovery;
pub mod handle;
pub mod history;
pub mod metrics;
pub mod monitor;
pub mod node_records;
pub mod node_sessions;
pub mod patroni;
pub mod reconfigure;
pub mod rest_client;
pub mod rest_error;
pub mod sql;
pub mod switchover;

pub use handle::ClusterHandle;
pub use monitor::Monitor;
pub use node_sessions::{NodeCounts, NodeSessions};
pub use reconfigure::ClusterChange;
