//! The integration tests, in one program: pgvane as users run it, from its binary.
//!
//! - [`cluster`]: before a real PostgreSQL cluster, through switchovers, crashes and freezes
//! - [`sql`]: roles learnt from PostgreSQL itself, alone or beside Patroni
//! - [`faults`]: before fakes, for what a real cluster does not do on demand
//! - [`tls`]: encryption that ends at pgvane, on either side
//! - [`command_line`]: what users type, and the exit codes that answer
//! - [`purity`]: the parts of the source that must know nothing of sockets and clocks
//! - [`stage`], [`fake`], [`wire`], [`metrics`], [`certificates`]: what the others stand on

mod certificates;
mod cluster;
mod command_line;
mod fake;
mod faults;
mod metrics;
mod purity;
mod sql;
mod stage;
mod tls;
mod wire;
