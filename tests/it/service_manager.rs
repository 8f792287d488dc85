//! What the service manager hears, over its socket: as systemd, with `Type=notify-reload` and `WatchdogSec`.

use std::fs;
use std::time::Duration;

use pgvane_loadtest::pgvane::Pgvane;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;

use crate::fake::FakeCluster;
use crate::wire::{SOON, Session, in_time};

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits for a state with this line, and returns its lines. Signs of life in between are left out.
    async fn hears(&self, line: &str) -> Vec<String> {
        in_time(line, async {
            loop {
                let mut bytes = [0; 4096];
                let length = self.0.recv(&mut bytes).await.expect("a datagram");
                let text = String::from_utf8(bytes[..length].to_vec()).expect("text");
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                match lines.iter().any(|heard| heard == line) {
                    true => return lines,
                    false => assert_eq!(text, "WATCHDOG=1", "before {line}"),
                }
            }
        })
        .await
    }

    /// Waits for exactly this text, whatever two processes say in between.
    async fn hears_among_others(&self, text: &str) {
        in_time(text, async {
            let mut bytes = [0; 4096];
            loop {
                let length = self.0.recv(&mut bytes).await.expect("a datagram");
                if bytes[..length] == *text.as_bytes() {
                    return;
                }
            }
        })
        .await;
    }
}

fn status(lines: &[String]) -> &str {
    lines.iter().find_map(|line| line.strip_prefix("STATUS=")).expect("a status")
}

async fn started(cluster: &FakeCluster, watchdog: Duration) -> (Manager, Pgvane) {
    let file = cluster.directory().join("notify");
    let manager = Manager(UnixDatagram::bind(&file).expect("a writable directory"));
    let pgvane = cluster.spawn_pgvane(|pgvane| {
        let environment = pgvane.env("NOTIFY_SOCKET", &file.display().to_string());
        environment.env("WATCHDOG_USEC", &watchdog.as_micros().to_string())
    });
    (manager, pgvane)
}

#[tokio::test]
async fn systemd_hears_when_pgvane_is_ready_reloads_and_stops() {
    let cluster = FakeCluster::of(1).await;
    let (manager, mut pgvane) = started(&cluster, Duration::from_secs(60)).await;
    manager.hears("READY=1").await;
    Session::through(pgvane.write_addr).await.value("who").await; // its port is open

    let now = || {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
    };
    let (asked, good) = (now(), fs::read_to_string(pgvane.config_path()).expect("is there"));
    pgvane.reload().expect("it runs");
    let reloading = manager.hears("RELOADING=1").await;
    let began = reloading.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("a time");
    let began: i64 = began.parse().expect("a number");
    assert!((asked..=now()).contains(&began), "systemd counts a reload only if it began after the request");
    assert!(status(&manager.hears("READY=1").await).contains("configuration of"));

    fs::write(pgvane.config_path(), format!("{good}\nhold_min = 1\n")).expect("is writable");
    pgvane.reload().expect("it runs");
    manager.hears("RELOADING=1").await;
    let ready = manager.hears("READY=1").await;
    assert!(status(&ready).contains("was not accepted") && status(&ready).contains("hold_min"), "{ready:?}");

    pgvane.terminate().expect("it runs");
    manager.hears("STOPPING=1").await;
    assert!(pgvane.wait(SOON).await.expect("it ends").success());
}

#[tokio::test]
async fn systemd_hears_of_the_process_that_takes_over_and_gets_its_signs_of_life() {
    let cluster = FakeCluster::of(1).await;
    let (manager, mut pgvane) = started(&cluster, Duration::from_millis(200)).await;
    manager.hears("READY=1").await;
    let mut session = Session::through(pgvane.write_addr).await;
    pgvane.upgrade().await.expect("upgrades");
    let new = pgvane.newest_process_id();
    // the new process speaks at the same time: what systemd does not know yet, it ignores
    manager.hears_among_others(&format!("MAINPID={new}")).await;
    assert!(pgvane.wait(SOON).await.expect("the old process ends").success());
    manager.hears_among_others("WATCHDOG=1").await;
    session.value("who").await;
}

#[tokio::test]
async fn systemd_gets_signs_of_life_while_pgvane_runs_and_none_while_it_hangs() {
    let cluster = FakeCluster::of(1).await;
    let (manager, pgvane) = started(&cluster, Duration::from_millis(200)).await;
    manager.hears("READY=1").await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    pgvane.suspend().await.expect("stops");
    while manager.0.try_recv(&mut [0; 64]).is_ok() {} // those from before
    let hears = tokio::time::timeout(Duration::from_secs(1), manager.hears("WATCHDOG=1"));
    assert!(hears.await.is_err(), "all its threads are stopped");
    pgvane.resume().expect("goes on");
    manager.hears("WATCHDOG=1").await;
}
