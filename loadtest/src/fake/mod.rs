//! A fake Patroni and a fake PostgreSQL: for faults that the real programs do not produce on demand, and for runs in
//! which a real cluster would only use CPU time.
//!
//! What the two say about one node need not agree. ([`crate::bench::backend`] is not a fake for tests: it is the other
//! end of a measurement, and makes nothing but the bytes that are measured.)

mod patroni;
mod postgres;

use tokio::task::JoinHandle;

pub use patroni::FakePatroni;
pub use postgres::{Behaviour, FakePostgres, LONG_ANSWER, MANY_ROWS, PAUSE, SHUTTING_DOWN, STARTING_UP, Seen};
pub use postgres::{TOO_MANY_CLIENTS, TOO_MANY_CLIENTS_TEXT, WRONG_PASSWORD};

/// Ends a task that accepts connections, and waits until its port is closed.
async fn end(accepting: &JoinHandle<()>) {
    accepting.abort();
    while !accepting.is_finished() {
        tokio::task::yield_now().await;
    }
}
