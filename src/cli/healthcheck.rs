//! `pgvane healthcheck`: asks a running pgvane how it is, and answers by exit code.

use super::admin_api::{AdminApi, Place, Trouble};

pub(super) async fn ask(place: &Place, wants_ready: bool) -> Result<(), Trouble> {
    let text = AdminApi::at(place)?.get(&[if wants_ready { "readyz" } else { "healthz" }]).await?;
    print!("{text}");
    Ok(())
}
