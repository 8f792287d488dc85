//! Sessions that change their thread, before a server that costs nothing.

use std::time::Duration;

use pgvane_loadtest::bench::backend;
use pgvane_loadtest::bench::load::{self, Server, Session};
use pgvane_loadtest::fake::FakePatroni;
use pgvane_loadtest::lab::Node;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::scratch::Scratch;

use crate::certificates::Certificates;
use crate::figures::wait_for_status;
use crate::{binary, metrics};

const IN_USE: &str = "pgvane_threads_in_use";
const CHANGES: &str = "pgvane_session_thread_changes_total";

/// More than one thread serves at once.
const SESSIONS: usize = 64;

async fn asks(mut sessions: Vec<Session>, duration: Duration) -> Vec<Session> {
    let load = tokio::task::spawn_blocking(move || {
        load::round_trips(&mut sessions, duration).map(|trips| (sessions, trips.count()))
    });
    let (sessions, trips) = load.await.expect("no panic").expect("each query gets its answer, byte for byte");
    assert!(trips > 0);
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_change_their_thread_between_two_queries_and_lose_nothing() {
    sessions_change_their_thread(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_whose_tls_ends_at_pgvane_change_their_thread_too() {
    sessions_change_their_thread(true).await;
}

async fn sessions_change_their_thread(tls: bool) {
    let (scratch, server) = (Scratch::new().expect("a directory"), backend::start().expect("a server"));
    let patroni = FakePatroni::start_without_name().await;
    patroni.leads(1);
    let node = Node::elsewhere("null", server, patroni.address());
    let checks = ["interval = \"200ms\"", "fast_interval = \"50ms\""];
    let builder = Pgvane::builder(&binary::pgvane(), &[node]).top("threads = 3");
    let builder = checks.iter().fold(builder, |builder, line| builder.cluster(line));
    let files = Certificates::new();
    files.issue("server", "localhost");
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let terminate = format!("tls = {{ mode = \"terminate\", cert_file = \"{certificate}\", key_file = \"{key}\" }}");
    let builder = if tls { builder.write_listener(&terminate) } else { builder };
    let pgvane = builder.start(scratch.directory()).await.expect("pgvane starts");
    assert!((metrics::value(&pgvane, IN_USE).await - 1.0).abs() < f64::EPSILON, "without load, one thread is enough");

    let server = Server { addresses: vec![pgvane.write_addr], tls };
    let to = server.clone();
    let open = tokio::task::spawn_blocking(move || load::open_many(&to, SESSIONS));
    let mut sessions = open.await.expect("no panic").expect("sessions open");
    // all of them are crowded on few threads, until they are spread
    for _ in 0..20 {
        sessions = asks(sessions, Duration::from_millis(500)).await;
        if metrics::value(&pgvane, CHANGES).await >= 10.0 {
            break;
        }
    }
    assert!(metrics::value(&pgvane, CHANGES).await >= 10.0, "a crowded thread gives sessions away");
    assert!(metrics::value(&pgvane, IN_USE).await > 1.0);

    // new sessions are accepted on all threads in use, as before
    let more = tokio::task::spawn_blocking(move || load::connects(&server, 50));
    more.await.expect("no panic").expect("each is served");

    // when the load has been light for some time, they come back
    metrics::wait_for(&pgvane, IN_USE, 1.0).await;
    let before = metrics::value(&pgvane, CHANGES).await;
    sessions = tokio::task::spawn_blocking(move || {
        sessions.iter_mut().for_each(|session| session.query().expect("is answered"));
        sessions
    })
    .await
    .expect("no panic");
    // a thread that is not used any more gives all its sessions
    metrics::wait_for_more(&pgvane, CHANGES, before).await;

    // orders reach them where they are
    let is_session = |status: &serde_json::Value| status["listeners"][0]["sessions"].as_u64();
    wait_for_status(&pgvane, "all sessions", |status| is_session(status) == Some(SESSIONS as u64)).await;
    patroni.follows();
    wait_for_status(&pgvane, "no session", |status| is_session(status) == Some(0)).await;
    drop(sessions);
}
