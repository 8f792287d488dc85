//! Waiting for a condition with a deadline. Nothing here sleeps to wait for another process.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Time between two attempts: short compared with everything that is measured, and long enough to use little CPU time.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Tries until `attempt` succeeds. Its error says what was seen instead; at the deadline, the last one is reported.
///
/// An attempt that is not finished at the deadline is dropped.
pub async fn until<T, F>(waited_for: &str, within: Duration, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = std::result::Result<T, String>>,
{
    let deadline = Instant::now() + within;
    let mut last_seen = "no answer at all".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) if Instant::now() < deadline => last_seen = seen,
            Ok(Err(seen)) => return Err(too_late(waited_for, within, seen)),
            Err(_elapsed) => return Err(too_late(waited_for, within, last_seen)),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn too_late(waited_for: &str, within: Duration, last_seen: String) -> Error {
    Error::TooLate { waited_for: waited_for.to_owned(), within, last_seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_last_seen_is_reported() {
        let error = until::<(), _>("rain", Duration::from_millis(30), || async { Err("sun".to_owned()) }).await;
        assert_eq!(error.expect_err("never true").to_string(), "rain: not within 0.03 s; last seen: sun");
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_is_given_up() {
        let waited = until::<(), _>("an answer", Duration::from_millis(30), std::future::pending).await;
        assert!(matches!(waited, Err(Error::TooLate { .. })));
    }
}
