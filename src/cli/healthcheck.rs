//! `pgvane healthcheck`: asks a running pgvane how it is, and answers by exit code.

use std::process::ExitCode;
use std::time::Duration;

use super::{exit, failed};
use crate::probe::patroni::http_client;

/// Docker's default for a health check is 30 s; an answer from the same machine takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn ask(admin: &str, wants_ready: bool) -> ExitCode {
    let url = format!("{}/{}", admin.trim_end_matches('/'), if wants_ready { "readyz" } else { "healthz" });
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(exit::FAILURE, error),
    };
    let speaks_https = admin.starts_with("https:");
    let answer = runtime.block_on(async {
        let client = if speaks_https { http_client() } else { http_client().tls_certs_only([]) };
        let client = client.timeout(PATIENCE).build()?;
        let answer = client.get(&url).send().await?;
        Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
    });
    match answer {
        Ok((status, text)) if status.is_success() => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok((_, text)) => failed(exit::FAILURE, text.trim_end()),
        Err(error) => failed(exit::FAILURE, format!("{url} does not answer: {error}")),
    }
}
