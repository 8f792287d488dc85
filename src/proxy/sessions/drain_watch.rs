//! Logs which clients still have sessions on the nodes that an operator has taken out of service.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::info;

use super::registry::Registry;
use crate::cluster::AdminState;
use crate::config::ClusterIndex;
use crate::probe::ClusterHandle;

/// How often it is logged, for each node: rarely enough for a drain of hours.
const INTERVAL: Duration = Duration::from_secs(10);

/// The number of clients in one line.
const CLIENTS_MAX: usize = 10;

/// Runs until it is dropped.
pub async fn log_sessions_left(index: ClusterIndex, view: ClusterHandle, registry: Arc<Registry>) {
    let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let topology = view.topology_full();
        for (id, node) in topology.members().filter(|(_, node)| node.admin != AdminState::Ready) {
            let is_here =
                |session: &super::session_info::SessionInfo| session.origin.cluster == index && session.node == id;
            let (clients, sessions) = describe(&registry, is_here);
            if sessions > 0 {
                let (node, state) = (&node.member.name, node.admin.label());
                info!(cluster = view.name(), %node, state, sessions, clients, "sessions are left on the node");
            }
        }
    }
}

/// The clients of the oldest of these sessions, for the log, and the number of all of them.
pub fn describe(registry: &Registry, is_wanted: impl Fn(&super::session_info::SessionInfo) -> bool) -> (String, usize) {
    let (listed, total) = registry.list(CLIENTS_MAX, is_wanted);
    let mut clients: Vec<String> = listed.iter().map(ToString::to_string).collect();
    if total > listed.len() {
        clients.push(format!("and {} more", total - listed.len()));
    }
    (clients.join("; "), total)
}
