//! `pgvane reload`: has a running pgvane read its configuration file again.

use std::io::{self, Write};

use clap::Args;

use super::admin_api::{AdminApi, AdminUrl, CliError, Identity};
use crate::admin::reloads::Reload;

/// The running pgvane, and the user who asks.
#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    admin_url: AdminUrl,
    #[command(flatten)]
    identity: Identity,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reloads, and prints what has changed. Errors: the file was not accepted, and why.
pub(super) async fn reload(args: &ReloadArgs) -> Result<(), CliError> {
    let api = AdminApi::at(&args.admin_url, Some(&args.identity))?.for_changes()?;
    let text = api.post(&["api", "reload"], None, "").await?;
    if args.json {
        let _ = io::stdout().write_all(text.as_bytes()); // the reader may close the pipe early, as `head` does
        return Ok(());
    }
    let reload: Reload = serde_json::from_str(&text).map_err(|error| CliError::Unreadable(error.to_string()))?;
    reload.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if reload.changes.is_empty() && reload.needs_restart.is_empty() {
        println!("reloaded: nothing has changed, and the certificates were loaded again");
        return Ok(());
    }
    println!("reloaded:");
    reload.changes.iter().for_each(|change| println!("  {change}"));
    reload.needs_restart.iter().for_each(|change| println!("  {change} (takes effect with the next start)"));
    Ok(())
}
