//! The sessions that run: the [`registry`] knows all of them, and gives them orders through their [`control`]s;
//! [`cancel_keys`] finds the one that a cancel request names; the [`rebalancer`] moves some for the sake of balance.

pub mod cancel_keys;
pub mod control;
pub mod rebalancer;
pub mod registry;
