//! libpq's own way to find the leader: all nodes in one connection string, and `target_session_attrs=read-write`.
//!
//! The clients are a Python program with psycopg2, which is made of libpq.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::crowd::CrowdReport;
use crate::error::Doing;
use crate::failure::{Failure, FailureClass};
use crate::lab::Lab;
use crate::login::Login;
use crate::writer::RunningWriter;
use crate::{Result, programs};

/// The name of the writer, and of the column in the results.
pub const NAME: &str = "libpq";

/// A writer that connects to whichever node is read-write.
pub fn start_writer(lab: &Lab) -> Result<RunningWriter> {
    let dsn = dsn(lab);
    let program = programs::in_venv("python")?;
    Ok(RunningWriter::of(NAME, |run, progress| async move {
        let arguments = ["write", &dsn, NAME, &run.to_string()].map(str::to_owned);
        let Ok((_client, mut lines)) = start(&program, &arguments) else { return };
        while let Ok(Some(line)) = lines.next_line().await {
            match line.split_once(' ') {
                Some(("ack", id)) => progress.acknowledged(id.parse().unwrap_or_default()),
                _ => progress.failed(failure(&line)),
            }
        }
    }))
}

/// Clients that come one after another, one every `every`; each connects once and sends one query.
pub async fn visit(lab: &Lab, clients: usize, every: Duration) -> Result<CrowdReport> {
    let arguments = ["visit", &dsn(lab), &clients.to_string(), &every.as_secs_f64().to_string()].map(str::to_owned);
    let (_client, mut lines) = start(&programs::in_venv("python")?, &arguments)?;
    let mut report = CrowdReport::default();
    while let Some(line) = lines.next_line().await.doing(|| "reading from the clients".to_owned())? {
        match line.strip_prefix("served ").and_then(|took| took.parse().ok()) {
            Some(took) => report.served.push(Duration::from_secs_f64(took)),
            None => report.failures.push(failure(&line)),
        }
    }
    Ok(report)
}

fn start(program: &std::path::Path, arguments: &[String]) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut command = Command::new(program);
    command.args(["-c", include_str!("libpq_client.py")]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut client = command.spawn().doing(|| format!("starting {}", program.display()))?;
    let output = client.stdout.take().expect("is a pipe");
    Ok((client, BufReader::new(output).lines()))
}

/// The nodes in their order, as in a connection string that an administrator writes once.
fn dsn(lab: &Lab) -> String {
    let list = |part: fn(&std::net::SocketAddr) -> String| {
        lab.nodes().iter().map(|node| part(&node.pg)).collect::<Vec<_>>().join(",")
    };
    let (hosts, ports) = (list(|address| address.ip().to_string()), list(|address| address.port().to_string()));
    let (user, database) = (Login::Trusting.user(), Login::Trusting.database());
    format!(
        "host={hosts} port={ports} target_session_attrs=read-write user={user} dbname={database} sslmode=disable \
         connect_timeout=3"
    )
}

/// A line of the program: kind, SQLSTATE, text.
fn failure(line: &str) -> Failure {
    let mut words = line.splitn(3, ' ');
    let class = match words.next() {
        Some("connect-failed") => FailureClass::ConnectFailed,
        Some("broken") => FailureClass::SessionBroken,
        Some("read-only") => FailureClass::ReadOnly,
        _ => FailureClass::Other,
    };
    let sqlstate = words.next().filter(|code| *code != "-").map(str::to_owned);
    Failure { at: Instant::now(), class, sqlstate, message: words.next().unwrap_or(line).to_owned() }
}
