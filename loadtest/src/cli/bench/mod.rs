//! `loadtest bench`: what pgvane, HAProxy and PgBouncer cost, side by side on a null backend and on a real server.

mod cost;
mod crowd;
mod growth;
mod idle;
mod latency;
mod listeners;
mod pgbench;
mod tls;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use pgvane_loadtest::bench::load::Server;
use pgvane_loadtest::bench::neighbours::Neighbours;
use pgvane_loadtest::bench::proxy::{Proxy, Running, Setup};
use pgvane_loadtest::bench::report::{BASELINE, Measure, Report};
use pgvane_loadtest::bench::{backend, descriptors, plot};
use pgvane_loadtest::fake::FakePatroni;
use pgvane_loadtest::scratch::Scratch;
use pgvane_loadtest::{Error, Result};
use serde_json::json;

use super::unless_interrupted;

/// After many sessions were opened, the proxy has finished its work for them within this time.
const SETTLE: Duration = Duration::from_millis(1500);

/// HAProxy's and PgBouncer's limit: more than there are in most of the rows.
const SESSIONS_MAX: usize = 9000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary; more of them, given as NAME=PATH, get columns of their own
    #[arg(long, value_name = "[NAME=]PATH", required = true)]
    pgvane: Vec<String>,
    /// Lines of TOML for pgvane's listener, such as 'relay = "copy"'
    #[arg(long, value_name = "TOML", default_value = "")]
    listener: String,
    /// How often each proxy is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// A short run with less exact figures
    #[arg(long)]
    quick: bool,
    /// Measure only what has one of these words in its name
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave out these proxies
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    without: Vec<String>,
    /// Sessions of the round trips
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,8,64,512,8000")]
    sessions: Vec<usize>,
    /// Sessions that are left idle
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000,2000,8000")]
    idle: Vec<usize>,
    /// Sessions of which one in a hundred is busy
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    crowd: usize,
    /// Numbers of nodes for which pgvane's costs are compared
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "2,10,50")]
    nodes: Vec<usize>,
    /// Run this many processes beside the proxies that use as much CPU time as they get
    #[arg(long, value_name = "N", default_value_t = 0)]
    beside: usize,
    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the cost by number of sessions, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(measure(options)).await.map(drop)
}

/// What is measured, and how much of it.
#[derive(Debug, Clone, Copy)]
struct Amounts {
    trips: Duration,
    gigabytes: f64,
    connects: usize,
}

struct Bench<'a> {
    options: &'a Options,
    amounts: Amounts,
    proxies: Vec<Proxy>,
    /// The one that is asked whether its costs grow.
    pgvane: PathBuf,
    /// How many descriptors this process, and each proxy, may have.
    descriptors_max: usize,
    backend: SocketAddr,
    /// The REST API of the null backend.
    leader: FakePatroni,
    scratch: Scratch,
    report: Report,
}

/// Proxies that run at the same time, and take turns in the rows that compare them.
struct Group {
    /// Their names and processes.
    running: Vec<(String, Running)>,
    /// What the names of their rows end with.
    suffix: String,
    /// Whose figures the others are compared with.
    baseline: &'static str,
    /// The server without a proxy, where clients can reach it in the same way.
    direct: Option<Server>,
    /// Whether the picture shows them.
    is_plotted: bool,
}

async fn measure(options: &Options) -> Result<()> {
    let amounts = if options.quick {
        Amounts { trips: Duration::from_millis(700), gigabytes: 1.0, connects: 2000 }
    } else {
        Amounts { trips: Duration::from_secs(3), gigabytes: 4.0, connects: 10_000 }
    };
    let proxies = proxies(options)?;
    let pgvane = proxies.iter().find_map(|proxy| match proxy {
        Proxy::Pgvane { binary, .. } => Some(binary.clone()),
        _ => None,
    });
    let leader = FakePatroni::start_without_name().await;
    leader.leads(1);
    let scratch = Scratch::new()?;
    let _neighbours = Neighbours::start(options.beside, scratch.directory())?;
    let mut bench = Bench {
        options,
        amounts,
        pgvane: pgvane.expect("the command line asks for one"),
        proxies,
        descriptors_max: descriptors::raise_limit()?,
        backend: backend::start()?,
        leader,
        scratch,
        report: Report::default(),
    };
    bench.all().await?;
    print!("{}", bench.report.markdown());
    let growth = match bench.is_wanted("nodes") {
        true => bench.growth().await?,
        false => Report::default(),
    };
    if !growth.measures.is_empty() {
        print!("\n{}", growth.markdown());
    }
    if let Some(file) = &options.json {
        let all = json!({ "beside": options.beside, "proxies": bench.report.measures, "nodes": growth.measures });
        let text = serde_json::to_string_pretty(&all).expect("numbers and names always make JSON");
        write(file, &(text + "\n"))?;
    }
    options.plot.as_ref().map_or(Ok(()), |file| write(file, &plot::svg(&bench.report)))
}

fn proxies(options: &Options) -> Result<Vec<Proxy>> {
    let mut all = Vec::new();
    for given in &options.pgvane {
        let (name, path) = given.split_once('=').unwrap_or(("pgvane", given));
        let binary = Path::new(path).canonicalize();
        let binary = binary.map_err(|source| Error::Io { doing: format!("looking for {path}"), source })?;
        all.push(Proxy::Pgvane { name: name.to_owned(), binary, listener: options.listener.clone() });
    }
    all.extend([Proxy::Haproxy { splices: false }, Proxy::Haproxy { splices: true }, Proxy::PgBouncer]);
    all.retain(|proxy| !options.without.iter().any(|name| name == proxy.name()));
    Ok(all)
}

impl Bench<'_> {
    async fn all(&mut self) -> Result<()> {
        let group = Group {
            running: start_all(&self.proxies, &self.setup()).await?,
            suffix: String::new(),
            baseline: BASELINE,
            direct: Some(self.backend.into()),
            is_plotted: true,
        };
        for sessions in self.options.sessions.clone() {
            self.round_trips(sessions, &group).await?;
        }
        self.latency(&group).await?;
        self.streams(&group).await?;
        self.connects(&group).await?;
        drop(group);
        self.listeners().await?;
        self.tls().await?;
        for sessions in self.options.idle.clone() {
            self.idle(sessions).await?;
        }
        self.crowd().await?;
        self.pgbench().await
    }

    /// A proxy with one port in front of the null backend.
    fn setup(&self) -> Setup<'_> {
        Setup {
            directory: self.scratch.directory(),
            backend: self.backend,
            rest: self.leader.address(),
            sessions_max: SESSIONS_MAX,
            ports: 1,
            certificate: None,
        }
    }

    /// The null backend under the address that ends with this number, from 1: for a connection to another address, the
    /// kernel can use a local port that another connection has.
    fn backend_at(&self, number: usize) -> SocketAddr {
        let last = u8::try_from(number).expect("no more servers than a network of 256 addresses has");
        SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), self.backend.port())
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.options.only.is_empty() || self.options.only.iter().any(|word| name.contains(word))
    }

    fn done(&mut self, mut measure: Measure) {
        measure.finish();
        let medians: Vec<String> =
            measure.columns.iter().map(|column| format!("{} {:.2}", column.proxy, column.median)).collect();
        eprintln!("{}, {}: {}", measure.name, measure.unit, medians.join(", "));
        self.report.measures.push(measure);
    }
}

async fn start_all(proxies: &[Proxy], setup: &Setup<'_>) -> Result<Vec<(String, Running)>> {
    let mut running = Vec::new();
    for proxy in proxies {
        running.push((proxy.name().to_owned(), proxy.start(setup).await?));
    }
    Ok(running)
}

/// Another proxy is the first in each round, because the first one meets a different load of the machine.
fn in_turn<T>(running: &[T], round: usize) -> impl Iterator<Item = &T> {
    running.iter().cycle().skip(round % running.len()).take(running.len())
}

/// "1 session", "8 sessions".
fn sessions_in_words(sessions: usize) -> String {
    format!("{sessions} {}", if sessions == 1 { "session" } else { "sessions" })
}

/// Runs a load on a thread of its own.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let worked = tokio::task::spawn_blocking(work).await.expect("a load does not panic");
    worked.map_err(|source| Error::Io { doing: "running a load".to_owned(), source })
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(|source| Error::Io { doing: format!("writing {}", file.display()), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_proxy_and_leaves_none_out() {
        let proxies = ["pgvane", "HAProxy", "PgBouncer"];
        let turns: Vec<Vec<&str>> = (0..4).map(|round| in_turn(&proxies, round).copied().collect()).collect();
        assert_eq!(turns[0], ["pgvane", "HAProxy", "PgBouncer"]);
        assert_eq!(turns[1], ["HAProxy", "PgBouncer", "pgvane"]);
        assert_eq!(turns[2], ["PgBouncer", "pgvane", "HAProxy"]);
        assert_eq!(turns[3], turns[0]);
    }
}
