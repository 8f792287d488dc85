//! The command line: commands, options and exit codes.

mod admin_api;
mod check;
mod check_found;
mod exit;
mod explain;
mod healthcheck;
mod import;
mod memory;
mod node;
mod park;
mod reload;
mod run;
mod running;
mod sessions;
mod shell;
mod status;
mod switchover;
mod top;
mod upgrade;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory, Parser, Subcommand};

use self::admin_api::CliError;
use self::check::CheckArgs;
use self::exit::failed;
use self::healthcheck::HealthcheckArgs;
use self::import::ImportArgs;
use self::node::{DrainArgs, NodeArgs, WeightArgs};
use self::park::{ParkArgs, UnparkArgs};
use self::running::Asked;
use self::sessions::{CloseArgs, ListArgs};
use self::shell::Shell;
use self::switchover::SwitchoverArgs;
use self::top::TopArgs;
use crate::app::ReadError;
use crate::cluster::AdminState;
use crate::config::{Config, Faults};

/// Routes every PostgreSQL connection to the right node of a Patroni cluster.
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
    /// Check a configuration file and report every fault in it
    Check(CheckArgs),
    /// Write a configuration from a haproxy.cfg: the result on standard output, a report on standard error
    ///
    /// The report names every line that is not in the result and every line that means something else in pgvane. A file
    /// that does not say clearly what is meant is refused with exit code 78, and nothing is written to standard output.
    Import(ImportArgs),
    /// Check whether a running pgvane is alive; for Docker's HEALTHCHECK
    Healthcheck(HealthcheckArgs),
    /// Show the nodes and listeners of a running pgvane
    Status(Asked),
    /// Show the nodes, listeners and sessions of a running pgvane, live on the terminal; q quits
    Top(TopArgs),
    /// Hold the write sessions of a cluster between two transactions: their clients wait. For Patroni's before_stop
    ///
    /// Each session has park_grace to end its transaction. Exit code 0: every session that can be parked is parked, or
    /// the node does not lead. 1: a pgvane did not answer, or a session is not parked, after --wait at the latest.
    Park(ParkArgs),
    /// Let parked sessions go on where they are
    Unpark(UnparkArgs),
    /// Have Patroni hand the lead to another node, with the write sessions parked before
    Switchover(SwitchoverArgs),
    /// Read the configuration file again; running sessions stay
    Reload(Asked),
    /// Start the program again from its file, which may be a newer version, and let it take over: no session is cut
    ///
    /// The new process reads the configuration file, takes over the ports, and gets the sessions one by one. If it cannot
    /// start, the old one goes on. Sessions whose TLS ends at pgvane stay in the old process until they end, at most for
    /// drain_timeout. The signal SIGUSR2 does the same.
    Upgrade(Asked),
    /// Send no new sessions to a node, and close each of its sessions between two transactions
    Drain(DrainArgs),
    /// The same as drain, for a node that will be shut down
    Maint(DrainArgs),
    /// Send sessions to a node again
    Ready(NodeArgs),
    /// Set a node's share of new sessions until pgvane is restarted; open sessions stay
    Weight(WeightArgs),
    /// List the sessions of a running pgvane: clients, users, databases, nodes
    Sessions(ListArgs),
    /// Close sessions at once, also in the middle of a transaction: of a node, a user, a database, …
    Close(CloseArgs),
    /// Print a script that makes a shell complete the commands and options of pgvane
    ///
    /// bash: pgvane completions bash > /etc/bash_completion.d/pgvane
    /// zsh: pgvane completions zsh > /usr/local/share/zsh/site-functions/_pgvane
    /// fish: pgvane completions fish > ~/.config/fish/completions/pgvane.fish
    #[command(verbatim_doc_comment)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page: pgvane man > /usr/local/share/man/man1/pgvane.1
    Man,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct Source {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", required_unless_present = "patroni", conflicts_with = "patroni")]
    config: Option<PathBuf>,
    /// Run without a file: find the nodes through these Patroni REST APIs, and listen on ports 6432 (leader), 6433
    /// (replicas) and 8404 (stats)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    patroni: Vec<String>,
    /// With --patroni: where to serve the stats page, such as 0.0.0.0:8404; on this host only if not given
    #[arg(long, value_name = "IP:PORT", requires = "patroni")]
    admin: Option<SocketAddr>,
}

/// Reads the command line and runs its command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let is_help = !error.use_stderr();
            let _ = error.print(); // if this cannot be printed, the exit code still tells the outcome
            return if is_help { ExitCode::SUCCESS } else { ExitCode::from(exit::USAGE) };
        }
    };
    match cli.command {
        Command::Run(source) => match source.config() {
            Ok(config) => run::run(config, Arc::new(move || source.read())),
            Err(code) => code,
        },
        Command::Reload(asked) => block_on(reload::reload(&asked)),
        Command::Park(args) => block_on(park::park(&args)),
        Command::Unpark(args) => block_on(park::unpark(&args)),
        Command::Upgrade(asked) => block_on(upgrade::upgrade(&asked)),
        Command::Switchover(args) => block_on(switchover::run(&args)),
        Command::Check(args) => match read(args.file()) {
            Ok(config) => on_one_thread(check::run(&args, &config)),
            Err(ReadError::Faults(faults)) if args.as_json() => check::print_faults(&faults),
            Err(error) => failed_to_read(error),
        },
        Command::Top(args) => block_on(top::run(&args)),
        Command::Completions { shell } => printed(shell::completions(shell, Cli::command())),
        Command::Man => printed(shell::man(Cli::command())),
        Command::Import(args) => import::run(&args),
        Command::Healthcheck(args) => block_on(healthcheck::ask(&args)),
        Command::Status(asked) => block_on(status::show(&asked)),
        Command::Drain(args) => block_on(node::drain(&args, AdminState::Drain)),
        Command::Maint(args) => block_on(node::drain(&args, AdminState::Maint)),
        Command::Ready(args) => block_on(node::ready(&args)),
        Command::Weight(args) => block_on(node::weight(&args)),
        Command::Sessions(args) => block_on(sessions::list(&args)),
        Command::Close(args) => block_on(sessions::close(&args)),
    }
}

/// The exit code of a command that only prints.
fn printed(outcome: std::io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(exit::FAILURE, format!("cannot write to standard output: {error}")),
    }
}

/// Runs a command that calls the admin API, and returns its exit code.
fn block_on(command: impl Future<Output = Result<(), CliError>>) -> ExitCode {
    on_one_thread(async {
        match command.await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(error.exit_code(), error),
        }
    })
}

/// Runs a command that needs a runtime.
fn on_one_thread(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => failed(exit::FAILURE, error),
    }
}

impl Source {
    /// The configuration, or the exit code if there is none: why has been printed.
    fn config(&self) -> Result<Config, ExitCode> {
        match &self.config {
            Some(file) => read(file).map_err(failed_to_read),
            None => self.patroni_config().map_err(|faults| failed(exit::USAGE, faults)),
        }
    }

    /// The configuration, read again.
    fn read(&self) -> Result<Config, ReadError> {
        match &self.config {
            Some(file) => read(file),
            None => self.patroni_config().map_err(ReadError::Faults),
        }
    }

    fn patroni_config(&self) -> Result<Config, Faults> {
        let config = Config::from_patroni_urls(&self.patroni)?;
        Ok(match self.admin {
            Some(bind) => config.with_admin_at(bind),
            None => config,
        })
    }
}

fn read(file: &Path) -> Result<Config, ReadError> {
    let name = file.display().to_string();
    let text =
        std::fs::read_to_string(file).map_err(|error| ReadError::File(format!("cannot read {name}: {error}")))?;
    Config::from_toml(&name, &text).map_err(ReadError::Faults)
}

fn failed_to_read(error: ReadError) -> ExitCode {
    match error {
        ReadError::File(why) => failed(exit::NO_INPUT, why),
        ReadError::Faults(faults) => failed(exit::CONFIG, faults),
    }
}
