//! `pgvane import`: writes a configuration from a haproxy.cfg.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::exit::{self, failed};
use crate::import::{Request, RoleSource, import};

/// The file, and answers to what it does not say.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// HAProxy's configuration file. Environment variables in it have the values that they have here
    file: PathBuf,
    /// Where the roles of the nodes are known, for files whose checks do not ask for them
    #[arg(long, value_name = "WHO")]
    check: Option<Who>,
    /// The servers of this section are members of one cluster, although their names look like several; can be repeated
    #[arg(long, value_name = "SECTION")]
    one_cluster: Vec<String>,
}

/// Who knows the roles.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Who {
    /// Patroni's REST API, at port 8008 of each node
    Patroni,
    /// PostgreSQL itself
    Sql,
}

/// Imports the file.
pub(super) fn run(args: &ImportArgs) -> ExitCode {
    let name = args.file.display().to_string();
    let bytes = match std::fs::read(&args.file) {
        Ok(bytes) => bytes,
        Err(error) => return failed(exit::NO_INPUT, format!("cannot read {name}: {error}")),
    };
    // a variable that is not text cannot stand in a configuration of pgvane
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let environment: BTreeMap<String, String> = variables.collect();
    let outcome = import(&Request {
        file: &name,
        bytes: &bytes,
        environment: &environment,
        read_file: &|path| std::fs::read_to_string(path).map_err(|error| error.to_string()),
        role_source: args.check.map(|who| match who {
            Who::Patroni => RoleSource::Patroni,
            Who::Sql => RoleSource::Sql,
        }),
        one_cluster: &args.one_cluster,
    });
    // the exit code still tells the outcome if standard error is closed
    let _ = io::stderr().write_all(outcome.report.as_bytes());
    let Some(toml) = outcome.toml else { return ExitCode::from(exit::CONFIG) };
    match io::stdout().write_all(toml.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(exit::FAILURE, format!("cannot write the configuration: {error}")),
    }
}
