//! Clients' addresses on their way to a real server: through one pgvane and another, and by Unix sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use pgvane_loadtest::lab::{Lab, Node};
use pgvane_loadtest::messages::{PROTOCOL_3_0, cancel_request, query, startup};
use pgvane_loadtest::pgvane::Pgvane;
use tokio::sync::MappedMutexGuard;

use crate::binary;
use crate::metrics;
use crate::stage::{leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{Message, SOON, Session, Wire};

/// A host of its own, as far as the servers can tell.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// Two of them in a row before a real leader: the one in front tells the one behind whom it speaks for.
struct Chain {
    lab: MappedMutexGuard<'static, Lab>,
    front: Pgvane,
    behind: Pgvane,
}

impl Chain {
    async fn new() -> Chain {
        let lab = sound_cluster().await;
        let behind = pgvane_before(&lab, |pgvane| {
            let pgvane = pgvane.top("log = { level = \"debug\" }");
            let pgvane = pgvane.write_listener("proxy_protocol = { trusted = [\"127.0.0.1\"] }");
            pgvane.write_listener("application_name_add_host = true")
        });
        let behind = behind.await;
        // what the one behind serves is the leader, whichever node that is: PostgreSQL says so itself
        let (leader, _) = leader_and_replicas(&lab).await;
        let node = Node::elsewhere("behind", behind.write_addr, lab.nodes()[leader].rest);
        let front = Pgvane::builder(&binary::pgvane(), &[node]);
        let front = front.top("log = { level = \"debug\" }").cluster("check = \"sql\"").cluster("send_proxy = \"v2\"");
        let front = front.cluster("[cluster.sql]\nuser = \"trusting\"\ndatabase = \"app\"\nsslmode = \"disable\"");
        let front = front.start(lab.directory()).await.unwrap_or_else(|error| panic!("{error}"));
        metrics::wait_for(&front, "pgvane_cluster_has_leader{cluster=\"main\"}", 1.0).await;
        Chain { lab, front, behind }
    }

    async fn session(&self) -> (Session, SocketAddr) {
        let (wire, address) = Wire::from(CLIENT, self.front.write_addr).await;
        let opening = startup(PROTOCOL_3_0, &[("user", "trusting"), ("database", "app"), ("application_name", "shop")]);
        (wire.log_in(&opening).await, address)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_address_is_known_behind_two_pgvanes() {
    let chain = Chain::new().await;
    let (mut session, client) = chain.session().await;
    let named = session.value("select application_name from pg_stat_activity where pid = pg_backend_pid()").await;
    assert_eq!(named, format!("shop - {client}"));

    // the notice says that the query runs: a cancel that comes before it does nothing
    session.wire.send(&query("do $$ begin raise notice 'asleep'; perform pg_sleep(60); end $$")).await;
    let answer = session.wire.messages_until(b'N').await;
    assert_eq!(answer.last().map(|message| message.kind), Some(b'N'), "the query does not run: {answer:?}");
    let (mut canceller, _) = Wire::from(CLIENT, chain.front.write_addr).await;
    canceller.send(&cancel_request(&session.key)).await;
    canceller.rest().await;
    let answer = session.wire.messages_until(b'Z').await;
    let ended = answer.iter().find_map(Message::sqlstate);
    assert_eq!(ended.as_deref(), Some("57014"), "the cancel goes all the way: {answer:?}");

    drop(session);
    let line = format!("session ended: the client closed the session listener=write peer={client} ");
    for pgvane in [&chain.front, &chain.behind] {
        pgvane.wait_for_log(&line, 0, SOON).await.expect("the client is logged under its own address");
    }
    // the checks of the one in front speak for nobody but itself, and are let in
    let log = chain.behind.log_text();
    assert!(!log.contains("no PROXY protocol header"), "{log}");
    drop(chain.lab);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_comes_by_a_unix_socket() {
    let lab = sound_cluster().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join(".s.PGSQL.6432");
    let listener = format!("[[listener]]\nname = \"local\"\nbind = \"unix:{}\"\ntarget = \"leader\"", file.display());
    let _pgvane = pgvane_before(&lab, |pgvane| pgvane.more(&listener)).await;
    let (leader, _) = leader_and_replicas(&lab).await;

    // 20 MB, most of which the kernel moves by itself
    let statement = "select inet_server_port(); select repeat('x', 1000) from generate_series(1, 20000)";
    let answer = psql(directory.path(), statement);
    let mut lines = answer.lines();
    assert_eq!(lines.next(), Some(lab.nodes()[leader].pg.port().to_string().as_str()));
    assert_eq!(lines.filter(|line| line.len() == 1000 && line.bytes().all(|byte| byte == b'x')).count(), 20_000);
}

fn psql(directory: &Path, statement: &str) -> String {
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-h"]).arg(directory).args(["-p", "6432", "-U", "app", "-d", "app"]);
    let output = command.args(["-c", statement]).env("PGPASSWORD", "app").output().expect("psql is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("is text")
}
