//! `pgvane healthcheck`: reads the health of a running pgvane; the exit code is the answer.

use super::admin_api::{AdminApi, AdminUrl, CliError};

pub(super) async fn ask(admin_url: &AdminUrl, checks_ready: bool) -> Result<(), CliError> {
    let text = AdminApi::at(admin_url, None)?.get(&[if checks_ready { "readyz" } else { "healthz" }]).await?;
    print!("{text}");
    Ok(())
}
