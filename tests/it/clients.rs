//! Real clients of every kind, through both ports, before real servers of two versions.
//!
//! What a client does is in a script beside this file, `clients/*_checks.*`, which runs all its checks and prints which
//! of them passed.
//!
//! - [`cancelling`]: a hundred cancels of a hundred reach their query, and no other
//! - [`refusals`]: what people and programs are told when they get no session, or lose one
//! - [`replication`]: backups, WAL and changes, streamed through the write port
//! - [`program`]: how the programs are started

mod cancelling;
pub mod program;
mod refusals;
mod replication;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use pgvane_loadtest::programs::Postgresql;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::program::{Encryption, Program, Visit};
use crate::stage::{pgvane_before, sound_cluster_of};

/// As many clients at once as keep two cores busy.
const AT_ONCE: usize = 3;

/// What every client does, through whichever port.
const EVERYWHERE: [&str; 7] = ["connect", "query", "prepared", "copy-out", "large", "error", "cancel"];

/// What a replica does not take.
const WRITE_PORT_ONLY: [&str; 2] = ["copy-in", "listen-notify"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_does_everything_through_both_ports_before_the_packaged_postgresql() {
    every_client_does_everything_through_both_ports(Postgresql::Packaged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_does_everything_through_both_ports_before_postgresql_18() {
    every_client_does_everything_through_both_ports(Postgresql::Eighteen).await;
}

async fn every_client_does_everything_through_both_ports(server: Postgresql) {
    let lab = sound_cluster_of(server).await;
    let started = Instant::now();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    let mut pgvanes = Vec::new();
    for encryption in Encryption::ALL {
        let pgvane = pgvane_before(&lab, |pgvane| encryption.configure(&lab, pgvane)).await;
        for (port, address) in [("write", pgvane.write_addr), ("read", pgvane.read_addr)] {
            for program in Program::ALL {
                let visit = Visit { address, encryption, directory: lab.directory().to_owned() };
                let turns = Arc::clone(&turns);
                running.spawn(async move {
                    let _turn = turns.acquire().await;
                    let outcome = program.run_checks(port, server, &visit).await;
                    let missed = outcome.map(|passed| missed(port, program, encryption, &passed));
                    (format!("{program:?} {encryption:?} {port}"), missed)
                });
            }
        }
        pgvanes.push(pgvane);
    }
    let mut failures = Vec::new();
    while let Some(done) = running.join_next().await {
        match done.expect("no panic") {
            (_, Ok(missed)) if missed.is_empty() => {}
            (who, Ok(missed)) => failures.push(format!("{who} did not try {missed:?}")),
            (who, Err(told)) => failures.push(format!("{who}:\n{told}")),
        }
    }
    println!("clients of every kind before {server:?}: {:?}", started.elapsed()); // seen with --nocapture
    assert!(failures.is_empty(), "before {server:?}:\n{}", failures.join("\n"));
}

/// What the client should have done and has not.
fn missed<'a>(port: &str, program: Program, encryption: Encryption, passed: &[String]) -> BTreeSet<&'a str> {
    let mut wanted = BTreeSet::from(EVERYWHERE);
    if port == "write" {
        wanted.extend(WRITE_PORT_ONLY);
    }
    // asyncpg encrypts its cancel if the session is encrypted
    if program == Program::Asyncpg && port == "read" && encryption.hides_cancels() {
        wanted.remove("cancel");
    }
    wanted.retain(|check| !passed.iter().any(|name| name == check));
    wanted
}
