//! What the stats page and its JSON say when something is wrong, before fakes.

use pgvane_loadtest::pgvane::{Pgvane, PgvaneBuilder};
use pgvane_loadtest::wait;
use serde_json::{Value, json};

use crate::fake::FakeCluster;
use crate::metrics;
use crate::operators::Operator;
use crate::wire::{SOON, Session, Wire};

/// The stats page.
async fn page(pgvane: &Pgvane) -> String {
    pgvane.admin_get("/stats").await.expect("is served").body
}

/// The row of a node.
fn row_of<'p>(page: &'p str, node: &str) -> &'p str {
    let start = page.find(&format!("id=\"main/{node}\"")).unwrap_or_else(|| panic!("no {node} on\n{page}"));
    let row = &page[start..];
    &row[..row.find("</tr>").expect("rows end")]
}

/// The state as JSON.
async fn status(pgvane: &Pgvane) -> Value {
    let body = pgvane.admin_get("/api/status").await.expect("is served").body;
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Waits until the JSON is as wanted.
async fn wait_for_status(pgvane: &Pgvane, wanted: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let look = || async {
        let status = status(pgvane).await;
        if is_wanted(&status) { Ok(status) } else { Err(format!("{status:#}")) }
    };
    wait::until(wanted, SOON, look).await.unwrap_or_else(|error| panic!("{error}"))
}

// ---- the lead -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_dead_leader_is_not_green_and_the_page_says_for_how_long_it_has_been_silent_and_why() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.cluster("leader_grace = \"1h\"")).await;
    assert!(row_of(&page(&pgvane).await, "node1").contains("badge serves\">leader<"));

    cluster[0].patroni.closes().await;
    let status = wait_for_status(&pgvane, "a silent leader", |status| status["clusters"][0]["lead"] == "silent").await;
    let node = &status["clusters"][0]["nodes"][0];
    assert_eq!((&node["health"], &node["check_error"]), (&"silent".into(), &"connection refused".into()), "{node:#}");
    let silent = node["silent_seconds"].as_f64().expect("is known");
    let left = status["clusters"][0]["grace_left_seconds"].as_f64().expect("is known");
    assert!(silent > 0.0 && (3599.9..3600.1).contains(&(left + silent)), "{status:#}");

    let page = page(&pgvane).await;
    let row = row_of(&page, "node1");
    assert!(!row.contains("badge serves") && !row.contains("badge good"), "{row}");
    assert!(
        row.contains(">leader, silent<") && row.contains("silent for ") && row.contains("connection refused"),
        "{row}"
    );
    for words in ["node1 is the leader and has been silent for", "(connection refused)", "(leader_grace)"] {
        assert!(page.contains(words), "{words:?} is not on\n{page}");
    }
    assert!(!page.contains("node1 has been the leader for"), "{page}");
    let age = |status: &Value| status["clusters"][0]["nodes"][0]["answer_age_seconds"].as_f64().expect("is known");
    let before = age(&status);
    wait_for_status(&pgvane, "a last answer that ages", |status| age(status) > before + 0.5).await;
}

#[tokio::test]
async fn in_a_split_brain_no_node_is_green() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane).await;
    cluster[1].patroni.leads(1);
    metrics::wait_for(&pgvane, "pgvane_cluster_contested{cluster=\"main\"}", 1.0).await;
    let page = page(&pgvane).await;
    for node in ["node1", "node2"] {
        let row = row_of(&page, node);
        assert!(row.contains("badge bad\">claims to lead<"), "{row}");
    }
    assert!(page.contains("split brain for"), "{page}");
    assert_eq!(status(&pgvane).await["clusters"][0]["lead"], "contested");
}

// ---- drains ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_drain_that_does_not_end_tells_which_clients_are_left() {
    let cluster = FakeCluster::of(2).await;
    let users = Operator::line(cluster.directory());
    let configured =
        |pgvane: PgvaneBuilder| pgvane.top("drain_timeout = \"1h\"").admin(&users).read_listener("fallback = \"none\"");
    let pgvane = cluster.pgvane(configured).await;
    let operator = Operator::at(&pgvane, cluster.directory());
    let mut session = Session::through(pgvane.read_addr).await;
    session.ask("begin").await;
    assert_eq!(status(&pgvane).await["clusters"][0]["nodes"][1]["left"], json!([]), "nothing is drained");

    let waiting = operator.says(&["drain", "node2", "--wait", "10ms"]).await;
    assert!(waiting.err.contains("node2 still has 1 session(s)\n  127.0.0.1:"), "{}", waiting.err);
    let status = status(&pgvane).await;
    let left = &status["clusters"][0]["nodes"][1]["left"][0];
    let client = left["client"].as_str().expect("is known");
    assert!(client.starts_with("127.0.0.1:") && left["state"] == "draining", "{left:#}");
    let user = left["user"].as_str().expect("is known");
    assert!(!user.is_empty() && left["listener"] == "read", "{left:#}");
    let page = page(&pgvane).await;
    assert!(page.contains("sessions left on node2") && page.contains(client), "{page}");
    pgvane.wait_for_log("sessions are left on the node", 0, SOON).await.expect("is logged");
    assert!(pgvane.log_text().contains(&format!("{client} user")), "{}", pgvane.log_text());
}

// ---- who gets the reads ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_replica_excluded_for_lag_and_reads_on_the_leader_are_reported_everywhere() {
    let cluster = FakeCluster::of(2).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.read_listener("fallback = \"leader\"\nlag_max = \"1MB\"")).await;
    let lags = "pgvane_listener_node_excluded_for_lag{listener=\"read\",node=\"node2\"}";
    let fallback = "pgvane_listener_fallback{listener=\"read\"}";
    for series in [lags, fallback] {
        metrics::wait_for(&pgvane, series, 0.0).await;
    }
    let xlog = json!({"received_location": 67_110_128, "replayed_location": 60_000_000});
    cluster[1].patroni.says(503, json!({"role": "replica", "xlog": xlog, "replication_state": "streaming"}));
    for series in [lags, fallback] {
        metrics::wait_for(&pgvane, series, 1.0).await;
    }
    let status = status(&pgvane).await;
    let read = &status["listeners"][1];
    assert_eq!((&read["fallback"], &read["excluded"][0]["node"]), (&"node1".into(), &"node2".into()), "{read:#}");
    assert_eq!(read["excluded"][0]["reason"], "lag");
    let page = page(&pgvane).await;
    let why = "no new sessions of read: too far behind the leader within the last seconds: 6.8 MB (lag_max 1.0 MB)";
    assert!(row_of(&page, "node2").contains(why), "{page}");
    assert!(page.contains("no replica can serve: new sessions go to the leader, node1"), "{page}");
    pgvane.wait_for_log("replica gets no new sessions", 0, SOON).await.expect("is logged");
    pgvane.wait_for_log("no replica can serve: new sessions go to the leader", 0, SOON).await.expect("is logged");

    cluster[1].patroni.follows();
    for series in [lags, fallback] {
        metrics::wait_for(&pgvane, series, 0.0).await;
    }
    pgvane.wait_for_log("replica gets new sessions again", 0, SOON).await.expect("is logged");
    pgvane.wait_for_log("new sessions no longer go to the leader", 0, SOON).await.expect("is logged");
}

// ---- who may read it ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_request_for_another_host_name_is_refused_and_health_checks_are_answered() {
    let cluster = FakeCluster::of(1).await;
    let pgvane = cluster.pgvane(|pgvane| pgvane.admin("hosts = [\"pgvane.example.com\"]")).await;
    let admin = pgvane.admin_addr;
    let own = format!("Host: {admin}\r\n");
    let ask = async |version: &str, method: &str, path: &str, host: &str| {
        let mut client = Wire::to(admin).await;
        client.send(format!("{method} {path} HTTP/{version}\r\n{host}Connection: close\r\n\r\n").as_bytes()).await;
        String::from_utf8_lossy(&client.rest().await).into_owned()
    };
    let good = [
        own.as_str(),
        "",
        "Host: localhost:8404\r\n",
        "Host: pgvane.example.com\r\n",
        "Host: [::1]:8404\r\n",
        "Host: 192.0.2.1\r\n",
    ];
    for path in ["/", "/stats", "/api/status", "/api/events"] {
        for host in good {
            let answer = ask("1.0", "GET", path, host).await;
            assert!(answer.starts_with("HTTP/1.0 200"), "{path} {host}: {answer}");
        }
        for host in ["Host: evil.example:8404\r\n", "Host: 127.0.0.1.evil.example\r\n"] {
            let answer = ask("1.1", "GET", path, host).await;
            assert!(answer.starts_with("HTTP/1.1 421"), "{path} {host}: {answer}");
            assert!(answer.contains("evil.example") && answer.contains("`hosts` in [admin]"), "{answer}");
            assert!(answer.contains("content-type: text/plain") && !answer.contains("node1"), "{answer}");
        }
    }
    let action = ask("1.1", "POST", "/api/nodes/main/node1/state", "Host: evil.example\r\n").await;
    assert!(action.starts_with("HTTP/1.1 421"), "{action}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        for (method, host) in [("OPTIONS", ""), ("GET", "Host: haproxy-check\r\n"), ("HEAD", "Host: pgvane:8404\r\n")] {
            let answer = ask("1.0", method, path, host).await;
            assert!(answer.starts_with("HTTP/1.0 200"), "{method} {path} {host}: {answer}");
        }
    }
}
