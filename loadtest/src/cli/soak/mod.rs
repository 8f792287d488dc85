//! `loadtest chaos` and `loadtest soak`: random faults under load, and after each a check of what clients saw.

mod evidence;
mod faults;
mod judge;
mod load;
mod plan;
mod report;
mod sabotage;
mod stage;
mod variant;
mod watch;
mod world;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use pgvane_loadtest::{Error, Result};

use self::evidence::Evidence;
use self::load::Load;
use self::plan::{Fault, Plan};
use self::report::Table;
use self::sabotage::Sabotage;
use self::stage::Stage;
use self::variant::{Forced, Variant};
use self::world::World;
use super::unless_interrupted;

pub(crate) use self::plan::Kind;

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
    /// Only these faults
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<Fault>,
    /// Ends after so many faults, if not before
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Where the logs of each step with a violation are kept
    #[arg(long, value_name = "DIRECTORY", default_value = "target/soak")]
    logs: PathBuf,
    #[command(flatten)]
    forced: Forced,
    /// Does this harm in the first step, the next one in the second, and so on, to show that the checks find it
    #[arg(long, value_name = "HARM", value_delimiter = ',', hide = true)]
    sabotage: Vec<Sabotage>,
}

impl Options {
    fn plan(&self, kind: Kind, variant: Variant) -> Plan {
        let mut faults = if self.faults.is_empty() { kind.faults() } else { self.faults.clone() };
        if !variant.ends_tls_at_pgvane() {
            faults.retain(|fault| *fault != Fault::ReloadCertificates); // pgvane has none
        }
        Plan::new(self.seed, faults)
    }
}

pub(crate) async fn run(kind: Kind, options: &Options) -> Result<()> {
    unless_interrupted(cause_faults(kind, options)).await.map(drop)
}

async fn cause_faults(kind: Kind, options: &Options) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(options.minutes * 60);
    let variant = Variant::new(kind, options.seed, options.forced);
    let [postgres, patroni] = variant.lab().versions()?;
    let title = format!("{} with seed {}: {postgres}; {patroni}; {variant}", kind.name(), options.seed);
    println!("{title}");
    let world = World::start(&options.pgvane, kind, variant).await?;
    let load = Load::start(&world.lab, world.ports(), kind, variant).await?;
    println!("pgvane's log:\n{}", world.pgvane.log_text());
    let mut stage = Stage::new(&world, kind, load).await?;
    println!("pgvane at rest: {}", stage.start());
    let mut table = Table::new(title, stage.start());
    let mut failed = None;
    for step in options.plan(kind, variant).take(options.steps.unwrap_or(usize::MAX)) {
        if Instant::now() >= until {
            break;
        }
        let (began, evidence) = (Instant::now(), Evidence::begin(&world));
        let directory = options.logs.join(format!("{}-{}-step-{}", kind.name(), options.seed, table.next()));
        let harm = options.sabotage.get(table.next() - 1).copied();
        match stage.step(step, harm).await {
            Ok(mut report) => {
                report.violations.extend(evidence.panics());
                let has_violations = !report.violations.is_empty();
                table.add(step.fault.title(), began.elapsed(), report);
                if has_violations {
                    println!("{}", evidence.collect(&world, &directory).await);
                }
            }
            Err(error) => {
                println!("     the lab failed during: {}", step.fault.title());
                println!("{}", evidence.collect(&world, &directory).await);
                failed = Some(error);
                break;
            }
        }
    }
    let violations = table.finish();
    match failed {
        Some(error) => Err(error),
        None if violations > 0 => {
            Err(Error::Command { command: kind.name().to_owned(), output: format!("{violations} violations") })
        }
        None => Ok(()),
    }
}
