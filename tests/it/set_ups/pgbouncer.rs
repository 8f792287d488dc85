//! `config/pgbouncer`: poolers in front of pgvane and behind it, by the README, on the machines of `config/keepalived`.

use std::time::Duration;

use super::keepalived::{self, Pair};
use super::php::PhpWriter;
use super::readme::Readme;
use super::{copied, machines, typed};

const SOON: Duration = Duration::from_secs(60);
const SWITCHOVER_WITHIN: Duration = Duration::from_secs(90);
/// As many clients as make a pool of 20 connections worth it.
const CLIENTS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "four machines and two switchovers: a minute"]
async fn a_pooler_in_front_keeps_its_clients_and_one_behind_follows_the_leader() {
    let wanted = [("db1", "10.0.0.11"), ("db2", "10.0.0.12"), ("quorum", "10.0.0.13"), ("web", "10.0.0.20")];
    let Some((_switch, [db1, db2, quorum, web])) = machines(wanted).await else { return };
    let base = Readme::of("keepalived");
    keepalived::set_up(&base, &db1, &db2, &quorum).await;
    let [create] = base.commands("7.");
    typed(&db1, create);
    let pair = Pair([&db1, &db2]);
    pair.make_leader(0).await;

    let readme = Readme::of("pgbouncer");
    readme.leaves_no_address_behind("0.", r"10\.0\.0\.[0-9]");
    let [_readdress, copy] = readme.commands("0.");
    for machine in [&db1, &db2, &web] {
        copied(machine, copy);
    }
    let [lookup] = readme.commands("1.");
    typed(&db1, lookup);

    let [start, ask] = readme.commands("3.");
    typed(&web, start);
    assert_eq!(typed(&web, ask), "1\n");
    let [user, password] = ["nextcloud", "change-me-nextcloud"];
    let in_front = PhpWriter::start(&web, "pgsql:host=127.0.0.1;port=6432;dbname=nextcloud", user, password);
    in_front.goes_on(SOON).await;
    let moment = in_front.now();
    pair.make_leader(1).await;
    in_front.goes_on(SWITCHOVER_WITHIN).await;
    let seen = in_front.seen_since(moment);
    println!("in front: {seen:?}"); // with --nocapture
    assert!(seen.errors.len() <= 1, "only the query that was running: {seen:?}");
    drop(in_front);

    let [start, use_it, ask] = readme.commands("2.");
    for commands in [start, use_it] {
        for node in [&db1, &db2] {
            typed(node, commands);
        }
    }
    assert_eq!(typed(&web, ask), "127.0.0.1\n");
    let behind = PhpWriter::start(&web, "pgsql:host=10.0.0.10;port=5000;dbname=nextcloud", user, password);
    behind.goes_on(SOON).await;
    let moment = behind.now();
    pair.make_leader(0).await;
    behind.goes_on(SWITCHOVER_WITHIN).await;
    let seen = behind.seen_since(moment);
    println!("behind: {seen:?}");
    assert!(!seen.errors.iter().any(|error| error.contains("read-only")), "{seen:?}");
    assert!(seen.errors.len() <= 2, "its session, and at most one login: {seen:?}");
    drop(behind);

    let login = "PGPASSWORD=change-me-nextcloud psql -AtX -h 10.0.0.10 -U nextcloud -d nextcloud -p";
    let many = format!("for i in $(seq {CLIENTS}); do {login} 5000 -c 'select pg_sleep(0.2)' & done; wait");
    typed(&web, &many);
    let count = "select count(*) from pg_stat_activity where usename = current_user and client_addr = '127.0.0.1'";
    let pooled: usize = typed(&web, &format!("{login} 5002 -c \"{count}\"")).trim().parse().expect("a number");
    assert!((1..=20).contains(&pooled), "{CLIENTS} clients had {pooled} connections");
    readme.assert_all_is_used();
}
