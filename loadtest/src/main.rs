//! `loadtest`: a cluster to try, random faults, and comparisons of pgvane and HAProxy: failover and cost.

mod cli;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::soak::Kind;
use crate::cli::{Arguments, Task};

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo(options) => cli::demo::run(&options).await,
        Task::Failover(options) => cli::failover::run(&options).await,
        Task::Chaos(options) => cli::soak::run(Kind::Chaos, &options).await,
        Task::Soak(options) => cli::soak::run(Kind::Soak, &options).await,
        Task::Carry(options) => cli::carry::run(&options).await,
        Task::Bench(options) => cli::bench::run(&options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
