//! The list of sessions: its order, its filters, and one session that is picked from it and closed.

use serde_json::Value;

use crate::command_line::{FAILURE, OK, USAGE};
use crate::fake::FakeCluster;
use crate::figures::{status, wait_for_status};
use crate::operators::{Operator, session_on};
use crate::wire::{Session, Wire};
use pgvane_loadtest::messages::{PROTOCOL_3_0, startup};

async fn listed(operator: &Operator, arguments: &[&str]) -> Vec<Value> {
    let answer = operator.says(&[&["sessions", "--json"], arguments].concat()).await;
    answer.ended_with(OK);
    let answer: Value = serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}", answer.out));
    answer["sessions"].as_array().expect("is a list").clone()
}

#[tokio::test]
async fn one_session_is_closed_by_its_number_and_the_others_of_its_client_stay() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users).read_listener("fallback = \"none\"")).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let mut first = session_on(pgvane.read_addr, "node2").await;
    let second = session_on(pgvane.read_addr, "node2").await;
    wait_for_status(&pgvane, "two sessions", |status| status["clusters"][0]["nodes"][1]["sessions"] == 2).await;
    let before = listed(&operator, &[]).await;
    let id = before[1]["id"].to_string();

    let page = pgvane.admin_get("/stats/sessions").await.expect("is served").body;
    let link = format!("/stats/close?session={id}");
    assert!(page.contains(&format!("href=\"{link}\"")), "{page}");
    let question = pgvane.admin_get(&link).await.expect("is served").body;
    assert!(
        question.contains("Close 1 session?") && question.contains(&format!("session &#34;{id}&#34;")),
        "{question}"
    );

    let answer = operator.says(&["close", "--session", &id, "--yes"]).await;
    answer.ended_with(OK);
    assert_eq!(answer.out, "1 session closed\n");
    assert_eq!(second.wire.fatal().await.sqlstate().as_deref(), Some("57P01"));
    assert_eq!(first.value("who").await, "node2", "it stays");
    assert_eq!(status(&pgvane).await["operators"][0]["what"], format!("closed 1 session: session \"{id}\""));

    wait_for_status(&pgvane, "one session", |status| status["clusters"][0]["nodes"][1]["sessions"] == 1).await;
    let gone = operator.says(&["close", "--session", &id, "--yes"]).await;
    gone.ended_with(FAILURE);
    assert!(gone.err.contains(&format!("no session has the number {id}")), "{}", gone.err);
    let _third = session_on(pgvane.read_addr, "node2").await;
    let after = listed(&operator, &[]).await;
    assert_eq!(after[0]["id"], before[0]["id"], "a number stays the same");
    assert!(after.iter().all(|session| session["id"] != before[1]["id"]), "and is not given again: {after:?}");
}

#[tokio::test]
async fn sessions_are_sorted_and_found_by_their_state() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let configured = |pgvane: pgvane_loadtest::pgvane::PgvaneBuilder| {
        pgvane.admin(&users).top("drain_timeout = \"1h\"").read_listener("fallback = \"none\"")
    };
    let pgvane = cluster.pgvane(configured).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let log_in = async |server, user: &str| {
        Wire::to(server).await.log_in(&startup(PROTOCOL_3_0, &[("user", user), ("database", "shop")])).await
    };
    let _zoe = log_in(pgvane.write_addr, "zoe").await;
    let mut bob: Session = log_in(pgvane.read_addr, "bob").await;
    bob.ask("begin").await;
    let _ann = log_in(pgvane.write_addr, "ann").await;
    wait_for_status(&pgvane, "three sessions", |status| {
        let on = |node: usize| status["clusters"][0]["nodes"][node]["sessions"].as_u64().unwrap_or(0);
        on(0) + on(1) == 3
    })
    .await;
    let users = async |arguments: &[&str]| {
        let sessions = listed(&operator, arguments).await;
        sessions.iter().map(|one| one["user"].as_str().expect("a name").to_owned()).collect::<Vec<String>>()
    };
    assert_eq!(users(&[]).await, ["zoe", "bob", "ann"], "the oldest first");
    assert_eq!(users(&["--sort", "user"]).await, ["ann", "bob", "zoe"]);
    assert_eq!(users(&["--sort", "user", "--max", "2"]).await, ["ann", "bob"], "the first of all, not of the oldest");
    assert_eq!(users(&["--sort", "bytes"]).await[0], "bob");
    operator.says(&["drain", "node2"]).await.ended_with(OK);
    assert_eq!(users(&["--state", "draining"]).await, ["bob"]);
    assert_eq!(users(&["--state", "open", "--sort", "user"]).await, ["ann", "zoe"]);
    for wrong in [["--sort", "size"], ["--state", "idle"]] {
        operator.says(&["sessions", wrong[0], wrong[1]]).await.ended_with(USAGE);
    }
    let answer = pgvane.admin_get("/api/sessions?sort=size").await.expect("is served");
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("unknown order \"size\": expected one of age, bytes"), "{}", answer.body);
    let page = pgvane.admin_get("/stats/sessions?sort=user").await.expect("is served").body;
    let place = |user: &str| page.find(&format!("<td>{user}</td>")).unwrap_or_else(|| panic!("no {user}: {page}"));
    assert!(place("ann") < place("bob") && place("bob") < place("zoe"));
    assert!(page.contains("<option selected>user</option>"), "{page}");
}

#[tokio::test]
async fn clients_that_wait_are_listed_with_the_reason_until_they_are_served() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin(&users).hold_max("60s")).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let none = operator.says(&["sessions", "--held"]).await;
    none.ended_with(OK);
    assert_eq!(none.out, "no client waits for a node\n");
    operator.says(&["drain", "node1", "--leader"]).await.ended_with(OK);
    let packet = startup(PROTOCOL_3_0, &[("user", "zoe"), ("database", "shop")]);
    let server = pgvane.write_addr;
    let waiting = tokio::spawn(async move { Wire::to(server).await.log_in(&packet).await });
    wait_for_status(&pgvane, "a client that waits", |status| status["listeners"][0]["held"] == 1).await;

    let answer = operator.says(&["sessions", "--held"]).await;
    answer.ended_with(OK);
    let why = "no leader: node1 is the leader and is drained by an operator";
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", answer.out);
    assert!(lines[1].starts_with("127.0.0.1:") && lines[1].contains("  zoe   shop      write "), "{}", answer.out);
    let answer = operator.says(&["sessions", "--held", "--json"]).await;
    let json: Value = serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {}", answer.out));
    let held = &json["held"][0];
    assert_eq!((&json["total"], &held["listener"], &held["user"]), (&1.into(), &"write".into(), &"zoe".into()));
    assert!(
        held["seconds"].as_f64() > Some(0.0) && held["reason"].as_str().is_some_and(|told| !told.is_empty()),
        "{json}"
    );
    let page = pgvane.admin_get("/stats/sessions").await.expect("is served").body;
    assert!(page.contains("clients that wait for a node") && page.contains("<td>zoe</td>"), "{page}");
    assert!(
        lines[1].ends_with(held["reason"].as_str().expect("a text")),
        "{}, expected something like {why}",
        lines[1]
    );

    operator.says(&["ready", "node1"]).await.ended_with(OK);
    let _session = waiting.await.expect("is served");
    assert_eq!(operator.says(&["sessions", "--held"]).await.out, "no client waits for a node\n");
    let page = pgvane.admin_get("/stats/sessions").await.expect("is served").body;
    assert!(!page.contains("clients that wait for a node"), "{page}");
}
