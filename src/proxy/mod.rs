//! Connections, in the order in which one flows: [`listener`] accepts, [`worker`] runs it, [`session`] is its life;
//! [`connection`] sees it through [`intake`] and [`admission`], or hands it to [`cancel`]; [`relay`] moves the bytes;
//! [`end`] says how it ended, `client_message` tells the client, [`metrics`] counts. [`context`] is what a listener's
//! connections share; [`sessions`] knows all that run. Imports run down this line and never back:
//!
//! listener → session → connection → cancel → admission → relay → permit → context → worker → sessions → intake → metrics → log_limit → client_message → end → byte_counters

pub mod admission;
pub mod byte_counters;
pub mod cancel;
mod client_message;
pub mod connection;
pub mod context;
pub mod end;
pub mod intake;
pub mod listener;
mod log_limit;
pub mod metrics;
pub mod permit;
pub mod relay;
pub mod session;
pub mod sessions;
pub mod worker;
