//! `pgvane healthcheck`: reads the health of a running pgvane; the exit code is the answer.

use clap::Args;
use serde_json::json;

use super::admin_api::{AdminApi, AdminUrl, CliError};
use super::running::print;

/// The arguments of `pgvane healthcheck`.
#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// Check whether it is ready to accept connections, not only whether it is alive
    #[arg(long)]
    ready: bool,
    /// Print JSON, also if it is not healthy
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin_url: AdminUrl,
}

/// Prints the answer. Errors: it does not answer, or is not ready.
pub(super) async fn ask(args: &HealthcheckArgs) -> Result<(), CliError> {
    let (path, key) = if args.ready { ("readyz", "ready") } else { ("healthz", "alive") };
    let answer = AdminApi::at(&args.admin_url, None)?.get(&[path]).await;
    match &answer {
        Ok(_) if args.json => print(&format!("{}\n", json!({key: true}))),
        Err(why) if args.json => print(&format!("{}\n", json!({key: false, "reason": why.to_string()}))),
        Ok(text) => print(text),
        Err(_) => {}
    }
    answer.map(drop)
}
