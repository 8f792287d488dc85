//! `loadtest demo`: a cluster with pgvane in front, on fixed ports, to look at and to break.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::login::Login;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::{Error, Result, ports};
use tokio_postgres::Client;

use super::unless_interrupted;

const WRITE_PORT: u16 = 6432;
const READ_PORT: u16 = 6433;
const ADMIN_PORT: u16 = 8404;

/// Longer than pgvane holds a connection: what is looked at is its answer, not our patience.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary
    #[arg(long, value_name = "PATH")]
    pgvane: PathBuf,
    /// End by itself after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Write, read, switch over, write again, say what was seen, and end
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(show(options)).await.map(drop)
}

async fn show(options: &Options) -> Result<()> {
    // Before the cluster is made: a busy port is better known now than after ten seconds.
    for port in [WRITE_PORT, READ_PORT, ADMIN_PORT] {
        ports::fixed(port)?;
    }
    println!("Starting a Patroni cluster of three nodes; this takes about ten seconds.");
    let lab = Lab::builder().scope("demo").demo_ports().start().await?;
    let pgvane = Pgvane::builder(&options.pgvane, lab.nodes()).ports(WRITE_PORT, READ_PORT, ADMIN_PORT);
    let pgvane = pgvane.hold_max("30s").start(lab.directory()).await?;
    if options.check {
        return check(&lab, &pgvane).await;
    }
    explain(&lab, &pgvane).await;
    match options.seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
    Ok(())
}

async fn explain(lab: &Lab, pgvane: &Pgvane) {
    let leader = lab.leader().await.unwrap_or(0);
    let data = lab.nodes()[leader].data_directory();
    println!();
    println!("Writes, to the leader:");
    println!("  PGPASSWORD=app psql -h 127.0.0.1 -p {WRITE_PORT} -U app app");
    println!("Reads, balanced over the replicas:");
    println!(
        "  PGPASSWORD=app psql -h 127.0.0.1 -p {READ_PORT} -U app app -c 'select inet_server_port(), pg_is_in_recovery()'"
    );
    println!("What pgvane sees:");
    println!("  http://127.0.0.1:{ADMIN_PORT}/");
    println!("Hand the lead to another node:");
    println!("  {} switchover --force", patronictl(lab));
    println!("Crash the leader's PostgreSQL ({} now leads):", lab.nodes()[leader].name);
    println!("  kill -9 $(head -1 {}/postmaster.pid)", data.display());
    println!("Who leads, by Patroni:");
    println!("  {} list", patronictl(lab));
    println!("pgvane's configuration and log:");
    println!("  {}\n  {}", pgvane.config_path().display(), pgvane.log_path().display());
    println!("Logs of Patroni and PostgreSQL:");
    println!("  {}/node*/*.log", lab.directory().display());
    println!();
    println!("Ctrl-C ends everything and leaves nothing behind.");
}

fn patronictl(lab: &Lab) -> String {
    format!("{} -c {}", lab.patronictl_program().display(), lab.nodes()[0].patroni_config().display())
}

async fn check(lab: &Lab, pgvane: &Pgvane) -> Result<()> {
    let leader = lab.wait_for_leader(CONNECT_WITHIN).await?;
    let client = Login::App.connect(pgvane.write_addr, CONNECT_WITHIN).await?;
    ask(&client, "create table seen (at timestamptz default now())").await?;
    let port = write(&client).await?;
    say_if(
        port == lab.nodes()[leader].pg.port(),
        &format!("a write through {WRITE_PORT} reached the leader, port {port}"),
    )?;

    let reader = Login::App.connect(pgvane.read_addr, CONNECT_WITHIN).await?;
    let row = ask(&reader, "select inet_server_port(), pg_is_in_recovery()").await?;
    say_if(row[1] == "t", &format!("a read through {READ_PORT} was answered by a replica, port {}", row[0]))?;

    let leader = lab.switchover().await?;
    let asked = Instant::now();
    let client = Login::App.connect(pgvane.write_addr, CONNECT_WITHIN).await?;
    let port = write(&client).await?;
    let took = asked.elapsed().as_millis();
    let text = format!(
        "after a switchover a write reached the new leader, port {port}; connecting and writing took {took} ms"
    );
    say_if(port == lab.nodes()[leader].pg.port(), &text)
}

/// Writes a row and returns the port of the server that took it.
async fn write(client: &Client) -> Result<u16> {
    let row = ask(client, "insert into seen default values returning inet_server_port()").await?;
    row[0].parse().map_err(|_not_a_port| Error::Command { command: "insert".to_owned(), output: row[0].clone() })
}

/// The first row's columns as text; empty where there is none.
async fn ask(client: &Client, statement: &str) -> Result<Vec<String>> {
    let answer = client.simple_query(statement).await;
    let messages = answer.map_err(|source| Error::Postgres { doing: statement.to_owned(), source })?;
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let columns = row.map(|row| (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect());
    Ok(columns.unwrap_or_default())
}

fn say_if(holds: bool, what: &str) -> Result<()> {
    if !holds {
        return Err(Error::Command { command: "demo --check".to_owned(), output: format!("not so: {what}") });
    }
    println!("ok: {what}");
    Ok(())
}
