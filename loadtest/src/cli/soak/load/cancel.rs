//! A session whose statements are cancelled: each request must reach this session, and no other one.

use std::time::Duration;

use fastrand::Rng;
use pgvane_loadtest::login::Session;
use pgvane_loadtest::tls;
use pgvane_loadtest::tokio_postgres::{self, error::SqlState};
use tokio::time::{sleep, timeout};

use super::session::{Outcome, Stop, Work};

/// Longer than a session's answer is waited for: only a cancel request ends it in time.
const LONG_STATEMENT: &str = "select pg_sleep(600)";
/// A request that arrives before the statement begins has no effect, so it is repeated.
const REPEATED_AFTER: Duration = Duration::from_secs(1);
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Cancelled {
    rng: Rng,
}

impl Work for Cancelled {
    async fn begin(&mut self, _: &mut Session) -> Outcome {
        Ok(())
    }

    async fn round(&mut self, session: &mut Session) -> Outcome {
        let token = session.client.cancel_token();
        let delay = Duration::from_millis(self.rng.u64(20..400));
        let mut requests = 0;
        let cancelling = async {
            sleep(delay).await;
            loop {
                requests += 1;
                // Nobody learns of a failure: the protocol has no answer to a cancel request.
                let _unanswered = timeout(REQUEST_WITHIN, token.cancel_query(tls::Unverified)).await;
                sleep(REPEATED_AFTER).await;
            }
        };
        let ended = tokio::select! {
            ended = session.client.batch_execute(LONG_STATEMENT) => ended,
            () = cancelling => unreachable!("it repeats the request for ever"),
        };
        match ended {
            Err(error) if is_cancelled(&error) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Err(Stop::Wrong("a cancelled statement was finished".to_owned())),
        }
        // All but one may arrive late, if pgvane or the server was stopped meanwhile. And a request can have effect twice:
        // before version 18, PostgreSQL signals the process and then its group (`signal_child` in postmaster.c).
        for _ in 0..2 * requests {
            match session.client.batch_execute("select pg_sleep(0.1)").await {
                Err(error) if is_cancelled(&error) => {}
                other => return Ok(other?),
            }
        }
        Err(Stop::Wrong("cancel requests have had effect more often than they were sent".to_owned()))
    }
}

fn is_cancelled(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}
