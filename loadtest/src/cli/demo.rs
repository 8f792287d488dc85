//! `loadtest demo`: a cluster with pgvane in front, on fixed ports, for people to try.

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

/// Longer than pgvane holds a connection, so that it is pgvane's answer that is seen.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary
    #[arg(long, value_name = "PATH")]
    pgvane: PathBuf,
    /// End after N seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Write, read, switch over, write again, print the results, and end
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(show(options)).await.map(drop)
}

async fn show(options: &Options) -> Result<()> {
    // Before the cluster is started: a port in use is reported at once, not after ten seconds.
    for port in [WRITE_PORT, READ_PORT, ADMIN_PORT] {
        ports::fixed(port)?;
    }
    println!("Starting a Patroni cluster of three nodes. This takes about ten seconds.");
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
    println!("Statistics page:");
    println!("  http://127.0.0.1:{ADMIN_PORT}/");
    println!("Switch over to another node:");
    println!("  {} switchover --force", patronictl(lab));
    let name = &lab.nodes()[leader].name;
    println!("Kill the leader's PostgreSQL ({name} leads now; after a switchover, write the new leader's name):");
    println!("  kill -9 $(head -1 {}/postmaster.pid)", data.display());
    println!("Show the members and the leader, as Patroni sees them:");
    println!("  {} list", patronictl(lab));
    println!("pgvane's configuration and log:");
    println!("  {}\n  {}", pgvane.config_path().display(), pgvane.log_path().display());
    println!("Logs of Patroni and PostgreSQL:");
    println!("  {}/node*/*.log", lab.directory().display());
    println!();
    println!("Press Ctrl-C to stop everything. All files are removed.");
}

fn patronictl(lab: &Lab) -> String {
    format!("{} -c {}", lab.patronictl_program().display(), lab.nodes()[0].patroni_config().display())
}

async fn check(lab: &Lab, pgvane: &Pgvane) -> Result<()> {
    let leader = lab.wait_for_leader(CONNECT_WITHIN).await?;
    let client = Login::App.connect(pgvane.write_addr, CONNECT_WITHIN).await?;
    ask(&client, "create table seen (at timestamptz default now())").await?;
    let port = write(&client).await?;
    report(
        port == lab.nodes()[leader].pg.port(),
        &format!("a write through {WRITE_PORT} reached the leader, port {port}"),
    )?;

    let reader = Login::App.connect(pgvane.read_addr, CONNECT_WITHIN).await?;
    let row = ask(&reader, "select inet_server_port(), pg_is_in_recovery()").await?;
    report(row[1] == "t", &format!("a read through {READ_PORT} was answered by a replica, port {}", row[0]))?;

    let leader = lab.switchover().await?;
    let asked = Instant::now();
    let client = Login::App.connect(pgvane.write_addr, CONNECT_WITHIN).await?;
    let port = write(&client).await?;
    let took = asked.elapsed().as_millis();
    let text = format!(
        "after a switchover a write reached the new leader, port {port}; connecting and writing took {took} ms"
    );
    report(port == lab.nodes()[leader].pg.port(), &text)
}

/// Writes a row and returns the port of the server that wrote it.
async fn write(client: &Client) -> Result<u16> {
    let row = ask(client, "insert into seen default values returning inet_server_port()").await?;
    row[0].parse().map_err(|_not_a_port| Error::Command { command: "insert".to_owned(), output: row[0].clone() })
}

/// The first row's columns as text; empty if there is no row.
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

fn report(is_true: bool, what: &str) -> Result<()> {
    if !is_true {
        return Err(Error::Command { command: "demo --check".to_owned(), output: format!("this is not true: {what}") });
    }
    println!("ok: {what}");
    Ok(())
}
