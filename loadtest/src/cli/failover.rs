//! `loadtest failover`: how long writes stop when the leader changes, without a proxy and through each.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use pgvane_loadtest::crowd::{self, CrowdReport};
use pgvane_loadtest::haproxy::Haproxy;
use pgvane_loadtest::lab::Lab;
use pgvane_loadtest::libpq;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::writer::{RunningWriter, Writer, longest_gap};
use pgvane_loadtest::{Error, Result};

use super::side_by_side::{CrashResult, Measured, Proxy, Report, Round};
use super::unless_interrupted;

/// Each writer must have written this many rows before the leader changes, and after it.
const ACKS_BEFORE: usize = 100;
const ACKS_AFTER: usize = 100;
const ACKS_WITHIN: Duration = Duration::from_secs(90);
/// After a crash, Patroni rewinds the old leader, which then has to catch up.
const STREAMING_WITHIN: Duration = Duration::from_secs(120);
/// After the crash there is no leader for about Patroni's `ttl`, 20 s here. These clients come in the first half of it.
const CROWD_SIZE: usize = 40;
const CROWD_EVERY: Duration = Duration::from_millis(250);
const HOLD_MAX: &str = "30s";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary; without it only HAProxy is measured
    #[arg(long, value_name = "PATH", required_unless_present = "haproxy")]
    pgvane: Option<PathBuf>,
    /// Measure HAProxy too, with the configuration of Patroni's template
    #[arg(long)]
    haproxy: bool,
    /// Measure libpq's own way too: a connection string with all nodes, and target_session_attrs=read-write
    #[arg(long)]
    libpq: bool,
    /// Number of switchovers
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Then kill the leader, and connect clients while there is none
    #[arg(long)]
    kill: bool,
    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(measure(options)).await.map(drop)
}

async fn measure(options: &Options) -> Result<()> {
    eprintln!("starting the cluster");
    let lab = Lab::builder().start().await?;
    Writer::prepare(&lab).await?;
    let pgvane = match &options.pgvane {
        Some(binary) => Some(Pgvane::builder(binary, lab.nodes()).hold_max(HOLD_MAX).start(lab.directory()).await?),
        None => None,
    };
    let haproxy = if options.haproxy { Some(Haproxy::start(lab.directory(), lab.nodes()).await?) } else { None };
    let proxies: Vec<Proxy> = [
        pgvane.as_ref().map(|pgvane| Proxy { name: "pgvane", write: pgvane.write_addr }),
        haproxy.as_ref().map(|haproxy| Proxy { name: "HAProxy", write: haproxy.write_addr }),
    ]
    .into_iter()
    .flatten()
    .collect();

    let ways = Ways { proxies, libpq: options.libpq };

    let mut report = Report::default();
    for number in 1..=options.rounds {
        eprintln!("switchover {number} of {}", options.rounds);
        report.rounds.push(round(&lab, &ways, Change::Switchover).await?.0);
    }
    if options.kill {
        eprintln!("killing the leader");
        let (round, crowds) = round(&lab, &ways, Change::Crash).await?;
        report.crash = Some(CrashResult::new(round, &crowds));
    }
    print!("{}", report.markdown());
    match &options.json {
        Some(file) => write_json(file, &report),
        None => Ok(()),
    }
}

/// The ways to the leader that are measured.
#[derive(Debug)]
struct Ways {
    proxies: Vec<Proxy>,
    libpq: bool,
}

impl Ways {
    fn start_writers(&self, lab: &Lab) -> Result<Vec<RunningWriter>> {
        let through = self.proxies.iter().map(|proxy| Ok(Writer::to(proxy.name, proxy.write).start()));
        through.chain(self.libpq.then(|| libpq::start_writer(lab))).collect()
    }
}

/// What the clients of each way saw that connected while there was no leader.
type Crowds = Vec<(&'static str, CrowdReport)>;

/// How the leader changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Switchover,
    Crash,
}

/// One change of leader while clients write; after a crash, also what the clients saw that connected meanwhile.
async fn round(lab: &Lab, ways: &Ways, change: Change) -> Result<(Round, Crowds)> {
    lab.wait_until_all_streaming(STREAMING_WITHIN).await?;
    let leader = lab.wait_for_leader(STREAMING_WITHIN).await?;
    let direct: Vec<RunningWriter> = Writer::direct(lab).into_iter().map(Writer::start).collect();
    let through = ways.start_writers(lab)?;
    for writer in through.iter().chain([&direct[leader]]) {
        writer.wait_for_acks(ACKS_BEFORE, ACKS_WITHIN).await?;
    }
    let changed = Instant::now();
    let (new_leader, crowds) = match change {
        Change::Switchover => (lab.switchover().await?, Vec::new()),
        Change::Crash => crash(lab, ways, leader).await?,
    };
    for writer in through.iter().chain([&direct[new_leader]]) {
        writer.wait_for_acks(ACKS_AFTER, ACKS_WITHIN).await?;
    }
    let took = changed.elapsed();

    let mut acks = Vec::new();
    for writer in direct {
        acks.extend(writer.finish().await.acks);
    }
    let direct_gap = longest_gap(&acks).map(|gap| gap.length()).unwrap_or_default();
    let mut measured = Vec::new();
    for writer in through {
        measured.push(Measured::new(&writer.finish().await, direct_gap));
    }
    if change == Change::Crash {
        lab.start_node(leader)?;
    }
    let new_leader = lab.nodes()[new_leader].name.clone();
    Ok((
        Round { new_leader, direct_gap_ms: direct_gap.as_millis(), took_ms: took.as_millis(), through: measured },
        crowds,
    ))
}

async fn crash(lab: &Lab, ways: &Ways, leader: usize) -> Result<(usize, Crowds)> {
    lab.kill_node(leader)?;
    let visit = |proxy: &Proxy| (proxy.name, tokio::spawn(crowd::visit(proxy.write, CROWD_SIZE, CROWD_EVERY)));
    let visits: Vec<_> = ways.proxies.iter().map(visit).collect();
    let by_libpq = async {
        match ways.libpq {
            true => libpq::visit(lab, CROWD_SIZE, CROWD_EVERY).await.map(Some),
            false => Ok(None),
        }
    };
    let new_leader = lab.wait_for_leader_other_than(leader, STREAMING_WITHIN);
    let (new_leader, by_libpq) = tokio::try_join!(new_leader, by_libpq)?;
    let mut crowds = Vec::new();
    for (name, visit) in visits {
        crowds.push((name, visit.await.expect("a crowd does not panic")));
    }
    crowds.extend(by_libpq.map(|crowd| (libpq::NAME, crowd)));
    Ok((new_leader, crowds))
}

fn write_json(file: &std::path::Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report).expect("numbers and names always make JSON");
    let doing = || format!("writing {}", file.display());
    fs::write(file, text + "\n").map_err(|source| Error::Io { doing: doing(), source })
}
