//! The SQL check before real clusters: by itself, as a second opinion, and over TLS.

use std::time::{Duration, Instant};

use pgvane_loadtest::failure::FailureClass;
use pgvane_loadtest::lab::{Frozen, Lab};
use pgvane_loadtest::messages::{PROTOCOL_3_0, startup};
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::reader::Reader;
use pgvane_loadtest::wait;
use pgvane_loadtest::writer::{Writer, longest_gap};

use crate::binary;
use crate::certificates::Certificates;
use crate::wire::Wire;

/// No single step takes this long unless something is wrong; longer than a switchover.
const SOON: Duration = Duration::from_secs(60);

/// What pgvane may add to the cluster's own gap. On a quiet machine it is some ten milliseconds.
const ADDED_GAP_MAX: Duration = Duration::from_millis(500);

/// The role of the example in `config/sql-check.toml`: nothing granted.
const ROLE: &str = "create role vane login password 'vane'";

const TABLE: &str = "[cluster.sql]\nuser = \"vane\"\npassword = \"vane\"";

/// Who is speaking shows in each line of PostgreSQL's log.
const LOG_LINE_PREFIX: &str = "%m [%p] app=%a ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_patronis_help_roles_are_known_and_switchovers_followed() {
    let lab = Lab::builder().parameter("log_line_prefix", LOG_LINE_PREFIX).start().await.expect("a cluster");
    statement(&lab, ROLE).await;
    Writer::prepare(&lab).await.expect("a leader");
    let reopening_often = format!("{TABLE}\nreconnect = \"1s\"");
    let pgvane = before(&lab).cluster("check = \"sql\"").cluster(&reopening_often).start(lab.directory()).await;
    let pgvane = pgvane.expect("it starts");

    roles_are_those_that_the_nodes_say(&lab, &pgvane).await;
    a_switchover_is_followed(&lab, &pgvane).await;
    a_server_that_crashed_is_found_again(&lab, &pgvane).await;
    a_frozen_replica_is_silent_and_found_again(&lab, &pgvane).await;
    stopped(pgvane).await;
    nothing_bad_is_logged(&lab, 10);
}

async fn roles_are_those_that_the_nodes_say(lab: &Lab, pgvane: &Pgvane) {
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    for (index, node) in lab.nodes().iter().enumerate() {
        let role = if index == leader { "leader" } else { "replica" };
        wait_for_role(pgvane, &node.name, role).await;
    }
    let written = Reader::to(pgvane.write_addr).visit().await.expect("the leader answers");
    assert_eq!((written.port, written.in_recovery), (lab.nodes()[leader].pg.port(), false));
    assert!(Reader::to(pgvane.read_addr).visit().await.expect("a replica answers").in_recovery);
    let timeline = format!("pgvane_node_timeline{{cluster=\"main\",node=\"{}\"}} 1", lab.nodes()[leader].name);
    assert!(metrics(pgvane).await.contains(&timeline));
}

async fn a_switchover_is_followed(lab: &Lab, pgvane: &Pgvane) {
    let direct: Vec<_> = Writer::direct(lab).into_iter().map(Writer::start).collect();
    let through = Writer::to("through", pgvane.write_addr).start();
    through.wait_for_acks(50, SOON).await.expect("the leader takes writes");
    let new_leader = lab.switchover().await.expect("a switchover");
    direct[new_leader].wait_for_acks(50, SOON).await.expect("the new leader takes writes");
    through.wait_for_acks(50, SOON).await.expect("and pgvane leads there");

    let mut acks = Vec::new();
    for writer in direct {
        acks.extend(writer.finish().await.acks);
    }
    let report = through.finish().await;
    let own = longest_gap(&acks).expect("acks").length();
    let seen = report.longest_gap().expect("acks").length();
    println!("switchover: the cluster's own gap {own:?}, through pgvane {seen:?}");
    assert!(seen < own + ADDED_GAP_MAX, "{seen:?} through pgvane, {own:?} past it");
    assert_eq!(report.count(FailureClass::ReadOnly), 0, "{:?}", report.failures);
    assert_eq!(report.missing_rows(lab).await.expect("the table is there"), [] as [i64; 0]);
    wait_for_role(pgvane, &lab.nodes()[new_leader].name, "leader").await;
    lab.wait_until_all_streaming(SOON).await.expect("the old leader follows");
}

async fn a_server_that_crashed_is_found_again(lab: &Lab, pgvane: &Pgvane) {
    let from = pgvane.log_text().len();
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let replica = (leader + 1) % lab.nodes().len();
    lab.kill_postgres(replica).expect("it dies"); // Patroni starts it again
    let name = &lab.nodes()[replica].name;
    let seen = format!("node changed cluster=main node=\"{name}\"");
    pgvane.wait_for_log(&seen, from, SOON).await.expect("its absence is noticed");
    wait_for_series(pgvane, &format!("pgvane_node_up{{cluster=\"main\",node=\"{name}\"}} 1")).await;
    wait_for_role(pgvane, name, "replica").await;
}

async fn a_frozen_replica_is_silent_and_found_again(lab: &Lab, pgvane: &Pgvane) {
    lab.wait_until_all_streaming(SOON).await.expect("a sound cluster");
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let replica = (leader + 1) % lab.nodes().len();
    is_silent_while_frozen(lab, pgvane, replica).await;
}

async fn is_silent_while_frozen(lab: &Lab, pgvane: &Pgvane, node: usize) {
    let up = format!("pgvane_node_up{{cluster=\"main\",node=\"{}\"}}", lab.nodes()[node].name);
    wait_for_series(pgvane, &format!("{up} 1")).await;
    lab.freeze_postgres(node, Frozen::Everything).expect("it runs");
    wait_for_series(pgvane, &format!("{up} 0")).await;
    lab.thaw_postgres(node);
    wait_for_series(pgvane, &format!("{up} 1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_patroni_hangs_keeps_the_lead_until_another_has_the_lock() {
    let lab = Lab::builder().nodes(2).start().await.expect("a cluster");
    statement(&lab, ROLE).await;
    Writer::prepare(&lab).await.expect("a leader");
    let pgvane = before(&lab).cluster("leader_grace = \"4s\"").cluster(TABLE).start(lab.directory()).await;
    let pgvane = pgvane.expect("it starts");
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    wait_for_role(&pgvane, &lab.nodes()[leader].name, "leader").await;

    let frozen = Instant::now();
    let from = pgvane.log_text().len();
    lab.freeze_patroni(leader).expect("it runs");
    // Patroni's ttl is 20 s here: for twice the grace nobody else can have the lock
    let mut visits = 0;
    while frozen.elapsed() < Duration::from_secs(9) {
        let visit = Reader::to(pgvane.write_addr).visit().await.expect("new sessions go on");
        assert_eq!(visit.port, lab.nodes()[leader].pg.port());
        visits += 1;
        tokio::time::sleep(Duration::from_millis(50)).await; // a client's pace, not a wait
    }
    let log = pgvane.log_text();
    assert!(!log[from..].contains("no leader"), "the lead was lost in between: {}", &log[from..]);
    assert!(
        log[from..].contains("leader according to PostgreSQL only (Patroni: no answer in time)"),
        "{}",
        &log[from..]
    );
    println!("{visits} new sessions while Patroni hung");

    let other = lab.wait_for_leader_other_than(leader, SOON).await.expect("the lock lapses");
    let led = || async {
        let visit = Reader::to(pgvane.write_addr).visit().await.map_err(|failure| failure.message)?;
        if visit.port == lab.nodes()[other].pg.port() { Ok(()) } else { Err("the old leader".to_owned()) }
    };
    wait::until("writes to the holder of the lock", Duration::from_secs(5), led).await.expect("it leads");
    lab.thaw_patroni(leader).expect("it is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_nodes_recovery_counts_without_its_patroni() {
    let lab = Lab::builder().nodes(2).start().await.expect("a cluster");
    statement(&lab, ROLE).await;
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let replica = 1 - leader;
    lab.kill_patroni(replica);
    let pgvane = before(&lab).cluster(TABLE).start(lab.directory()).await.expect("it starts");
    wait_for_role(&pgvane, &lab.nodes()[replica].name, "replica").await;
    let visit = Reader::to(pgvane.read_addr).visit().await.expect("it serves");
    assert!(visit.in_recovery);

    // and a primary's word makes no leader where Patroni has never said so
    lab.kill_patroni(leader);
    let pgvane = before(&lab).cluster(TABLE).start(lab.directory()).await.expect("it starts");
    wait_for_role(&pgvane, &lab.nodes()[replica].name, "replica").await;
    wait_for_role(&pgvane, &lab.nodes()[leader].name, "unknown").await;
    assert!(metrics(&pgvane).await.contains("pgvane_cluster_has_leader{cluster=\"main\"} 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_is_encrypted_as_sslmode_says() {
    let files = Certificates::new();
    files.issue("server", "127.0.0.1");
    files.issue("client", "certified");
    files.stranger();
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| files.path(name));
    let lab = Lab::builder()
        .nodes(1)
        .parameter("log_line_prefix", LOG_LINE_PREFIX)
        .parameter("ssl", "on")
        .parameter("ssl_ca_file", &ca)
        .parameter("ssl_cert_file", &cert)
        .parameter("ssl_key_file", &key)
        .hba("hostssl all certified 127.0.0.1/32 cert")
        .hba("hostssl all vane 127.0.0.1/32 scram-sha-256")
        .hba("host all vane 127.0.0.1/32 reject")
        .start()
        .await
        .expect("a cluster");
    statement(&lab, ROLE).await;
    statement(&lab, "create role certified login").await;

    let full = format!("{TABLE}\nsslmode = \"verify-full\"\nca_file = \"{ca}\"");
    for table in [full.clone(), format!("{TABLE}\nsslmode = \"prefer\"")] {
        let pgvane = before(&lab).cluster("check = \"sql\"").cluster(&table).start(lab.directory()).await;
        let pgvane: Pgvane = pgvane.unwrap_or_else(|error| panic!("{table}: {error}"));
        wait_for_role(&pgvane, "node1", "leader").await;
        assert_eq!(encrypted_checks(&lab).await, 1, "{table}");
        is_silent_while_frozen(&lab, &pgvane, 0).await;
        stopped(pgvane).await;
    }
    nothing_bad_is_logged(&lab, 2);
    let with_certificate = format!(
        "[cluster.sql]\nuser = \"certified\"\nsslmode = \"verify-full\"\nca_file = \"{ca}\"\n\
         client_cert_file = \"{}\"\nclient_key_file = \"{}\"",
        files.path("client.pem"),
        files.path("client.key")
    );
    let pgvane = before(&lab).cluster("check = \"sql\"").cluster(&with_certificate).start(lab.directory()).await;
    wait_for_role(&pgvane.expect("it starts"), "node1", "leader").await;
    a_listener_shows_the_server_its_certificate(&lab, &files).await;

    let stranger = format!("{TABLE}\nsslmode = \"verify-full\"\nca_file = \"{}\"", files.path("stranger.pem"));
    is_told(&lab, &stranger, "TLS: invalid peer certificate").await;
    is_told(&lab, &format!("{TABLE}\nsslmode = \"disable\""), "pg_hba.conf rejects connection").await;
    let mistyped = TABLE.replace("password = \"vane\"", "password = \"vain\"");
    is_told(&lab, &mistyped, "password authentication failed for user \\\"vane\\\"").await;
}

/// Sessions that come in clear, as a role that the server takes by certificate alone.
async fn a_listener_shows_the_server_its_certificate(lab: &Lab, files: &Certificates) {
    let server_tls = format!(
        "tls = \"disable\"\nserver_tls = {{ sslmode = \"verify-full\", ca_file = \"{}\", \
         client_cert_file = \"{}\", client_key_file = \"{}\" }}",
        files.path("ca.pem"),
        files.path("client.pem"),
        files.path("client.key")
    );
    let pgvane = before(lab).write_listener(&server_tls).start(lab.directory()).await.expect("it starts");
    let certified = startup(PROTOCOL_3_0, &[("user", "certified"), ("database", "postgres")]);
    let mut session = Wire::to(pgvane.write_addr).await.log_in(&certified).await;
    let query = "select current_user || ' ' || client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(session.value(query).await, "certified /CN=certified");
}

/// Nobody leads with such a table, and the log says why.
async fn is_told(lab: &Lab, table: &str, why: &str) {
    let pgvane = before(lab).cluster("check = \"sql\"").cluster(table).spawn(lab.directory()).expect("it starts");
    let what = format!("{why:?} in pgvane's log");
    let told = wait::until(&what, SOON, || async {
        let log = pgvane.log_text();
        if log.contains(why) || log.contains(&why.replace('\\', "")) { Ok(()) } else { Err(log) }
    });
    told.await.expect("it says why");
}

// ---- what the stories stand on --------------------------------------------------------------------------------------

fn before(lab: &Lab) -> PgvaneBuilder {
    Pgvane::builder(&binary::pgvane(), lab.nodes()).hold_max("30s")
}

/// Tells pgvane to stop, as an operator does; being dropped, it would be killed, and could say goodbye to nobody.
async fn stopped(mut pgvane: Pgvane) {
    pgvane.terminate().expect("it runs");
    pgvane.wait(SOON).await.expect("it ends");
}

/// Has the leader carry out a statement, and waits until every node knows of it.
async fn statement(lab: &Lab, text: &str) {
    let leader = lab.wait_for_leader(SOON).await.expect("a leader");
    let client = lab.connect_direct(leader).await.expect("a superuser's session");
    client.batch_execute(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let end: String = client.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("a position").get(0);
    for node in (0..lab.nodes().len()).filter(|node| *node != leader) {
        let replica = lab.connect_direct(node).await.expect("a superuser's session");
        let query = format!("select pg_last_wal_replay_lsn() >= '{end}'");
        let look = || async {
            let row = replica.query_one(&query, &[]).await.map_err(|error| error.to_string())?;
            if row.get::<_, Option<bool>>(0) == Some(true) { Ok(()) } else { Err("not yet".to_owned()) }
        };
        wait::until("a replica's knowing of it", SOON, look).await.expect("it streams");
    }
}

/// How many sessions of the check PostgreSQL has, all of which must be encrypted.
async fn encrypted_checks(lab: &Lab) -> i64 {
    let client = lab.connect_direct(0).await.expect("a superuser's session");
    let query = "select count(*), count(*) filter (where ssl) from pg_stat_ssl join pg_stat_activity using (pid)
        where application_name = 'pgvane check'";
    let row = client.query_one(query, &[]).await.expect("it is asked of a superuser");
    assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1));
    row.get(1)
}

async fn metrics(pgvane: &Pgvane) -> String {
    pgvane.admin_get("/metrics").await.expect("the metrics are served").body
}

async fn wait_for_series(pgvane: &Pgvane, line: &str) {
    let look = || async {
        let all = metrics(pgvane).await;
        let is_there = all.lines().any(|found| found == line);
        if is_there { Ok(()) } else { Err(all.lines().filter(|line| line.contains("node")).collect()) }
    };
    let waited = wait::until(line, SOON, look).await;
    waited.unwrap_or_else(|error| panic!("{error}\npgvane's log:\n{}", pgvane.log_text()));
}

async fn wait_for_role(pgvane: &Pgvane, node: &str, role: &str) {
    wait_for_series(pgvane, &format!("pgvane_node_role{{cluster=\"main\",node=\"{node}\",role=\"{role}\"}} 1")).await;
}

/// Neither the check nor anybody who never said a name has left traces of bad manners in a log. (The writers' sessions
/// go through pgvane too; theirs are not the check's.)
fn nothing_bad_is_logged(lab: &Lab, checks_min: usize) {
    let manners = [
        "incomplete startup packet",
        "unexpected EOF",
        "onnection reset",
        "could not receive data",
        "could not accept SSL",
    ];
    let mut checks = 0;
    for node in 0..lab.nodes().len() {
        let log = lab.postgres_log_text(node);
        let ours = |line: &&str| line.contains("app=pgvane check") || line.contains("app=[unknown]");
        checks +=
            log.lines().filter(|line| line.contains("app=pgvane check") && line.contains("disconnection")).count();
        let bad: Vec<_> =
            log.lines().filter(ours).filter(|line| manners.iter().any(|word| line.contains(word))).collect();
        assert!(bad.is_empty(), "{}", bad.join("\n"));
    }
    assert!(checks >= checks_min, "only {checks} sessions of the check have ended: was it there at all?");
}
