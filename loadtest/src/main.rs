//! `loadtest`: a cluster to look at, and the side-by-side of a failover through pgvane and through HAProxy.

mod cli;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Arguments, Task};

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Demo(options) => cli::demo::run(&options).await,
        Task::Failover(options) => cli::failover::run(&options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
