//! `loadtest chaos`: random faults in a cluster with pgvane in front of it, and after each a check of what clients saw.

mod faults;
mod idle;
mod judge;
mod plan;
mod report;
mod stage;
mod variant;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use pgvane_loadtest::pgvane::Pgvane;
use pgvane_loadtest::writer::Writer;
use pgvane_loadtest::{Error, Result};

use self::faults::DESCRIPTORS_MAX;
use self::plan::Plan;
use self::report::Table;
use self::stage::Stage;
use self::variant::{Forced, Variant};
use super::unless_interrupted;

/// Longer than any time without a leader, so that no client may be refused.
const HOLD_MAX: &str = "120s";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// pgvane's binary
    #[arg(long, value_name = "PATH")]
    pgvane: PathBuf,
    /// Duration; the last fault is finished
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Chooses the faults, the versions, TLS and the pooler; the same seed makes the same choice
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    forced: Forced,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    unless_interrupted(chaos(options)).await.map(drop)
}

async fn chaos(options: &Options) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(options.minutes * 60);
    let variant = Variant::new(options.seed, options.forced);
    let lab = variant.lab().synchronous_mode(true);
    let [postgres, patroni] = lab.versions()?;
    let title = format!("seed {}: {postgres}; {patroni}; {variant}", options.seed);
    println!("{title}");
    let lab = lab.start().await?;
    Writer::prepare(&lab).await?;
    let poolers = variant.poolers(&lab).await?;
    let pgvane = Pgvane::builder(&options.pgvane, &Variant::nodes(&lab, &poolers));
    let pgvane = pgvane.cluster("leader_grace = \"15s\"").hold_max(HOLD_MAX).descriptors_max(DESCRIPTORS_MAX);
    let pgvane = variant.with_tls(pgvane, &lab)?.start(lab.directory()).await?;
    let mut stage = Stage::new(&lab, &pgvane, variant.clients_use_tls()).await?;
    let mut table = Table::new(title);
    let mut failed = None;
    for step in Plan::new(options.seed) {
        if Instant::now() >= until {
            break;
        }
        let (began, logged) = (Instant::now(), pgvane.log_text().len());
        match stage.step(step).await {
            Ok(report) => {
                let log = pgvane.log_text();
                table.add(step.fault.name(), began.elapsed(), report, log.get(logged..).unwrap_or_default());
            }
            Err(error) => {
                println!("     the lab failed during: {}", step.fault.name());
                failed = Some(error);
                break;
            }
        }
    }
    let violations = table.finish();
    match failed {
        Some(error) => Err(error),
        None if violations > 0 => {
            Err(Error::Command { command: "chaos".to_owned(), output: format!("{violations} violations") })
        }
        None => Ok(()),
    }
}
