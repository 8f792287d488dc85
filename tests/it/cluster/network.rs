//! A node that pgvane alone cannot reach: the cluster is sound and sees itself, and the network between pgvane and one
//! node is cut.
//!
//! pgvane runs in a network namespace of its own; the cuts are made in there. That takes root: elsewhere these tests say
//! so and pass.

use std::io::Write;
use std::time::{Duration, Instant};

use pgvane_loadtest::failure::{Failure, FailureClass};
use pgvane_loadtest::http;
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::messages::query;
use pgvane_loadtest::namespace::{self, Cut, Namespace};
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::reader::{Reader, Visit};
use pgvane_loadtest::writer::Writer;
use tokio::task::JoinHandle;

use super::roles::{up, wait_for_at_least, wait_for_page};
use crate::metrics;
use crate::stage::{PATRONI_WITHIN, leader_and_replicas, pgvane_before, sound_cluster};
use crate::wire::{SOON, Session};

/// How long the leader is out of reach: longer than it takes to call it silent, much shorter than `leader_grace` and
/// `tcp_user_timeout`.
const CUT: Duration = Duration::from_secs(8);

/// Longer than any cut: a client that does not give up by itself.
const PATIENT: Duration = Duration::from_secs(60);

/// How long a visit may take that tries the node out of reach first: `connect_timeout` as it is set here, and as much
/// as a debug build needs beside three busy servers on two cores.
const VISIT_MAX: Duration = Duration::from_millis(2000);

/// What following a leader may take on top of the cluster's own gap if the old one is out of reach: a check's interval
/// of 1 s, in which the new one's first word falls, and the time to connect.
const FOLLOWED_WITHIN: Duration = Duration::from_millis(2000);

/// A short cut between pgvane and the leader is a pause: the leader has not been replaced, so nothing else may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_out_of_reach_for_eight_seconds_keeps_its_sessions_and_its_role() {
    let Some(host) = own_host() else { return };
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.in_namespace(&host).hold_max("30s")).await;
    let (leader, replicas) = leader_and_replicas(&lab).await;
    let leaders_port = lab.nodes()[leader].pg.port();
    let mut parked = Session::through(pgvane.write_addr).await;
    parked.ask("begin").await;
    let writers = ["one", "other"].map(|name| Writer::to(name, pgvane.write_addr).answer_within(PATIENT).start());
    for writer in &writers {
        writer.wait_for_acks(20, SOON).await.expect("writes flow");
    }
    let readers = [(); 2].map(|()| Reader::to(pgvane.read_addr).start());
    let log = pgvane.log_text().len();

    host.cut_off(&lab.nodes()[leader], Cut::Silent).expect("is cut");
    let cut = Instant::now();
    let newcomers: Vec<_> = (0..10).map(|_| visitor(&pgvane)).collect();
    wait_for_at_least(&pgvane, "pgvane_sessions_held{listener=\"write\"}", 10.0).await;
    metrics::wait_for(&pgvane, &up(&lab, leader), 0.0).await;
    let noticed = cut.elapsed();
    for reader in &readers {
        for replica in replicas {
            let port = lab.nodes()[replica].pg.port();
            reader.wait_for_answer_of(port, SOON).await.expect("both replicas serve on");
        }
    }
    // how long it lasts is the very fault here: there is no condition to wait for
    tokio::time::sleep(CUT.saturating_sub(cut.elapsed())).await;
    assert_eq!(metrics::value(&pgvane, "pgvane_cluster_has_leader{cluster=\"main\"}").await, 1.0);
    assert!(newcomers.iter().all(|newcomer| !newcomer.is_finished()), "somebody was let in, or refused");

    host.heal().expect("is whole again");
    let healed = Instant::now();
    for writer in &writers {
        writer.wait_for_acks(20, SOON).await.expect("the same sessions go on");
    }
    let written = healed.elapsed();
    for newcomer in newcomers {
        let visit = newcomer.await.expect("no panic").expect("is served in the end");
        assert_eq!((visit.port, visit.in_recovery), (leaders_port, false), "sent to another than the leader");
    }
    println!("silent after {noticed:?}; after the cut writes flowed within {written:?}"); // seen with --nocapture
    assert_eq!(parked.value("select 1 + 1").await, "2");
    assert_eq!(parked.ask("commit").await[0].body, b"COMMIT\0");
    metrics::wait_for(&pgvane, &up(&lab, leader), 1.0).await;

    let told = pgvane.log_text().split_off(log);
    for words in ["new leader", "no leader", "session ended"] {
        assert!(!told.contains(words), "{words:?} in:\n{told}");
    }
    for writer in writers {
        let report = writer.finish().await;
        assert!(report.failures.is_empty(), "{}: {:#?}", report.name, report.failures);
        let missing = report.missing_rows(&lab).await.expect("the table is there");
        assert!(missing.is_empty(), "{}: acknowledged and not there: {missing:?}", report.name);
    }
    for reader in readers {
        let report = reader.finish().await;
        assert!(report.failures.is_empty(), "{:#?}", report.failures);
        assert!(report.visits.iter().all(|visit| visit.in_recovery), "the leader was read from");
    }
}

/// A replica that packets do not reach costs those visitors one `connect_timeout` who are on their way to it when it is
/// cut off, and whoever comes after the first of them has failed nothing at all. One that answers with resets costs nobody
/// anything but those who are on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_out_of_reach_is_passed_over_and_found_again() {
    let Some(host) = own_host() else { return };
    let lab = sound_cluster().await;
    let hasty = "connect_timeout = \"500ms\"";
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.in_namespace(&host).read_listener(hasty)).await;
    let (_, [lost, other]) = leader_and_replicas(&lab).await;
    let (lost_port, other_port) = (lab.nodes()[lost].pg.port(), lab.nodes()[other].pg.port());
    let readers = [(); 2].map(|()| Reader::to(pgvane.read_addr).start());

    for cut in [Cut::Silent, Cut::Loud] {
        let mut on_it = session_on(&pgvane, lost_port).await;
        let tries = metrics::value(&pgvane, RETRIES).await;
        host.cut_off(&lab.nodes()[lost], cut).expect("is cut");
        passed_over(&pgvane, other_port, 20).await;
        metrics::wait_for(&pgvane, &up(&lab, lost), 0.0).await;
        wait_for_page(&pgvane, "silent").await;
        passed_over(&pgvane, other_port, 20).await;
        // the two readers and a visitor may all have been on their way to it, and another one before they were heard of
        let tries = metrics::value(&pgvane, RETRIES).await - tries;
        assert!((1.0..=4.0).contains(&tries), "{cut:?}: a node out of reach was tried {tries} times");

        if cut == Cut::Loud {
            on_it.wire.send(&query("select 1")).await;
            let end = on_it.wire.fatal().await;
            assert_eq!(end.sqlstate().as_deref(), Some("08006"), "{end:?}");
            host.heal().expect("is whole again");
        } else {
            host.heal().expect("is whole again");
            assert_eq!(on_it.value("select 1 + 1").await, "2", "silence ends no session");
        }
        metrics::wait_for(&pgvane, &up(&lab, lost), 1.0).await;
        for reader in &readers {
            reader.wait_for_answer_of(lost_port, SOON).await.expect("it is used again");
        }
    }
    for reader in readers {
        let report = reader.finish().await;
        // a visit that was on the node when the resets came
        let (broken, others): (Vec<&Failure>, Vec<&Failure>) =
            report.failures.iter().partition(|failure| failure.class == FailureClass::SessionBroken);
        assert!(others.is_empty() && broken.len() <= 1, "{:#?}", report.failures);
    }
}

/// The old leader's last word, that it leads, is contradicted by nobody but the new leader: a newer timeline outdoes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_behind_a_cut_is_followed_and_the_sessions_left_behind_are_ended() {
    let Some(host) = own_host() else { return };
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane.in_namespace(&host).hold_max("30s")).await;
    let (old, replicas) = leader_and_replicas(&lab).await;
    let new = synchronous_of(&lab, replicas).await;
    let parked = Session::through(pgvane.write_addr).await;
    let direct = Writer::direct(&lab).remove(new).start();
    let through = Writer::to("through", pgvane.write_addr).answer_within(PATIENT).start();
    through.wait_for_acks(20, SOON).await.expect("writes flow");
    let readers = [(); 2].map(|()| Reader::to(pgvane.read_addr).start());

    host.cut_off(&lab.nodes()[old], Cut::Silent).expect("is cut");
    let cut = Instant::now();
    let newcomer = visitor(&pgvane);
    assert_eq!(lab.switchover_to(new).await.expect("a switchover"), new);
    direct.wait_for_acks(20, PATRONI_WITHIN).await.expect("the new leader takes writes");
    through.wait_for_acks(20, SOON).await.expect("so it does through pgvane");
    let end = parked.wire.fatal().await;
    assert_eq!(end.sqlstate().as_deref(), Some("57P01"));
    let words = "pgvane: terminating connection because the server is no longer the leader";
    assert_eq!(end.field(b'M').as_deref(), Some(words));
    let visit = newcomer.await.expect("no panic").expect("is served by the new leader");
    assert_eq!((visit.port, visit.in_recovery), (lab.nodes()[new].pg.port(), false));

    let (direct, through) = (direct.finish().await, through.finish().await);
    let [own, ours] = [&direct, &through].map(|writer| writer.first_ack_after(cut).expect("has written").at);
    let (own, ours) = (own - cut, ours - cut);
    println!("writes flowed {ours:?} after the cut; past pgvane, {own:?}"); // seen with --nocapture
    assert!(ours.saturating_sub(own) <= FOLLOWED_WITHIN, "{ours:?} after the cut; past pgvane, {own:?}");
    let lost: Vec<_> = through.failures.iter().map(|failure| failure.sqlstate.as_deref()).collect();
    assert_eq!(lost, [Some("57P01")], "{:#?}", through.failures);
    let missing = through.missing_rows(&lab).await.expect("the table is there");
    assert!(missing.is_empty(), "acknowledged and not there: {missing:?}");

    host.heal().expect("is whole again");
    let name = &lab.nodes()[old].name;
    metrics::wait_for(&pgvane, &up(&lab, old), 1.0).await;
    let role = format!("pgvane_node_role{{cluster=\"main\",node=\"{name}\",role=\"replica\"}}");
    metrics::wait_for(&pgvane, &role, 1.0).await;
    for reader in readers {
        reader.wait_for_answer_of(lab.nodes()[old].pg.port(), PATRONI_WITHIN).await.expect("it serves reads now");
        let report = reader.finish().await;
        assert!(report.failures.is_empty(), "{:#?}", report.failures);
    }
}

// ---------------------------------------------------------------------------------------------------------------------

const RETRIES: &str = "pgvane_connect_retries_total{listener=\"read\"}";

/// A host for pgvane, or a word on why there is none.
pub(super) fn own_host() -> Option<Namespace> {
    if let Some(reason) = namespace::unavailable_because() {
        // the macros' output is shown of failed tests only
        let _ = writeln!(std::io::stderr(), "SKIPPED, a node cut off by the network: {reason}");
        return None;
    }
    Some(Namespace::new().unwrap_or_else(|error| panic!("{error}")))
}

/// Somebody who wants to write, and who waits for it.
fn visitor(pgvane: &Pgvane) -> JoinHandle<Result<Visit, Failure>> {
    tokio::spawn(Reader::to(pgvane.write_addr).visit())
}

/// So many visitors, one after another, are all served by the other replica, and soon.
async fn passed_over(pgvane: &Pgvane, other_port: u16, visitors: usize) {
    for _ in 0..visitors {
        let arrived = Instant::now();
        let visit = Reader::to(pgvane.read_addr).visit().await.expect("the other replica serves");
        assert_eq!(visit.port, other_port);
        let took = visit.at - arrived;
        assert!(took <= VISIT_MAX, "a visit took {took:?}");
    }
}

/// A session on the replica with this port.
async fn session_on(pgvane: &Pgvane, port: u16) -> Session {
    for _ in 0..100 {
        let mut session = Session::through(pgvane.read_addr).await;
        if session.value("select inet_server_port()").await == port.to_string() {
            return session;
        }
    }
    panic!("a hundred sessions, and none of them on port {port}");
}

/// The replica that Patroni would let take over in synchronous mode.
async fn synchronous_of(lab: &Lab, replicas: [usize; 2]) -> usize {
    for replica in replicas {
        let answer = http::get(lab.nodes()[replica].rest, "/synchronous", SOON).await.expect("it answers");
        if answer.status == 200 {
            return replica;
        }
    }
    panic!("no replica is synchronous, though a sound cluster has one");
}
