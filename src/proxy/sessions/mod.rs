//! The running sessions: the [`registry`] has all of them, each by its [`guard`]; [`orders`] reach them through their [`control`]s;
//! [`cancel_keys`] finds the session of a cancel request; the [`rebalancer`] moves sessions between nodes;
//! [`coverage_watch`] logs which replicas get no new sessions. [`slots`] hold what is counted by listener and cluster;
//! [`parking`] holds them between two transactions; [`examination`] asks for their state;
//! [`server_counts`] counts what happens on each node of a listener; [`waiting`] knows the clients that have no node yet.
//! [`carrying`] learns, and [`cluster_carrying`] knows, with what sessions can log in again, by [`role_keys`];
//! [`openings`] are kept of sessions that may have to log in again at another server;
//! [`moving`] is what goes along when a session moves to another process.

pub mod availability;
pub mod cancel_keys;
pub mod cancel_limits;
pub mod carry_totals;
pub mod carrying;
pub mod cluster_carrying;
pub mod cluster_parking;
pub mod control;
pub mod coverage_watch;
pub mod drain_watch;
pub mod examination;
pub mod guard;
pub mod moving;
pub mod openings;
pub mod orders;
pub mod origin;
pub mod owner;
pub mod pace;
mod park_state;
pub mod parking;
mod questions;
pub mod rebalancer;
pub mod registry;
pub mod role_keys;
pub mod server_counts;
pub mod server_times;
pub mod session_info;
pub mod slots;
pub mod tally;
pub mod waiting;
