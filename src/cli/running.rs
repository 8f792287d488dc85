//! What the commands for a running pgvane have in common: where it is, who asks, and how the answer is printed.

use std::io::{self, Write};

use clap::Args;

use super::admin_api::{AdminApi, AdminUrl, CliError, Identity};

/// The running pgvane, and the user who asks.
#[derive(Debug, Args)]
pub(super) struct Running {
    #[command(flatten)]
    admin_url: AdminUrl,
    #[command(flatten)]
    identity: Identity,
}

/// The same, for commands that can print JSON.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    running: Running,
}

impl Running {
    /// A client for its API. It logs in if a user is given. Errors: URL or password cannot be used.
    pub(super) fn api(&self) -> Result<AdminApi, CliError> {
        AdminApi::at(&self.admin_url, Some(&self.identity))
    }
}

impl Asked {
    /// As [`Running::api`].
    pub(super) fn api(&self) -> Result<AdminApi, CliError> {
        self.running.api()
    }

    /// The same for changes. Errors: also, no user is given.
    pub(super) fn api_for_changes(&self) -> Result<AdminApi, CliError> {
        self.api()?.for_changes()
    }

    /// Prints the answer of the API if JSON is wanted, otherwise what `as_text` makes of it.
    pub(super) fn print(
        &self,
        json: &str,
        as_text: impl FnOnce(&str) -> Result<String, CliError>,
    ) -> Result<(), CliError> {
        let printed = if self.json { json.to_owned() } else { as_text(json)? };
        print(&printed);
        Ok(())
    }
}

/// Prints to standard output. The reader may close the pipe early, as `head` does: that is no failure.
pub(super) fn print(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
