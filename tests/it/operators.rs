//! What operators say of nodes, and who may say it: from the command line and over HTTP, before fakes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use pgvane_loadtest::messages::{PROTOCOL_3_0, startup};
use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::command_line::{Answer, FAILURE, NO_INPUT, NO_PERMISSION, OK, USAGE, pgvane};
use crate::fake::FakeCluster;
use crate::figures::{status, wait_for_status};
use crate::metrics;
use crate::wire::{SOON, Session, Wire, in_time, plain_startup};

const PASSWORD: &str = "a password of twenty letters";

/// Somebody who may change things at a pgvane.
pub struct Operator {
    admin: SocketAddr,
    password_file: String,
}

impl Operator {
    /// The line for `[admin]` that makes him a user; his password is in a file in `directory`.
    pub fn line(directory: &Path) -> String {
        let file = directory.join("password");
        std::fs::write(&file, format!("{PASSWORD}\n")).expect("is writable");
        format!("users = [{{ name = \"ops\", password_file = \"{}\" }}]", file.display())
    }

    /// At a pgvane that has such a line.
    pub fn at(pgvane: &Pgvane, directory: &Path) -> Operator {
        let password_file = directory.join("password").display().to_string();
        Operator { admin: pgvane.admin_addr, password_file }
    }

    /// Runs `pgvane COMMAND`.
    pub async fn says(&self, command: &[&str]) -> Answer {
        self.says_as("ops", &self.password_file, command).await
    }

    /// The same at other admin addresses.
    pub async fn says_at(&self, admin: &str, command: &[&str]) -> Answer {
        let identity = ["--admin", admin, "--user", "ops", "--password-file", &self.password_file];
        run(&[command, &identity].concat()).await
    }

    async fn says_as(&self, user: &str, password_file: &str, command: &[&str]) -> Answer {
        let admin = format!("http://{}", self.admin);
        let identity = ["--admin", &admin, "--user", user, "--password-file", password_file];
        run(&[command, &identity].concat()).await
    }
}

/// Runs pgvane to its end, while the fakes go on.
pub async fn run(arguments: &[&str]) -> Answer {
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let run = move || pgvane(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

/// A pgvane whose readers have replicas only, and its operator.
async fn attended(
    cluster: &FakeCluster,
    configured: impl FnOnce(PgvaneBuilder) -> PgvaneBuilder,
) -> (Pgvane, Operator) {
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| configured(pgvane.admin(&users).read_listener("fallback = \"none\""))).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    (pgvane, operator)
}

fn state_of(node: &str, state: &str) -> String {
    format!("pgvane_node_admin_state{{cluster=\"main\",node=\"{node}\",state=\"{state}\"}}")
}

/// A session on this node.
pub async fn session_on(server: SocketAddr, node: &str) -> Session {
    for _ in 0..20 {
        let mut session = Session::through(server).await;
        if session.value("who").await == node {
            return session;
        }
    }
    panic!("twenty sessions, and none of them on {node}");
}

// ---- a page that needs a login --------------------------------------------------------------------------------------

#[tokio::test]
async fn commands_log_in_where_the_page_needs_a_login() {
    let cluster = FakeCluster::of(3).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.admin("require_login = true")).await;
    let admin = format!("http://{}", pgvane.admin_addr);

    let answer = operator.says(&["status"]).await;
    answer.ended_with(OK);
    assert!(answer.out.contains("node1 is the leader"), "{}", answer.out);
    let answer = operator.says(&["drain", "node2"]).await;
    answer.ended_with(OK);
    assert_eq!(answer.out, "node2: drain (was ready), 0 sessions\n");

    for command in [["status"].as_slice(), &["ready", "node2"]] {
        let answer = run(&[command, &["--admin", &admin]].concat()).await;
        answer.ended_with(USAGE);
        assert_eq!(answer.err, "pgvane: a user is required: use --user or set PGVANE_ADMIN_USER\n");
    }
    run(&["healthcheck", "--ready", "--admin", &admin]).await.ended_with(OK);
}

// ---- draining -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_drained_replica_loses_its_sessions_between_transactions_and_gets_new_ones_once_it_is_ready() {
    let cluster = FakeCluster::of(3).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let read = pgvane.read_addr;
    let idle = session_on(read, "node2").await;
    let mut busy = session_on(read, "node2").await;
    busy.ask("begin").await;

    let answer = operator.says(&["drain", "node2"]).await;
    answer.ended_with(OK);
    assert_eq!(answer.out, "node2: drain (was ready), 2 sessions\n");
    let end = idle.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    let text = "pgvane: terminating connection because the server is being taken out of service";
    assert_eq!(end.field(b'M').as_deref(), Some(text));
    assert!(end.field(b'D').is_some_and(|detail| detail.contains("were not executed")), "{end:?}");
    for _ in 0..4 {
        assert_eq!(Session::through(read).await.value("who").await, "node3");
    }
    assert_eq!(busy.value("who").await, "node2", "the transaction goes on");
    assert_eq!(metrics::value(&pgvane, &state_of("node2", "drain")).await, 1.0);
    assert_eq!(metrics::value(&pgvane, &state_of("node2", "ready")).await, 0.0);
    let page = pgvane.admin_get("/stats").await.expect("is served").body;
    assert!(page.contains("<span class=\"drain\">drain</span>"), "{page}");

    let waiting = operator.says(&["maint", "node2", "--wait", "10ms"]).await;
    waiting.ended_with(FAILURE);
    assert!(waiting.err.contains("node2 still has 1 session(s)"), "{}", waiting.err);
    busy.ask("commit").await;
    assert_eq!(busy.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    operator.says(&["drain", "node2", "--wait", "20s"]).await.ended_with(OK);
    metrics::wait_for_ends(&pgvane, "read", "drained", 2).await;

    operator.says(&["ready", "node2"]).await.ended_with(OK);
    session_on(read, "node2").await;
    pgvane.wait_for_log("to=\"ready\"", 0, SOON).await.expect("is logged");
    let log = pgvane.log_text();
    let told = |from: &str, to: &str| {
        let words = ["administrative state set", "node=\"node2\"", from, to, "user=\"ops\"", "peer=127.0.0.1:"];
        log.lines().any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(told("from=\"ready\"", "to=\"drain\""), "{log}");
    assert!(told("from=\"drain\"", "to=\"ready\""), "{log}");
}

#[tokio::test]
async fn a_drain_that_is_withdrawn_ends_no_session() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.top("drain_timeout = \"1h\"")).await;
    let mut session = Session::through(pgvane.read_addr).await;
    session.ask("begin").await;
    operator.says(&["drain", "node2"]).await.ended_with(OK);
    assert_eq!(session.value("who").await, "node2");
    operator.says(&["ready", "node2"]).await.ended_with(OK);
    session.ask("commit").await;
    assert_eq!(session.value("who").await, "node2");
    metrics::wait_for_ends(&pgvane, "read", "drained", 0).await;
}

#[tokio::test]
async fn a_session_that_exceeds_drain_timeout_gets_the_reason() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.top("drain_timeout = \"300ms\"")).await;
    let mut session = Session::through(pgvane.read_addr).await;
    session.ask("begin").await;
    let drained = Instant::now();
    operator.says(&["maint", "node2"]).await.ended_with(OK);
    let end = session.wire.fatal().await;
    assert!(drained.elapsed() >= Duration::from_millis(300), "after {:?}", drained.elapsed());
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    assert_eq!(end.field(b'D').as_deref(), Some("The transaction did not end within drain_timeout."));
    metrics::wait_for_ends(&pgvane, "read", "drain-timed-out", 1).await;
}

#[tokio::test]
async fn an_operator_may_let_sessions_end_by_themselves() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.read_listener("on = { operator = \"keep\" }")).await;
    let mut session = Session::through(pgvane.read_addr).await;
    operator.says(&["drain", "node2"]).await.ended_with(OK);
    assert_eq!(session.value("who").await, "node2");
    assert_eq!(metrics::value(&pgvane, "pgvane_node_sessions{cluster=\"main\",node=\"node2\"}").await, 1.0);
}

#[tokio::test]
async fn a_drained_leader_makes_a_switchover_a_pause_without_a_lost_transaction() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.hold_max("30s")).await;
    let write = pgvane.write_addr;
    let mut busy = Session::through(write).await;
    busy.ask("begin").await;

    let careless = operator.says(&["drain", "node1"]).await;
    careless.ended_with(FAILURE);
    assert!(careless.err.contains("node1 is the leader: its write sessions would be closed"), "{}", careless.err);
    operator.says(&["drain", "node1", "--leader"]).await.ended_with(OK);
    let newcomer = tokio::spawn(Session::through(write));
    metrics::wait_for(&pgvane, "pgvane_sessions_held{listener=\"write\"}", 1.0).await;
    let page = pgvane.admin_get("/stats").await.expect("is served").body;
    assert!(
        page.contains("node1 is the leader and is drained by an operator: new writes wait for another leader"),
        "{page}"
    );
    busy.ask("commit").await;
    assert_eq!(busy.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));

    cluster.switch_over(0, 1);
    assert_eq!(newcomer.await.expect("is served").value("who").await, "node2");
    operator.says(&["ready", "node1"]).await.ended_with(OK);
    assert_eq!(Session::through(pgvane.read_addr).await.value("who").await, "node1");
}

#[tokio::test]
async fn a_client_that_waits_for_a_drained_leader_gets_the_reason() {
    let cluster = FakeCluster::of(1).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.hold_max("200ms")).await;
    operator.says(&["maint", "node1", "--leader"]).await.ended_with(OK);
    let mut client = Wire::to(pgvane.write_addr).await;
    client.send(&plain_startup()).await;
    let end = client.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P03"));
    let detail = end.field(b'D').expect("there is a reason");
    assert_eq!(detail, "no eligible server: node1 is the leader and is in maintenance.");
}

// ---- who may --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_command_line_says_what_is_wrong_and_ends_accordingly() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let wrong = cluster.directory().join("wrong");
    std::fs::write(&wrong, "guessed").expect("is writable");
    let wrong = wrong.display().to_string();
    let good = operator.password_file.as_str();
    for (user, file, command, code, words) in [
        ("ops", good, &["drain", "node9"][..], USAGE, "unknown node \"node9\"; known nodes: node1, node2"),
        ("ops", good, &["drain", "node2", "--cluster", "other"], USAGE, "unknown node \"node2\""),
        ("ops", good, &["drain", "node2", "--wait", "10"], USAGE, "write a whole number with a unit"),
        ("ops", "no-such-file", &["drain", "node2"], NO_INPUT, "no-such-file"),
        ("ops", wrong.as_str(), &["drain", "node2"], NO_PERMISSION, "wrong user name or password"),
        ("eve", good, &["ready", "node2"], NO_PERMISSION, "wrong user name or password"),
    ] {
        let answer = operator.says_as(user, file, command).await;
        answer.ended_with(code);
        assert!(answer.err.contains(words), "{command:?}: {words:?} is not in {}", answer.err);
    }
    let log = pgvane.log_text();
    assert_eq!(log.matches("wrong name or password for the admin port").count(), 1, "{log}");
    assert_eq!(metrics::value(&pgvane, &state_of("node2", "ready")).await, 1.0, "nothing has changed");

    let status = run(&["status", "--admin", &format!("http://{}", pgvane.admin_addr)]).await;
    status.ended_with(OK);
    assert!(status.out.starts_with("cluster main: node1 is the leader\nNODE "), "{}", status.out);
    assert!(status.out.contains("\nnode2  replica  ready  up "), "{}", status.out);
}

#[tokio::test]
async fn over_http_changes_need_a_password_and_the_same_site() {
    const PLACE: &str = "/api/nodes/main/node2/state";
    let cluster = FakeCluster::of(2).await;
    let (pgvane, _) = attended(&cluster, |pgvane| pgvane).await;
    let admin = pgvane.admin_addr;
    // printf 'ops:a password of twenty letters' | base64
    let known = "Authorization: Basic b3BzOmEgcGFzc3dvcmQgb2YgdHdlbnR5IGxldHRlcnM=";
    let guessed = "Authorization: Basic b3BzOmd1ZXNzZWQ=";

    for (headers, place, body, status, words) in [
        (&[][..], PLACE, "drain", 401, "user name and password are required"),
        (&[guessed], PLACE, "drain", 401, "wrong user name or password"),
        (&[known, "Origin: http://elsewhere"], PLACE, "drain", 403, "another site"),
        (&[known, "Sec-Fetch-Site: cross-site"], PLACE, "drain", 403, "another site"),
        (&[known], PLACE, "down", 400, "expected ready, drain or maint"),
        (&[known], PLACE, "", 400, "expected ready, drain or maint"),
        (&[known], "/api/nodes/main/node3/state", "drain", 404, "this cluster has no node \"node3\""),
        (&[known], "/api/nodes/other/node2/state", "drain", 404, "unknown cluster \"other\""),
        (&[known], "/api/nodes/main/node1/state", "drain", 409, "node1 is the leader"),
    ] {
        let answer = post(admin, place, headers, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?} {place} {body}: {answer}");
        assert!(answer.contains(words), "{headers:?} {place} {body}: {answer}");
        assert_eq!(answer.to_lowercase().contains("www-authenticate: basic"), status == 401, "{answer}");
    }
    let too_long = "x".repeat(1000);
    assert!(post(admin, PLACE, &[known], &too_long).await.starts_with("HTTP/1.1 413 "));
    assert_eq!(metrics::value(&pgvane, &state_of("node2", "ready")).await, 1.0, "nothing has changed");

    let own_page = format!("Origin: http://{admin}");
    let done = post(admin, PLACE, &[known, &own_page], "drain").await;
    assert!(done.starts_with("HTTP/1.1 200 ") && done.contains("\"was\": \"ready\""), "{done}");
    assert_eq!(metrics::value(&pgvane, &state_of("node2", "drain")).await, 1.0);
}

#[tokio::test]
async fn without_users_there_are_no_buttons_and_no_changes() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    for path in ["/stats/node?cluster=main&node=node2", "/stats/close?node=node2"] {
        let page = pgvane.admin_get(path).await.expect("is served").body;
        assert!(!page.contains("<form") && page.contains("Changes are off"), "{page}");
    }
    let answer = post(pgvane.admin_addr, "/api/nodes/main/node2/state", &[], "drain").await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("no users in [admin]"), "{answer}");
    assert_eq!(metrics::value(&pgvane, &state_of("node2", "ready")).await, 1.0);
}

/// The whole answer to a POST.
async fn post(server: SocketAddr, path: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    in_time("an answer", exchange).await.expect("the port is open")
}

// ---- weights and sessions -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_weight_changes_who_gets_new_sessions_until_the_configured_one_is_wanted_again() {
    let cluster = FakeCluster::of(3).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane.read_listener("balance = \"round-robin\"")).await;
    let answer = operator.says(&["weight", "node2", "10000"]).await;
    answer.ended_with(OK);
    assert_eq!(answer.out, "node2: weight 10000 (was 100, configured 100)\n");
    let mut on_node2 = 0;
    for _ in 0..20 {
        on_node2 += usize::from(Session::through(pgvane.read_addr).await.value("who").await == "node2");
    }
    assert!(on_node2 >= 18, "{on_node2} of 20 sessions are on the node with a hundred times the weight");
    assert_eq!(metrics::value(&pgvane, "pgvane_node_weight{cluster=\"main\",node=\"node2\"}").await, 10_000.0);
    let status = status(&pgvane).await;
    let node = &status["clusters"][0]["nodes"][1];
    assert_eq!((&node["weight_configured"], &node["weight_set_by"]["user"]), (&100.into(), &"ops".into()), "{node:#}");
    assert_eq!(status["operators"][0]["what"], "node2 of main: weight 10000 (was 100, configured 100)");
    assert!(pgvane.log_text().contains("weight set"), "{}", pgvane.log_text());
    for wrong in ["0", "10001", "half"] {
        let answer = operator.says(&["weight", "node2", wrong]).await;
        answer.ended_with(FAILURE);
        assert!(answer.err.contains("is not a weight: expected 1 to 10000, or configured"), "{}", answer.err);
    }
    operator.says(&["weight", "node2", "configured"]).await.ended_with(OK);
    assert_eq!(metrics::value(&pgvane, "pgvane_node_weight{cluster=\"main\",node=\"node2\"}").await, 100.0);
}

#[tokio::test]
async fn the_sessions_of_a_node_are_listed_and_closed_at_once_and_those_of_others_stay() {
    let cluster = FakeCluster::of(3).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let mut busy = session_on(pgvane.read_addr, "node2").await;
    busy.ask("begin").await;
    let mut other = session_on(pgvane.read_addr, "node3").await;
    wait_for_status(&pgvane, "one session on each replica", |status| {
        [1, 2].iter().all(|node: &usize| status["clusters"][0]["nodes"][*node]["sessions"] == 1)
    })
    .await;
    let listed = operator.says(&["sessions", "--node", "node2"]).await;
    listed.ended_with(OK);
    assert_eq!(listed.out.lines().count(), 2, "{}", listed.out);
    assert!(listed.out.contains("127.0.0.1:") && listed.out.contains("  open "), "{}", listed.out);

    let asked = operator.says(&["close", "--node", "node2"]).await;
    asked.ended_with(USAGE);
    assert!(asked.err.contains("nothing was closed: confirm the question, or use --yes"), "{}", asked.err);
    let all = operator.says(&["close", "--cluster", "main", "--yes"]).await;
    all.ended_with(FAILURE);
    assert!(all.err.contains("say which sessions"), "{}", all.err);
    let unknown = operator.says(&["close", "--node", "node9", "--yes"]).await;
    unknown.ended_with(FAILURE);
    assert!(unknown.err.contains("no node \"node9\""), "{}", unknown.err);

    let answer = operator.says(&["close", "--node", "node2", "--yes"]).await;
    answer.ended_with(OK);
    assert_eq!(answer.out, "1 session closed\n");
    let end = busy.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    let text = "pgvane: terminating connection because an operator has closed the session";
    assert_eq!(end.field(b'M').as_deref(), Some(text));
    assert_eq!(other.value("who").await, "node3", "it stays");
    metrics::wait_for_ends(&pgvane, "read", "closed-by-operator", 1).await;
    assert_eq!(status(&pgvane).await["operators"][0]["what"], "closed 1 session: node \"node2\"");
}

#[tokio::test]
async fn sessions_are_closed_by_user_and_database_and_nobody_does_it_without_a_password() {
    let cluster = FakeCluster::of(2).await;
    let (pgvane, operator) = attended(&cluster, |pgvane| pgvane).await;
    let [app, report] = [("app", "shop"), ("report", "shop")];
    let log_in = async |(user, database): (&str, &str)| {
        let packet = startup(PROTOCOL_3_0, &[("user", user), ("database", database)]);
        Wire::to(pgvane.write_addr).await.log_in(&packet).await
    };
    let (app, mut report) = (log_in(app).await, log_in(report).await);
    for path in ["/api/sessions/close?user=app", "/stats/close", "/stats/node", "/api/nodes/main/node2/weight"] {
        let answer = post(pgvane.admin_addr, path, &[], "user=app&cluster=main&node=node2&weight=7").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
    }
    let answer = operator.says(&["close", "--db-user", "app", "--database", "shop", "--yes"]).await;
    answer.ended_with(OK);
    assert_eq!(answer.out, "1 session closed\n");
    assert_eq!(app.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    report.value("who").await;
    let none = operator.says(&["close", "--db-user", "app", "--yes"]).await;
    assert_eq!(none.out, "0 sessions closed\n");
    assert_eq!(metrics::value(&pgvane, "pgvane_node_weight{cluster=\"main\",node=\"node2\"}").await, 100.0);
}
