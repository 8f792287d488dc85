//! Nodes with names instead of addresses, while the name server fails, or tells something else than before.
//!
//! pgvane runs in a network namespace of its own, with `/etc/hosts` and `/etc/resolv.conf` of its own. That takes root:
//! elsewhere these tests say so and pass.

use std::time::{Duration, Instant};

use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::name_server::{Behaviour, NameServer};
use pgvane_loadtest::namespace::Namespace;
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::reader::Reader;

use super::network::own_host;
use super::roles::{up, wait_for_at_least, wait_for_page};
use crate::binary;
use crate::metrics;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{SOON, Session};

const DOMAIN: &str = "pg.test";

/// How long the name server fails: longer than it takes to lose a leader whose checks fail.
const OUTAGE: Duration = Duration::from_secs(8);

/// The shortest `leader_grace` that goes with the default interval and timeout.
const SHORT_GRACE: &str = "leader_grace = \"3s\"";

/// How long a visit may take while names cannot be resolved: half a second for the first one, and as much as a debug
/// build needs beside three busy servers on two cores.
const VISIT_MAX: Duration = Duration::from_millis(2000);

/// A node that has another address is found within this time, from the moment at which the name has it: a second for the
/// name, two checks for a replica, and what a busy machine takes.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

const UNRESOLVED: &str = "pgvane_names_unresolved";
const HAS_LEADER: &str = "pgvane_cluster_has_leader{cluster=\"main\"}";

/// A host for pgvane, with a name server that knows the cluster's nodes.
struct Host {
    namespace: Namespace,
    names: NameServer,
}

impl Host {
    async fn before(lab: &Lab) -> Option<Host> {
        let namespace = own_host()?;
        let names = NameServer::start(namespace.outer()).await.unwrap_or_else(|error| panic!("{error}"));
        let host = Host { namespace, names };
        host.all_names_are_right(lab);
        Some(host)
    }

    fn all_names_are_right(&self, lab: &Lab) {
        for node in 0..lab.nodes().len() {
            self.names.set(&name(lab, node), &[self.namespace.outer().into()]);
        }
    }

    fn configured(&self, lab: &Lab, pgvane: PgvaneBuilder) -> PgvaneBuilder {
        let files = self.names.files(lab.directory()).unwrap_or_else(|error| panic!("{error}"));
        pgvane.in_namespace(&self.namespace).by_name(DOMAIN, &files)
    }
}

fn name(lab: &Lab, node: usize) -> String {
    format!("{}.{DOMAIN}", lab.nodes()[node].name)
}

/// Visits both ports for as long as this takes, one visit after the other; all are served, and soon.
async fn serves_for(pgvane: &Pgvane, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        for (port, is_replica) in [(pgvane.write_addr, false), (pgvane.read_addr, true)] {
            let arrived = Instant::now();
            let visit = Reader::to(port).visit().await;
            let visit = visit.unwrap_or_else(|failure| panic!("{:?} on: {failure:?}", began.elapsed()));
            assert_eq!(visit.in_recovery, is_replica, "{:?} on", began.elapsed());
            let took = visit.at - arrived;
            assert!(took <= VISIT_MAX, "{:?} on, a visit took {took:?}", began.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: make test-long"]
async fn while_the_name_server_fails_the_last_known_addresses_serve() {
    let lab = sound_cluster().await;
    let Some(host) = Host::before(&lab).await else { return };
    let pgvane = pgvane_before(&lab, |pgvane| host.configured(&lab, pgvane).cluster(SHORT_GRACE)).await;
    let mut session = Session::through(pgvane.write_addr).await;
    for behaviour in [Behaviour::Silent, Behaviour::Fails] {
        let log = pgvane.log_text().len();
        let questions = host.names.questions();
        host.names.behave(behaviour);
        serves_for(&pgvane, OUTAGE).await;
        wait_for_at_least(&pgvane, UNRESOLVED, 3.0).await;
        wait_for_page(&pgvane, "last known addresses are used").await;
        assert_eq!(metrics::value(&pgvane, HAS_LEADER).await, 1.0);
        for node in 0..lab.nodes().len() {
            assert_eq!(metrics::value(&pgvane, &up(&lab, node)).await, 1.0, "{behaviour:?}");
        }
        assert_eq!(session.value("select 1 + 1").await, "2");
        assert!(host.names.questions() > questions, "the name server was not asked: the test does not test it");

        host.names.behave(Behaviour::Answers);
        metrics::wait_for(&pgvane, UNRESOLVED, 0.0).await;
        let told = pgvane.log_text().split_off(log);
        for words in [
            "new leader",
            "no leader",
            "node lost",
            "session ended: the client closed the session listener=write error",
        ] {
            assert!(!told.contains(words), "{words:?} in:\n{told}");
        }
        for words in ["the name cannot be resolved: its last addresses are used", "the name can be resolved again"] {
            let lines = told.lines().filter(|line| line.contains(words)).count();
            assert_eq!(lines, lab.nodes().len(), "{words:?} is told once for each name:\n{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sql_check_knows_the_last_addresses_too() {
    let lab = sound_cluster().await;
    let Some(host) = Host::before(&lab).await else { return };
    let by_sql = |pgvane: PgvaneBuilder| {
        let pgvane = pgvane.cluster("check = \"sql\"").cluster(SHORT_GRACE);
        // a login for each check, as after a failure
        let sql = "[cluster.sql]\nuser = \"trusting\"\ndatabase = \"app\"\nsslmode = \"disable\"\nreconnect = \"1s\"";
        host.configured(&lab, pgvane.cluster(sql))
    };
    let pgvane = pgvane_before(&lab, by_sql).await;
    host.names.behave(Behaviour::Silent);
    serves_for(&pgvane, OUTAGE).await;
    assert_eq!(metrics::value(&pgvane, HAS_LEADER).await, 1.0);
    let log = pgvane.log_text();
    assert!(!log.contains("no leader from") && !log.contains("node lost"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_while_the_name_server_is_silent_waits_for_it() {
    let lab = sound_cluster().await;
    let Some(host) = Host::before(&lab).await else { return };
    host.names.behave(Behaviour::Silent);
    let builder = Pgvane::builder(&binary::pgvane(), lab.nodes()).hold_max("60s");
    let pgvane = host.configured(&lab, builder).spawn(lab.directory()).unwrap_or_else(|error| panic!("{error}"));
    pgvane.wait_for_log("the name cannot be resolved", 0, SOON).await.expect("operators are told");
    let visitor = tokio::spawn(Reader::to(pgvane.write_addr).visit());
    wait_for_at_least(&pgvane, "pgvane_sessions_held{listener=\"write\"}", 1.0).await;
    host.names.behave(Behaviour::Answers);
    let visit = visitor.await.expect("no panic").expect("is served as soon as names can be resolved");
    assert!(!visit.in_recovery);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_followed_to_another_address_and_one_that_is_deleted_serves_for_a_while() {
    let lab = sound_cluster().await;
    let Some(host) = Host::before(&lab).await else { return };
    let pgvane = pgvane_before(&lab, |pgvane| host.configured(&lab, pgvane)).await;
    let (leader, [moved, _]) = leader_and_replicas(&lab).await;

    host.names.remove(&name(&lab, leader));
    wait_for_at_least(&pgvane, UNRESOLVED, 1.0).await;
    wait_for_page(&pgvane, "its name does not exist").await;
    serves_for(&pgvane, Duration::from_secs(3)).await;
    host.all_names_are_right(&lab);
    metrics::wait_for(&pgvane, UNRESOLVED, 0.0).await;

    // nobody listens there in pgvane's namespace
    host.names.set(&name(&lab, moved), &["127.0.0.99".parse().expect("an address")]);
    metrics::wait_for(&pgvane, &up(&lab, moved), 0.0).await;
    wait_for_page(&pgvane, "127.0.0.99").await;
    serves_for(&pgvane, Duration::from_secs(1)).await;
    host.all_names_are_right(&lab);
    let right = Instant::now();
    metrics::wait_for(&pgvane, &up(&lab, moved), 1.0).await;
    let found = right.elapsed();
    assert!(found <= FOUND_WITHIN, "the node was found after {found:?}");
}

/// The first address of each name answers nothing, and the second one is good: every way to a node finds the second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_with_a_dead_ipv6_address_and_a_good_ipv4_address_serves() {
    let lab = sound_cluster().await;
    let Some(host) = Host::before(&lab).await else { return };
    let dead = host.namespace.black_hole().unwrap_or_else(|error| panic!("{error}"));
    for node in 0..lab.nodes().len() {
        host.names.set(&name(&lab, node), &[dead.into(), host.namespace.outer().into()]);
    }
    let sql = "check = \"sql\"\n[cluster.sql]\nuser = \"trusting\"\ndatabase = \"app\"\nsslmode = \"disable\"";
    for check in ["check = \"patroni\"", sql] {
        let pgvane = pgvane_before(&lab, |pgvane| {
            let pgvane = host.configured(&lab, pgvane.cluster(check));
            pgvane.write_listener("connect_timeout = \"1s\"").read_listener("connect_timeout = \"1s\"")
        });
        let pgvane = pgvane.await;
        serves_for(&pgvane, Duration::from_secs(2)).await;
        let retries = "pgvane_connect_retries_total{listener=\"write\"}";
        assert_eq!(metrics::value(&pgvane, retries).await, 0.0, "{}", pgvane.log_text());
    }
}
