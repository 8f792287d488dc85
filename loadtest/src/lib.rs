//! A real Patroni cluster on loopback, proxies in front of it, and clients that measure what they see.
//!
//! In reading order:
//!
//! - [`lab`]: etcd, Patroni and PostgreSQL, with the faults a test can put them through
//! - [`pgvane`] and [`haproxy`]: the two proxies, each started in front of a lab's nodes
//! - [`pgbouncer`]: a pooler between a proxy and one node
//! - [`namespace`]: a network namespace for a proxy, which can be disconnected from single nodes
//! - [`machine`]: machines with systemd and a network of their own, on which a README can be followed
//! - [`name_server`]: names for the nodes, and a name server that fails on demand
//! - [`writer`], [`reader`] and [`crowd`]: clients that record every answer and every failure with its time
//! - [`libpq`]: clients that find the leader by libpq itself
//! - [`fake`]: a Patroni and a PostgreSQL that misbehave on demand
//! - [`mod@bench`]: what the proxies cost, with a server that only sends short answers
//! - [`scratch`], [`process`], [`ports`], [`wait`], [`messages`], [`http`], [`login`], [`tls`], [`programs`]: what all of them use
//!
//! Everything a lab starts runs inside its own temporary directory and ends with it, even if the test that made it
//! panics or is killed.

pub mod bench;
pub mod crowd;
pub mod error;
pub mod failure;
pub mod fake;
pub mod haproxy;
pub mod http;
pub mod lab;
pub mod libpq;
pub mod login;
pub mod machine;
pub mod messages;
pub mod name_server;
pub mod namespace;
pub mod pgbouncer;
pub mod pgvane;
pub mod ports;
pub mod process;
pub mod programs;
pub mod reader;
pub mod scratch;
pub mod tls;
pub mod wait;
pub mod writer;

pub use error::{Error, Result};
// Tests name its types; through here they get the version that the clients of this crate are made of.
pub use tokio_postgres;
