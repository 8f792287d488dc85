//! An application in PHP that writes all the time, on a machine of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use pgvane_loadtest::machine::Machine;
use pgvane_loadtest::process::Process;
use pgvane_loadtest::wait;

/// The application at work. Its session is a PDO; it connects again after an error.
pub struct PhpWriter {
    process: Process,
}

/// What it saw since some moment.
#[derive(Debug)]
pub struct Seen {
    /// The longest time between two rows that the server has acknowledged, in seconds.
    pub longest_gap: f64,
    /// Its errors in that time.
    pub errors: Vec<String>,
}

impl PhpWriter {
    /// Starts it on `machine`.
    pub fn start(machine: &Machine, dsn: &str, user: &str, password: &str) -> PhpWriter {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/set_ups/writer.php");
        machine.copy(&program).unwrap_or_else(|error| panic!("{error}"));
        let script = format!("exec php /root/writer.php '{dsn}' '{user}' '{password}'");
        PhpWriter { process: machine.start("writer", &script).unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Waits for further rows.
    pub async fn goes_on(&self, within: Duration) {
        const ROWS: usize = 25;
        let wanted = self.rows().len() + ROWS;
        let waited = wait::until("the PHP application to write", within, || async {
            let log = self.process.log_text();
            if self.rows().len() >= wanted { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
        });
        waited.await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// A moment, for [`seen_since`](Self::seen_since).
    pub fn now(&self) -> usize {
        self.lines().len()
    }

    /// What it has seen since then.
    pub fn seen_since(&self, moment: usize) -> Seen {
        let lines = self.lines();
        let new = &lines[moment.saturating_sub(1)..];
        let times: Vec<f64> = new.iter().filter(|(_, what)| what.starts_with("wrote ")).map(|(at, _)| *at).collect();
        let longest_gap = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let errors = new.iter().filter_map(|(_, what)| what.strip_prefix("failed ")).map(str::to_owned).collect();
        Seen { longest_gap, errors }
    }

    /// The numbers of all rows that were acknowledged.
    pub fn rows(&self) -> BTreeSet<u64> {
        let lines = self.lines();
        lines.iter().filter_map(|(_, what)| what.strip_prefix("wrote ")?.parse().ok()).collect()
    }

    /// Time in seconds and what happened, of all complete lines.
    fn lines(&self) -> Vec<(f64, String)> {
        let log = self.process.log_text();
        let complete = log.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let line = |line: &str| {
            let (at, what) = line.split_once(' ')?;
            Some((at.parse().ok()?, what.to_owned()))
        };
        complete.lines().map(|text| line(text).unwrap_or_else(|| panic!("PHP said: {text}"))).collect()
    }
}
