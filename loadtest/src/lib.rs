//! A real Patroni cluster on loopback, proxies in front of it, and clients that measure what they see.
//!
//! In reading order:
//!
//! - [`lab`]: etcd, Patroni and PostgreSQL, with the faults a test can put them through
//! - [`pgvane`] and [`haproxy`]: the two proxies, each started in front of a lab's nodes
//! - [`writer`], [`reader`] and [`crowd`]: clients that note every answer and every failure with its time
//! - [`bench`](mod@bench): what the proxies cost, on a server that does nothing
//! - [`scratch`], [`process`], [`ports`], [`wait`], [`http`], [`login`], [`programs`]: what all of that stands on
//!
//! Everything a lab starts runs inside its own temporary directory and ends with it, even if the test that made it
//! panics or is killed.

pub mod bench;
pub mod crowd;
pub mod error;
pub mod failure;
pub mod haproxy;
pub mod http;
pub mod lab;
pub mod login;
pub mod pgvane;
pub mod ports;
pub mod process;
pub mod programs;
pub mod reader;
pub mod scratch;
pub mod wait;
pub mod writer;

pub use error::{Error, Result};
