//! Sessions whose encryption is passed through, between real clients and real servers.

use std::process::Command;

use crate::metrics;
use crate::stage::{pgvane_before, sound_cluster};

/// psql's goodbye cannot be read in an encrypted session, and the server's close and the client's come in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_ends_of_encrypted_sessions_are_not_logged_as_trouble() {
    const VISITS: u32 = 60;
    let lab = sound_cluster().await;
    let pgvane = pgvane_before(&lab, |pgvane| pgvane).await;
    let log = pgvane.log_text().len();
    let port = pgvane.read_addr.port().to_string();
    for visit in 0..VISITS {
        // some leave the server's last bytes unread in their socket: what they close then is reset
        let rows = if visit % 2 == 0 { 1 } else { 5_000 };
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-t", "-h", "127.0.0.1", "-p", &port, "-U", "app", "-d", "app", "-c"]);
        command.arg(format!(
            "select ssl, repeat('x', 1000) from pg_stat_ssl, generate_series(1, {rows}) where pid = pg_backend_pid()"
        ));
        command.env("PGPASSWORD", "app").env("PGSSLMODE", "require");
        let output = command.output().expect("psql is installed");
        let rows_seen = output.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"t|x")).count();
        assert_eq!(rows_seen, rows, "{}", String::from_utf8_lossy(&output.stderr));
    }
    metrics::wait_for_ends(&pgvane, "read", "client-closed", VISITS).await;
    let told = pgvane.log_text().split_off(log);
    assert!(!told.contains("session ended"), "{told}");
}
