//! `pgvane reload`: has a running pgvane read its configuration file again.

use super::admin_api::CliError;
use super::running::Asked;
use crate::admin::reloads::Reload;

/// Reloads, and prints what has changed. Errors: the file was not accepted, and why.
pub(super) async fn reload(asked: &Asked) -> Result<(), CliError> {
    let answer = asked.api_for_changes()?.post(&["api", "reload"], None, "").await?;
    asked.print(&answer, |answer| {
        let reload: Reload = serde_json::from_str(answer).map_err(|error| CliError::Unreadable(error.to_string()))?;
        reload.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        Ok(text(&reload))
    })
}

fn text(reload: &Reload) -> String {
    if reload.changes.is_empty() && reload.needs_restart.is_empty() {
        return "reloaded: nothing has changed, and the certificates were loaded again\n".to_owned();
    }
    let changes = reload.changes.iter().map(|change| format!("  {change}\n"));
    let later = reload.needs_restart.iter().map(|change| format!("  {change} (takes effect with the next start)\n"));
    "reloaded:\n".to_owned() + &changes.chain(later).collect::<String>()
}
