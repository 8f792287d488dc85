//! What is known of the nodes, and what follows from it. Pure: no clock, no socket, no runtime.
//!
//! In reading order: a server's [`host_port`]; a node's [`node::Report`] and the [`node::Observation`] that carries it; the three-valued
//! [`health`] of one node and its [`lag`]; [`corroboration`] for a node whose Patroni does not answer; its
//! [`admin_state`]; its [`ports`] as clients find them; the [`identity`] of the cluster; its [`leadership`]; the [`schedule`] of checks and the [`rate`] of unplanned ones; the [`machine`]
//! that uses all of these; and the [`topology`] that it publishes.

pub mod admin_state;
pub mod corroboration;
pub mod event;
pub mod health;
pub mod host_port;
pub mod identity;
pub mod lag;
pub mod leadership;
pub mod machine;
pub mod machine_settings;
mod members;
pub mod moment;
pub mod node;
mod node_state;
pub mod ports;
pub mod rate;
mod same_node;
pub mod schedule;
pub mod suspicion;
pub mod topology;

#[cfg(test)]
pub(crate) mod fixtures;

pub use admin_state::AdminState;
pub use host_port::HostPort;
pub use moment::Moment;
pub use node::{Member, NodeId, NodeSet};
pub use suspicion::Suspicion;
pub use topology::Topology;
