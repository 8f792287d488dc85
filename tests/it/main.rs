//! The integration tests, in one program: pgvane as users run it, from its binary.
//!
//! - [`cluster`]: before a real PostgreSQL cluster, through switchovers, crashes and freezes
//! - [`sql`]: roles learnt from PostgreSQL itself, alone or beside Patroni
//! - [`faults`]: before fakes, for what a real cluster does not do on demand
//! - [`cancels`]: which node a cancel request goes to, and which go nowhere
//! - [`clients`]: clients of every kind before servers of two versions
//! - [`operators`]: nodes taken out of service, and who may do that
//! - [`command_line`]: what users type, and the exit codes that answer
//! - [`purity`]: the parts of the source that must know nothing of sockets and clocks
//! - [`stage`], [`fake`], [`wire`], [`metrics`]: what the others stand on

mod cancels;
mod clients;
mod cluster;
mod command_line;
mod fake;
mod faults;
mod metrics;
mod operators;
mod purity;
mod sql;
mod stage;
mod wire;
