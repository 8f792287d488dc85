//! Roles that can be trusted, on the real cluster: silence, a hung server, a lost DCS, pause mode, a replica that lags.
//!
//! Each test is named after what users of other balancers have complained of.

use std::time::Duration;

use pgvane_loadtest::http;
use pgvane_loadtest::lab::{Frozen, Lab};
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::reader::Reader;
use pgvane_loadtest::wait;

use super::port_of;
use crate::metrics;
use crate::stage::{Load, PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{SOON, Session};

/// Longer than any hiccup of Patroni's API that users have reported to have cost them their sessions.
const SILENCE: Duration = Duration::from_secs(15);

/// patroni#2263, patroni#3474: the API falls silent for a while, and every session of a healthy server is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: make test-long"]
async fn fifteen_seconds_without_an_answer_of_the_leaders_api_affect_no_session() {
    let lab = sound_cluster().await;
    // the lock must outlast the silence, or Patroni itself would have the leader replaced
    lab.patronictl(&["edit-config", "--set", "ttl=60", "--force"]).await.expect("is set");
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.cluster("leader_grace = \"50s\"")).await;
    let (leader, _) = leader_and_replicas(&lab).await;
    let load = Load::start(&lab, &pgvane).await;

    lab.freeze_patroni(leader).expect("it runs");
    metrics::wait_for(&pgvane, &up(&lab, leader), 0.0).await;
    // how long it lasts is the very fault here: there is no condition to wait for
    tokio::time::sleep(SILENCE).await;
    load.flows().await;
    Login::App.connect(pgvane.write_addr, SOON).await.expect("new sessions are let in as well");
    lab.thaw_patroni(leader).expect("it is there");
    metrics::wait_for(&pgvane, &up(&lab, leader), 1.0).await;

    let seen = load.finish_once_it_flows(leader).await;
    lab.patronictl(&["edit-config", "--set", "ttl=20", "--force"]).await.expect("is set");
    assert!(seen.failures().is_empty(), "{:#?}", seen.failures());
}

/// A postmaster that hangs accepts connections and answers none; its running sessions go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_postmaster_delays_new_sessions_and_does_not_affect_running_ones() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.hold_max("30s").write_listener("login_timeout = \"500ms\"")).await;
    let (leader, _) = leader_and_replicas(&lab).await;
    let mut running = Session::through(pgvane.write_addr).await;

    lab.freeze_postgres(leader, Frozen::Postmaster).expect("it runs");
    let write_addr = pgvane.write_addr;
    let newcomer = tokio::spawn(async move { Login::App.connect(write_addr, Duration::from_secs(30)).await });
    wait_for_at_least(&pgvane, "pgvane_connect_retries_total{listener=\"write\"}", 1.0).await;
    assert_eq!(running.value("select 1 + 1").await, "2");
    lab.thaw_postgres(leader);
    let newcomer = newcomer.await.expect("no panic").expect("is served in the end");
    assert_eq!(port_of(&newcomer).await, lab.nodes()[leader].pg.port());
    assert_eq!(running.value("select 2 + 2").await, "4");
}

/// When the DCS is gone, Patroni demotes its leader rather than risk two: there is no leader until it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_dcs_is_a_pause() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.hold_max("60s")).await;
    let load = Load::start(&lab, &pgvane).await;

    lab.stop_dcs();
    wait_until_leaderless(&pgvane).await;
    lab.start_dcs().await.expect("it starts");
    let leader = lab.wait_for_leader(PATRONI_WITHIN).await.expect("a leader again");
    let seen = load.finish_once_it_flows(leader).await;
    seen.it_was_a_pause(&lab).await;
}

/// In pause mode Patroni leaves PostgreSQL alone, even without its DCS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes over half a minute: make test-long"]
async fn a_paused_cluster_outlives_its_dcs_and_is_shown_as_paused() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let (leader, _) = leader_and_replicas(&lab).await;
    lab.pause().await.expect("is paused");
    wait_for_page(&pgvane, "Patroni is paused").await;

    let load = Load::start(&lab, &pgvane).await;
    lab.stop_dcs();
    wait_until_rest_says(&lab, leader, "\"cluster_unlocked\": true").await;
    load.flows().await;
    lab.start_dcs().await.expect("it starts");
    lab.resume().await.expect("goes on");
    let seen = load.finish_once_it_flows(leader).await;
    assert!(seen.failures().is_empty(), "{:#?}", seen.failures());
}

/// A replica whose replay stands still leaves the pool by its lag, keeps its sessions, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_replica_leaves_the_pool_and_returns() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.read_listener("lag_max = \"1MB\"")).await;
    let (leader, [slow, other]) = leader_and_replicas(&lab).await;
    let (slow_port, other_port) = (lab.nodes()[slow].pg.port(), lab.nodes()[other].pg.port());
    let mut parked = Vec::new();
    for _ in 0..2 {
        let client = Login::App.connect(pgvane.read_addr, SOON).await.expect("a session");
        parked.push((port_of(&client).await, client));
    }

    let direct = lab.connect_direct(slow).await.expect("it runs");
    direct.batch_execute("select pg_wal_replay_pause()").await.expect("takes the order");
    wait::until("a replica that replays nothing", SOON, || async {
        let state = direct.query_one("select pg_get_wal_replay_pause_state()", &[]).await;
        match state.map_err(|error| error.to_string())?.get(0) {
            "paused" => Ok(()),
            state => Err(format!("it is {state}")),
        }
    })
    .await
    .expect("is paused");
    let writer = lab.connect_direct(leader).await.expect("it runs");
    let bulk = "create table if not exists bulk as select repeat('x', 1000) from generate_series(1, 5000)";
    writer.batch_execute(bulk).await.expect("writes 5 MB");
    let lag = format!("pgvane_node_lag_bytes{{cluster=\"main\",node=\"{}\"}}", lab.nodes()[slow].name);
    wait_for_at_least(&pgvane, &lag, f64::from(1 << 20)).await;
    let reader = Reader::to(pgvane.read_addr);
    // 5 MB at once may be too much for the other one as well, for a moment; the leader then stands in
    wait::until("the replica that keeps up", PATRONI_WITHIN, || async {
        let visit = reader.visit().await.map_err(|error| format!("{error:?}"))?;
        assert_ne!(visit.port, slow_port, "a replica 5 MB behind was read from");
        if visit.port == other_port { Ok(()) } else { Err(format!("port {}", visit.port)) }
    })
    .await
    .expect("serves");
    for _ in 0..20 {
        let visit = reader.visit().await.expect("the other replica serves");
        assert_eq!(visit.port, other_port, "a replica 5 MB behind was read from");
    }
    for (port, client) in parked {
        assert_eq!(port_of(&client).await, port, "lag ends no session");
    }

    direct.batch_execute("select pg_wal_replay_resume()").await.expect("goes on");
    let returning = reader.start();
    returning.wait_for_answer_of(slow_port, PATRONI_WITHIN).await.expect("it is back");
    let report = returning.finish().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    writer.batch_execute("drop table bulk").await.expect("is tidied up");
}

/// What happened is on record: who, whom, for how long, and how many were held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_on_record() {
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.hold_max("30s")).await;
    let (old, _) = leader_and_replicas(&lab).await;
    let load = Load::start(&lab, &pgvane).await;
    let new = lab.switchover().await.expect("a switchover");
    load.finish_once_it_flows(new).await;

    let events = pgvane.admin_get("/api/events").await.expect("is served").body;
    let events: serde_json::Value = serde_json::from_str(&events).expect("is JSON");
    let newest = &events["main"][0];
    assert_eq!(newest["from"], lab.nodes()[old].name.as_str(), "{events:#}");
    assert_eq!(newest["to"], lab.nodes()[new].name.as_str(), "{events:#}");
    assert!(newest["leaderless_ms"].as_u64().expect("is measured") > 100, "{events:#}");
    assert!(newest["held_max"].as_u64().expect("is counted") >= 1, "{events:#}");
    assert!(newest["first_session_ms"].is_u64(), "{events:#}");
    assert!(pgvane.admin_get("/stats").await.expect("is served").body.contains("leader changes"));
}

// ---------------------------------------------------------------------------------------------------------------------

pub fn up(lab: &Lab, node: usize) -> String {
    format!("pgvane_node_up{{cluster=\"main\",node=\"{}\"}}", lab.nodes()[node].name)
}

pub async fn wait_for_at_least(pgvane: &Pgvane, series: &str, least: f64) {
    let look = || async {
        let seen = metrics::value(pgvane, series).await;
        if seen >= least { Ok(()) } else { Err(format!("it is {seen}")) }
    };
    wait::until(&format!("{series} ≥ {least}"), SOON, look).await.unwrap_or_else(|error| panic!("{error}"));
}

/// Patroni gives the lead up after its retry_timeout, and a moment to stop PostgreSQL.
async fn wait_until_leaderless(pgvane: &Pgvane) {
    let look = || async {
        match metrics::value(pgvane, "pgvane_cluster_has_leader{cluster=\"main\"}").await {
            0.0 => Ok(()),
            seen => Err(format!("it is {seen}")),
        }
    };
    wait::until("no leader", PATRONI_WITHIN, look).await.unwrap_or_else(|error| panic!("{error}"));
}

pub async fn wait_for_page(pgvane: &Pgvane, words: &str) {
    let look = || async {
        let page = pgvane.admin_get("/stats").await.map_err(|error| error.to_string())?.body;
        if page.contains(words) { Ok(()) } else { Err(page) }
    };
    wait::until(words, SOON, look).await.unwrap_or_else(|error| panic!("{error}"));
}

async fn wait_until_rest_says(lab: &Lab, node: usize, words: &str) {
    let look = || async {
        let answer = http::get(lab.nodes()[node].rest, "/patroni", SOON).await.map_err(|error| error.to_string())?;
        if answer.body.contains(words) { Ok(()) } else { Err(answer.body) }
    };
    wait::until(words, PATRONI_WITHIN, look).await.unwrap_or_else(|error| panic!("{error}"));
}
