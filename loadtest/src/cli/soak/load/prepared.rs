//! A session that prepares statements once, executes them again and again, and checks each answer.

use fastrand::Rng;
use pgvane_loadtest::login::Session;
use pgvane_loadtest::tokio_postgres::Statement;
use pgvane_loadtest::tokio_postgres::types::ToSql;

use super::session::{Outcome, Stop, Work};

/// Longer than pgvane's buffers, so that some answers arrive in several pieces.
const TEXT_LENGTH_MAX: usize = 300_000;

#[derive(Debug, Default)]
pub(super) struct Prepared {
    statements: Option<[Statement; 2]>,
    rng: Rng,
}

impl Work for Prepared {
    async fn begin(&mut self, session: &mut Session) -> Outcome {
        let numbers = session.client.prepare("select $1::int8 * 2 + $2::int8").await?;
        let texts = session.client.prepare("select md5($1::text), reverse($1::text)").await?;
        self.statements = Some([numbers, texts]);
        Ok(())
    }

    async fn round(&mut self, session: &mut Session) -> Outcome {
        let [numbers, texts] = self.statements.as_ref().expect("prepared when the session began");
        let (one, other) = (self.rng.i64(0..1 << 40), self.rng.i64(0..1 << 40));
        let length = self.rng.usize(..TEXT_LENGTH_MAX);
        let text: String = std::iter::repeat_with(|| self.rng.alphanumeric()).take(length).collect();
        let (of_numbers, of_texts): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 1]) = ([&one, &other], [&text]);
        // Both are under way at the same time.
        let (sum, reversed) =
            tokio::join!(session.client.query_one(numbers, &of_numbers), session.client.query_one(texts, &of_texts));
        let sum: i64 = sum?.try_get(0)?;
        let reversed: String = reversed?.try_get(1)?;
        if sum != one * 2 + other || !reversed.chars().eq(text.chars().rev()) {
            return Err(Stop::Wrong("a prepared statement has another statement's answer".to_owned()));
        }
        Ok(())
    }
}
