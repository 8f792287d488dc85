//! The command line, and what its commands share.

pub(crate) mod bench;
pub(crate) mod carry;
pub(crate) mod demo;
pub(crate) mod failover;
mod side_by_side;
pub(crate) mod soak;

use std::future::Future;

use clap::{Parser, Subcommand};
use pgvane_loadtest::Result;
use tokio::signal::unix::{SignalKind, signal};

/// A real Patroni cluster on this machine, with pgvane in front of it.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Starts three nodes and pgvane on fixed ports, for you to try.
    Demo(demo::Options),
    /// Measures switchovers and crashes through pgvane, through HAProxy and without a proxy.
    Failover(failover::Options),
    /// Takes many sessions with state of their own through switchovers, and compares their states.
    Carry(carry::Options),
    /// Causes random faults in a cluster with pgvane in front of it, and checks after each what clients saw.
    Chaos(soak::Options),
    /// The same for hours, with further faults, clients of every kind, and pgvane on a host of its own. Needs root.
    Soak(soak::Options),
    /// Measures what pgvane, HAProxy and PgBouncer cost, with a server that only sends short answers.
    Bench(bench::Options),
}

/// Runs `work` until it ends, or until Ctrl-C, SIGTERM or SIGHUP: then drops it and returns `None`.
///
/// Dropping a lab ends all its processes, so nothing else has to be cleaned up.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    let handler = |kind| signal(kind).expect("this program runs in a runtime with signals");
    let (mut interrupt, mut terminate, mut hangup) =
        (handler(SignalKind::interrupt()), handler(SignalKind::terminate()), handler(SignalKind::hangup()));
    tokio::select! {
        done = work => done.map(Some),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
        _ = hangup.recv() => Ok(None),
    }
}
