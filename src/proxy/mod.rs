//! Connections, in the order in which one flows: [`listener`] accepts, [`workers`] run it, [`session`] is
//! its life and [`account`] what is noted of it; [`reception`] sees it to a node: [`arrival`] learns whom it comes from,
//! [`client`] reads the opening, and agrees on [`encryption`] where that is ours to do, with room among the [`openings`];
//! [`access`] and [`per_client`] say whether it may; [`admission`] routes, [`connect`]s and follows the [`login`];
//! [`relay`] moves the bytes; [`end`] says how it ended, [`end_kind`] in one word.
//!
//! [`desk`] is what a listener's sessions share; [`registry`] knows all sessions and gives them orders by their [`card`]s;
//! [`cancel`] finds the one that is meant, by its key among the [`keys`]; [`rebalancer`] moves some for the sake of
//! balance.

pub mod access;
pub mod account;
pub mod admission;
pub mod arrival;
pub mod cancel;
pub mod card;
pub mod client;
pub mod connect;
pub mod desk;
pub mod encryption;
pub mod end;
pub mod end_kind;
pub mod keys;
pub mod listener;
pub mod login;
pub mod metrics;
pub mod openings;
pub mod per_client;
pub mod rebalancer;
pub mod reception;
pub mod registry;
pub mod relay;
pub mod session;
pub mod workers;
