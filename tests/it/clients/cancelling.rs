//! A hundred cancels of a hundred reach their query on the read port, and no other query.

use std::process::Stdio;

use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::programs::Postgresql;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr};

use super::program::{Encryption, Visit, checked};
use crate::metrics;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster_of};
use crate::wire::in_time;

/// Says that it runs before it sleeps: a cancel that comes before its query does nothing.
const SLEEP: &str = "do $$ begin raise notice 'asleep'; perform pg_sleep(60); end $$";

/// Sessions that psql has at once.
const AT_ONCE: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psycopg_cancels_a_hundred_of_a_hundred_on_the_packaged_postgresql() {
    psycopg_cancels_a_hundred_of_a_hundred(Postgresql::Packaged).await;
}

/// With keys of 32 bytes, where libpq is new enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psycopg_cancels_a_hundred_of_a_hundred_on_postgresql_18() {
    psycopg_cancels_a_hundred_of_a_hundred(Postgresql::Eighteen).await;
}

async fn psycopg_cancels_a_hundred_of_a_hundred(server: Postgresql) {
    let lab = sound_cluster_of(server).await;
    leader_and_replicas(&lab).await;
    for encryption in Encryption::ALL {
        let pgvane = pgvane_before(&lab, |pgvane| encryption.configure(&lab, pgvane)).await;
        let visit = Visit { address: pgvane.read_addr, encryption, directory: lab.directory().to_owned() };
        let mut cancels = 0;
        for (libpq, method) in [("binary", "cancel"), ("binary", "cancel_safe"), ("python", "cancel")] {
            if method == "cancel_safe" && encryption.hides_cancels() {
                continue; // encrypted like the session: only the node can read it, and it may be the wrong one
            }
            let mut command = visit.python("psycopg_cancels.py");
            command.arg(method).env("PSYCOPG_IMPL", libpq).env("PGMAXPROTOCOLVERSION", "3.2");
            let done = checked(command).await;
            done.unwrap_or_else(|told| panic!("{server:?} {encryption:?} {libpq} {method}:\n{told}"));
            cancels += 120;
            every_one_was_delivered(&pgvane, encryption, cancels).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_18_cancels_a_hundred_of_a_hundred() {
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    leader_and_replicas(&lab).await;
    for encryption in Encryption::ALL {
        let pgvane = pgvane_before(&lab, |pgvane| encryption.configure(&lab, pgvane)).await;
        let visit = Visit { address: pgvane.read_addr, encryption, directory: lab.directory().to_owned() };
        for batch in 0..100 / AT_ONCE {
            let protocol = if batch % 2 == 0 { "3.0" } else { "3.2" };
            let mut sleepers = Vec::new();
            for _ in 0..AT_ONCE {
                sleepers.push(Sleeper::start(&visit, protocol));
            }
            for sleeper in &mut sleepers {
                sleeper.wait_until_asleep().await;
            }
            while let Some(sleeper) = sleepers.pop() {
                sleeper.cancel().await;
                for other in &mut sleepers {
                    assert_eq!(other.psql.try_wait().expect("our child"), None, "a cancel has hit another query");
                }
            }
        }
        every_one_was_delivered(&pgvane, encryption, 100).await;
    }
}

/// psql with a query that sleeps.
struct Sleeper {
    psql: Child,
    errors: BufReader<ChildStderr>,
}

impl Sleeper {
    fn start(visit: &Visit, protocol: &str) -> Sleeper {
        let mut command = visit.psql(Postgresql::Eighteen);
        command.args(["-c", SLEEP]).env("PGMAXPROTOCOLVERSION", protocol).stderr(Stdio::piped());
        let mut psql = command.spawn().expect("psql starts");
        let errors = BufReader::new(psql.stderr.take().expect("asked for"));
        Sleeper { psql, errors }
    }

    async fn wait_until_asleep(&mut self) {
        let mut line = String::new();
        in_time("a notice", self.errors.read_line(&mut line)).await.expect("text");
        assert!(line.contains("asleep"), "{line}");
    }

    /// As Ctrl-C does.
    async fn cancel(mut self) {
        let id = self.psql.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("it runs"), rustix::process::Signal::INT).expect("it is ours");
        let mut told = String::new();
        in_time("the end of psql", self.errors.read_to_string(&mut told)).await.expect("text");
        assert!(told.contains("canceling statement due to user request"), "{told}");
        in_time("the end of psql", self.psql.wait()).await.expect("our child");
    }
}

/// So many, and there is no other outcome.
async fn every_one_was_delivered(pgvane: &Pgvane, encryption: Encryption, cancels: u32) {
    let outcomes = metrics::all(pgvane).await;
    let outcomes = outcomes.iter().filter(|(series, _)| series.starts_with("pgvane_cancels_total{listener=\"read\""));
    for (series, count) in outcomes {
        let expected = if series.contains(encryption.outcome_of_cancels()) { cancels } else { 0 };
        assert_eq!(*count, f64::from(expected), "{series}");
    }
}
