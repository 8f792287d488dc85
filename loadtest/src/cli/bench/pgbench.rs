//! PostgreSQL's own benchmark, on a real server behind each proxy.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use pgvane_loadtest::bench::proxy::Setup;
use pgvane_loadtest::bench::report::Measure;
use pgvane_loadtest::bench::usage;
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::programs::Postgresql;
use pgvane_loadtest::{Error, Result};

use super::{Bench, start_all};

/// What is run, with `pgbench`'s options for it.
const RUNS: [(&str, &[&str]); 3] = [
    ("pgbench, select only", &["-S", "-c", "16", "-j", "2"]),
    ("pgbench, TPC-B", &["-c", "16", "-j", "2"]),
    ("pgbench, select only, a connection each", &["-S", "-C", "-c", "4", "-j", "2"]),
];

/// 500,000 accounts: small enough for the cache, so that the disk says nothing.
const SCALE: &str = "5";

impl Bench<'_> {
    pub(super) async fn pgbench(&mut self) -> Result<()> {
        if !self.is_wanted("pgbench") {
            return Ok(());
        }
        let lab = Lab::builder().nodes(1).hba("host bench bench 127.0.0.1/32 trust").start().await?;
        let server = &lab.nodes()[0];
        let superuser = lab.connect_direct(0).await?;
        for statement in ["create role bench login", "create database bench owner bench"] {
            let done = superuser.batch_execute(statement).await;
            done.map_err(|source| Error::Postgres { doing: statement.to_owned(), source })?;
        }
        drop(superuser);
        run(server.pg, &["-i", "-q", "-s", SCALE], 0).await?;

        let setup = Setup { backend: server.pg, rest: server.rest, ..self.setup() };
        let running = start_all(&self.proxies, &setup).await?;
        let seconds = self.amounts.trips.as_secs().max(1) + 2;
        for (name, options) in RUNS {
            let mut cost = Measure::new(name, "CPU µs per transaction");
            let mut rate = Measure::new(format!("{name}: rate"), "1/s");
            for round in 0..self.options.rounds {
                rate.add("direct", run(server.pg, options, seconds).await?);
                for (name, proxy) in super::in_turn(&running, round) {
                    let before = usage::cpu_time(proxy.pid)?;
                    let per_second = run(proxy.server.addresses[0], options, seconds).await?;
                    let used = usage::cpu_time(proxy.pid)? - before;
                    cost.add(name, used.as_secs_f64() * 1e6 / (per_second * seconds as f64));
                    rate.add(name, per_second);
                }
            }
            self.done(cost);
            self.done(rate);
        }
        Ok(())
    }
}

/// Transactions per second; zero where none were asked for.
async fn run(server: SocketAddr, options: &[&str], seconds: u64) -> Result<f64> {
    let mut command = Command::new(Postgresql::Packaged.program("pgbench")?);
    command.args(["-n", "-h", &server.ip().to_string(), "-p", &server.port().to_string(), "-U", "bench"]);
    command.args(options).stdin(Stdio::null());
    if seconds > 0 {
        command.args(["-T", &seconds.to_string()]);
    }
    command.arg("bench");
    let shown = format!("{command:?}");
    let failed = |output: String| Error::Command { command: shown.clone(), output };
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("does not panic");
    let output = output.map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(failed(text + &String::from_utf8_lossy(&output.stderr)));
    }
    if seconds == 0 {
        return Ok(0.0);
    }
    let figure = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| failed(text))
}
