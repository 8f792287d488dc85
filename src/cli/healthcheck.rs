//! `pgvane healthcheck`: asks a running pgvane how it is, and answers by exit code.

use super::admin_api::{AdminApi, AdminUrl, CliError};

pub(super) async fn ask(admin_url: &AdminUrl, wants_ready: bool) -> Result<(), CliError> {
    let text = AdminApi::at(admin_url)?.get(&[if wants_ready { "readyz" } else { "healthz" }]).await?;
    print!("{text}");
    Ok(())
}
