//! Sessions that are tied to their server: the dry run names each, and each ends with SQLSTATE 57P01 and the reason.

use std::net::SocketAddr;
use std::time::Duration;

use pgvane_loadtest::failure::Failure;
use pgvane_loadtest::login::{Login, Session};
use pgvane_loadtest::{Error, Result};
use serde_json::Value;

/// They end within this time after the switchover.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);

/// What ties a session to its server, and how the dry run and the error say it.
const TIES: [(&str, &str); 3] = [
    ("create temporary table mine (number integer)", "temporary object"),
    ("select pg_advisory_lock(4711)", "advisory lock"),
    ("begin; declare mine cursor with hold for select 1; commit", "held cursor"),
];

/// One session for each tie.
pub(crate) struct Bound(Vec<(Session, i64, &'static str)>);

impl Bound {
    pub(crate) async fn start(server: SocketAddr) -> Result<Bound> {
        let mut sessions = Vec::new();
        for (statement, why) in TIES {
            let session = Login::Trusting.open(server, CONNECTED_WITHIN).await?;
            let doing = || "tying a session to its server".to_owned();
            let failed = |source| Error::Postgres { doing: doing(), source };
            session.client.batch_execute(statement).await.map_err(failed)?;
            let process = session.client.query_one("select pg_backend_pid()", &[]).await.map_err(failed)?;
            sessions.push((session, i64::from(process.get::<_, i32>(0)), why));
        }
        Ok(Bound(sessions))
    }

    /// Checks the JSON of `pgvane switchover --dry-run`.
    pub(crate) fn are_named_by(&self, dry_run: &str) -> Result<()> {
        let told: Value = serde_json::from_str(dry_run).unwrap_or_default();
        for (_, process, why) in &self.0 {
            let named = told["not_carried"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one["process_id"] == *process && one["reasons"].to_string().contains(why));
            if !named {
                let count = told["not_carried"].as_array().map_or(0, Vec::len);
                return Err(wrong(format!(
                    "it does not name process {process}, {why}, among {count} that are not carried"
                )));
            }
        }
        Ok(())
    }

    /// Waits until each has ended, and checks how.
    pub(crate) async fn have_ended(self) -> Result<()> {
        for (mut session, _, why) in self.0 {
            let ended = tokio::time::timeout(ENDED_WITHIN, session.ended()).await;
            let Ok(Failure { sqlstate, message, .. }) = ended else {
                return Err(wrong(format!("the session with a {why} goes on")));
            };
            if sqlstate.as_deref() != Some("57P01") || !message.contains("pgvane") {
                return Err(wrong(format!("the session with a {why} ended with {sqlstate:?}: {message}")));
            }
        }
        Ok(())
    }
}

fn wrong(output: String) -> Error {
    Error::Command { command: "pgvane switchover".to_owned(), output }
}
