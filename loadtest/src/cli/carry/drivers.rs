//! Sessions of the drivers that applications use: psycopg, asyncpg, node-postgres, PHP's PDO and pgbench.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pgvane_loadtest::error::Doing;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::programs::{self, Postgresql};
use pgvane_loadtest::{Error, Result};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// Sessions of each driver.
const SESSIONS: usize = 4;

/// A driver that is told to stop ends within this time.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// One run of pgbench. It is started again until the end.
const PGBENCH_SECONDS: &str = "15";

/// How many rows of the table of counters they need.
pub(crate) const ROWS: usize = 4 * SESSIONS;

/// The running drivers.
#[derive(Debug)]
pub(crate) struct Drivers {
    running: Vec<(&'static str, Child)>,
    pgbench: tokio::task::JoinHandle<Result<Vec<String>>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Drivers {
    /// Starts them before this server; their rows begin with `first`. `directory` is where they may leave files.
    pub(crate) async fn start(server: SocketAddr, directory: &Path, first: usize) -> Result<Drivers> {
        let (python, node, php) = (programs::in_venv("python")?, programs::in_venv("node")?, programs::on_path("php")?);
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/carry/clients");
        let all: [(&'static str, &Path, &str, Option<&str>); 4] = [
            ("psycopg", &python, "python.py", Some("psycopg")),
            ("asyncpg", &python, "python.py", Some("asyncpg")),
            ("node-postgres", &node, "node_postgres.js", None),
            ("PDO", &php, "pdo.php", None),
        ];
        let mut running = Vec::new();
        for (place, (name, program, script, argument)) in all.into_iter().enumerate() {
            let mut command = command(program, server, directory);
            command.arg(clients.join(script)).args(argument);
            command.args([first + place * SESSIONS, SESSIONS].map(|number| number.to_string()));
            command.env("NODE_PATH", programs::node_packages()?);
            running.push((name, command.spawn().doing(|| format!("starting {name}"))?));
        }
        let pgbench = Postgresql::Packaged.program("pgbench")?;
        let mut prepare = command(&pgbench, server, directory);
        prepare.args(["-i", "-q", "-s", "1"]).stdin(Stdio::null());
        let prepared = prepare.output().await.doing(|| "starting pgbench".to_owned())?;
        if !prepared.status.success() {
            let output = String::from_utf8_lossy(&prepared.stderr).into_owned();
            return Err(Error::Command { command: "pgbench -i".to_owned(), output });
        }
        let (stop, stopping) = tokio::sync::watch::channel(false);
        let directory = directory.to_owned();
        let pgbench = tokio::spawn(async move {
            let mut problems = Vec::new();
            while !*stopping.borrow() {
                let mut run = command(&pgbench, server, &directory);
                run.args(["-n", "-M", "prepared", "-c", "4", "-j", "1", "-R", "40", "-T", PGBENCH_SECONDS]);
                let output = run.stdin(Stdio::null()).output().await.doing(|| "starting pgbench".to_owned())?;
                let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                if !output.status.success() || !text.contains("number of failed transactions: 0 ") {
                    problems.push(format!("pgbench: {text}"));
                }
            }
            Ok(problems)
        });
        Ok(Drivers { running, pgbench, stop })
    }

    /// Stops them. Returns what went wrong, and prints how much they did.
    pub(crate) async fn stop(self) -> Result<Vec<String>> {
        self.stop.send_replace(true);
        let mut problems = Vec::new();
        for (name, mut child) in self.running {
            drop(child.stdin.take());
            let mut output = child.stdout.take().expect("is a pipe");
            let mut text = String::new();
            let ended = async {
                output.read_to_string(&mut text).await?;
                child.wait().await
            };
            match tokio::time::timeout(ENDED_WITHIN, ended).await {
                Ok(ended) => drop(ended.doing(|| format!("reading from {name}"))?),
                Err(_) => problems.push(format!("{name} does not end")),
            }
            let requests = text.lines().find_map(|line| line.strip_prefix("requests ")?.parse::<u64>().ok());
            println!("     {name}: {} requests", requests.unwrap_or_default());
            problems.extend(text.lines().filter(|line| !line.starts_with("requests ")).map(str::to_owned));
            if requests.unwrap_or_default() == 0 {
                problems.push(format!("{name} has done nothing"));
            }
        }
        problems.extend(self.pgbench.await.expect("it does not panic")?);
        Ok(problems)
    }
}

/// A program that finds its way by libpq's environment variables.
fn command(program: &Path, server: SocketAddr, directory: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("PGHOST", server.ip().to_string()).env("PGPORT", server.port().to_string());
    command.env("PGUSER", Login::App.user()).env("PGDATABASE", Login::App.database());
    command.env("PGPASSWORD", Login::App.password().unwrap_or_default()).env("PGSSLMODE", "disable");
    command.env("HOME", directory).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command
}
