//! Sessions that last, as those of a pool do, find their way back to a replica that was away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::wait;
use tokio::task::JoinHandle;

use super::roles::{up, wait_for_at_least};
use crate::command_line::OK;
use crate::metrics;
use crate::operators::Operator;
use crate::stage::{PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::SOON;

const READERS: usize = 12;

/// A replica is killed and comes back, and then both are drained and come back: each time the sessions go where there is
/// room, and those that are moved by pgvane are in no transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_sessions_are_spread_again_over_replicas_that_come_back() {
    let lab = sound_cluster().await;
    let users = Operator::line(lab.directory());
    let rebalance = "rebalance = { every = \"50ms\", after = \"500ms\" }";
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.admin(&users).read_listener(rebalance)).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let (leader, replicas) = leader_and_replicas(&lab).await;
    let sessions =
        |node: usize| format!("pgvane_node_sessions{{cluster=\"main\",node=\"{}\"}}", lab.nodes()[node].name);
    let pool = Pool::start(&pgvane);
    for replica in replicas {
        metrics::wait_for(&pgvane, &sessions(replica), (READERS / 2) as f64).await;
    }

    lab.kill_node(replicas[0]).expect("it dies");
    metrics::wait_for(&pgvane, &sessions(replicas[1]), READERS as f64).await;
    pool.failures.store(0, Relaxed);
    lab.start_node(replicas[0]).expect("it starts");
    lab.wait_until_all_streaming(PATRONI_WITHIN).await.expect("it comes back");
    metrics::wait_for(&pgvane, &up(&lab, replicas[0]), 1.0).await;
    for replica in replicas {
        metrics::wait_for(&pgvane, &sessions(replica), (READERS / 2) as f64).await;
    }
    wait_for_at_least(&pgvane, REBALANCED, (READERS / 2) as f64).await;

    for replica in replicas {
        operator.says(&["drain", &lab.nodes()[replica].name]).await.ended_with(OK);
    }
    metrics::wait_for(&pgvane, &sessions(leader), READERS as f64).await;
    let moved = metrics::value(&pgvane, REBALANCED).await;
    for replica in replicas {
        operator.says(&["ready", &lab.nodes()[replica].name]).await.ended_with(OK);
    }
    metrics::wait_for(&pgvane, &sessions(leader), 0.0).await;
    for replica in replicas {
        metrics::wait_for(&pgvane, &sessions(replica), (READERS / 2) as f64).await;
    }
    wait_for_at_least(&pgvane, REBALANCED, moved + READERS as f64).await;
    assert_eq!(pool.failures.load(Relaxed), 0, "transactions failed that were under way");

    let settled = metrics::value(&pgvane, REBALANCED).await;
    pool.works_on().await;
    assert_eq!(metrics::value(&pgvane, REBALANCED).await, settled, "what is in balance stays");
}

const REBALANCED: &str = "pgvane_session_ends_total{listener=\"read\",reason=\"rebalanced\"}";

/// Readers that keep their sessions, and open new ones when they are ended.
struct Pool {
    /// Transactions that were not brought to their end.
    failures: Arc<AtomicUsize>,
    transactions: Arc<AtomicUsize>,
    readers: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(pgvane: &Pgvane) -> Pool {
        let (failures, transactions) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server = pgvane.read_addr;
        let reader = |_| {
            let (failures, transactions) = (Arc::clone(&failures), Arc::clone(&transactions));
            tokio::spawn(async move {
                loop {
                    let Ok(client) = Login::Trusting.connect(server, SOON).await else { continue };
                    while client.batch_execute("begin").await.is_ok() {
                        if client.batch_execute("select pg_sleep(0.01)").await.is_err()
                            || client.batch_execute("commit").await.is_err()
                        {
                            failures.fetch_add(1, Relaxed);
                            break;
                        }
                        transactions.fetch_add(1, Relaxed);
                    }
                }
            })
        };
        let readers = (0..READERS).map(reader).collect();
        Pool { failures, transactions, readers }
    }

    /// Waits for more transactions: a second's work, in which twenty sessions could be moved.
    async fn works_on(&self) {
        let before = self.transactions.load(Relaxed);
        let more = || async {
            let more = self.transactions.load(Relaxed) - before;
            if more >= 600 { Ok(()) } else { Err(format!("{more}")) }
        };
        wait::until("600 transactions", SOON, more).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}
