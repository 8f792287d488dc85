//! What people and programs are told when they get no session, or lose one: by psql, psycopg and node-postgres.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pgvane_loadtest::fake::FakePatroni;
use pgvane_loadtest::lab::Node;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::scratch::Scratch;
use pgvane_loadtest::{http, ports, wait};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout};

use super::program::{Encryption, Visit};
use crate::binary;
use crate::metrics;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster_of};
use crate::wire::{SOON, Session, in_time};

/// The fields of an error, as pgvane sends them.
struct Words {
    sqlstate: &'static str,
    message: &'static str,
    detail: Option<&'static str>,
    hint: &'static str,
}

const NO_SERVER: Words = Words {
    sqlstate: "57P03",
    message: "pgvane: no server for listener \"write\" within hold_max",
    detail: Some("no leader: no node answers its checks."),
    hint: "The cluster may be failing over: try again. The stats page shows the state of every node.",
};

const SESSIONS_FULL: Words = Words {
    sqlstate: "53300",
    message: "pgvane: listener \"write\" has reached sessions_max (1)",
    detail: None,
    hint: "Close sessions, or raise sessions_max.",
};

const LOST_LEAD: Words = Words {
    sqlstate: "57P01",
    message: "pgvane: terminating connection because the server is no longer the leader",
    detail: None,
    hint: "Connect again: pgvane chooses another server, or waits for one.",
};

const PROMOTED: Words = Words {
    message: "pgvane: terminating connection because the server's role has changed",
    detail: Some("No transaction was open. Statements sent after the last transaction were not executed."),
    ..LOST_LEAD
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gets_no_server_gets_the_reason_and_a_hint() {
    let scratch = Scratch::new().expect("a directory");
    let nobody = || ports::free().expect("a port");
    let nodes = ["node1", "node2"].map(|name| Node::elsewhere(name, nobody(), nobody()));
    let builder = Pgvane::builder(&binary::pgvane(), &nodes).hold_max("1s");
    let pgvane = builder.spawn(scratch.directory()).expect("it starts");
    let alive = || async { http::get(pgvane.admin_addr, "/healthz", SOON).await.map_err(|error| error.to_string()) };
    wait::until("a live pgvane", SOON, alive).await.unwrap_or_else(|error| panic!("{error}\n{}", pgvane.log_text()));

    let visit = visit_to(pgvane.write_addr, scratch.directory());
    let asked = Instant::now();
    for client in Client::start_all(&visit) {
        let told = client.end().await;
        assert!(asked.elapsed() >= Duration::from_secs(1), "held for {:?} only", asked.elapsed());
        told.shows_on_connecting(&NO_SERVER);
    }
    // as most people run it: encrypted if the server likes
    let mut preferring = visit.psql(Postgresql::Eighteen);
    let output = preferring.env("PGSSLMODE", "prefer").args(["-c", "select 1"]).output().await.expect("psql starts");
    Told::psql(&output.stderr).shows_on_connecting(&NO_SERVER);
    // the answer to a request for encryption is one letter: there is no room for a reason
    let mut insisting = visit.psql(Postgresql::Eighteen);
    let output = insisting.env("PGSSLMODE", "require").args(["-c", "select 1"]).output().await.expect("psql starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("server does not support SSL, but SSL was required"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gets_no_place_gets_the_limit_that_is_reached() {
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.write_listener("sessions_max = 1")).await;
    let _first = Session::through(pgvane.write_addr).await;
    for client in Client::start_all(&visit_to(pgvane.write_addr, lab.directory())) {
        client.end().await.shows_on_connecting(&SESSIONS_FULL);
    }
}

/// The servers are real; what their Patronis say is made up, because a leader that really steps down tells its clients
/// so itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_on_a_node_that_loses_the_lead_gets_the_reason_at_its_next_query() {
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    let (leader, [replica, _]) = leader_and_replicas(&lab).await;
    let patronis = [FakePatroni::start("node1").await, FakePatroni::start("node2").await];
    patronis[0].leads(1);
    let node = |name, pg: usize, patroni: usize| Node::elsewhere(name, lab.nodes()[pg].pg, patronis[patroni].address());
    let nodes = [node("node1", leader, 0), node("node2", replica, 1)];
    let pgvane = Pgvane::builder(&binary::pgvane(), &nodes).cluster("interval = \"200ms\"");
    let pgvane = pgvane.start(lab.directory()).await.expect("it starts");

    let mut clients = Client::start_all(&visit_to(pgvane.write_addr, lab.directory()));
    for client in &mut clients {
        client.wait_until_connected().await;
    }
    patronis[0].follows();
    metrics::wait_for_ends(&pgvane, "write", "cut", 3).await;
    for client in clients {
        client.end().await.shows_on_asking(&LOST_LEAD);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_reader_on_a_replica_that_is_promoted_gets_the_reason_at_its_next_query() {
    let lab = sound_cluster_of(Postgresql::Eighteen).await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.read_listener("fallback = \"none\"")).await;
    let visit = visit_to(pgvane.read_addr, lab.directory());
    // on each of the two replicas one of each kind
    let mut clients: Vec<Client> =
        [Client::start_all(&visit), Client::start_all(&visit)].into_iter().flatten().collect();
    for client in &mut clients {
        client.wait_until_connected().await;
    }
    let promoted = lab.switchover().await.expect("a switchover");
    metrics::wait_for_ends(&pgvane, "read", "drained", 3).await;
    let mut told_so = 0;
    for client in clients {
        let told = client.end().await;
        if told.is_an_error() {
            told.shows_on_asking(&PROMOTED);
            told_so += 1;
        }
    }
    assert_eq!(told_so, 3, "of the sessions, half were on {}, which was promoted", lab.nodes()[promoted].name);
}

fn visit_to(address: SocketAddr, directory: &Path) -> Visit {
    Visit { address, encryption: Encryption::None, directory: directory.to_owned() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Psql,
    Psycopg,
    NodePostgres,
}

/// A client that connects, asks, and waits before it asks again.
struct Client {
    kind: Kind,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Client {
    /// One of each kind.
    fn start_all(visit: &Visit) -> Vec<Client> {
        [Kind::Psql, Kind::Psycopg, Kind::NodePostgres].map(|kind| Client::start(kind, visit)).into()
    }

    fn start(kind: Kind, visit: &Visit) -> Client {
        let mut command = match kind {
            Kind::Psql => visit.psql(Postgresql::Eighteen),
            Kind::Psycopg => visit.python("psycopg_refusal.py"),
            Kind::NodePostgres => visit.node("node_postgres_refusal.js"),
        };
        if kind == Kind::Psql {
            command.args(["-c", "select 'connected'", "-f", "-"]);
        }
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("asked for"));
        Client { kind, child, output }
    }

    async fn wait_until_connected(&mut self) {
        let mut line = String::new();
        in_time("a session", self.output.read_line(&mut line)).await.expect("text");
        assert_eq!(line, "connected\n", "{:?}", self.kind);
    }

    /// Has it ask once more, if it is connected, and returns what it has been told.
    async fn end(mut self) -> Told {
        let mut input = self.child.stdin.take().expect("asked for");
        let _has_ended_already = input.write_all(b"select 1;\n").await;
        drop(input);
        let mut output = String::new();
        in_time("the end of a client", self.output.read_to_string(&mut output)).await.expect("text");
        let rest = in_time("the end of a client", self.child.wait_with_output()).await.expect("our child");
        if self.kind == Kind::Psql {
            return Told::psql(&rest.stderr);
        }
        let stderr = String::from_utf8_lossy(&rest.stderr);
        assert!(stderr.is_empty(), "{:?}: {stderr}", self.kind);
        let fields = output.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        Told { kind: self.kind, text: String::new(), fields }
    }
}

/// What a client shows of an error.
struct Told {
    kind: Kind,
    /// psql's words.
    text: String,
    /// What a program gets.
    fields: serde_json::Value,
}

impl Told {
    fn psql(stderr: &[u8]) -> Told {
        let text = String::from_utf8_lossy(stderr).into_owned();
        Told { kind: Kind::Psql, text, fields: serde_json::Value::Null }
    }

    fn is_an_error(&self) -> bool {
        !self.text.is_empty() || !self.fields.is_null()
    }

    /// libpq gives no fields, and no SQLSTATE, before there is a session.
    fn shows_on_connecting(&self, words: &Words) {
        match self.kind {
            Kind::Psql => shows_text(&self.text, words.message, words),
            Kind::Psycopg => shows_text(self.fields["text"].as_str().unwrap_or_default(), words.message, words),
            Kind::NodePostgres => self.shows_fields(words),
        }
    }

    fn shows_on_asking(&self, words: &Words) {
        match self.kind {
            Kind::Psql => shows_text(&self.text, &format!("{}: {}", words.sqlstate, words.message), words),
            Kind::Psycopg | Kind::NodePostgres => self.shows_fields(words),
        }
    }

    fn shows_fields(&self, words: &Words) {
        let field = |name: &str| self.fields[name].as_str();
        let shown = [field("severity"), field("sqlstate"), field("message"), field("detail"), field("hint")];
        let expected = [Some("FATAL"), Some(words.sqlstate), Some(words.message), words.detail, Some(words.hint)];
        assert_eq!(shown, expected, "{:?}: {}", self.kind, self.fields);
    }
}

fn shows_text(text: &str, first: &str, words: &Words) {
    let detail = words.detail.map(|detail| format!("DETAIL:  {detail}\n")).unwrap_or_default();
    let expected = format!("FATAL:  {first}\n{detail}HINT:  {}", words.hint);
    assert!(text.contains(&expected), "{expected:?} is not in:\n{text}");
}
