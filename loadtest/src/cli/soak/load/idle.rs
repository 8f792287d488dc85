//! A session that rests, and asks from time to time whether its server is a primary.

use pgvane_loadtest::login::Session;

use super::super::judge::Port;
use super::session::{Outcome, Work, where_it_is};

#[derive(Debug)]
pub(super) struct Idle;

impl Work for Idle {
    async fn begin(&mut self, _: &mut Session) -> Outcome {
        Ok(())
    }

    async fn round(&mut self, session: &mut Session) -> Outcome {
        where_it_is(session, Port::Write).await.map(drop)
    }
}
