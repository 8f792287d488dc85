//! `pgvane switchover`: Patroni hands the lead over, with the write sessions parked before; if it refuses, they go on.

use std::fs;

use pgvane_loadtest::http;
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::pgvane::PgvaneBuilder;
use pgvane_loadtest::wait;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::command_line::OK;
use crate::figures::wait_for_status;
use crate::operators::Operator;
use crate::stage::{PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{SOON, Session, in_time};

const PROCESS: &str = "select pg_backend_pid()";

fn attended(lab: &Lab) -> impl Fn(PgvaneBuilder) -> PgvaneBuilder + use<> {
    let users = Operator::line(lab.directory());
    move |pgvane| pgvane.admin(&users).cluster("park = true").hold_max("60s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_switches_over_and_every_pgvane_parks_its_sessions_before() {
    let lab = sound_cluster().await;
    let configured = attended(&lab);
    let pgvane = pgvane_before(&lab, &configured).await;
    let second = pgvane_before(&lab, &configured).await;
    let (leader, _) = leader_and_replicas(&lab).await;
    let candidate = synchronous_standby(&lab).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let to = lab.nodes()[candidate].name.clone();

    let mut idle = Session::through(second.write_addr).await;
    idle.ask("set application_name = 'idle'").await;
    let mut busy = Session::through(pgvane.write_addr).await;
    busy.ask("begin").await;
    let nobody = "http://127.0.0.1:9";
    let all = format!("http://{},{nobody},http://{}", pgvane.admin_addr, second.admin_addr);
    let switching = tokio::spawn(async move { (operator.says_at(&all, &["switchover", "--to", &to]).await, operator) });
    // Patroni is asked when the transaction has ended, and not before
    wait_for_status(&pgvane, "one in a transaction", |status| status["clusters"][0]["park"]["finishing"] == 1).await;
    wait_for_status(&second, "one parked", |status| status["clusters"][0]["park"]["parked"] == 1).await;
    let again = operator_of(&pgvane, &lab).says(&["switchover"]).await;
    again.ended_with(1);
    assert!(again.err.contains("a switchover of cluster \"main\" is in progress: the write sessions"), "{}", again.err);
    assert_eq!(lab.leader().await, Some(leader));
    assert_eq!(busy.value("select 1 + 1").await, "2");
    assert_eq!(busy.ask("commit").await[0].body, b"COMMIT\0");

    let (answer, operator) = switching.await.expect("no panic");
    answer.ended_with(OK);
    assert!(answer.out.contains(&format!("{}: 1 session parked\n", second.admin_addr)), "{}", answer.out);
    let name = &lab.nodes()[candidate].name;
    assert!(answer.out.contains("1 session parked; Patroni has been asked to switch over from "), "{}", answer.out);
    assert!(answer.out.contains(&format!("main: {name} leads, after ")), "{}", answer.out);
    assert!(answer.err.contains(&format!("{nobody}/")), "{}", answer.err);
    assert!(answer.err.contains("the switchover goes on without it"), "{}", answer.err);
    assert_eq!(lab.leader().await, Some(candidate));
    let told: Value = pgvane.admin_get("/api/switchover").await.expect("an answer").json();
    let told = &told["switchover"];
    assert_eq!((&told["phase"], &told["by"], &told["to"]), (&"done".into(), &"ops".into(), &name.as_str().into()));
    let mut newcomer = Session::through(pgvane.write_addr).await;
    assert_eq!(newcomer.value("select pg_is_in_recovery()").await, "f");
    let answer = operator.says(&["switchover", "--to", name]).await;
    answer.ended_with(1);
    assert_eq!(answer.err, format!("pgvane: {name} leads already\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes over half a minute: make test-long"]
async fn sessions_go_on_where_they_are_if_patroni_refuses_the_switchover() {
    let lab = sound_cluster().await;
    let configured = attended(&lab);
    let pgvane = pgvane_before(&lab, &configured).await;
    let second = pgvane_before(&lab, &configured).await;
    let operator = Operator::at(&pgvane, lab.directory());
    let (leader, _) = leader_and_replicas(&lab).await;
    let candidate = synchronous_standby(&lab).await;
    let mut sessions = Vec::new();
    for server in [pgvane.write_addr, second.write_addr] {
        let mut session = Session::through(server).await;
        let process = session.value(PROCESS).await;
        sessions.push((session, process));
    }
    let both = format!("http://{},http://{}", pgvane.admin_addr, second.admin_addr);

    // nothing is parked for a request that cannot be fulfilled
    let unknown = operator.says(&["switchover", "--to", "nobody"]).await;
    unknown.ended_with(1);
    assert_eq!(unknown.err, "pgvane: this cluster has no node \"nobody\"\n");
    assert!(!pgvane.log_text().contains("switchover"), "{}", pgvane.log_text());

    lab.pause().await.expect("is paused");
    let refused = operator.says_at(&both, &["switchover"]).await;
    lab.resume().await.expect("is resumed");
    refused.ended_with(1);
    let why = "there is no switchover: Patroni says: Switchover is possible only to a specific candidate in a paused \
               state; the sessions go on";
    assert_eq!(refused.err, format!("pgvane: {why}\n"));
    for (session, process) in &mut sessions {
        assert_eq!(session.value(PROCESS).await, *process, "the same server process");
    }

    let files = AuthenticatedApi::set(&lab).await;
    let refused = operator.says(&["switchover"]).await;
    refused.ended_with(1);
    assert!(refused.err.contains("Patroni requires a login: add [cluster.patroni_login]"), "{}", refused.err);
    let with_login = |password: &str| {
        let login = format!("patroni_login = {{ user = \"switch\", password = \"{password}\" }}");
        let configured = attended(&lab);
        move |pgvane: PgvaneBuilder| configured(pgvane).cluster(&login)
    };
    let wrong = pgvane_before(&lab, with_login("wrong")).await;
    let refused = operator_of(&wrong, &lab).says(&["switchover"]).await;
    refused.ended_with(1);
    assert!(refused.err.contains("refuses user or password of [cluster.patroni_login]"), "{}", refused.err);
    assert_eq!(lab.leader().await, Some(leader));
    for (session, process) in &mut sessions {
        assert_eq!(session.value(PROCESS).await, *process, "the same server process");
    }
    let right = pgvane_before(&lab, with_login("over")).await;
    operator_of(&right, &lab).says(&["switchover", "--to", &lab.nodes()[candidate].name]).await.ended_with(OK);
    assert_eq!(lab.leader().await, Some(candidate));
    assert!(!right.log_text().contains("over\""), "the password is not logged");
    files.removed(&lab).await;
}

/// The only node to which Patroni switches over in synchronous mode.
pub(super) async fn synchronous_standby(lab: &Lab) -> usize {
    lab.wait_for_sync_standby(PATRONI_WITHIN).await.expect("there is one");
    let leader = lab.leader().await.expect("there is one");
    let members = http::get(lab.nodes()[leader].rest, "/cluster", SOON).await.expect("an answer").json();
    let members = members["members"].as_array().expect("is a list").clone();
    let found = members.iter().find(|member| member["role"] == "sync_standby").expect("there is one");
    lab.nodes().iter().position(|node| found["name"] == node.name.as_str()).expect("is one of them")
}

fn operator_of(pgvane: &pgvane_loadtest::pgvane::Pgvane, lab: &Lab) -> Operator {
    Operator::at(pgvane, lab.directory())
}

/// `restapi.authentication` in each node's configuration of Patroni.
struct AuthenticatedApi {
    /// The nodes' files as they were.
    before: Vec<String>,
}

impl AuthenticatedApi {
    async fn set(lab: &Lab) -> AuthenticatedApi {
        let before = lab.nodes().iter().map(|node| fs::read_to_string(node.patroni_config()).expect("is there"));
        let before: Vec<String> = before.collect();
        for (node, text) in lab.nodes().iter().zip(&before) {
            let login = "\nrestapi:\n  authentication:\n    username: switch\n    password: over\n";
            let changed = text.replacen("\nrestapi:\n", login, 1);
            assert_ne!(*text, changed, "{text}");
            fs::write(node.patroni_config(), changed).expect("is writable");
        }
        AuthenticatedApi::is_loaded(lab).await;
        AuthenticatedApi { before }
    }

    async fn is_loaded(lab: &Lab) {
        for (node, rest) in lab.nodes().iter().map(|node| node.rest).enumerate() {
            let before = lab.log_text(node).len();
            let (login, length) = ("Authorization: Basic c3dpdGNoOm92ZXI=", "Content-Length: 2");
            let mut api = TcpStream::connect(rest).await.expect("listens");
            let request = format!("POST /reload HTTP/1.0\r\n{login}\r\n{length}\r\n\r\n{{}}");
            api.write_all(request.as_bytes()).await.expect("is sent");
            let mut answer = String::new();
            in_time("an answer", api.read_to_string(&mut answer)).await.expect("is text");
            assert!(answer.contains(" 202 "), "{answer}");
            let look = || async {
                let log = lab.log_text(node).split_off(before);
                if log.contains("eload") { Ok(()) } else { Err(log) }
            };
            wait::until("a reload", PATRONI_WITHIN, look).await.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    async fn removed(self, lab: &Lab) {
        for (node, text) in lab.nodes().iter().zip(&self.before) {
            fs::write(node.patroni_config(), text).expect("is writable");
        }
        AuthenticatedApi::is_loaded(lab).await;
    }
}
