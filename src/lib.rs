//! pgvane points every PostgreSQL connection at the right node of a Patroni cluster.
//!
//! # The map
//!
//! Knowledge flows one way: [`probe`] asks the nodes; [`cluster`] concludes, purely, who they are and who leads, and
//! publishes a [`cluster::Topology`]. Connections flow the other way: [`proxy`] accepts them, [`routing`] decides,
//! purely, where each goes, [`protocol`] understands as much of PostgreSQL's language as that takes.
//!
//! [`config`] says what was asked for, [`net`] and [`tls`] are what connections are made of, [`telemetry`] makes logs and
//! metrics, [`admin`] shows them, [`app`] ties the parts together, [`cli`] is what the user types.
//!
//! Imports run down this line and never back, and no files import each other in a circle (`tests/it/layout.rs`):
//!
//! cli → app → admin → proxy → probe → telemetry → import → config → tls → net → routing → cluster → protocol
//!
//! `cluster`, `routing` and `protocol` are pure: no runtime, no sockets, no clock. `simulation` tests them.

pub mod admin;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod import;
pub mod net;
pub mod probe;
pub mod protocol;
pub mod proxy;
pub mod routing;
#[cfg(test)]
mod simulation;
pub mod telemetry;
pub mod tls;
