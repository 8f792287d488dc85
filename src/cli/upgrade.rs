//! `pgvane upgrade`: has a running pgvane start its program again and let the new process take over.

use super::admin_api::CliError;
use super::running::Asked;
use crate::admin::upgrades::Upgrade;

/// Upgrades, and prints which process runs now. Errors: the new process did not start; the old one goes on.
pub(super) async fn upgrade(asked: &Asked) -> Result<(), CliError> {
    let answer = asked.api_for_changes()?.post(&["api", "upgrade"], None, "").await?;
    asked.print(&answer, |answer| {
        let upgrade: Upgrade = serde_json::from_str(answer).map_err(|error| CliError::Unreadable(error.to_string()))?;
        Ok(text(&upgrade))
    })
}

fn text(upgrade: &Upgrade) -> String {
    let Upgrade { process, version, version_before, sessions, can_move_sessions } = upgrade;
    let line = format!("upgraded from {version_before} to {version}: process {process} accepts connections now\n");
    let what_happens = match can_move_sessions {
        _ if *sessions == 0 => return line,
        true => {
            "move to it; those with TLS at pgvane stay in the old process until they end, at most for drain_timeout"
        }
        false => "stay in the old process until they end, at most for drain_timeout",
    };
    format!("{line}  {sessions} sessions {what_happens}\n")
}
