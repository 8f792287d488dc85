//! Logs what became of the sessions of a cluster that lost their server while they were parked: in one line, when none is
//! on its way any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::carry_totals::NewestCarried;
use super::registry::Registry;
use crate::config::ClusterIndex;
use crate::probe::ClusterHandle;

/// How long no session may have been carried, or not, before they are summed up: so there is one line at most in this time.
const QUIET: Duration = Duration::from_secs(1);

/// Logs it for one cluster. Runs until it is dropped.
pub async fn log_carried(cluster: ClusterIndex, view: ClusterHandle, registry: Arc<Registry>) {
    let parking = registry.parking(cluster);
    loop {
        parking.carried().news().await;
        while timeout(QUIET, parking.carried().news()).await.is_ok()
            || parking.is_on()
            || registry.sessions_without_server(cluster) > 0
        {}
        log(&parking.carried().take_newest(), view.name());
    }
}

fn log(newest: &NewestCarried, cluster: &str) {
    let NewestCarried { carried, in_advance, longest, .. } = newest;
    let longest_wait_seconds = longest.as_secs_f64();
    let (not_carried, reasons) = reasons(newest);
    if not_carried == 0 {
        info!(
            cluster,
            carried, in_advance, longest_wait_seconds, "all sessions without a server were carried to the leader"
        );
    } else {
        let text = "not all sessions without a server were carried to the leader: the others have ended";
        warn!(cluster, carried, in_advance, longest_wait_seconds, not_carried, reasons, "{text}");
    }
}

/// How many sessions were not carried, and why: `2 state, 1 login`.
fn reasons(newest: &NewestCarried) -> (usize, String) {
    let parts = newest.not_carried.iter().map(|(reason, count)| format!("{count} {reason}"));
    (newest.not_carried.values().sum(), parts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_reasons_are_named_with_their_numbers() {
        let not_carried = BTreeMap::from([("state", 2), ("login", 1)]);
        let newest = NewestCarried { carried: 5, not_carried, ..NewestCarried::default() };
        assert_eq!(reasons(&newest), (3, "1 login, 2 state".to_owned()));
        assert_eq!(reasons(&NewestCarried::default()), (0, String::new()));
    }
}
