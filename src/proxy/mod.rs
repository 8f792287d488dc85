//! Connections, in the order in which one flows: [`listener`] accepts, [`worker`] runs it, [`session`] is its life and
//! [`account`] what is noted of it; [`reception`] sees it through [`intake`] and [`admission`], or hands it to [`cancel`];
//! [`relay`] moves the bytes; [`end`] says how it ended, [`metrics`] counts. [`context`] is what a listener's sessions
//! share; [`sessions`] knows all of them. Imports run down this line and never back:
//!
//! listener → session → reception → account → cancel → admission → relay → context → worker → sessions → intake → metrics → end_kind → end → byte_counters

pub mod account;
pub mod admission;
pub mod byte_counters;
pub mod cancel;
pub mod context;
pub mod end;
pub mod end_kind;
pub mod intake;
pub mod listener;
pub mod metrics;
pub mod reception;
pub mod relay;
pub mod session;
pub mod sessions;
pub mod worker;
