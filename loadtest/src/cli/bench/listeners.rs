//! The same loads on proxies with many ports.

use pgvane_loadtest::Result;
use pgvane_loadtest::bench::proxy::{Proxy, Setup};
use pgvane_loadtest::bench::report::BASELINE;

use super::{Bench, Group, start_all};

const LISTENERS: usize = 16;

/// What the names of the rows end with.
const SUFFIX: &str = ", 16 listeners";

/// Sessions of the round trips, the same number on every port.
const SESSIONS: usize = 64;

impl Bench<'_> {
    /// pgvane's listeners and HAProxy's binds. PgBouncer has a single port.
    pub(super) async fn listeners(&mut self) -> Result<()> {
        let rows = [format!("round trip, {SESSIONS} sessions{SUFFIX}"), format!("connect + query + close{SUFFIX}")];
        if !rows.iter().any(|name| self.is_wanted(name)) {
            return Ok(());
        }
        let has_many = |proxy: &&Proxy| matches!(proxy, Proxy::Pgvane { .. } | Proxy::Haproxy { splices: false });
        let proxies: Vec<Proxy> = self.proxies.iter().filter(has_many).cloned().collect();
        let group = Group {
            running: start_all(&proxies, &Setup { ports: LISTENERS, ..self.setup() }).await?,
            suffix: SUFFIX.to_owned(),
            baseline: BASELINE,
            direct: Some(self.backend.into()),
            is_plotted: false,
        };
        self.round_trips(SESSIONS, &group).await?;
        self.connects(&group).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_say_how_many_listeners_there_are_and_each_has_as_many_sessions() {
        assert_eq!(SUFFIX, format!(", {LISTENERS} listeners"));
        assert_eq!(SESSIONS % LISTENERS, 0);
    }
}
