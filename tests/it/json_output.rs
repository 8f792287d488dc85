//! The JSON that commands print for scripts: also in place of a sentence, and also if the command fails.

use serde_json::{Value, json};

use crate::command_line::{Answer, FAILURE, OK};
use crate::fake::FakeCluster;
use crate::figures::wait_for_status;
use crate::operators::{Operator, session_on};

fn parsed(answer: &Answer) -> Value {
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {:?}", answer.out))
}

#[tokio::test]
async fn commands_that_change_something_print_json_of_what_they_have_changed() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let configured = |pgvane: pgvane_loadtest::pgvane::PgvaneBuilder| {
        pgvane.admin(&users).top("drain_timeout = \"1h\"").read_listener("fallback = \"none\"")
    };
    let pgvane = cluster.pgvane(configured).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let mut busy = session_on(pgvane.read_addr, "node2").await;
    busy.ask("begin").await;

    let answer = operator.says(&["weight", "node2", "50", "--json"]).await;
    answer.ended_with(OK);
    let weight = json!({"cluster": "main", "node": "node2", "weight": 50, "was": 100, "configured": 100});
    assert_eq!(parsed(&answer), weight);
    let answer = operator.says(&["drain", "node2", "--json"]).await;
    answer.ended_with(OK);
    let drained = |state: &str, was: &str, sessions: u32| json!({"cluster": "main", "node": "node2", "state": state, "was": was, "sessions": sessions});
    assert_eq!(parsed(&answer), drained("drain", "ready", 1));
    let answer = operator.says(&["maint", "node2", "--json", "--wait", "10ms"]).await;
    answer.ended_with(FAILURE);
    assert_eq!(parsed(&answer), drained("maint", "drain", 1), "the session that is left is told");
    assert!(answer.err.contains("node2 still has 1 session(s)"), "{}", answer.err);

    let answer = operator.says(&["close", "--node", "node2", "--yes", "--json"]).await;
    answer.ended_with(OK);
    assert_eq!(parsed(&answer), json!({"closed": 1}));
    wait_for_status(&pgvane, "no session", |status| status["clusters"][0]["nodes"][1]["sessions"] == 0).await;
    let answer = operator.says(&["drain", "node2", "--json", "--wait", "10s"]).await;
    answer.ended_with(OK);
    assert_eq!(parsed(&answer), drained("drain", "maint", 0));
    let answer = operator.says(&["ready", "node2", "--json"]).await;
    answer.ended_with(OK);
    assert_eq!(parsed(&answer), drained("ready", "drain", 0));
}

#[tokio::test]
async fn a_health_check_prints_json_also_of_what_is_wrong() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    let admin = format!("http://{}", pgvane.admin_addr);
    let ask = async |arguments: &[&str], admin: &str| {
        let arguments = [&["healthcheck", "--json", "--admin", admin], arguments].concat();
        crate::operators::run(&arguments).await
    };
    assert_eq!(parsed(&ask(&[], &admin).await), json!({"alive": true}));
    assert_eq!(parsed(&ask(&["--ready"], &admin).await), json!({"ready": true}));
    cluster[0].patroni.closes().await;
    wait_for_status(&pgvane, "a silent node", |status| status["clusters"][0]["nodes"][0]["health"] == "silent").await;
    let answer = ask(&["--ready"], &admin).await;
    answer.ended_with(FAILURE);
    let reason = "not ready: no node of cluster \"main\" answers its checks";
    assert_eq!(parsed(&answer), json!({"ready": false, "reason": reason}));
    let nowhere = format!("http://{}", pgvane_loadtest::ports::free().expect("a port"));
    let answer = ask(&[], &nowhere).await;
    answer.ended_with(FAILURE);
    assert_eq!(parsed(&answer)["alive"], false);
}
