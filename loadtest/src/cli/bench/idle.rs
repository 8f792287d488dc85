//! Memory of sessions that do nothing.

use pgvane_loadtest::Result;
use pgvane_loadtest::bench::load::{self, Session};
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
                let (server, pid) = (running.server.clone(), running.pid);
                let before = usage::resident_bytes(pid)?;
                let open = off_the_runtime(move || {
                    let mut open = load::open_many(&server, sessions)?;
                    open.iter_mut().try_for_each(Session::query)?;
                    Ok(open)
                })
                .await?;
                tokio::time::sleep(SETTLE).await;
                let grown = usage::resident_bytes(pid)?.saturating_sub(before);
                memory.add(proxy.name(), grown as f64 / sessions as f64 / 1000.0);
                drop(open);
            }
        }
        self.done(memory);
        Ok(())
    }
}
