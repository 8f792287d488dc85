//! Harm that pgvane has no part in: it shows that each check of a run can fail.

use std::time::Duration;

use clap::ValueEnum;
use pgvane_loadtest::login::{Login, Session};
use pgvane_loadtest::{Error, Result};
use tokio::time::sleep;

use super::world::World;

const OWN_SESSIONS: usize = 60;
const CONNECT_WITHIN: Duration = Duration::from_secs(60);
const CANCELS: usize = 100;
const CANCELS_EVERY: Duration = Duration::from_millis(30);
/// Long enough for the clients to meet it.
const LASTS: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sabotage {
    /// Acknowledged rows are deleted.
    LoseWrites,
    /// Acknowledged batches of COPY are deleted.
    LoseBatches,
    /// The server ends a session.
    CutSessions,
    /// Statements are cancelled that no client has asked to cancel.
    CancelStatements,
    /// Sessions on the write port cannot write.
    ReadOnly,
    /// Sessions stay in pgvane that nobody counts.
    KeepSessions,
    /// A client's notifications go astray.
    LoseNotifications,
}

impl Sabotage {
    /// Does it once. What it returns has to be kept until the checks are done.
    pub(super) async fn commit(self, world: &World, leader: usize) -> Result<Vec<Session>> {
        match self {
            Sabotage::LoseWrites => execute(world, leader, "delete from writes where id % 7 = 0").await?,
            Sabotage::LoseBatches => execute(world, leader, "delete from copied where number = 5").await?,
            Sabotage::CutSessions => {
                let statement = "select pg_terminate_backend(pid) from pg_stat_activity
                    where usename = 'trusting' and pid <> pg_backend_pid() limit 1";
                execute(world, leader, statement).await?;
            }
            Sabotage::CancelStatements => {
                let statement = "select pg_cancel_backend(pid) from pg_stat_activity
                    where usename in ('app', 'trusting') and state = 'active' and pid <> pg_backend_pid()";
                for _ in 0..CANCELS {
                    execute(world, leader, statement).await?;
                    sleep(CANCELS_EVERY).await;
                }
            }
            Sabotage::ReadOnly => {
                execute(world, leader, "alter role app set default_transaction_read_only = on").await?;
                execute(
                    world,
                    leader,
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'
                    and pid <> pg_backend_pid()",
                )
                .await?;
                sleep(LASTS).await;
                execute(world, leader, "alter role app set default_transaction_read_only = off").await?;
            }
            Sabotage::KeepSessions => {
                let mut sessions = Vec::new();
                for _ in 0..OWN_SESSIONS {
                    sessions.push(Login::Trusting.open(world.ports().write, CONNECT_WITHIN).await?);
                }
                return Ok(sessions);
            }
            Sabotage::LoseNotifications => {
                execute(world, leader, "notify soak, 'of another client'").await?;
                sleep(LASTS).await;
            }
        }
        Ok(Vec::new())
    }
}

/// As superuser, in the database of the clients.
async fn execute(world: &World, leader: usize, statement: &str) -> Result<()> {
    let failed = |source| Error::Postgres { doing: statement.to_owned(), source };
    let mut config = Login::Superuser.config(world.lab.nodes()[leader].pg);
    config.dbname(Login::App.database());
    let (client, connection) = config.connect(pgvane_loadtest::tls::Unverified).await.map_err(failed)?;
    let running = tokio::spawn(connection);
    let done = client.batch_execute(statement).await.map_err(failed);
    running.abort();
    done
}
