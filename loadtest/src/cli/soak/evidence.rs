//! What is needed to find the cause of a violation: the logs since the fault began, and what pgvane says of itself.

use std::fs;
use std::path::{Path, PathBuf};

use pgvane_loadtest::error::last_lines;
use pgvane_loadtest::process::read_log_from;

use super::world::World;

const ADMIN_PAGES: [(&str, &str); 3] =
    [("status.json", "/api/status"), ("sessions.json", "/api/sessions?limit=1000"), ("metrics.txt", "/metrics")];
/// Lines that the load itself causes: they are in the files, and not in the output.
const LINES_OF_LOAD: [&str; 6] = [
    "connection received",
    "connection authenticated",
    "connection authorized",
    "disconnection: ",
    "canceling statement due to user request",
    "STATEMENT: ",
];

/// How long each log was when the step began.
#[derive(Debug)]
pub(super) struct Evidence {
    logs: Vec<Log>,
}

#[derive(Debug)]
struct Log {
    name: String,
    path: PathBuf,
    from: usize,
}

impl Evidence {
    /// From now on.
    pub(super) fn begin(world: &World) -> Evidence {
        let mut logs = vec![Log::begin("pgvane".to_owned(), world.pgvane.log_path().to_owned())];
        for (number, node) in world.lab.nodes().iter().enumerate() {
            let [patroni, postgres] = world.lab.log_paths(number);
            logs.push(Log::begin(format!("{}-patroni", node.name), patroni));
            logs.push(Log::begin(format!("{}-postgres", node.name), postgres));
        }
        Evidence { logs }
    }

    /// pgvane's panics.
    pub(super) fn panics(&self) -> Vec<String> {
        let of_pgvane = self.logs.first().map(|log| read_log_from(&log.path, log.from)).unwrap_or_default();
        of_pgvane.lines().filter(|line| line.contains("panicked")).map(|line| format!("pgvane's log: {line}")).collect()
    }

    /// Writes everything into `directory` and returns what to print.
    pub(super) async fn collect(&self, world: &World, directory: &Path) -> String {
        let mut printed = String::new();
        let write = |name: &str, text: &str| fs::write(directory.join(name), text);
        let mut failed = fs::create_dir_all(directory).err();
        for log in &self.logs {
            let text = read_log_from(&log.path, log.from);
            failed = failed.or(write(&format!("{}.log", log.name), &text).err());
            let is_worth_printing = |line: &&str| !LINES_OF_LOAD.iter().any(|words| line.contains(words));
            let lines: Vec<&str> = text.lines().filter(is_worth_printing).collect();
            let last = last_lines(&lines.join("\n")).replace('\n', "\n       ");
            printed += &format!("     {} since the fault began, last lines:\n       {last}\n", log.name);
        }
        for (name, path) in ADMIN_PAGES {
            if let Ok(answer) = world.pgvane.admin_get(path).await {
                failed = failed.or(write(name, &answer.body).err());
            }
        }
        match failed {
            None => printed += &format!("     the whole logs of this step: {}\n", directory.display()),
            Some(error) => printed += &format!("     writing to {} failed: {error}\n", directory.display()),
        }
        printed
    }
}

impl Log {
    fn begin(name: String, path: PathBuf) -> Log {
        let length = fs::metadata(&path).map(|file| file.len()).unwrap_or_default();
        Log { name, path, from: usize::try_from(length).unwrap_or_default() }
    }
}
