//! Where a new session goes: a pure function of the topology, the listener's rule and the load.
//!
//! In reading order: a listener's [`Rule`]; whether a node is eligible (`eligibility`); the eligible nodes, best first
//! (`pools`); the choice among equals ([`Balance`]); [`route()`], which uses all of these; what operators have to know of
//! the result ([`Coverage`], [`ServerState`]); when running sessions are moved ([`Rebalance`]); and when they are held between
//! two transactions ([`Park`]).

mod balance;
mod coverage;
mod eligibility;
#[cfg(test)]
mod fixtures;
mod park;
mod pools;
mod rebalance;
mod route;
mod rule;
mod server_state;

pub use balance::{Balance, Choice};
pub use coverage::{Coverage, Excluded};
pub use eligibility::why_on_wrong_node;
pub use park::carry::{Attempted, Carry, CarryEnd, CarryStep, ParkView};
pub use park::session::{SessionPark, SessionParkEvent};
pub use park::successor::successor;
pub use park::{Park, ParkAction, ParkEvent, ParkOver, ParkSettings, Parking};
pub use rebalance::{NodeLoad, Phase, Rebalance};
pub use route::{NoRoute, Situation, route};
pub use rule::{Cause, Reaction, Reactions, Rule, Target};
pub use server_state::{ServerState, has_server, server_state};
