//! Sessions that COPY: batches into a table, of which each that is acknowledged must stay, and rows out of the server.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::{Login, Session};
use pgvane_loadtest::tokio_postgres::Client;
use pgvane_loadtest::{Error, Result};

use super::session::{Outcome, Stop, Work};

const BATCH_ROWS: usize = 300;
const ROW_LENGTH: usize = 1000;
/// So many of the newest batches stay in the table. Fewer are checked, because batches come while the check runs.
const BATCHES_KEPT: i64 = 200;
const BATCHES_CHECKED: usize = 100;
const OUT_ROWS: usize = 4000;
const LEADER_WITHIN: Duration = Duration::from_secs(60);

/// Makes the table of the batches.
pub(super) async fn prepare(lab: &Lab) -> Result<()> {
    let statement = "create table if not exists copied (run bigint, batch bigint, number int, filler text);
        create index if not exists copied_batches on copied (run, batch);
        grant all on copied to public";
    let done = of_leader(lab).await?.batch_execute(statement).await;
    done.map_err(|source| Error::Postgres { doing: "making the table of batches".to_owned(), source })
}

/// COPY into the server.
#[derive(Debug)]
pub(super) struct CopyIn {
    run: i64,
    batch: i64,
    acknowledged: Arc<Mutex<Vec<i64>>>,
}

/// The batches that the server has acknowledged.
#[derive(Debug)]
pub(super) struct Batches {
    run: i64,
    acknowledged: Arc<Mutex<Vec<i64>>>,
}

impl CopyIn {
    pub(super) fn new() -> (CopyIn, Batches) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = i64::try_from(since_epoch.as_micros()).unwrap_or_default();
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let batches = Batches { run, acknowledged: Arc::clone(&acknowledged) };
        (CopyIn { run, batch: 0, acknowledged }, batches)
    }
}

impl Work for CopyIn {
    async fn begin(&mut self, _: &mut Session) -> Outcome {
        Ok(())
    }

    async fn round(&mut self, session: &mut Session) -> Outcome {
        self.batch += 1; // never twice: a batch without an answer may have been written
        let (run, batch) = (self.run, self.batch);
        let sink = session.client.copy_in("copy copied (run, batch, number, filler) from stdin").await?;
        let mut sink = pin!(sink);
        let filler = "x".repeat(ROW_LENGTH);
        for number in 0..BATCH_ROWS {
            sink.send(Bytes::from(format!("{run}\t{batch}\t{number}\t{filler}\n"))).await?;
        }
        let rows = sink.finish().await?;
        if rows != BATCH_ROWS as u64 {
            return Err(Stop::Wrong(format!("COPY of {BATCH_ROWS} rows has written {rows}")));
        }
        locked(&self.acknowledged).push(batch);
        let old = batch - BATCHES_KEPT;
        session.client.batch_execute(&format!("delete from copied where run = {run} and batch <= {old}")).await?;
        Ok(())
    }
}

impl Batches {
    /// Acknowledged batches that the leader does not have, or not all of.
    pub(super) async fn missing(&self, lab: &Lab) -> Result<Vec<i64>> {
        let client = of_leader(lab).await?;
        let newest: Vec<i64> = locked(&self.acknowledged).iter().rev().take(BATCHES_CHECKED).copied().collect();
        let query = "select batch, count(*) from copied where run = $1 group by batch";
        let rows = client.query(query, &[&self.run]).await;
        let rows = rows.map_err(|source| Error::Postgres { doing: "reading the batches back".to_owned(), source })?;
        let present: BTreeMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let is_whole = |batch: &i64| present.get(batch).is_some_and(|rows| *rows == BATCH_ROWS as i64);
        Ok(newest.into_iter().filter(|batch| !is_whole(batch)).collect())
    }
}

/// COPY out of the server.
#[derive(Debug)]
pub(super) struct CopyOut;

impl Work for CopyOut {
    async fn begin(&mut self, _: &mut Session) -> Outcome {
        Ok(())
    }

    async fn round(&mut self, session: &mut Session) -> Outcome {
        let query =
            format!("copy (select lpad(n::text, {ROW_LENGTH}, '.') from generate_series(1, {OUT_ROWS}) n) to stdout");
        let stream = session.client.copy_out(&query).await?;
        let mut stream = pin!(stream);
        let mut number = 0;
        while let Some(row) = stream.next().await {
            let row = row?;
            number += 1;
            let text = row.strip_suffix(b"\n").and_then(|row| std::str::from_utf8(row).ok()).unwrap_or_default();
            if row.len() != ROW_LENGTH + 1 || text.trim_start_matches('.').parse() != Ok(number) {
                return Err(Stop::Wrong(format!("row {number} of COPY is another one")));
            }
        }
        if number != OUT_ROWS {
            return Err(Stop::Wrong(format!("{number} rows of COPY in place of {OUT_ROWS}")));
        }
        Ok(())
    }
}

async fn of_leader(lab: &Lab) -> Result<Client> {
    let leader = lab.wait_for_leader(LEADER_WITHIN).await?;
    Login::App.connect(lab.nodes()[leader].pg, LEADER_WITHIN).await
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with this lock")
}
