//! The command line: what the user types, and the exit codes that answer it.

mod admin_api;
mod exit;
mod healthcheck;
mod memory;
mod node;
mod run;
mod status;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::admin_api::{AdminUrl, CliError};
use self::exit::failed;
use self::node::{Leave, Order};
use crate::cluster::AdminState;
use crate::config::Config;

/// Points every PostgreSQL connection at the right node of a Patroni cluster.
#[derive(Debug, Parser)]
#[command(name = "pgvane", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run(Source),
    /// Validate a configuration file and report every fault in it
    Check {
        /// The file
        file: PathBuf,
    },
    /// Ask a running pgvane whether it is alive; for Docker's HEALTHCHECK
    Healthcheck {
        #[command(flatten)]
        admin_url: AdminUrl,
        /// Ask whether it is ready to take connections, instead
        #[arg(long)]
        ready: bool,
    },
    /// Show the nodes and the listeners of a running pgvane
    Status {
        #[command(flatten)]
        admin_url: AdminUrl,
        /// As JSON, with everything that is known
        #[arg(long)]
        json: bool,
    },
    /// Give a node no new sessions, and end those that it has between two transactions
    Drain(Leave),
    /// The same, for a node that is to be taken down
    Maint(Leave),
    /// Give a node sessions again
    Ready(Order),
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct Source {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", required_unless_present = "patroni", conflicts_with = "patroni")]
    config: Option<PathBuf>,
    /// Do without a file: find the nodes through these Patroni REST APIs, and listen on ports 6432 (leader), 6433
    /// (replicas) and 8404 (stats)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    patroni: Vec<String>,
    /// With --patroni: where to serve the stats page, such as 0.0.0.0:8404; on this host only if not given
    #[arg(long, value_name = "IP:PORT", requires = "patroni")]
    admin: Option<SocketAddr>,
}

/// Runs the program: reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let is_help = !error.use_stderr();
            let _ = error.print(); // if even this cannot be shown, the exit code must do
            return if is_help { ExitCode::SUCCESS } else { ExitCode::from(exit::USAGE) };
        }
    };
    match cli.command {
        Command::Run(source) => match source.config() {
            Ok(config) => run::run(config),
            Err(code) => code,
        },
        Command::Check { file } => match read(&file) {
            Ok(config) => {
                let (clusters, listeners) = (config.clusters.len(), config.listeners.len());
                println!("{}: valid ({clusters} cluster(s), {listeners} listener(s))", file.display());
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
        Command::Healthcheck { admin_url, ready } => asked(healthcheck::ask(&admin_url, ready)),
        Command::Status { admin_url, json } => asked(status::show(&admin_url, json)),
        Command::Drain(leave) => asked(node::leave(&leave, AdminState::Drain)),
        Command::Maint(leave) => asked(node::leave(&leave, AdminState::Maint)),
        Command::Ready(order) => asked(node::ready(&order)),
    }
}

/// Has a running pgvane asked, and answers by exit code.
fn asked(asking: impl Future<Output = Result<(), CliError>>) -> ExitCode {
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(asking),
        Err(error) => Err(CliError::Unable(error.to_string())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error.exit_code(), error),
    }
}

impl Source {
    fn config(self) -> Result<Config, ExitCode> {
        match self.config {
            Some(file) => read(&file),
            None => {
                let config = Config::from_patroni_urls(&self.patroni).map_err(|faults| failed(exit::USAGE, faults));
                config.map(|config| match self.admin {
                    Some(bind) => config.with_admin_at(bind),
                    None => config,
                })
            }
        }
    }
}

fn read(file: &Path) -> Result<Config, ExitCode> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| failed(exit::NO_INPUT, format!("cannot read {name}: {error}")))?;
    Config::from_toml(&name, &text).map_err(|faults| failed(exit::CONFIG, faults))
}
