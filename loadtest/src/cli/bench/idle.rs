//! Memory of sessions that do nothing.

use pgvane_loadtest::Result;
use pgvane_loadtest::bench::load::{self, Server, Session};
use pgvane_loadtest::bench::report::Measure;
use pgvane_loadtest::bench::usage;

use super::{Bench, SETTLE, off_the_runtime};

impl Bench<'_> {
    /// Memory per idle session after one query; each time in a new process.
    pub(super) async fn idle(&mut self, sessions: usize) -> Result<()> {
        let name = format!("idle session, of {sessions}");
        if !self.is_wanted(&name) {
            return Ok(());
        }
        let mut memory = Measure::new(name, "kB");
        for _ in 0..self.options.rounds {
            for proxy in &self.proxies {
                let running = proxy.start(&self.setup()).await?;
                memory.add(proxy.name(), idle_memory(&running.server, running.pid, sessions).await?);
            }
        }
        self.done(memory);
        Ok(())
    }
}

/// Memory that each of so many sessions adds to this process, kilobytes. They are closed then.
pub(super) async fn idle_memory(server: &Server, pid: u32, sessions: usize) -> Result<f64> {
    let before = usage::resident_bytes(pid)?;
    let open = sessions_at_rest(server, sessions).await?;
    let grown = usage::resident_bytes(pid)?.saturating_sub(before);
    drop(open);
    Ok(grown as f64 / sessions as f64 / 1000.0)
}

/// Opens so many sessions and sends one query in each. The proxy has finished its work for them.
pub(super) async fn sessions_at_rest(server: &Server, sessions: usize) -> Result<Vec<Session>> {
    let server = server.clone();
    let open = off_the_runtime(move || {
        let mut open = load::open_many(&server, sessions)?;
        open.iter_mut().try_for_each(Session::query)?;
        Ok(open)
    })
    .await?;
    tokio::time::sleep(SETTLE).await;
    Ok(open)
}
